"""Maps, scores and decisions of one picture or volume in one call."""

from __future__ import annotations

from typing import Any

import torch
from monai.inferers import Inferer

from monai_ddad.bundle import is_served
from monai_ddad.networks import DDADNet
from monai_ddad.outputs import cautions

__all__ = ["DecidingInferer"]

BATCH = 64  # slices at a time


class DecidingInferer(Inferer):
    """Compute the maps of one picture or volume, and what follows from them.

    Only here the network is the one whose weights are loaded: MONAI Label keeps a copy of the bundle's.
    """

    def __call__(self, inputs: torch.Tensor, network: DDADNet, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Infer.

        Args:
            inputs: (1, C, h, w) picture or (1, S, C, h, w) slices, float32 in [-1, 1].
            network: the model.

        Returns:
            each with 1 as its first dimension: ``maps`` ([S,] M, h, w), ``scores`` (S), of a volume the means over
            its slices, ``p_values`` and ``percentiles`` (S), ``protocol`` (S, 4), ``normals`` and ``alpha``. As text,
            with a space or a line end between: ``score_names`` (S), ``score`` that decides, ``shown_map``, and
            ``notes``, see :func:`~monai_ddad.outputs.cautions`. Nothing
            but ``loaded``, False, of a network without weights in MONAI Label, which would reply with status 500.

        Raises:
            CheckpointError: the network has no trained weights.
        """
        if is_served() and not network.loaded:
            return {"loaded": torch.tensor([False])}
        network.require_weights()
        images = inputs.as_subclass(torch.Tensor).flatten(0, -4)
        maps, slices = (torch.cat(parts) for parts in zip(*[network.scored(part) for part in images.split(BATCH)]))
        scores = slices.mean(dim=0)
        calibration = network.calibration
        normals = calibration.volumes if inputs.ndim == 5 else calibration.images
        found = {
            "maps": maps,
            "scores": scores,
            "p_values": normals.p_values(scores),
            "percentiles": normals.percentiles(scores),
            "protocol": network.protocol(images),
            "loaded": torch.tensor(True),
            "normals": torch.tensor(normals.scores.shape[1]),
            "alpha": calibration.alpha,
            "quantiles": calibration.map_quantiles,
        }
        alpha = round(float(calibration.alpha), 6)
        return {name: value[None].cpu() for name, value in found.items()} | {  # of text, MONAI takes no lists apart
            "score_names": " ".join(network.score_names),
            "score": network.score,
            "shown_map": network.shown_map,
            "notes": "\n".join(cautions(network, normals, alpha)),
        }
