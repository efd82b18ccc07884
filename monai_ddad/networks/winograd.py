"""ASR-Net with a quarter of the products, for inference on a CPU."""

import torch
from torch import nn
from torch.nn import functional as F

from monai_ddad.networks.refine import ASRNet

__all__ = ["WinogradASRNet"]

OUT, IN = 4, 6  # side of a tile after and before the convolution
CACHE = 5_000_000  # bytes of tiles at a time, so that they stay near the core

INPUT = [
    [4.0, 0.0, -5.0, 0.0, 1.0, 0.0],
    [0.0, -4.0, -4.0, 1.0, 1.0, 0.0],
    [0.0, 4.0, -4.0, -1.0, 1.0, 0.0],
    [0.0, -2.0, -1.0, 2.0, 1.0, 0.0],
    [0.0, 2.0, -1.0, -2.0, 1.0, 0.0],
    [0.0, 4.0, 0.0, -5.0, 0.0, 1.0],
]
FILTER = [
    [1 / 4, 0.0, 0.0],
    [-1 / 6, -1 / 6, -1 / 6],
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
    [0.0, 0.0, 1.0],
]
OUTPUT = [
    [1.0, 1.0, 1.0, 1.0, 1.0, 0.0],
    [0.0, 1.0, -1.0, 2.0, -2.0, 0.0],
    [0.0, 1.0, 1.0, 4.0, 4.0, 0.0],
    [0.0, 1.0, -1.0, 8.0, -8.0, 1.0],
]


class WinogradASRNet(nn.Module):
    """Compute what a trained ASR-Net computes, its middle convolution by tiles of 4 x 4 pixels.

    That convolution has nearly all the products of ASR-Net. Tiles of 6 x 6 pixels of its input and its 3 x 3 filters
    are transformed so that 36 products a channel give 16 pixels instead of 144. The first convolution is computed where
    the tiles need it, the last one as nine products for each pixel that are then added at their places.

    Args:
        network: an ASR-Net whose batch normalisations are folded, see :func:`monai_ddad.networks.fold`.

    Source: Lavin, Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016, F(4 x 4, 3 x 3).

    Example:
        >>> from monai_ddad.networks import fold
        >>> network = ASRNet(2).eval()
        >>> maps = torch.rand(3, 2, 64, 64)
        >>> torch.allclose(WinogradASRNet(fold(network))(maps), network(maps), atol=1e-5)
        True
    """

    enter: torch.Tensor
    input: torch.Tensor
    filters: torch.Tensor
    output: torch.Tensor
    middle_bias: torch.Tensor
    leave: torch.Tensor
    last_bias: torch.Tensor

    def __init__(self, network: ASRNet) -> None:
        super().__init__()
        first, middle, last = (layer for layer in network.model if isinstance(layer, nn.Conv2d))
        self.width, self.step, self.tile, self.cache = middle.out_channels, OUT, IN, CACHE
        weights = {layer: layer.weight.detach().double() for layer in (first, middle, last)}
        biases = {layer: layer.bias.detach().double() for layer in weights if layer.bias is not None}
        side = torch.tensor(FILTER, dtype=torch.float64, device=first.weight.device)
        filters = torch.einsum("ai,bj,ocij->abco", side, side, weights[middle])
        enter = torch.cat([weights[first].flatten(1), biases[first][:, None]], dim=1).T
        leave = weights[last].flip(2, 3).transpose(0, 1).flatten(1)
        for name, value in {
            "enter": enter,  # (9 C + 1, width)
            "input": torch.kron(torch.tensor(INPUT), torch.tensor(INPUT)),  # (36, 36)
            "filters": filters.flatten(0, 1),  # (36, width, width)
            "output": torch.kron(torch.tensor(OUTPUT), torch.tensor(OUTPUT)),  # (16, 36)
            "middle_bias": biases[middle],
            "leave": leave,  # (width, 2 * 9)
            "last_bias": biases[last].view(-1, 1, 1),
        }.items():
            self.register_buffer(name, value.to(first.weight).contiguous())

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Classify each pixel.

        Args:
            maps: (B, C, H, W) raw discrepancy maps, H and W multiples of 4.

        Returns:
            (B, 2, H, W) float32 logits of (normal, anomalous).
        """
        pixels = maps.shape[2] * maps.shape[3]
        size = pixels * len(self.input) // len(self.output) * self.width * self.filters.element_size()
        parts: list[torch.Tensor] = []
        for part in maps.split(max(1, self.cache // size)):
            parts.append(self._classify(part))
        return torch.cat(parts)

    def _classify(self, maps: torch.Tensor) -> torch.Tensor:
        batch, _, height, width = maps.shape
        step, tile, products = self.step, self.tile, len(self.input)
        rows, columns = height // step, width // step
        inside = torch.ones(batch, 1, height, width, dtype=maps.dtype, device=maps.device)  # where there is a bias
        near = F.unfold(maps, 3, padding=1).view(batch, -1, height, width)
        near = F.pad(torch.cat([near, inside], dim=1).to(self.enter.dtype), [1, 1, 1, 1])
        tiles = near.unfold(2, tile, step).unfold(3, tile, step).permute(4, 5, 0, 2, 3, 1)
        hidden = (tiles.reshape(-1, self.enter.shape[0]) @ self.enter).relu_()
        hidden = (self.input @ hidden.view(products, -1)).view(products, -1, self.width)
        hidden = self.output @ torch.bmm(hidden, self.filters).view(products, -1)
        hidden = hidden.view(-1, self.width).add_(self.middle_bias).relu_()
        spread = (hidden @ self.leave).float().view(step, step, batch, rows, columns, -1)
        spread = spread.permute(2, 5, 3, 0, 4, 1).reshape(batch, -1, height * width)
        return F.fold(spread, (height, width), 3, padding=1) + self.last_bias.float()
