"""Fast inference: a trained network run by PyTorch, TorchScript or ONNX Runtime."""

from __future__ import annotations

import importlib.util
import itertools
import json
import logging
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from monai_ddad import __version__
from monai_ddad.checkpoints import atomic_file, weights_digest
from monai_ddad.networks import DDADNet, Decision, WinogradASRNet, fold
from monai_ddad.networks.onednn import OneDNNLinear
from monai_ddad.placement import autocast, place, set_tf32

__all__ = ["RUNTIMES", "Runtime", "export_onnx"]

logger = logging.getLogger(__name__)

RUNTIMES = ("torch", "torchscript", "onnx")
ONNX_FILE = "model.onnx"
OUTPUTS = ("maps", "scores", "p_values", "protocol")  # of a Decision

Run = Callable[[torch.Tensor], torch.Tensor]


class Runtime(nn.Module):
    """Compute the maps of a network faster than the network itself does, for images by the batch.

    The network is prepared at the first call, and again at the first call after its weights have changed; any number of
    threads may call it. Its weights are the network's own, under their own names.

    Args:
        network: the model, moved to the device; its weights may be loaded later.
        runtime: ``"torch"``; ``"torchscript"``; or ``"onnx"`` for ONNX Runtime, which needs the extra ``onnx``. In all
            of them batch normalisations are folded, see :func:`monai_ddad.networks.fold`; the first two compute ASR-Net
            on a CPU by a :class:`~monai_ddad.networks.WinogradASRNet`.
        precision: see :func:`monai_ddad.placement.autocast`; ``"onnx"`` has no ``"bfloat16"``.
        device: where to run; None leaves the network where it is.
        models_dir: folder of ``model.onnx``, which is used where it was made of these weights, and written where not;
            None keeps it in memory.

    Raises:
        ValueError: an unknown runtime or precision, ``"onnx"`` with ``"bfloat16"``, or on a GPU that the installed ONNX
            Runtime cannot use.
        ImportError: a package of the extra ``onnx`` is not installed.

    Example:
        >>> network = DDADNet(image_size=32, width=2, hidden_size=8).eval()
        >>> Runtime(network, "torchscript")(torch.zeros(5, 1, 32, 32)).shape
        torch.Size([5, 4, 32, 32])
    """

    def __init__(
        self,
        network: DDADNet,
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
        self.runtime = runtime
        self.precision = precision
        self.device = next(network.parameters()).device if device is None else torch.device(device)
        self.autocast = autocast(self.device, precision)
        self.models_dir = models_dir
        if runtime == "onnx":
            made = models_dir is not None and (Path(models_dir) / ONNX_FILE).is_file()
            for package in ("onnxruntime",) if made else ("onnxruntime", "onnx", "onnxscript"):
                _require(package)
            _providers(self.device, precision)
        self.network = place(network, self.device)
        self._lock = threading.Lock()
        self._weights: list[tuple[torch.Tensor, int, int]] = []
        self._run: Run | None = None
        self.eval()

    def train(self, mode: bool = True) -> Runtime:
        """Stay in evaluation mode, and the network with it; there is no other."""
        return super().train(False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Compute all anomaly maps, as :meth:`DDADNet.forward` does in evaluation mode.

        Args:
            image: (B, C, H, W) float32 in [-1, 1], on the device.

        Returns:
            (B, M, H, W) float32 on the device.
        """
        set_tf32(self.device, self.precision)
        torch.get_num_threads()  # or the first products of a new thread use another number than was set, and round so
        with self._lock:
            run = self._prepared()
        with torch.no_grad(), self.autocast(), OneDNNLinear():
            return run(image.as_subclass(torch.Tensor)).float()

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the network's weights, as if there was no runtime around it."""
        return self.network.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load the network's weights, as if there was no runtime around it."""
        return self.network.load_state_dict(state_dict, strict, assign)

    def _prepared(self) -> Run:
        """Return what runs the network as it is now."""
        tensors = itertools.chain(self.network.parameters(), self.network.buffers())
        weights = [(value, value.data_ptr(), 0 if value.is_inference() else value._version) for value in tensors]
        known = len(weights) == len(self._weights) and all(
            new[0] is old[0] and new[1:] == old[1:] for new, old in zip(weights, self._weights)
        )
        if self._run is None or not known:
            with torch.inference_mode(False), torch.no_grad(), torch.autocast(self.device.type, enabled=False):
                self._run = self._prepare()
            self._weights = weights
        return self._run

    def _prepare(self) -> Run:
        if self.runtime == "onnx":
            return _OnnxModel(self.network, self.device, self.precision, self.models_dir)
        folded = fold(self.network)
        if self.precision == "bfloat16":
            for layer in folded.modules():
                if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
                    layer.to(torch.bfloat16)  # once, instead of by autocast at each call
        elif folded.asr is not None and self.device.type == "cpu":  # its tiles would lose too much in half precision
            folded.asr = WinogradASRNet(folded.asr)  # type: ignore[assignment]
        return folded if self.runtime == "torch" else torch.jit.freeze(torch.jit.script(folded))


class _OnnxModel:
    """A network run by ONNX Runtime with as many threads as PyTorch has."""

    def __init__(
        self, network: DDADNet, device: torch.device, precision: str, models_dir: str | os.PathLike[str] | None
    ) -> None:
        self.device = device
        self.providers = _providers(device, precision)
        described = _description(network)
        content = None if models_dir is None else _read(Path(models_dir) / ONNX_FILE)
        session = None if content is None else self._open(content, described)
        if session is None:
            for package in ("onnx", "onnxscript"):
                _require(package)
            content = _onnx_model(network)
            session = self._open(content, described)
            if session is None:
                raise RuntimeError("the installed ONNX Runtime cannot open the exported model: use another runtime.")
            if models_dir is not None:
                try:
                    _write(content, Path(models_dir) / ONNX_FILE)
                except OSError as error:
                    logger.warning(f"model.onnx cannot be kept in the models folder: {error.strerror}.")
        self.session = session

    def _open(self, content: bytes, described: dict[str, str]) -> Any:
        """Open a model; None if it is damaged or of other weights or settings."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # which slows a busy machine down
        options.log_severity_level = 3  # errors
        try:
            session = onnxruntime.InferenceSession(content, options, providers=self.providers)
        except Exception:  # a damaged file ends in errors of many kinds
            return None
        if self.providers[0] != "CPUExecutionProvider" and len(session.get_providers()) == 1:
            raise RuntimeError("ONNX Runtime cannot use the GPU (are its CUDA libraries there?): use another runtime.")
        return session if session.get_modelmeta().custom_metadata_map == described else None

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """Compute the maps of (B, C, H, W) images."""
        (maps,) = self.session.run(OUTPUTS[:1], {"image": image.float().cpu().contiguous().numpy()})
        return torch.from_numpy(maps).to(self.device)


def export_onnx(network: DDADNet, path: str | os.PathLike[str]) -> None:
    """Write a trained and calibrated model as one ONNX file, batch normalisations folded.

    Its input is ``image``, (B, C, H, W) float32 in [-1, 1], of any batch size. Its outputs are those of a
    :class:`~monai_ddad.networks.Decision`: ``maps``, ``scores``, ``p_values`` and ``protocol``. Its metadata hold the
    names of the maps in ``map_names``, the digest of the weights, see
    :func:`monai_ddad.checkpoints.weights_digest`, in ``weights``, the network's ``settings`` and this package's
    ``version``.

    Args:
        network: the model; it stays as it is.
        path: the file, written atomically.

    Raises:
        ImportError: a package of the extra ``onnx`` is not installed.
    """
    _write(_onnx_model(network), Path(path))


def _write(content: bytes, path: Path) -> None:
    with atomic_file(path) as file:
        file.write(content)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _onnx_model(network: DDADNet) -> bytes:
    """Export a network to the content of an ONNX file."""
    for package in ("onnx", "onnxscript"):
        _require(package)
    decision = Decision(fold(network).cpu()).eval()
    image = torch.zeros(2, network.in_channels, network.image_size, network.image_size)
    program = torch.onnx.export(
        decision,
        (image,),
        dynamo=True,
        dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
        input_names=["image"],
        output_names=list(OUTPUTS),
        verbose=False,
    )
    assert program is not None  # as it is not with dynamo
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # stack traces, which name folders of this machine
    program.model.metadata_props.update(_description(network))
    return program.model_proto.SerializeToString()


def _description(network: DDADNet) -> dict[str, str]:
    """Return what tells an exported model from that of another network."""
    return {
        "weights": weights_digest(network),
        "map_names": ",".join(network.map_names),
        "settings": json.dumps(network.settings | {"masked": network.masked}),
        "version": __version__,
    }


def _providers(device: torch.device, precision: str) -> list[Any]:
    """Return what ONNX Runtime is to run on."""
    import onnxruntime

    if device.type == "cpu":
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise ValueError("the installed ONNX Runtime has no CUDA: install onnxruntime-gpu, or use the CPU as device.")
    options = {"device_id": device.index or 0, "use_tf32": int(precision == "tf32")}
    return [("CUDAExecutionProvider", options), "CPUExecutionProvider"]


def _require(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ImportError(f"the onnx runtime needs {package}, which is not installed: pip install 'monai-ddad[onnx]'.")
