"""The commands of docs/label.md start servers."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

pytest.importorskip("monailabel", reason="needs MONAI Label: make test-label builds its environment")

REPOSITORY = Path(__file__).resolve().parents[2]


def commands() -> list[str]:
    page = (REPOSITORY / "docs/label.md").read_text()
    blocks = re.findall(r"^```bash\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


@pytest.fixture
def place(trained, tmp_path) -> Path:
    """A folder in which the page's commands can be given: an environment, the bundles, a model and a film."""
    run = trained("ddad_cxr")
    (tmp_path / ".venv-label").symlink_to(sys.prefix)
    for name in ("bundles", "tests"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    shutil.copytree(run / "models", tmp_path / "runs/mine/models")
    (tmp_path / "films").mkdir()
    shutil.copy(next((run / "phantom/images").glob("*.png")), tmp_path / "films/film.png")
    return tmp_path


@contextmanager
def server(command: str, place: Path) -> Iterator[str]:
    """Give a command that starts a server, with a free port, and yield the server's address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with (place / "log").open("w") as log:
        process = subprocess.Popen(f"exec env {command} --port {port}", shell=True, cwd=place, stdout=log, stderr=log)
        try:
            for _ in range(240):
                try:
                    requests.get(f"{url}/info/", timeout=5).raise_for_status()
                    break
                except requests.ConnectionError:
                    assert process.poll() is None, (place / "log").read_text()[-2000:]
                    time.sleep(0.5)
            yield url
        finally:
            process.terminate()
            process.wait(20)


def test_the_commands_of_the_page_start_servers(place):
    first, *others = commands()
    assert first == "make .venv-label/installed"  # what this environment was made by
    assert others.pop(0).startswith("python -m monai.bundle run")  # the model that the fixture makes smaller
    own, stock = (line for line in others if "start_server" in line)
    for line in others:
        if line not in (own, stock):
            subprocess.run(line, shell=True, check=True, cwd=place)
    page = (REPOSITORY / "docs/label.md").read_text()
    apps = page.split("## In MONAI Label's own app")
    for command, text in zip((own, stock), apps, strict=True):
        with server(command, place) as url:
            info = requests.get(f"{url}/info/", timeout=5).json()
            for name in re.findall(r"`POST /(?:batch/infer|infer|train)/(\w+)", text):
                assert name in info["models"] or name in info["trainers"]
            for name in re.findall(r"`POST /activelearning/(\w+)`", text):
                assert requests.post(f"{url}/activelearning/{name}", timeout=60).json()["id"] == "film"
            answer = requests.post(f"{url}/infer/ddad_cxr?image=film&output=json", timeout=60)
            assert answer.ok and answer.json()["score"]
