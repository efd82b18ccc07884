"""What is found of one picture or volume in one call."""

from __future__ import annotations

from typing import Any

import torch
from monai.inferers import Inferer

from monai_ddad.data.items import BatchItem
from monai_ddad.decision.finding import Finding, Judge, Unreadable, score_in_parts
from monai_ddad.networks import DDADModel
from monai_ddad.program import is_served

__all__ = ["DecidingInferer"]


class DecidingInferer(Inferer):
    """Say what is found of one picture or volume.

    Only here the network is the one whose weights are loaded: MONAI Label keeps a copy of the bundle's.
    """

    def __call__(
        self, inputs: torch.Tensor, network: DDADModel, *args: Any, **kwargs: Any
    ) -> list[Finding | Unreadable | None]:
        """Infer.

        Args:
            inputs: (1, C, h, w) picture or (1, S, C, h, w) slices, float32 in [-1, 1].
            network: the model.

        Returns:
            a batch of one; None of a network without weights in MONAI Label, which would reply with status 500.

        Raises:
            CheckpointError: the network has no trained weights.
        """
        if is_served() and not network.loaded:
            return [None]
        network.require_weights()
        images = inputs.as_subclass(torch.Tensor).flatten(0, -4)
        rows = list(range(len(images)))
        item = BatchItem({}, rows, rows if inputs.ndim == 5 else [])
        scored = score_in_parts(images, network.decide)
        (found,) = Judge(network).find({"image": images, "items": [item]}, scored)
        return [found]
