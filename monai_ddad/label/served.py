"""The model that an app serves, and what it finds of the datastore's images."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Mapping

from fastapi import HTTPException

from monai_ddad.checkpoints import CheckpointError
from monai_ddad.data.datalist import list_images
from monai_ddad.data.resident import DataError, ResidentDataset
from monai_ddad.inference import Predictor, Result
from monai_ddad.label.versions import ModelVersions

__all__ = ["ServedModel", "UnreadableImageError"]

Signature = tuple[int, int, int]  # version of the model, size and time of the file
BATCH = 256  # items that are read and scored at a time


class UnreadableImageError(HTTPException):
    """An image that cannot be read; the reply has the status 422 and the reason, without a path."""

    def __init__(self, reason: str) -> None:
        super().__init__(status_code=422, detail=f"the image cannot be read: {reason}")


class ServedModel:
    """The newest version of a model, loaded when it is asked for, and scores that are computed once.

    Any number of threads may use it.

    Args:
        versions: of the model.
        alpha: false-positive rate at which an image is flagged; None takes the model's own.
    """

    def __init__(self, versions: ModelVersions, alpha: float | None = None) -> None:
        self.versions = versions
        self.alpha = alpha
        self._lock = threading.RLock()
        self._loaded: tuple[int, Predictor] | None = None
        self._results: dict[str, tuple[Signature, Result | str]] = {}

    def predictor(self) -> tuple[int, Predictor]:
        """Return the newest version's number and the model.

        Raises:
            HTTPException: 409, there is no model yet, or it is damaged.
        """
        with self._lock:
            number, models = self.versions.current
            if self._loaded is None or self._loaded[0] != number:
                try:
                    self._loaded = number, Predictor(self.versions.bundle, models, alpha=self.alpha)
                except CheckpointError as error:
                    raise HTTPException(status_code=409, detail=f"no model can be served: {error}") from None
            return self._loaded

    def read(self, path: str) -> tuple[Predictor, ResidentDataset]:
        """Read the image at a path: a file, or a folder with the files of a series.

        Raises:
            UnreadableImageError: it cannot be read, or there is nothing.
            HTTPException: 409, there is no model yet.
        """
        predictor = self.predictor()[1]
        try:
            dataset = predictor.read([item["image"] for item in list_images(path)], num_workers=1)
        except DataError as error:
            raise UnreadableImageError(str(error)) from None
        if len(dataset) == 0:
            raise UnreadableImageError(next(iter(dataset.errors.values()), "it holds no image"))
        return predictor, dataset

    def find(self, path: str) -> tuple[Predictor, ResidentDataset, int, Result]:
        """Read and score the image at a path, of a series of several films the most anomalous one.

        Returns:
            the model, what was read, the position of the image in it, and what is found.

        Raises:
            HTTPException: see :meth:`read`.
        """
        predictor, dataset = self.read(path)
        position, result = max(predictor.predict(dataset).items(), key=lambda item: item[1].scores[item[1].score])
        return predictor, dataset, position, result

    def score_all(self, paths: Mapping[str, str]) -> dict[str, Result | str]:
        """Score images, each once as long as neither it nor the model changes.

        Args:
            paths: file, or folder of a series, by the image's id.

        Returns:
            what is found by id, or why the image cannot be read.
        """
        with self._lock:
            version, predictor = self.predictor()
            signatures = {name: (version, *_size_and_time(path)) for name, path in paths.items()}
            missing = [name for name in paths if self._results.get(name, (None,))[0] != signatures[name]]
            for start in range(0, len(missing), BATCH):
                names = missing[start : start + BATCH]
                for name, found in zip(names, self._score(predictor, [paths[name] for name in names])):
                    self._results[name] = signatures[name], found
            return {name: self._results[name][1] for name in paths}

    def _score(self, predictor: Predictor, paths: list[str]) -> list[Result | str]:
        listed: list[list[str | list[str]] | str] = []
        for path in paths:
            try:
                listed.append([item["image"] for item in list_images(path)])
            except DataError as error:
                listed.append(str(error))
        images = [image for items in listed if isinstance(items, list) for image in items]
        dataset = predictor.read(images)
        results = predictor.predict(dataset)
        found: list[Result | str] = []
        start = 0
        for items in listed:
            if isinstance(items, str):
                found.append(items)
                continue
            places = range(start, start + len(items))
            start += len(items)
            scored = [results[place] for place in places if place in results]
            most = max(scored, key=lambda result: result.scores[result.score], default=None)
            found.append(dataset.errors[places[0]] if most is None else most)
        return found


def _size_and_time(path: str) -> tuple[int, int]:
    try:
        found = os.stat(path)
        size = len(os.listdir(path)) if stat.S_ISDIR(found.st_mode) else found.st_size
    except OSError:
        return 0, 0
    return size, found.st_mtime_ns
