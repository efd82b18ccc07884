"""An ensemble stacks what its members return."""

from __future__ import annotations

import pytest
import torch

from monai_ddad.networks import AE, Ensemble


def test_output_stacks_each_members_own(tiny, images):
    members = [AE(**tiny).eval() for _ in range(3)]
    stacked = Ensemble(members)(images)
    assert stacked.shape == (3, 5, 1, 32, 32) and len(Ensemble(members)) == 3
    for output, member in zip(stacked, members):
        assert torch.equal(output, member(images))


def test_no_members_are_refused():
    with pytest.raises(ValueError, match="at least one member"):
        Ensemble([])
