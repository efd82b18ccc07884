"""Trained models as ONNX files, and ONNX Runtime to run them."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from monai_ddad import __version__
from monai_ddad.io.checkpoints import MAX_BYTES, weights_digest
from monai_ddad.io.writing import atomic_file
from monai_ddad.networks import DDADModel, Decided, Deciding, fold

__all__ = ["ONNX_FILE", "OnnxModel", "export_onnx", "providers", "require", "to_onnx"]

logger = logging.getLogger(__name__)

ONNX_FILE = "model.onnx"
OUTPUTS = Decided._fields


class OnnxModel:
    """A network run by ONNX Runtime with as many threads as PyTorch has.

    Args:
        network, models_dir, precision, device: see :class:`monai_ddad.serving.runtimes.Runtime`.

    Raises:
        RuntimeError: ONNX Runtime cannot open what PyTorch exports, or cannot use the GPU.
        ImportError: a package that the export needs is not installed.
    """

    def __init__(
        self, network: DDADModel, device: torch.device, precision: str, models_dir: str | os.PathLike[str] | None
    ) -> None:
        self.device = device
        self.providers = providers(device, precision)
        described = _description(network)
        content = None if models_dir is None else _read(Path(models_dir) / ONNX_FILE)
        session = None if content is None else self._open(content, described)
        if session is None:
            content = to_onnx(network)
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
        return self._run(image, OUTPUTS[:1])[0]

    def decide(self, image: torch.Tensor) -> Decided:
        """Compute all that is said of (B, C, H, W) images."""
        return Decided(*self._run(image, OUTPUTS))

    def _run(self, image: torch.Tensor, outputs: Sequence[str]) -> list[torch.Tensor]:
        found = self.session.run(outputs, {"image": image.float().cpu().contiguous().numpy()})
        return [torch.from_numpy(values).to(self.device) for values in found]


def export_onnx(network: DDADModel, path: str | os.PathLike[str]) -> None:
    """Write a trained and calibrated model as one ONNX file, batch normalisations folded.

    Its input is ``image``, (B, C, H, W) float32 in [-1, 1], of any batch size. Its outputs are those of a
    :class:`~monai_ddad.networks.Decided`: ``maps``, ``scores``, ``p_values`` and ``protocol``. Its metadata hold the
    names of the maps in ``map_names``, those of the scores in ``score_names``, the digest of the weights, see
    :func:`monai_ddad.io.checkpoints.weights_digest`, in ``weights``, the model's ``record``, see
    :class:`monai_ddad.io.record.ModelRecord`, and this package's ``version``.

    Args:
        network: the model; it stays as it is.
        path: the file, written atomically.

    Raises:
        ImportError: a package of the extra ``onnx`` is not installed.
    """
    _write(to_onnx(network), Path(path))


def _write(content: bytes, path: Path) -> None:
    with atomic_file(path) as file:
        file.write(content)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes() if path.is_file() and path.stat().st_size <= MAX_BYTES else None
    except OSError:
        return None


def to_onnx(network: DDADModel) -> bytes:
    """Export a network to the content of an ONNX file."""
    for package in ("onnx", "onnxscript"):
        require(package)
    deciding = Deciding(fold(network).cpu()).eval()
    image = torch.zeros(2, *network.discrepancy.image_shape)
    program = torch.onnx.export(
        deciding,
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


def _description(network: DDADModel) -> dict[str, str]:
    """Return what tells an exported model from that of another network."""
    return {
        "weights": weights_digest(network),
        "map_names": ",".join(network.map_names),
        "score_names": ",".join(network.score_names),
        "record": (network.record_text or network.record.text()).strip(),
        "version": __version__,
    }


def providers(device: torch.device, precision: str) -> list[Any]:
    """Return what ONNX Runtime is to run on."""
    import onnxruntime

    if device.type == "cpu":
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise ValueError("the installed ONNX Runtime has no CUDA: install onnxruntime-gpu, or use the CPU as device.")
    options = {"device_id": device.index or 0, "use_tf32": int(precision == "tf32")}
    return [("CUDAExecutionProvider", options), "CPUExecutionProvider"]


def require(package: str) -> None:
    """Raise an ``ImportError`` that says what to do where a package of the extra ``onnx`` is not installed."""
    if importlib.util.find_spec(package) is None:
        raise ImportError(f"the onnx runtime needs {package}, which is not installed: pip install 'monai-ddad[onnx]'.")
