"""Scores, decisions and maps of single items by a trained bundle, for programs that serve it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from torch.utils.data import DataLoader

from monai_ddad.bundle import network_settings, refuse_expressions, weights_file
from monai_ddad.data.items import ItemDataset, collate_items
from monai_ddad.decision.finding import Finding, Judge, Result, Unreadable, score_in_parts
from monai_ddad.io.checkpoints import load_weights
from monai_ddad.networks import DDADModel
from monai_ddad.packaged import find_bundle
from monai_ddad.serving.runtimes import Runtime
from monai_ddad.transforms.eight_bit import normalise
from monai_ddad.transforms.read import File, KeepSource

__all__ = ["Predictor", "load"]

ITEMS = 8  # that are read at a time


class Predictor:
    """A trained bundle as a function of files; it reads and prepares them as ``inference.json`` does.

    Args:
        bundle: the bundle's folder, with ``configs/inference.json``.
        models_dir: folder of ``model.pt``, or of the ``model.ts`` made of it; None takes the bundle's ``models``.
        device: None takes a GPU if there is one.
        precision: ``"float32"``, or ``"bfloat16"`` for half precision.
        runtime: ``"torch"``, ``"torchscript"`` or ``"onnx"``, see :class:`monai_ddad.serving.runtimes.Runtime`.
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
        self.network: DDADModel = parser.get_parsed_content("network_def")
        load_weights(self.network, weights_file(models))
        self.runtime = Runtime(self.network.eval(), runtime, precision, self.device, models)
        self.modalities: Sequence[str] | None = parser.get_parsed_content("reading").read.modalities  # None takes all
        self.transform: KeepSource = parser.get_parsed_content("item_preparation")
        self.judge = Judge(self.network, parser.get_parsed_content("alpha"), self.transform.preparation)

    @property
    def alpha(self) -> float:
        """False-positive rate at which an image is flagged."""
        return self.judge.alpha

    def find(
        self, images: Sequence[File | Sequence[File] | MetaTensor], num_workers: int | None = None
    ) -> Iterator[Finding | Unreadable]:
        """Read items one batch after the other and say what is found of each, in their order.

        Only a batch is in memory at a time, eight items, as long as no finding is kept: each holds the image as it was
        read.

        Args:
            images: paths, ``pydicom.Dataset`` objects, lists of those of a DICOM series, or what
                :class:`~monai_ddad.transforms.ReadImage` has read.
            num_workers: threads that read; None takes one a core.
        """
        dataset = ItemDataset([{"image": image} for image in images], self.transform, num_workers)
        loader = DataLoader(dataset, batch_size=ITEMS, collate_fn=collate_items)
        first = 0
        for batch in loader:
            found = self.judge.find(batch, self._score(batch["image"]) if len(batch["image"]) else (), first)
            del batch
            first += len(found)
            while found:
                yield found.pop(0)

    def predict(
        self, images: torch.Tensor, positions: Sequence[int], slices: Sequence[int | None]
    ) -> dict[int, Result]:
        """Decide on items whose images are prepared already.

        Args:
            images: (N, C, h, w) uint8.
            positions: of the item that each image is of.
            slices: number of each among the slices of its volume; None for a picture.

        Returns:
            results by the position of the item.
        """
        if len(images) == 0:
            return {}
        rows: dict[int, list[int]] = {}
        for row, position in enumerate(positions):
            rows.setdefault(position, []).append(row)
        _, scores, ratios = self._score(normalise(images), keep_maps=False)
        volumes = [slices[own[0]] is not None for own in rows.values()]
        return dict(zip(rows, self.judge.results(scores, ratios, list(rows.values()), volumes)))

    @torch.inference_mode()
    def _score(self, images: torch.Tensor, keep_maps: bool = True) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return score_in_parts(images, self.runtime.decide, self.device, keep_maps)


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
