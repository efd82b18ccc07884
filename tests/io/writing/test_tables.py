"""A spreadsheet takes no text of ours for a formula, and every text can be read back."""

from __future__ import annotations

import csv
import os

import pytest

from monai_ddad.io.writing import plain_text, printable, write_table

FORMULAS = [
    "=1+1",
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-1+1",
    "@SUM(1;1)",
    "\t=1",
    "\r=1",
    "\n=1",
    " =1",
    "\u00a0=1",
    "\ufeff=1",
    "\uff1d1+1",
    "\uff0b1",
    "\uff0d1+1",
    "\uff20SUM(1)",
    "a;=1+1.png",
    "a\t-1+1",
    'a;"=1+1;b',
    '"=1',
    "'=1",
    "-inf",
    "--5",
]
PLAIN = ["a.png", "a=b", "1-2.png", "o'neil", "", "a;b", "-5", "+3.5e-07", "-.5", "films/a.png", "p < 0.05"]


def read(path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file, strict=True))


def takes_for_formula(cell: str) -> bool:
    """Tell whether a spreadsheet would, also one that separates cells by semicolons or tabs."""
    pieces = cell.replace("\t", ";").replace("\r", ";").replace("\n", ";").split(";")
    cells = [piece.strip('\u00a0\ufeff\u200b "') for piece in pieces]
    return any(part[:1] in tuple("=+-@\uff1d\uff0b\uff0d\uff20") and part for part in cells) or cell[:1] in ("\t", "\r")


@pytest.mark.parametrize("text", FORMULAS)
def test_formulas_become_text_and_can_be_read_back(tmp_path, text):
    write_table(["image", "score"], [[text, 0.5]], tmp_path / "a.csv")
    cell = read(tmp_path / "a.csv")[1][0]
    assert not takes_for_formula(cell) and plain_text(cell) == text


@pytest.mark.parametrize("text", PLAIN)
def test_other_text_and_numbers_stay_as_they_are(tmp_path, text):
    write_table(["image", "score", "none"], [[text, -0.25, None]], tmp_path / "a.csv")
    assert read(tmp_path / "a.csv")[1] == [text, "-0.25", ""]
    assert plain_text(text) == text


def test_names_that_are_no_text_can_be_written_and_told_apart(tmp_path):
    names = [
        os.fsdecode(name) for name in (b"a\xff.png", b"a\xfe.png", b"a\\udcff.png", b"a\\\xff.png", "é.png".encode())
    ]
    write_table(["image"], [[name] for name in names], tmp_path / "a.csv")
    cells = [cell for (cell,) in read(tmp_path / "a.csv")[1:]]
    assert cells[0] == r"a\udcff.png" and cells[-1] == "é.png" and len(set(cells)) == len(names)
    assert cells == [printable(name) for name in names]
