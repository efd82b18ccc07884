"""What is scored is kept chunk by chunk until the whole archive is, and then joined to one table."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from monai_ddad.archive.listing import Listing
from monai_ddad.checkpoints import atomic_file
from monai_ddad.data.resident import DataError
from monai_ddad.inference import Result

__all__ = ["Parts", "make_part"]

ROWS = 65536  # of a row group
MADE_BY = b"monai_ddad"  # key of the table's metadata


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
        >>> result = Result({"rec": 0.5}, "rec", None, None, None, "", 0)
        >>> table = make_part(256, 2, ["rec"], {1: result}, {0: "the file is empty"})
        >>> table["position"].to_pylist(), table["rec"].to_pylist(), table["reason"].to_pylist()
        ([256, 257], [None, 0.5], ['the file is empty', None])
    """
    rows = [
        {"position": first + place, "reason": errors.get(place, "nothing in it can be scored")}
        if (found := results.get(place)) is None
        else {
            "position": first + place,
            "p_value": found.p_value,
            "percentile": found.percentile,
            "flagged": found.flagged,
            "out_of_protocol": found.out_of_protocol,
            "slices": found.slices,
            **found.scores,
        }
        for place in range(number)
    ]
    scores = [(name, pa.float32()) for name in names]
    decisions = [("p_value", pa.float32()), ("percentile", pa.float32()), ("flagged", pa.bool_())]
    rest = [("out_of_protocol", pa.string()), ("slices", pa.int64()), ("reason", pa.string())]
    return pa.Table.from_pylist(rows, pa.schema([("position", pa.int64()), *scores, *decisions, *rest]))


class Parts:
    """The folder beside an output that holds an unfinished run: what is being done, and a file for each chunk done.

    Args:
        output: the table that is to be made.
        plan: what the result depends on, and how many items and chunks there are, for a JSON file.
    """

    def __init__(self, output: str | os.PathLike[str], plan: Mapping[str, Any]) -> None:
        self.output = Path(output)
        self.unreadable = self.output.with_name(f"{self.output.stem}_unreadable{self.output.suffix}")
        self.folder = self.output.with_name(f"{self.output.name}.parts")
        self.plan = dict(plan)

    def begin(self, overwrite: bool) -> list[int]:
        """Take up an unfinished run, or start one.

        Args:
            overwrite: replace a finished output, and drop an unfinished run with another plan.

        Returns:
            numbers of the chunks that are to be done.

        Raises:
            DataError: the output is there already, or an unfinished run has another plan.
        """
        if self.output.exists() and not overwrite:
            raise DataError("the output exists already: give another --output, or --overwrite to replace it.")
        before = self._read_plan()
        if before != self.plan:
            if before is not None and not overwrite:
                different = sorted(key for key in before | self.plan if before.get(key) != self.plan.get(key))
                raise DataError(
                    f"an unfinished run with this output differs from this one in: {', '.join(different)}. Give the "
                    "same command as before to go on, another --output, or --overwrite to drop what was done."
                )
            if self.folder.exists():  # without a plan if a run was killed while it removed the folder
                shutil.rmtree(self.folder)
        for target in (self.output, self.unreadable, self.folder / "plan.json"):
            for temporary in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):  # of a run that was killed
                temporary.unlink()
        with atomic_file(self.folder / "plan.json") as file:
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

    def join(self, listing: Listing, file_names: bool) -> None:
        """Write the output and the table of unreadable items from all chunks, one after the other.

        Args:
            listing: the archive.
            file_names: add the path of each item, of a series that of its first file.

        Raises:
            DataError: a chunk's file is damaged; it is removed, so that the chunk is done again.
        """
        with (
            atomic_file(self.output) as scored,
            atomic_file(self.unreadable) as failed,
            _Table(scored, {MADE_BY: self._made_by()}) as scores,
            _Table(failed, {}) as reasons,
        ):
            for number in range(len(listing.chunks)):
                part = self._read(number)
                if file_names:
                    names = [item[0].encode(errors="backslashreplace") for item in listing.chunk(number)]
                    part = part.add_column(1, "path", pa.array(names, pa.binary()).cast(pa.string()))
                is_scored = pc.is_null(part["reason"])
                scores.add(part.filter(is_scored).drop_columns("reason"))
                reasons.add(part.filter(pc.invert(is_scored)).select(["position", *["path"] * file_names, "reason"]))

    def end(self) -> tuple[int, int]:
        """Remove the folder; return how many items were scored and how many are unreadable."""
        shutil.rmtree(self.folder)
        return pq.read_metadata(self.output).num_rows, pq.read_metadata(self.unreadable).num_rows

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

    def _read_plan(self) -> dict[str, Any] | None:
        try:
            return json.loads((self.folder / "plan.json").read_text(encoding="utf-8"))
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
