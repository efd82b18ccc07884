"""Silence around third-party readers, whose warnings and log records quote what they read."""

from __future__ import annotations

import logging
import threading
import warnings
from contextlib import AbstractContextManager
from types import TracebackType

__all__ = ["quiet"]

LOGGERS = ("pydicom", "PIL", "nibabel", "nibabel.global", "pylibjpeg", "libjpeg", "openjpeg", "highdicom")


class _Quiet(AbstractContextManager[None]):
    """Warnings are ignored and loggers shut from the first thread that enters to the last one that leaves."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside = 0
        self.levels: dict[str, int] = {}
        self.caught = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self.lock:
            self.inside += 1
            if self.inside > 1:
                return
            self.caught = warnings.catch_warnings()
            self.caught.__enter__()
            warnings.simplefilter("ignore")
            for name in LOGGERS:
                self.levels[name] = logging.getLogger(name).level
                logging.getLogger(name).setLevel(logging.CRITICAL + 1)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self.lock:
            self.inside -= 1
            if self.inside:
                return
            self.caught.__exit__(kind, error, trace)
            for name, level in self.levels.items():
                logging.getLogger(name).setLevel(level)


quiet = _Quiet()
