"""What DDAD (dual-distribution discrepancy) on features costs: a fit, a fit to stored features, scoring, and memory.

    python benchmarks/feature_cost.py bundles/ddad_brain data/brain_mri --write

A fit is timed twice on a data set's training images as they are prepared: with nothing stored, and once all features
are. Images are scored by ONNX Runtime on one thread, 16 at a time. Memory is that of fits to generated pictures, each
in a process of its own: what it holds between batches that lies in no file.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from monai.bundle import ConfigParser
from monai.engines.utils import IterationEvents
from pages import format_table, machine, publish

from monai_ddad.data import ResidentDataset, load_datalist, normalise
from monai_ddad.networks import DDADModel, FeatureNet
from monai_ddad.serving.onnx_models import export_onnx
from monai_ddad.training import FeatureTrainer, calibrate

SIZES = ((2000, 64), (20000, 64), (2000, 224), (6000, 224))  # images, side
BATCH = 16
ROUNDS = 20
MIB = 2**10  # kB


def fit(model: DDADModel, images: ResidentDataset, folder: Path) -> float:
    """Fit and calibrate a model; return the seconds that took."""
    start = time.perf_counter()
    net = model.discrepancy
    assert isinstance(net, FeatureNet)
    trainer = FeatureTrainer("cpu", net, images, folder)
    trainer.run()
    calibrate(model, images, images.subset([]), features=trainer.features)
    return time.perf_counter() - start


def scoring_rate(model: DDADModel, images: torch.Tensor, file: Path) -> float:
    """Return how many images a second one core scores."""
    export_onnx(model, file)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    batch = {session.get_inputs()[0].name: normalise(images[:BATCH]).numpy()}
    session.run(None, batch)
    start = time.perf_counter()
    for _ in range(ROUNDS):
        session.run(None, batch)
    return ROUNDS * len(images[:BATCH]) / (time.perf_counter() - start)


def read(bundle: Path, data: Path, folder: Path) -> tuple[DDADModel, ResidentDataset]:
    """Return a bundle's untrained model of features, and a data set's training images."""
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "train.json"))
    parser.update({"preset": "features", "dataset_dir": str(data), "output_dir": str(folder)})
    items = load_datalist(data, parser.get_parsed_content("unlabeled_size"))
    images = ResidentDataset(items["training"], parser.get_parsed_content("train#preprocessing"))
    return parser.get_parsed_content("network_def").eval(), images


def held() -> int:
    """Return the MiB that this process holds and that lie in no file."""
    found = re.search(r"^RssAnon:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return round(int(found[1]) / MIB)


def memory(number: int, side: int) -> list[int]:
    """Fit to so many generated pictures; return MiB before, and the most while features were made and at the end."""

    def generate(item: dict[str, Any]) -> dict[str, torch.Tensor]:
        random = np.random.default_rng(item["image"])
        coarse = torch.from_numpy(random.normal(size=(1, 1, 8, 8))).float()
        picture = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")[0]
        return {"image": (picture / 4).clamp(-1, 1)}

    def note(engine: FeatureTrainer) -> None:
        seen.append(held())

    network = FeatureNet(image_size=side)
    model = DDADModel(network).eval()
    seen = [held()]
    images = ResidentDataset([{"image": i, "label": 0 if i % 2 else None} for i in range(number)], generate)
    with tempfile.TemporaryDirectory() as folder:
        trainer = FeatureTrainer("cpu", network, images, folder)
        trainer.add_event_handler(IterationEvents.MODEL_COMPLETED, note)
        trainer.run()
        making = max(seen)
        calibrate(model, images, images.subset([]), features=trainer.features)
    return [seen[0], making, held()]


def main() -> None:
    """Measure, and print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sizes", nargs="*", default=[f"{number}x{side}" for number, side in SIZES])
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--write", action="store_true", help="put the table into docs/features.md")
    options = parser.parse_args()
    if options.one:
        sys.stdout.write(" ".join(map(str, memory(*map(int, options.one.split("x"))))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model, images = read(options.bundle, options.data, folder)
        first, again = (fit(model, images, folder / "features") for _ in range(2))
        rate = scoring_rate(model, images.images, folder / "model.onnx")
    side = images.images.shape[-1]
    rows = [
        [f"a fit to {len(images)} prepared images of {side} x {side}, nothing stored", f"{first:.1f} s"],
        ["the same from stored features", f"{again:.1f} s"],
        ["scoring by ONNX Runtime on one core", f"{rate:.0f} images/s"],
    ]
    for size in options.sizes:
        command = [sys.executable, __file__, str(options.bundle), str(options.data), "--one", size]
        before, making, end = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        number, side = size.split("x")
        about = f"memory of a fit to {number} pictures of {side} x {side}"
        rows.append([about, f"{before} MiB before, at most {making} while features are made, {end} at the end"])
    publish(f"{format_table(['what', 'cost'], rows)}\n{machine()}.\n", "features.md", "cost", options.write)


if __name__ == "__main__":
    main()
