"""Calibration of a trained model."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence

import torch

from monai_ddad.data.resident import ResidentDataset
from monai_ddad.decision.decisions import doubt_refinement
from monai_ddad.networks import DDADModel, DDADNet, PlusScores
from monai_ddad.networks.calibration import TIE
from monai_ddad.networks.scores import image_scores
from monai_ddad.placement import set_tf32
from monai_ddad.training.feature_fit import TrainingFeatures, fit_features
from monai_ddad.training.hold_out import find_groups
from monai_ddad.transforms.eight_bit import normalise

__all__ = ["calibrate", "leave_out_unlearnable"]

logger = logging.getLogger(__name__)

PIXELS = 2**21  # of a batch, at most
FLOOR = 0.05  # least standard deviation of a pixel of a z-map, of the map's average one


@torch.no_grad()
def calibrate(
    network: DDADModel,
    training: ResidentDataset,
    held_out: ResidentDataset,
    alpha: float = 0.05,
    images: int = 500,
    features: TrainingFeatures | None = None,
) -> None:
    """Fill the buffers by which a model compares an image with those of the training and with new normal ones.

    Scores beyond the paper learn from the images of the training, so that the calibration images are as new to them as
    any other.

    A refined score that runs against the discrepancy on the unlabelled images does not decide.

    A score that so few images cannot teach, or that is the same for all of them or not finite, is left out of the
    model, see :meth:`monai_ddad.networks.DDADModel.leave_out`.

    Scores are calibrated on the images that no network has seen. Where there are none, a model of features is
    calibrated on the known normals of the training, each scored by a fit without its fifth of them, and p-values of
    other models stay 1. Means and deviations of a z-map come from the known normals that were trained on, so that the
    calibration images are as new to it as any other. Quantiles of the maps only colour them.

    Args:
        network: the trained model.
        training: the images that it was trained on.
        held_out: known normals that it was not trained on; may be empty.
        alpha: false-positive rate at which an image is flagged, in [0, 1].
        images: known normals at most that z-maps and quantiles are taken from, evenly from the list.
        features: those of the images of the training, for a model of features.

    Raises:
        ValueError: no score tells the images of the training apart.

    Source: Bates et al., Annals of Statistics 51, 2023, section 2 (split conformal p-values); Vovk, Cross-conformal
    predictors, Annals of Mathematics and Artificial Intelligence 74, 2015, after which one fit to all images, in place
    of the five, gives the score that is compared.
    """
    device = next(network.parameters()).device
    network.to(device).eval()  # also what no trainer has moved
    set_tf32(device, "float32")  # as the images to come are scored
    if features is not None:
        _fit_to_features(network, features, bool(len(held_out)))
        network.to(device)
    else:
        _fit_to_images(network, training, held_out, images)
    network.calibration.alpha = torch.tensor(alpha, device=device)
    if len(held_out):
        scores = torch.cat([network.decide(batch).scores.cpu() for batch in _batches(network, held_out)])
        network.calibration.fit_scores(scores, find_groups(held_out), held_out.volumes)
    network.calibration.to(device)


def _fit_to_features(network: DDADModel, features: TrainingFeatures, held_out: bool) -> None:
    """Teach a model of features; calibrate it where no images are held out."""
    found = fit_features(network, features)
    _leave_out(network, *features.numbers)
    looked_at = found.scores[found.mapped][:, network.head.columns.cpu()]
    network.leave_out(network.left_out | _dead(looked_at, network.score_names))
    _doubt(network, found.scores[found.mapped & ~features.known])
    network.protocol.fit_features([features.small[name] for name in ("brightness", "layout", "detail")])
    network.calibration.fit_maps(found.maps)
    known = [] if held_out or features.numbers[0] < 2 else features.known.nonzero()[:, 0].tolist()
    scores = found.scores[known][:, network.head.columns.cpu()]
    groups, volumes = ([values[index] for index in known] for values in (features.groups, features.volumes))
    network.calibration.fit_scores(scores, groups, volumes)


def _fit_to_images(network: DDADModel, training: ResidentDataset, held_out: ResidentDataset, images: int) -> None:
    """Teach a model of ensembles all but the scores of the calibration images."""
    device = next(network.parameters()).device
    known = _thinned(training.subset([i for i, label in enumerate(training.labels) if label == 0]), images)
    net, plus = network.discrepancy, network.head.plus
    if isinstance(net, DDADNet) and net.z_channel >= 0:
        net.z_mean, net.z_deviation = torch.zeros_like(net.z_mean), torch.ones_like(net.z_deviation)
        maps = _maps(network, known)[:, -1:]  # as they are, with mean 0 and deviation 1
        deviation = maps.std(dim=0)
        net.z_mean = maps.mean(dim=0).to(device)
        net.z_deviation = (deviation + FLOOR * deviation.mean().clamp(min=1e-12)).to(device)
    means, features = _described(network, training)
    if isinstance(plus, PlusScores):
        groups = find_groups(training)
        sides = [[i for i, label in enumerate(training.labels) if (label == 0) is side] for side in (True, False)]
        (known_groups, pool_groups), (first, second) = [[groups[i] for i in side] for side in sides], sides
        plus.fit(features[first], features[second], known_groups, pool_groups)
    leave_out_unlearnable(network, training)
    parts = zip(means.split(64), features.split(64))
    tried = [network.head(*(values.to(device) for values in part)).cpu() for part in parts]
    network.leave_out(network.left_out | _dead(torch.cat(tried), network.score_names))
    _doubt(network, means[[index for index, label in enumerate(training.labels) if label != 0]])
    network.protocol.fit(normalise(training.images))
    shown = _thinned(held_out, images) if len(held_out) else known
    network.calibration.fit_maps(_maps(network, shown), net.field(normalise(shown.images)))
    network.calibration.fit_scores(torch.zeros(0, len(network.score_names)), [], [])


def leave_out_unlearnable(network: DDADModel, training: ResidentDataset) -> None:
    """Leave the scores out that a model cannot learn from so few images of a training, and no others."""
    groups = find_groups(training) if network.head.plus is not None else []
    _leave_out(
        network,
        *(
            len({group for group, label in zip(groups, training.labels) if (label == 0) is side})
            for side in (True, False)
        ),
    )


def _leave_out(network: DDADModel, known: int, pool: int) -> None:
    """Leave the scores out that so many groups of known normals and of unlabelled images cannot teach."""
    plus = network.head.plus
    network.leave_out({} if plus is None else plus.unlearnable(known, pool))


def _dead(scores: torch.Tensor, names: Sequence[str]) -> dict[str, str]:
    """Return why (N, S) scores of different images tell nothing, by the names of those that do not."""
    reasons = {}
    for name, values in zip(names, scores.T):
        if not values.isfinite().all():
            reasons[name] = "it is not finite for some images of the training"
        elif values.max() - values.min() <= TIE * values.abs().max():
            reasons[name] = "it is the same for all images of the training"
    return reasons


def _doubt(network: DDADModel, means: torch.Tensor) -> None:
    """Let the discrepancy decide where the refined score runs against it on unlabelled images: (N, M) means of maps."""
    refined = network.map_names[0]
    if network.discrepancy.asr is None or refined not in network.score_names or len(means) < 2:
        return
    values = means[:, network.map_names.index("inter")]
    doubt = doubt_refinement(means[:, 0].numpy(), values.numpy(), decides=False)
    if doubt:
        logger.warning(f"Of the unlabelled images of the training: {doubt}")
    if doubt and network.score == refined and "inter" in network.score_names:
        logger.warning(f"inter decides instead of {refined}.")
        network.decide_by("inter")


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
