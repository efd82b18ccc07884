"""The commands of docs/label.md start a server."""

from __future__ import annotations

import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests

pytest.importorskip("monailabel", reason="needs MONAI Label: make test-label builds its environment")

REPOSITORY = Path(__file__).resolve().parents[2]


def test_the_commands_of_the_page_start_a_server(trained, tmp_path):
    page = (REPOSITORY / "docs/label.md").read_text()
    blocks = re.findall(r"^```bash\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines()]
    assert commands[0] == "make .venv-label/installed"  # what this environment was made by
    copy, start = commands[1:]
    run = trained("ddad_cxr")
    (tmp_path / ".venv-label").symlink_to(sys.prefix)
    (tmp_path / "bundles").symlink_to(REPOSITORY / "bundles")
    shutil.copytree(run / "models", tmp_path / "runs/mine/models")
    (tmp_path / "films").mkdir()
    shutil.copy(next((run / "phantom/images").glob("*.png")), tmp_path / "films/film.png")
    subprocess.run(copy, shell=True, check=True, cwd=tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (tmp_path / "log").open("w")
    process = subprocess.Popen([*shlex.split(start), "--port", str(port)], cwd=tmp_path, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(240):
            try:
                info = requests.get(f"{url}/info/", timeout=5).json()
                break
            except requests.ConnectionError:
                assert process.poll() is None, (tmp_path / "log").read_text()[-2000:]
                time.sleep(0.5)
        for name in re.findall(r"`POST /(?:infer|train)/(\w+)", page):
            assert name in info["models"] or name in info["trainers"]
        for name in re.findall(r"`POST /activelearning/(\w+)`", page):
            assert requests.post(f"{url}/activelearning/{name}", timeout=60).json()["id"] == "film"
    finally:
        process.terminate()
        process.wait(20)
