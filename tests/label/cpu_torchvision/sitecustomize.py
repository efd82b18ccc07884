"""Lets torchvision be imported whose compiled part does not fit: a build for CUDA beside PyTorch for the CPU.

MONAI Label imports it without using it. Python runs this file where its folder is on ``PYTHONPATH``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


class _Operators(MetaPathFinder):
    """Define the operators that torchvision describes on import, just before it does."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            import torch

            if torch.version.cuda is None:
                self.library = torch.library.Library("torchvision", "FRAGMENT")
                for operator in ("nms", "qnms"):
                    with suppress(RuntimeError):  # it is there
                        self.library.define(operator + SCHEMA)
        return None


OPERATORS = _Operators()  # kept: the operators live as long as it does
sys.meta_path.insert(0, OPERATORS)
