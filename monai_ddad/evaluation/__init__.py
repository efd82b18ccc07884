"""Evaluators, their handlers, figures and pages."""

from monai_ddad.evaluation.evaluator import SCORES, FolderEvaluator, ItemEvaluator
from monai_ddad.evaluation.image_scores import Evaluated, ImageScores, require_all_read
from monai_ddad.evaluation.load_weights import LoadWeights
from monai_ddad.evaluation.pixel_metrics import PixelMetrics
from monai_ddad.evaluation.save_maps import SaveMaps
from monai_ddad.evaluation.write_evaluation import WriteEvaluation

__all__ = [
    "SCORES",
    "Evaluated",
    "FolderEvaluator",
    "ImageScores",
    "ItemEvaluator",
    "LoadWeights",
    "PixelMetrics",
    "SaveMaps",
    "WriteEvaluation",
    "require_all_read",
]
