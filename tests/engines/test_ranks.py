"""Work is shared out evenly."""

from __future__ import annotations

import pytest

from monai_ddad.engines.ranks import assign


@pytest.mark.parametrize("ranks", [1, 2, 3, 6, 8])
def test_every_piece_has_a_rank_and_loads_are_even(ranks):
    costs = [15, 15, 15, 31, 31, 31]
    found = assign(costs, ranks)
    loads = [sum(cost for cost, rank in zip(costs, found) if rank == number) for number in range(ranks)]
    assert sum(loads) == sum(costs) and set(found) <= set(range(ranks))
    assert max(loads) <= max(31, 4 / 3 * sum(costs) / ranks)  # Graham's bound of largest first
