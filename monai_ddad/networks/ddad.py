"""DDADNet: the two ensembles and ASR-Net, from an image to its maps."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import nn

from monai_ddad.networks.autoencoder import AE, AEU
from monai_ddad.networks.ensemble import Ensemble
from monai_ddad.networks.memory import MemAE
from monai_ddad.networks.plus import PlusScores, plus_features
from monai_ddad.networks.refine import ASRNet
from monai_ddad.networks.scores import field_of_view, inter_map, intra_map, mean_variance, rec_map, ssim_map, z_map
from monai_ddad.networks.settings import REFINE_INPUTS, Settings
from monai_ddad.seeding import derive_seed

__all__ = ["BACKBONES", "DDADNet", "Discrepancies"]

BACKBONES: dict[str, type[AE]] = {"AE": AE, "AE-U": AEU, "MemAE": MemAE}


class Discrepancies(NamedTuple):
    """What a network finds in images.

    Attributes:
        maps: (B, M, H, W), one channel a name in the network's ``map_names``.
        features: (B, F), what scores beyond the means of the maps are made of; F may be 0.
    """

    maps: torch.Tensor
    features: torch.Tensor


class DDADNet(nn.Module):
    """Dual-distribution discrepancy network with self-supervised refinement.

    Holds the normative distribution module ``ndm`` and the unknown distribution module ``udm``, each an ensemble of
    ``members`` autoencoders, and the refinement network ``asr``.

    Args:
        seed: seed of the initial weights, a stream of its own for each member; None draws them from PyTorch's
            global generator.
        ensembles: NDM and UDM of another network, to be shared with it; None makes new ones.
        **settings: of :class:`Settings` by name.

    Attributes:
        settings: all of them.
        map_names: names of the maps: ``r_dual`` or ``r_intra`` first (if refined), then ``inter``, ``intra`` (if
            defined) and ``rec``, and ``z_<map>`` (if asked for).

    Raises:
        ValueError: see :class:`Settings`.

    Source: MedIA 2023, sections 3.2 to 3.4; method.md sections 2 to 4.

    Example:
        >>> net = DDADNet(image_size=32, width=2, hidden_size=8).eval()
        >>> net.map_names
        ['r_dual', 'inter', 'intra', 'rec']
        >>> net(torch.zeros(5, 1, 32, 32)).maps.shape
        torch.Size([5, 4, 32, 32])
    """

    z_mean: torch.Tensor
    z_deviation: torch.Tensor

    def __init__(
        self, seed: int | None = None, ensembles: tuple[Ensemble, Ensemble] | None = None, **settings: Any
    ) -> None:
        super().__init__()
        chosen = self.settings = Settings(**settings)
        self.map_names: list[str] = chosen.map_names
        self.in_channels = chosen.in_channels
        self.image_size = chosen.image_size
        self.predicts_variance = chosen.backbone == "AE-U"
        self.several = chosen.members > 1
        self.masked = chosen.masked
        self.plus = chosen.scores == "plus"
        if ensembles is None:
            kind, number = BACKBONES[chosen.backbone], range(chosen.members)
            ensembles = Ensemble(kind(**chosen.member) for _ in number), Ensemble(kind(**chosen.member) for _ in number)
        self.ndm, self.udm = ensembles
        inputs = REFINE_INPUTS[chosen.refine]
        self.asr = ASRNet(len(inputs)) if inputs else None
        self.refine_channels: list[int] = [chosen.discrepancies.index(name) for name in inputs]
        self.z_channel = -1 if chosen.z_map == "none" else chosen.discrepancies.index(chosen.z_map)
        size = (int(self.z_channel >= 0), self.image_size, self.image_size)
        self.register_buffer("z_mean", torch.zeros(size))
        self.register_buffer("z_deviation", torch.ones(size))
        if seed is not None:
            self._initialise(seed)

    def _initialise(self, seed: int) -> None:
        """Draw every member's initial weights anew, each from a stream of its own."""
        modules: list[Iterable[nn.Module]] = [
            self.ndm.members,
            self.udm.members,
            [] if self.asr is None else [self.asr],
        ]
        with torch.random.fork_rng(devices=[]):
            for index, networks in enumerate(modules):
                for k, network in enumerate(networks):
                    torch.manual_seed(derive_seed(seed, index, k))
                    for layer in network.modules():
                        if callable(reset := getattr(layer, "reset_parameters", None)):
                            reset()

    @property
    @torch.jit.unused
    def loaded(self) -> bool:
        """Whether the ensembles' weights were trained or loaded."""
        return self.ndm.loaded and self.udm.loaded

    @torch.jit.unused
    def make_head(self) -> PlusScores | None:
        """Return what makes scores of the features; None where they are the means of the maps alone."""
        settings = self.settings
        return PlusScores(settings.members * settings.latent_size) if self.plus else None

    @torch.jit.unused
    def mark_loaded(self) -> None:
        """Note that the ensembles' weights were trained or loaded."""
        self.ndm.loaded = self.udm.loaded = True

    @torch.jit.unused
    def without_refinement(self, masked: bool | None = None) -> "DDADNet":
        """Return a network of the same ensembles, which it shares, that computes nothing but their maps.

        Args:
            masked: see :class:`Settings`; None takes this network's own.
        """
        mask = self.masked if masked is None else masked
        settings = replace(self.settings, refine="none", z_map="none", scores="paper", masked=mask)
        return DDADNet(ensembles=(self.ndm, self.udm), **settings.used()).train(self.training)

    def discrepancy_maps(self, image: torch.Tensor) -> torch.Tensor:
        """Compute the maps before refinement.

        Args:
            image: (B, C, H, W) float in [-1, 1], H = W = ``image_size``.

        Returns:
            (B, M, H, W), at least 0: inter, intra (if defined) and rec, each averaged over the image's channels.
        """
        ndm, udm, deviation = self._reconstruct(image, self.udm.encode(image))
        return self._compare(image, ndm, udm, deviation)

    def _reconstruct(
        self, image: torch.Tensor, codes: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Reconstruct by the NDM, and by the UDM from its codes; with the deviation that AE-U predicts."""
        ndm = self.ndm(image).to(image.dtype)  # out of autocast's half precision
        udm = self.udm.reconstruct(codes).to(image.dtype)
        if not self.predicts_variance:
            return ndm, udm, None
        ndm, log_variances = ndm.chunk(2, dim=2)
        return ndm, udm.chunk(2, dim=2)[0], mean_variance(log_variances).sqrt()

    def _compare(
        self, image: torch.Tensor, ndm: torch.Tensor, udm: torch.Tensor, deviation: torch.Tensor | None
    ) -> torch.Tensor:
        maps = [inter_map(udm, ndm)]
        if self.several:
            maps.append(intra_map(ndm))
        maps.append(rec_map(image, ndm))
        if deviation is not None:
            maps = [values / (deviation.square() if i == len(maps) - 1 else deviation) for i, values in enumerate(maps)]
        return torch.stack(maps, dim=1).mean(dim=2)

    def refine_logits(self, maps: torch.Tensor) -> torch.Tensor:
        """Apply ASR-Net to the (B, M, H, W) discrepancy maps; return (B, 2, H, W) logits of (normal, anomalous)."""
        if self.asr is None:
            raise ValueError("this model has no ASR-Net (refine is none).")
        return self.asr(maps[:, self.refine_channels])

    def forward(self, image: torch.Tensor) -> Discrepancies:
        """Compute all anomaly maps, and what scores beyond their means are made of.

        Args:
            image: (B, C, H, W) float in [-1, 1], H = W = ``image_size``.

        Returns:
            maps: refined ones lie in [0, 1], the others are at least 0; all are 0 where :meth:`field` is.
            features: see :func:`~monai_ddad.networks.plus.plus_features`; F is 0 for the paper's scores.
        """
        codes = self.udm.encode(image)
        ndm, udm, deviation = self._reconstruct(image, codes)
        maps = self._compare(image, ndm, udm, deviation)
        field = self.field(image)
        features = image.flatten(1)[:, :0]
        if self.plus:
            three = torch.cat([maps[:, -1:], maps[:, :1], ssim_map(udm, ndm)], dim=1)
            seen = image
            if deviation is not None:
                seen, ndm, udm = image / deviation, ndm / deviation, udm / deviation
            latent = codes.to(image.dtype).transpose(0, 1).flatten(1)
            everywhere = torch.ones_like(image[:, :1])
            features = plus_features(seen, udm, ndm, latent, three, everywhere if field is None else field)
        return Discrepancies(self._refined(maps, field), features)

    def _refined(self, maps: torch.Tensor, field: torch.Tensor | None) -> torch.Tensor:
        """Add what is made of the (B, M, H, W) discrepancy maps, and blacken them outside the field."""
        parts = [maps]
        if self.asr is not None:
            parts = [self.refine_logits(maps).softmax(dim=1)[:, 1:], maps]
        if self.z_channel >= 0:
            parts.append(z_map(maps[:, self.z_channel : self.z_channel + 1], self.z_mean, self.z_deviation))
        maps = torch.cat(parts, dim=1)
        return maps if field is None else maps * field

    @property
    @torch.jit.unused
    def image_shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of an image."""
        return self.in_channels, self.image_size, self.image_size

    def field(self, image: torch.Tensor) -> torch.Tensor | None:
        """Return which pixels of (B, C, H, W) images count: (B, 1, H, W) of 0 and 1; None if all do."""
        return field_of_view(image) if self.masked else None
