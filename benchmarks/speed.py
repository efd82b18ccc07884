"""Speed of training, refinement, inference, reading and scoring against the authors' way, in the same run.

    python benchmarks/speed.py --data ../shared/data/brain_mri --write

Everything runs on one core and is timed in seconds of that core, ours and the authors' way (``plain.py``) in turns;
the table holds medians. With ``--two_cores`` our training is timed by the clock, on one core and on two, which must do
nothing else. The whole job is computed from the parts. Images are those of a data set's ``data.json``, made 64 x 64.
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

import plain
import torch
from ignite.engine import Events
from pages import format_table, machine, publish
from PIL import Image

from monai_ddad.data import ResidentDataset, load_datalist, normalise
from monai_ddad.engines import EnsembleTrainer, RefineTrainer
from monai_ddad.networks import DDADNet
from monai_ddad.runtimes import Runtime
from monai_ddad.scores import image_scores
from monai_ddad.transforms import PlainResized, ReadImaged

SIDE = 64
BATCH, REFINE_BATCH = 64, 8
EPOCHS, REFINE_EPOCHS, VALIDATIONS = 250, 100, 10  # of the paper preset
MEMBERS = 3
ADAM = partial(torch.optim.Adam, lr=5e-4, betas=(0.5, 0.999))
REFINE_ADAM = partial(torch.optim.Adam, lr=1e-4, betas=(0.5, 0.999), weight_decay=1e-4)
PRECISIONS = ("float32", "bfloat16")

Times = dict[str, dict[str, float]]
Clock = Callable[[], float]
Timed = Callable[[Clock], float]


def read_plainly(path: str) -> Image.Image:
    """Read a picture as the authors do."""
    return Image.open(path).convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR)


def read(paths: list[str], labels: list[int | None] | None = None) -> ResidentDataset:
    """Read pictures as we do, with one thread."""
    items = [{"image": path, "label": label} for path, label in zip(paths, labels or [None] * len(paths))]
    steps = [ReadImaged("image"), PlainResized("image", image_size=SIDE)]

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
    """One further epoch of a trainer at each call, without what is done once a training."""

    def __init__(self, trainer: EnsembleTrainer | RefineTrainer, steps: int) -> None:
        self.trainer, self.steps = trainer, steps
        self.clock: Clock = time.process_time
        trainer.add_event_handler(Events.EPOCH_STARTED, self._begin)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._end)

    def __call__(self, clock: Clock) -> float:
        """Train; return the seconds of a step of one network."""
        self.clock = clock
        self.trainer.state.max_epochs = self.trainer.state.epoch + 1
        self.trainer.run()
        return self.seconds / self.steps

    def _begin(self) -> None:
        self.start = self.clock()

    def _end(self) -> None:
        self.seconds = self.clock() - self.start


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
    return ResidentDataset(items, lambda item: {"image": item["image"].float().div(255)}, num_workers=1)


def plain_networks() -> tuple[DDADNet, list[torch.nn.Module], list[torch.nn.Module]]:
    """Return untrained networks, frozen."""
    network = DDADNet(seed=0).eval()
    for part in (network.ndm, network.udm):
        part.requires_grad_(False)
    return network, list(network.ndm.members), list(network.udm.members)


def measure(paths: list[str], rounds: int) -> Times:
    """Measure all parts: name -> how -> seconds of one. Slower parts take fewer of the images."""
    times: Times = {}
    clock = time.process_time
    few = paths[: len(paths) // 5]
    times["reading a picture"] = in_turns(
        {
            "authors": each(lambda: len([read_plainly(path) for path in few])),
            "float32": each(lambda: len(read(few))),
        },
        rounds,
        clock,
    )
    pictures, images = [read_plainly(path) for path in paths], read(paths).images

    network = DDADNet(members=1, refine="none", seed=0).ndm.members[0].train()
    optimizer = ADAM(network.parameters())
    batches = plain.loader(pictures)

    def plain_training() -> int:
        for batch in batches:
            plain.train_step(network, optimizer, batch)  # type: ignore[arg-type]
        return len(batches)

    ours: dict[str, Timed] = {precision: ensemble_epoch(images, precision) for precision in PRECISIONS}
    times["training step of a network, 64 images"] = in_turns({"authors": each(plain_training)} | ours, rounds, clock)

    whole, ndm, udm = plain_networks()
    assert whole.asr is not None
    asr, asr_optimizer = whole.asr.train(), REFINE_ADAM(whole.asr.parameters())
    asr_batches = plain.asr_loader(pictures[: len(few)])

    def plain_refinement() -> int:
        for batch, masks in asr_batches:
            plain.asr_step(ndm, udm, asr, asr_optimizer, batch, masks)
        return len(asr_batches)

    ours = {precision: refine_epoch(images[: len(few)], precision) for precision in PRECISIONS}
    times["training step of ASR-Net, 8 images"] = in_turns({"authors": each(plain_refinement)} | ours, rounds, clock)

    for refine, what in (("none", "six networks"), ("dual", "six networks and ASR-Net")):
        parts = measure_inference(refine, few, pictures[: len(few) // 4], images[: len(few)], rounds)
        times |= {f"{name} by {what}": of for name, of in parts.items()}
    return times


def measure_inference(
    refine: Any, paths: list[str], pictures: list[Image.Image], images: torch.Tensor, rounds: int
) -> Times:
    """Measure maps and scores of an image, with and without reading it."""
    network, ndm, udm = plain_networks()
    asr = network.asr if refine == "dual" else None

    def runtime(**options: Any) -> Runtime:
        return Runtime(DDADNet(seed=0, refine=refine).eval(), **options)

    runtimes = {
        "float32": runtime(),
        "bfloat16": runtime(precision="bfloat16"),
        "ONNX Runtime": runtime(runtime="onnx"),
        "TorchScript": runtime(runtime="torchscript"),
    }

    def plain_scores() -> int:
        for picture in pictures:
            plain.score(ndm, udm, asr, plain.to_tensor(picture))
        return len(pictures)

    def plain_files() -> int:
        for path in paths[: len(pictures)]:
            plain.score(ndm, udm, asr, plain.to_tensor(read_plainly(path)))
        return len(pictures)

    def batched(run: Runtime, prepared: torch.Tensor) -> int:
        for batch in prepared.split(BATCH):
            image_scores(run(normalise(batch)))
        return len(prepared)

    def of_paths(run: Runtime) -> int:
        return batched(run, read(paths).images)

    clock = time.process_time
    of_images = {name: each(partial(batched, run, images)) for name, run in runtimes.items()}
    of_files = {name: each(partial(of_paths, run)) for name, run in runtimes.items()}
    return {
        "scoring a prepared image": in_turns({"authors": each(plain_scores)} | of_images, rounds, clock),
        "scoring a file": in_turns({"authors": each(plain_files)} | of_files, rounds, clock),
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


def whole_job(times: Times, normal: int, unlabeled: int, test: int) -> dict[str, float]:
    """Add the parts up to the paper's job on a data set: six networks, ASR-Net, evaluation."""
    steps = MEMBERS * EPOCHS * (normal // BATCH + (normal + unlabeled) // BATCH)
    refine_steps = REFINE_EPOCHS * (normal // REFINE_BATCH)
    step, refine_step, score, ensembles, file = (
        times[name]
        for name in (
            "training step of a network, 64 images",
            "training step of ASR-Net, 8 images",
            "scoring a prepared image by six networks and ASR-Net",
            "scoring a prepared image by six networks",
            "reading a picture",
        )
    )
    readings = 2 * MEMBERS + 3  # calls of the authors' program, each reads all images
    # the authors score the test images after each epoch of ASR-Net and in two further calls, and by each network of the
    # NDM alone at the first and at each 25th epoch of its training
    found = {
        "authors": readings * (normal + unlabeled + test) * file["authors"]
        + steps * step["authors"]
        + refine_steps * refine_step["authors"]
        + (REFINE_EPOCHS + 2) * test * score["authors"]
        + (VALIDATIONS + 1) * test * ensembles["authors"] / 2
    }
    for precision in PRECISIONS:
        # we score them during the training of the ensembles and at the end, and the normals for ASR-Net
        found[precision] = (
            (normal + unlabeled + test) * file["float32"]
            + steps * step[precision]
            + refine_steps * refine_step[precision]
            + ((VALIDATIONS + 1) * test + normal) * score["float32"]
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
    rows.append(row("the whole job", whole_job(times, normal, len(paths) - normal, test)))
    header = ["", "authors' way", "float32", "bfloat16", "others, float32"]
    about = (
        f"{machine(1)}; medians of {options.rounds} rounds, seconds of the core; the whole job is computed from the "
        f"parts for {normal} normal, {len(paths) - normal} unlabelled and {test} test images.\n"
    )
    publish(f"{format_table(header, rows)}\n{about}", "performance.md", "speed", options.write)


if __name__ == "__main__":
    main()
