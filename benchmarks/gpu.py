"""Seconds of each phase on a GPU, for a job of the size of RSNA on random images.

    python benchmarks/gpu.py --write

Trains six AEs on 3851 normal and 4000 unlabelled images of 64 x 64 for 250 epochs, then ASR-Net for 100 epochs, both
step by step (eager) and with each network's step as a CUDA graph; then scores images one by one and 256 at a time. The
slower way is timed over fewer epochs, after a first one, and its time is multiplied; the table says so.
"""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial

import torch
from pages import format_table, machine, publish

from monai_ddad.data import ResidentDataset, normalise
from monai_ddad.networks import DDADModel, DDADNet
from monai_ddad.networks.scores import image_scores
from monai_ddad.serving.runtimes import Runtime
from monai_ddad.training import EnsembleTrainer, RefineTrainer

NORMAL, UNLABELED = 3851, 4000
EPOCHS, REFINE_EPOCHS = 250, 100
WAYS = {"eager": False, "graph": True}
ADAM = partial(torch.optim.Adam, lr=5e-4, betas=(0.5, 0.999), fused=True)
REFINE_ADAM = partial(torch.optim.Adam, lr=1e-4, betas=(0.5, 0.999), weight_decay=1e-4, fused=True)


def random_images(normal: int, unlabeled: int) -> ResidentDataset:
    """Draw images of noise."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand((normal + unlabeled, 1, 64, 64), generator=generator)
    items = [{"image": image, "label": 0 if i < normal else None} for i, image in enumerate(pixels)]
    return ResidentDataset(items, lambda item: {"image": 2 * item["image"] - 1})


def timed(trainer: EnsembleTrainer | RefineTrainer, epochs: int) -> float:
    """Return the seconds of so many epochs after a first one."""
    trainer.run()
    trainer.state.max_epochs = 1 + epochs
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    trainer.run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def score(network: DDADModel, images: torch.Tensor, batch: int, precision: str, device: torch.device) -> float:
    """Return the seconds an image."""
    runtime = Runtime(network, precision=precision, device=device)
    seconds = 0.0
    for part in (images[:batch], images):  # the first prepares the network
        start = time.perf_counter()
        for some in part.split(batch):
            image_scores(runtime(normalise(some.to(device)))).cpu()
        seconds = (time.perf_counter() - start) / len(part)
    return seconds


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--normal", type=int, default=NORMAL)
    parser.add_argument("--unlabeled", type=int, default=UNLABELED)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--refine_epochs", type=int, default=REFINE_EPOCHS)
    parser.add_argument("--few", type=int, default=10, help="epochs that the slower ways are timed over (default: 10)")
    parser.add_argument("--precisions", nargs="+", default=["float32", "tf32", "bfloat16"])
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data = random_images(options.normal, options.unlabeled)
    rows = []

    def note(phase: str, way: str, precision: str, seconds: float, done: int, asked: int) -> None:
        cells = [phase, way, precision, f"{seconds * asked / done:.1f} s", f"{done} of {asked} epochs"]
        rows.append(cells)
        sys.stderr.write(f"{' '.join(cells)}\n")

    for precision in options.precisions:
        for way, graph in WAYS.items():
            epochs = options.epochs if graph else min(options.few, options.epochs)
            network = DDADNet(seed=0)
            trainer = EnsembleTrainer(device, 1, network, data, ADAM, precision=precision, graph=graph)
            note("six AEs", way, precision, timed(trainer, epochs), epochs, options.epochs)
        for way, graph in WAYS.items():
            epochs = options.refine_epochs if graph else min(options.few, options.refine_epochs)
            refine = RefineTrainer(device, 1, network, data, REFINE_ADAM, precision=precision, graph=graph)
            note("ASR-Net", way, precision, timed(refine, epochs), epochs, options.refine_epochs)
        for batch in (1, 256):
            seconds = score(
                DDADModel(network).eval(), data.images[: 256 * (1 if batch == 1 else 8)], batch, precision, device
            )
            rows.append([f"scoring, {batch} at a time", "", precision, f"{seconds * 1e3:.3f} ms an image", ""])
    header = ["phase", "way", "precision", "time", "timed over"]
    about = f"{machine()}; {options.normal} normal and {options.unlabeled} unlabelled random images of 64 x 64.\n"
    publish(f"{format_table(header, rows)}\n{about}", "performance.md", "gpu", options.write)


if __name__ == "__main__":
    main()
