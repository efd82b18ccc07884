"""The folder of results that several handlers of one run write to."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

from monai_ddad.io.writing import Staging

__all__ = ["Results"]


class Results:
    """What the handlers of one run write to a folder; it takes the place of earlier results when all are done.

    As a context manager it drops everything where its block ends in an error.

    Args:
        folder: of the results.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._staging = Staging(folder)
        self._writing: list[Any] = []

    @classmethod
    def join(cls, engine: Any, handler: Any, folder: Path, results: dict[str, str]) -> Results:
        """Take part in the results of an engine's run that starts.

        Args:
            engine: the evaluator; its state keeps what the handlers share.
            handler: who writes.
            folder: of the results, equal for those that share them.
            results: what the handler writes, see :class:`monai_ddad.io.writing.Staging`.
        """
        shared: dict[Path, Results] = engine.state.__dict__.setdefault("results", {})
        known = shared.get(folder)
        if known is None or not known._staging.open or handler in known._writing:  # of an earlier run
            if known is not None:
                known._staging.discard()
            known = shared[folder] = cls(folder)
        with known:
            known._staging.replaces(results)
        known._writing.append(handler)
        return known

    def leave(self, handler: Any) -> None:
        """Say that a handler is done; the last one puts everything in its place."""
        self._writing.remove(handler)
        if not self._writing:
            self._staging.commit()

    def __enter__(self) -> Path:
        return self._staging.path

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._staging.discard()
