"""What the scores of DDAD (dual-distribution discrepancy) beyond the paper cost, on random images and one core.

    python benchmarks/plus_cost.py --write

Compares in turns, in one process: scoring 64 images at a time with the paper's scores and with all; and an epoch of the
ensembles with what is learned once behind the last one. Prints a Markdown table; with ``--write`` it goes into
``docs/scores.md``.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import cast

import torch
from pages import format_table, machine, publish

from monai_ddad.data import normalise
from monai_ddad.networks import AE, DDADModel, DDADNet, PlusScores
from monai_ddad.placement import autocast, choose_precision
from monai_ddad.serving.runtimes import Runtime
from monai_ddad.training.members import Member

BATCH = 64  # images at a time
ADAM = partial(torch.optim.Adam, lr=5e-4, betas=(0.5, 0.999), fused=True)


def seconds(call: Callable[[], object]) -> float:
    """Return the processor time of a call."""
    start = time.process_time()
    call()
    return time.process_time() - start


def in_turns(calls: list[Callable[[], object]], rounds: int) -> list[float]:
    """Return the median times of calls that are made one after the other, in several rounds after one to warm up."""
    found = [[seconds(call) for call in calls] for _ in range(rounds + 1)]
    return [statistics.median(values) for values in zip(*found[1:])]


def measure(precision: str, images: torch.Tensor, rounds: int) -> list[list[str]]:
    """Return the rows of one precision."""
    nets = [DDADNet(refine="none", scores=scores, seed=0).eval() for scores in ("paper", "plus")]
    for net in nets:
        net.mark_loaded()  # what the weights are takes no time
    networks = [DDADModel(net).eval() for net in nets]
    runtimes = [Runtime(network, precision=precision) for network in networks]

    def score(runtime: Runtime) -> None:
        for batch in images.split(BATCH):
            runtime.decide(normalise(batch))

    paper, plus = in_turns([partial(score, runtime) for runtime in runtimes], rounds)
    rows = [
        [f"scoring {len(images)} images, {precision}", f"{paper:.2f} s", f"{plus:.2f} s", f"{plus / paper - 1:+.1%}"]
    ]

    network, known = networks[1], len(images) // 2
    context = autocast(torch.device("cpu"), precision)
    parts = [(nets[1].ndm, images[:known]), (nets[1].udm, images)]
    members = [Member(cast(AE, member), ADAM, part, context) for module, part in parts for member in module.members]

    def epoch() -> None:
        for member in members:
            for positions in torch.randperm(len(member.images)).split(BATCH):
                if len(positions) > 1:
                    member.step(positions)

    def learn() -> None:
        with torch.no_grad():
            features = torch.cat(
                [network.eval().discrepancy(normalise(batch)).features for batch in images.split(BATCH)]
            )
            assert isinstance(network.head.plus, PlusScores)
            network.head.plus.fit(features[:known], features[known:])

    trained, learned = in_turns([epoch, learn], max(1, rounds // 3))
    for epochs in (50, 250):
        rows.append(
            [
                f"training {epochs} epochs on {len(images)} images, {precision}",
                f"{epochs * trained:.0f} s",
                f"{epochs * trained + learned:.0f} s",
                f"{learned / (epochs * trained):+.1%}",
            ]
        )
    return rows


def main() -> None:
    """Print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--write", action="store_true", help="put the table into docs/scores.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    images = torch.randint(0, 256, (options.images, 1, 64, 64), dtype=torch.uint8)
    precisions = dict.fromkeys(["float32", choose_precision("auto", "cpu")])
    rows = [row for precision in precisions for row in measure(precision, images, options.rounds)]
    table = format_table(["", "the paper's scores", "all", "more"], rows)
    publish(f"{table}\n{machine(1)}; medians of {options.rounds} rounds.\n", "scores.md", "cost", options.write)


if __name__ == "__main__":
    main()
