"""Handler that writes what an evaluation found."""

from __future__ import annotations

import logging
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Events
from monai.engines.utils import IterationEvents

from monai_ddad.bundle import run_record
from monai_ddad.data.audit import Audit, check_scored
from monai_ddad.decision.decisions import Decisions, doubt_refinement, doubt_score
from monai_ddad.decision.finding import Finding, Judge
from monai_ddad.evaluation.gallery import GALLERY, Extremes, choose_rows, write_gallery
from monai_ddad.evaluation.image_scores import Evaluated
from monai_ddad.evaluation.plots import plot_gallery
from monai_ddad.evaluation.report import write_report
from monai_ddad.evaluation.results import Results
from monai_ddad.evaluation.tables import evaluate_scores, format_table, volume_scores, write_json, write_scores
from monai_ddad.io.checkpoints import CheckpointError
from monai_ddad.io.writing import write_table
from monai_ddad.networks import DDADModel
from monai_ddad.networks.calibration import LEVELS, smallest_alpha
from monai_ddad.transforms.eight_bit import eight_bits

__all__ = ["WriteEvaluation"]

logger = logging.getLogger(__name__)

FILES = {  # written here, by folder
    "": r"(scores|volumes|unreadable)\.csv|metrics\.json|gallery\.png|report\.html",
    "gallery": GALLERY,
}


class WriteEvaluation:
    """Write ``scores.csv``, ``metrics.json``, plots, pictures of decisions in ``gallery/`` and ``report.html``.

    Goes behind an :class:`.ImageScores` handler. Without both classes among the labels the metrics
    and ROC curves are left out. Volumes have a row for each slice in ``scores.csv`` and one of their own, with the
    mean and the highest score of their slices, in ``volumes.csv``; figures count a volume once. ``unreadable.csv``
    lists the items that could not be read, with the reason.
    All files take the place of earlier ones when all of them are complete.

    Args:
        network: the network that is evaluated.
        output_dir: folder of the files.
        run_file: ``run.json`` of the training, copied into ``metrics.json``.
        audit: checks of the data; where it holds copies of training images, figures without them are added. None
            checks what is scored by itself.
        dataset: the items that are scored, whose ``data`` name the files; None where no file is to be named.
        resamples: bootstrap samples of each interval.
        seed: seed of the bootstrap.
        gallery_size: most and least anomalous images to show, of each.
        file_names: add the images' paths to ``scores.csv``, ``unreadable.csv`` and ``report.html``; they may tell who a
            patient is.

    Raises:
        ValueError: ``gallery_size`` is less than 1.
        DataError: when the evaluation ends, nothing could be read.
    """

    def __init__(
        self,
        network: DDADModel,
        output_dir: str,
        run_file: str,
        audit: Audit | None = None,
        dataset: Any = None,
        resamples: int = 1000,
        seed: int = 0,
        gallery_size: int = 6,
        file_names: bool = False,
    ) -> None:
        if gallery_size < 1:
            raise ValueError(f"gallery_size must be at least 1, got {gallery_size}.")
        self.network = network
        self.output_dir = Path(output_dir)
        self.run_file = Path(run_file)
        self.audit = audit
        self.dataset = dataset
        self.resamples = resamples
        self.seed = seed
        self.gallery_size = gallery_size
        self.file_names = file_names

    def attach(self, engine: Any) -> None:
        """Attach to an :class:`~monai_ddad.evaluation.ItemEvaluator`, behind an :class:`ImageScores` handler."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self.collect)
        engine.add_event_handler(Events.COMPLETED, self.write)

    def start(self, engine: Any) -> None:
        """Start the clock, and make room for files beside those of an earlier evaluation."""
        self._started = time.perf_counter()
        self._results = Results.join(engine, self, self.output_dir, FILES)
        self._extremes = Extremes[tuple[torch.Tensor, torch.Tensor]](2 * self.gallery_size)
        self._labels: list[int] = []

    def collect(self, engine: Any) -> None:
        """Keep images and maps that may be shown."""
        column = self.network.score_names.index(self.network.score)
        for found in engine.state.findings:
            if isinstance(found, Finding):
                label = found.item.data.get("label")
                shown = -1 if label is None or (label == 1 and found.item.is_volume) else label  # not in every slice
                for row, score in enumerate(found.scores[:, column].tolist()):
                    kept = partial(_copies, found.images, found.maps, row)  # a view would hold the whole volume
                    self._extremes.add(len(self._labels), shown, score, kept)
                    self._labels.append(shown)

    def write(self, engine: Any) -> None:
        """Write all files and log the table."""
        with self._results as folder:
            self._write(engine, folder)
        self._results.leave(self)
        logger.info("report.html, scores.csv, metrics.json and the plots are written to the evaluation folder.")

    def _write(self, engine: Any, folder: Path) -> None:
        seconds = time.perf_counter() - self._started
        scores, seen, judge = engine.state.scores, engine.state.evaluated, engine.judge
        audit = self.audit or Audit(check_scored(seen.items, seen.errors, seen.constant, seen.digests))
        decisions = judge.decide(seen.scores)
        flags = self._write_tables(folder, scores, seen, decisions, audit)
        figures = self._figures(scores, seen, decisions, flags)
        volumes, of_volumes = self._write_volumes(folder, scores, seen, judge)
        figures |= of_volumes
        run, unknown = self._training()
        warnings = [*self._warnings(scores), *filter(None, [unknown])]
        for warning in warnings if self.audit else [*audit.warnings, *warnings]:
            logger.warning(warning)
        content = {
            "splits": figures,
            "pixels": getattr(engine.state, "pixel_metrics", {}),
            "intervals": f"95 %, bootstrap of {self.resamples} samples within each class",
            "images": {
                "scored": len(scores["index"]),
                "sha256": seen.sha256,
                "left_out": dict(getattr(self.dataset, "left_out", {})),
            },
            "score": self.network.score,
            "left_out": self.network.left_out,
            "map": self.network.shown_map,
            "backbone": self.network.discrepancy.settings.backbone,
            "decision": decisions.summary() if decisions else None,
            "volume_decision": volumes.summary() if volumes else None,
            "protocol_checked": self.network.protocol.fitted,
            "out_of_protocol": dict(Counter(filter(None, seen.out_of_protocol))),
            "warnings": [*audit.warnings, *warnings],
            "evaluation_seconds": round(seconds, 2),
            "training": run,
        }
        write_json(content, folder / "metrics.json")

        if figures["all"]["scores"]:
            logger.info("Image-level figures with 95 % bootstrap intervals:\n" + format_table(figures))
        self._plot_gallery(folder, scores, seen)
        self._write_gallery(folder, scores, decisions)
        write_report(folder)
        if decisions is None:
            logger.info("No known normals were set aside for calibration: there are no p-values and no flags.")
        self._log_decisions("images", decisions)
        self._log_decisions("volumes", volumes)
        for why, number in Counter(filter(None, seen.out_of_protocol)).items():
            logger.warning(f"{number} images are out of protocol: {why}.")

    def _training(self) -> tuple[dict[str, Any], str]:
        """Return the record of the training, empty where there is none of the model, and what is wrong with it."""
        try:
            return (run_record(self.run_file.parent) if self.run_file.exists() else {}), ""
        except (CheckpointError, OSError) as error:
            reason = str(error) if isinstance(error, CheckpointError) else "run.json cannot be read any more."
            return {}, f"The report says nothing of the training: {reason}"

    def _warnings(self, scores: dict[str, np.ndarray]) -> list[str]:
        """Say which scores could not be learnt, and what the scores themselves tell against them."""
        network, refined = self.network, self.network.map_names[0]
        found = [doubt_score(network.score, scores[network.score])]
        if network.discrepancy.asr is not None and refined in scores and "inter" in scores:
            found.append(doubt_refinement(scores[refined], scores["inter"], network.score == refined))
        return [*network.notes, *filter(None, found)]

    def _write_tables(
        self,
        folder: Path,
        scores: dict[str, np.ndarray],
        seen: Evaluated,
        decisions: Decisions | None,
        audit: Audit,
    ) -> dict[str, np.ndarray]:
        """Write ``scores.csv`` and ``unreadable.csv``; return which images are copies, by the kind of copy."""
        flags = {"duplicate": audit.duplicate, "near_copy": audit.near_copy}
        copies = {name: np.array(values, dtype=int) for name, values in flags.items() if any(values)}
        columns: dict[str, Any] = {"position": seen.positions}
        if any(part is not None for part in seen.slices):
            columns["slice"] = seen.slices
        columns |= copies
        if self.file_names:
            columns["image"] = [_first_file(self.dataset.data[position]) for position in seen.positions]
        further = _decision_columns(decisions) | {"out_of_protocol": seen.out_of_protocol}
        write_scores(scores, self.network.score_names, folder / "scores.csv", columns, further)
        write_table(
            ["position", "reason", *(["image"] if self.file_names else [])],
            [
                [position, reason, *([_first_file(self.dataset.data[position])] if self.file_names else [])]
                for position, reason in sorted(seen.errors.items())
            ],
            folder / "unreadable.csv",
        )
        return copies

    def _figures(
        self,
        scores: dict[str, np.ndarray],
        seen: Evaluated,
        decisions: Decisions | None,
        copies: dict[str, np.ndarray],
    ) -> dict[str, Any]:
        """Compute the figures of each split; slices count by volume."""
        names = self.network.score_names
        pictures = np.array([part is None for part in seen.slices], dtype=bool)
        splits = {"all": pictures}
        for name, split in (("duplicate", "without_duplicates"), ("near_copy", "without_near_copies")):
            if name in copies:
                splits[split] = pictures & (copies[name] == 0)
        found = decisions.p_values if decisions else None
        return {
            split: evaluate_scores(scores, names, keep, self.resamples, self.seed, found)
            for split, keep in splits.items()
        }

    def _write_volumes(
        self, folder: Path, scores: dict[str, np.ndarray], seen: Evaluated, judge: Judge
    ) -> tuple[Decisions | None, dict[str, Any]]:
        """Write ``volumes.csv``, where there are any; return what is decided on them, and their figures."""
        if all(part is None for part in seen.slices):
            return None, {}
        names = self.network.score_names
        joined = volume_scores(scores, names, seen.volumes)
        decisions = judge.decide(np.stack([joined[name] for name in names], axis=1), volumes=True)
        write_scores(
            joined,
            [*names, "slices", *(f"{name}_max" for name in names)],
            folder / "volumes.csv",
            {"position": range(seen.items)},
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

    def _write_gallery(self, folder: Path, scores: dict[str, np.ndarray], decisions: Decisions | None) -> None:
        """Write pictures of right and wrong decisions for the report."""
        score, kept = self.network.score, self._extremes.kept
        flagged = decisions.flagged if decisions else None
        rows = choose_rows(scores[score], np.array(self._labels), flagged, 2 * self.gallery_size)
        channel = self.network.map_names.index(self.network.shown_map)
        images = torch.stack([eight_bits(kept[row][0]) for row in rows])
        maps = torch.stack([kept[row][1][channel] for row in rows]).numpy()
        write_gallery(images, self.network.calibration.map_percentiles(maps, channel), rows, folder / "gallery")

    def _plot_gallery(self, folder: Path, scores: dict[str, np.ndarray], seen: Evaluated) -> None:
        score, kept = self.network.score, self._extremes.kept
        ranked = np.argsort(-scores[score], kind="stable")
        size = min(self.gallery_size, len(ranked) // 2) or len(ranked)
        chosen = np.unique(np.r_[ranked[:size], ranked[-size:]], return_index=True)
        rows = chosen[0][np.argsort(chosen[1])].tolist()
        images, maps = (torch.stack(parts).numpy() for parts in zip(*[kept[row] for row in rows]))
        kinds = {0: "normal", 1: "abnormal", -1: ""}
        parts = zip(seen.positions, seen.slices)
        places = [f"{position}" if part is None else f"{position}/{part}" for position, part in parts]
        titles = [f"{places[row]} {kinds[int(scores['label'][row])]}\n{score} {scores[score][row]:.4f}" for row in rows]
        limits = self.network.calibration.map_quantiles[:, LEVELS.index(99.9)].cpu().numpy()
        limits = np.where(limits > 0, limits, maps.max(axis=(0, 2, 3)))
        plot_gallery(
            images, maps, self.network.map_names, titles, np.maximum(limits, 1e-12).tolist(), folder / "gallery.png"
        )


def _copies(images: torch.Tensor, maps: torch.Tensor, row: int) -> tuple[torch.Tensor, torch.Tensor]:
    return images[row].clone(), maps[row].clone()


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
