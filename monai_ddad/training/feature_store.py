"""Features of images in files, so that what the encoder has seen once it need not see again."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monai_ddad.data.resident import KEY, keys_of
from monai_ddad.io.checkpoints import CheckpointError, load_file, save_file
from monai_ddad.io.errors import DataError
from monai_ddad.io.writing import private_folder
from monai_ddad.networks import FeatureNet
from monai_ddad.networks.protocol import protocol_features
from monai_ddad.transforms.eight_bit import normalise

__all__ = ["FeatureStore", "describe"]

logger = logging.getLogger(__name__)

Features = dict[str, torch.Tensor]
FILE = re.compile("[0-9a-f]{16}_[0-9a-f]{16}[.]pt")
BATCH = 16  # images that the encoder takes at once
LIST = "fitted.pt"  # of the images of the last fit, beside their features
LARGEST = torch.finfo(torch.float16).max


@torch.inference_mode()
def describe(network: FeatureNet, images: torch.Tensor) -> Features:
    """Compute all that a fit asks of images.

    The encoder always sees :data:`BATCH` images at once, some of them twice where there are fewer: on other numbers
    it would round in other ways, and the features of an image would depend on its company.

    Args:
        network: whose encoder is asked.
        images: (B, C, H, W) uint8.

    Returns:
        on the CPU, by name: ``first``, ``second`` (float16) and ``pooled`` of :meth:`FeatureNet.encode`;
        ``brightness``, ``layout`` and ``detail`` of :func:`~monai_ddad.networks.protocol.protocol_features`; and
        ``field``, (B, H, W) bool, where the network has one.

    Raises:
        ValueError: the encoder gives values that are not finite.
    """
    parts = [_describe_batch(network, part) for part in images.split(BATCH)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _describe_batch(network: FeatureNet, images: torch.Tensor) -> Features:
    values = normalise(images).to(network.dual.ndm.mean.device)
    filled = torch.cat([values, values[-1:].expand(BATCH - len(values), *values.shape[1:])])
    first, second, pooled = (part[: len(values)] for part in network.encode(filled))
    if not pooled.isfinite().all():
        raise ValueError(f"{network.settings.encoder} gives features that are not finite for images of the training.")
    found = dict(zip(("brightness", "layout", "detail"), protocol_features(values)))
    found |= {"pooled": pooled.float(), "first": _halved(first), "second": _halved(second)}
    field = network.field(values)
    if field is not None:
        found["field"] = field[:, 0] > 0
    return {name: value.cpu().contiguous() for name, value in found.items()}


def _halved(values: torch.Tensor) -> torch.Tensor:
    return values.clamp(-LARGEST, LARGEST).half()


class FeatureStore:
    """Features of images by the images' content, in files of some images each.

    A file is written whole or not at all, so a run that was killed goes on with the images that are missing, and
    processes may add files side by side. A file that is damaged, or of another encoder or size, counts for nothing.

    Args:
        folder: of the files; it is made when the first is written.
        network: whose features they are.
        preparation: settings of the images' preparation by name, which what is added has to have as well.
        altered: what was done to the images before, in words; empty where nothing.
    """

    def __init__(
        self, folder: Path, network: FeatureNet, preparation: Mapping[str, Any] | None = None, altered: str = ""
    ) -> None:
        self.folder = folder
        self.network = network
        self.preparation = json.dumps(preparation or {}, sort_keys=True)
        seen = {name: value for name, value in network.settings.used().items() if name != "refine"}
        self._kind = hashlib.sha256(f"{seen}{altered}".encode()).hexdigest()[:16]
        self._places: dict[str, tuple[Path, int]] = {}
        self.scan()

    def scan(self) -> None:
        """Look for files that are new."""
        seen = {file for file, _ in self._places.values()}
        for file in sorted(set(self.folder.glob(f"{self._kind}_*.pt")) - seen):
            try:
                keys = load_file(file)["keys"]
            except (CheckpointError, KeyError, TypeError):
                logger.warning("A damaged file of features is left out, and made anew.")
                continue
            self._places |= {key: (file, row) for row, key in enumerate(keys)}

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def add(self, images: torch.Tensor) -> None:
        """Compute and keep the features of (B, C, H, W) uint8 images."""
        keys = keys_of(images)
        features = describe(self.network, images)
        if "field" in features:
            features["field"] = _packed(features["field"])
        self.put(keys, features)

    def put(self, keys: Sequence[str], features: Features) -> None:
        """Keep features of images in a file, by name (B, ...)."""
        file = self.folder / f"{self._kind}_{hashlib.sha256(''.join(keys).encode()).hexdigest()[:16]}.pt"
        private_folder(self.folder)
        save_file({"keys": list(keys), **features}, file)
        self._places |= {key: (file, row) for row, key in enumerate(keys)}

    def read(self, keys: Sequence[str]) -> Iterator[tuple[torch.Tensor, Features]]:
        """Read the features of images, file by file.

        Args:
            keys: of the images; one may come several times.

        Yields:
            where they stand in ``keys``, (B,), and the features there.

        Raises:
            KeyError: one is not there.
        """
        wanted: dict[Path, list[tuple[int, int]]] = {}
        for place, key in enumerate(keys):
            file, row = self._places[key]
            wanted.setdefault(file, []).append((place, row))
        side = self.network.image_size
        for file in sorted(wanted):
            content = load_file(file)
            places, rows = (torch.tensor(column) for column in zip(*wanted[file]))
            features = {name: value[rows] for name, value in content.items() if name != "keys"}
            if "field" in features:
                features["field"] = _unpacked(features["field"], side)
            yield places, features

    def remember(self, fitted: dict[str, list[Any]]) -> None:
        """Write down which images a fit was made of, and what they are: lists of equal length."""
        keys = np.frombuffer(bytes.fromhex("".join(fitted["keys"])), dtype=np.uint8).reshape(-1, KEY).copy()
        volumes = [-1 if volume is None else volume for volume in fitted["volumes"]]
        numbers = torch.tensor([list(map(int, fitted["known"])), fitted["groups"], volumes])
        content = {"kind": self._kind, "preparation": self.preparation}
        save_file({**content, "keys": torch.from_numpy(keys), "numbers": numbers}, self.folder / LIST)

    def recall(self) -> dict[str, list[Any]]:
        """Return what the last fit was made of.

        Raises:
            DataError: there was none, it was of another encoder or size, or files are missing or damaged.
        """
        file = self.folder / LIST
        if not file.is_file():
            raise DataError("there is no earlier fit to add to (features_dir): train without add first.")
        lost = "the earlier fit's features are missing or damaged: train on all images without add."
        try:
            found = load_file(file)
            same = (found["kind"], found["preparation"]) == (self._kind, self.preparation)
            keys = [bytes(key.tolist()).hex() for key in found["keys"]]
            known, groups, volumes = found["numbers"].tolist()
        except (AttributeError, CheckpointError, KeyError, TypeError, ValueError):
            raise DataError(lost) from None
        if not same:
            raise DataError("the earlier fit is of another encoder, image_size or preparation: repeat its settings.")
        if len(keys) != len(known) or not all(key in self for key in keys):
            raise DataError(lost)
        places = [None if volume < 0 else volume for volume in volumes]
        return {"keys": keys, "known": [bool(kind) for kind in known], "groups": groups, "volumes": places}

    def keep(self, keys: Iterable[str]) -> None:
        """Remove the files that hold none of these images, and those of other encoders and sizes."""
        kept = {self._places[key][0] for key in keys}
        for file in set(self.folder.iterdir()) - kept:
            if FILE.fullmatch(file.name):
                file.unlink(missing_ok=True)


def _packed(field: torch.Tensor) -> torch.Tensor:
    """Pack (B, H, W) bool into (B, H * W / 8) uint8."""
    bits = field.flatten(1).unflatten(1, (-1, 8)).to(torch.uint8)
    return (bits << torch.arange(8, dtype=torch.uint8)).sum(dim=2).to(torch.uint8)


def _unpacked(field: torch.Tensor, side: int) -> torch.Tensor:
    """Return the (B, side, side) bool that were packed."""
    bits = (field[:, :, None] >> torch.arange(8, dtype=torch.uint8)) & 1
    return bits.bool().flatten(1).unflatten(1, (side, side))
