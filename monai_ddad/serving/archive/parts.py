"""What is scored is kept chunk by chunk until the whole archive is, and then joined to one table."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from monai_ddad.decision.finding import Result
from monai_ddad.io.errors import DataError
from monai_ddad.io.locks import LOCK, lock_folder
from monai_ddad.io.writing import Staging, atomic_file, printable, remove_leftovers
from monai_ddad.serving.archive.listing import Listing

__all__ = ["Parts", "make_part"]

ROWS = 65536  # of a row group
MADE_BY, LEFT_OUT = b"monai_ddad", b"left_out"  # keys of the tables' metadata
PLAN, JOINED = "plan.json", "joined.json"
OWN = re.compile(rf"\d{{8}}\.part|{re.escape(PLAN)}|{re.escape(JOINED)}|{re.escape(LOCK)}")


def make_part(
    first: int, number: int, names: Sequence[str], results: Mapping[int, Result], errors: Mapping[int, str]
) -> pa.Table:
    """Lay out what is known of consecutive items, a row each.

    Args:
        first: position of the first one in the archive.
        number: of items.
        names: of the scores.
        results: by position among these items.
        errors: what is wrong with the others, likewise.

    Returns:
        columns ``position``, the scores, ``p_value``, ``percentile``, ``flagged``, ``out_of_protocol``, ``slices`` and
        ``reason``, which is null where the item was scored, as are the others where it was not.

    Example:
        >>> result = Result({"rec": 0.5}, "rec", "rec", None, None, None, "", 0)
        >>> table = make_part(256, 2, ["rec"], {1: result}, {0: "the file is empty"})
        >>> table["position"].to_pylist(), table["rec"].to_pylist(), table["reason"].to_pylist()
        ([256, 257], [None, 0.5], ['the file is empty', None])
    """
    rows: list[dict[str, Any]] = []
    for place in range(number):
        found = results.get(place)
        if found is None:
            rows.append({"reason": errors.get(place, "nothing in it can be scored")})
        elif not all(map(math.isfinite, found.scores.values())):
            rows.append({"reason": "its scores are not finite"})
        else:
            names_of_row = ("p_value", "percentile", "flagged", "out_of_protocol", "slices")
            rows.append({name: getattr(found, name) for name in names_of_row} | found.scores)
        rows[-1]["position"] = first + place
    scores = [(name, pa.float32()) for name in names]
    decisions = [("p_value", pa.float32()), ("percentile", pa.float32()), ("flagged", pa.bool_())]
    rest = [("out_of_protocol", pa.string()), ("slices", pa.int64()), ("reason", pa.string())]
    return pa.Table.from_pylist(rows, pa.schema([("position", pa.int64()), *scores, *decisions, *rest]))


class Parts:
    """The folder beside an output that holds an unfinished run: what is being done, and a file for each chunk done.

    Args:
        output: the table that is to be made.
        plan: what the result depends on, and how many items and chunks there are, for a JSON file.
        file_names: add the path of each item to the tables, of a series that of its first file.
    """

    def __init__(self, output: str | os.PathLike[str], plan: Mapping[str, Any], file_names: bool = False) -> None:
        self.output = Path(output)
        self.unreadable = self.output.with_name(f"{self.output.stem}_unreadable{self.output.suffix}")
        self.folder = self.output.with_name(f"{self.output.name}.parts")
        self.plan = dict(plan)
        self.file_names = file_names

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes away from this output, and remove the folder where nothing is left to be done.

        Raises:
            FolderInUseError: another process is at it.
        """
        if self.folder.is_symlink():
            raise DataError("the folder of unfinished parts beside the output is a link: give another --output.")
        try:
            with lock_folder(self.folder, "--output"):
                yield
        finally:
            with suppress(OSError):  # there is something in it
                self.folder.rmdir()

    @property
    def joined(self) -> bool:
        """The output is the result, and only the folder is left to be removed."""
        found = self._read_json(JOINED)
        return found is not None and self.output.exists() and found == self._joined(self.output.stat().st_ino)

    def _joined(self, inode: int) -> dict[str, Any]:
        return {"plan": self.plan, "file_names": self.file_names, "inode": inode}

    def begin(self, overwrite: bool) -> list[int]:
        """Take up an unfinished run, or start one, under :meth:`lock`.

        Args:
            overwrite: replace a finished output, and drop an unfinished run with another plan.

        Returns:
            numbers of the chunks that are to be done.

        Raises:
            DataError: the output is there already, or an unfinished run has another plan.
        """
        remove_leftovers(self.output.parent, self.folder)  # of a run that was killed
        if self.joined:
            return []
        if self.output.exists() and not overwrite:
            raise DataError("the output exists already: give another --output, or --overwrite to replace it.")
        before = self._read_json(PLAN)
        if before != self.plan:
            if before is not None and not overwrite:
                different = sorted(key for key in before | self.plan if before.get(key) != self.plan.get(key))
                raise DataError(
                    f"an unfinished run with this output differs from this one in: {', '.join(different)}. Give the "
                    "same command as before to go on, another --output, or --overwrite to drop what was done."
                )
            if before is None and any(not OWN.fullmatch(name) for name in os.listdir(self.folder)):
                raise DataError(
                    f"the folder {self.folder.suffix} beside the output holds other files than an unfinished run: give "
                    "another --output."
                )
            self._clear()  # also where there is no plan, as after a run that was killed while it did this
        with atomic_file(self.folder / PLAN) as file:
            file.write((json.dumps(self.plan, indent=2) + "\n").encode())
        done = set(os.listdir(self.folder))
        return [number for number in range(self.plan["chunks"]) if self._file(number).name not in done]

    def write(self, number: int, table: pa.Table) -> None:
        """Keep what :func:`make_part` returned for a chunk."""
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        content = sink.getvalue().to_pybytes()
        with atomic_file(self._file(number)) as file:
            file.write(self._digest(content) + content)

    def join(self, listing: Listing) -> None:
        """Write the output and the table of unreadable items from all chunks, unless that is done.

        Both take the place of earlier ones together.

        Args:
            listing: the archive.

        Raises:
            DataError: a chunk's file is damaged; it is removed, so that the chunk is done again.
        """
        if self.joined:
            return
        with (
            Staging(self.output.parent) as folder,
            atomic_file(folder / self.output.name) as scored,
            atomic_file(folder / self.unreadable.name) as failed,
            _Table(scored, {MADE_BY: self._made_by()}) as scores,
            _Table(failed, {LEFT_OUT: json.dumps(listing.left_out, sort_keys=True).encode()}) as reasons,
        ):
            for number in range(len(listing.chunks)):
                part = self._read(number)
                if self.file_names:
                    names = [printable(item[0]) for item in listing.chunk(number)]
                    part = part.add_column(1, "path", pa.array(names, pa.string()))
                is_scored = pc.is_null(part["reason"])
                scores.add(part.filter(is_scored).drop_columns("reason"))
                reasons.add(
                    part.filter(pc.invert(is_scored)).select(["position", *["path"] * self.file_names, "reason"])
                )
            with atomic_file(self.folder / JOINED) as file:  # true once the output gets its name, even if killed then
                file.write(json.dumps(self._joined(os.fstat(scored.fileno()).st_ino)).encode())

    def end(self) -> tuple[int, int]:
        """Empty the folder; return how many items were scored and how many are unreadable."""
        self._clear()
        return pq.read_metadata(self.output).num_rows, pq.read_metadata(self.unreadable).num_rows

    def _clear(self) -> None:
        """Remove what a run writes from the folder, but the lock, what says how far the run is at the end."""
        last = ("", PLAN, JOINED)
        for name in sorted(os.listdir(self.folder), key=lambda name: last.index(name) if name in last else 0):
            if OWN.fullmatch(name) and name != LOCK:
                (self.folder / name).unlink()

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:08}.part"

    def _digest(self, content: bytes) -> bytes:
        """Return a hash of a part and of the plan that it was made by."""
        return hashlib.sha256(json.dumps(self.plan, sort_keys=True).encode() + content).digest()

    def _read(self, number: int) -> pa.Table:
        file = self._file(number)
        content = file.read_bytes()
        size = hashlib.sha256().digest_size
        if content[:size] == self._digest(content[size:]):
            return pq.read_table(pa.BufferReader(content[size:]))
        file.unlink()
        raise DataError("a part of the result was damaged and is removed: give the same command again to redo it.")

    def _read_json(self, name: str) -> dict[str, Any] | None:
        try:
            return json.loads((self.folder / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError:
            return {}

    def _made_by(self) -> bytes:
        """Return what is said in the output's metadata, which is nothing that depends on paths."""
        return json.dumps({key: value for key, value in self.plan.items() if key != "listing"}).encode()


class _Table:
    """A Parquet file that small tables are added to, in large row groups."""

    def __init__(self, file: Any, metadata: dict[bytes, bytes]) -> None:
        self.file = file
        self.metadata = metadata
        self.waiting: list[pa.Table] = []
        self.writer: pq.ParquetWriter | None = None

    def add(self, table: pa.Table) -> None:
        if self.writer is None:
            self.writer = pq.ParquetWriter(self.file, table.schema.with_metadata(self.metadata))
        self.waiting.append(table)
        if sum(map(len, self.waiting)) >= ROWS:
            self._write()

    def _write(self) -> None:
        assert self.writer is not None
        self.writer.write_table(pa.concat_tables(self.waiting).replace_schema_metadata(self.metadata))
        self.waiting = []

    def __enter__(self) -> _Table:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if self.writer is not None:
            if kind is None and self.waiting:
                self._write()
            self.writer.close()
