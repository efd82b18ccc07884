"""The model that an app serves, and what it finds of the datastore's images."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Mapping
from itertools import islice

from fastapi import HTTPException

from monai_ddad.data.datalist import list_images
from monai_ddad.decision.finding import Finding, Result, Unreadable
from monai_ddad.io.checkpoints import CheckpointError
from monai_ddad.io.errors import DataError
from monai_ddad.label.versions import ModelVersions
from monai_ddad.serving.predictor import Predictor

__all__ = ["ServedModel", "UnreadableImageError"]

Signature = tuple[int, int, int]  # version of the model, size and time of the file
BATCH = 256  # images whose files are listed at a time


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

    def find(self, path: str) -> tuple[Finding, str | list[str]]:
        """Read and score the image at a path, of a series of several films the most anomalous one.

        Args:
            path: a file, or a folder with the files of a series.

        Returns:
            what is found, and the file or files that it is found of.

        Raises:
            UnreadableImageError: it cannot be read, or there is nothing.
            HTTPException: 409, there is no model yet.
        """
        predictor = self.predictor()[1]
        try:
            images = [item["image"] for item in list_images(path)]
        except DataError as error:
            raise UnreadableImageError(str(error)) from None
        best, why = None, ""
        for found in predictor.find(images, num_workers=1):
            if isinstance(found, Unreadable):
                why = why or found.reason
            elif best is None or _deciding(found.result) > _deciding(best.result):
                best = found
        if best is None:
            raise UnreadableImageError(why or "it holds no image")
        return best, images[best.position]

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
        outcomes = (one.reason if isinstance(one, Unreadable) else one.result for one in predictor.find(images))
        found: list[Result | str] = []
        for items in listed:
            if isinstance(items, str):
                found.append(items)
                continue
            own = list(islice(outcomes, len(items)))
            scored = [one for one in own if isinstance(one, Result)]
            found.append(max(scored, key=_deciding) if scored else own[0])
        return found


def _deciding(result: Result) -> float:
    return result.scores[result.score]


def _size_and_time(path: str) -> tuple[int, int]:
    try:
        found = os.stat(path)
        size = len(os.listdir(path)) if stat.S_ISDIR(found.st_mode) else found.st_size
    except OSError:
        return 0, 0
    return size, found.st_mtime_ns
