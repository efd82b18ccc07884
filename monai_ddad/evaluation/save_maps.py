"""Handler that saves anomaly maps: over the pictures, and of volumes as NIfTI."""

from __future__ import annotations

import gzip
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ignite.engine import Events
from monai.engines.utils import IterationEvents

from monai_ddad.decision.finding import Finding
from monai_ddad.decision.overlay import add_colour_bar, overlay_heat_map
from monai_ddad.evaluation.results import Results
from monai_ddad.io.writing import atomic_file, write_picture
from monai_ddad.machine import available_cores
from monai_ddad.networks import DDADModel

__all__ = ["SaveMaps"]

FILES = {"overlays": r"\d{6,}(_slice\d+)?\.png", "maps": r"\d{6,}_\w+\.(nii\.gz|npz)"}  # written here, by folder


class SaveMaps:
    """Save one anomaly map of each item on the item's own grid, named by the item's position in the list.

    A picture gives ``overlays/000000.png``, the picture with the map over it. A volume gives the map as
    ``maps/000000_<name>.nii.gz``, 0 in the slices that are not scored, and ``overlays/000000_slice012.png``, the slice
    with the highest score.

    Overlays are drawn in percentiles of the pixels of normal images, with a colour bar on their right; where the
    network is not calibrated, of the item's own pixels. On request the map of a picture is saved, too, on its own
    grid: ``maps/000000_<name>.npz``, an array ``map`` of (rows, columns), or ``.nii.gz``, its first axis along the
    columns.

    Args:
        network: the network that is run by an :class:`~monai_ddad.evaluation.ItemEvaluator`.
        output_dir: folder of ``overlays`` and ``maps``.
        map_name: one of the network's ``map_names``; None takes its ``shown_map``.
        map_format: ``"npz"`` or ``"nifti"`` to save the maps of pictures, ``"none"`` for their overlays alone.
        num_workers: threads that write; None takes one a core.

    Raises:
        ValueError: the network has no such map, or another format.
    """

    def __init__(
        self,
        network: DDADModel,
        output_dir: str,
        map_name: str | None = None,
        map_format: Literal["none", "npz", "nifti"] = "none",
        num_workers: int | None = None,
    ) -> None:
        if map_format not in ("none", "npz", "nifti"):
            raise ValueError(f"map_format must be none, npz or nifti, got {map_format!r}.")
        self.map_name = map_name or network.shown_map
        if self.map_name not in network.map_names:
            raise ValueError(f"map_name must be one of {network.map_names}, got {map_name!r}.")
        self.map_format = map_format
        self.output_dir = Path(output_dir)
        self.num_workers = num_workers or available_cores()

    def attach(self, engine: Any) -> None:
        """Attach to an evaluator."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self.save)
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def start(self, engine: Any) -> None:
        """Prepare to take the place of the maps of an earlier run, whose positions mean other images."""
        self._results = Results.join(engine, self, self.output_dir, FILES)

    def save(self, engine: Any) -> None:
        """Save the maps of a batch."""
        findings = [found for found in engine.state.findings if isinstance(found, Finding)]
        with self._results as folder, ThreadPoolExecutor(self.num_workers) as pool:
            list(pool.map(lambda found: self._save(folder, found), findings))

    def finish(self, engine: Any) -> None:
        """Put the files in their place, unless others write to the folder, too, and are not done."""
        self._results.leave(self)

    def _save(self, folder: Path, found: Finding) -> None:
        heat = found.heat_map(self.map_name)
        part = "" if heat.slice is None else f"_slice{heat.slice:03d}"
        overlay = overlay_heat_map(heat.image(), found.percentiles(heat.picture_values, self.map_name))
        write_picture(folder / "overlays" / f"{found.position:06d}{part}.png", add_colour_bar(overlay))
        name = f"{found.position:06d}_{self.map_name}"
        if heat.affine is not None or self.map_format == "nifti":
            with atomic_file(folder / "maps" / f"{name}.nii.gz") as file:
                file.write(gzip.compress(heat.nifti().to_bytes(), compresslevel=6, mtime=0))
        elif self.map_format == "npz":
            with atomic_file(folder / "maps" / f"{name}.npz") as file:
                np.savez_compressed(file, map=heat.values)
