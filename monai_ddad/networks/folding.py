"""Folding batch normalisations into the layers before them, for faster inference."""

from __future__ import annotations

import copy
import itertools
from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

__all__ = ["fold"]

Network = TypeVar("Network", bound=nn.Module)


def fold(network: Network) -> Network:
    """Copy a network for inference: batch normalisations become part of the layer before them.

    In each :class:`torch.nn.Sequential` a convolution, transposed convolution or linear layer takes up the batch
    normalisation that follows it, whose place an identity takes. Weights of convolutions are laid out with their
    channels last.

    Args:
        network: any module, such as a :class:`~monai_ddad.networks.DDADNet` or one of its parts; it stays as it is.

    Returns:
        the copy, of the same class and with the same attributes, in evaluation mode and without gradients. Its outputs
        are those of the network in evaluation mode, up to rounding.

    Example:
        >>> layers = fold(nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2), nn.ReLU()))
        >>> layers[1], layers[0].bias.shape
        (Identity(), torch.Size([2]))
    """
    folded = copy.deepcopy(network).eval().requires_grad_(False)
    for layers in folded.modules():
        if isinstance(layers, nn.Sequential):
            for index, (layer, norm) in enumerate(itertools.pairwise(layers)):
                if isinstance(layer, nn.Linear) and isinstance(norm, nn.BatchNorm1d):
                    layers[index] = fuse_linear_bn_eval(layer, norm)
                elif isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)) and isinstance(norm, nn.BatchNorm2d):
                    layers[index] = fuse_conv_bn_eval(layer, norm, isinstance(layer, nn.ConvTranspose2d))
                else:
                    continue
                layers[index + 1] = nn.Identity()
    folded.requires_grad_(False)
    return folded.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
