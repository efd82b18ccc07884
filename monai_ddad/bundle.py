"""What the bundles' configs ask for: presets, what a model says of itself, and what may stand in a config."""

from __future__ import annotations

import inspect
import logging
import os
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import monai.bundle
import torch

from monai_ddad.io.checkpoints import CheckpointError, load_file
from monai_ddad.io.record import ModelRecord, check_form, parse_json
from monai_ddad.networks import DDADModel, FeatureSettings, Settings
from monai_ddad.networks.encoder import find_weights
from monai_ddad.program import is_served

logger = logging.getLogger(__name__)

EXPRESSION = re.compile(r"^\s*[$@%]|[@%](#|::)")  # text that MONAI's ConfigParser does not take as it is
KEY = re.compile(r"^[_$@%+~]|#|::")
MOST_VALUES = 10**5
MAX_RUN = 2**20  # bytes of run.json
COUNT = {"type": ["integer", "null"], "minimum": 0, "maximum": 10**9}
SHARE = {"type": ["number", "null"], "minimum": 0, "maximum": 1}
RATE = {"type": ["number", "null"], "minimum": 0}
WORD = {"type": "string", "pattern": r"^[A-Za-z0-9_.:-]{1,64}\Z"}
SETTINGS = {
    **dict.fromkeys(("unlabeled_size", "calibration_minimum", "seed"), COUNT),
    **dict.fromkeys(("epochs", "batch_size", "refine_epochs", "refine_batch_size"), COUNT),
    **dict.fromkeys(("alpha", "abnormal_rate", "calibration_share"), SHARE),
    **dict.fromkeys(("learning_rate", "refine_learning_rate"), RATE),
    **dict.fromkeys(("preset", "device", "precision"), WORD),
}
REPEATED = (
    "unlabeled_size",
    "abnormal_rate",
    "calibration_share",
    "calibration_minimum",
    "alpha",
    "seed",
)  # by an evaluation
RUN = {
    "type": "object",
    "required": ["bundle", "network", "preparation", "settings", "data"],
    "properties": {
        "bundle": {"type": "string"},
        "network": {"type": "object"},
        "preparation": {"type": "object"},
        "settings": {
            "type": "object",
            "properties": SETTINGS,
            "required": list(REPEATED),
            "additionalProperties": {"anyOf": [{"type": ["number", "boolean", "null"]}, WORD]},
        },
        "data": {"type": "object", "properties": {"sha256": WORD}, "required": ["sha256"]},
    },
}

__all__ = [
    "bundle_name",
    "choose_preset",
    "choose_square",
    "default_preset",
    "model_record",
    "network_settings",
    "preparation_settings",
    "refuse_expressions",
    "run_record",
    "weights_file",
]


def refuse_expressions(value: Any, name: str) -> Any:
    """Return a value that comes from a file, a request or an option, if MONAI's ``ConfigParser`` takes it as it is.

    Args:
        value: text, a number, None, or lists and dictionaries of them.
        name: of the value, for the message.

    Raises:
        ValueError: the value, or one in it, would be evaluated (``$``), resolved (``@``, ``%``) or made an object
            (``_target_``), or is of another type.

    Example:
        >>> refuse_expressions("ddad_plus", "score")
        'ddad_plus'
        >>> refuse_expressions(["$print(1)"], "score")
        Traceback (most recent call last):
        ...
        ValueError: score holds an expression, which MONAI would evaluate: give plain text or numbers.
    """
    waiting, seen = [value], 0
    while waiting:
        part = waiting.pop()
        seen += 1
        if isinstance(part, os.PathLike):
            part = os.fspath(part)
        if isinstance(part, dict):
            odd = any(not isinstance(key, str) or KEY.search(key) for key in part)
            waiting += part.values()
        elif isinstance(part, (list, tuple)):
            odd = False
            waiting += part
        else:
            odd = not isinstance(part, (str, int, float, type(None))) or bool(
                isinstance(part, str) and EXPRESSION.search(part)
            )
        if odd or seen > MOST_VALUES:
            raise ValueError(f"{name} holds an expression, which MONAI would evaluate: give plain text or numbers.")
    return value


def bundle_name(bundle: str | os.PathLike[str]) -> str:
    """Return the name by which a bundle's models know it, whatever its folder is called.

    Args:
        bundle: the bundle's folder, with ``configs/inference.json``.
    """
    return str(monai.bundle.ConfigParser.load_config_file(str(Path(bundle) / "configs" / "inference.json"))["bundle"])


def weights_file(models: Path) -> Path:
    """Return the file of a model in a folder: ``model.pt``, or ``model.ts`` where there is no other."""
    script = models / "model.ts"
    return script if script.is_file() and not (models / "model.pt").is_file() else models / "model.pt"


def model_record(models_dir: str | os.PathLike[str], bundle: str | None = None) -> ModelRecord:
    """Return what a trained model says of itself; it is checked before anything of what it asks for is built.

    Args:
        models_dir: folder of ``model.pt``, or of the ``model.ts`` made of it.
        bundle: name of the bundle that is to use the model; None takes any.

    Raises:
        CheckpointError: there is no model, it is damaged, it has no record, or it is of another bundle.
    """
    file = weights_file(Path(models_dir))
    if not file.is_file():
        raise CheckpointError(
            "there is no model in the models folder: train first, or give the folder of a model (models_dir), such as "
            "shipped in the bundle's folder, which was trained on public images."
        )
    weights = load_file(file)
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise CheckpointError("the model holds no state dict (names with tensors).")
    record = ModelRecord.of(weights)
    if bundle is not None:
        record.require_bundle(bundle)
    if record.least_bytes > sum(value.numel() * value.element_size() for value in weights.values()):
        raise CheckpointError("the model's record asks for more weights than the file holds: it is damaged.")
    return record


def network_settings(models_dir: str | os.PathLike[str], bundle: str | None = None) -> dict[str, Any]:
    """Return the arguments by which the network that was trained is built.

    Args:
        models_dir, bundle: see :func:`model_record`.

    Returns:
        what :func:`~monai_ddad.networks.build_model` takes; the defaults where nothing is trained yet.

    Raises:
        CheckpointError: see :func:`model_record`.

    Example:
        >>> network_settings("no such folder")["backbone"]
        'AE'
    """
    parameters = inspect.signature(DDADModel).parameters
    settings = asdict(FeatureSettings()) | asdict(Settings()) | {"encoder_file": None}
    settings |= {name: one.default for name, one in parameters.items() if name != "discrepancy"}
    if not weights_file(Path(models_dir)).exists():
        return settings
    record = model_record(models_dir, bundle)
    found = settings | record.network | {"bundle": record.bundle, "preparation": record.preparation}
    refuse_expressions(found, "the model's record")
    return found | {"encoder_file": find_weights(models_dir, found["encoder_digest"])}  # a path, which is no text


def choose_square(squares: dict[str, Any], preprocess: str) -> Any:
    """Return the transform that makes the network's square of a picture.

    Args:
        squares: the bundle's transforms by the name of the preparation.
        preprocess: name of one.

    Raises:
        ValueError: there is no such preparation.

    Example:
        >>> choose_square({"plain": "resized"}, "plain")
        'resized'
    """
    if preprocess not in squares:
        raise ValueError(f"preprocess must be one of {', '.join(squares)}, got {preprocess!r}.")
    return squares[preprocess]


def preparation_settings(trained: dict[str, Any], untrained: dict[str, Any]) -> dict[str, Any]:
    """Return how the images of the training were prepared.

    Args:
        trained: what :func:`network_settings` returned.
        untrained: the bundle's settings by name, as they are where nothing is trained yet.

    Raises:
        CheckpointError: the model was prepared by other settings than the bundle has.

    Example:
        >>> preparation_settings({"preparation": None}, {"preprocess": "plain"})
        {'preprocess': 'plain'}
    """
    found = trained["preparation"]
    if found is None:
        return untrained
    if found.keys() != untrained.keys():
        differing = ", ".join(sorted(found.keys() ^ untrained.keys()))
        raise CheckpointError(f"the model's images were prepared by other settings than the bundle has: {differing}.")
    return found


def run_record(models_dir: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what ``run.json`` says of the training: network, settings, epochs, data, versions.

    Nothing that decides how an image is scored is taken from it.

    Args:
        models_dir: folder of ``run.json``.

    Raises:
        CheckpointError: nothing is trained there yet, ``run.json`` is damaged, or of another run than the model beside
            it.
    """
    file = Path(models_dir) / "run.json"
    if not file.exists():
        raise CheckpointError("there is no run.json in the models folder: train first, or copy it with the model.")
    try:
        if not file.is_file() or file.stat().st_size > MAX_RUN:
            raise ValueError
        record = parse_json(file.read_text(encoding="utf-8"))
        check_form(record, RUN, "run.json")
    except (ValueError, RecursionError) as error:
        reason = str(error) if "run.json" in str(error) else "run.json is damaged"
        raise CheckpointError(f"{reason.rstrip('.')}: run train.json again.") from None
    if weights_file(Path(models_dir)).is_file():
        model = model_record(models_dir)
        found = [model.bundle, model.network, model.preparation]
        names = {name: value for name, value in record["network"].items() if name not in ("map_names", "score_names")}
        if found != [record["bundle"], names, record["preparation"]]:
            raise CheckpointError("run.json is of another run than the model beside it: copy both, or train again.")
    return record


def default_preset(dataset_dir: Any, models_dir: str) -> str:
    """Return the preset where none is given.

    Args:
        dataset_dir: what the user gave; None draws synthetic images, but in MONAI Label, which brings its own.
        models_dir: folder of the model, which MONAI Label trains on with the settings that it has.
    """
    if dataset_dir is None and not is_served():
        return "phantom"
    return "trained" if dataset_dir is None and weights_file(Path(models_dir)).is_file() else "features"


def choose_preset(presets: dict[str, dict[str, Any]], preset: str, models_dir: str = "") -> dict[str, Any]:
    """Return the settings of one preset.

    Args:
        presets: settings by preset; ``"like"`` names another one whose settings count where a preset has none.
        preset: name of the one to use; ``"trained"`` takes network and preparation of the model in ``models_dir`` and
            the settings of its training, and those of its kind where ``run.json`` does not say.
        models_dir: folder of ``model.pt`` and ``run.json``.

    Raises:
        CheckpointError: see :func:`model_record`.
        ValueError: there is no such preset.

    Example:
        >>> choose_preset({"paper": {"epochs": 250}}, "paper")
        {'epochs': 250}
    """
    if preset == "trained":
        model = model_record(models_dir)
        base = choose_preset(presets, "features" if model.network["backbone"] == "features" else "pixels")
        try:
            found = run_record(models_dir)["settings"]
            settings = {name: value for name, value in found.items() if value is not None}  # None had no effect
        except CheckpointError as error:
            logger.warning(f"The default settings of a training are used: {error}")
            settings = {}
        known = settings | model.network | model.preparation
        known["score"] = known["wanted_score"]  # where another one decided for want of images
        known["encoder_file"] = find_weights(models_dir, known.get("encoder_digest", ""))
        return {name: known.get(name, value) for name, value in base.items()}
    if preset not in presets:
        raise ValueError(f"preset must be one of {', '.join(presets)}, got {preset!r}.")
    chosen = presets[preset]
    return presets.get(chosen.get("like", ""), {}) | chosen
