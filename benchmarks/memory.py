"""Memory of a training, by the number and size of the images.

    python benchmarks/memory.py --write

Each training runs in a process of its own: six AEs and ASR-Net on random images, of which half are known normals, and
the calibration. The ensembles train for an epoch, ASR-Net for more steps than its maps are computed ahead, so that all
that a training needs is allocated. The table holds the most MiB that the process had had by then.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from functools import partial

import torch
from ignite.engine import Events
from pages import format_table, machine, publish

from monai_ddad.data import ResidentDataset
from monai_ddad.networks import DDADModel, DDADNet
from monai_ddad.training import EnsembleTrainer, RefineTrainer, calibrate

STEPS = 40  # of ASR-Net
SIZES = ((2000, 64), (8000, 64), (2000, 256))  # images, side
MIB = 2**20


def peak() -> float:
    """Return the most memory that this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def train(number: int, side: int, precision: str) -> list[float]:
    """Train; return MiB before the images, with the images, after the ensembles and after ASR-Net."""
    found = [peak()]

    def draw(item: dict[str, int]) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(item["image"])
        return {"image": 2 * torch.rand((1, side, side), generator=generator) - 1}

    items = [{"image": i, "label": 0 if i < number // 2 else None} for i in range(number)]
    data = ResidentDataset(items, draw)
    found.append(peak())
    network = DDADNet(image_size=side, seed=0)
    adam = partial(torch.optim.Adam, lr=5e-4, fused=True)
    EnsembleTrainer("cpu", 1, network, data, adam, precision=precision).run()
    found.append(peak())
    refine = RefineTrainer("cpu", 1, network, data, adam, precision=precision)
    refine.add_event_handler(Events.ITERATION_COMPLETED(once=STEPS), lambda engine: engine.terminate())
    refine.run()
    found.append(peak())
    calibrate(DDADModel(network), data, data.subset([0, 1]))
    return [*found, peak()]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=[f"{number}x{side}" for number, side in SIZES])
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    options = parser.parse_args()
    if options.one:
        number, side = map(int, options.one.split("x"))
        found = train(number, side, options.precision)
        sys.stdout.write(" ".join(f"{value:.0f}" for value in found))
        return
    rows = []
    for size in options.sizes:
        command = [sys.executable, __file__, "--one", size, "--precision", options.precision]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        marks = done.stdout.split()
        number, side = map(int, size.split("x"))
        held = number * side * side / MIB
        rows.append([f"{number} of {side} x {side}", f"{held:.0f}", *marks])
    header = ["images", "MiB of pixels", "libraries", "with images", "ensembles", "ASR-Net", "calibration"]
    about = f"{machine()}; precision {options.precision}, AE, K 3.\n"
    publish(f"{format_table(header, rows)}\n{about}", "performance.md", "memory", options.write)


if __name__ == "__main__":
    main()
