"""Training on what annotators have submitted as normal and on the unlabelled pile."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from monai.bundle import ConfigParser, ConfigWorkflow
from monailabel.datastore.local import LocalDatastore
from monailabel.interfaces.tasks.train import TrainTask

from monai_ddad.bundle import network_settings
from monai_ddad.data.datalist import list_images
from monai_ddad.io.checkpoints import CheckpointError
from monai_ddad.io.errors import DataError, root_cause
from monai_ddad.io.files import file_hash
from monai_ddad.io.locks import FolderInUseError, require_free
from monai_ddad.io.writing import atomic_file
from monai_ddad.label.datastores import normal_images
from monai_ddad.label.private import keep_temporary_files_in
from monai_ddad.label.progress import FILE, read_progress, write_progress
from monai_ddad.label.schemas import TrainParams
from monai_ddad.label.versions import ModelVersions
from monai_ddad.networks import MIN_GROUPS, FeatureScores, unlearnable
from monai_ddad.networks.calibration import groups_to_flag
from monai_ddad.training.hold_out import find_groups

__all__ = ["AnomalyTrain"]

logger = logging.getLogger(__name__)

CALIBRATION = 0.1  # share of the normals that is set aside, whatever the model was trained with before
PRESET = "features"  # of a first training
LEAST = 2  # images of each kind
ALPHA = 0.05  # of train.json, at which a new version is to be able to flag
ENOUGH = MIN_GROUPS + groups_to_flag(ALPHA)  # known normals to learn from and to calibrate by; features do with one set


class AnomalyTrain(TrainTask):
    """Train a new version of the model.

    Known normals are the images whose final label is empty; the unlabelled pool is all images without a final label.
    Images with a mark in their final label are left out. A training that could not learn the score that is to decide,
    or calibrate a model in the place of a calibrated one, is refused, as the new version would be the worse one. MONAI
    Label runs it in a process of its own; the version appears beside the others when it is complete.

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
        return read_progress(self.versions.versions_dir, self.versions.name)

    def check(self, datastore: LocalDatastore, params: TrainParams) -> tuple[list[str], list[str]]:
        """Return the ids of the known normal and of the unlabelled images.

        Raises:
            HTTPException: 409, there are too few; 429, a training runs; 507, a new version cannot be stored.
        """
        try:
            require_free(self.versions.versions_dir, "--conf versions")
        except FolderInUseError:
            raise HTTPException(status_code=429, detail="another server is training: wait for its end.") from None
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
        known = self._count(datastore, normal)
        score = self._wanted(params)
        features = self._has_features(params)
        enough = MIN_GROUPS if features else ENOUGH
        teach = FeatureScores.unlearnable if features else unlearnable
        lacking = teach(known, len(unlabeled)).get(score or "")
        if lacking:
            lacking = f"{score} is to decide, which a training could not learn: {lacking}"
        elif known < enough and self._calibrated():
            lacking = f"the served model is calibrated, and {known} known normals are too few to calibrate another one"
        if lacking:
            raise HTTPException(
                status_code=409,
                detail=f"{lacking}. It takes {MIN_GROUPS} known normals to learn from, and {enough} to calibrate by "
                "them, too. Submit more images as normal; until then the model stays as it is.",
            )
        if not self.versions.writable:
            raise HTTPException(
                status_code=507, detail="the folder of the model's versions cannot be written: change its permissions."
            )
        return sorted(normal), sorted(unlabeled)

    def _served(self) -> dict[str, Any]:
        """Return the settings of the served network; nothing where there is none to be worse than."""
        try:
            return network_settings(str(self.versions.current[1])) if self.versions.trained else {}
        except CheckpointError:
            return {}

    def _has_features(self, params: TrainParams) -> bool:
        """Tell whether a new model will be of features."""
        if params.pretrained and self.versions.trained:
            return self._served().get("backbone") == "features"
        return self.settings.get("preset", PRESET) == "features"

    def _wanted(self, params: TrainParams) -> str | None:
        """Return the score by which the new model has to decide; None where the served one cannot, either."""
        served = self._served()
        if not served or served["score"] != served["wanted_score"]:
            return None
        config = ConfigParser()
        config.read_config(str(self.versions.bundle / "configs" / "train.json"))
        config.update(self._settings(params))
        score: str | None = config.get_parsed_content("score")
        return score

    def _calibrated(self) -> bool:
        served = self._served()
        return bool(served) and served["calibration_images"] + served["calibration_volumes"] > 0

    def _count(self, datastore: LocalDatastore, images: Sequence[str]) -> int:
        """Count known normals as a training does, equal files once, as far as is known without reading them as images.

        It ends at as many as are asked for.
        """
        found: set[tuple[str, ...]] = set()
        for item in self._files(datastore, images):
            found.add(tuple(map(_content, [item] if isinstance(item, str) else item)))
            if len(found) == ENOUGH:
                break
        return len(found)

    def __call__(self, request: dict[str, Any], datastore: LocalDatastore) -> dict[str, Any]:
        """Train; return the number of the new version.

        Raises:
            HTTPException: 422, a parameter is wrong; see :meth:`check` for the rest.
        """
        params = TrainParams.check(request)
        normal, unlabeled = self.check(datastore, params)
        keep_temporary_files_in(None)  # those of a training have no name, so that nothing stays of them
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
            reason = root_cause(error)
            why = reason.strerror if isinstance(reason, OSError) and reason.strerror else reason  # without a path
            raise RuntimeError(f"the training failed, and the model stays as it was: {why}") from None
        logger.info(f"version {number} of the model is finished")
        return {"version": number}

    def _files(self, datastore: LocalDatastore, images: Sequence[str]) -> Iterator[str | list[str]]:
        """Give the files of images, those of a series as a list."""
        for image in images:
            try:
                yield from [item["image"] for item in list_images(datastore.get_image_uri(image))]
            except DataError as error:
                logger.warning(f"an image is left out: {error}")
            except HTTPException as error:
                if error.status_code != 404:
                    raise
                logger.warning("an image is left out, as it has gone.")

    def _settings(self, params: TrainParams) -> dict[str, Any]:
        """Return settings of ``train.json`` by name."""
        settings: dict[str, Any] = {"audit#skip_unreadable": True}  # a pile holds such things
        settings |= {"unlabeled_size": None, "abnormal_rate": None, "alpha": ALPHA}
        settings |= {"bundle_root": str(self.versions.bundle), "preset": PRESET}
        shared = self.versions.versions_dir / f"features_{self.versions.name}"  # by all versions
        settings |= {"features_dir": str(shared)}
        features = self._has_features(params)
        settings |= {} if features else {"calibration_share": CALIBRATION}
        lengths = {"epochs", "refine_epochs"}  # numbers: a text of a request could be an expression of the config
        settings |= ({} if features else TrainParams().model_dump(include=lengths)) | self.settings
        settings |= params.model_dump(include=lengths, exclude_unset=True)
        _, models = self.versions.current
        if params.pretrained and self.versions.trained:
            settings |= {"preset": "trained", "defaults#models_dir": str(models)}
            settings |= {} if features else {"start_from": str(models / "model.pt")}
        return settings

    def _run(self, folder: Path, params: TrainParams) -> None:
        calibrated = self._calibrated()
        workflow = ConfigWorkflow(
            str(self.versions.bundle / "configs" / "train.json"),
            meta_file=str(self.versions.bundle / "configs" / "metadata.json"),
            logging_file=False,
            instead=self._wanted(params) is None,
            dataset_dir=str(folder / "datalist.json"),
            output_dir=str(folder),
            phases=["ndm", "udm", "refine"],
            **self._settings(params),
        )
        write_progress(workflow.parser, folder)
        workflow.initialize()
        held_out = workflow.parser.get_parsed_content("train#calibration")
        features = self._has_features(params)
        if calibrated and (_known(workflow) < MIN_GROUPS if features else not len(held_out)):
            raise DataError(
                "the served model is calibrated, and of the known normals, equal pictures counted once, too few can be "
                f"read to calibrate another one: it takes {MIN_GROUPS if features else ENOUGH}."
            )
        workflow.run()
        workflow.finalize()


def _known(workflow: ConfigWorkflow) -> int:
    """Count the known normals that a training has read, each patient and equal pictures once."""
    images = workflow.parser.get_parsed_content("train#images")
    return len({group for group, label in zip(find_groups(images), images.labels) if label == 0})


def _content(path: str) -> str:
    """Return what tells a file's content from others; of one that cannot be read, its path."""
    try:
        return file_hash(path)
    except OSError:
        return path
