"""Scores of an evaluator's images, and what a user's own postprocessing finds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader, Dataset, MetaTensor
from monai.transforms import Lambdad
from sklearn.metrics import average_precision_score, roc_auc_score

from monai_ddad.data import BatchItem, collate_items
from monai_ddad.decision.finding import Judge
from monai_ddad.evaluation import ImageScores, ItemEvaluator, require_all_read
from monai_ddad.io.checkpoints import CheckpointError
from monai_ddad.io.errors import DataError

LABELS = [0, 1, 0, 1, -1]


def evaluate(network: Any, images: torch.Tensor, order: list[int], **options: Any) -> ItemEvaluator:
    items = [{"image": images[index], "label": LABELS[index]} for index in order]
    options = {"decollate": False, "val_handlers": [ImageScores(network)]} | options
    loader = DataLoader(Dataset(items), batch_size=2, collate_fn=collate_items)
    evaluator = ItemEvaluator("cpu", loader, network, judge=Judge(network), **options)
    evaluator.run()
    return evaluator


def test_scores_are_in_the_order_of_the_list_with_their_figures(make_net, images):
    network, order = make_net(), [3, 0, 4, 2, 1]
    state = evaluate(network, images, order).state
    with torch.no_grad():
        expected = network.decide(images).scores.numpy()
    assert state.scores["index"].tolist() == [0, 1, 2, 3, 4] and state.evaluated.positions == [0, 1, 2, 3, 4]
    assert state.scores["label"].tolist() == [LABELS[place] for place in order]
    assert len(state.evaluated.out_of_protocol) == len(set(state.evaluated.digests)) == 5
    for column, name in enumerate(network.score_names):
        np.testing.assert_allclose(state.scores[name], expected[order, column], rtol=1e-5, atol=1e-6)
        known = expected[:4, column]
        assert state.metrics[f"auroc_{name}"] == pytest.approx(roc_auc_score(LABELS[:4], known))
        precision = average_precision_score(LABELS[:4], known)
        assert state.metrics[f"average_precision_{name}"] == pytest.approx(precision)


def test_items_that_cannot_be_read_have_a_reason_and_those_of_several_images_a_row_for_each(make_net, images):
    network = make_net()
    volume = [{"image": MetaTensor(image, meta={"slice": number})} for number, image in enumerate(images[:3])]
    batches = [
        collate_items([BatchItem({}, error="the file is empty"), volume]),
        collate_items([BatchItem({}, error="no such file")]),
        collate_items([{"image": images[3], "label": 1}]),
    ]
    handlers = [ImageScores(network)]
    evaluator = ItemEvaluator("cpu", batches, network, len(batches), judge=Judge(network), val_handlers=handlers)
    shapes: list[tuple[int, ...]] = []
    evaluator.add_event_handler(
        Events.ITERATION_COMPLETED,
        lambda engine: shapes.append(engine.state.output["pred"].shape) if engine.state.iteration == 2 else None,
    )
    evaluator.run()
    assert shapes == [(0, len(network.map_names), 32, 32)]  # nothing of the second batch could be read
    seen = evaluator.state.evaluated
    assert seen.errors == {0: "the file is empty", 2: "no such file"} and seen.items == 4
    assert seen.positions == [1, 1, 1, 3] and seen.slices == [0, 1, 2, None] and seen.volumes == [1, 1, 1, None]
    assert seen.labels == [-1, -1, -1, 1]
    with pytest.raises(DataError, match="2 of 4 items could not be read"):
        require_all_read(evaluator)


def test_without_both_classes_there_are_scores_and_no_figures(make_net, images):
    state = evaluate(make_net(), images, [0, 2, 4]).state
    assert state.scores["index"].tolist() == [0, 1, 2] and not state.metrics


def test_scores_that_are_not_finite_are_named(make_net, images):
    network = make_net()
    images = images.clone()
    images[3] = float("nan")
    with pytest.raises(FloatingPointError, match=r"item number 3 \(from 0\) are not finite"):
        evaluate(network, images, [0, 1, 2, 3])


def test_a_network_without_weights_is_refused(make_net, images):
    network = make_net()
    network.discrepancy.ndm.loaded = False
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
        expected = network.decide(images[:4]).scores[:, 0].numpy()
    np.testing.assert_allclose(state.scores[network.score_names[0]], expected, rtol=1e-5, atol=1e-6)
