"""Tables that a benchmark prints and, where asked to, puts into a page of the documentation."""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from monai_ddad.machine import available_cores

__all__ = ["DOCS", "add_runs", "format_table", "machine", "publish"]

DOCS = Path(__file__).resolve().parents[1] / "docs"


def add_runs(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Add the option ``--run``, which names trained runs and what they were trained with."""
    parser.add_argument(
        "--run",
        nargs=3,
        type=Path,
        action="append",
        required=required,
        metavar=("BUNDLE", "RUN", "DATA"),
        help="folders of a bundle, of an evaluated run and of the data set; may be given several times",
    )


def machine(cores: int | None = None) -> str:
    """Say on what and when something was measured, in one sentence.

    Args:
        cores: how many were used; None for all that there are.
    """
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    else:
        info = Path("/proc/cpuinfo")
        lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        abilities = torch.cpu.get_capabilities()
        some = ", ".join(name for name in ("avx512_f", "avx512_bf16", "amx_bf16") if abilities.get(name))
        number = available_cores() if cores is None else cores
        device = (
            f"{number} core{'s' if number > 1 else ''} of {names[0] if names else 'a CPU'} ({some or 'no AVX-512'})"
        )
    return f"{device}, PyTorch {torch.__version__}, {datetime.date.today():%d %B %Y}"


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def publish(text: str, page: str, name: str, write: bool) -> None:
    """Print a text and put it, where asked to, between the markers ``<!-- name -->`` and ``<!-- /name -->`` of a page.

    Raises:
        ValueError: the page has no such markers.
    """
    sys.stdout.write(text)
    if not write:
        return
    file, start, end = DOCS / page, f"<!-- {name} -->\n", f"<!-- /{name} -->"
    content = file.read_text(encoding="utf-8")
    if start not in content or end not in content:
        raise ValueError(f"{page} has no markers {start.strip()} and {end}.")
    before, _, rest = content.partition(start)
    file.write_text(before + start + "\n" + text + "\n" + end + rest.partition(end)[2], encoding="utf-8")
