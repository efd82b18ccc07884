"""Calibration of a trained model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from monai_ddad.data.resident import ResidentDataset
from monai_ddad.networks import DDADModel, DDADNet
from monai_ddad.networks.calibration import TIE
from monai_ddad.networks.scores import image_scores
from monai_ddad.placement import set_tf32
from monai_ddad.training.hold_out import find_groups
from monai_ddad.transforms.eight_bit import normalise

__all__ = ["calibrate", "leave_out_unlearnable"]

PIXELS = 2**21  # of a batch, at most
FLOOR = 0.05  # least standard deviation of a pixel of a z-map, of the map's average one


@torch.no_grad()
def calibrate(
    network: DDADModel, training: ResidentDataset, held_out: ResidentDataset, alpha: float = 0.05, images: int = 500
) -> None:
    """Fill the buffers by which a model compares an image with those of the training and with new normal ones.

    Scores beyond the paper learn from the images of the training, so that the calibration images are as new to them as
    any other.

    A score that so few images cannot teach, or that is the same for all of them or not finite, is left out of the
    model, see :meth:`monai_ddad.networks.DDADModel.leave_out`.

    Scores are calibrated on the images that no network has seen; where there are none, p-values stay 1. Means and
    deviations of a z-map come from the known normals that were trained on, so that the calibration images are as new to
    it as any other. Quantiles of the maps, which only colour them, come from the former, or the latter where there are
    none.

    Args:
        network: the trained model.
        training: the images that it was trained on.
        held_out: known normals that it was not trained on; may be empty.
        alpha: false-positive rate at which an image is flagged, in [0, 1].
        images: known normals at most that z-maps and quantiles are taken from, evenly from the list.

    Raises:
        ValueError: no score tells the images of the training apart.

    Source: Bates et al., Annals of Statistics 51, 2023, section 2 (split conformal p-values).
    """
    device = next(network.parameters()).device
    network.to(device).eval()  # also what no trainer has moved
    set_tf32(device, "float32")  # as the images to come are scored
    known = _thinned(training.subset([i for i, label in enumerate(training.labels) if label == 0]), images)
    net, plus = network.discrepancy, network.head.plus
    if isinstance(net, DDADNet) and net.z_channel >= 0:
        net.z_mean, net.z_deviation = torch.zeros_like(net.z_mean), torch.ones_like(net.z_deviation)
        maps = _maps(network, known)[:, -1:]  # as they are, with mean 0 and deviation 1
        deviation = maps.std(dim=0)
        net.z_mean = maps.mean(dim=0).to(device)
        net.z_deviation = (deviation + FLOOR * deviation.mean().clamp(min=1e-12)).to(device)
    means, features = _described(network, training)
    if plus is not None:
        groups = find_groups(training)
        sides = [[i for i, label in enumerate(training.labels) if (label == 0) is side] for side in (True, False)]
        (known_groups, pool_groups), (first, second) = [[groups[i] for i in side] for side in sides], sides
        plus.fit(features[first], features[second], known_groups, pool_groups)
    leave_out_unlearnable(network, training)
    parts = zip(means.split(64), features.split(64))
    tried = [network.head(*(values.to(device) for values in part)).cpu() for part in parts]
    network.leave_out(network.left_out | _dead(torch.cat(tried), network.score_names))
    network.protocol.fit(normalise(training.images))
    calibration = network.calibration
    calibration.alpha = torch.tensor(alpha, device=device)
    shown = _thinned(held_out, images) if len(held_out) else known
    calibration.fit_maps(_maps(network, shown), net.field(normalise(shown.images)))
    scores = [network.decide(batch).scores.cpu() for batch in _batches(network, held_out)]
    volumes = [None if part is None else position for position, part in zip(held_out.positions, held_out.slices)]
    joined = torch.cat(scores) if scores else torch.zeros(0, len(network.score_names))
    calibration.fit_scores(joined, find_groups(held_out), volumes)
    calibration.to(device)


def leave_out_unlearnable(network: DDADModel, training: ResidentDataset) -> None:
    """Leave the scores out that a model cannot learn from so few images of a training, and no others."""
    plus = network.head.plus
    groups = find_groups(training) if plus is not None else []
    known, pool = (
        len({group for group, label in zip(groups, training.labels) if (label == 0) is side}) for side in (True, False)
    )
    network.leave_out(plus.unlearnable(known, pool) if plus is not None else {})


def _dead(scores: torch.Tensor, names: Sequence[str]) -> dict[str, str]:
    """Return why (N, S) scores of different images tell nothing, by the names of those that do not."""
    reasons = {}
    for name, values in zip(names, scores.T):
        if not values.isfinite().all():
            reasons[name] = "it is not finite for some images of the training"
        elif values.max() - values.min() <= TIE * values.abs().max():
            reasons[name] = "it is the same for all images of the training"
    return reasons


def _thinned(dataset: ResidentDataset, images: int) -> ResidentDataset:
    """Return at most so many images, evenly from the list."""
    return dataset.subset(range(0, len(dataset), max(1, math.ceil(len(dataset) / images))))


def _batches(network: DDADModel, dataset: ResidentDataset) -> Iterator[torch.Tensor]:
    device = next(network.parameters()).device
    if len(dataset):
        size = max(4, min(64, PIXELS // dataset.images[0, 0].numel()))
        yield from (normalise(batch).to(device) for batch in dataset.images.split(size))


def _described(network: DDADModel, dataset: ResidentDataset) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the means of the maps, (N, M), and what further scores are made of, (N, F), of all images."""
    found = []
    for batch in _batches(network, dataset):
        maps, features = network.discrepancy(batch)
        found.append((image_scores(maps, network.discrepancy.field(batch)).cpu(), features.cpu()))
    means, features = (torch.cat(parts) for parts in zip(*found))
    return means, features


def _maps(network: DDADModel, dataset: ResidentDataset) -> torch.Tensor:
    return torch.cat([network(batch).cpu() for batch in _batches(network, dataset)])
