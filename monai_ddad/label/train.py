"""Training on what annotators have submitted as normal and on the unlabelled pile."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from monai.bundle import ConfigWorkflow
from monailabel.datastore.local import LocalDatastore
from monailabel.interfaces.tasks.train import TrainTask

from monai_ddad.checkpoints import atomic_file
from monai_ddad.data.datalist import list_images
from monai_ddad.data.resident import DataError
from monai_ddad.label.datastores import normal_images
from monai_ddad.label.progress import FILE, read_progress, write_progress
from monai_ddad.label.versions import ModelVersions

__all__ = ["AnomalyTrain"]

logger = logging.getLogger(__name__)

CALIBRATION = 0.1  # share of the normals that is set aside, whatever the model was trained with before
LEAST = 2  # images of each kind
SETTINGS: dict[str, Any] = {"epochs": 50, "refine_epochs": 10}


class AnomalyTrain(TrainTask):
    """Train a new version of the model.

    Known normals are the images whose final label is empty; the unlabelled pool is all images without a final label.
    Images with a mark in their final label are left out. MONAI Label runs it in a process of its own; the version
    appears beside the others when it is complete.

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
        return {"pretrained": True, **SETTINGS}

    def stats(self) -> dict[str, Any]:
        """Return how far the running training is: see :func:`~monai_ddad.label.progress.read_progress`."""
        return read_progress(self.versions.versions_dir)

    def check(self, datastore: LocalDatastore) -> tuple[list[str], list[str]]:
        """Return the ids of the known normal and of the unlabelled images.

        Raises:
            HTTPException: 409, there are too few; 507, a new version cannot be stored.
        """
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
        if not self.versions.writable:
            raise HTTPException(
                status_code=507, detail="the folder of the model's versions cannot be written: change its permissions."
            )
        return sorted(normal), sorted(unlabeled)

    def __call__(self, request: dict[str, Any], datastore: LocalDatastore) -> dict[str, Any]:
        """Train; return the number of the new version.

        Raises:
            HTTPException: see :meth:`check`.
        """
        normal, unlabeled = self.check(datastore)
        folder = self.versions.start()
        try:
            images = [
                *({"image": image, "label": 0} for image in self._files(datastore, normal)),
                *({"image": image} for image in self._files(datastore, unlabeled)),
            ]
            with atomic_file(folder / "datalist.json") as file:
                file.write(json.dumps({"training": images, "test": []}).encode())
            logger.info(f"training on {len(normal)} normal and {len(unlabeled)} unlabelled images")
            self._run(folder, request)
            number = self.versions.finish(folder)
            (self.versions.versions_dir / f"{number:04d}" / FILE).unlink(missing_ok=True)
        except Exception as error:
            shutil.rmtree(folder, ignore_errors=True)
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

    def _run(self, folder: Path, request: dict[str, Any]) -> None:
        settings: dict[str, Any] = {"audit#skip_unreadable": True}  # a pile holds such things
        settings |= {"unlabeled_size": None, "abnormal_rate": None, "calibration_share": CALIBRATION}
        settings |= SETTINGS | self.settings | {name: request[name] for name in SETTINGS if name in request}
        _, models = self.versions.current
        if request.get("pretrained", True) and self.versions.trained:
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
