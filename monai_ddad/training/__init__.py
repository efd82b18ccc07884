"""Training: Ignite engines of the ensembles and of ASR-Net, calibration, and the whole run."""

from monai_ddad.training.calibrate import calibrate
from monai_ddad.training.checkpoint import ResumeCheckpoint
from monai_ddad.training.choose import make_refine_trainer, make_trainer
from monai_ddad.training.ensemble_trainer import EnsembleTrainer
from monai_ddad.training.feature_refine import FeatureRefineTrainer
from monai_ddad.training.feature_trainer import FeatureTrainer
from monai_ddad.training.hold_out import hold_out
from monai_ddad.training.non_finite import StopOnNonFinite
from monai_ddad.training.progress import EpochProgress
from monai_ddad.training.refine_trainer import RefineTrainer
from monai_ddad.training.resumable import ResumableTrainer
from monai_ddad.training.workflow import TrainingWorkflow

__all__ = [
    "EnsembleTrainer",
    "FeatureRefineTrainer",
    "FeatureTrainer",
    "EpochProgress",
    "RefineTrainer",
    "ResumableTrainer",
    "ResumeCheckpoint",
    "StopOnNonFinite",
    "TrainingWorkflow",
    "calibrate",
    "hold_out",
    "make_refine_trainer",
    "make_trainer",
]
