"""Ignite handlers of DDAD."""

from monai_ddad.handlers.checkpoint import ResumeCheckpoint
from monai_ddad.handlers.image_scores import Evaluated, ImageScores, require_all_read
from monai_ddad.handlers.load_weights import LoadWeights
from monai_ddad.handlers.non_finite import StopOnNonFinite
from monai_ddad.handlers.pixel_metrics import PixelMetrics
from monai_ddad.handlers.progress import EpochProgress
from monai_ddad.handlers.save_maps import SaveMaps
from monai_ddad.handlers.write_evaluation import WriteEvaluation

__all__ = [
    "EpochProgress",
    "Evaluated",
    "ImageScores",
    "LoadWeights",
    "PixelMetrics",
    "ResumeCheckpoint",
    "SaveMaps",
    "StopOnNonFinite",
    "WriteEvaluation",
    "require_all_read",
]
