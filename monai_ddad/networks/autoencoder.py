"""Reconstruction networks: the plain autoencoder and the one with predicted uncertainty."""

from __future__ import annotations

import torch
from torch import nn

from monai_ddad.networks.losses import gaussian_nll, mean_squared_error

__all__ = ["AE", "AEU"]


def _down(in_channels: int, out_channels: int) -> list[nn.Module]:
    convolution = nn.Conv2d(in_channels, out_channels, kernel_size=4, stride=2, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]


def _up(in_channels: int, out_channels: int) -> list[nn.Module]:
    convolution = nn.ConvTranspose2d(in_channels, out_channels, kernel_size=4, stride=2, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]


class AE(nn.Module):
    """Convolutional autoencoder with a narrow linear bottleneck.

    Four stride-2 convolutions, two linear layers to the latent code, and the mirror image back. State-dict names are
    those of the authors' code.

    Args:
        in_channels: channels of the image, 1 for grey and 3 for RGB.
        image_size: side of the square image in pixels, a multiple of 16.
        latent_size: length of the latent code.
        width: channels of the first convolution.
        hidden_size: units of the hidden linear layers.
        out_channels: channels of the output, ``in_channels`` unless a subclass needs more.

    Raises:
        ValueError: ``image_size`` is not a positive multiple of 16.

    Source: MedIA 2023, section 3.2; method.md section 2.

    Example:
        >>> AE()(torch.zeros(2, 1, 64, 64)).shape
        torch.Size([2, 1, 64, 64])
    """

    def __init__(
        self,
        in_channels: int = 1,
        image_size: int = 64,
        latent_size: int = 16,
        width: int = 16,
        hidden_size: int = 2048,
        out_channels: int | None = None,
    ) -> None:
        super().__init__()
        if image_size < 16 or image_size % 16:
            raise ValueError(f"image_size must be a positive multiple of 16, got {image_size}.")
        self.feature_side = image_size // 16
        self.feature_channels = 4 * width
        features = self.feature_channels * self.feature_side**2
        channels = [in_channels, width, 2 * width, 4 * width, 4 * width]
        self.encoder = nn.Sequential(*(layer for i in range(4) for layer in _down(channels[i], channels[i + 1])))
        self.linear_enc = nn.Sequential(
            nn.Linear(features, hidden_size),
            nn.BatchNorm1d(hidden_size),
            nn.ReLU(inplace=True),
            nn.Linear(hidden_size, latent_size),
        )
        self.linear_dec = nn.Sequential(
            nn.Linear(latent_size, hidden_size),
            nn.BatchNorm1d(hidden_size),
            nn.ReLU(inplace=True),
            nn.Linear(hidden_size, features),
        )
        self.decoder = nn.Sequential(
            *_up(4 * width, 4 * width),
            *_up(4 * width, 2 * width),
            *_up(2 * width, width),
            nn.ConvTranspose2d(width, out_channels or in_channels, kernel_size=4, stride=2, padding=1, bias=False),
        )

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """Encode (B, C, H, W) images to (B, latent_size) codes."""
        return self.linear_enc(self.encoder(image).flatten(1))

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        """Decode (B, latent_size) codes to (B, out_channels, H, W) images."""
        features = self.linear_dec(latent)
        return self.decoder(features.view(-1, self.feature_channels, self.feature_side, self.feature_side))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Reconstruct the image.

        Args:
            image: (B, C, H, W) float in [-1, 1].

        Returns:
            (B, out_channels, H, W), unbounded.
        """
        return self.reconstruct(self.encode(image))

    def reconstruct(self, latent: torch.Tensor) -> torch.Tensor:
        """Turn (B, latent_size) codes of :meth:`encode` into the (B, out_channels, H, W) output."""
        return self.decode(latent)

    @torch.jit.unused
    def training_loss(self, image: torch.Tensor) -> torch.Tensor:
        """Compute the scalar loss that this network is trained with on a (B, C, H, W) batch."""
        return mean_squared_error(self(image), image)


class AEU(AE):
    """Autoencoder that also predicts a log-variance for each pixel (AE-U).

    The output holds the mean in the first ``in_channels`` channels and the log-variance in the last ones.

    Args:
        in_channels, image_size, latent_size, width, hidden_size: as in :class:`AE`.

    Source: MedIA 2023, section 3.3; method.md section 2.

    Example:
        >>> mean, log_variance = AEU()(torch.zeros(2, 1, 64, 64)).chunk(2, dim=1)
        >>> mean.shape, log_variance.shape
        (torch.Size([2, 1, 64, 64]), torch.Size([2, 1, 64, 64]))
    """

    def __init__(
        self,
        in_channels: int = 1,
        image_size: int = 64,
        latent_size: int = 16,
        width: int = 16,
        hidden_size: int = 2048,
    ) -> None:
        super().__init__(in_channels, image_size, latent_size, width, hidden_size, out_channels=2 * in_channels)

    @torch.jit.unused
    def training_loss(self, image: torch.Tensor) -> torch.Tensor:
        """Compute the scalar loss that this network is trained with on a (B, C, H, W) batch."""
        mean, log_variance = self(image).to(image.dtype).chunk(2, dim=1)  # out of autocast's half precision
        return gaussian_nll(mean, log_variance, image)
