"""What a model needs to be used rightly, as a text inside its own file, and the form that this text must have."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import jsonschema
import torch

from monai_ddad.io.checkpoints import RECORD_KEY, CheckpointError

__all__ = ["FEATURES", "SETTINGS", "ModelRecord", "check_form", "parse_json"]

FORMAT = 1
COUNTS = ("calibration_images", "calibration_volumes")
SIZE = 8192  # bytes of the text, filled up with blanks, so that records of all models have one shape

NAME = {"type": "string", "pattern": "^[a-z_]{1,32}\\Z"}
NAMES = {"type": "array", "minItems": 1, "maxItems": 32, "items": NAME}
KINDS = {
    "anyOf": [
        {"enum": [None, "any"]},
        {"type": "array", "maxItems": 32, "items": {"type": "string", "pattern": "^[A-Z0-9_ ]{1,16}\\Z"}},
    ]
}
RANGE = {"type": "array", "minItems": 2, "maxItems": 2, "items": {"type": "number", "minimum": 0, "maximum": 100}}


def _whole(least: int, most: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": least, "maximum": most}


def _number(least: float, most: float) -> dict[str, Any]:
    return {"type": "number", "minimum": least, "maximum": most}


def _object(properties: dict[str, Any], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


SETTINGS = _object(
    {
        "backbone": {"enum": ["AE", "AE-U", "MemAE"]},
        "members": _whole(1, 64),
        "refine": {"enum": ["dual", "intra", "none"]},
        "in_channels": _whole(1, 16),
        "image_size": _whole(1, 1024),
        "latent_size": _whole(1, 4096),
        "width": _whole(1, 512),
        "hidden_size": _whole(1, 65536),
        "memory_slots": _whole(1, 65536),
        "shrink_threshold": _number(0, 1),
        "entropy_weight": _number(0, 1000),
        "masked": {"type": "boolean"},
        "z_map": {"enum": ["none", "inter", "intra", "rec"]},
        "scores": {"enum": ["paper", "plus"]},
    },
    optional=("memory_slots", "shrink_threshold", "entropy_weight"),  # of MemAE
)
FEATURES = _object(
    {
        "backbone": {"const": "features"},
        "encoder": {"type": "string", "pattern": "^[A-Za-z0-9_.-]{1,100}\\Z"},
        "encoder_digest": {"type": "string", "pattern": "^([a-f0-9]{64}|random weights, seed [0-9]{1,10})?\\Z"},
        "in_channels": {"enum": [1, 3]},
        "image_size": _whole(32, 1024),
        "masked": {"type": "boolean"},
        "refine": {"enum": ["inter", "none"]},
    }
)
DECIDING = _object(
    {
        "score": NAME,
        "wanted_score": NAME,
        "left_out": {
            "type": "object",
            "maxProperties": 32,
            "propertyNames": NAME,
            "additionalProperties": {"type": "string", "pattern": "^[A-Za-z][A-Za-z0-9 ,.()-]{0,299}\\Z"},
        },
        "calibration_images": _whole(0, 10**7),
        "calibration_volumes": _whole(0, 10**7),
    },
)
PREPARATION = {
    "preprocess": {"enum": ["plain", "modality"]},
    "modalities": KINDS,
    "body_parts": KINDS,
    "deviations": _number(0, 1000),
    "margin": _number(0, 10),
    "slice_area": _number(0, 1),
    "slice_height": _number(0, 10000),
    "percentiles": {"anyOf": [{"type": "null"}, RANGE]},
    "clahe": {"anyOf": [{"type": "null"}, _number(0, 1)]},
    "channels": {"enum": ["luminance", "green", "rgb"]},
}


def _joined(*parts: dict[str, Any]) -> dict[str, Any]:
    """Return the form of an object that has the properties of several."""
    properties = {name: value for part in parts for name, value in part["properties"].items()}
    required = [name for part in parts for name in part["required"]]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _record(network: dict[str, Any]) -> dict[str, Any]:
    return _object(
        {
            "format": {"const": FORMAT},
            "bundle": {"type": "string", "pattern": "^([A-Za-z0-9][A-Za-z0-9_.-]{0,63})?\\Z"},
            "network": _joined(network, DECIDING),
            "preparation": _object(PREPARATION, optional=tuple(PREPARATION)),
            "map_names": NAMES,
            "score_names": NAMES,
        }
    )


SCHEMAS = {"ensembles": _record(SETTINGS), "features": _record(FEATURES)}
TYPES = jsonschema.Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
Validator = jsonschema.validators.extend(jsonschema.Draft202012Validator, type_checker=TYPES)


def check_form(content: Any, schema: dict[str, Any], what: str) -> None:
    """Compare parsed JSON with a schema, in which 1.0 and true are no integers.

    Args:
        content: what was parsed.
        schema: JSON schema.
        what: name of the content for the message.

    Raises:
        ValueError: it has another form; the message names the place and what is expected there.

    Example:
        >>> check_form({"members": 10_000}, {"properties": {"members": {"maximum": 64}}}, "the record")
        Traceback (most recent call last):
        ...
        ValueError: the record is not valid: members must keep to maximum 64.
    """
    error = jsonschema.exceptions.best_match(Validator(schema).iter_errors(content))
    if error is not None:
        place = ".".join(str(part) for part in error.absolute_path) or "its content"
        raise ValueError(
            f"{what} is not valid: {place} must keep to {error.validator} {str(error.validator_value)[:200]}."
        )


@dataclass(frozen=True)
class ModelRecord:
    """What tells how images are prepared for a model and scored by it.

    Attributes:
        bundle: name of the bundle that the model was trained by; empty of a network that no bundle has made.
        network: settings of the network and of its scores by name, see
            :func:`~monai_ddad.networks.build_model`.
        preparation: settings of the bundle's preparation of images by name.
        map_names, score_names: names of the network's maps and scores.

    Raises:
        ValueError: a value is not one that a model may have.
    """

    bundle: str
    network: dict[str, Any]
    preparation: dict[str, Any]
    map_names: list[str]
    score_names: list[str]

    def __post_init__(self) -> None:
        try:
            content = json.loads(json.dumps({"format": FORMAT, **asdict(self)}, allow_nan=False))
        except (TypeError, ValueError):
            raise ValueError("the model's settings must be finite numbers, text, and lists of them.") from None
        check_form(content, _schema(content), "the model's record")
        if self.network["score"] not in self.score_names:
            raise ValueError(f"the model's record is not valid: {self.network['score']} is none of its scores.")
        object.__setattr__(self, "preparation", content["preparation"])  # lists, where tuples were given

    @property
    def least_bytes(self) -> int:
        """Bytes that the weights of such a model have at least, by the largest layers of its autoencoders."""
        size = self.network
        if size["backbone"] == "features":
            return 4 * len(self.score_names) * (size["calibration_images"] + size["calibration_volumes"])
        width, hidden = size["width"], size["hidden_size"]
        linear = hidden * (4 * width * (size["image_size"] // 16) ** 2 + size["latent_size"])
        member = 2 * linear + 32 * 26 * width**2 + size.get("memory_slots", 0) * size["latent_size"]
        normals = len(self.score_names) * (size["calibration_images"] + size["calibration_volumes"])
        z_map = 0 if size["z_map"] == "none" else size["image_size"] ** 2
        return 4 * (2 * size["members"] * member + 2 * normals + 2 * z_map)

    def text(self) -> str:
        """Return it as JSON in ASCII, filled up with blanks to the length that all records have.

        Raises:
            ValueError: it is too long.
        """
        text = json.dumps({"format": FORMAT, **asdict(self)})
        if len(text) > SIZE:
            raise ValueError(f"the model's record has {len(text)} bytes, at most {SIZE} are possible.")
        return text.ljust(SIZE)

    def tensor(self) -> torch.Tensor:
        """Return its text as uint8, as which it stands among a model's weights."""
        return torch.frombuffer(bytearray(self.text().encode()), dtype=torch.uint8)

    @classmethod
    def parse(cls, text: str | bytes) -> ModelRecord:
        """Return the record that :meth:`text` wrote.

        Raises:
            CheckpointError: it is damaged, of another version of the format, or asks for what no model may have.
        """
        try:
            content = parse_json(text)
        except ValueError:
            raise CheckpointError(
                "the model's record is damaged: take another copy of the file, or train again."
            ) from None
        try:
            check_form(content, _schema(content), "the model's record")
            del content["format"]
            return cls(**content)
        except ValueError as error:
            raise CheckpointError(str(error)) from None

    @classmethod
    def of(cls, weights: Mapping[str, Any]) -> ModelRecord:
        """Return the record that stands among a model's weights.

        Args:
            weights: the state dict of a :class:`~monai_ddad.networks.DDADModel`.

        Raises:
            CheckpointError: there is none, or see :meth:`parse`.
        """
        found = weights.get(RECORD_KEY)
        if found is None:
            raise CheckpointError(
                "the file holds no model's record, which says how images are prepared and scored: it is no model of a "
                "bundle's training. Train with train.json."
            )
        if not isinstance(found, torch.Tensor) or found.dtype != torch.uint8 or found.shape != (SIZE,):
            raise CheckpointError("the model's record is damaged: take another copy of the file, or train again.")
        return cls.parse(found.cpu().numpy().tobytes())

    def require_bundle(self, bundle: str) -> None:
        """Check that a bundle may use the model.

        Raises:
            CheckpointError: it was trained by another one.
        """
        if self.bundle != bundle:
            of = f"bundle {self.bundle}" if self.bundle else "no bundle"
            raise CheckpointError(
                f"the model is of {of} and cannot be used by {bundle}: give the bundle that trained it."
            )


def _schema(content: Any) -> dict[str, Any]:
    """Return the form that a record must have, by the kind of its network."""
    network = content.get("network") if isinstance(content, dict) else None
    features = isinstance(network, dict) and network.get("backbone") == "features"
    return SCHEMAS["features" if features else "ensembles"]


def parse_json(text: str | bytes) -> Any:
    """Parse JSON whose numbers are finite.

    Raises:
        ValueError: it is no such JSON, or is nested too deeply.
    """

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no number.")

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError:
        raise ValueError("it is nested too deeply.") from None
