"""Evaluators, and their step: from a batch of prepared items to what is found of them."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, cast

import torch
from monai.engines import SupervisedEvaluator
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys

from monai_ddad.decision.finding import Judge, score_in_parts
from monai_ddad.io.locks import lock_folder

__all__ = ["SCORES", "FolderEvaluator", "ItemEvaluator"]

SCORES = "scores"  # key of the image scores beside MONAI's own


class ItemEvaluator(SupervisedEvaluator):
    """Evaluator of whole items: MONAI's own, which also says what is found of each.

    Its network is a :class:`~monai_ddad.serving.runtimes.Runtime`, a :class:`~monai_ddad.networks.DDADModel`, or what a
    :class:`~monai_ddad.networks.Deciding` was compiled to; its batches are those of
    :func:`~monai_ddad.data.collate_items`. The output of a step is ``"image"`` and ``"label"`` on the engine's device,
    ``"pred"`` (B, M, H, W), the maps, and ``"scores"`` (B, S); or what ``postprocessing`` makes of them. Before that,
    at the event ``FORWARD_COMPLETED`` alone, ``state.findings`` holds a :class:`~monai_ddad.decision.Finding` or
    :class:`~monai_ddad.decision.Unreadable` for each item of the batch.

    Args:
        judge: what decides on the items.
        options: of MONAI's ``SupervisedEvaluator``.

    Raises:
        CheckpointError: when it runs, the network has no trained weights.
        ValueError: likewise, the network returns maps without scores.

    Example:
        >>> from monai_ddad.data import collate_items
        >>> from monai_ddad.networks import build_model
        >>> network = build_model(image_size=32, width=2, hidden_size=8).eval()
        >>> _ = network.load_state_dict(network.state_dict())
        >>> batch = collate_items([{"image": torch.zeros(1, 32, 32)} for _ in range(5)])
        >>> evaluator = ItemEvaluator("cpu", [batch], network, decollate=False, judge=Judge(network))
        >>> show = lambda engine: print(sorted(engine.state.findings[4].result.scores))
        >>> _ = evaluator.add_event_handler(IterationEvents.FORWARD_COMPLETED, show)
        >>> evaluator.run()
        ['inter', 'intra', 'r_dual', 'rec']
        >>> evaluator.state.output["pred"].shape
        torch.Size([5, 4, 32, 32])
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
        network = self.judge.network
        network.require_weights()
        image, label = self.prepare_batch(batch, self.state.device, self.non_blocking)
        if len(image):
            scored: tuple[torch.Tensor, ...] = self._score(image)
        else:
            shape = network.discrepancy.image_shape[1:]
            scored = torch.zeros(0, len(network.map_names), *shape), torch.zeros(0, len(network.score_names))
        self.state.findings = self.judge.find(batch, scored, self.state.items)
        self.state.items += len(batch["items"])
        self.state.batch = {name: value for name, value in batch.items() if name != "items"}  # no thing to decollate
        self.state.output = {CommonKeys.IMAGE: image, CommonKeys.LABEL: label}
        self.state.output |= {CommonKeys.PRED: scored[0], SCORES: scored[1]}
        self.fire_event(IterationEvents.FORWARD_COMPLETED)
        self.state.findings = []  # which hold images as they were read
        if len(image):
            self.fire_event(IterationEvents.MODEL_COMPLETED)
        return cast(dict[str, Any], self.state.output)

    def _score(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        network: Any = self.network
        call = network.decide if hasattr(network, "decide") else network
        autocast = torch.autocast(images.device.type, **self.amp_kwargs) if self.amp else nullcontext()
        with self.mode(network), autocast:
            return score_in_parts(images, lambda part: self.inferer(part, call))


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
