"""Handler that saves anomaly maps: over the pictures, and of volumes as NIfTI."""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from ignite.engine import Events
from monai.engines.utils import IterationEvents
from monai.transforms import MapTransform
from monai.utils.enums import CommonKeys

from monai_ddad.data.resident import ResidentDataset
from monai_ddad.handlers.results import Results
from monai_ddad.networks import DDADNet
from monai_ddad.outputs import HeatMap, add_colour_bar, overlay_heat_map, restore_map
from monai_ddad.transforms import ImageReadError
from monai_ddad.writing import atomic_file

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
    columns. An item whose file went or changed after it was scored has neither; the data set's ``lost`` says why.

    Args:
        network: the network that is run.
        dataset: the images that are scored, with an invertible transform, in the order of the batches.
        reading: the transform that reads an item, the first step of the data set's own.
        output_dir: folder of ``overlays`` and ``maps``.
        map_name: one of the network's ``map_names``; None takes its ``shown_map``.
        map_format: ``"npz"`` or ``"nifti"`` to save the maps of pictures, ``"none"`` for their overlays alone.

    Raises:
        ValueError: the network has no such map, or another format.
    """

    def __init__(
        self,
        network: DDADNet,
        dataset: ResidentDataset,
        reading: MapTransform,
        output_dir: str,
        map_name: str | None = None,
        map_format: Literal["none", "npz", "nifti"] = "none",
    ) -> None:
        if map_format not in ("none", "npz", "nifti"):
            raise ValueError(f"map_format must be none, npz or nifti, got {map_format!r}.")
        self.map_name = map_name or network.shown_map
        if self.map_name not in network.map_names:
            raise ValueError(f"map_name must be one of {network.map_names}, got {map_name!r}.")
        self.map_format = map_format
        self.network = network
        self.channel = network.map_names.index(self.map_name)
        self.dataset = dataset
        self.reading = reading
        self.output_dir = Path(output_dir)

    def attach(self, engine: Any) -> None:
        """Attach to an evaluator."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self.collect)
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def start(self, engine: Any) -> None:
        """Prepare to take the place of the maps of an earlier run, whose positions mean other images."""
        self._results = Results.join(engine, self, self.output_dir, FILES)
        self.dataset.lost.clear()
        self._missing = Counter(self.dataset.positions)
        self._waiting: dict[int, list[tuple[int, torch.Tensor]]] = {}

    def collect(self, engine: Any) -> None:
        """Keep the maps of a batch, and save those of the items that are complete."""
        maps = engine.state.output[CommonKeys.PRED][:, self.channel : self.channel + 1].float().cpu()
        for index, values in zip(engine.state.batch["index"].tolist(), maps):
            position = self.dataset.positions[index]
            self._waiting.setdefault(position, []).append((index, values))
            self._missing[position] -= 1
            if self._missing[position] == 0:
                with self._results as folder:
                    self._save(folder, position, *zip(*self._waiting.pop(position)))

    def finish(self, engine: Any) -> None:
        """Put the files in their place, unless others write to the folder, too, and are not done."""
        self._results.leave(self)

    def _save(self, folder: Path, position: int, indices: Sequence[int], maps: Sequence[torch.Tensor]) -> None:
        try:
            heat = restore_map(self.dataset, self.reading, position, self.dataset.images[list(indices)], maps)
        except ImageReadError as error:
            self.dataset.lost[position] = f"scored, but without a map: {error}"
            return
        volume = heat.affine is not None
        part = "" if heat.slice is None else f"_slice{heat.slice:03d}"
        self._overlay(heat, folder / "overlays" / f"{position:06d}{part}.png")
        name = f"{position:06d}_{self.map_name}"
        if volume or self.map_format == "nifti":
            with atomic_file(folder / "maps" / f"{name}.nii.gz") as file:
                file.write(gzip.compress(heat.nifti().to_bytes(), compresslevel=6, mtime=0))
        elif self.map_format == "npz":
            with atomic_file(folder / "maps" / f"{name}.npz") as file:
                np.savez_compressed(file, map=heat.values)

    def _overlay(self, heat: HeatMap, path: Path) -> None:
        percentiles = self.network.calibration.map_percentiles(heat.picture_values, self.channel)
        with atomic_file(path) as file:
            add_colour_bar(overlay_heat_map(heat.image(), percentiles)).save(file, format="PNG")
