"""A folder is written by one process at a time, on this machine and on others that share its file system."""

from __future__ import annotations

import json
import logging
import os
import platform
import re
import secrets
import signal
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from monai_ddad.io.errors import DataError
from monai_ddad.io.writing import private_folder

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["LOCK", "FolderInUseError", "lock_folder", "require_free"]

logger = logging.getLogger(__name__)

LOCK = ".monai_ddad.lock"  # in the folder, as long as it is written
BEAT = 10.0  # seconds between two signs of life
SILENT = 300.0  # seconds without one after which a process of another machine counts as gone
SETTLE = 1.0  # seconds in which another machine would overwrite the same stale lock
STEP, BRIEF = 0.02, 50  # seconds between looks at what another process does next, and how many
MISSES = 250  # times that a folder may be gone or there again before it is another error, such as a link to nothing


class FolderInUseError(DataError):
    """Another process writes to the folder."""


@contextmanager
def lock_folder(folder: str | os.PathLike[str], option: str) -> Iterator[None]:
    """Keep other processes from writing to a folder, which is made where missing.

    The folder holds a file with process, host and start meanwhile. The operating system locks it, so that it is free
    for others on this machine as soon as the process has ended, in whatever way, while forked ones go on. Other
    machines, whose locks this one may not see, judge by the file's time, which is renewed every 10 s: after 5 minutes
    of silence by the clock of the file system the process counts as gone. The thread that has the folder may lock it
    again. SIGTERM unwinds a main thread that has one, as an interrupt does.

    Args:
        folder: to write to.
        option: what the user gives another folder by, for the message.

    Raises:
        FolderInUseError: another process writes to it, or has until recently on another machine.
        OSError: the file cannot be written.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with lock_folder(folder, "--output_dir"):
        ...         print(os.listdir(folder))
        ...     os.listdir(folder)
        ['.monai_ddad.lock']
        []
    """
    key = os.path.realpath(folder)
    if key in _held and _held[key].thread == threading.get_ident():
        yield
        return
    with _sigterm_unwinds():
        lock = _Lock(Path(folder), option)
        _held[key] = lock
        try:
            yield
        finally:
            if _held.get(key) is lock:  # not in a fork
                del _held[key]
                lock.release()


def require_free(folder: str | os.PathLike[str], option: str) -> None:
    """Find out early whether a folder would be refused when there is something to write to it.

    Raises:
        FolderInUseError: see :func:`lock_folder`.
    """
    if (Path(folder) / LOCK).exists():
        with lock_folder(folder, option):
            pass


class _Lock:
    """The lock of a folder, held from its making to its release."""

    def __init__(self, folder: Path, option: str) -> None:
        self.path = folder / LOCK
        self.option = option
        self.thread = threading.get_ident()
        self.token = secrets.token_hex(8)
        self.made_folder = not folder.exists()
        self.misses = 0
        while not self._try():
            time.sleep(STEP)
        self._released = threading.Event()
        threading.Thread(target=self._beat, name="lock of a folder", daemon=True).start()

    def _try(self) -> bool:
        """Take the lock; False where the file is of one that has just been released.

        Raises:
            FolderInUseError: another process has it.
        """
        try:
            private_folder(self.path.parent)
            self.file, made = self._open()
        except (FileExistsError, FileNotFoundError):  # another process has just made it, or removed it
            self.misses += 1
            if self.misses > MISSES or any(folder.exists() and not folder.is_dir() for folder in self.path.parents):
                raise
            return False
        try:
            alone = _lock(self.file)
            for _ in range(BRIEF if made else 0):  # another process that looks at it has it for a moment
                if alone is False:
                    time.sleep(STEP)
                    alone = _lock(self.file)
            before = _read(self.file)
            if not self._is_in_place() or (alone and not made and not before and self._silence() < BRIEF * STEP):
                os.close(self.file)  # it has just been removed, or made by one that is to lock it next
                return False
            certain = made or (alone is True and before.get("machine") == _machine())
            if alone is False or not certain:
                self._judge(before, alone)
            self._write()
            if not certain:
                time.sleep(SETTLE)
                if not self._is_ours():
                    raise FolderInUseError(self._message({}))
        except FileNotFoundError:
            os.close(self.file)
            return False
        except BaseException:
            if made and alone is not False:
                self.path.unlink()
            os.close(self.file)
            raise
        return True

    def _open(self) -> tuple[int, bool]:
        """Open the file; tell whether it was made."""
        flags = os.O_RDWR | sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))
        try:
            return os.open(self.path, flags | os.O_CREAT | os.O_EXCL, 0o600), True
        except FileExistsError:
            pass
        try:
            file = os.open(self.path, flags)
        except PermissionError:
            raise FolderInUseError(
                f"another user's process writes here or was stopped here: give another {self.option}, or remove {LOCK} "
                "in the folder when it has ended."
            ) from None
        except FileNotFoundError:
            raise
        except OSError:  # a link, a folder
            file = -1
        if file < 0 or not stat.S_ISREG(os.fstat(file).st_mode):
            if file >= 0:
                os.close(file)
            raise DataError(
                f"{LOCK} in the folder is not a lock file of this program: remove it, or give another {self.option}."
            )
        return file, False

    def _judge(self, before: dict[str, Any], alone: bool | None) -> None:
        """Raise an error where what another process wrote to the file says that it is alive."""
        for _ in range(BRIEF if alone is False else 0):  # it may be about to write
            if not before:
                time.sleep(STEP)
                before = _read(self.file)
        here = before.get("machine") == _machine()
        if alone is None and here and before.get("namespace") == _namespace():
            alive = _start_of(before["process"]) == before["began"]
        elif alone is not None and (here or not before):
            alive = alone is False
        else:
            alive = self._silence() < SILENT
        if alive:
            raise FolderInUseError(self._message(before))

    def _silence(self) -> float:
        """Return the seconds since the last sign of life, by the clock of the file system."""
        return _now(self.path.parent) - os.fstat(self.file).st_mtime

    def _message(self, before: dict[str, Any]) -> str:
        do = f"wait for it, stop it, or give another {self.option}."
        if not before:
            return f"another process has just begun to write here: {do}"
        since = _time(_now(self.path.parent) - before["started"])
        if before["machine"] == _machine():
            where = "this host" if before["host"] == _host() else f"{before['host']} on this machine"
            return f"process {before['process']} on {where} has been writing here for {since}: {do}"
        return (
            f"process {before['process']} on host {before['host']} has been writing here for {since}: {do} Its last "
            f"sign of life was {_time(self._silence())} ago; after {_time(SILENT)} without one it counts as gone."
        )

    def _write(self) -> None:
        record = {
            "process": os.getpid(),
            "host": _host(),
            "machine": _machine(),
            "namespace": _namespace(),
            "began": _start_of(os.getpid()),
            "started": _now(self.path.parent),
            "token": self.token,
        }
        os.ftruncate(self.file, 0)
        os.lseek(self.file, 0, os.SEEK_SET)
        os.write(self.file, json.dumps(record).encode())
        os.fsync(self.file)

    def _is_in_place(self) -> bool:
        """Tell whether the file that is open still has its name."""
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self.file))
        except FileNotFoundError:
            return False

    def _is_ours(self) -> bool:
        """Tell whether the file, opened anew as other machines have written it, says that the folder is ours."""
        file = os.open(self.path, os.O_RDONLY)
        try:
            return _read(file).get("token") == self.token
        finally:
            os.close(file)

    def _beat(self) -> None:
        """Give signs of life; end this process's work where another machine has counted it as gone."""
        while not self._released.wait(BEAT):
            with suppress(OSError):
                if not self._is_ours() and not self._released.is_set():
                    logger.error("This process was silent for so long that another one has taken over its folder.")
                    os.kill(os.getpid(), signal.SIGTERM)  # an interrupt may be ignored
                    return
                os.utime(self.path)

    def release(self) -> None:
        """Remove the file."""
        self._released.set()
        if fcntl is None:
            self.close()  # Windows removes nothing that is open
        try:
            with suppress(OSError):
                if self._is_ours():
                    os.unlink(self.path)
        finally:
            self.close()
        with suppress(OSError):
            if self.made_folder:
                self.path.parent.rmdir()  # where nothing was written to it

    def close(self) -> None:
        """Leave the file as it is."""
        with suppress(OSError):
            os.close(self.file)
            self.file = -1


_held: dict[str, _Lock] = {}


def _leave_to_parent() -> None:
    """Let a forked process have no part in the locks of the one that it was forked from."""
    for lock in _held.values():
        lock.close()
    _held.clear()
    if signal.getsignal(signal.SIGTERM) is _unwind:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)


@contextmanager
def _sigterm_unwinds() -> Iterator[None]:
    """Let SIGTERM raise an error in the main thread, if nothing else is to happen, so that files are removed."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    process = os.getpid()
    signal.signal(signal.SIGTERM, _unwind)
    try:
        yield
    finally:
        if os.getpid() == process:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _unwind(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _lock(file: int) -> bool | None:
    """Lock a file for this process; False if another one has it, None where the file system has no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return None
    return True


def _read(file: int) -> dict[str, Any]:
    """Return what a lock's file says; nothing where it is not whole."""
    try:
        os.lseek(file, 0, os.SEEK_SET)
        record = json.loads(os.read(file, 4096))
        kinds = {"process": int, "host": str, "machine": str, "began": str | None, "started": float, "token": str}
        if all(isinstance(record[name], kind) for name, kind in kinds.items()):
            return record | {"host": re.sub(r"[^\w.-]", "", record["host"])[:64]}
    except (KeyError, RecursionError, TypeError, ValueError):
        pass
    return {}


def _now(folder: Path) -> float:
    """Return the time by the clock of a folder's file system, which may be another machine's."""
    with tempfile.TemporaryFile(dir=folder) as file:
        return os.fstat(file.fileno()).st_mtime


def _time(seconds: float) -> str:
    for size, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {name}"
    return f"{max(seconds, 0):.0f} s"


def _host() -> str:
    return re.sub(r"[^\w.-]", "", platform.node())[:64]


def _machine() -> str:
    """Return what tells this machine, since it was started, from others; containers on it have the same."""
    return _content("/proc/sys/kernel/random/boot_id") or _host()


def _namespace() -> str | None:
    """Return what tells the processes of this container from those of others with the same numbers."""
    with suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return None


def _start_of(process: int) -> str | None:
    """Return when a process was started, as the system says it; None if there is none or the system does not say."""
    content = _content(f"/proc/{process}/stat")
    return content.rpartition(")")[2].split()[19] if content else None


def _content(file: str) -> str | None:
    with suppress(OSError):
        return Path(file).read_text().strip()
    return None
