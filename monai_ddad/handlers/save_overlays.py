"""Handler that saves heat-map overlays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ignite.engine import Events
from monai.utils.enums import CommonKeys

from monai_ddad.checkpoints import atomic_file
from monai_ddad.data.resident import ResidentDataset
from monai_ddad.networks import DDADNet
from monai_ddad.outputs import overlay_heat_map
from monai_ddad.transforms.read import read_pil

__all__ = ["SaveOverlays"]


class SaveOverlays:
    """Save each image at its own size with one of its anomaly maps over it, named by its position in the list.

    The brightest colour is the map's limit in ``run.json``, the value that one in a thousand pixels of the training
    normals exceeds; without that file, the highest value of the batch.

    Args:
        network: the network that is run.
        dataset: the images that are scored.
        output_dir: folder of the PNG files ``000000.png``, ``000001.png`` and so on.
        run_file: ``run.json`` of the training.
        map_name: one of the network's ``map_names``; None takes the first.

    Raises:
        ValueError: the network has no such map.
    """

    def __init__(
        self, network: DDADNet, dataset: ResidentDataset, output_dir: str, run_file: str, map_name: str | None = None
    ) -> None:
        self.map_name = map_name or network.map_names[0]
        if self.map_name not in network.map_names:
            raise ValueError(f"map_name must be one of {network.map_names}, got {map_name!r}.")
        self.channel = network.map_names.index(self.map_name)
        self.in_channels = network.in_channels
        self.dataset = dataset
        self.output_dir = Path(output_dir)
        self.run_file = Path(run_file)

    def attach(self, engine: Any) -> None:
        """Attach to an evaluator."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.save)

    def start(self, engine: Any) -> None:
        """Read the limit, and remove the overlays of an earlier run, whose positions mean other images."""
        run = json.loads(self.run_file.read_text(encoding="utf-8")) if self.run_file.is_file() else {}
        self.limit: float | None = run.get("map_limits", {}).get(self.map_name)
        for old in self.output_dir.glob("[0-9]*.png"):
            old.unlink()

    def save(self, engine: Any) -> None:
        """Save the overlays of a batch."""
        heat = engine.state.output[CommonKeys.PRED][:, self.channel].float().cpu().numpy()
        limit = max(float(heat.max()) if self.limit is None else self.limit, 1e-12)
        for index, values in zip(engine.state.batch["index"].tolist(), heat):
            image = read_pil(self.dataset.data[index]["image"], self.in_channels)
            with atomic_file(self.output_dir / f"{index:06d}.png") as file:
                overlay_heat_map(image, values, limit).save(file, format="PNG")
