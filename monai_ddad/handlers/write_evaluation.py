"""Handler that writes what an evaluation found."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Events

from monai_ddad.data.audit import Audit
from monai_ddad.data.resident import ResidentDataset, normalise
from monai_ddad.networks import DDADNet
from monai_ddad.outputs import (
    evaluate_scores,
    format_table,
    plot_gallery,
    plot_histograms,
    plot_roc,
    volume_scores,
    write_json,
    write_scores,
    write_table,
)

__all__ = ["WriteEvaluation"]

logger = logging.getLogger(__name__)

FILES = ("scores.csv", "volumes.csv", "unreadable.csv", "metrics.json", "histograms.png", "roc.png", "gallery.png")


class WriteEvaluation:
    """Write ``scores.csv``, ``metrics.json``, ``histograms.png``, ``roc.png`` and ``gallery.png`` after an evaluation.

    Goes behind an :class:`~monai_ddad.handlers.ImageScores` handler. Without both classes among the labels the metrics
    and ROC curves are left out. Volumes have a row for each slice in ``scores.csv`` and one of their own, with the
    mean and the highest score of their slices, in ``volumes.csv``; figures count a volume once. ``unreadable.csv``
    lists the items that could not be read, with the reason.

    Args:
        network: the network that is evaluated.
        dataset: the images that are scored.
        output_dir: folder of the files.
        run_file: ``run.json`` of the training, copied into ``metrics.json``.
        audit: checks of the data; where it holds copies of training images, figures without them are added.
        resamples: bootstrap samples of each interval.
        seed: seed of the bootstrap.
        gallery_size: most and least anomalous images to show, of each.
        file_names: add the images' paths to ``scores.csv``; they may tell who a patient is.
    """

    def __init__(
        self,
        network: DDADNet,
        dataset: ResidentDataset,
        output_dir: str,
        run_file: str,
        audit: Audit,
        resamples: int = 1000,
        seed: int = 0,
        gallery_size: int = 6,
        file_names: bool = False,
    ) -> None:
        self.network = network
        self.dataset = dataset
        self.output_dir = Path(output_dir)
        self.run_file = Path(run_file)
        self.audit = audit
        self.resamples = resamples
        self.seed = seed
        self.gallery_size = gallery_size
        self.file_names = file_names

    def attach(self, engine: Any) -> None:
        """Attach to an evaluator."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.COMPLETED, self.write)

    def start(self, engine: Any) -> None:
        """Start the clock, and remove what an earlier evaluation left."""
        self._started = time.perf_counter()
        for name in FILES:
            (self.output_dir / name).unlink(missing_ok=True)

    def write(self, engine: Any) -> None:
        """Write all files and log the table."""
        seconds = time.perf_counter() - self._started
        scores, names = engine.state.scores, self.network.map_names
        run = json.loads(self.run_file.read_text(encoding="utf-8")) if self.run_file.is_file() else {}
        flags = {"duplicate": self.audit.duplicate, "near_copy": self.audit.near_copy}
        columns: dict[str, Any] = {"position": self.dataset.positions}
        volumes = [None if part is None else i for i, part in zip(self.dataset.positions, self.dataset.slices)]
        if any(volume is not None for volume in volumes):
            columns["slice"] = self.dataset.slices
        columns |= {name: np.array(values, dtype=int) for name, values in flags.items() if any(values)}
        if self.file_names:
            columns["image"] = [_first_file(self.dataset.data[position]) for position in self.dataset.positions]
        write_scores(scores, names, self.output_dir / "scores.csv", columns)
        write_table(
            ["position", "reason", *(["image"] if self.file_names else [])],
            [
                [position, reason, *([_first_file(self.dataset.data[position])] if self.file_names else [])]
                for position, reason in sorted(self.dataset.errors.items())
            ],
            self.output_dir / "unreadable.csv",
        )

        pictures = np.array([volumes[index] is None for index in scores["index"]])  # slices count by volume below
        splits = {"all": pictures}
        for name, split in (("duplicate", "without_duplicates"), ("near_copy", "without_near_copies")):
            if name in columns:
                splits[split] = pictures & (columns[name][scores["index"]] == 0)
        figures = {
            split: evaluate_scores(scores, names, keep, self.resamples, self.seed) for split, keep in splits.items()
        }
        if "slice" in columns:
            joined = volume_scores(scores, names, volumes)
            further = ["slices", *(f"{name}_max" for name in names)]
            by_volume = {"position": range(len(self.dataset.data))}
            write_scores(joined, [*names, *further], self.output_dir / "volumes.csv", by_volume)
            figures["volumes"] = evaluate_scores(joined, names, joined["label"] >= 0, self.resamples, self.seed)
        content = {
            "splits": figures,
            "intervals": f"95 %, bootstrap of {self.resamples} samples within each class",
            "images": {
                "scored": len(scores["index"]),
                "sha256": hashlib.sha256(self.dataset.images.numpy().tobytes()).hexdigest(),
            },
            "warnings": self.audit.warnings,
            "evaluation_seconds": round(seconds, 2),
            "training": run,
        }
        write_json(content, self.output_dir / "metrics.json")

        plot_histograms(scores, names, self.output_dir / "histograms.png")
        if figures["all"]["scores"]:
            plot_roc(scores, names, self.output_dir / "roc.png")
            logger.info("Image-level figures with 95 % bootstrap intervals:\n" + format_table(figures))
        self._plot_gallery(scores, run)
        logger.info("scores.csv, metrics.json and the plots are written to the evaluation folder.")

    def _plot_gallery(self, scores: dict[str, np.ndarray], run: dict[str, Any]) -> None:
        first = self.network.map_names[0]
        ranked = scores["index"][np.argsort(-scores[first], kind="stable")]
        size = min(self.gallery_size, len(ranked) // 2) or len(ranked)
        chosen = np.unique(np.r_[ranked[:size], ranked[-size:]], return_index=True)
        shown = chosen[0][np.argsort(chosen[1])]
        images = normalise(self.dataset.images[torch.from_numpy(shown)])
        with torch.inference_mode():
            maps = self.network(images.to(next(self.network.parameters()).device)).float().cpu().numpy()
        rows = {index: row for row, index in enumerate(scores["index"])}
        kinds = {0: "normal", 1: "abnormal", -1: ""}
        parts = zip(self.dataset.positions, self.dataset.slices)
        places = [f"{position}" if part is None else f"{position}/{part}" for position, part in parts]
        titles = [
            f"{places[index]} {kinds[int(scores['label'][rows[index]])]}\n{first} {scores[first][rows[index]]:.4f}"
            for index in shown
        ]
        limits = dict(zip(self.network.map_names, maps.max(axis=(0, 2, 3)).tolist())) | run.get("map_limits", {})
        plot_gallery(
            images.numpy(),
            maps,
            self.network.map_names,
            titles,
            [max(limits[name], 1e-12) for name in self.network.map_names],
            self.output_dir / "gallery.png",
        )


def _first_file(item: dict[str, Any]) -> str:
    return item["image"][0] if isinstance(item["image"], (list, tuple)) else item["image"]
