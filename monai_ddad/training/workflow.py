"""The whole training run: ensembles, refinement, calibration, model file, evaluation."""

from __future__ import annotations

import logging
import platform
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch

import monai_ddad
from monai_ddad.data.resident import ResidentDataset
from monai_ddad.evaluation.evaluator import FolderEvaluator
from monai_ddad.evaluation.tables import write_json
from monai_ddad.io.checkpoints import save_file
from monai_ddad.io.errors import DataError
from monai_ddad.io.locks import lock_folder
from monai_ddad.io.writing import remove_leftovers
from monai_ddad.networks import DDADModel, FeatureNet
from monai_ddad.networks.encoder import keep_weights
from monai_ddad.ranks import from_first
from monai_ddad.training.calibrate import calibrate, leave_out_unlearnable
from monai_ddad.training.ensemble_trainer import EnsembleTrainer
from monai_ddad.training.feature_refine import FeatureRefineTrainer
from monai_ddad.training.feature_trainer import FeatureTrainer
from monai_ddad.training.refine_trainer import RefineTrainer

__all__ = ["PHASES", "TrainingWorkflow"]

logger = logging.getLogger(__name__)

PHASES = ("ndm", "udm", "refine", "evaluate")


class TrainingWorkflow:
    """Run the phases of a training in order and leave ``model.pt`` and ``run.json``.

    Both files are written when every part of the model is trained, in this run or an earlier one with the same
    checkpoints. Of the processes of ``torchrun`` the first one calibrates, writes and evaluates. No other run writes to
    their folder and that of the evaluation meanwhile.

    Args:
        network: the model.
        ensembles: trainer of NDM and UDM; its ``trained`` says which of them this run trains.
        refine: trainer of the refinement.
        evaluator: evaluates the model at the end.
        dataset: the training images.
        calibration: known normals set aside, by which the scores are calibrated; may be empty.
        alpha: false-positive rate at which an image is flagged.
        models_dir: folder of the two files.
        encoder_file: weights of the encoder of features, of which a copy is left there, too; None where they come in a
            package.
        phases: any of ``"ndm"``, ``"udm"``, ``"refine"`` and ``"evaluate"``.
        settings: the run's settings, recorded in ``run.json``.
        instead: let another score decide where the one that is to decide cannot be learnt from so few images; False
            refuses the training before it begins.

    Raises:
        DataError: the score that is to decide cannot be learnt, and no other may decide.
        ValueError: an unknown phase, or ``alpha`` is outside [0, 1].
        RuntimeError: ASR-Net is to be trained before the ensembles are finished.
    """

    def __init__(
        self,
        network: DDADModel,
        ensembles: EnsembleTrainer | FeatureTrainer,
        refine: RefineTrainer | FeatureRefineTrainer,
        evaluator: FolderEvaluator,
        dataset: ResidentDataset,
        calibration: ResidentDataset,
        models_dir: str,
        alpha: float = 0.05,
        phases: Sequence[str] = PHASES,
        settings: dict[str, Any] | None = None,
        instead: bool = True,
        encoder_file: str | None = None,
    ) -> None:
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must be in [0, 1], got {alpha}.")
        unknown = set(phases) - set(PHASES)
        if unknown:
            raise ValueError(f"phases must be among {PHASES}, got {sorted(unknown)}.")
        self.network = network
        self.ensembles = ensembles
        self.refine = refine
        self.evaluator = evaluator
        self.dataset = dataset
        self.calibration = calibration
        self.alpha = alpha
        self.models_dir = Path(models_dir)
        self.phases = phases
        self.settings = settings or {}
        self.instead = instead
        self.encoder_file = encoder_file

    def run(self) -> None:
        """Run the phases.

        Raises:
            FolderInUseError: another process writes to one of the folders.
        """
        with ExitStack() as held:

            def lock() -> bool:
                for folder in (self.models_dir, self.evaluator.output_dir):
                    held.enter_context(lock_folder(folder, "--output_dir"))
                if isinstance(self.ensembles, FeatureTrainer):
                    held.enter_context(lock_folder(self.ensembles.folder, "--features_dir"))
                remove_leftovers(self.models_dir)
                return True

            from_first(lock)
            self._run()

    def _run(self) -> None:
        self._look_ahead()
        self.ensembles.run()
        if self.ensembles.unfinished and "refine" in self.phases and self.network.discrepancy.asr is not None:
            raise RuntimeError(
                f"ASR-Net needs finished ensembles: {_listed(self.ensembles.unfinished)}. Run the phases "
                f"{', '.join(self.ensembles.unfinished)} first."
            )
        if not self.ensembles.unfinished:
            self.refine.run()
        if idist.get_rank() > 0:
            return
        unfinished = self.ensembles.unfinished | self.refine.unfinished
        if unfinished:
            logger.warning(f"{_listed(unfinished)}: no model.pt is written and nothing is evaluated.")
            return
        expected = self.network.notes
        self.network.discrepancy.mark_loaded()  # also where all parts were resumed
        features = self.ensembles.features if isinstance(self.ensembles, FeatureTrainer) else None
        calibrate(self.network, self.dataset, self.calibration, self.alpha, features=features)
        self.network.record_text = self.network.record.text()
        if self.network.notes != expected:
            self._tell()
        weights = {
            name: value.cpu().clone(memory_format=torch.contiguous_format)  # of members that share memory, too
            for name, value in self.network.state_dict().items()
        }
        if self.encoder_file is not None and isinstance(self.network.discrepancy, FeatureNet):
            keep_weights(self.encoder_file, self.models_dir)
        save_file(weights, self.models_dir / "model.pt")
        write_json(self.record(), self.models_dir / "run.json")
        if "evaluate" in self.phases and self.evaluator.state.epoch_length == 0:
            logger.warning("There are no test images: nothing is evaluated. Score images with inference.json.")
        elif "evaluate" in self.phases:
            self.evaluator.run()

    def _look_ahead(self) -> None:
        """Say before anything is trained which scores cannot be learnt, and which one decides instead."""
        adding = isinstance(self.ensembles, FeatureTrainer) and self.ensembles.add
        if adding and len(self.calibration):
            raise DataError("where images are added, none can be set aside: set calibration_share to 0.")
        if not adding:  # to more images than these
            leave_out_unlearnable(self.network, self.dataset)
            self._tell()

    def _tell(self) -> None:
        """Log which scores were left out, or raise where the one that is to decide is among them and must not be."""
        notes = " ".join(self.network.notes)
        if self.network.score != self.network.wanted_score and not self.instead:
            raise DataError(f"no other score may decide (instead is false): {notes}")
        if notes:
            logger.warning(notes)

    def record(self) -> dict[str, Any]:
        """Return what is needed to know and to repeat this run, for people: programs read the model's own record."""
        features = self.ensembles.features if isinstance(self.ensembles, FeatureTrainer) else None
        known = [label == 0 for label in self.dataset.labels] if features is None else features.known.tolist()
        packages = ("torch", "monai", "pytorch-ignite", "numpy", "pillow")
        model = self.network.record
        return {
            "bundle": model.bundle,
            "network": {**model.network, "map_names": model.map_names, "score_names": model.score_names},
            "preparation": model.preparation,
            "settings": self.settings,
            "epochs": {**self.ensembles.epochs, **self.refine.epochs},
            "seconds": {
                "ensembles": round(self.ensembles.seconds, 3),
                "refine": round(self.refine.seconds, 3),
            },
            "data": {
                "normal": sum(known),
                "unlabeled": len(known) - sum(known),
                "calibration": len(self.calibration),
                "sha256": self.dataset.sha256,
            },
            "versions": {"monai_ddad": monai_ddad.__version__, "python": platform.python_version()}
            | {name: version(name) for name in packages},
        }


def _listed(unfinished: dict[str, str]) -> str:
    return ", ".join(f"{part} has {done}" for part, done in unfinished.items())
