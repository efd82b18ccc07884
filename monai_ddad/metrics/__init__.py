"""Metrics of DDAD."""

from monai_ddad.metrics.ranking import auroc, average_precision, bootstrap_interval

__all__ = ["auroc", "average_precision", "bootstrap_interval"]
