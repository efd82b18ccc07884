"""Active learning: which unlabelled image an annotator sees next."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from typing import Any

from fastapi import HTTPException
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.strategy import Strategy

from monai_ddad.decision.finding import Result
from monai_ddad.label.served import ServedModel

__all__ = ["Arbitrary", "Ranking", "most_suspicious", "most_uncertain"]

Rank = Callable[[Result, float], tuple[float, float]]  # of a result at an alpha: the lowest comes first


def most_suspicious(result: Result, alpha: float) -> tuple[float, float]:
    """Rank by p-value, the smallest first, and at equal ones by the score, the highest first."""
    return (1.0 if result.p_value is None else result.p_value), -result.scores[result.score]


def most_uncertain(result: Result, alpha: float) -> tuple[float, float]:
    """Rank by the distance of the p-value from alpha, as a ratio; what has none comes last."""
    if result.p_value is None:
        return math.inf, 0.0
    return abs(math.log(result.p_value / max(alpha, 1e-9))), -result.scores[result.score]


class Ranking(Strategy):
    """Hand out the unlabelled images in the order of a rank; those that were handed out before come last.

    Scores are computed in batches, once for each version of the model. Images that cannot be read come after those
    that can. The reply holds what is found of the image.

    Args:
        served: the model.
        rank: order of the results.
        description: of the strategy.
    """

    def __init__(self, served: ServedModel, rank: Rank, description: str) -> None:
        super().__init__(description)
        self.served = served
        self.rank = rank

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """Return the id of the next image and what is found of it; None where all are labelled.

        Raises:
            HTTPException: 409, there is no model yet.
        """
        images = sorted(datastore.get_unlabeled_images(request.get("label_tag"), request.get("labels")))
        if not images:
            return None
        alpha = self.served.predictor()[1].alpha
        paths: dict[str, str] = {}
        found: dict[str, Result | str] = {}
        for image in images:
            try:
                paths[image] = datastore.get_image_uri(image)
            except HTTPException as error:  # a server of images may not have it any more
                found[image] = str(error.detail)
        found |= self.served.score_all(paths)
        strategy = request["strategy"]

        def order(image: str) -> tuple[Any, ...]:
            handed_out = datastore.get_image_info(image).get("strategy", {}).get(strategy, {}).get("ts", 0)
            result = found[image]
            unreadable = isinstance(result, str)
            return (handed_out, unreadable, *((0, 0) if isinstance(result, str) else self.rank(result, alpha)))

        image = min(images, key=order)
        result = found[image]
        return {"id": image, **({"unreadable": result} if isinstance(result, str) else result.summary())}


class Arbitrary(Strategy):
    """Hand out any unlabelled image.

    It stands for MONAI Label's ``Random``, whose weights, the seconds since an image was handed out, may all be zero.
    """

    def __init__(self) -> None:
        super().__init__("any image")

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """Return the id of an image; None where all are labelled."""
        images = datastore.get_unlabeled_images(request.get("label_tag"), request.get("labels"))
        return {"id": secrets.choice(images)} if images else None
