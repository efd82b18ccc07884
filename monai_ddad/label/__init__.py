"""The MONAI Label side: an app that triages the unlabelled pile."""

from __future__ import annotations

from pathlib import Path

__all__ = ["APP"]

APP = Path(__file__).parent / "app"
"""Folder of the app, to be given to ``monailabel start_server --app``."""
