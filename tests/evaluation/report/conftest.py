"""Folders as an evaluation leaves them, with drawn numbers."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from monai_ddad.decision.decisions import decide
from monai_ddad.evaluation.gallery import choose_rows, write_gallery
from monai_ddad.evaluation.report import write_report
from monai_ddad.evaluation.tables import evaluate_scores, volume_scores, write_json, write_scores
from monai_ddad.io.writing import write_table
from monai_ddad.networks.calibration import NormalScores, map_percentiles

NAMES = ["r_dual", "inter", "intra", "rec"]
NORMALS = 39  # calibration images, so that 1 / 40 is the smallest p-value
SLICES = 4

MakeRun = Callable[..., Path]


def training(**settings: Any) -> dict[str, Any]:
    return {
        "network": {
            "backbone": "AE",
            "members": 3,
            "refine": "dual",
            "map_names": NAMES,
        },
        "preparation": {"preprocess": "plain", "modalities": None},
        "settings": {"preset": "paper", "synthetic_data": False, "seed": 0, "learning_rate": 0.0005} | settings,
        "epochs": {"ndm": 250, "udm": 250, "asr": 100},
        "seconds": {"ensembles": 2573.16, "refine": 3621.328},
        "data": {"normal": 998, "unlabeled": 999, "calibration": NORMALS, "sha256": "1209e233" * 8},
        "versions": {"monai_ddad": "0.1.0", "torch": "2.13.0+cpu"},
    }


def draw_scores(count: int, labelled: bool, seed: int) -> dict[str, np.ndarray]:
    """Draw scores of which the first tells the classes apart best and the third not at all."""
    label = np.arange(count) % 2
    shifts = dict(zip(NAMES, (1.5, 1.2, 0.0, 0.8)))
    scores = {
        name: (0.2 + 0.05 * (np.random.default_rng([seed, i]).normal(size=count) + shifts[name] * label))
        for i, name in enumerate(NAMES)
    }
    return {"index": np.arange(count), "label": label if labelled else np.full(count, -1), **scores}


def write_run(
    folder: Path,
    labelled: bool = True,
    calibrated: bool = True,
    volumes: bool = False,
    gallery: bool = True,
    file_names: bool = False,
    count: int = 80,
    seed: int = 0,
    alpha: float = 0.1,
    images: str = "6ff4aa51" * 8,
    warnings: tuple[str, ...] = ("12 test images repeat the content of another test image.",),
    reasons: tuple[str, ...] = ("darker than the training images",),
    **settings: Any,
) -> Path:
    """Write what an evaluation of ``count`` images leaves; with ``volumes``, those are slices of ``count / 4`` ones."""
    scores = draw_scores(count, labelled, seed)
    if volumes:
        scores["label"] = scores["label"][np.arange(count) // SLICES]
    rng = np.random.default_rng([seed, 99])
    normals = NormalScores(len(NAMES))
    normals.fit(torch.from_numpy(0.2 + 0.05 * rng.normal(size=(NORMALS, len(NAMES)))).float(), range(NORMALS))
    strange = [reasons[row // 20 % len(reasons)] if row % 20 == 7 else "" for row in range(count)]
    positions = [row // SLICES if volumes else row for row in range(count)]
    near = np.arange(count) % 5 == 0
    columns: dict[str, Any] = {"position": positions}
    if volumes:
        columns["slice"] = [row % SLICES for row in range(count)]
    else:
        columns["near_copy"] = near.astype(int)
    if file_names:
        columns["image"] = [f"scans/patient_{row}.png" for row in range(count)]

    def decided(table: dict[str, np.ndarray]) -> tuple[Any, dict[str, Any]]:
        if not calibrated:
            return None, {}
        found = decide(np.stack([table[name] for name in NAMES], axis=1), NAMES, normals, "r_dual", alpha)
        return found, {
            "p_value": [f"{value:.6g}" for value in found.p_values["r_dual"]],
            "percentile": [f"{value:.6g}" for value in found.percentile],
            "flagged": found.flagged.astype(int),
        }

    decisions, further = decided(scores)
    write_scores(scores, NAMES, folder / "eval/scores.csv", columns, further | {"out_of_protocol": strange})
    found = decisions.p_values if decisions else None
    pictures = np.full(count, not volumes)
    of_volumes = None
    splits = {"all": evaluate_scores(scores, NAMES, pictures, 100, p_values=found)}
    if volumes:
        joined = volume_scores(scores, NAMES, positions)
        of_volumes, further = decided(joined)
        named = [*NAMES, "slices", *(f"{name}_max" for name in NAMES)]
        write_scores(joined, named, folder / "eval/volumes.csv", {"position": range(count)}, further)
        found = of_volumes.p_values if of_volumes else None
        splits["volumes"] = evaluate_scores(joined, NAMES, joined["label"] >= 0, 100, p_values=found)
    else:
        splits["without_near_copies"] = evaluate_scores(scores, NAMES, ~near, 100, p_values=found)
    record = training(**settings)
    content = {
        "splits": splits,
        "pixels": {} if volumes else {"r_dual": {"pixel_auroc": 0.91, "best_dice": 0.4, "best_dice_threshold": 0.31}},
        "intervals": "95 %, bootstrap of 100 samples within each class",
        "images": {"scored": count, "sha256": images},
        "score": "r_dual",
        "decision": decisions.summary() if decisions else None,
        "volume_decision": of_volumes.summary() if of_volumes else None,
        "protocol_checked": True,
        "out_of_protocol": dict(Counter(filter(None, strange))),
        "warnings": list(warnings),
        "evaluation_seconds": 28.62,
        "training": record,
    }
    write_json(content, folder / "eval/metrics.json")
    write_json(record, folder / "models/run.json")
    write_table(["position", "reason"], [[81, "it is no image"]], folder / "eval/unreadable.csv")
    if gallery:
        labels = np.where(volumes & (scores["label"] == 1), -1, scores["label"])
        rows = choose_rows(scores["r_dual"], labels, decisions.flagged if decisions else None, 4)
        write_gallery(*draw_pictures(len(rows), rng), rows, folder / "eval/gallery")
    return folder


def draw_pictures(count: int, rng: np.random.Generator) -> tuple[torch.Tensor, np.ndarray]:
    """Draw discs with a bright spot, and the map of the spot in percentiles."""
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    centres = rng.uniform(-0.4, 0.4, (count, 2, 1, 1))
    spots = np.exp(-((y - centres[:, 0]) ** 2 + (x - centres[:, 1]) ** 2) / 0.02)
    discs = 90 * (x**2 + y**2 < 0.7) + 120 * spots + rng.uniform(0, 20, (count, 64, 64))
    percentiles = map_percentiles(spots, np.linspace(0, 1, 13))
    return torch.from_numpy(discs.clip(0, 255).astype(np.uint8))[:, None], percentiles


class _Reader(HTMLParser):
    """Builds an element tree; a tag that is not closed, or closed out of turn, is an error."""

    VOID = {"meta", "link", "img"}

    def __init__(self) -> None:
        super().__init__()
        self.builder = ElementTree.TreeBuilder()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.builder.start(tag, {name: value or "" for name, value in attrs})
        if tag in self.VOID:
            self.builder.end(tag)
        else:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.builder.end(tag)

    def handle_data(self, data: str) -> None:
        if self.open:
            self.builder.data(data)


class Page:
    """A page's elements and what is said in them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.source = path.read_text(encoding="utf-8")
        reader = _Reader()
        reader.feed(self.source)
        assert not reader.open
        self.root = reader.builder.close()

    def all(self, path: str) -> list[ElementTree.Element]:
        return self.root.findall(f".//{path}")

    def texts(self, path: str) -> list[str]:
        return [" ".join("".join(element.itertext()).split()) for element in self.all(path)]

    @property
    def summary(self) -> list[tuple[str, str]]:
        return list(zip(self.texts("section[1]/dl/div/dt"), self.texts("section[1]/dl/div/dd")))

    @property
    def tables(self) -> dict[str, list[list[str]]]:
        """Cells by the caption, all tables of one caption after another."""
        found: dict[str, list[list[str]]] = {}
        for table in self.all("table"):
            rows = [[" ".join("".join(cell.itertext()).split()) for cell in row] for row in table.iter("tr")]
            found.setdefault("".join(table.find("caption").itertext()), []).extend(rows)
        return found


@pytest.fixture(scope="session")
def written_run(tmp_path_factory: pytest.TempPathFactory) -> MakeRun:
    """Return a writer of runs that nothing changes, each written once; see :func:`write_run`."""
    written: dict[str, Path] = {}

    def make(**options: Any) -> Path:
        key = repr(sorted(options.items()))
        if key not in written:
            written[key] = write_run(tmp_path_factory.mktemp("written"), **options)
        return written[key]

    return make


@pytest.fixture
def make_run(tmp_path: Path, written_run: MakeRun) -> MakeRun:
    """Return a writer of runs below ``tmp_path`` that a test may change."""

    def make(name: str = "run", **options: Any) -> Path:
        return shutil.copytree(written_run(**options), tmp_path / name)

    return make


@pytest.fixture(scope="session")
def report(written_run: MakeRun, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Page]:
    """Return a maker of reports of such runs, each written once."""
    folder, pages = tmp_path_factory.mktemp("reports"), {}

    def make(**options: Any) -> Page:
        key = repr(sorted(options.items()))
        if key not in pages:
            pages[key] = Page(write_report(written_run(**options), folder / f"{len(pages)}.html"))
        return pages[key]

    return make


@pytest.fixture
def change_metrics() -> Callable[[Path, Callable[[dict[str, Any]], object]], None]:
    """Return a function that changes the content of a run's ``metrics.json``."""

    def change(run: Path, edit: Callable[[dict[str, Any]], object]) -> None:
        path = run / "eval/metrics.json"
        content = json.loads(path.read_text())
        edit(content)
        path.write_text(json.dumps(content))

    return change


@pytest.fixture
def read_page() -> Callable[[Path], Page]:
    """Return a reader of pages whose tags are all closed in turn."""
    return Page
