"""Reports of evaluations as one HTML file each, to read in any browser without a network."""

from monai_ddad.evaluation.report.comparison import write_comparison
from monai_ddad.evaluation.report.evaluation import write_report

__all__ = ["write_comparison", "write_report"]
