"""Metrics of DDAD."""

from monai_ddad.evaluation.metrics.bootstrap import PairedDifference, bootstrap_interval, paired_bootstrap
from monai_ddad.evaluation.metrics.pixels import best_dice, per_region_overlap, pixel_auroc, pixel_average_precision
from monai_ddad.evaluation.metrics.ranking import (
    auroc,
    average_precision,
    precision_recall_points,
    roc_points,
    sensitivity_at_specificity,
)
from monai_ddad.evaluation.metrics.rates import (
    Rate,
    binomial_interval,
    expected_calibration_error,
    expected_rates,
    flag_rate,
)

__all__ = [
    "PairedDifference",
    "Rate",
    "auroc",
    "average_precision",
    "best_dice",
    "binomial_interval",
    "bootstrap_interval",
    "expected_calibration_error",
    "expected_rates",
    "flag_rate",
    "paired_bootstrap",
    "per_region_overlap",
    "pixel_auroc",
    "pixel_average_precision",
    "precision_recall_points",
    "roc_points",
    "sensitivity_at_specificity",
]
