"""An evaluator that has its folder for itself, and its step: maps and image scores of a batch."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, cast

import torch
from monai.engines import SupervisedEvaluator
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys

from monai_ddad.locks import lock_folder

__all__ = ["SCORES", "FolderEvaluator", "score_batch"]

SCORES = "scores"  # key of the image scores beside MONAI's own


class FolderEvaluator(SupervisedEvaluator):
    """Evaluator whose handlers write to a folder, which no other process writes to meanwhile.

    Args:
        output_dir: the folder.
        options: of MONAI's ``SupervisedEvaluator``.

    Raises:
        FolderInUseError: when it runs, another process writes there.
    """

    def __init__(self, *options: Any, output_dir: str, **named_options: Any) -> None:
        self.output_dir = output_dir
        super().__init__(*options, **named_options)

    def run(self, global_epoch: int = 1) -> None:
        """Evaluate."""
        with lock_folder(self.output_dir, "--output_dir"):
            super().run(global_epoch)


@torch.no_grad()
def score_batch(engine: SupervisedEvaluator, batch: dict[str, Any]) -> dict[str, Any]:
    """Do what MONAI's own step does and keep the image scores, too: the ``iteration_update`` of an evaluator.

    Args:
        engine: an evaluator whose network is a :class:`~monai_ddad.runtimes.Runtime`, a
            :class:`~monai_ddad.networks.DDADNet`, or what a
            :class:`~monai_ddad.networks.ScoringDDADNet` was compiled to.
        batch: ``"image"`` (B, C, H, W) and ``"label"``.

    Returns:
        ``"image"`` and ``"label"`` on the engine's device, ``"pred"`` (B, M, H, W), the maps, and ``"scores"`` (B, S);
        or what the engine's ``postprocessing`` makes of them.

    Raises:
        ValueError: the network returns maps without scores.

    Example:
        >>> from monai_ddad.networks import DDADNet
        >>> network, batch = DDADNet(image_size=32, width=2, hidden_size=8), {"image": torch.zeros(5, 1, 32, 32)}
        >>> batch["label"] = torch.zeros(5)
        >>> evaluator = SupervisedEvaluator("cpu", [batch], network, iteration_update=score_batch, decollate=False)
        >>> evaluator.run()
        >>> evaluator.state.output["pred"].shape, evaluator.state.output["scores"].shape
        (torch.Size([5, 4, 32, 32]), torch.Size([5, 4]))
    """
    image, label = engine.prepare_batch(batch, engine.state.device, engine.non_blocking)
    network: Any = engine.network
    autocast = torch.autocast(image.device.type, **engine.amp_kwargs) if engine.amp else nullcontext()
    with engine.mode(network), autocast:
        found = engine.inferer(image, network.scored if hasattr(network, "scored") else network)
    if not isinstance(found, tuple):
        raise ValueError("the compiled network returns no scores: export scoring_def instead of network_def.")
    maps, scores = found
    output = {CommonKeys.IMAGE: image, CommonKeys.LABEL: label, CommonKeys.PRED: maps, SCORES: scores}
    engine.state.output = output
    engine.fire_event(IterationEvents.FORWARD_COMPLETED)  # the package's handlers take the whole batch
    engine.fire_event(IterationEvents.MODEL_COMPLETED)  # a user's postprocessing may take it apart
    return cast(dict[str, Any], engine.state.output)
