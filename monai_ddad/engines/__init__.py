"""Ignite engines of DDAD."""

from monai_ddad.engines.calibrate import calibrate
from monai_ddad.engines.ensemble_trainer import EnsembleTrainer
from monai_ddad.engines.refine_trainer import RefineTrainer
from monai_ddad.engines.resumable import ResumableTrainer
from monai_ddad.engines.scoring import SCORES, FolderEvaluator, ItemEvaluator
from monai_ddad.engines.workflow import TrainingWorkflow

__all__ = [
    "SCORES",
    "EnsembleTrainer",
    "FolderEvaluator",
    "ItemEvaluator",
    "RefineTrainer",
    "ResumableTrainer",
    "TrainingWorkflow",
    "calibrate",
]
