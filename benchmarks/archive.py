"""Scoring an archive: rate against a plain loop, memory over time, and whether kills change the table.

    python benchmarks/archive.py --write

makes small image files (8-bit PNG, some DICOM, a few damaged), scores them by ``python -m monai_ddad score``, again
while the command is killed, and the first of them one at a time. Without ``--models`` a small model is trained first,
so that reading, and not the network, is what takes the time. For Linux.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from monai.bundle import ConfigWorkflow
from pages import format_table, machine, publish
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

from monai_ddad.data.phantom import write_phantom_dataset
from monai_ddad.decision.finding import Finding, Unreadable
from monai_ddad.serving.archive.listing import list_archive
from monai_ddad.serving.archive.parts import make_part
from monai_ddad.serving.predictor import Predictor

REPOSITORY = Path(__file__).resolve().parents[1]
SMALL = {"preset": "phantom", "members": 2, "refine": "none", "width": 4, "hidden_size": 64, "epochs": 2}
SMALL |= {"unlabeled_size": 40}
SAMPLING = 0.5  # seconds between two looks at the memory
FOLDER = 1000  # files
DICOM, DAMAGED = 20, 500  # one file in so many


def write_files(folder: Path, number: int) -> None:
    """Write an archive of smooth random images."""
    rng = np.random.default_rng(0)
    for i in range(number):
        path = folder / f"{i // FOLDER:03}" / f"{i:06}.{'dcm' if i % DICOM == 3 else 'png'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        grid = Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8))
        image = grid.resize(tuple(rng.integers(96, 320, 2).tolist()), Image.Resampling.BICUBIC)
        if path.suffix == ".dcm":
            write_film(path, np.asarray(image))
        else:
            image.save(path)
        if i % DAMAGED == 7:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def write_film(path: Path, pixels: np.ndarray) -> None:
    """Write a DICOM film of 8 bits."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = ComputedRadiographyImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    film = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    film.Modality, film.BodyPartExamined = "CR", "CHEST"
    film.Rows, film.Columns = pixels.shape
    film.SamplesPerPixel, film.PhotometricInterpretation, film.PixelRepresentation = 1, "MONOCHROME2", 0
    film.BitsAllocated = film.BitsStored = 8
    film.HighBit = 7
    film.PixelData = pixels.tobytes() + bytes(pixels.size % 2)
    film.save_as(path, enforce_file_format=True)


def train(bundle: Path, root: Path) -> Path:
    """Train a small model of a bundle on synthetic films; return its folder."""
    write_phantom_dataset(root / "phantom", kind="chest", normal=120, unlabeled=40, test=6, side=64)
    settings: dict[str, Any] = SMALL | {"dataset_dir": str(root / "phantom"), "output_dir": str(root / "run")}
    workflow = ConfigWorkflow(str(bundle / "configs" / "train.json"), logging_file=False, **settings)
    workflow.initialize()
    workflow.run()
    return root / "run" / "models"


def start(folder: Path, output: Path, bundle: Path, models: Path) -> subprocess.Popen[bytes]:
    """Start the command, as the leader of a process group."""
    command = [sys.executable, "-W", "ignore", "-m", "monai_ddad", "score", str(folder), "--output", str(output)]
    command += ["--bundle", str(bundle), "--models", str(models), "--device", "cpu"]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)


def parts(output: Path) -> int:
    """Return how many chunks an unfinished run has done."""
    folder = output.with_name(f"{output.name}.parts")
    return sum(name.endswith(".part") for name in os.listdir(folder)) if folder.is_dir() else 0


def memory(process: int) -> int:
    """Return the bytes that a process and those it started take up, pages that they share counted once."""
    try:
        found = re.search(r"^Pss: +(\d+) kB", Path(f"/proc/{process}/smaps_rollup").read_text(), re.MULTILINE)
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:  # it has ended
        return 0
    return (1024 * int(found[1]) if found else 0) + sum(memory(int(child)) for child in children)


def measure(
    folder: Path, output: Path, bundle: Path, models: Path, chunks: int
) -> tuple[float, float, float, list[int]]:
    """Score undisturbed.

    Returns:
        seconds from the start of the process, seconds from the first finished chunk to the last, seconds of processor
        time of all processes, and the largest memory so far in bytes when 25, 50, 75 and 100 % of the chunks are done.
    """
    begin, used = time.perf_counter(), os.times()
    process = start(folder, output, bundle, models)
    marks: list[int] = []
    largest, first, last = 0, 0.0, 0.0
    while process.poll() is None:
        largest, done = max(largest, memory(process.pid)), parts(output)
        now = time.perf_counter()
        if done:
            first, last = first or now, now
        while len(marks) < 3 and done >= chunks * (len(marks) + 1) / 4:
            marks.append(largest)
        time.sleep(SAMPLING)
    if process.returncode != 0:
        raise RuntimeError("the command failed")
    ended = os.times()
    processor_time = ended.children_user + ended.children_system - used.children_user - used.children_system
    return time.perf_counter() - begin, last - first, processor_time, [*marks, largest]


def kill_and_finish(folder: Path, output: Path, bundle: Path, models: Path, chunks: int, kills: int) -> list[int]:
    """Score while the command is killed; return how many chunks were done at each kill."""
    at = sorted(random.Random(0).sample(range(1, chunks), kills))
    found = []
    for after in at:
        process = start(folder, output, bundle, models)
        while parts(output) < after and process.poll() is None:
            time.sleep(0.01)
        time.sleep(random.Random(after).random())  # anywhere between two chunks
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        found.append(parts(output))
    if start(folder, output, bundle, models).wait() != 0:
        raise RuntimeError("the command failed")
    return found


def plain_loop(paths: list[str], bundle: Path, models: Path, output: Path) -> tuple[float, float]:
    """Read, score and write images one at a time; return seconds and seconds of processor time after a first one."""
    predictor = Predictor(bundle, models, torch.device("cpu"))
    names = predictor.network.score_names
    list(predictor.find(paths[:1], 1))
    begin, used = time.perf_counter(), time.process_time()
    with pq.ParquetWriter(output, make_part(0, 0, names, {}, {}).schema) as writer:
        for position, path in enumerate(paths):
            (found,) = predictor.find([path], 1)
            results = {0: found.result} if isinstance(found, Finding) else {}
            errors = {0: found.reason} if isinstance(found, Unreadable) else {}
            writer.write_table(make_part(position, 1, names, results, errors))
    return time.perf_counter() - begin, time.process_time() - used


def main() -> None:
    """Print the table, and write it to the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=REPOSITORY / "bundles" / "ddad_cxr")
    parser.add_argument("--models", type=Path, help="folder of a trained model (default: a small one is trained)")
    parser.add_argument("--files", type=int, default=20000)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--loop", type=int, default=1000, help="files of the plain loop")
    parser.add_argument("--write", action="store_true", help="put the table into docs/archive.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        folder, whole, killed = root / "files", root / "whole.parquet", root / "killed.parquet"
        models = options.models or train(options.bundle, root)
        write_files(folder, options.files)
        listing = list_archive([folder], volumes=False)
        chunks = len(listing.chunks)
        seconds, streaming, used, marks = measure(folder, whole, options.bundle, models, chunks)
        at = kill_and_finish(folder, killed, options.bundle, models, chunks, options.kills)
        first = [path for number in range(chunks) for (path,) in listing.chunk(number)][: options.loop]
        loop, used_by_loop = plain_loop(first, options.bundle, models, root / "loop.parquet")
        equal = all(
            one.read_bytes() == one.with_name(one.name.replace("whole", "killed")).read_bytes()
            for one in (whole, whole.with_name("whole_unreadable.parquet"))
        )
        unreadable = pq.read_metadata(whole.with_name("whole_unreadable.parquet")).num_rows
        scored = pq.read_metadata(whole).num_rows
        one_by_one = pq.read_table(root / "loop.parquet").filter(pa.compute.field("reason").is_null())
        score = "inter"
        same = pq.read_table(whole).filter(pa.compute.field("position") < len(first))
        difference = np.abs(np.asarray(same[score]) - np.asarray(one_by_one[score])).max()
    rate, plain = (chunks - 1) / chunks * len(listing) / streaming, len(first) / loop
    rows = {
        "files": f"{len(listing):,}, of which one in {DICOM} is DICOM and one in {DAMAGED} is cut in half",
        "machine": machine(),
        "model": "as given" if options.models else ", ".join(f"{name} {value}" for name, value in SMALL.items()),
        "scored, unreadable, missing": f"{scored:,}, {unreadable:,}, {len(listing) - scored - unreadable}",
        "whole command, with its start": f"{seconds:.0f} s",
        "rate once it runs": f"{rate:.0f} images/s",
        f"rate of the plain loop, first {len(first):,} files": f"{plain:.0f} images/s",
        "ratio": f"{rate / plain:.1f}",
        "processor time an image, start and listing included": f"{1000 * used / len(listing):.1f} ms",
        "processor time an image of the plain loop": f"{1000 * used_by_loop / len(first):.1f} ms",
        f"largest difference of `{score}` to the plain loop": f"{difference:.1e}",
        "largest memory so far at 25, 50, 75, 100 %": ", ".join(f"{mark / 2**20:.0f}" for mark in marks) + " MiB",
        f"killed {len(at)} times, when this many of {chunks} chunks were done": ", ".join(map(str, at)),
        "tables equal to those of the undisturbed run": "byte for byte" if equal else "NO",
    }
    publish(format_table(["what", "measured"], list(rows.items())), "archive.md", "measured", options.write)


if __name__ == "__main__":
    main()
