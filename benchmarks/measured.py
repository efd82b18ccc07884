"""What a method of anomaly detection gives and costs, each method in a process of its own."""

from __future__ import annotations

import importlib
import multiprocessing
import re
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from monai_ddad.io.checkpoints import load_file

__all__ = ["Fit", "Method", "Score", "Settings", "measure", "measure_apart", "peak_memory"]

BATCH = 64  # images at a time
PRELOADED = ("monai_ddad.training", "monai_ddad.serving.predictor", "sklearn.decomposition", "sklearn.neighbors")


@dataclass(frozen=True)
class Settings:
    """How methods that need it are trained.

    Attributes:
        seed: of all that is drawn.
        epochs, batch_size, learning_rate, precision: as in the bundles' ``train.json``.
        latent_size, width, hidden_size: see :class:`monai_ddad.networks.AE`.
        backbone_weights: file of a ResNet-18's state dict for PaDiM and PatchCore; None draws random weights.
    """

    seed: int
    epochs: int
    batch_size: int
    learning_rate: float
    precision: str
    latent_size: int
    width: int
    hidden_size: int
    backbone_weights: str | None = None


Score = Callable[[torch.Tensor], np.ndarray]  # (N, C, H, W) uint8 -> (N,), higher is more abnormal
Fit = Callable[[torch.Tensor, torch.Tensor, Settings], Score]  # known normals and unlabelled images, uint8


@dataclass(frozen=True)
class Method:
    """A method to compare with.

    Attributes:
        fit: learns from images; a function of a module, or a partial one, since it runs in another process.
        needs: module that it imports beyond those of this package; empty if none.
    """

    fit: Fit
    needs: str = ""


def measure(
    method: Method, known: torch.Tensor, pool: torch.Tensor, test: torch.Tensor, settings: Settings
) -> dict[str, Any]:
    """Train a method and score images with it, on one thread, 64 images at a time.

    Args:
        method: the method.
        known, pool, test: (N, C, H, W) uint8 known normals, unlabelled and test images.
        settings: how to train.

    Returns:
        ``scores``, one a test image; ``training_s``, processor time; ``image_ms``, processor time of scoring one;
        ``peak_mib``, see :func:`peak_memory`.

    Raises:
        ImportError: what the method needs is not installed.
        FloatingPointError: a score is not finite.
    """
    if method.needs:
        _require(method.needs)
    torch.set_num_threads(1)
    with threadpool_limits(1):
        start = time.process_time()
        score = method.fit(known, pool, settings)
        trained = time.process_time()
        score(test[:BATCH])  # what is done once
        begun = time.process_time()
        scores = np.concatenate([score(batch) for batch in test.split(BATCH)])
        scoring = time.process_time() - begun
    lost = int((~np.isfinite(scores)).sum())
    if lost:
        raise FloatingPointError(f"{lost} of {len(scores)} scores are not finite: train with a lower learning rate.")
    return {
        "scores": scores.astype(np.float64).tolist(),
        "training_s": trained - start,
        "image_ms": 1000 * scoring / len(test),
        "peak_mib": peak_memory(),
    }


def measure_apart(method: Method, images: Path, settings: Settings) -> dict[str, Any]:
    """Do what :func:`measure` does in a new process, so that memory is that of the method and the package alone.

    Args:
        method: the method.
        images: file of ``known``, ``pool`` and ``test``, by :func:`monai_ddad.io.checkpoints.save_file`.
        settings: how to train.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))  # imports once what takes seconds, and nothing is computed there
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_measure_file, method, str(images), asdict(settings)).result()


def _measure_file(method: Method, images: str, settings: dict[str, Any]) -> dict[str, Any]:
    parts = load_file(images)
    return measure(method, parts["known"], parts["pool"], parts["test"], Settings(**settings))


def peak_memory() -> float | None:
    """Return the most MiB that this process has held since it began; None where ``/proc`` does not tell.

    ``ru_maxrss`` would count what the process that started this one held.
    """
    status = Path("/proc/self/status")
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text() if status.exists() else "", re.MULTILINE)
    return int(found[1]) / 1024 if found else None


def _require(module: str) -> None:
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{module} cannot be imported ({error}): make .venv-compare/installed, and run .venv-compare/bin/python."
        ) from error
