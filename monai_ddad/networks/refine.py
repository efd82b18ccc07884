"""Networks that refine discrepancy maps: ASR-Net of the paper, and one for the features of cells."""

import torch
from torch import nn

from monai_ddad.networks.gaussian import Moments

__all__ = ["ASRNet", "CellASRNet"]

LEAST = 0.03  # of the discrepancy that stays where a cell looks ordinary


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


class CellASRNet(nn.Module):
    """Tell from the features of a cell whether it looks altered: two layers, for each cell by itself.

    The probability that it gives is what the discrepancy is multiplied with, see :meth:`refine`, so that it says where
    an anomaly is, while the level of an image stays that of the discrepancy.

    Args:
        size: numbers of a cell (F).
        width: hidden units.

    Attributes:
        mean, scale: (F,) of the cells of known normals.

    Source: takes the place of ASR-Net (MedIA 2023, section 3.4), which sees discrepancy maps alone.

    Example:
        >>> CellASRNet(3)(torch.zeros(2, 8, 8, 3), torch.ones(2, 8, 8), torch.ones(2, 8, 8)).shape
        torch.Size([2, 8, 8])
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, size: int, width: int = 64) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))
        self.least = LEAST
        self.model = nn.Sequential(nn.Linear(size + 3, width), nn.ReLU(), nn.Linear(width, 1))

    def inputs(self, cells: torch.Tensor, normal: torch.Tensor, unknown: torch.Tensor) -> torch.Tensor:
        """Join what a cell is judged by: its features in units of the known normals, and its distances.

        Args:
            cells: (..., F).
            normal, unknown: (...), their distances to NDM and UDM.

        Returns:
            (..., F + 3).
        """
        first, second = (normal + 1e-6).log(), (unknown + 1e-6).log()
        distances = torch.stack([first, second, first - second], dim=-1)
        return torch.cat([(cells - self.mean) / self.scale, distances], dim=-1)

    def forward(self, cells: torch.Tensor, normal: torch.Tensor, unknown: torch.Tensor) -> torch.Tensor:
        """Compute the logits (...) that cells are altered, of what :meth:`inputs` takes."""
        return self.model(self.inputs(cells, normal, unknown))[..., 0]

    def refine(self, discrepancy: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Multiply a discrepancy by the probability that something is altered, and by .03 at least.

        Example:
            >>> CellASRNet(3).refine(torch.ones(3), torch.tensor([-9.0, 0.0, 9.0]))
            tensor([0.0301, 0.5150, 0.9999])
        """
        return discrepancy * (self.least + (1 - self.least) * logits.sigmoid())

    @torch.jit.unused
    @torch.no_grad()
    def standardise(self, known: Moments) -> None:
        """Take the units from the moments of the cells of known normals."""
        self.mean.copy_(known.mean)
        self.scale.copy_(known.scale)
