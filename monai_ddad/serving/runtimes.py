"""Fast inference: a trained network run by PyTorch, TorchScript or ONNX Runtime."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from monai_ddad.networks import DDADModel, Decided, FeatureNet, fold
from monai_ddad.networks.cpu_layers import CPULayers
from monai_ddad.placement import autocast, place, resolve_device, set_tf32
from monai_ddad.serving.onnx_models import ONNX_FILE, OnnxModel, providers, require

__all__ = ["RUNTIMES", "Runtime"]

RUNTIMES = ("torch", "torchscript", "onnx")

Result = TypeVar("Result")


class Runtime(nn.Module):
    """Compute the maps of a network faster than the network itself does, for images by the batch.

    The network is prepared at the first call, and again at the first call after its weights have changed; any number of
    threads may call it, on a GPU with one precision (see :func:`monai_ddad.placement.set_tf32`). Its weights are the
    network's own, under their own names.

    Args:
        network: the model, moved to the device; its weights may be loaded later.
        runtime: ``"torch"``; ``"torchscript"``; or ``"onnx"`` for ONNX Runtime, which needs the extra ``onnx``. In all
            of them batch normalisations are folded, see :func:`monai_ddad.networks.fold`.
        precision: see :func:`monai_ddad.placement.autocast`; ``"onnx"`` has no ``"bfloat16"``,
            and neither have features of an encoder.
        device: where to run; None leaves the network where it is.
        models_dir: folder of ``model.onnx``, which is used where it was made of these weights, and written where not;
            None keeps it in memory.

    Raises:
        ValueError: an unknown runtime or precision, ``"onnx"`` with ``"bfloat16"``, or on a GPU that the installed ONNX
            Runtime cannot use.
        ImportError: a package of the extra ``onnx`` is not installed.
        CheckpointError: when it is called, the network has no trained weights.

    Example:
        >>> from monai_ddad.networks import build_model
        >>> network, trained = (build_model(image_size=32, width=2, hidden_size=8).eval() for _ in range(2))
        >>> _ = network.load_state_dict(trained.state_dict())
        >>> Runtime(network, "torchscript")(torch.zeros(5, 1, 32, 32)).shape
        torch.Size([5, 4, 32, 32])
    """

    def __init__(
        self,
        network: DDADModel,
        runtime: str = "torch",
        precision: str = "float32",
        device: torch.device | str | None = None,
        models_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__()
        if runtime not in RUNTIMES:
            raise ValueError(f"runtime must be one of {', '.join(RUNTIMES)}, got {runtime!r}.")
        if runtime == "onnx" and precision == "bfloat16":
            raise ValueError("the onnx runtime has no bfloat16: use precision float32, or runtime torch.")
        if isinstance(network.discrepancy, FeatureNet) and precision == "bfloat16":
            raise ValueError("features of an encoder are computed in float32.")
        self.runtime = runtime
        self.precision = precision
        self.device = next(network.parameters()).device if device is None else resolve_device(device)
        self.autocast = autocast(self.device, precision)
        self.models_dir = models_dir
        if runtime == "onnx":
            made = models_dir is not None and (Path(models_dir) / ONNX_FILE).is_file()
            for package in ("onnxruntime",) if made else ("onnxruntime", "onnx", "onnxscript"):
                require(package)
            providers(self.device, precision)
        self.network = place(network, self.device)
        self._lock = threading.Lock()
        self._weights: list[tuple[torch.Tensor, int, int]] = []
        self._prepared: Any = None
        self.eval()

    def train(self, mode: bool = True) -> Runtime:
        """Stay in evaluation mode, and the network with it; there is no other."""
        return super().train(False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Compute all anomaly maps, as :meth:`DDADModel.forward` does in evaluation mode.

        Args:
            image: (B, C, H, W) float32 in [-1, 1], on the device.

        Returns:
            (B, M, H, W) float32 on the device.
        """
        return self._run(lambda network: network(image.as_subclass(torch.Tensor)).float())

    def decide(self, image: torch.Tensor) -> Decided:
        """Compute all that is said of images, as :meth:`DDADModel.decide` does in evaluation mode.

        Args:
            image: (B, C, H, W) float32 in [-1, 1], on the device.

        Returns:
            float32 on the device.
        """
        found = self._run(lambda network: network.decide(image.as_subclass(torch.Tensor)))
        return Decided(*(values.float() for values in found))

    def _run(self, call: Callable[[Any], Result]) -> Result:
        set_tf32(self.device, self.precision)
        torch.get_num_threads()  # or the first products of a new thread use another number than was set, and round so
        with self._lock:
            network = self._up_to_date()
        with torch.no_grad(), self.autocast(), CPULayers():
            return call(network)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the network's weights, as if there was no runtime around it."""
        return self.network.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load the network's weights, as if there was no runtime around it."""
        return self.network.load_state_dict(state_dict, strict, assign)

    def _up_to_date(self) -> Any:
        """Return what computes as the network does now."""
        tensors = itertools.chain(self.network.parameters(), self.network.buffers())
        weights = [(value, value.data_ptr(), 0 if value.is_inference() else value._version) for value in tensors]
        known = len(weights) == len(self._weights) and all(
            new[0] is old[0] and new[1:] == old[1:] for new, old in zip(weights, self._weights)
        )
        if self._prepared is None or not known:
            self.network.require_weights()
            with torch.inference_mode(False), torch.no_grad(), torch.autocast(self.device.type, enabled=False):
                self._prepared = self._prepare()
            self._weights = weights
        return self._prepared

    def _prepare(self) -> Any:
        if self.runtime == "onnx":
            return OnnxModel(self.network, self.device, self.precision, self.models_dir)
        folded = fold(self.network)
        if self.precision == "bfloat16":
            for layer in folded.modules():
                if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
                    layer.to(torch.bfloat16)  # once, instead of by autocast at each call
        return folded if self.runtime == "torch" else torch.jit.freeze(torch.jit.script(folded), ["decide"])
