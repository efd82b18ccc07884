"""Ten minutes on a GPU: whether training runs there and gives what the CPU gives, and how long it takes.

    python benchmarks/gpu_check.py --output gpu_check.txt

Each step is a process of its own. The first one that fails ends the check: after an illegal address nothing that a card
says can be trusted. ``--device cpu`` tries the steps out where there is no card.
"""

from __future__ import annotations

import argparse
import csv
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from gpu import random_images
from torch.profiler import ProfilerActivity, profile

from monai_ddad.networks import DDADNet
from monai_ddad.training import EnsembleTrainer, RefineTrainer

REPOSITORY = Path(__file__).resolve().parents[1]
CONFIGS = REPOSITORY / "bundles" / "ddad_brain"
PRECISIONS = ("float32", "tf32", "bfloat16")
ADAM = partial(torch.optim.Adam, lr=5e-4, betas=(0.5, 0.999))
CLOSE = {"six AEs": 0.01, "ASR-Net": 0.05}  # relative differences of losses
SAME_SCORE = 1e-3


def losses(device: str, precision: str, graph: bool, images: int, epochs: int = 1) -> dict[str, float]:
    """Train both phases on random images; return their last losses."""
    data, network = random_images(images // 2, images // 2), DDADNet(seed=0)
    ensembles = EnsembleTrainer(torch.device(device), epochs, network, data, ADAM, precision=precision, graph=graph)
    ensembles.run()
    refine = RefineTrainer(torch.device(device), epochs, network, data, ADAM, precision=precision, graph=graph)
    refine.run()
    outputs = {"six AEs": ensembles.state.metrics, "ASR-Net": refine.state.metrics}
    return {phase: sum(map(float, found.values())) for phase, found in outputs.items()}


def say_versions(device: str, images: int) -> None:
    """Print what there is to run on."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    sys.stdout.write(f"PyTorch {torch.__version__}, CUDA {torch.version.cuda}, {name}\n")
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("PyTorch finds no GPU: give --device cpu to try the steps out.")


def train_an_epoch(device: str, images: int, precision: str) -> None:
    """Train an epoch of each phase by the plain path."""
    found = losses(device, precision, graph=False, images=images)
    sys.stdout.write(f"losses {found}\n")
    if not all(map(math.isfinite, found.values())):
        raise RuntimeError("a loss is not finite.")


def compare_graph_and_plain(device: str, images: int, precision: str) -> None:
    """Check that recorded steps train as plain ones do."""
    plain, graph = (losses(device, precision, way, images, epochs=3) for way in (False, True))
    for phase, loss in plain.items():
        difference = abs(graph[phase] - loss) / abs(loss)
        sys.stdout.write(f"{phase}: plain {loss:.6f}, graph {graph[phase]:.6f}\n")
        if difference > CLOSE[phase]:
            raise RuntimeError(f"the losses of {phase} differ by {difference:.1%}.")


def profile_replays(device: str, images: int) -> None:
    """Print where the time of a recorded epoch goes."""
    trainer = EnsembleTrainer(torch.device(device), 1, DDADNet(seed=0), random_images(images, images), ADAM, graph=True)
    trainer.run()
    trainer.state.max_epochs = 2
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.device(device).type == "cuda" else [])]
    with profile(activities=kinds) as found:
        trainer.run()
    order = "self_cuda_time_total" if torch.device(device).type == "cuda" else "self_cpu_time_total"
    sys.stdout.write(found.key_averages().table(sort_by=order, row_limit=15))


def scores(folder: Path) -> list[list[float]]:
    """Read the scores that an evaluation has written."""
    with (folder / "eval" / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = [name for name in rows[0] if name in ("inter", "intra", "rec")]
    return [[float(row[name]) for name in names] for row in rows]


def compare_scores(folder: Path, expected: list[list[float]]) -> None:
    """Check that scores are those of before."""
    difference = (torch.tensor(scores(folder)) - torch.tensor(expected)).abs().max().item()
    sys.stdout.write(f"largest difference of a score {difference:.1e}\n")
    if difference > SAME_SCORE:
        raise RuntimeError("the scores differ.")


def bundle(folder: Path, *configs: str, device: str, **settings: object) -> list[str]:
    """Return the command that runs configs of a bundle."""
    command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", "--output_dir", str(folder)]
    command += ["--config_file", str([str(CONFIGS / f"configs/{name}.json") for name in configs])]
    command += ["--device", f"$torch.device('{device}')"]
    return [*command, *(word for name, value in settings.items() for word in (f"--{name}", str(value)))]


STEPS: dict[str, Callable[..., None]] = {
    "versions": say_versions,
    **{f"epoch_{name}": partial(train_an_epoch, precision=name) for name in PRECISIONS},
    **{f"graph_{name}": partial(compare_graph_and_plain, precision=name) for name in PRECISIONS},
    "profile": profile_replays,
}


class Check:
    """Runs steps until one fails.

    Args:
        device: where to run.
        images: of a training on random images.
        output: file for what the steps print.
    """

    def __init__(self, device: str, images: int, output: Path) -> None:
        self.device = device
        self.images = images
        self.output = output
        output.write_text("")

    def run(self, name: str, command: Sequence[str]) -> None:
        """Run a command as a step."""
        start = time.perf_counter()
        done = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.note(name, time.perf_counter() - start, done.stdout, done.returncode == 0)

    def step(self, name: str) -> None:
        """Run one of :data:`STEPS` in a process of its own."""
        options = ["--step", name, "--device", self.device, "--images", str(self.images)]
        self.run(name, [sys.executable, __file__, *options])

    def note(self, name: str, seconds: float, text: str, well: bool) -> None:
        """Keep what a step printed; end if it failed."""
        line = f"{'ok    ' if well else 'FAILED'} {seconds:6.1f} s  {name}\n"
        sys.stdout.write(line)
        with self.output.open("a") as file:
            file.write(f"{line}{text}\n")
        if not well:
            sys.exit(f"{text[-3000:]}\nThe check ends here; all that was printed is in {self.output}.")


def check_bundle(check: Check, folder: Path, small: dict[str, int]) -> None:
    """Train a bundle on the device, evaluate it on the CPU, and stop and go on from one to the other."""
    device = check.device
    check.run("a bundle trained and evaluated", bundle(folder / "a", "train", device=device, **small))
    expected = scores(folder / "a")
    check.run("evaluated on the CPU", bundle(folder / "a", "train", "evaluate", device="cpu"))
    compare_scores(folder / "a", expected)
    more = {name: value for name, value in small.items() if name != "epochs"}
    for number, (place, epochs) in enumerate(((device, 1), ("cpu", 2), (device, 3))):
        command = bundle(folder / "b", "train", device=place, epochs=epochs, **more)
        check.run(f"stopped and gone on {number} times, on {place}", command)


def main() -> None:
    """Run all steps, or one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--epochs", type=int, default=40, help="of the times at the end")
    parser.add_argument("--output", type=Path, default=Path("gpu_check.txt"))
    parser.add_argument("--step", choices=[*STEPS], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        STEPS[options.step](options.device, options.images)
        return
    check = Check(options.device, options.images, options.output)
    for name in [name for name in STEPS if name != "profile"]:
        check.step(name)
    check.run("tests", [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/networks", "tests/training"])
    with tempfile.TemporaryDirectory() as folder:
        small = {"epochs": 3, "refine_epochs": 1} if options.device == "cpu" else {}
        check_bundle(check, Path(folder), small)
    few = str(max(1, options.epochs // 4))
    sizes = ["--normal", str(options.images), "--unlabeled", str(options.images)] if options.device == "cpu" else []
    times = [sys.executable, "benchmarks/gpu.py", "--epochs", str(options.epochs), "--refine_epochs", few, "--few", few]
    check.run("times", [*times, *sizes])
    check.step("profile")


if __name__ == "__main__":
    main()
