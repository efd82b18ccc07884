"""Scores beyond the paper, from the same two ensembles."""

from collections.abc import Sequence

import torch
from torch import nn

from monai_ddad.networks.distributions import Discriminant, Reference
from monai_ddad.networks.scores import cell_logs, f_score, image_scores, ratio_score

__all__ = ["MIN_GROUPS", "PLUS_NAMES", "PlusScores", "folds", "lacking", "plus_features", "unlearnable"]

PLUS_NAMES = ("ratio", "f", "ssim", "maha_rec", "maha_inter", "pu_latent", "pu_map", "ddad_plus")
POOL_NAMES = ("pu_latent", "pu_map")  # which need unlabelled images, too
PARTS = 3  # of ddad_plus: maha_rec, ratio, pu_latent
CELLS = 8  # along a side
FOLDS = 5
MIN_GROUPS = 20  # of images; fewer tell nothing of a distribution


def unlearnable(known: int, pool: int) -> dict[str, str]:
    """Tell which scores cannot be learnt from so few images, and why.

    Args:
        known, pool: groups (patients, volumes, pictures that are neither) of known normals and of unlabelled images.

    Returns:
        what is lacking by the name of the score.

    Example:
        >>> unlearnable(20, 20), list(unlearnable(20, 5))
        ({}, ['pu_latent', 'pu_map'])
        >>> unlearnable(14, 20)["ddad_plus"]
        'it takes 20 known normals to learn from, each patient or volume counted once, and 14 are left for it'
    """
    return lacking(known, pool, PLUS_NAMES[3:], POOL_NAMES)


def lacking(known: int, pool: int, learnt: Sequence[str], of_pool: Sequence[str]) -> dict[str, str]:
    """Return why scores cannot be learnt from so few groups, by name.

    Args:
        known, pool: see :func:`unlearnable`.
        learnt: scores that known normals teach.
        of_pool: scores that the unlabelled images teach, too.
    """
    for number, kind, names in ((known, "known normals", learnt), (pool, "unlabelled images", of_pool)):
        if number < MIN_GROUPS:
            reason = (
                f"it takes {MIN_GROUPS} {kind} to learn from, each patient or volume counted once, and {number} are "
                "left for it"
            )
            return dict.fromkeys(names, reason)
    return {}


def plus_features(
    image: torch.Tensor,
    udm: torch.Tensor,
    ndm: torch.Tensor,
    latent: torch.Tensor,
    maps: torch.Tensor,
    field: torch.Tensor,
    cells: int = CELLS,
) -> torch.Tensor:
    """Describe images by all that the scores of :class:`PlusScores` are made of.

    Args:
        image: (B, C, H, W) float in [-1, 1]; of AE-U this, ``udm`` and ``ndm`` in units of the predicted deviation.
        udm: (K, B, C, H, W) reconstructions of the UDM's members, K at least 2.
        ndm: (K', B, C, H, W) reconstructions of the NDM's members, K' at least 2.
        latent: (B, L) codes of the UDM's members, one behind the other.
        maps: (B, 3, H, W), rec, inter and :func:`~.scores.ssim_map`.
        field: (B, 1, H, W), 1 where a pixel counts and 0 where not.
        cells: along a side.

    Returns:
        (B, 131 + L).
    """
    ratio, f = ratio_score(image, udm, ndm, field), f_score(udm, ndm, field)
    ssim = image_scores(maps[:, 2:], field)
    logs = cell_logs(maps[:, :2], field, cells).flatten(1)
    return torch.cat([ratio[:, None], f[:, None], ssim, logs, latent], dim=1)


class PlusScores(nn.Module):
    """Scores beyond the paper, which :meth:`fit` teaches what known normals and unlabelled images look like.

    By name, in the order of :data:`PLUS_NAMES`:

    - ``ratio``, ``f``, ``ssim``: see :func:`~.scores.ratio_score`, :func:`~.scores.f_score` and
      :func:`~.scores.ssim_map`, of which it is the mean;
    - ``maha_rec``, ``maha_inter``: Mahalanobis distance of the map's :func:`~.scores.cell_logs` to those of
      the known normals, see :class:`~.distributions.Reference`; the former needs no unlabelled image;
    - ``pu_latent``, ``pu_map``: Fisher's discriminant between known normals and unlabelled images, on the latent codes
      of the UDM's members and on the cells of inter, see :class:`~.distributions.Discriminant`;
    - ``ddad_plus``: one score of each kind, log ``maha_rec`` (one-class) + w (``ratio`` (dual-distribution) +
      ``pu_latent`` (positive-unlabelled)), each in standard deviations from its mean over the known normals. The
      weight w is by how many of them the unlabelled images exceed the known normals in ``pu_latent``, from 0 to 1: a
      pool that holds nothing new has nothing to say.

    Args:
        latents: numbers in the latent codes of all of the UDM's members together.

    Attributes:
        means, deviations: (3,) of the parts of ``ddad_plus`` over the known normals.
        weight: () w. All are found by cross-fitting, each fifth of the groups (patients, volumes) scored by what the
            other four teach.

    Example:
        >>> plus = PlusScores(latents=6)
        >>> image, ensemble, code = torch.zeros(5, 1, 32, 32), torch.zeros(3, 5, 1, 32, 32), torch.zeros(5, 6)
        >>> features = plus_features(image, ensemble, ensemble, code, torch.zeros(5, 3, 32, 32), torch.ones_like(image))
        >>> plus(features).shape
        torch.Size([5, 8])
    """

    means: torch.Tensor
    deviations: torch.Tensor
    weight: torch.Tensor

    def __init__(self, latents: int) -> None:
        super().__init__()
        self.names = PLUS_NAMES
        self.of_pool = POOL_NAMES
        self.sizes: list[int] = [1, 1, 1, CELLS**2, CELLS**2, latents]
        self.maha_rec = Reference(CELLS**2)
        self.maha_inter = Reference(CELLS**2)
        self.pu_latent = Discriminant(latents)
        self.pu_map = Discriminant(CELLS**2)
        self.register_buffer("means", torch.zeros(PARTS))
        self.register_buffer("deviations", torch.ones(PARTS))
        self.register_buffer("weight", torch.zeros(()))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Score images: (B, F) of :func:`plus_features` -> (B, 8), higher is more abnormal."""
        ratio, f, ssim, _, inter, _ = features.split(self.sizes, dim=1)
        maha_inter, pu_map = self.maha_inter.by_elements(inter), self.pu_map(inter)
        parts = self.parts(features)
        units = (parts - self.means) / self.deviations
        plus = units[:, 0] + self.weight * (units[:, 1] + units[:, 2])
        maha_rec, pu_latent = parts[:, 0].exp(), parts[:, 2]
        found = [ratio[:, 0], f[:, 0], ssim[:, 0], maha_rec, maha_inter, pu_latent, pu_map, plus]
        return torch.stack(found, dim=1)

    def parts(self, features: torch.Tensor) -> torch.Tensor:
        """Compute the parts of ``ddad_plus``: (B, F) features -> (B, 3), log maha_rec, ratio and pu_latent."""
        ratio, _, _, rec, _, latent = features.split(self.sizes, dim=1)
        maha_rec = self.maha_rec.by_elements(rec).clamp(min=1e-6)
        return torch.stack([maha_rec.log(), ratio[:, 0], self.pu_latent(latent)], dim=1)

    @staticmethod
    def unlearnable(known: int, pool: int) -> dict[str, str]:
        """Tell which scores cannot be learnt; see :func:`unlearnable`."""
        return unlearnable(known, pool)

    @torch.jit.unused
    def fit(
        self,
        known: torch.Tensor,
        pool: torch.Tensor,
        known_groups: Sequence[int] | None = None,
        pool_groups: Sequence[int] | None = None,
    ) -> None:
        """Learn from the features of the images that the ensembles were trained on.

        With fewer than :data:`MIN_GROUPS` groups of known normals nothing is fitted, with fewer of unlabelled images no
        discriminant is. What is not fitted is the same for all images, and is to be left out: see :func:`unlearnable`.

        Args:
            known: (N, F) features of the known normals.
            pool: (N', F) features of the unlabelled images.
            known_groups, pool_groups: (N,), (N',) number of the group, such as a patient, that each image is of; None
                takes each image for a group of its own.
        """
        known, pool = known.to(self.means.device), pool.to(self.means.device)
        self.load_state_dict(PlusScores(self.sizes[-1]).state_dict())
        fold, groups = folds(range(len(known)) if known_groups is None else known_groups)
        other_fold, other_groups = folds(range(len(pool)) if pool_groups is None else pool_groups)
        if groups < MIN_GROUPS:
            return
        if other_groups < MIN_GROUPS:
            pool, other_fold = pool[:0], other_fold[:0]
        parts, others = [], []
        for number in range(FOLDS):
            self._learn(known[fold != number], pool[other_fold != number])
            parts.append(self.parts(known[fold == number]))
            others.append(self.parts(pool[other_fold == number]))
        self._learn(known, pool)
        self.means.copy_(torch.cat(parts).mean(dim=0))
        self.deviations.copy_(torch.cat(parts).std(dim=0).clamp(min=1e-6))
        if len(pool):
            shift = torch.cat(others).mean(dim=0) - self.means
            self.weight.copy_((shift / self.deviations)[2].clamp(0, 1))

    def _learn(self, known: torch.Tensor, pool: torch.Tensor) -> None:
        *_, rec, inter, latent = known.split(self.sizes, dim=1)
        self.maha_rec.fit(rec)
        self.maha_inter.fit(inter)
        if len(pool):
            *_, other_inter, other_latent = pool.split(self.sizes, dim=1)
            self.pu_latent.fit(latent, other_latent)
            self.pu_map.fit(inter, other_inter)


def folds(groups: Sequence[int]) -> tuple[torch.Tensor, int]:
    """Deal groups to folds in turn: (N,) the fold of each image, and how many groups there are."""
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    return torch.tensor([numbers[group] % FOLDS for group in groups], dtype=torch.long), len(numbers)
