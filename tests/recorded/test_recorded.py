"""What small models find of real images is what they found when it was recorded."""

from __future__ import annotations

import numpy as np
import pytest

from tests.recorded.record import SETS, found, recorded

CLOSE = 1e-5
# a difference of large sums in float32, which processors round in their own ways
ROUNDED = {"pu_map": 1e-4}


def numbers(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split a table of text into its numbers, and the rest."""
    parsed = np.full(table.shape, np.nan)
    for place, text in np.ndenumerate(table):
        try:
            parsed[place] = float(text)
        except ValueError:
            continue
    return parsed, np.where(np.isnan(parsed), table, "")


@pytest.mark.real_data
@pytest.mark.parametrize("bundle", SETS)
def test_every_score_p_value_flag_and_map_is_as_recorded(bundle, tmp_path):
    expected = recorded(bundle, tmp_path)
    now = found(bundle, tmp_path, tmp_path / "found")
    assert sorted(now) == sorted(expected)
    for name, value in expected.items():
        if name == "scores":
            for column, score in enumerate(expected["score_names"]):
                close, both = ROUNDED.get(score, CLOSE), (now[name][:, column], value[:, column])
                np.testing.assert_allclose(*both, rtol=CLOSE, atol=close, err_msg=score)
        elif value.dtype.kind == "f":
            np.testing.assert_allclose(now[name], value, rtol=CLOSE, atol=CLOSE, err_msg=name)
        elif "/" in name:  # a table
            (here, text), (there, before) = numbers(now[name]), numbers(value)
            np.testing.assert_array_equal(text, before, err_msg=name)
            for column, title in enumerate(value[0]):
                close, both = ROUNDED.get(title, CLOSE), (here[:, column], there[:, column])
                np.testing.assert_allclose(*both, rtol=2 * CLOSE, atol=close, err_msg=f"{name} {title}")  # of 6 digits
        else:
            np.testing.assert_array_equal(now[name], value, err_msg=name)
