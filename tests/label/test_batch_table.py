"""The table of a batch is complete also where an image goes on the way, and no text in it is a formula."""

from __future__ import annotations

import csv
import errno
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("monailabel", reason="needs MONAI Label: make test-label builds its environment")

from monai_ddad.inference import Result
from monai_ddad.label.batch import AnomalyBatchInfer
from monai_ddad.transforms import ImageReadError

RESULT = Result({"inter": 0.5}, "inter", "inter", 0.25, 75.0, False, "", 0)
STORE: Any = SimpleNamespace(list_images=lambda: ["=1+1", "b"], get_image_uri=lambda image: f"/films/{image}.png")


def heat_map(dataset: Any, position: int) -> None:
    raise ImageReadError("no such file")


SERVED: Any = SimpleNamespace(find=lambda path: (SimpleNamespace(heat_map=heat_map), None, 0, RESULT))


def test_an_image_that_goes_after_it_was_scored_keeps_its_scores(tmp_path):
    handed = AnomalyBatchInfer(SERVED, tmp_path / "table.csv")({"images": "all"}, STORE, lambda request: None)
    with (tmp_path / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == ["'=1+1", "b"]
    for row, given in zip(rows, handed.values(), strict=True):
        assert row["score"] == "0.5" and given["score"] == 0.5
        assert row["unreadable"] == given["unreadable"] == "scored, but without a label: no such file"
    assert (tmp_path / "table.csv").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_earlier_table(tmp_path, monkeypatch, call):
    def fail(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = Path(tmp_path / "table.csv")
    path.write_text("earlier")
    monkeypatch.setattr(f"os.{call}", fail)
    with pytest.raises(OSError, match="No space left"):
        AnomalyBatchInfer(SERVED, path)({"images": "all"}, STORE, lambda request: None)
    assert path.read_text() == "earlier" and list(tmp_path.iterdir()) == [path]
