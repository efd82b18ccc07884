"""Chunks of an archive are read and prepared by other processes, a bounded number of them ahead."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import numpy as np
from monai.utils import convert_to_tensor
from torch.utils.data import DataLoader, Dataset

from monai_ddad.data.items import prepare, slice_number
from monai_ddad.io.errors import root_cause
from monai_ddad.processes import end_with_parent
from monai_ddad.serving.archive.listing import Listing
from monai_ddad.transforms import ImageReadError
from monai_ddad.transforms.eight_bit import eight_bits

__all__ = ["PREFETCH", "ReadChunk", "ReaderKilledError", "notice_kill", "read_carefully", "read_chunks"]

PREFETCH = 2  # chunks that each process is asked for at a time
KILLED = "the process that read it was killed"


@dataclass(frozen=True)
class ReadChunk:
    """A chunk that was read, in arrays: tensors would travel between processes through scarce shared memory.

    Attributes:
        number: of the chunk.
        images: (N, C, h, w) uint8, prepared.
        positions: of the item that each is of, counted from the chunk's first item.
        slices: number of each among the slices of its volume; None for a picture.
        errors: position of an item -> why it cannot be read.
    """

    number: int
    images: np.ndarray
    positions: list[int]
    slices: list[int | None]
    errors: dict[int, str]


def read_chunks(
    listing: Listing, numbers: Sequence[int], transform: Callable[[dict[str, Any]], Any], num_workers: int
) -> Iterator[ReadChunk]:
    """Read chunks, in any order.

    At most :data:`PREFETCH` chunks a process are read ahead of what is taken.

    Args:
        listing: the archive.
        numbers: of the chunks.
        transform: see :class:`~monai_ddad.data.ItemDataset`. Whatever error it ends in, the item is left out and the
            error noted.
        num_workers: processes; 0 reads in this one.
    """
    workers = min(num_workers, len(numbers))
    loader = DataLoader(
        _Chunks(transform),
        batch_size=None,
        sampler=((number, listing.chunk(number)) for number in numbers),
        collate_fn=_as_it_is,
        num_workers=workers,
        prefetch_factor=PREFETCH if workers else None,
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
        worker_init_fn=end_with_parent,
        in_order=False,
    )
    handled = workers > 0 and sys.platform != "win32" and threading.current_thread() is threading.main_thread()
    yield from _waited(iter(loader)) if handled else loader


def _waited(chunks: Iterator[ReadChunk]) -> Iterator[ReadChunk]:
    """Let PyTorch tell that a reading process has died only while chunks are waited for.

    It raises from a signal handler, at any moment: also in the middle of a fork, whose locks then stay locked for all
    other threads. A death at another moment it finds within some seconds of the next wait.

    Args:
        chunks: of a loader that has started its processes.
    """
    waiting = False
    tell = signal.getsignal(signal.SIGCHLD)

    def handle(number: int, frame: FrameType | None) -> None:
        if waiting and callable(tell):
            tell(number, frame)

    signal.signal(signal.SIGCHLD, handle)
    try:
        while True:
            waiting = True
            read = next(chunks, None)
            waiting = False
            if read is None:
                return
            yield read
    finally:
        waiting = False
        signal.signal(signal.SIGCHLD, tell or signal.SIG_DFL)


class ReaderKilledError(RuntimeError):
    """A process that reads images was killed, by one of them or for want of memory."""


@contextmanager
def notice_kill() -> Iterator[None]:
    """Tell that a reading process was killed from other errors; PyTorch raises a general one, at any moment.

    Raises:
        ReaderKilledError: instead of that error.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker (pid" not in str(error):
            raise
        raise ReaderKilledError from None


def read_carefully(listing: Listing, number: int, transform: Callable[[dict[str, Any]], Any]) -> ReadChunk:
    """Read a chunk that may have killed the process that read it; item by item, each up to twice, if it does it again.

    Args:
        listing, transform: see :func:`read_chunks`.
        number: of the chunk.
    """
    read = _read_alone(listing, number, transform)
    if read is not None:
        return read
    alone = (Listing.of([item]) for item in listing.chunk(number))
    items = [_read_alone(item, 0, transform) or _read_alone(item, 0, transform) for item in alone]
    found = [(place, read) for place, read in enumerate(items) if read is not None and len(read.images)]
    errors = {
        place: KILLED if read is None else read.errors[0] for place, read in enumerate(items) if not read or read.errors
    }
    return ReadChunk(
        number,
        np.concatenate([read.images for _, read in found]) if found else np.zeros((0, 0, 0, 0), np.uint8),
        [place for place, read in found for _ in read.positions],
        [part for _, read in found for part in read.slices],
        errors,
    )


def _read_alone(listing: Listing, number: int, transform: Callable[[dict[str, Any]], Any]) -> ReadChunk | None:
    """Read a chunk by a process of its own; None if that is killed."""
    try:
        with notice_kill():
            (read,) = read_chunks(listing, [number], transform, num_workers=1)
            return read
    except ReaderKilledError:
        return None


class _Chunks(Dataset):
    """Numbers and items of chunks in, what is read of them out."""

    def __init__(self, transform: Callable[[dict[str, Any]], Any]) -> None:
        self.transform = transform

    def __getitem__(self, work: tuple[int, list[list[str]]]) -> ReadChunk:
        number, items = work
        images: list[np.ndarray] = []
        positions: list[int] = []
        slices: list[int | None] = []
        errors: dict[int, str] = {}
        for position, files in enumerate(items):
            try:
                parts = self._prepare({"image": files if len(files) > 1 else files[0]})
            except ImageReadError as error:
                errors[position] = str(error)
                continue
            images += [pixels for _, pixels in parts]
            slices += [number_of_slice for number_of_slice, _ in parts]
            positions += [position] * len(parts)
        stacked = np.stack(images) if images else np.zeros((0, 0, 0, 0), np.uint8)
        return ReadChunk(number, stacked, positions, slices, errors)

    def _prepare(self, item: dict[str, Any]) -> list[tuple[int | None, np.ndarray]]:
        try:
            parts = [part["image"] for part in prepare(self.transform, item)]
            return [(slice_number(part), eight_bits(convert_to_tensor(part)).numpy()) for part in parts]
        except Exception as error:  # of any kind: one odd image does not stop an archive
            reason = root_cause(error)
            if isinstance(reason, ImageReadError):
                raise reason from None
            raise ImageReadError(f"the image cannot be prepared ({type(reason).__name__})") from None


def _as_it_is(content: Any) -> Any:
    return content
