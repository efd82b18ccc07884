"""Handler that saves anomaly maps: over the pictures, and of volumes as NIfTI."""

from __future__ import annotations

import gzip
import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from ignite.engine import Events
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils.enums import CommonKeys
from PIL import Image

from monai_ddad.checkpoints import atomic_file
from monai_ddad.data.resident import ResidentDataset
from monai_ddad.networks import DDADNet
from monai_ddad.outputs import overlay_heat_map
from monai_ddad.transforms import AxialSlices, slices_to_volume

__all__ = ["SaveMaps"]

NAMES = re.compile(r"\d{6}(_slice\d+)?\.png|\d{6}_\w+\.nii\.gz")  # of the files written here


class SaveMaps:
    """Save one anomaly map of each item on the item's own grid, named by the item's position in the list.

    A picture gives ``overlays/000000.png``, the picture with the map over it. A volume gives the map as
    ``maps/000000_<name>.nii.gz``, 0 in the slices that are not scored, and ``overlays/000000_slice012.png``, the slice
    with the highest score.

    The brightest colour of overlays is the map's limit in ``run.json``, the value that one in a thousand pixels of the
    training normals exceeds; without that file, the highest value of the item.

    Args:
        network: the network that is run.
        dataset: the images that are scored, with an invertible transform, in the order of the batches.
        reading: the transform that reads an item, the first step of the data set's own.
        output_dir: folder of ``overlays`` and ``maps``.
        run_file: ``run.json`` of the training.
        map_name: one of the network's ``map_names``; None takes the first.

    Raises:
        ValueError: the network has no such map.
    """

    def __init__(
        self,
        network: DDADNet,
        dataset: ResidentDataset,
        reading: MapTransform,
        output_dir: str,
        run_file: str,
        map_name: str | None = None,
    ) -> None:
        self.map_name = map_name or network.map_names[0]
        if self.map_name not in network.map_names:
            raise ValueError(f"map_name must be one of {network.map_names}, got {map_name!r}.")
        self.channel = network.map_names.index(self.map_name)
        self.dataset = dataset
        self.reading = reading
        self.overlays = Path(output_dir) / "overlays"
        self.volumes = Path(output_dir) / "maps"
        self.run_file = Path(run_file)

    def attach(self, engine: Any) -> None:
        """Attach to an evaluator."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.collect)

    def start(self, engine: Any) -> None:
        """Read the limit, and remove the maps of an earlier run, whose positions mean other images."""
        run = json.loads(self.run_file.read_text(encoding="utf-8")) if self.run_file.is_file() else {}
        self.limit: float | None = run.get("map_limits", {}).get(self.map_name)
        for folder in (self.overlays, self.volumes):
            for old in folder.glob("*"):
                if NAMES.fullmatch(old.name):
                    old.unlink()
        self._missing = Counter(self.dataset.positions)
        self._maps: dict[int, list[torch.Tensor]] = {}

    def collect(self, engine: Any) -> None:
        """Keep the maps of a batch, and save those of the items that are complete."""
        maps = engine.state.output[CommonKeys.PRED][:, self.channel : self.channel + 1].float().cpu()
        for index, values in zip(engine.state.batch["index"].tolist(), maps):
            position = self.dataset.positions[index]
            self._maps.setdefault(position, []).append(values)
            self._missing[position] -= 1
            if self._missing[position] == 0:
                self._save(position, self._maps.pop(position))

    def _save(self, position: int, maps: list[torch.Tensor]) -> None:
        item = self.reading(self.dataset.data[position])
        prepared: Any = self.dataset.transform(item)
        prepared = [prepared] if isinstance(prepared, dict) else prepared
        restored = [self._restore(part["image"], values) for part, values in zip(prepared, maps)]
        image = item["image"]
        if image.ndim == 3:
            self._overlay(image, restored[0], f"{position:06d}.png")
            return
        slices = {int(part["image"].meta["slice"]): heat for part, heat in zip(prepared, restored)}
        affine = image.affine.numpy()
        volume = nib.Nifti1Image(slices_to_volume(slices, affine, image.shape[1:]), affine)
        volume.header.set_xyzt_units("mm")
        with atomic_file(self.volumes / f"{position:06d}_{self.map_name}.nii.gz") as file:
            file.write(gzip.compress(volume.to_bytes(), compresslevel=6, mtime=0))
        means = [values.mean().item() for values in maps]
        highest = list(slices)[int(np.argmax(means))]
        picture = AxialSlices(min_area=0, height=math.inf)(image)[highest]
        self._overlay(picture, slices[highest], f"{position:06d}_slice{highest:03d}.png")

    def _restore(self, prepared: MetaTensor, values: torch.Tensor) -> np.ndarray:
        """Put one (1, h, w) map on the (H, W) grid of the picture that was prepared."""
        maps = MetaTensor(values, applied_operations=list(prepared.applied_operations))
        inverse: Any = self.dataset.transform
        return np.asarray(inverse.inverse({"image": maps})["image"][0])

    def _overlay(self, picture: torch.Tensor, heat: np.ndarray, name: str) -> None:
        limit = max(float(heat.max()) if self.limit is None else self.limit, 1e-12)
        pixels = np.rint(255 * np.asarray(picture)).astype(np.uint8)
        shown = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
        with atomic_file(self.overlays / name) as file:
            overlay_heat_map(shown, heat, limit).save(file, format="PNG")
