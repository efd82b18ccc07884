"""Writing and reading weights: the only calls of ``torch.save`` and ``torch.load`` in the package."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from monai_ddad.io.pickled import MAX_PICKLE, check_pickle
from monai_ddad.io.writing import atomic_file

__all__ = [
    "MAX_BYTES",
    "RECORD_KEY",
    "CheckpointError",
    "load_file",
    "load_weights",
    "save_file",
    "weights_digest",
]

RECORD_KEY = "_extra_state"  # PyTorch's name of what a module saves beside its weights; see monai_ddad.io.record
MAX_BYTES = 64 * 2**30  # of a file, such as a large training that is to go on
MOST, DEEPEST = 2 * 10**5, 32  # values, and containers one in another
DTYPES = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int32,
    torch.int64,
    torch.uint8,
    torch.bool,
)
SCRIPT, JIT = "__torch__.", "torch.jit._pickle"  # TorchScript's modules, and its helpers
STORED = ("data.pkl", "byteorder", "version")  # of a TorchScript file, beside the tensors
LISTS = ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist", "restore_type_tag")


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, or of another model or run."""


def save_file(content: Any, path: str | os.PathLike[str]) -> None:
    """Save tensors and plain containers of them atomically; :func:`load_file` reads them back.

    Args:
        content: tensors, numbers, text, and dictionaries, lists and tuples of them.
        path: the file to write.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_file({"epochs": 3}, f"{folder}/state.pt")
        ...     load_file(f"{folder}/state.pt")
        {'epochs': 3}
    """
    buffer = io.BytesIO()  # torch.save hides the reason where a file cannot be written
    torch.save(content, buffer)
    with atomic_file(path) as file:
        file.write(buffer.getbuffer())


def load_file(path: str | os.PathLike[str]) -> Any:
    """Load what :func:`save_file` wrote, on the CPU, without running any code of the file.

    Args:
        path: the file, or a TorchScript module (``.ts``), of which nothing but the weights is read.

    Raises:
        CheckpointError: the file is missing, larger than :data:`MAX_BYTES`, cut short, damaged (its checksums are
            compared), or holds anything but dense tensors of numbers and plain containers.
    """
    if not Path(path).is_file():
        raise CheckpointError("the checkpoint does not exist: train first, or give the file that holds the weights.")
    size = Path(path).stat().st_size
    if size > MAX_BYTES:
        raise CheckpointError(f"the checkpoint has {size} bytes, at most {MAX_BYTES} are possible.")
    try:
        content = _read_script(path, size) if Path(path).suffix == ".ts" else _read(path, size)
        _check_content(content, size)
    except Exception as error:  # a damaged file ends in almost any error: zip, pickle, unicode, key, runtime
        reason = str(error) if isinstance(error, CheckpointError) else type(error).__name__
        raise CheckpointError(f"the checkpoint is damaged or is no weights-only PyTorch file ({reason}).") from None
    return content


def _read(path: str | os.PathLike[str], size: int) -> Any:
    with zipfile.ZipFile(path) as archive:  # torch.load neither compares checksums nor minds odd attributes
        entries = archive.infolist()
        _check_entries(entries, size)
        if not _is_found_alike(path, archive, size) or archive.testzip() is not None:
            raise zipfile.BadZipFile
        for entry in entries:
            if entry.filename.lower().endswith("data.pkl"):  # torch.load takes capitals for small letters
                check_pickle(_list_of(archive, entry))
    return torch.load(path, map_location="cpu", weights_only=True)


def _check_entries(entries: Sequence[zipfile.ZipInfo], size: int) -> None:
    """Refuse entries that are packed, have odd attributes or one name, or lie over one another in a file."""
    odd = any(entry.external_attr or entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    names = {entry.filename.lower() for entry in entries}
    if odd or len(names) < len(entries) or sum(entry.file_size for entry in entries) > size:
        raise zipfile.BadZipFile


def _list_of(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    with archive.open(entry) as file:
        return file.read(MAX_PICKLE + 1)


def _is_found_alike(path: str | os.PathLike[str], archive: zipfile.ZipFile, size: int) -> bool:
    """Tell whether torch.load finds the entries where Python does, which reads files with something before as well."""
    with open(path, "rb") as file:
        head = file.read(4)
        file.seek(-98, os.SEEK_END)
        tail = file.read()  # what says where the list of entries is: long form, where that is, and short form
    long = tail[56:60] == b"PK\6\7"
    if head != b"PK\3\4" or tail[76:80] != b"PK\5\6" or (long and int.from_bytes(tail[64:72], "little") != size - 98):
        return False
    return int.from_bytes(tail[48:56] if long else tail[92:96], "little") == archive.start_dir


class _Part:
    """Stands for a TorchScript module: its attributes, without its code."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)


def _read_script(path: str | os.PathLike[str], size: int) -> dict[str, Any]:
    """Read the weights of a TorchScript file as a state dict, its record included; its code is not even parsed."""
    data = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(data, "w") as copy:
        entries = [(entry.filename.partition("/")[2], entry) for entry in archive.infolist()]
        kept = [(name, entry) for name, entry in entries if name in STORED or name.startswith("data/")]
        _check_entries([entry for _, entry in kept], size)
        for name, entry in kept:
            if name == "data.pkl":
                check_pickle(_list_of(archive, entry), (SCRIPT, *(f"{JIT} {one}" for one in LISTS)))
            copy.writestr(f"archive/{name}", archive.read(entry))
    data.seek(0)
    modules = {name for name in torch.serialization.get_unsafe_globals_in_checkpoint(data) if name.startswith(SCRIPT)}
    allowed: list[Any] = [*((_Part, name) for name in modules), *((_plain, f"{JIT}.{name}") for name in LISTS)]
    data.seek(0)
    with torch.serialization.safe_globals(allowed):
        module = torch.load(data, map_location="cpu", weights_only=True)
    weights: dict[str, Any] = {}
    waiting, found = [("", module)], 0
    while waiting:
        prefix, part = waiting.pop()
        found += len(vars(part))
        if prefix.count(".") > DEEPEST or found > MOST:
            raise CheckpointError("it is nested too deeply")
        for name, value in vars(part).items():
            if isinstance(value, _Part):
                waiting.append((f"{prefix}{name}.", value))
            elif isinstance(value, torch.Tensor):
                weights[f"{prefix}{name}"] = value.detach()
    record = vars(module).get("record_text")
    if isinstance(record, str) and record:
        weights[RECORD_KEY] = torch.frombuffer(bytearray(record.encode()), dtype=torch.uint8)
    return weights


def _plain(value: Any, *kind: Any) -> Any:
    """Return the list that TorchScript's helpers for lists are given."""
    return value


def _check_content(content: Any, size: int) -> None:
    """Refuse what is no dense tensor of numbers, plain value or container, or is larger than a file of this size."""
    waiting, found, total = [(content, 0)], 0, 0
    while waiting:
        value, depth = waiting.pop()
        found += len(value) if isinstance(value, (dict, list, tuple)) else 0
        if depth > DEEPEST or found > MOST:
            raise CheckpointError("it is nested too deeply")
        if type(value) is torch.Tensor:
            if not _is_dense(value):
                raise CheckpointError("a tensor is not stored as plain numbers")
            total += value.numel() * value.element_size()
            if total > size:
                raise CheckpointError("its tensors share memory")
        elif type(value) in (dict, OrderedDict):
            if type(value) is OrderedDict:
                vars(value).clear()  # PyTorch's notes on versions of layers, or whatever stands there
            waiting += [(part, depth + 1) for part in (*value.keys(), *value.values())]
        elif type(value) in (list, tuple):
            waiting += [(part, depth + 1) for part in value]
        elif type(value) not in (str, int, float, bool, type(None)):
            raise CheckpointError(f"it holds a {type(value).__name__}")


def _is_dense(value: torch.Tensor) -> bool:
    """Tell whether a tensor holds each of its numbers once and nothing else: no sparse, meta, expanded ... tensor."""
    if value.layout is not torch.strided or value.device.type != "cpu" or value.dtype not in DTYPES:
        return False
    if value.is_quantized or value.is_nested or value.is_neg() or value.is_conj():
        return False
    expected = 1
    for stride, side in sorted(zip(value.stride(), value.shape)):
        if side > 1 and value.numel():
            if stride != expected:
                return False
            expected *= side
    return True


def load_weights(network: nn.Module, path: str | os.PathLike[str], parts: Sequence[str] = ()) -> nn.Module:
    """Load weights into a network after checking that they belong to it.

    Args:
        network: the module to fill; its settings must be those the weights were trained with.
        path: a file holding its state dict.
        parts: names of the submodules to fill, the others stay as they are; empty for all of the network.

    Returns:
        the network, in evaluation mode.

    Raises:
        CheckpointError: see :func:`load_file`; or the model's record, names, shapes or types differ (another bundle,
            backbone, number of members or image size), or a weight is not finite. The network is then left as it was.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_file({"weight": torch.full((1, 2), 3.0)}, f"{folder}/model.pt")
        ...     load_weights(nn.Linear(2, 1, bias=False), f"{folder}/model.pt")(torch.ones(1, 2)).item()
        6.0
    """
    weights, expected = load_file(path), network.state_dict()
    if not isinstance(weights, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in weights.items()
    ):
        raise CheckpointError("the checkpoint holds no state dict (names with tensors).")
    if RECORD_KEY in expected:
        network.check_record(weights, partly=bool(parts))  # type: ignore[operator]
    # not saved with the network, as those of a frozen encoder are not, but TorchScript saves them
    unsaved = {*dict(network.named_buffers()), *dict(network.named_parameters())} - expected.keys()
    weights = {name: value for name, value in weights.items() if name not in unsaved}
    if parts:
        prefixes = tuple(f"{part}." for part in parts)
        weights, expected = (
            {name: value for name, value in content.items() if name.startswith(prefixes)}
            for content in (weights, expected)
        )
    _check_weights(weights, expected)
    for name, value in weights.items():
        if not torch.isfinite(value).all():
            raise CheckpointError(f"the checkpoint's weight {name} holds NaN or infinite values.")
    network.load_state_dict({**network.state_dict(), **weights} if parts else weights)
    return network.eval()


def _check_weights(weights: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    """Refuse weights of other names, shapes or types than those of a network, and such as share memory."""
    missing, surplus = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
    if missing or surplus:
        raise CheckpointError(
            f"the checkpoint is of another model (backbone, members or refine differ): {len(missing)} weights are "
            f"missing (first: {missing[:1]}), {len(surplus)} are not of this model (first: {surplus[:1]})."
        )
    for name, value in weights.items():
        if value.shape != expected[name].shape:
            raise CheckpointError(
                "the checkpoint is of another model (backbone, image_size, in_channels or latent_size differ): "
                f"{name} has shape {tuple(value.shape)}, expected {tuple(expected[name].shape)}."
            )
        if value.dtype != expected[name].dtype:
            raise CheckpointError(
                f"the checkpoint's weight {name} has the type {value.dtype}, expected {expected[name].dtype}."
            )
    memory = [value.untyped_storage().data_ptr() for value in weights.values() if value.numel()]
    if len(set(memory)) < len(memory):
        raise CheckpointError("weights of the checkpoint share memory: it is damaged.")


def weights_digest(module: nn.Module) -> str:
    """Return the SHA-256 of a module's weights and buffers, by which models are told apart.

    Args:
        module: a module; the device that it is on and the memory layout of its weights do not matter.

    Returns:
        64 hexadecimal digits, of the state dict's values in its order.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> before = weights_digest(layer)
        >>> layer.weight.data += 1
        >>> len(before), weights_digest(layer) == before
        (64, False)
    """
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        if name != RECORD_KEY:
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
