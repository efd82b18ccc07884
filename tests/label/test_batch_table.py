"""The table of a batch is complete also where an image goes on the way, and no text in it is a formula."""

from __future__ import annotations

import csv
import errno
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("monailabel", reason="needs MONAI Label: make test-label builds its environment")

from monai_ddad.decision.finding import Result
from monai_ddad.label.batch import AnomalyBatchInfer
from monai_ddad.label.served import UnreadableImageError

RESULT = Result({"inter": 0.5}, "inter", "inter", 0.25, 75.0, False, "", 0)
STORE: Any = SimpleNamespace(list_images=lambda: ["=1+1", "b", "c"], get_image_uri=lambda image: f"/films/{image}.png")


def find(path: str) -> tuple[Any, str]:
    if path == "/films/c.png":
        raise UnreadableImageError("no such file")
    return SimpleNamespace(result=RESULT), path


SERVED: Any = SimpleNamespace(find=find)


def test_images_have_their_scores_and_those_that_went_their_reason(tmp_path):
    asked = {"images": "all", "save_label": False}
    handed = AnomalyBatchInfer(SERVED, tmp_path / "table.csv")(asked, STORE, lambda request: None)
    with (tmp_path / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == ["'=1+1", "b", "c"]
    assert [row["score"] for row in rows] == ["0.5", "0.5", ""] and handed["b"]["score"] == 0.5
    assert rows[2]["unreadable"] == handed["c"]["unreadable"] == "the image cannot be read: no such file"
    assert (tmp_path / "table.csv").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_earlier_table(tmp_path, monkeypatch, call):
    def fail(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = Path(tmp_path / "table.csv")
    path.write_text("earlier")
    monkeypatch.setattr(f"os.{call}", fail)
    with pytest.raises(OSError, match="No space left"):
        AnomalyBatchInfer(SERVED, path)({"images": "all", "save_label": False}, STORE, lambda request: None)
    assert path.read_text() == "earlier" and list(tmp_path.iterdir()) == [path]
