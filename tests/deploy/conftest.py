"""A model for each bundle, and runs of the application on folders."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    MRImageStorage,
    OphthalmicPhotography8BitImageStorage,
    generate_uid,
)

from tests.small_models import BUNDLES
from tests.transforms.encodings import dataset

ALL = ("overlay", "report", "segmentation", "parametric_map")


@dataclass
class Run:
    """What a run of the command line left."""

    code: int
    output: Path
    errors: str

    @property
    def results(self) -> dict[str, Any]:
        return json.loads((self.output / "results.json").read_text())

    def read(self, position: int, kind: str) -> Dataset:
        return pydicom.dcmread(self.output / f"{position:06d}_{kind}.dcm")


@pytest.fixture
def run(trained, tmp_path, capfd, caplog) -> Callable[..., Run]:
    """Run the command line in this process."""
    from monai_ddad.deploy.__main__ import main

    def call(bundle: str, folder: Path, *options: str) -> Run:
        output = tmp_path / f"output_{len(list(tmp_path.glob('output_*')))}"
        models = trained(bundle) / "models"
        arguments = ["-i", str(folder), "-o", str(output), "-m", str(BUNDLES / bundle), "--models_dir", str(models)]
        caplog.clear()
        code = main([*arguments, *options])
        return Run(code, output, capfd.readouterr().err + caplog.text)

    return call


def picture(seed: int = 0, side: int = 64) -> np.ndarray:
    """(side, side) uint8, a bright disc with noise."""
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    noise = np.random.default_rng(seed).uniform(0, 40, (side, side))
    return np.clip(180 * (x**2 + y**2 < 0.7) + noise, 0, 255).astype(np.uint8)


def film(seed: int = 0, **header: Any) -> Dataset:
    """A chest film of a patient of its own."""
    values = {
        "SOPClassUID": ComputedRadiographyImageStorage,
        "SOPInstanceUID": generate_uid(),
        "StudyInstanceUID": generate_uid(),
        "SeriesInstanceUID": generate_uid(),
        "Modality": "CR",
        "BodyPartExamined": "CHEST",
        "PatientName": "Muster^Erika",
        "PatientID": "4711",
        "StudyDate": "20261124",
    }
    return dataset(picture(seed), **(values | header))


def photograph(path: Path) -> Dataset:
    """A photograph as an ophthalmic photography image."""
    values = {
        "SOPClassUID": OphthalmicPhotography8BitImageStorage,
        "SOPInstanceUID": generate_uid(),
        "StudyInstanceUID": generate_uid(),
        "SeriesInstanceUID": generate_uid(),
        "Modality": "OP",
        "PatientName": "Muster^Erika",
        "PatientID": "4711",
        "PatientBirthDate": "",
        "PatientSex": "",
        "ImageLaterality": "L",
        "PhotometricInterpretation": "RGB",
    }
    return dataset(np.asarray(Image.open(path).convert("RGB")), **values)


def slices(
    number: int = 6, orientation: tuple[float, ...] = (1, 0, 0, 0, 1, 0), gap: float = 20, **header: Any
) -> list[Dataset]:
    """Axial slices of one series, from the feet up."""
    common = {
        "SOPClassUID": MRImageStorage,
        "StudyInstanceUID": generate_uid(),
        "SeriesInstanceUID": generate_uid(),
        "FrameOfReferenceUID": generate_uid(),
        "Modality": "MR",
        "ImageOrientationPatient": list(orientation),
        "PixelSpacing": [3, 3],
        "SliceThickness": gap,
        "PatientName": "Muster^Erika",
        "PatientID": "4711",
    }
    normal = np.cross(orientation[:3], orientation[3:])
    return [
        dataset(
            picture(k),
            **common,
            SOPInstanceUID=generate_uid(),
            ImagePositionPatient=[float(v) for v in (-96, -96, 0) + gap * k * normal],
            **header,
        )
        for k in range(number)
    ]


def save(folder: Path, *images: Dataset) -> Path:
    """Write images to a folder, named in their order."""
    folder.mkdir(exist_ok=True, parents=True)
    first = len(list(folder.iterdir()))
    for number, image in enumerate(images, first):
        image.save_as(folder / f"{number:03d}.dcm")
    return folder


def validate(path: Path) -> list[str]:
    """Return the errors that dciodvfy finds."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("needs Debian's package dicom3tools")
    found = subprocess.run(["dciodvfy", os.fspath(path)], capture_output=True, text=True)
    return [line for line in found.stderr.splitlines() if line.startswith("Error")]
