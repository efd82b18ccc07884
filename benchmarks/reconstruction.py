"""Single autoencoders trained on known normals alone, and how each scores an image."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from measured import Method, Score, Settings
from torch.nn import functional as F

from monai_ddad.data import normalise
from monai_ddad.machine import keep_freed_memory
from monai_ddad.networks import AE, AEU, MemAE
from monai_ddad.networks.losses import mean_squared_error
from monai_ddad.networks.scores import image_scores, mean_variance, rec_map, ssim_map
from monai_ddad.placement import autocast, place
from monai_ddad.seeding import derive_seed, epoch_order
from monai_ddad.training.members import Member

__all__ = ["NETWORKS", "DenoisingAE", "SSIMAE", "coarse_noise", "train"]

STREAM = 1000  # of seeds, none of the package's
CELLS = 16  # of the noise along a side
DEVIATION = 0.4  # of the noise; .2 of the range of values

ScoreMap = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # images, outputs -> (B, M, H, W)


class SSIMAE(AE):
    """Autoencoder trained to be alike in structure, by 1 - SSIM in windows of 7 x 7.

    Source: Bergmann et al., Improving Unsupervised Defect Segmentation by Applying Structural Similarity to
    Autoencoders, VISAPP 2019; the network and the window are those of this package.
    """

    def training_loss(self, image: torch.Tensor) -> torch.Tensor:
        """Compute the scalar loss on a (B, C, H, W) batch."""
        return structure(image, self(image).to(image.dtype)).mean()  # out of autocast's half precision


class DenoisingAE(AE):
    """Autoencoder trained to take coarse noise away.

    Source: Kascenas et al., Denoising Autoencoders for Unsupervised Anomaly Detection in Brain MRI, MIDL 2022; they use
    a U-Net, this is the autoencoder of this package.
    """

    def training_loss(self, image: torch.Tensor) -> torch.Tensor:
        """Compute the scalar loss on a (B, C, H, W) batch; the noise is drawn from PyTorch's default generator."""
        return mean_squared_error(self(image + coarse_noise(image)), image)


def coarse_noise(image: torch.Tensor) -> torch.Tensor:
    """Draw noise of 16 x 16 cells, enlarged smoothly and moved round by chance.

    Args:
        image: (B, C, H, W) float; its shape and device count.

    Returns:
        (B, C, H, W) of mean 0.
    """
    cells = DEVIATION * torch.randn(*image.shape[:2], CELLS, CELLS, device=image.device)
    noise = F.interpolate(cells, size=image.shape[-2:], mode="bilinear", align_corners=False)
    rows, columns = (int(torch.randint(side, (1,))) for side in image.shape[-2:])
    return noise.roll((rows, columns), dims=(2, 3))


def squared(image: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """Square the error."""
    return rec_map(image, output[None])


def weighted(image: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """Square the error, in units of the predicted variance."""
    mean, log_variance = output.chunk(2, dim=1)
    return rec_map(image, mean[None]) / mean_variance(log_variance[None])


def structure(image: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """Compare by structure: 1 - SSIM."""
    return ssim_map(output[None], image[None])


def absolute(image: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """Take the absolute error."""
    return (image - output).abs()


def train(make: Callable[..., AE], known: torch.Tensor, settings: Settings) -> AE:
    """Train a network as a member of DDAD's ensembles is trained.

    Args:
        make: class of the network.
        known: (N, C, H, W) uint8 known normals.
        settings: how to train.

    Returns:
        the network in evaluation mode; the weights depend on the images and settings alone.
    """
    keep_freed_memory()
    torch.manual_seed(derive_seed(settings.seed, STREAM))
    sizes = {"latent_size": settings.latent_size, "width": settings.width, "hidden_size": settings.hidden_size}
    network = place(make(in_channels=known.shape[1], image_size=known.shape[-1], **sizes), "cpu")
    adam = partial(torch.optim.Adam, lr=settings.learning_rate, betas=(0.5, 0.999), fused=True)
    member = Member(network, adam, known, autocast(torch.device("cpu"), settings.precision))
    for epoch in range(settings.epochs):
        for positions in epoch_order(len(known), settings.batch_size, derive_seed(settings.seed, STREAM, epoch)):
            member.step(positions)
    return network.eval()


def fit(
    known: torch.Tensor, pool: torch.Tensor, settings: Settings, *, make: Callable[..., AE], score_map: ScoreMap
) -> Score:
    """Train a network on the known normals; its score is the mean of a map."""
    network = train(make, known, settings)

    @torch.inference_mode()
    def score(images: torch.Tensor) -> np.ndarray:
        values = normalise(images)
        return image_scores(score_map(values, network(values))).mean(dim=1).numpy()

    return score


NETWORKS = {
    "AE": Method(partial(fit, make=AE, score_map=squared)),
    "MemAE": Method(partial(fit, make=MemAE, score_map=squared)),
    "AE-U": Method(partial(fit, make=AEU, score_map=weighted)),
    "AE, SSIM loss": Method(partial(fit, make=SSIMAE, score_map=structure)),
    "AE, denoising": Method(partial(fit, make=DenoisingAE, score_map=absolute)),
}
