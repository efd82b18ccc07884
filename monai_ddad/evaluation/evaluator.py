"""Evaluators, and their step: from a batch of prepared items to what is found of them."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, cast

import torch
from monai.engines import SupervisedEvaluator
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys

from monai_ddad.decision.finding import Judge
from monai_ddad.io.locks import lock_folder

__all__ = ["SCORES", "FolderEvaluator", "ItemEvaluator"]

SCORES = "scores"  # key of the image scores beside MONAI's own
BATCH = 64  # images that the network takes at a time: a volume may have more


class ItemEvaluator(SupervisedEvaluator):
    """Evaluator of whole items: MONAI's own, which also says what is found of each.

    Its network is a :class:`~monai_ddad.serving.runtimes.Runtime`, a :class:`~monai_ddad.networks.DDADNet`, or what a
    :class:`~monai_ddad.networks.ScoringDDADNet` was compiled to; its batches are those of
    :func:`~monai_ddad.data.collate_items`. The output of a step is ``"image"`` and ``"label"`` on the engine's device,
    ``"pred"`` (B, M, H, W), the maps, and ``"scores"`` (B, S); or what ``postprocessing`` makes of them. Before that,
    at the event ``FORWARD_COMPLETED``, ``state.findings`` holds a :class:`~monai_ddad.decision.finding.Finding` or
    :class:`~monai_ddad.decision.finding.Unreadable` for each item of the batch.

    Args:
        judge: what decides on the items.
        options: of MONAI's ``SupervisedEvaluator``.

    Raises:
        CheckpointError: when it runs, the network has no trained weights.
        ValueError: likewise, the network returns maps without scores.

    Example:
        >>> from monai_ddad.data import collate_items
        >>> from monai_ddad.networks import DDADNet
        >>> network = DDADNet(image_size=32, width=2, hidden_size=8).eval()
        >>> _ = network.load_state_dict(network.state_dict())
        >>> batch = collate_items([{"image": torch.zeros(1, 32, 32)} for _ in range(5)])
        >>> evaluator = ItemEvaluator("cpu", [batch], network, decollate=False, judge=Judge(network))
        >>> evaluator.run()
        >>> evaluator.state.output["pred"].shape, sorted(evaluator.state.findings[4].result.scores)
        (torch.Size([5, 4, 32, 32]), ['inter', 'intra', 'r_dual', 'rec'])
    """

    def __init__(self, *options: Any, judge: Judge, **named_options: Any) -> None:
        self.judge = judge
        super().__init__(*options, **named_options)

    def run(self, global_epoch: int = 1) -> None:
        """Evaluate."""
        self.state.items = 0
        super().run(global_epoch)

    @torch.no_grad()
    def _iteration(self, engine: ItemEvaluator, batch: dict[str, Any]) -> dict[str, Any]:
        self.judge.network.require_weights()
        image, label = self.prepare_batch(batch, self.state.device, self.non_blocking)
        output: dict[str, Any] = {CommonKeys.IMAGE: image, CommonKeys.LABEL: label}
        scored: tuple[torch.Tensor, ...] = ()
        if len(image):
            images = image.as_subclass(torch.Tensor)
            output[CommonKeys.PRED], output[SCORES] = self._score(images)
            scored = output[CommonKeys.PRED], output[SCORES], self.judge.network.protocol(images)
        self.state.findings = self.judge.find(batch, scored, self.state.items)
        self.state.items += len(batch["items"])
        self.state.batch = {name: value for name, value in batch.items() if name != "items"}  # no thing to decollate
        self.state.output = output
        self.fire_event(IterationEvents.FORWARD_COMPLETED)
        if len(image):
            self.fire_event(IterationEvents.MODEL_COMPLETED)
        return cast(dict[str, Any], self.state.output)

    def _score(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        network: Any = self.network
        call = network.scored if hasattr(network, "scored") else network
        autocast = torch.autocast(images.device.type, **self.amp_kwargs) if self.amp else nullcontext()
        with self.mode(network), autocast:
            found = [self.inferer(part, call) for part in images.split(BATCH)]
        if not isinstance(found[0], tuple):
            raise ValueError("the compiled network returns no scores: export scoring_def instead of network_def.")
        maps, scores = (torch.cat(parts) for parts in zip(*found))
        return maps, scores


class FolderEvaluator(ItemEvaluator):
    """Evaluator whose handlers write to a folder, which no other process writes to meanwhile.

    Args:
        output_dir: the folder.
        options: of :class:`ItemEvaluator`.

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
