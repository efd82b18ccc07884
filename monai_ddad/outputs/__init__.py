"""Files that a run leaves."""

from monai_ddad.outputs.decisions import (
    ALPHAS,
    Decisions,
    cautions,
    decide,
    doubt_refinement,
    doubt_score,
    operating_points,
)
from monai_ddad.outputs.gallery import GALLERY, Extremes, choose_rows, write_gallery
from monai_ddad.outputs.heat import HeatMap, restore_map, restore_values
from monai_ddad.outputs.overlay import add_colour_bar, overlay_heat_map
from monai_ddad.outputs.plots import plot_gallery
from monai_ddad.outputs.tables import (
    evaluate_scores,
    format_table,
    volume_scores,
    write_json,
    write_scores,
)

__all__ = [
    "ALPHAS",
    "GALLERY",
    "Decisions",
    "Extremes",
    "HeatMap",
    "add_colour_bar",
    "cautions",
    "choose_rows",
    "decide",
    "doubt_refinement",
    "doubt_score",
    "evaluate_scores",
    "format_table",
    "operating_points",
    "overlay_heat_map",
    "plot_gallery",
    "restore_map",
    "restore_values",
    "volume_scores",
    "write_gallery",
    "write_json",
    "write_scores",
]
