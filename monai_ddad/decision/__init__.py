"""From maps and scores to what is found of an item."""

from monai_ddad.decision.decisions import Decisions, cautions, decide
from monai_ddad.decision.finding import Finding, Judge, Result, Unreadable
from monai_ddad.decision.heat import HeatMap

__all__ = [
    "Decisions",
    "Finding",
    "HeatMap",
    "Judge",
    "Result",
    "Unreadable",
    "cautions",
    "decide",
]
