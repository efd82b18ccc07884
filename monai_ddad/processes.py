"""Processes end with the one that started them, also where that is killed and can tell them nothing."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable

__all__ = ["end_with_parent", "end_with_process"]

INTERVAL = 0.5  # seconds between two looks at a parent that has left no pipe
SERVER = "MONAI_DDAD_SERVER"  # environment variable with the process id of a server that starts others


def end_with_parent(*_: object) -> None:
    """Let this process end when the one does that has started it through ``multiprocessing``.

    ``multiprocessing`` gives each process a pipe whose other end only the parent and processes forked later hold, so
    the last of them finds it closed, ends, and with it closes those of the others. It takes any arguments, as a
    ``worker_init_fn`` of a ``DataLoader`` is given one. In a process that was started in another way it does nothing.

    Example:
        >>> end_with_parent()  # this one has no such parent
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        _end_after(parent.join)


def end_with_process(parent: int) -> None:
    """Let this process end soon after its parent has.

    Args:
        parent: process id of the one that has started this one, in whatever way. If it has ended already, so does
            this one at once.
    """

    def wait() -> None:
        while os.getppid() == parent:
            time.sleep(INTERVAL)

    _end_after(wait)


def end_with_server() -> None:
    """Let a process that a server starts from its own program end with the server; call it in both."""
    server = int(os.environ.setdefault(SERVER, str(os.getpid())))
    if server != os.getpid():
        end_with_process(server)


def _end_after(wait: Callable[[], object]) -> None:
    def end() -> None:
        wait()
        os._exit(1)  # without more ado, as nobody is there to take what is left: this may hang for good

    threading.Thread(target=end, name="end with parent", daemon=True).start()
