"""Scores of an evaluator's images, and what a user's own postprocessing finds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from monai.data import DataLoader
from monai.engines import SupervisedEvaluator
from monai.transforms import Lambdad
from sklearn.metrics import average_precision_score, roc_auc_score

from monai_ddad.checkpoints import CheckpointError
from monai_ddad.engines import score_batch
from monai_ddad.handlers import ImageScores

LABELS = [0, 1, 0, 1, -1]


def evaluate(network: Any, images: torch.Tensor, order: list[int], **options: Any) -> SupervisedEvaluator:
    items = [{"image": images[index], "label": LABELS[index], "index": index} for index in order]
    options = {"decollate": False, "val_handlers": [ImageScores(network)]} | options
    loader = DataLoader(items, batch_size=2)
    evaluator = SupervisedEvaluator("cpu", loader, network, iteration_update=score_batch, **options)
    evaluator.run()
    return evaluator


def test_scores_are_in_the_order_of_the_index_with_their_figures(make_net, images):
    network = make_net()
    state = evaluate(network, images, [3, 0, 4, 2, 1]).state
    with torch.no_grad():
        expected = network.image_scores(images).numpy()
    assert state.scores["index"].tolist() == [0, 1, 2, 3, 4] and state.scores["label"].tolist() == LABELS
    assert len(state.out_of_protocol) == 5
    for column, name in enumerate(network.score_names):
        np.testing.assert_allclose(state.scores[name], expected[:, column], rtol=1e-5, atol=1e-6)
        known = expected[:4, column]
        assert state.metrics[f"auroc_{name}"] == pytest.approx(roc_auc_score(LABELS[:4], known))
        precision = average_precision_score(LABELS[:4], known)
        assert state.metrics[f"average_precision_{name}"] == pytest.approx(precision)


def test_without_both_classes_there_are_scores_and_no_figures(make_net, images):
    state = evaluate(make_net(), images, [0, 2, 4]).state
    assert state.scores["index"].tolist() == [0, 2, 4] and not state.metrics


def test_scores_that_are_not_finite_are_named(make_net, images):
    network = make_net()
    images = images.clone()
    images[3] = float("nan")
    with pytest.raises(FloatingPointError, match=r"number \[3\] \(from 0\) are not finite"):
        evaluate(network, images, [0, 1, 2, 3])


def test_a_network_without_weights_is_refused(make_net, images):
    network = make_net()
    network.loaded.fill_(False)
    with pytest.raises(CheckpointError, match="no trained weights"):
        evaluate(network, images, [0, 1])


@pytest.mark.parametrize("decollate", [False, True])
def test_a_users_postprocessing_gets_maps_and_scores_and_changes_none_that_are_written(make_net, images, decollate):
    network, seen = make_net(), []

    def look(values: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(values.shape))
        return torch.zeros_like(values)

    post = Lambdad(["pred", "scores"], look)
    state = evaluate(network, images, [0, 1, 2, 3], decollate=decollate, postprocessing=post).state
    one = [(4, 32, 32), (4,)]
    assert seen == (one * 4 if decollate else [(2, *shape) for shape in one] * 2)
    output = state.output[0] if decollate else state.output
    assert not output["pred"].any() and not output["scores"].any()
    with torch.no_grad():
        expected = network.image_scores(images[:4])[:, 0].numpy()
    np.testing.assert_allclose(state.scores[network.score_names[0]], expected, rtol=1e-5, atol=1e-6)
