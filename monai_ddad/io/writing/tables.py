"""CSV tables that a spreadsheet shows as they are, and names of files as text."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any

from monai_ddad.io.writing.atomic import atomic_file

__all__ = ["plain_text", "printable", "write_table"]

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
# before what a spreadsheet takes for a formula: at the start of a cell, also of one that ends elsewhere in a program
# that separates them by semicolons; and before a quote there, so that ours can be told from it
FORMULA = re.compile(
    r"(?<![^;\t\r\n])(?=[\s\x22\u200b\u2060\ufeff]*[=+\-@\uff1d\uff0b\uff0d\uff20']|[\t\r\n])"  # also full-width
)
QUOTE = re.compile(r"(?<![^;\t\r\n])'")


def write_table(header: Sequence[str], rows: Iterable[Sequence[Any]], path: str | os.PathLike[str]) -> None:
    """Write a CSV file atomically, the only way that this package writes one.

    Text that a spreadsheet would take for a formula gets a single quote in front, which :func:`plain_text` takes away;
    numbers, negative ones included, stay as they are. Names that are no text are written as by :func:`printable`.

    Args:
        header: names of the columns.
        rows: their cells; None is left empty.
        path: the file.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_table(["score", "image"], [[-0.5, "=1+1.png"], ["-0.5", "a.png"]], f"{folder}/a.csv")
        ...     open(f"{folder}/a.csv").read().split()
        ['score,image', "-0.5,'=1+1.png", '-0.5,a.png']
    """
    lines: list[str] = []
    file_like = SimpleNamespace(write=lambda line: lines.append(line.removesuffix("\r\n") + "\n"))
    writer = csv.writer(file_like, lineterminator="\r\n")  # it quotes cells that hold a part of this
    writer.writerow(header)
    writer.writerows([_cell(value) if isinstance(value, str) else value for value in row] for row in rows)
    with atomic_file(path) as file:
        file.write("".join(lines).encode())


def _cell(text: str) -> str:
    return text if NUMBER.fullmatch(text) else FORMULA.sub("'", printable(text))


def plain_text(cell: str) -> str:
    """Return the text of a cell of :func:`write_table`, without the quotes that keep it from being a formula.

    Example:
        >>> plain_text("'=1+1.png"), plain_text("a.png")
        ('=1+1.png', 'a.png')
    """
    return QUOTE.sub("", cell)


def printable(name: str) -> str:
    r"""Write the name of a file so that every file has another text, and every text can be shown and stored.

    Bytes of a name that are no UTF-8 become ``\udc80`` to ``\udcff``, the last two digits being the byte, and, where
    backslashes do not separate folders, a backslash becomes two.

    Example:
        >>> print(printable(os.fsdecode(b"caf\xe9.png")))
        caf\udce9.png
    """
    whole = name if os.sep == "\\" else name.replace("\\", "\\\\")
    return whole.encode(errors="backslashreplace").decode()
