"""Constants and fixtures that several tests share."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.transforms import Compose
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from monai_ddad.data import ResidentDataset
from monai_ddad.networks import DDADModel, DDADNet, build_model
from monai_ddad.transforms import EightBitd, PlainResized, ReadImaged

SIDE = 32
TINY = {"image_size": SIDE, "width": 2, "hidden_size": 8, "latent_size": 4}

MakeNet = Callable[..., DDADModel]
WriteImage = Callable[..., Path]
WriteDicom = Callable[..., Path]


REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_configure() -> None:
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests that take long, and those whose images or device are not here."""
    for item in items:
        if item.get_closest_marker("slow") and not os.environ.get("MONAI_DDAD_SLOW"):
            item.add_marker(pytest.mark.skip(reason="takes more than half a minute: set MONAI_DDAD_SLOW=1"))
        if item.get_closest_marker("real_data") and not REAL_DATA.is_dir():
            item.add_marker(pytest.mark.skip(reason="needs the real images in ../shared/data"))
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Take back what commands set that run in this process: their handlers write to streams of the test's own."""
    root = logging.getLogger()
    handlers, level = [*root.handlers], root.level
    yield
    for handler in [handler for handler in root.handlers if handler not in handlers]:
        root.removeHandler(handler)
    root.setLevel(level)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real, openly licensed images."""
    return REAL_DATA


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Callable[[str], Path]:
    """Output folder of a small run of a bundle, with 10 calibration images."""
    from tests.small_models import small_models

    return small_models(tmp_path_factory.mktemp)


@pytest.fixture
def tiny() -> dict[str, int]:
    """Settings of a network that trains in milliseconds."""
    return dict(TINY)


@pytest.fixture
def make_net() -> MakeNet:
    """Return a maker of tiny models whose members differ clearly, BatchNorm statistics included."""

    def make(backbone: str = "AE", seed: int = 0, **settings: object) -> DDADModel:
        network = build_model(backbone=backbone, seed=seed, **(TINY | settings)).eval()
        generator = torch.Generator().manual_seed(seed)
        for name, value in network.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 1.5, generator=generator)
            elif value.is_floating_point() and "asr" not in name:
                value.add_(torch.randn(value.shape, generator=generator), alpha=0.2)
        network.discrepancy.mark_loaded()
        return network

    return make


@pytest.fixture
def make_discrepancy(make_net) -> Callable[..., DDADNet]:
    """Return a maker of the part of tiny models that is trained."""
    return lambda *args, **settings: make_net(*args, **settings).discrepancy


@pytest.fixture
def images() -> torch.Tensor:
    """Five (1, 32, 32) images in [-1, 1]."""
    return torch.rand(5, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture
def write_image(tmp_path: Path) -> WriteImage:
    """Return a writer of arrays, or random grey images, to files below ``tmp_path``."""

    def write(name: str, pixels: np.ndarray | None = None, seed: int = 0, **options: object) -> Path:
        if pixels is None:
            pixels = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, **options)
        return path

    return write


ReadSquare = Callable[[int], Compose]


@pytest.fixture(scope="session")
def read_square() -> ReadSquare:
    """Return a maker of transforms that read an item's image and resize it to a square of a side."""

    def make(side: int = SIDE) -> Compose:
        return Compose([ReadImaged("image"), PlainResized("image", image_size=side), EightBitd("image")])

    return make


@pytest.fixture
def make_dataset(write_image: WriteImage, read_square: ReadSquare) -> Callable[..., ResidentDataset]:
    """Return a maker of decoded sets of random images, each written to PNG files once."""
    made: dict[tuple[int, ...], ResidentDataset] = {}

    def make(normal: int = 8, unlabeled: int = 4, seed: int = 0, side: int = SIDE) -> ResidentDataset:
        key = (normal, unlabeled, seed, side)
        if key not in made:
            paths = [write_image(f"{key}/{i:03}.png", seed=1000 * seed + i) for i in range(normal + unlabeled)]
            items = [{"image": str(path), "label": 0 if i < normal else None} for i, path in enumerate(paths)]
            made[key] = ResidentDataset(items, read_square(side))
        return copy.deepcopy(made[key])

    return make


@pytest.fixture
def write_dicom(tmp_path: Path) -> WriteDicom:
    """Return a writer of small DICOM files below ``tmp_path``; further elements are given by keyword."""

    def write(name: str, pixels: np.ndarray | None = None, **elements: object) -> Path:
        if pixels is None:
            pixels = np.random.default_rng(len(name)).integers(0, 256, (16, 12), dtype=np.uint8)
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        file = FileDataset(
            str(path), {}, file_meta=meta, preamble=bytes(128), is_implicit_VR=False, is_little_endian=True
        )
        file.SOPClassUID, file.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        file.Modality = "DX"
        file.Rows, file.Columns = pixels.shape
        file.SamplesPerPixel = 1
        file.PhotometricInterpretation = "MONOCHROME2"
        file.BitsAllocated = file.BitsStored = 8 * pixels.itemsize
        file.HighBit = file.BitsStored - 1
        file.PixelRepresentation = int(pixels.dtype.kind == "i")
        for keyword, value in elements.items():
            setattr(file, keyword, value)
        file.PixelData = pixels.tobytes()
        file.save_as(str(path))
        return path

    return write
