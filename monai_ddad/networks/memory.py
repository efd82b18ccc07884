"""Autoencoder whose latent code is rebuilt from a learned memory (MemAE)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from monai_ddad.networks.autoencoder import AE
from monai_ddad.networks.losses import attention_entropy, mean_squared_error

__all__ = ["Memory", "MemAE"]


class Memory(nn.Module):
    """Rebuild a code as a convex combination of memory rows.

    Args:
        slots: number of memory rows.
        latent_size: length of a row.
        shrink_threshold: attention at or below it is set to zero and the rest renormalised; 0 leaves all as it is.

    Source: method.md section 2.

    Example:
        >>> code, attention = Memory(25, 16)(torch.zeros(2, 16))
        >>> code.shape, attention.shape, round(attention.sum().item(), 4)
        (torch.Size([2, 16]), torch.Size([2, 25]), 2.0)
    """

    def __init__(self, slots: int, latent_size: int, shrink_threshold: float = 0.0) -> None:
        super().__init__()
        self.shrink_threshold = shrink_threshold
        self.memory = nn.Linear(latent_size, slots, bias=False)  # weight (slots, latent_size), U(+-1/sqrt(latent_size))

    def forward(self, latent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Rebuild (B, latent_size) codes; return them with the (B, slots) attention."""
        attention = F.softmax(self.memory(latent), dim=1)
        if self.shrink_threshold > 0:
            excess = attention - self.shrink_threshold
            attention = F.relu(excess) * attention / (excess.abs() + 1e-12)
            attention = F.normalize(attention, p=1.0, dim=1)
        return attention @ self.memory.weight, attention


class MemAE(AE):
    """Autoencoder with a memory between encoder and decoder.

    Args:
        in_channels, image_size, latent_size, width, hidden_size: as in :class:`AE`.
        memory_slots: rows of the memory.
        shrink_threshold: see :class:`Memory`.
        entropy_weight: weight of the attention's entropy in the training loss.

    Source: MedIA 2023, section 3.2; method.md section 2.

    Example:
        >>> MemAE()(torch.zeros(2, 1, 64, 64)).shape
        torch.Size([2, 1, 64, 64])
    """

    def __init__(
        self,
        in_channels: int = 1,
        image_size: int = 64,
        latent_size: int = 16,
        width: int = 16,
        hidden_size: int = 2048,
        memory_slots: int = 25,
        shrink_threshold: float = 0.0,
        entropy_weight: float = 2e-4,
    ) -> None:
        super().__init__(in_channels, image_size, latent_size, width, hidden_size)
        self.entropy_weight = entropy_weight
        self.mem_rep = Memory(memory_slots, latent_size, shrink_threshold)

    def reconstruct(self, latent: torch.Tensor) -> torch.Tensor:
        """Turn (B, latent_size) codes into (B, C, H, W) images, through the memory."""
        code, _ = self.mem_rep(latent)
        return self.decode(code)

    @torch.jit.unused
    def training_loss(self, image: torch.Tensor) -> torch.Tensor:
        """Compute the scalar loss that this network is trained with on a (B, C, H, W) batch."""
        code, attention = self.mem_rep(self.encode(image))
        entropy = attention_entropy(attention.to(image.dtype))  # out of autocast's half precision
        return mean_squared_error(self.decode(code), image) + self.entropy_weight * entropy
