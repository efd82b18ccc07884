"""Modules import what the page on the architecture allows them, and the page names every room."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "monai_ddad"
PAGE = (REPOSITORY / "docs/architecture.md").read_text(encoding="utf-8")
TABLE = PAGE.split("## Rooms")[1]
LEVELS = [re.findall(r"`(\w+)`", line.split("|")[1]) for line in TABLE.splitlines() if line.startswith("| `")]
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
ROOMS = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
LAZY = {"__init__"}  # imports what it offers when that is asked for


def imports(module: Path) -> set[str]:
    """Return the rooms that a module imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "monai_ddad":
            found |= {f"monai_ddad.{name.name}" for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return {name.split(".")[1] for name in found if name.startswith("monai_ddad.")} & ROOMS


def test_every_room_is_on_the_page():
    assert {room for room in ROOMS if room not in LAZY} == set(LEVEL)


@pytest.mark.parametrize("room", sorted(ROOMS - LAZY))
def test_no_import_goes_against_the_grain(room):
    modules = [PACKAGE / f"{room}.py"] if (PACKAGE / f"{room}.py").exists() else [*(PACKAGE / room).rglob("*.py")]
    for module in modules:
        wrong = {other for other in imports(module) if other != room and LEVEL[other] >= LEVEL[room]}
        assert not wrong, f"{module.relative_to(PACKAGE)} imports {', '.join(sorted(wrong))}"


def test_the_stations_of_the_page_exist():
    for row in PAGE.split("## Rooms")[0].splitlines():
        for room, name in re.findall(r"`(\w+)\.(\w+)`", row.rsplit("|", 2)[-2] if row.startswith("|") else ""):
            assert name in (PACKAGE / room / "__init__.py").read_text(encoding="utf-8"), f"{room}.{name}"
