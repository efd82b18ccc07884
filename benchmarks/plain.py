"""The method as its authors run it, for comparison: one network after another, images through a DataLoader.

Written from method.md: PIL images in memory, converted at each access; default Adam; the frozen ensembles inside each
step of ASR-Net; evaluation one image at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from monai_ddad.networks import AE, ASRNet

__all__ = ["AnomalyImages", "Images", "asr_loader", "asr_step", "loader", "score", "train_step"]


def to_tensor(image: Image.Image) -> torch.Tensor:
    """Convert a grey picture to (1, H, W) in [-1, 1]."""
    return torch.from_numpy(np.array(image)).view(1, image.height, image.width).float().div(255).sub(0.5).div(0.5)


class Images(Dataset):
    """Pictures kept as PIL images."""

    def __init__(self, images: Sequence[Image.Image]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        return to_tensor(self.images[index])


class AnomalyImages(Images):
    """Pictures with a synthetic anomaly in half of them, and its mask."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = super().__getitem__(index)
        mask = torch.zeros(image.shape[1:], dtype=torch.long)
        if np.random.rand() > 0.5:
            side = image.shape[-1]
            row, column = np.random.randint(int(0.1 * side), int(0.9 * side), size=2)
            half = np.random.randint(round(0.05 * side), round(0.2 * side))
            alpha = torch.rand(1)
            other = np.random.randint(len(self) - 1)
            source = to_tensor(self.images[other + (other >= index)])
            box = (slice(max(row - half, 0), row + half), slice(max(column - half, 0), column + half))
            image[:, box[0], box[1]] = (1 - alpha) * image[:, box[0], box[1]] + alpha * source[:, box[0], box[1]]
            mask[box] = 1
        return image, mask


def loader(images: Sequence[Image.Image], batch_size: int = 64) -> DataLoader:
    """Load training images; in this process, so that one core does all the work."""
    return DataLoader(Images(images), batch_size, shuffle=True, drop_last=True)


def asr_loader(images: Sequence[Image.Image], batch_size: int = 8) -> DataLoader:
    """Load training images of ASR-Net."""
    return DataLoader(AnomalyImages(images), batch_size, shuffle=True, drop_last=True)


def train_step(network: AE, optimizer: torch.optim.Optimizer, images: torch.Tensor) -> None:
    """Train one autoencoder on (B, 1, H, W) images."""
    loss = F.mse_loss(network(images), images)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def discrepancies(
    ndm: Sequence[nn.Module], udm: Sequence[nn.Module], images: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the (B, 2, H, W) inter and intra maps, and the NDM's mean reconstruction."""
    first = torch.stack([network(images) for network in udm])
    second = torch.stack([network(images) for network in ndm])
    mean = second.mean(dim=0)
    return torch.cat([(first.mean(dim=0) - mean).abs(), second.std(dim=0)], dim=1), mean


def asr_step(
    ndm: Sequence[nn.Module],
    udm: Sequence[nn.Module],
    asr: ASRNet,
    optimizer: torch.optim.Optimizer,
    images: torch.Tensor,
    masks: torch.Tensor,
) -> None:
    """Train ASR-Net on (B, 1, H, W) images and (B, H, W) masks; the ensembles have no gradients."""
    probability = asr(discrepancies(ndm, udm, images)[0]).softmax(dim=1)
    one_hot = F.one_hot(masks, 2).permute(0, 3, 1, 2).float().clamp(1e-5, 1 - 1e-5)
    target = (one_hot * probability).sum(dim=1) + 1e-5
    loss = (-((1 - target) ** 2) * target.log()).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@torch.no_grad()
def score(
    ndm: Sequence[nn.Module], udm: Sequence[nn.Module], asr: ASRNet | None, image: torch.Tensor
) -> tuple[float, ...]:
    """Score one (1, H, W) image: inter, intra, rec and, with ASR-Net, r_dual."""
    batch = image[None]
    maps, mean = discrepancies(ndm, udm, batch)
    rec = (batch - mean).square().mean().item()
    scores = (maps[:, 0].mean().item(), maps[:, 1].mean().item(), rec)
    return scores if asr is None else (*scores, asr(maps).softmax(dim=1)[:, 1].mean().item())
