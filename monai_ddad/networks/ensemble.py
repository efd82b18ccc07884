"""K networks of one kind as one module."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

__all__ = ["Ensemble"]


class Ensemble(nn.Module):
    """Run K members on the same images and stack what they return.

    Args:
        members: networks of equal output shape, at least one.

    Attributes:
        loaded: whether their weights were loaded or trained.

    Raises:
        ValueError: no members.

    Source: MedIA 2023, section 3.2 (NDM and UDM are such ensembles).

    Example:
        >>> Ensemble([nn.Identity(), nn.Identity()])(torch.zeros(4, 1, 8, 8)).shape
        torch.Size([2, 4, 1, 8, 8])
    """

    def __init__(self, members: Iterable[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.loaded = False
        if len(self.members) == 0:
            raise ValueError("an ensemble needs at least one member, got none.")

    def __len__(self) -> int:
        return len(self.members)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Apply every member: (B, C, H, W) -> (K, B, C', H, W)."""
        outputs: list[torch.Tensor] = []
        for member in self.members:
            outputs.append(member(image))
        return torch.stack(outputs)

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """Encode with every member, an :class:`~monai_ddad.networks.AE`: (B, C, H, W) -> (K, B, latent_size)."""
        codes: list[torch.Tensor] = []
        for member in self.members:
            codes.append(member.encode(image))  # type: ignore[operator]
        return torch.stack(codes)

    def reconstruct(self, codes: torch.Tensor) -> torch.Tensor:
        """Turn what :meth:`encode` returned into what :meth:`forward` does: (K, B, latent_size) -> (K, B, C', H, W)."""
        outputs: list[torch.Tensor] = []
        for k, member in enumerate(self.members):
            outputs.append(member.reconstruct(codes[k]))  # type: ignore[operator]
        return torch.stack(outputs)
