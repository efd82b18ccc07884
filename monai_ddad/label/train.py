"""Training on what annotators have submitted as normal and on the unlabelled pile."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from monai.bundle import ConfigWorkflow
from monailabel.datastore.local import LocalDatastore
from monailabel.interfaces.tasks.train import TrainTask

from monai_ddad.bundle import network_settings
from monai_ddad.checkpoints import CheckpointError
from monai_ddad.data.datalist import list_images
from monai_ddad.data.resident import DataError
from monai_ddad.label.datastores import normal_images
from monai_ddad.label.progress import FILE, read_progress, write_progress
from monai_ddad.label.schemas import TrainParams
from monai_ddad.label.versions import ModelVersions
from monai_ddad.locks import FolderInUseError, require_free
from monai_ddad.networks import unlearnable
from monai_ddad.writing import atomic_file

__all__ = ["AnomalyTrain"]

logger = logging.getLogger(__name__)

CALIBRATION = 0.1  # share of the normals that is set aside, whatever the model was trained with before
LEAST = 2  # images of each kind


class AnomalyTrain(TrainTask):
    """Train a new version of the model.

    Known normals are the images whose final label is empty; the unlabelled pool is all images without a final label.
    Images with a mark in their final label are left out. A training that could not learn the score by which the served
    model decides is refused, as the new version would be the worse one. MONAI Label runs it in a process of its own;
    the version appears beside the others when it is complete.

    Args:
        versions: of the model.
        settings: further settings of the bundle's ``train.json`` by name, for every training.
    """

    def __init__(self, versions: ModelVersions, settings: dict[str, Any] | None = None) -> None:
        super().__init__("DDAD (dual-distribution discrepancy), from images submitted as normal and unlabelled ones")
        self.versions = versions
        self.settings = settings or {}

    def config(self) -> dict[str, Any]:
        """Return the settings that a client may give, with what they are otherwise."""
        return TrainParams().model_dump(include=set(TrainParams.used) - {"gpus"})

    def stats(self) -> dict[str, Any]:
        """Return how far the running training is: see :func:`~monai_ddad.label.progress.read_progress`."""
        return read_progress(self.versions.versions_dir)

    def check(self, datastore: LocalDatastore) -> tuple[list[str], list[str]]:
        """Return the ids of the known normal and of the unlabelled images.

        Raises:
            HTTPException: 409, there are too few; 429, a training runs; 507, a new version cannot be stored.
        """
        try:
            require_free(self.versions.versions_dir, "--conf versions")
        except FolderInUseError as error:
            raise HTTPException(status_code=429, detail=f"a training is running: {error}") from None
        normal, unlabeled = normal_images(datastore), datastore.get_unlabeled_images()
        for images, kind, how in (
            (normal, "normal", "submit empty labels for normal images"),
            (unlabeled, "unlabelled", "leave some images without a label"),
        ):
            if len(images) < LEAST:
                raise HTTPException(
                    status_code=409,
                    detail=f"{len(images)} {kind} images are too few to train on, at least {LEAST} are needed: {how}.",
                )
        score = self._score()
        lacking = unlearnable(len(normal), len(unlabeled)).get(score or "")
        if lacking:
            raise HTTPException(
                status_code=409,
                detail=f"the served model decides by {score}, which a training could not learn: {lacking}. Submit more "
                "images as normal; until then the model stays as it is.",
            )
        if not self.versions.writable:
            raise HTTPException(
                status_code=507, detail="the folder of the model's versions cannot be written: change its permissions."
            )
        return sorted(normal), sorted(unlabeled)

    def _score(self) -> str | None:
        """Return the score by which the served model decides, unless it is one that decides instead of another."""
        if not self.versions.trained:
            return None
        try:
            trained = network_settings(str(self.versions.current[1]))
        except CheckpointError:  # there is nothing to be worse than
            return None
        return trained["score"] if trained["wanted_score"] in (None, trained["score"]) else None

    def __call__(self, request: dict[str, Any], datastore: LocalDatastore) -> dict[str, Any]:
        """Train; return the number of the new version.

        Raises:
            HTTPException: 422, a parameter is wrong; see :meth:`check` for the rest.
        """
        params = TrainParams.check(request)
        normal, unlabeled = self.check(datastore)
        try:
            with self.versions.start() as folder:
                images = [
                    *({"image": image, "label": 0} for image in self._files(datastore, normal)),
                    *({"image": image} for image in self._files(datastore, unlabeled)),
                ]
                with atomic_file(folder / "datalist.json") as file:
                    file.write(json.dumps({"training": images, "test": []}).encode())
                logger.info(f"training on {len(normal)} normal and {len(unlabeled)} unlabelled images")
                self._run(folder, params)
                number = self.versions.finish(folder)
                (self.versions.versions_dir / f"{number:04d}" / FILE).unlink(missing_ok=True)
        except Exception as error:
            reason: BaseException = error
            while reason.__cause__ is not None:  # MONAI wraps an error in one for each level of the config
                reason = reason.__cause__
            raise RuntimeError(f"the training failed, and the model stays as it was: {reason}") from None
        logger.info(f"version {number} of the model is finished")
        return {"version": number}

    def _files(self, datastore: LocalDatastore, images: Sequence[str]) -> list[str | list[str]]:
        """Return the files of images, those of a series as a list."""
        found: list[str | list[str]] = []
        for image in images:
            try:
                found += [item["image"] for item in list_images(datastore.get_image_uri(image))]
            except DataError as error:
                logger.warning(f"an image is left out: {error}")
        return found

    def _run(self, folder: Path, params: TrainParams) -> None:
        settings: dict[str, Any] = {"audit#skip_unreadable": True}  # a pile holds such things
        settings |= {"unlabeled_size": None, "abnormal_rate": None, "calibration_share": CALIBRATION}
        settings |= {"instead": self._score() is None}
        lengths = {"epochs", "refine_epochs"}  # numbers: a text of a request could be an expression of the config
        settings |= TrainParams().model_dump(include=lengths) | self.settings
        settings |= params.model_dump(include=lengths, exclude_unset=True)
        _, models = self.versions.current
        if params.pretrained and self.versions.trained:
            settings |= {
                "start_from": str(models / "model.pt"),
                "preset": "trained",
                "defaults#models_dir": str(models),
            }
        workflow = ConfigWorkflow(
            str(self.versions.bundle / "configs" / "train.json"),
            meta_file=str(self.versions.bundle / "configs" / "metadata.json"),
            logging_file=False,
            bundle_root=str(self.versions.bundle),
            dataset_dir=str(folder / "datalist.json"),
            output_dir=str(folder),
            phases=["ndm", "udm", "refine", "pu"],
            **settings,
        )
        write_progress(workflow.parser, folder)
        workflow.initialize()
        workflow.run()
        workflow.finalize()
