"""How often files are read and decoded, and images prepared and scored."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from monai_ddad.networks.ensemble import Ensemble
from monai_ddad.transforms import EightBit, ReadImage, read


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Count while the block runs: files read whole, items decoded, and images prepared and scored."""
    counts: Counter[str] = Counter()

    def count(patch: pytest.MonkeyPatch, place: Any, name: str, step: str) -> None:
        call = getattr(place, name)

        def counting(*arguments: Any, **named: Any) -> Any:
            counts[step] += 1
            return call(*arguments, **named)

        patch.setattr(place, name, counting)

    encode = Ensemble.encode

    def counting_encode(ensemble: Ensemble, image: torch.Tensor) -> torch.Tensor:
        counts["scored"] += len(image)  # by the UDM alone: the NDM has no use of its codes
        return encode(ensemble, image)

    with pytest.MonkeyPatch.context() as patch:
        count(patch, read, "open_image", "read")
        if "monai_ddad.deploy.studies" in sys.modules:
            count(patch, sys.modules["monai_ddad.deploy.studies"], "open_image", "read")
        count(patch, ReadImage, "_decode", "decoded")
        count(patch, EightBit, "__call__", "prepared")
        patch.setattr(Ensemble, "encode", counting_encode)
        yield counts
