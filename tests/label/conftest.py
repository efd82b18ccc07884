"""Servers of MONAI Label on loopback, each with a small model and a datastore of its own."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import requests

from monai_ddad.label import APP
from monai_ddad.processes import SERVER
from tests.small_models import BUNDLES

STOCK = {  # no proxy answers: the app must not need the network
    "PYTHONPATH": os.pathsep.join(map(str, (Path(__file__).with_name("cpu_torchvision"), BUNDLES.parent))),
    "MONAI_LABEL_DATASTORE_FILE_EXT": '["*.png", "*.jpg", "*.jpeg", "*.dcm", "*.nii", "*.nii.gz"]',
    "MONAI_LABEL_DICOMWEB_CONVERT_TO_NIFTI": "false",
    **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9"),
    **dict.fromkeys(("no_proxy", "NO_PROXY"), "127.0.0.1"),
}
START = 120  # seconds until a server must answer


class Server:
    """A running server and its client."""

    def __init__(self, app: Path, studies: Path | str, environment: dict[str, str], **conf: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [
            sys.executable,
            "-m",
            "monailabel.main",
            "start_server",
            "--app",
            str(app),
            "--studies",
            str(studies),
        ]
        command += ["--host", "127.0.0.1", "--port", str(port)]
        command += [part for name, value in conf.items() for part in ("--conf", name, value)]
        self.log = app / "server.log"
        self.studies = Path(studies)
        self.url = f"http://127.0.0.1:{port}"
        own = {name: value for name, value in os.environ.items() if name != SERVER}  # of an app in this process
        self.process = subprocess.Popen(
            command, stdout=self.log.open("w"), stderr=subprocess.STDOUT, env=own | environment, cwd=app
        )
        limit = time.monotonic() + START
        while True:
            try:
                if requests.get(f"{self.url}/info/", timeout=5).status_code in (200, 401):
                    return
            except requests.ConnectionError:
                pass
            if self.process.poll() is not None or time.monotonic() > limit:
                self.stop()
                raise RuntimeError(f"the server did not start:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.5)

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def request(self, method: str, path: str, **options: Any) -> requests.Response:
        return requests.request(method, f"{self.url}{path}", timeout=300, **options)

    def infer(self, name: str, model: str = "", **params: Any) -> requests.Response:
        path = f"/infer/{model or self.model}?image={name}&output=json"
        return self.request("POST", path, data={"params": json.dumps(params)})

    def result(self, name: str, model: str = "", **params: Any) -> bytes:
        path = f"/infer/{model or self.model}?image={name}&output=image"
        answer = self.request("POST", path, data={"params": json.dumps(params)})
        assert answer.ok, answer.text
        return answer.content

    @property
    def model(self) -> str:
        return next(name for name in self.request("GET", "/info/").json()["models"] if not name.endswith("_region"))

    def submit(self, image: str, label: bytes, name: str = "label.png", tag: str = "final") -> requests.Response:
        path = f"/datastore/label?image={image}&tag={tag}"
        return self.request("PUT", path, files={"label": (name, label)})

    def wait_for(self, path: str) -> dict[str, Any]:
        """Wait for the end of a task in the background, and return its state."""
        limit = time.monotonic() + 600
        while time.monotonic() < limit:
            state = self.request("GET", path).json()
            if state["status"] not in ("SUBMITTED", "RUNNING"):
                return state
            time.sleep(0.5)
        raise TimeoutError(path)


@pytest.fixture(autouse=True)
def temporary_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put back the folder of temporary files, which an app that is made in this process sets."""
    monkeypatch.setattr(tempfile, "tempdir", tempfile.tempdir)


@pytest.fixture(scope="session")
def stock_app(tmp_path_factory) -> Path:
    """MONAI Label's own monaibundle app, as its command copies it."""
    folder = tmp_path_factory.mktemp("apps")
    command = [sys.executable, "-m", "monailabel.main", "apps", "--download", "--name", "monaibundle"]
    subprocess.run([*command, "--output", str(folder)], check=True, capture_output=True)
    return folder / "monaibundle"


@pytest.fixture(scope="module")
def start_stock(tmp_path_factory, stock_app, trained) -> Iterator[Callable[..., Server]]:
    """Start servers of the monaibundle app with copies of bundles and small models, which end with the module."""
    servers: list[Server] = []

    def run(bundles: Sequence[str], studies: Path | str, environment: dict[str, str] | None = None) -> Server:
        app = tmp_path_factory.mktemp("stock") / "app"
        shutil.copytree(stock_app, app)
        for bundle in bundles:
            shutil.copytree(BUNDLES / bundle, app / "model" / bundle)
            shutil.copytree(trained(bundle) / "models", app / "model" / bundle / "models")
        (app / "bin").mkdir()
        (app / "bin/itkimage2segimage").touch()  # or it is downloaded to send labels to a DICOMweb server
        settings = STOCK | {"MONAI_LABEL_SESSION_PATH": str(app / "sessions")} | (environment or {})
        servers.append(Server(app, studies, settings, models=",".join(bundles), zoo_source="local", sam2="false"))
        return servers[-1]

    yield run
    for server in servers:
        server.stop()


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Iterator[Callable[..., Server]]:
    """Start servers that end with the module."""
    servers: list[Server] = []

    def run(bundle: str, studies: Path | str, environment: dict[str, str] | None = None, **conf: str) -> Server:
        app = tmp_path_factory.mktemp("app") / "ddad"
        shutil.copytree(APP, app)
        conf = {"bundle": str(BUNDLES / bundle)} | conf
        servers.append(
            Server(app, studies, {"MONAI_LABEL_SESSION_PATH": str(app / "sessions")} | (environment or {}), **conf)
        )
        return servers[-1]

    yield run
    for server in servers:
        server.stop()
