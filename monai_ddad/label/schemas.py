"""What a request may say: every parameter of every route, with its type and its range.

A value that does not fit, and a name that is not here, is refused with status 422. What MONAI Label's own clients send
without effect on this app is taken, checked and left alone.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, ClassVar, Literal, Self

from fastapi import HTTPException
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, StringConstraints, ValidationError

__all__ = [
    "BatchParams",
    "InferParams",
    "Name",
    "Note",
    "SampleParams",
    "Text",
    "TrainAllParams",
    "TrainParams",
    "describe",
    "plain_name",
]

LONGEST = 255  # characters of a text
LONGEST_NAME = 200  # bytes; a file's name may have 255 with its suffix
PLAIN = re.compile(r"[\w@%+=:,.()\- ]+")  # nothing that leads out of a folder
EPOCHS = 10_000
DEEPEST = 8  # levels of a note
NO_EFFECT = "sent by clients, without effect here"


def plain_name(name: str) -> str:
    """Return the name of a new image or of a tag, which becomes one of a file or folder.

    Raises:
        ValueError: it could lead out of the datastore, or no file can be called so.

    Example:
        >>> plain_name("MR 1.2.3")
        'MR 1.2.3'
        >>> plain_name("../x")
        Traceback (most recent call last):
        ValueError: must be a plain name without folders, of at most 200 bytes
    """
    if not PLAIN.fullmatch(name) or not name.strip(". ") or len(name.encode()) > LONGEST_NAME:
        raise ValueError(f"must be a plain name without folders, of at most {LONGEST_NAME} bytes")
    return name


def result_tag(name: str) -> str:
    """Return the tag of a label that the model makes.

    Raises:
        ValueError: it is that of annotators' labels, from which the model learns.

    Example:
        >>> result_tag("original")
        'original'
    """
    if name == "final":
        raise ValueError("final is the tag of labels that annotators submit")
    return name


Text = Annotated[str, StringConstraints(max_length=LONGEST, pattern=r"^[^\x00-\x1f\x7f]*$")]
Name = Annotated[Text, AfterValidator(plain_name)]
ResultTag = Annotated[Name, AfterValidator(result_tag)]
Gpus = Annotated[str, StringConstraints(max_length=LONGEST, pattern=r"^(all|[0-9]{1,3}(,[0-9]{1,3})*)?$")]
Count = Annotated[int, Field(ge=-1, le=1_000_000)]


def describe(errors: list[Any]) -> str:
    """Say in one line which parameters are wrong, without the values that were sent.

    Args:
        errors: of pydantic.

    Example:
        >>> try:
        ...     TrainParams.model_validate({"epochs": "$1+1", "rounds": 2})
        ... except ValidationError as error:
        ...     describe(error.errors())
        'epochs: Input should be a valid integer; rounds: there is no such parameter'
    """
    said = []
    for error in errors:
        where = [str(part) for part in error["loc"]]
        where = where[1:] if len(where) > 1 and where[0] in ("body", "query", "path") else where
        name = "".join(letter if letter.isprintable() else "?" for letter in ".".join(where))[:100]
        unknown = error["type"] == "extra_forbidden"
        said.append(f"{name or 'the request'}: {'there is no such parameter' if unknown else error['msg']}")
    return "; ".join(said[:10])


class _Params(BaseModel):
    """Refuses what it does not name; a number is a number, and no text that looks like one."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True)
    used: ClassVar[tuple[str, ...]] = ()

    client_id: Text | None = None
    """Name of the client."""

    @classmethod
    def check(cls, request: dict[str, Any]) -> Self:
        """Return the parameters of a request that MONAI Label has put together for a task.

        Raises:
            HTTPException: 422, one is wrong.
        """
        try:
            return cls.model_validate(request)
        except ValidationError as error:
            raise HTTPException(status_code=422, detail=describe(error.errors())) from None

    @classmethod
    def read(cls, text: str, name: str) -> Self:
        """Return the parameters that a client sends as JSON in the field of a form.

        Raises:
            HTTPException: 422, one is wrong.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            errors = [{**part, "loc": (name, *part["loc"])} for part in error.errors()]
            raise HTTPException(status_code=422, detail=describe(errors)) from None

    def given(self) -> dict[str, Any]:
        """Return those with an effect that the client gave."""
        return self.model_dump(include=set(self.used), exclude_unset=True, exclude_none=True, mode="json")


class _TaskParams(_Params):
    model: Text | None = Field(default=None, description=NO_EFFECT)
    name: Text | None = Field(default=None, description=NO_EFFECT)
    device: Text | None = Field(default=None, description=NO_EFFECT)
    multi_gpu: bool | None = Field(default=None, description=NO_EFFECT)
    gpus: Gpus | None = None
    """Numbers of the GPUs that the process may see, such as ``0,1``, or ``all``."""
    local_rank: Count | None = Field(default=None, description=NO_EFFECT)
    logging: Literal["DEBUG", "INFO", "WARNING", "ERROR"] | None = Field(default=None, description=NO_EFFECT)


class TrainParams(_TaskParams):
    """Parameters of a training."""

    used: ClassVar[tuple[str, ...]] = ("epochs", "refine_epochs", "pretrained", "gpus")

    epochs: int = Field(default=50, ge=1, le=EPOCHS)
    """Of each autoencoder."""
    refine_epochs: int = Field(default=10, ge=1, le=EPOCHS)
    """Of the refinement."""
    pretrained: bool = True
    """Start from the served model."""
    max_epochs: Count | None = Field(default=None, description=NO_EFFECT)
    early_stop_patience: Count | None = Field(default=None, description=NO_EFFECT)
    val_split: float | None = Field(default=None, ge=-1, le=1, description=NO_EFFECT)
    train_batch_size: Count | None = Field(default=None, description=NO_EFFECT)
    val_batch_size: Count | None = Field(default=None, description=NO_EFFECT)
    dataset: Text | None = Field(default=None, description=NO_EFFECT)
    dataloader: Text | None = Field(default=None, description=NO_EFFECT)
    tracking: Text | None = Field(default=None, description=NO_EFFECT)
    tracking_uri: Text | None = Field(default=None, description=NO_EFFECT)
    tracking_experiment_name: Text | None = Field(default=None, description=NO_EFFECT)
    run_id: Text | None = Field(default=None, description=NO_EFFECT)
    model_filename: Text | None = Field(default=None, description=NO_EFFECT)


class TrainAllParams(_Params):
    """Parameters of the training by the name of the model, as OHIF sends them."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, TrainParams] = Field(init=False)

    def of(self, model: str) -> TrainParams:
        """Return those of a model.

        Raises:
            HTTPException: 422, there are some of another one.
        """
        given = self.__pydantic_extra__ or {}
        if others := sorted(set(given) - {model}):
            raise HTTPException(status_code=422, detail=describe([_error(name, "extra_forbidden") for name in others]))
        return given.get(model, TrainParams())


class InferParams(_TaskParams):
    """Parameters of an inference."""

    used: ClassVar[tuple[str, ...]] = ("map", "percentile", "save_label", "label_tag", "result_extension")

    map: Text | None = None
    """Name of the map, one of the model's."""
    percentile: float | None = Field(default=None, ge=0, lt=100)
    """Of normal pixels, above which a pixel belongs to the region."""
    save_label: bool | None = None
    """Keep the result as a label of the image."""
    label_tag: ResultTag | None = None
    """Tag of that label."""
    result_extension: Literal[".nii.gz", ".nii", ".nrrd", ".png"] | None = None
    """Format of the region; ``.nrrd`` alone changes something."""
    result_dtype: Literal["uint8", "uint16", "int16", "int32", "float32", "float64"] | None = Field(
        default=None, description=NO_EFFECT
    )
    result_compress: bool | None = Field(default=None, description=NO_EFFECT)
    restore_label_idx: bool | None = Field(default=None, description=NO_EFFECT)
    label_info: list[dict[Text, JsonValue]] | None = Field(default=None, max_length=LONGEST, description=NO_EFFECT)
    session_id: Text | None = Field(default=None, description=NO_EFFECT)


class BatchParams(_TaskParams):
    """Parameters of a batch inference."""

    used: ClassVar[tuple[str, ...]] = ("images", "max_batch_size", "save_label", "label_tag", "gpus")

    images: Literal["all", "labeled", "unlabeled"] | list[Text] | None = None
    """Which images, or their ids."""
    max_batch_size: int = Field(default=0, ge=0, le=10_000_000)
    """How many images at most; 0 takes all."""
    save_label: bool = True
    """Keep the regions as labels."""
    label_tag: ResultTag | None = None
    """Tag of the labels."""
    labels: list[Text] | None = Field(default=None, description=NO_EFFECT)
    max_workers: Count | None = Field(default=None, description=NO_EFFECT)


class SampleParams(_Params):
    """Parameters of an active learning strategy."""

    label_tag: Text | None = Field(default=None, description=NO_EFFECT)
    labels: list[Text] | None = Field(default=None, description=NO_EFFECT)


class _Handed(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    ts: int = Field(ge=0, le=2**53)
    client_id: Text | None = None


class Note(_Params):
    """What a client wants to be kept with an image or a label; it is given back and never interpreted."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[Text, JsonValue] = Field(init=False)
    # what the datastore itself writes
    own: ClassVar[tuple[str, ...]] = ("ts", "name", "path", "ddad_normal", "ddad_digest")

    strategy: dict[Text, _Handed] = Field(default_factory=dict)
    """When the image was handed out, by strategy."""

    def note(self, user: str) -> dict[str, Any]:
        """Return what is to be kept.

        Raises:
            HTTPException: 422, a name is the datastore's own, a value is nested too deeply, or a number not finite.
        """
        given = self.model_dump(exclude_unset=True)
        errors = [_error(name, "own", "is written by the datastore alone") for name in given if name in self.own]
        deep = [name for name, value in given.items() if _levels(value) > DEEPEST]
        odd = [name for name, value in given.items() if name not in deep and not _is_finite(value)]
        errors += [_error(name, "finite", "JSON has no numbers that are not finite") for name in odd]
        errors += [_error(name, "deep", f"at most {DEEPEST} levels of nesting are kept") for name in deep]
        if errors:
            raise HTTPException(status_code=422, detail=describe(errors))
        return given | {"user": user}


def _levels(value: Any) -> int:
    if not isinstance(value, dict | list):
        return 0
    return 1 + max(map(_levels, value.values() if isinstance(value, dict) else value), default=0)


def _is_finite(value: Any) -> bool:
    if isinstance(value, dict | list):
        return all(map(_is_finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)


def _error(name: str, kind: str, message: str = "") -> dict[str, Any]:
    return {"loc": (name,), "type": kind, "msg": message}
