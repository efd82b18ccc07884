"""Speed of training, refinement, inference, reading and scoring against the authors' way, in the same run.

    python benchmarks/speed.py --data ../shared/data/brain_mri --write

Everything runs on one core and is timed in seconds of that core, ours and the authors' way (``plain.py``, in a process
of its own) in turns; the table holds medians. With ``--two_cores`` our training is timed by the clock, on one core and
on two, which must do nothing else. The whole job is computed from the parts. Images are those of a data set's
``data.json``, made 64 x 64.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from authors import ADAM, REFINE_ADAM, SIDE, Authors
from ignite.engine import Events
from pages import format_table, machine, publish

from monai_ddad.data import ResidentDataset, load_datalist, normalise
from monai_ddad.networks import DDADNet, build_model
from monai_ddad.networks.scores import image_scores
from monai_ddad.serving.runtimes import Runtime
from monai_ddad.training import EnsembleTrainer, RefineTrainer
from monai_ddad.transforms import EightBitd, PlainResized, ReadImaged

BATCH, REFINE_BATCH = 64, 8
EPOCHS, REFINE_EPOCHS, VALIDATIONS = 250, 100, 10  # of the paper preset
MEMBERS = 3
PRECISIONS = ("float32", "bfloat16")

Times = dict[str, dict[str, float]]
Clock = Callable[[], float]
Timed = Callable[[Clock], float]


def read(paths: list[str], labels: list[int | None] | None = None) -> ResidentDataset:
    """Read pictures as we do, with one thread."""
    items = [{"image": path, "label": label} for path, label in zip(paths, labels or [None] * len(paths))]
    steps = [ReadImaged("image"), PlainResized("image", image_size=SIDE), EightBitd("image")]

    def transform(item: dict[str, Any]) -> dict[str, Any]:
        for step in steps:
            item = step(item)
        return item

    return ResidentDataset(items, transform, num_workers=1)


def in_turns(functions: dict[str, Timed], rounds: int, clock: Clock) -> dict[str, float]:
    """Call each function once a round; return the median of the seconds that each says one of its pieces took."""
    found: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds + 1):
        for name, function in functions.items():
            found[name].append(function(clock))
    return {name: statistics.median(values[1:]) for name, values in found.items()}  # the first round warms up


def each(function: Callable[[], int]) -> Timed:
    """Time a function that returns how many pieces it has done."""

    def timed(clock: Clock) -> float:
        start = clock()
        done = function()
        return (clock() - start) / done

    return timed


class Epoch:
    """The second of two further epochs of a trainer at each call, so without what is done once a training."""

    def __init__(self, trainer: EnsembleTrainer | RefineTrainer, steps: int) -> None:
        self.trainer, self.steps = trainer, steps
        self.clock: Clock = time.process_time
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._end)

    def __call__(self, clock: Clock) -> float:
        """Train; return the seconds of a step of one network."""
        self.clock = clock
        self.ends: list[float] = []
        self.trainer.state.max_epochs = self.trainer.state.epoch + 2
        self.trainer.run()
        return (self.ends[1] - self.ends[0]) / self.steps

    def _end(self) -> None:
        self.ends.append(self.clock())


def ensemble_epoch(images: torch.Tensor, precision: str, members: int = 1, workers: int = 1) -> Epoch:
    """Return an epoch of both modules on images of which the first half is normal."""
    data = _resident(images, [0] * (len(images) // 2) + [None] * (len(images) - len(images) // 2))
    network = DDADNet(members=members, refine="none", seed=0)
    adam = partial(ADAM, fused=True)
    trainer = EnsembleTrainer("cpu", 1, network, data, adam, BATCH, precision=precision, num_workers=workers)
    return Epoch(trainer, members * (len(images) // 2 // BATCH + len(images) // BATCH))


def refine_epoch(images: torch.Tensor, precision: str) -> Epoch:
    """Return an epoch of ASR-Net on normal images."""
    network = DDADNet(seed=0)
    adam = partial(REFINE_ADAM, fused=True)
    trainer = RefineTrainer("cpu", 1, network, _resident(images, [0] * len(images)), adam, precision=precision)
    return Epoch(trainer, len(images) // REFINE_BATCH)


def _resident(images: torch.Tensor, labels: list[int | None]) -> ResidentDataset:
    items = [{"image": image, "label": label} for image, label in zip(images, labels)]
    return ResidentDataset(items, lambda item: {"image": normalise(item["image"])}, num_workers=1)


def measure(paths: list[str], rounds: int) -> Times:
    """Measure all parts: name -> how -> seconds of one. Slower parts take fewer of the images."""
    few = len(paths) // 5
    authors = Authors(paths, few)

    def compare(job: str, ours: dict[str, Timed]) -> dict[str, float]:
        return in_turns({"authors": lambda clock: authors(job)} | ours, rounds, time.process_time)

    images = read(paths).images
    return {
        "reading a picture": compare("read", {"float32": each(lambda: len(read(paths[:few])))}),
        "training step of a network, 64 images": compare(
            "train", {precision: ensemble_epoch(images, precision) for precision in PRECISIONS}
        ),
        "training step of ASR-Net, 8 images": compare(
            "refine", {precision: refine_epoch(images[:few], precision) for precision in PRECISIONS}
        ),
        "scoring a prepared image by six networks": compare("score", scoring("none", images[:few])),
        "scoring a file by six networks": compare("score_files", scoring("none", paths[:few])),
        "scoring a prepared image by six networks and ASR-Net": compare("score_refined", scoring("dual", images[:few])),
        "scoring a file by six networks and ASR-Net": compare("score_files_refined", scoring("dual", paths[:few])),
    }


def scoring(refine: Any, images: torch.Tensor | list[str]) -> dict[str, Timed]:
    """Return maps and scores of prepared images, or of files, by each runtime."""

    def run(runtime: Runtime) -> int:
        prepared = images if isinstance(images, torch.Tensor) else read(images).images
        for batch in prepared.split(BATCH):
            image_scores(runtime(normalise(batch)))
        return len(prepared)

    def timed(**options: Any) -> Timed:
        return each(partial(run, Runtime(build_model(seed=0, refine=refine).eval(), **options)))

    return {
        "float32": timed(),
        "bfloat16": timed(precision="bfloat16"),
        "ONNX Runtime": timed(runtime="onnx"),
        "TorchScript": timed(runtime="torchscript"),
    }


def measure_cores(images: torch.Tensor, rounds: int) -> Times:
    """Measure epochs on one core and on two, by the clock."""
    cores = sorted(os.sched_getaffinity(0))

    def on(number: int, epoch: Epoch) -> Timed:
        def run(clock: Clock) -> float:
            os.sched_setaffinity(0, cores[:number])
            return epoch(clock) * epoch.steps

        return run

    found: Times = {}
    for precision in PRECISIONS:
        for name, made in {
            "epoch of the ensembles": lambda workers: ensemble_epoch(images, precision, MEMBERS, workers),  # noqa: B023
            "epoch of ASR-Net": lambda workers: refine_epoch(images[: len(images) // 4], precision),  # noqa: B023
        }.items():
            functions = {f"{n}": on(n, made(n)) for n in (1, 2)}
            found[f"{name}, {precision}"] = in_turns(functions, rounds, time.perf_counter)
    return found


def whole_job(
    times: Times, normal: int, unlabeled: int, test: int, evaluations: int = REFINE_EPOCHS + 1
) -> dict[str, float]:
    """Add the parts up to the paper's job on a data set: six networks, ASR-Net, evaluation.

    Args:
        times: of the parts.
        normal, unlabeled, test: images.
        evaluations: how often the authors score the test images with ASR-Net; in their program after each of its
            epochs and at the end.
    """
    steps = MEMBERS * EPOCHS * (normal // BATCH + (normal + unlabeled) // BATCH)
    refine_steps = REFINE_EPOCHS * (normal // REFINE_BATCH)
    step, refine_step, score, ensembles, reading = (
        times[name]
        for name in (
            "training step of a network, 64 images",
            "training step of ASR-Net, 8 images",
            "scoring a prepared image by six networks and ASR-Net",
            "scoring a prepared image by six networks",
            "reading a picture",
        )
    )
    # each call of the authors' program reads all images it knows: one a network, one for ASR-Net, two evaluations
    readings = 2 * MEMBERS + 3
    # they also score the test images without ASR-Net in a call before, and by each network of the NDM alone at the
    # first and at each 25th epoch of its training
    found = {
        "authors": readings * (normal + unlabeled + test) * reading["authors"]
        + steps * step["authors"]
        + refine_steps * refine_step["authors"]
        + evaluations * test * score["authors"]
        + (1 + (VALIDATIONS + 1) / 2) * test * ensembles["authors"]
    }
    for precision in PRECISIONS:
        # we score them by the ensembles during the training and once at the end, and by the ensembles the normals that
        # ASR-Net learns from; calibration, which this preset has none of, would score a tenth of the normals
        found[precision] = (
            (normal + unlabeled + test) * reading["float32"]
            + steps * step[precision]
            + refine_steps * refine_step[precision]
            + test * score["float32"]
            + (VALIDATIONS * test + normal) * ensembles["float32"]
        )
    return found


def row(name: str, seconds: dict[str, float]) -> list[str]:
    """Return the cells of a part: seconds, then how many times faster than the authors' way."""
    reference = seconds["authors"]
    scale, unit = (1e3, "ms") if reference < 10 else (1, "s")
    ratios = [f"{reference / seconds[how]:.2f}" if how in seconds else "" for how in PRECISIONS]
    others = ", ".join(
        f"{how} {reference / seconds[how]:.2f}" for how in ("ONNX Runtime", "TorchScript") if how in seconds
    )
    return [name, f"{reference * scale:.3g} {unit}", *ratios, others]


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=640, help="that the parts are measured on, at least 128")
    parser.add_argument("--two_cores", action="store_true")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/performance.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lists = load_datalist(options.data, 1000, 0.6)
    paths = [item["image"] for item in lists["training"]]
    if options.two_cores:
        times = measure_cores(read(paths[: options.images]).images, options.rounds)
        rows = [
            [name, f"{of['1']:.2f} s", f"{of['2']:.2f} s", f"{of['1'] / of['2']:.2f}"] for name, of in times.items()
        ]
        text = format_table(["", "one core", "two cores", "ratio"], rows)
        publish(
            f"{text}\n{machine(2)}; medians of {options.rounds} rounds, by the clock.\n",
            "performance.md",
            "cores",
            options.write,
        )
        return
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    times = measure(paths[: options.images], options.rounds)
    normal, test = [item["label"] for item in lists["training"]].count(0), len(lists["test"])
    rows = [row(name, of) for name, of in times.items()]
    sizes = (normal, len(paths) - normal, test)
    rows.append(row("the whole job", whole_job(times, *sizes)))
    rows.append(row("the same, if they scored with ASR-Net once, as we do", whole_job(times, *sizes, evaluations=1)))
    header = ["", "authors' way", "float32", "bfloat16", "others, float32"]
    about = (
        f"{machine(1)}; medians of {options.rounds} rounds, seconds of the core; the whole job is computed from the "
        f"parts for {normal} normal, {len(paths) - normal} unlabelled and {test} test images.\n"
    )
    publish(f"{format_table(header, rows)}\n{about}", "performance.md", "speed", options.write)


if __name__ == "__main__":
    main()
