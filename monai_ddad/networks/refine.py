"""ASR-Net: the small network that refines discrepancy maps to an anomaly map."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["ASRNet"]


class ASRNet(nn.Module):
    """Anomaly score refinement network: three 3x3 convolutions.

    Args:
        in_channels: number of input maps, 2 for ``dual`` (inter, intra) and 1 for ``intra``.
        width: channels of the hidden layers.

    Source: MedIA 2023, section 3.4; method.md section 4.

    Example:
        >>> ASRNet(2)(torch.zeros(1, 2, 64, 64)).shape
        torch.Size([1, 2, 64, 64])
    """

    def __init__(self, in_channels: int = 2, width: int = 128) -> None:
        super().__init__()
        self.model = nn.Sequential(
            nn.Conv2d(in_channels, width, kernel_size=3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, kernel_size=3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, 2, kernel_size=3, padding=1),
        )

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Classify each pixel.

        Args:
            maps: (B, in_channels, H, W) raw discrepancy maps.

        Returns:
            (B, 2, H, W) logits of (normal, anomalous).
        """
        return self.model(maps)
