"""The app loaded into MONAI Label's server within this process, for many requests in little time."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("monailabel", reason="needs MONAI Label: make test-label builds its environment")

from fastapi.testclient import TestClient
from monailabel.config import settings
from monailabel.interfaces.utils.app import apps, clear_cache

from monai_ddad.label import APP
from tests.small_models import BUNDLES


@contextmanager
def loaded(root: Path, bundle: str, run: Path, studies: str = "", **conf: str) -> Iterator[TestClient]:
    """Yield a client of the app on the folder ``studies`` in a folder, with a copy of a small model."""
    shutil.copytree(APP, root / "app")
    shutil.copytree(run / "models", root / "models")
    (root / "studies").mkdir(exist_ok=True)
    conf = {"bundle": str(BUNDLES / bundle), "models": str(root / "models"), "versions": str(root / "versions")} | conf
    mask = os.umask(0o022)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settings, "MONAI_LABEL_APP_DIR", str(root / "app"))
        patch.setattr(settings, "MONAI_LABEL_STUDIES", studies or str(root / "studies"))
        patch.setattr(settings, "MONAI_LABEL_SESSION_PATH", str(root / "sessions"))
        patch.setattr(settings, "MONAI_LABEL_APP_CONF", conf)
        patch.setattr(tempfile, "tempdir", tempfile.gettempdir())  # which the app sets
        from monailabel.app import app

        clear_cache()
        try:
            with TestClient(app, raise_server_exceptions=False) as client:
                yield client
        finally:
            for started in apps.values():
                started.datastore()._observer.stop()  # it watches a folder that goes
            clear_cache()
            os.umask(mask)
