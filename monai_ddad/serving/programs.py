"""Trained models as programs of ``torch.export``, which PyTorch alone runs."""

from __future__ import annotations

import io
import os
from typing import Any

import torch
from torch import nn

from monai_ddad.io.writing import atomic_file
from monai_ddad.networks import DDADModel, fold

__all__ = ["export_program"]


class _Named(nn.Module):
    """A model whose outputs are a dictionary, which any program knows."""

    def __init__(self, model: DDADModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.model.decide(image)._asdict()


def export_program(network: DDADModel, path: str | os.PathLike[str]) -> None:
    """Write a trained and calibrated model as one file (``.pt2``) that ``torch.export.load(path).module()`` runs.

    It needs neither this package nor timm. Its input is (B, C, H, W) float32 in [-1, 1], of any batch size; its output
    a dictionary of what a :class:`~monai_ddad.networks.Decided` holds. The extra file ``record`` of the archive is the
    model's record, see :class:`monai_ddad.io.record.ModelRecord`.

    Args:
        network: the model; it stays as it is.
        path: the file, written atomically.

    Raises:
        CheckpointError: the model has no trained weights.
    """
    network.require_weights()
    image = torch.zeros(2, *network.discrepancy.image_shape)
    with torch.no_grad():
        program = torch.export.export(
            _Named(fold(network).cpu()).eval(),
            (image,),
            dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
            strict=False,
        )
    for part in program.graph_module.modules():
        for node in part.graph.nodes if isinstance(part, torch.fx.GraphModule) else ():
            _forget(node.meta)
    record = (network.record_text or network.record.text()).strip()
    content = io.BytesIO()
    torch.export.save(program, content, extra_files={"record": record})
    with atomic_file(path) as file:
        file.write(content.getbuffer())


def _forget(meta: dict[str, Any]) -> None:
    """Leave out where in the source a step comes from, which names folders of this machine."""
    for name in ("stack_trace", "nn_module_stack", "source_fn_stack", "from_node", "torch_fn"):
        meta.pop(name, None)
