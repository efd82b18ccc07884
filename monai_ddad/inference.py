"""Scores, decisions and maps of single items by a trained bundle, for programs that serve it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser

from monai_ddad.bundle import network_settings, refuse_expressions, weights_file
from monai_ddad.checkpoints import load_weights
from monai_ddad.data.resident import ResidentDataset, normalise
from monai_ddad.networks import DDADNet
from monai_ddad.outputs import HeatMap, cautions, decide, restore_map, volume_scores
from monai_ddad.packaged import find_bundle
from monai_ddad.protocol import reason
from monai_ddad.runtimes import Runtime
from monai_ddad.transforms.read import File

__all__ = ["Predictor", "Result", "load", "most_common_reason"]

BATCH = 64  # images at a time


@dataclass(frozen=True)
class Result:
    """What is found of one picture or volume.

    Attributes:
        scores: by name; of a volume the means over its slices.
        score: name of the one that decides.
        map: name of the map that shows where: of that score, or ``"inter"`` if it has none.
        p_value: in (0, 1]; None where the model is not calibrated for pictures, or for volumes.
        percentile: share of the calibration normals that score lower, in [0, 100]; None likewise.
        flagged: whether the p-value is at most alpha; None likewise.
        out_of_protocol: why the image, or most slices of the volume, are not of the trained kind; empty if they are.
        slices: slices of a volume that were scored; 0 of a picture.
        notes: what there is to know of the model, see :func:`monai_ddad.outputs.cautions`.
    """

    scores: dict[str, float]
    score: str
    map: str
    p_value: float | None
    percentile: float | None
    flagged: bool | None
    out_of_protocol: str
    slices: int
    notes: tuple[str, ...] = ()

    def summary(self) -> dict[str, Any]:
        """Return it for a JSON reply: the deciding score as ``"score"``, with its name and what follows from it."""
        return {
            "score": self.scores[self.score],
            "score_name": self.score,
            "map": self.map,
            "p_value": self.p_value,
            "percentile": self.percentile,
            "flagged": self.flagged,
            "out_of_protocol": self.out_of_protocol,
            "scores": self.scores,
            "slices": self.slices,
            "notes": list(self.notes),
        }


class Predictor:
    """A trained bundle as a function of files; it reads and prepares them as ``inference.json`` does.

    Args:
        bundle: the bundle's folder, with ``configs/inference.json``.
        models_dir: folder of ``model.pt``, or of the ``model.ts`` made of it; None takes the bundle's ``models``.
        device: None takes a GPU if there is one.
        precision: ``"float32"``, or ``"bfloat16"`` for half precision.
        runtime: ``"torch"``, ``"torchscript"`` or ``"onnx"``, see :class:`monai_ddad.runtimes.Runtime`.
        settings: further settings of ``inference.json`` by name, such as ``alpha`` or ``score``, which are never
            evaluated.

    Raises:
        CheckpointError: nothing is trained there, the model is of another bundle, or a file is damaged.
        ValueError: an unknown setting, runtime or precision, a runtime that cannot be used with the device or
            precision, or an expression for a setting.
        ImportError: a package that the runtime needs is not installed.
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str],
        models_dir: str | os.PathLike[str] | None = None,
        device: torch.device | None = None,
        precision: str = "float32",
        runtime: str = "torch",
        **settings: Any,
    ) -> None:
        models = Path(bundle) / "models" if models_dir is None else Path(models_dir)
        parser = ConfigParser()
        parser.read_config(str(Path(bundle) / "configs" / "inference.json"))
        parser["trained"] = network_settings(models, parser["bundle"])  # no path goes through the parser
        known = set(parser.get())
        for name, value in settings.items():
            if name not in known:
                raise ValueError(f"inference.json has no setting {name}.")
            parser[name] = refuse_expressions(value, name)
        self.device = parser.get_parsed_content("device") if device is None else device
        self.network: DDADNet = parser.get_parsed_content("network_def")
        load_weights(self.network, weights_file(models))
        self.runtime = Runtime(self.network.eval(), runtime, precision, self.device, models)
        self.reading = parser.get_parsed_content("reading")
        self.transform = parser.get_parsed_content("preprocessing")
        alpha = parser.get_parsed_content("alpha")
        self.alpha = self.network.calibration.rate if alpha is None else float(alpha)
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha must be a rate in [0, 1], got {self.alpha}.")

    def read(self, images: Sequence[File | Sequence[File]], num_workers: int | None = None) -> ResidentDataset:
        """Read items, each a path, a ``pydicom.Dataset``, or the list of those of a DICOM series.

        Returns:
            what could be read; failures are in its ``errors``.
        """
        return ResidentDataset([{"image": image} for image in images], self.transform, num_workers)

    @torch.inference_mode()
    def predict(self, dataset: ResidentDataset) -> dict[int, Result]:
        """Score items.

        Args:
            dataset: what :meth:`read` returned.

        Returns:
            results by the position of the item; items that could not be read are left out.
        """
        if len(dataset) == 0:
            return {}
        parts = []
        for images in dataset.images.split(BATCH):
            batch = normalise(images).to(self.device)
            _, scores = self.runtime.scored(batch)
            parts.append((scores.cpu(), self.network.protocol(batch).cpu()))
        values, ratios = (torch.cat(part).numpy() for part in zip(*parts))
        names, count = self.network.score_names, len(dataset)
        table = {"index": np.arange(count), "label": np.full(count, -1)}
        table |= {name: values[:, channel] for channel, name in enumerate(names)}
        reasons = [reason(row) for row in ratios.tolist()]
        volumes = [None if part is None else i for i, part in zip(dataset.positions, dataset.slices)]
        pictures = [row for row, volume in enumerate(volumes) if volume is None]
        results: dict[int, Result] = {}
        if pictures:
            part = {name: column[pictures] for name, column in table.items()}
            places = [dataset.positions[row] for row in pictures]
            results |= self._decide(part, places, [reasons[row] for row in pictures], [0] * len(pictures))
        if len(pictures) < count:
            joined = volume_scores(table, names, volumes)
            places = joined["index"].tolist()
            common = [
                most_common_reason([row for row, volume in zip(ratios.tolist(), volumes) if volume == place])
                for place in places
            ]
            results |= self._decide(joined, places, common, joined["slices"].tolist())
        return dict(sorted(results.items()))

    def _decide(
        self, table: dict[str, np.ndarray], places: Sequence[int], reasons: Sequence[str], slices: Sequence[int]
    ) -> dict[int, Result]:
        calibration, names, score = self.network.calibration, self.network.score_names, self.network.score
        normals = calibration.volumes if slices[0] else calibration.images
        found = decide(table, names, normals, score, self.alpha) if len(normals) else None
        notes = tuple(cautions(self.network, normals, self.alpha))
        return {
            place: Result(
                {name: float(table[name][row]) for name in names},
                score,
                self.network.shown_map,
                float(found.p_values[score][row]) if found else None,
                float(found.percentile[row]) if found else None,
                bool(found.flagged[row]) if found else None,
                reasons[row],
                int(slices[row]),
                notes,
            )
            for row, place in enumerate(places)
        }

    @torch.inference_mode()
    def heat_map(self, dataset: ResidentDataset, position: int, name: str | None = None) -> HeatMap:
        """Compute one map of one item on the item's own grid.

        Args:
            dataset: what :meth:`read` returned.
            position: of the item, which must have been read.
            name: one of the network's ``map_names``; None takes its ``shown_map``.

        Raises:
            ValueError: the network has no such map.
            ImageReadError: the file cannot be read any more, or has changed.
        """
        name = name or self.network.shown_map
        if name not in self.network.map_names:
            raise ValueError(f"the map must be one of {', '.join(self.network.map_names)}, got {name!r}.")
        channel = self.network.map_names.index(name)
        rows = [row for row, place in enumerate(dataset.positions) if place == position]
        maps = [
            values
            for images in dataset.images[rows].split(BATCH)
            for values in self.runtime(normalise(images).to(self.device))[:, channel : channel + 1].cpu()
        ]
        return restore_map(dataset, self.reading, position, dataset.images[rows], maps)

    def percentiles(self, values: np.ndarray, name: str | None = None) -> np.ndarray:
        """Express values of a map in percentiles; see :meth:`monai_ddad.calibration.Calibration.map_percentiles`."""
        channel = self.network.map_names.index(name or self.network.shown_map)
        return self.network.calibration.map_percentiles(values, channel)


def load(bundle: str | os.PathLike[str], models: str | os.PathLike[str] | None = None, **settings: Any) -> Predictor:
    """Load a trained bundle.

    Args:
        bundle: its folder, with ``configs/inference.json``, or the name of one that comes with the package.
        models: folder of ``model.pt``, or of the ``model.ts`` made of it; None takes the bundle's ``models``.
        **settings: ``device`` (such as ``"cpu"``), ``precision``, ``runtime``, and settings of ``inference.json`` such
            as ``alpha`` or ``score``: see :class:`Predictor`.

    Raises:
        ValueError: there is no such bundle; and see :class:`Predictor`.
        CheckpointError, ImportError: see :class:`Predictor`.

    Example:
        >>> load("ddad_foot", "runs/mine/models")
        Traceback (most recent call last):
        ...
        ValueError: there is no such bundle: give its folder, with configs/inference.json, or one of ddad_brain,
        ddad_cxr, ddad_fundus.
    """
    device = settings.pop("device", None)
    return Predictor(find_bundle(bundle), models, None if device is None else torch.device(device), **settings)


def most_common_reason(ratios: Sequence[Sequence[float]]) -> str:
    """Return the reason why most slices of a volume are out of protocol; empty if most are within.

    Args:
        ratios: of each slice, see :func:`monai_ddad.protocol.reason`.
    """
    strange = Counter(filter(None, map(reason, ratios)))
    return strange.most_common(1)[0][0] if 2 * strange.total() > len(ratios) else ""
