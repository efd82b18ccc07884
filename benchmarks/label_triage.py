"""Measure how the MONAI Label app of DDAD (dual-distribution discrepancy) triages a pile, before and after training.

    python benchmarks/label_triage.py --data path/to/brain_mri --bundle bundles/ddad_brain --models runs/demo/models

The unlabelled pool of the data set is the pile, and its known normals are submitted as normal by empty labels, all over
HTTP. Of the first images that the strategy ``anomaly`` hands out, the share that is abnormal is printed, with that of
images drawn at random. Runs in the environment of ``make test-label``.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import requests
from PIL import Image

from monai_ddad.data.datalist import read_split
from monai_ddad.evaluation.metrics import binomial_interval
from monai_ddad.label import APP


class Client:
    """A server on a folder, and its client."""

    def __init__(self, folder: Path, studies: Path, bundle: Path, models: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        shutil.copytree(APP, folder / "app")
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "monailabel.main", "start_server", "--host", "127.0.0.1", "--port", str(port)]
        command += ["--app", str(folder / "app"), "--studies", str(studies), "--conf", "bundle", str(bundle)]
        command += ["--conf", "models", str(models), "--conf", "versions", str(folder / "versions")]
        with (folder / "server.log").open("w") as log:
            # MONAI Label would look through the whole folder after each of the many labels
            environment = os.environ | {"MONAI_LABEL_DATASTORE_AUTO_RELOAD": "false"}
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env=environment)
        while True:
            try:
                self.call("GET", "/info/")
                return
            except requests.ConnectionError:
                if self.process.poll() is not None:
                    raise RuntimeError((folder / "server.log").read_text()[-2000:]) from None
                time.sleep(0.5)

    def call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """Send a request and return the reply."""
        answer = requests.request(method, f"{self.url}{path}", timeout=3600, **options)
        answer.raise_for_status()
        return answer.json()

    def train(self, model: str, settings: dict[str, Any]) -> None:
        """Train to the end."""
        self.call("POST", f"/train/{model}_training", json=settings)
        while (state := self.call("GET", "/train/"))["status"] in ("SUBMITTED", "RUNNING"):
            time.sleep(5)
        if state["status"] != "DONE":
            raise RuntimeError("\n".join(state["details"]))


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="data set in the authors' structure")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--models", type=Path, required=True, help="models folder of the first model")
    parser.add_argument("--images", type=int, default=50, help="how many the annotator looks at")
    parser.add_argument("--train", default='{"pretrained": false}', help="JSON of the training's settings")
    options = parser.parse_args()
    split = read_split(options.data / "data.json")
    normal, pool_normal, pool_abnormal = (split[name] for name in list(split)[:3])
    abnormal = {Path(name).stem for name in pool_abnormal}
    empty = io.BytesIO()
    Image.new("L", (8, 8)).save(empty, "PNG")

    with tempfile.TemporaryDirectory() as root:
        studies = Path(root) / "studies"
        studies.mkdir()
        for name in [*normal, *pool_normal, *pool_abnormal]:
            shutil.copy(options.data / "images" / name, studies / Path(name).name)
        client = Client(Path(root), studies, options.bundle.resolve(), options.models.resolve())
        try:
            for name in normal:
                label = {"label": ("label.png", empty.getvalue())}
                client.call("PUT", f"/datastore/label?image={Path(name).stem}&tag=final", files=label)
            rows = {"before": _handed_out(client, options.images)}
            start = time.perf_counter()
            client.train(options.bundle.name, json.loads(options.train))
            seconds = time.perf_counter() - start
            rows["after"] = _handed_out(client, options.images)
        finally:
            client.process.terminate()
    pile = [Path(name).stem for name in [*pool_normal, *pool_abnormal]]
    rows["at random"] = np.random.default_rng(0).permutation(pile)[: options.images].tolist()
    lines = [f"| first {options.images} images | abnormal | 95 % interval |", "|---|---|---|"]
    for what, images in rows.items():
        hits = len(abnormal & set(images))
        low, high = binomial_interval(hits, len(images))
        lines.append(f"| {what} | {hits / len(images):.2f} ({hits}) | [{low:.2f}, {high:.2f}] |")
    lines += ["", f"Of the pile {len(abnormal)} of {len(pile)} are abnormal. The training took {seconds:.0f} s."]
    sys.stdout.write("\n".join(lines) + "\n")


def _handed_out(client: Client, number: int) -> list[str]:
    """Ask for images, and make the server forget that it handed them out."""
    found: list[str] = []
    while len(found) < number:
        found.append(client.call("POST", "/activelearning/anomaly")["id"])
    for image in found:
        client.call("PUT", f"/datastore/image/info?image={image}", data={"info": json.dumps({"strategy": {}})})
    return found


if __name__ == "__main__":
    main()
