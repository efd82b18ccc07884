"""The model that scores an archive, and what its result depends on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from monai_ddad import __version__
from monai_ddad.bundle import weights_file
from monai_ddad.io.checkpoints import CheckpointError
from monai_ddad.io.errors import DataError, root_cause
from monai_ddad.io.files import file_hash
from monai_ddad.serving.archive.listing import CHUNK, Listing
from monai_ddad.serving.predictor import Predictor

__all__ = ["load_predictor", "plan_of"]


def load_predictor(
    bundle: str | os.PathLike[str],
    models_dir: str | os.PathLike[str] | None,
    device: str | None,
    precision: str,
    alpha: float | None,
    score: str | None,
    runtime: str,
) -> Predictor:
    """Make the predictor of a bundle that a user has asked for; see :func:`monai_ddad.serving.archive.score_archive`.

    Raises:
        DataError: a setting is wrong.
        CheckpointError: nothing is trained there, or a file is damaged.
    """
    if not (Path(bundle) / "configs" / "inference.json").is_file():
        raise DataError("the bundle is no folder with configs/inference.json: give one such as bundles/ddad_cxr.")
    if alpha is not None and not 0 <= alpha <= 1:
        raise DataError(f"alpha must be a rate in [0, 1], got {alpha}.")
    settings: dict[str, Any] = {"alpha": alpha, "score": score}
    given = {name: value for name, value in settings.items() if value is not None}
    try:
        return Predictor(bundle, models_dir, _device(device), precision, runtime, **given)
    except CheckpointError:
        raise
    except (ImportError, RuntimeError, ValueError) as error:  # a setting; MONAI wraps those of the network
        reason = root_cause(error)
        if not isinstance(reason, (ImportError, ValueError)):
            raise
        raise DataError(str(reason)) from None


def _device(name: str | None) -> torch.device:
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        raise DataError(f"the device must be cpu, cuda or cuda with a number (cuda:1), got {name!r}.") from None
    if device.type not in ("cpu", "cuda"):
        raise DataError(f"the device must be cpu or cuda, got {device.type}.")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DataError("PyTorch finds no GPU: leave --device out, or give --device cpu.")
    if device.type == "cuda":
        number = torch.cuda.device_count()
        index = int(os.environ.get("LOCAL_RANK", "0")) % number if device.index is None else device.index
        if index >= number:
            raise DataError(f"PyTorch finds {number} GPUs, which count from 0, and the device is {name}.")
        return torch.device("cuda", index)
    return device


def plan_of(
    listing: Listing, predictor: Predictor, bundle: Path, models_dir: str | os.PathLike[str] | None
) -> dict[str, Any]:
    """Return what the result depends on; see :class:`~monai_ddad.serving.archive.parts.Parts`."""
    models = bundle / "models" if models_dir is None else Path(models_dir)
    return {
        "items": len(listing),
        "chunks": len(listing.chunks),
        "chunk_files": CHUNK,
        "listing": listing.digest(),
        "model": file_hash(weights_file(models)),
        "preparation": file_hash(bundle / "configs" / "inference.json"),
        "score": predictor.network.score,
        "notes": predictor.network.notes,
        "alpha": predictor.alpha,
        "device": predictor.device.type,
        "version": __version__,
    }
