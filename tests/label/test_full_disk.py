"""A disk that is full at any moment costs no label, image or model that was there, and is named."""

from __future__ import annotations

import pytest

pytest.importorskip("monailabel", reason="needs MONAI Label: make test-label builds its environment")

from tests.full_disk.test_full_disk import needs_compiler, on_full_disk


@needs_compiler
def test_a_full_disk_leaves_labels_images_and_their_list_as_they_were(tmp_path):
    for found in on_full_disk(tmp_path, 0, "label", "image").values():
        assert found["wrong"] == [] and found["failed"] + found["passed"] == found["tested"] == found["calls"]
        assert found["failed"] >= 10


@pytest.mark.slow
@needs_compiler
def test_a_full_disk_ends_a_training_and_leaves_the_model(tmp_path):
    found = on_full_disk(tmp_path, 4, "version")["version"]
    assert found["wrong"] == [] and found["tested"] >= 4 and found["failed"] >= 2
