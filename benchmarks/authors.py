"""The authors' way, timed in a process of its own, whose memory is managed as by default."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, partial
from multiprocessing.connection import Connection

import plain
import torch
from PIL import Image

from monai_ddad.networks import DDADNet

__all__ = ["ADAM", "REFINE_ADAM", "SIDE", "Authors"]

JOBS = ("read", "train", "refine", "score", "score_refined", "score_files", "score_files_refined")
SIDE = 64
ADAM = partial(torch.optim.Adam, lr=5e-4, betas=(0.5, 0.999))
REFINE_ADAM = partial(torch.optim.Adam, lr=1e-4, betas=(0.5, 0.999), weight_decay=1e-4)


class Authors:
    """Processes that do one of the authors' jobs each, as these have a program run for each.

    Make it before anything is computed. They end with this process.

    Args:
        paths: of pictures.
        few: how many of them slower jobs take.
    """

    def __init__(self, paths: Sequence[str], few: int) -> None:
        context = multiprocessing.get_context("fork")
        self.pipes: dict[str, Connection] = {}
        for job in JOBS:
            self.pipes[job], other = context.Pipe()
            context.Process(target=_serve, args=(other, getattr(_Jobs(paths, few), job)), daemon=True).start()

    def __call__(self, job: str) -> float:
        """Do a job; return the seconds of its core that one of its pieces took."""
        self.pipes[job].send(None)
        return self.pipes[job].recv()


def _serve(pipe: Connection, job: Callable[[], int]) -> None:
    torch.set_num_threads(1)
    while True:
        pipe.recv()
        start = time.process_time()
        done = job()
        pipe.send((time.process_time() - start) / done)


class _Jobs:
    """The jobs; each returns how many pieces it has done."""

    def __init__(self, paths: Sequence[str], few: int) -> None:
        self.paths, self.few = paths, few

    @cached_property
    def pictures(self) -> list[Image.Image]:
        return [_read(path) for path in self.paths]

    @cached_property
    def network(self) -> DDADNet:
        network = DDADNet(seed=0).eval()
        for part in (network.ndm, network.udm):
            part.requires_grad_(False)
        return network

    @cached_property
    def training(self) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        network = DDADNet(members=1, refine="none", seed=0).ndm.members[0].train()
        return network, ADAM(network.parameters())

    @cached_property
    def refinement(self) -> torch.optim.Optimizer:
        assert self.network.asr is not None
        return REFINE_ADAM(self.network.asr.parameters())

    def read(self) -> int:
        return len([_read(path) for path in self.paths[: self.few]])

    def train(self) -> int:
        batches = plain.loader(self.pictures)
        for batch in batches:
            plain.train_step(*self.training, batch)  # type: ignore[arg-type]
        return len(batches)

    def refine(self) -> int:
        assert self.network.asr is not None
        asr = self.network.asr.train()
        batches = plain.asr_loader(self.pictures[: self.few])
        for images, masks in batches:
            plain.asr_step(
                [*self.network.ndm.members],
                [*self.network.udm.members],
                asr,
                self.refinement,
                images,
                masks,
            )
        return len(batches)

    def score(self) -> int:
        return self._score(self.pictures[: self.few // 4], refined=False)

    def score_refined(self) -> int:
        return self._score(self.pictures[: self.few // 4], refined=True)

    def score_files(self) -> int:
        return self._score(map(_read, self.paths[: self.few // 4]), refined=False)

    def score_files_refined(self) -> int:
        return self._score(map(_read, self.paths[: self.few // 4]), refined=True)

    def _score(self, pictures: Iterable[Image.Image], refined: bool) -> int:
        network = self.network.eval()
        asr = network.asr if refined else None
        ndm, udm = [*network.ndm.members], [*network.udm.members]
        return len([plain.score(ndm, udm, asr, plain.to_tensor(picture)) for picture in pictures])


def _read(path: str) -> Image.Image:
    return Image.open(path).convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
