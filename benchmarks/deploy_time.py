"""Time of the MONAI Deploy application on chest films: one and many, from process start and in steady state, by parts.

    python benchmarks/deploy_time.py FILM --bundle bundles/ddad_cxr --models runs/mine/models

in the environment of ``make .venv-deploy/installed``. The film is copied with new UIDs; the parts are measured on one
model in one process, after a first image.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import torch
from pydicom.uid import generate_uid

from monai_ddad.deploy.dicom_objects import OBJECTS
from monai_ddad.deploy.findings import ImageFinding, Model
from monai_ddad.deploy.kinds import DEFAULT_KINDS
from monai_ddad.deploy.studies import group_instances, read_folder
from monai_ddad.io.writing import atomic_file


def copies(film: Path, folder: Path, number: int) -> Path:
    """Write copies of a film, each a study of its own."""
    folder.mkdir()
    image = pydicom.dcmread(film)
    for k in range(number):
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        image.StudyInstanceUID, image.SeriesInstanceUID = generate_uid(), generate_uid()
        image.save_as(folder / f"{k:04d}.dcm")
    return folder


def write(made: pydicom.Dataset, path: Path) -> None:
    """Write as the application does: synchronised with the disk, then renamed."""
    with atomic_file(path) as file:
        made.save_as(file, enforce_file_format=True)


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Return seconds and result."""
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def whole(film: Path, bundle: Path, models: Path, number: int, root: Path) -> float:
    """Return seconds of the command on a number of films, with the start of the process."""
    folder = copies(film, root / f"in_{number}", number)
    output = root / f"out_{number}"
    command = [sys.executable, "-m", "monai_ddad.deploy", "-l", "ERROR", "--models_dir", str(models)]
    command += ["-i", str(folder), "-o", str(output), "-m", str(bundle)]
    seconds, _ = timed(lambda: subprocess.run(command, check=True, capture_output=True))
    return seconds


def parts(film: Path, bundle: Path, models: Path, number: int, root: Path) -> dict[str, float]:
    """Return seconds a film of each part, in steady state."""
    model = Model(bundle, models)
    predictor = model.predictor
    found: dict[str, list[float]] = {}

    def note(name: str, function: Callable[[], Any]) -> Any:
        seconds, result = timed(function)
        found.setdefault(name, []).append(seconds / number)
        return result

    for repeat in range(4):
        folder = copies(film, root / f"parts_{repeat}", number)
        images = group_instances(note("parse", lambda: read_folder(folder))[0])  # noqa: B023
        sources = [image.source for image in images]
        read = predictor.transform.reading
        note("decode", lambda: [read({"image": one}) for one in sources])  # noqa: B023
        scored = note("decode, prepare and score", lambda: list(predictor.find(sources)))  # noqa: B023
        heats = note("map on the film's grid", lambda: [one.heat_map() for one in scored])  # noqa: B023
        note("percentiles of the map", lambda: [scored[0].percentiles(heat.values) for heat in heats])  # noqa: B023
        findings = [one for one in model.find(images) if isinstance(one, ImageFinding)]
        for kind in DEFAULT_KINDS:
            objects = note(f"make {kind}", lambda: [OBJECTS[kind](one, model) for one in findings])  # noqa: B023
            for k, made in enumerate(objects):
                note("write", lambda: write(made, root / f"{k}.dcm"))  # noqa: B023
    medians = {name: statistics.median(values[len(values) // 4 :]) for name, values in found.items()}
    medians["write"] *= number * len(DEFAULT_KINDS)  # of one file to all of a film
    return medians


def main() -> None:
    """Print the times as a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("film", type=Path)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--many", type=int, default=100)
    options = parser.parse_args()
    image = pydicom.dcmread(options.film)
    say = sys.stdout.write
    say(f"film of {image.Columns} x {image.Rows}, {image.file_meta.TransferSyntaxUID.name}\n")
    say(f"{torch.get_num_threads()} threads, {'GPU' if torch.cuda.is_available() else 'CPU'}\n")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        one, many = (whole(options.film, options.bundle, options.models, n, root) for n in (1, options.many))
        say(f"| 1 film, with the start of the process | {one:.1f} s |\n")
        say(f"| {options.many} films, with the start of the process | {many:.1f} s |\n")
        say(f"| a film in steady state | {(many - one) / (options.many - 1):.2f} s |\n")
        for name, seconds in parts(options.film, options.bundle, options.models, 10, root).items():
            say(f"| - {name} | {seconds:.3f} s |\n")


if __name__ == "__main__":
    main()
