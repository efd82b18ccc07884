"""Files that a run leaves."""

from monai_ddad.outputs.overlay import overlay_heat_map
from monai_ddad.outputs.plots import plot_gallery, plot_histograms, plot_roc
from monai_ddad.outputs.tables import (
    evaluate_scores,
    format_table,
    volume_scores,
    write_json,
    write_scores,
    write_table,
)

__all__ = [
    "evaluate_scores",
    "format_table",
    "overlay_heat_map",
    "plot_gallery",
    "plot_histograms",
    "plot_roc",
    "volume_scores",
    "write_json",
    "write_scores",
    "write_table",
]
