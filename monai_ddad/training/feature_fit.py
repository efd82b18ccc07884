"""Distributions and scores of features, fitted to what a store holds of the images of a training."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from monai_ddad.networks import DDADModel, DualGaussian, FeatureNet, Moments
from monai_ddad.networks.feature_scores import FeatureScores
from monai_ddad.networks.plus import FOLDS, MIN_GROUPS, folds
from monai_ddad.networks.scores import image_scores
from monai_ddad.training.feature_store import Features, FeatureStore

__all__ = ["OutOfFold", "TrainingFeatures", "fit_features"]

SMALL = ("pooled", "brightness", "layout", "detail")
LOOKED_AT = 200  # unlabelled images that maps are made of, at most


@dataclass
class Sums:
    """Moments of the cells of some images."""

    fine: Moments
    coarse: Moments

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.fine + other.fine, self.coarse + other.coarse)

    def __sub__(self, other: Sums) -> Sums:
        return Sums(self.fine - other.fine, self.coarse - other.coarse)


class TrainingFeatures:
    """The features of the images of a training, and what the images are.

    Args:
        store: holds them.
        keys: of the images, in their order.
        known: (N,) which are known normals.
        groups: (N,) number of the group, such as a patient, that each image is of.
        volumes: (N,) number of the volume that each is a slice of; None of a picture.

    Attributes:
        fold: (N,) which fifth each image is in; a group is in one, also where it has images of both kinds.
        numbers: groups of known normals, and of unlabelled images.
    """

    def __init__(
        self,
        store: FeatureStore,
        keys: Sequence[str],
        known: Sequence[bool],
        groups: Sequence[int],
        volumes: Sequence[int | None],
    ) -> None:
        self.store = store
        self.keys = list(keys)
        self.known = torch.tensor(known, dtype=torch.bool)
        self.groups = list(groups)
        self.volumes = list(volumes)
        sides = [[group for group, kind in zip(self.groups, known) if bool(kind) is side] for side in (True, False)]
        self.fold = folds([*sides[0], *self.groups])[0][len(sides[0]) :]  # evenly of known ones
        self.numbers = [len(set(side)) for side in sides]

    def read(self) -> Iterator[tuple[torch.Tensor, Features]]:
        """Yield the places of images, and their features, in bounded memory."""
        yield from self.store.read(self.keys)

    @property
    def sums(self) -> list[list[Sums]]:
        """The moments of known normals and of unlabelled images, of each fold."""
        return self._summary[0]

    @property
    def small(self) -> Features:
        """What each image has few numbers of, (N, ...) by name."""
        return self._summary[1]

    @functools.cached_property
    @torch.no_grad()
    def _summary(self) -> tuple[list[list[Sums]], Features]:
        network = self.store.network.cpu()
        none = Sums(Moments.none(network.size), Moments.none(network.size))
        found = [[none] * FOLDS for _ in range(2)]
        small: Features = {}
        for places, features in self.read():
            for name in SMALL:
                values = features[name]
                small.setdefault(name, values.new_empty(len(self.keys), *values.shape[1:]))[places] = values
            cells = network.cells(features["first"].float(), features["second"].float())
            parts = [_each(part.flatten(1, -2)) for part in cells]
            for row, place in enumerate(places.tolist()):
                sums = found[not self.known[place]]
                fold = int(self.fold[place])
                sums[fold] = sums[fold] + Sums(*(moments[row] for moments in parts))
        return found, small

    @property
    def totals(self) -> tuple[Sums, Sums]:
        """The moments of all known normals and of all unlabelled images."""
        known, pool = (sum(parts[1:], parts[0]) for parts in self.sums)
        return known, pool


def _each(cells: torch.Tensor) -> list[Moments]:
    """Return the moments of the cells of each of (B, G, F) images."""
    values = cells.double()
    products = values.transpose(1, 2) @ values
    return [Moments(cells.shape[1], *one) for one in zip(values.sum(dim=1), products)]


@dataclass
class OutOfFold:
    """What images of a training look like to distributions that were fitted without their fold.

    Attributes:
        scores: (N, S) all scores of :attr:`ScoreHead.every`, in the order of the images.
        mapped: (N,) of which images maps were made: of known normals, and of some unlabelled ones, evenly from the
            list; the scores that are means of maps are 0 for the others.
        maps: (1, M, 1, C) values of the maps of known normals.
    """

    scores: torch.Tensor
    mapped: torch.Tensor
    maps: torch.Tensor


@torch.no_grad()
def fit_features(model: DDADModel, features: TrainingFeatures, cells: int = 400_000) -> OutOfFold:
    """Teach a model's scores what known normals and unlabelled images look like.

    Images are cut into fifths, groups kept together, and each is scored by distributions that were fitted without its
    fifth: what units, weights and p-values come from.

    Args:
        model: of a :class:`FeatureNet`, whose distributions are fitted already.
        features: of the images of the training.
        cells: values of each map that are returned, about so many at most, of known normals evenly from the list.

    Returns:
        the scores of all images. With one group of known normals, which leaves none when it is left out, those by the
        whole fit.

    Source: cross-fitting as in Chernozhukov et al., Double/debiased machine learning, Econometrics Journal 21, 2018.
    """
    net, head = model.discrepancy.cpu(), model.head.plus
    assert isinstance(net, FeatureNet) and isinstance(head, FeatureScores)
    head.cpu().load_state_dict(net.make_head().state_dict())
    learnt, taught = (number >= MIN_GROUPS for number in features.numbers)
    known, pool = features.totals
    pooled = features.small["pooled"]
    nothing = Moments.none(net.size)
    if learnt:
        sides = pooled[features.known], pooled[~features.known][: None if taught else 0]
        head.learn(known.coarse, pool.coarse if taught else nothing, *sides)
    duals, heads = [net.dual] * FOLDS, [head] * FOLDS
    for fold, (own, other) in enumerate(zip(*features.sums)):
        if features.numbers[0] < 2:
            break
        left, others = known - own, pool - other
        duals[fold], heads[fold] = DualGaussian(net.size), net.make_head()
        duals[fold].fit(left.fine, others.fine)
        if learnt:
            heads[fold].slope.copy_(head.slope)
            kept = features.fold != fold
            sides = pooled[features.known & kept], pooled[~features.known & kept][: None if taught else 0]
            heads[fold].learn(left.coarse, others.coarse if taught else nothing, *sides)

    # in double precision, so that the number of threads does not change the rounding
    scorers = [(net.with_dual(dual).double(), copy.deepcopy(one).double()) for dual, one in zip(duals, heads)]
    every = max(1, round(int(features.known.sum()) * net.grids[0] ** 2 / cells))
    thinned = features.known & (features.known.cumsum(dim=0) % every == 0)
    step = -(-int((~features.known).sum()) // LOOKED_AT) or 1
    mapped = features.known | ((~features.known).cumsum(dim=0) % step == 0)
    means = torch.zeros(len(features.keys), len(net.map_names))
    parts = torch.zeros(len(features.keys), len(head.names) - 1)
    shown = []
    for places, part in features.read():
        fine, coarse = net.cells(part["first"].double(), part["second"].double())
        for fold in features.fold[places].unique().tolist():
            rows = features.fold[places] == fold
            own, one = scorers[fold]
            parts[places[rows]] = one.parts(coarse[rows], part["pooled"][rows].double()).float()
            rows &= mapped[places]
            field = part["field"][rows, None].double() if "field" in part else None
            judged = own.judge(fine[rows])
            means[places[rows]] = image_scores(net.enlarged(judged, field), field).float()
            maps = net.refined(judged)
            inside = torch.ones_like(maps[:, :1]) if field is None else F.adaptive_avg_pool2d(field, maps.shape[-1])
            counted = (inside[:, 0] >= 0.5) & thinned[places[rows], None, None]
            shown.append(maps.float().transpose(0, 1)[:, counted])
    if learnt:
        pool_parts = parts[~features.known] if taught else parts[:0]
        head.settle(parts[features.known], pool_parts, features.numbers)
    scores = torch.cat([means, parts, head.plus(parts)[:, None]], dim=1)
    return OutOfFold(scores, mapped, torch.cat(shown, dim=1)[None, :, None])
