"""Handler that writes what an evaluation found."""

from __future__ import annotations

import hashlib
import logging
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Events

from monai_ddad.bundle import run_record
from monai_ddad.calibration import LEVELS, NormalScores, smallest_alpha
from monai_ddad.checkpoints import CheckpointError
from monai_ddad.data.audit import Audit
from monai_ddad.data.resident import ResidentDataset, normalise
from monai_ddad.handlers.results import Results
from monai_ddad.networks import DDADNet
from monai_ddad.outputs import (
    GALLERY,
    Decisions,
    choose_rows,
    decide,
    doubt_refinement,
    doubt_score,
    evaluate_scores,
    format_table,
    plot_gallery,
    volume_scores,
    write_gallery,
    write_json,
    write_scores,
)
from monai_ddad.report import write_report
from monai_ddad.writing import write_table

__all__ = ["WriteEvaluation"]

logger = logging.getLogger(__name__)

FILES = {  # written here, by folder
    "": r"(scores|volumes|unreadable)\.csv|metrics\.json|gallery\.png|report\.html",
    "gallery": GALLERY,
}


class WriteEvaluation:
    """Write ``scores.csv``, ``metrics.json``, plots, pictures of decisions in ``gallery/`` and ``report.html``.

    Goes behind an :class:`~monai_ddad.handlers.ImageScores` handler. Without both classes among the labels the metrics
    and ROC curves are left out. Volumes have a row for each slice in ``scores.csv`` and one of their own, with the
    mean and the highest score of their slices, in ``volumes.csv``; figures count a volume once. ``unreadable.csv``
    lists the items that could not be read, with the reason, also those of which that is true after they were scored.
    All files take the place of earlier ones when all of them are complete.

    Args:
        network: the network that is evaluated.
        dataset: the images that are scored.
        output_dir: folder of the files.
        run_file: ``run.json`` of the training, copied into ``metrics.json``.
        audit: checks of the data; where it holds copies of training images, figures without them are added.
        resamples: bootstrap samples of each interval.
        seed: seed of the bootstrap.
        gallery_size: most and least anomalous images to show, of each.
        alpha: false-positive rate at which an image is flagged; None takes the model's own.
        file_names: add the images' paths to ``scores.csv``, ``unreadable.csv`` and ``report.html``; they may tell who a
            patient is.

    Raises:
        ValueError: ``alpha`` is outside [0, 1].
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
        alpha: float | None = None,
        file_names: bool = False,
    ) -> None:
        if alpha is not None and not 0 <= alpha <= 1:
            raise ValueError(f"alpha must be in [0, 1], got {alpha}.")
        self.network = network
        self.dataset = dataset
        self.output_dir = Path(output_dir)
        self.run_file = Path(run_file)
        self.audit = audit
        self.resamples = resamples
        self.seed = seed
        self.gallery_size = gallery_size
        self.alpha = alpha
        self.file_names = file_names

    def attach(self, engine: Any) -> None:
        """Attach to an evaluator."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.COMPLETED, self.write)

    def start(self, engine: Any) -> None:
        """Start the clock, and make room for files beside those of an earlier evaluation."""
        self._started = time.perf_counter()
        self._results = Results.join(engine, self, self.output_dir, FILES)

    def write(self, engine: Any) -> None:
        """Write all files and log the table."""
        with self._results as folder:
            self._write(engine, folder)
        self._results.leave(self)
        logger.info("report.html, scores.csv, metrics.json and the plots are written to the evaluation folder.")

    def _write(self, engine: Any, folder: Path) -> None:
        seconds = time.perf_counter() - self._started
        scores, strange = engine.state.scores, engine.state.out_of_protocol
        decisions = self._decide(scores, self.network.calibration.images)
        flags = self._write_tables(folder, scores, decisions, strange)
        figures = self._figures(scores, decisions, flags)
        volumes, of_volumes = self._write_volumes(folder, scores)
        figures |= of_volumes
        run, unknown = self._training()
        warnings = [*self._warnings(scores), *filter(None, (unknown, self._lost()))]
        for warning in warnings:
            logger.warning(warning)
        content = {
            "splits": figures,
            "pixels": getattr(engine.state, "pixel_metrics", {}),
            "intervals": f"95 %, bootstrap of {self.resamples} samples within each class",
            "images": {
                "scored": len(scores["index"]),
                "sha256": hashlib.sha256(self.dataset.images.numpy().tobytes()).hexdigest(),
                "left_out": dict(self.dataset.left_out),
            },
            "score": self.network.score,
            "left_out": self.network.left_out,
            "map": self.network.shown_map,
            "decision": decisions.summary() if decisions else None,
            "volume_decision": volumes.summary() if volumes else None,
            "protocol_checked": self.network.protocol.fitted,
            "out_of_protocol": dict(Counter(filter(None, strange))),
            "warnings": [*self.audit.warnings, *warnings],
            "evaluation_seconds": round(seconds, 2),
            "training": run,
        }
        write_json(content, folder / "metrics.json")

        if figures["all"]["scores"]:
            logger.info("Image-level figures with 95 % bootstrap intervals:\n" + format_table(figures))
        self._plot_gallery(folder, scores)
        self._write_gallery(folder, scores, decisions)
        write_report(folder)
        if decisions is None:
            logger.info("No known normals were set aside for calibration: there are no p-values and no flags.")
        self._log_decisions("images", decisions)
        self._log_decisions("volumes", volumes)
        for why, number in Counter(filter(None, strange)).items():
            logger.warning(f"{number} images are out of protocol: {why}.")

    def _training(self) -> tuple[dict[str, Any], str]:
        """Return the record of the training, empty where there is none of the model, and what is wrong with it."""
        try:
            return (run_record(self.run_file.parent) if self.run_file.exists() else {}), ""
        except (CheckpointError, OSError) as error:
            reason = str(error) if isinstance(error, CheckpointError) else "run.json cannot be read any more."
            return {}, f"The report says nothing of the training: {reason}"

    def _lost(self) -> str:
        lost = len(self.dataset.lost)
        if not lost:
            return ""
        return (
            f"{lost} of {len(self.dataset.data)} items went or changed after they were scored: their scores are kept, "
            "and unreadable.csv says what is missing."
        )

    def _warnings(self, scores: dict[str, np.ndarray]) -> list[str]:
        """Say which scores could not be learnt, and what the scores themselves tell against them."""
        network, refined = self.network, self.network.map_names[0]
        found = [doubt_score(network.score, scores[network.score])]
        if network.asr is not None and refined in scores and "inter" in scores:
            found.append(doubt_refinement(scores[refined], scores["inter"], network.score == refined))
        return [*network.notes, *filter(None, found)]

    def _write_tables(
        self, folder: Path, scores: dict[str, np.ndarray], decisions: Decisions | None, strange: list[str]
    ) -> dict[str, np.ndarray]:
        """Write ``scores.csv`` and ``unreadable.csv``; return which images are copies, by the kind of copy."""
        flags = {"duplicate": self.audit.duplicate, "near_copy": self.audit.near_copy}
        copies = {name: np.array(values, dtype=int) for name, values in flags.items() if any(values)}
        columns: dict[str, Any] = {"position": self.dataset.positions}
        if any(part is not None for part in self.dataset.slices):
            columns["slice"] = self.dataset.slices
        columns |= copies
        if self.file_names:
            columns["image"] = [_first_file(self.dataset.data[position]) for position in self.dataset.positions]
        further = _decision_columns(decisions) | {"out_of_protocol": strange}
        write_scores(scores, self.network.score_names, folder / "scores.csv", columns, further)
        write_table(
            ["position", "reason", *(["image"] if self.file_names else [])],
            [
                [position, reason, *([_first_file(self.dataset.data[position])] if self.file_names else [])]
                for position, reason in sorted((self.dataset.errors | self.dataset.lost).items())
            ],
            folder / "unreadable.csv",
        )
        return copies

    def _figures(
        self, scores: dict[str, np.ndarray], decisions: Decisions | None, copies: dict[str, np.ndarray]
    ) -> dict[str, Any]:
        """Compute the figures of each split; slices count by volume."""
        names = self.network.score_names
        pictures = np.array([self.dataset.slices[index] is None for index in scores["index"]])
        splits = {"all": pictures}
        for name, split in (("duplicate", "without_duplicates"), ("near_copy", "without_near_copies")):
            if name in copies:
                splits[split] = pictures & (copies[name][scores["index"]] == 0)
        found = decisions.p_values if decisions else None
        return {
            split: evaluate_scores(scores, names, keep, self.resamples, self.seed, found)
            for split, keep in splits.items()
        }

    def _write_volumes(self, folder: Path, scores: dict[str, np.ndarray]) -> tuple[Decisions | None, dict[str, Any]]:
        """Write ``volumes.csv``, where there are any; return what is decided on them, and their figures."""
        volumes = [None if part is None else i for i, part in zip(self.dataset.positions, self.dataset.slices)]
        if all(volumes[index] is None for index in scores["index"]):
            return None, {}
        names = self.network.score_names
        joined = volume_scores(scores, names, volumes)
        decisions = self._decide(joined, self.network.calibration.volumes)
        write_scores(
            joined,
            [*names, "slices", *(f"{name}_max" for name in names)],
            folder / "volumes.csv",
            {"position": range(len(self.dataset.data))},
            _decision_columns(decisions),
        )
        found = decisions.p_values if decisions else None
        figures = evaluate_scores(joined, names, joined["label"] >= 0, self.resamples, self.seed, found)
        return decisions, {"volumes": figures}

    def _log_decisions(self, what: str, decisions: Decisions | None) -> None:
        if decisions is None:
            return
        groups = f" of {decisions.groups} groups" if decisions.groups < decisions.normals else ""
        logger.info(
            f"{int(decisions.flagged.sum())} of {len(decisions.flagged)} {what} are flagged: their p-value by "
            f"{decisions.score} against {decisions.normals} calibration normals{groups} is at most {decisions.alpha:g}."
        )
        least = smallest_alpha(decisions.groups)
        if 0 < decisions.alpha < least:
            logger.warning(
                f"With calibration {what} of {decisions.groups} groups nothing is flagged at alpha "
                f"{decisions.alpha:g}: the smallest alpha that can is {least:.4f}."
            )

    def _decide(self, scores: dict[str, np.ndarray], normals: NormalScores) -> Decisions | None:
        """Decide on images or volumes; None where none were set aside for calibration."""
        if len(normals) == 0:
            return None
        alpha = self.network.calibration.rate if self.alpha is None else self.alpha
        return decide(scores, self.network.score_names, normals, self.network.score, alpha)

    def _write_gallery(self, folder: Path, scores: dict[str, np.ndarray], decisions: Decisions | None) -> None:
        """Write pictures of right and wrong decisions for the report."""
        score = self.network.score
        flagged = decisions.flagged if decisions else None
        volumes = np.array([self.dataset.slices[index] is not None for index in scores["index"]])
        labels = np.where(volumes & (scores["label"] == 1), -1, scores["label"])  # not every slice shows a lesion
        rows = choose_rows(scores[score], labels, flagged, 2 * self.gallery_size)
        images = self.dataset.images[torch.from_numpy(scores["index"][rows])]
        channel = self.network.map_names.index(self.network.shown_map)
        maps = self._maps(images)[:, channel]
        percentiles = self.network.calibration.map_percentiles(maps, channel)
        write_gallery(images, percentiles, rows, folder / "gallery")

    def _maps(self, images: torch.Tensor) -> np.ndarray:
        device = next(self.network.parameters()).device
        with torch.inference_mode():
            return self.network(normalise(images).to(device)).float().cpu().numpy()

    def _plot_gallery(self, folder: Path, scores: dict[str, np.ndarray]) -> None:
        score = self.network.score
        ranked = scores["index"][np.argsort(-scores[score], kind="stable")]
        size = min(self.gallery_size, len(ranked) // 2) or len(ranked)
        chosen = np.unique(np.r_[ranked[:size], ranked[-size:]], return_index=True)
        shown = chosen[0][np.argsort(chosen[1])]
        images = self.dataset.images[torch.from_numpy(shown)]
        maps = self._maps(images)
        rows = {index: row for row, index in enumerate(scores["index"])}
        kinds = {0: "normal", 1: "abnormal", -1: ""}
        parts = zip(self.dataset.positions, self.dataset.slices)
        places = [f"{position}" if part is None else f"{position}/{part}" for position, part in parts]
        titles = [
            f"{places[index]} {kinds[int(scores['label'][rows[index]])]}\n{score} {scores[score][rows[index]]:.4f}"
            for index in shown
        ]
        limits = self.network.calibration.map_quantiles[:, LEVELS.index(99.9)].cpu().numpy()
        limits = np.where(limits > 0, limits, maps.max(axis=(0, 2, 3)))
        plot_gallery(
            normalise(images).numpy(),
            maps,
            self.network.map_names,
            titles,
            np.maximum(limits, 1e-12).tolist(),
            folder / "gallery.png",
        )


def _decision_columns(decisions: Decisions | None) -> dict[str, Any]:
    if decisions is None:
        return {}
    return {
        "p_value": [f"{value:.6g}" for value in decisions.p_values[decisions.score]],
        "percentile": [f"{value:.6g}" for value in decisions.percentile],
        "flagged": decisions.flagged.astype(int),
    }


def _first_file(item: dict[str, Any]) -> str:
    return item["image"][0] if isinstance(item["image"], (list, tuple)) else item["image"]
