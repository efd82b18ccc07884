"""Writing and reading weights: the only calls of ``torch.save`` and ``torch.load`` in the package."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from monai_ddad.writing import atomic_file

__all__ = ["CheckpointError", "atomic_file", "load_file", "load_weights", "save_file", "weights_digest"]


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
    """Load what :func:`save_file` wrote, on the CPU, without running any Python code of the file.

    Args:
        path: the file, or a TorchScript module (``.ts``), of which the weights are returned.

    Raises:
        CheckpointError: the file is missing, cut short, damaged (its checksums are compared), or holds anything but
            tensors and plain containers.
    """
    if not Path(path).is_file():
        raise CheckpointError("the checkpoint does not exist: train first, or give the file that holds the weights.")
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load neither compares checksums nor minds odd attributes
            if archive.testzip() is not None or any(entry.external_attr for entry in archive.infolist()):
                raise zipfile.BadZipFile
        if Path(path).suffix == ".ts":
            return dict(torch.jit.load(path, map_location="cpu").state_dict())
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file ends in almost any error: zip, pickle, unicode, key, runtime
        raise CheckpointError(
            f"the checkpoint is damaged or is no weights-only PyTorch file ({type(error).__name__})."
        ) from None


def load_weights(network: nn.Module, path: str | os.PathLike[str], parts: Sequence[str] = ()) -> nn.Module:
    """Load weights into a network after checking that they belong to it.

    Args:
        network: the module to fill; its settings must be those the weights were trained with.
        path: a file holding its state dict.
        parts: names of the submodules to fill, the others stay as they are; empty for all of the network.

    Returns:
        the network, in evaluation mode.

    Raises:
        CheckpointError: see :func:`load_file`; or names or shapes differ (another backbone, number of members or
            image size), or a weight is not finite. The network is then left as it was.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_file({"weight": torch.full((1, 2), 3.0)}, f"{folder}/model.pt")
        ...     load_weights(nn.Linear(2, 1, bias=False), f"{folder}/model.pt")(torch.ones(1, 2)).item()
        6.0
    """
    weights = load_file(path)
    if not isinstance(weights, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in weights.items()
    ):
        raise CheckpointError("the checkpoint holds no state dict (names with tensors).")
    expected = network.state_dict()
    unsaved = dict(network.named_buffers()).keys() - expected.keys()  # but TorchScript saves them
    weights = {name: value for name, value in weights.items() if name not in unsaved}
    if parts:
        prefixes = tuple(f"{part}." for part in parts)
        weights, expected = (
            {name: value for name, value in content.items() if name.startswith(prefixes)}
            for content in (weights, expected)
        )
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
        if not torch.isfinite(value.to(expected[name].dtype)).all():
            raise CheckpointError(f"the checkpoint's weight {name} holds NaN or infinite values.")
    network.load_state_dict({**network.state_dict(), **weights} if parts else weights)
    return network.eval()


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
    for value in module.state_dict().values():
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
