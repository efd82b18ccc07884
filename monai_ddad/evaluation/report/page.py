"""Pages that need nothing but themselves."""

from __future__ import annotations

import base64
import hashlib
import os
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from monai_ddad.io.writing import atomic_file

__all__ = ["write_page"]


def write_page(template: str, path: str | os.PathLike[str], **content: Any) -> Path:
    """Fill a template and write it as one file with style, program and pictures inside.

    All text is escaped, and the page forbids the browser to load anything or to run any program but its own.

    Args:
        template: name of the template.
        path: the HTML file.
        content: what the template shows.

    Returns:
        the path.
    """
    environment = Environment(
        loader=PackageLoader("monai_ddad.evaluation.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    folder = resources.files("monai_ddad.evaluation.report").joinpath("templates")
    parts = {name: folder.joinpath(f"page.{name}").read_text(encoding="utf-8") for name in ("css", "js")}
    for name, text in parts.items():
        content[name] = Markup(text)  # noqa: S704 the package's own style and script
        content[f"{name}_hash"] = f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
    page = environment.get_template(template).render(**content)
    with atomic_file(path) as file:
        file.write(page.encode())
    return Path(path)
