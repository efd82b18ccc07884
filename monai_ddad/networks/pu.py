"""The small classifier between known normals and unlabelled images."""

import itertools

import torch
from torch import nn

__all__ = ["PU_NAME", "PUClassifier"]

PU_NAME = "pu_cnn"  # of the score: the mean logit of an ensemble


class PUClassifier(nn.Module):
    """Convolutional classifier: four stride-2 convolutions, the mean over all places, one linear layer.

    Args:
        in_channels: channels of the image, 1 for grey and 3 for RGB.
        width: channels of the first convolution.

    Source: no paper's; as wide as the encoder of method.md section 2.

    Example:
        >>> PUClassifier()(torch.zeros(5, 1, 64, 64)).shape
        torch.Size([5, 1])
    """

    def __init__(self, in_channels: int = 1, width: int = 16) -> None:
        super().__init__()
        channels = [in_channels, width, 2 * width, 4 * width, 4 * width]
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(channels):
            layers += [nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
        self.model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, 1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Classify images: (B, C, H, W) in [-1, 1] -> (B, 1) logits, higher is more abnormal."""
        return self.model(image)
