"""A difference between the classes stands out only if it is large and certain."""

from __future__ import annotations

import numpy as np

from monai_ddad.evaluation.survey.differences import compare_classes


def test_differences_need_both_size_and_certainty():
    few = compare_classes([{"mean": 0.1}, {"mean": 0.4}], [{"mean": 0.3}, {"mean": 0.5}])["mean"]
    assert few["auroc"] == 0.75 and few["interval"][0] <= 0.5 and not few["notable"]
    rng = np.random.default_rng(0)
    groups = [[{"mean": value} for value in rng.normal(shift, 1, 400)] for shift in (0, 0.5)]
    small = compare_classes(*groups)["mean"]
    assert 0.5 < small["interval"][0] < small["auroc"] < 0.7 and not small["notable"]
    assert compare_classes([{"mean": 0.1, "jpeg_quality": 75.0}], [{"mean": 0.2}]).keys() == {"mean"}
    assert compare_classes([], [{"mean": 0.2}]) == {}
