"""From PACS to PACS: what arrives in Orthanc is scored, and the results go back into the same study.

``python -m monai_ddad.deploy.orthanc -m BUNDLE --url http://127.0.0.1:8042`` asks Orthanc for what changed, fetches
each new study, scores it and stores the results beside its images.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import requests

from monai_ddad.deploy.application import DDADApplication
from monai_ddad.deploy.findings import Model
from monai_ddad.deploy.kinds import DEFAULT_KINDS
from monai_ddad.io.checkpoints import CheckpointError

__all__ = ["OrthancWatcher"]

logger = logging.getLogger(__name__)

MARK = "metadata/4660"  # of a series, in the range that Orthanc leaves to users
TIMEOUT = 60  # seconds for one answer of Orthanc


class OrthancWatcher:
    """Score the studies of one Orthanc server.

    Args:
        url: of Orthanc's REST interface.
        model: the bundle.
        objects: what to store, see :class:`~monai_ddad.deploy.operators.DicomWriterOperator`.
        login: user and password; None where Orthanc asks for none.

    Attributes:
        last: number of the last change that was looked at.
    """

    def __init__(
        self,
        url: str,
        model: Model,
        objects: Sequence[str] = DEFAULT_KINDS,
        login: tuple[str, str] | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self.model = model
        self.objects = tuple(objects)
        self.session = requests.Session()
        self.session.auth = login
        self.last = 0

    def poll(self) -> int:
        """Look at all changes since the last call; return how many studies were scored.

        Raises:
            requests.RequestException: Orthanc does not answer; the next call starts from the same change.
        """
        scored = 0
        while True:
            changes = self._get(f"changes?since={self.last}&limit=100").json()
            for change in changes["Changes"]:
                if change["ChangeType"] == "StableStudy":
                    scored += self._score(change["ID"])
                self.last = change["Seq"]
            if changes["Done"]:
                return scored

    def _score(self, study: str) -> bool:
        """Score the series of a study that are not marked; tell whether there was anything."""
        found = self.session.get(f"{self.url}/studies/{study}/series", timeout=TIMEOUT)
        if found.status_code == 404:  # deleted meanwhile
            return False
        found.raise_for_status()
        new = {one["ID"]: one["Instances"] for one in found.json() if not self._is_marked(one["ID"], one["Instances"])}
        if not new:
            return False
        try:
            scored = self._run([instance for instances in new.values() for instance in instances])
        except requests.RequestException:
            raise
        except Exception as error:  # of one study, which must not stop the others
            logger.warning(f"a study could not be scored ({type(error).__name__})")
            scored = False
        for series, instances in new.items():
            self._mark(series, len(instances))
        return scored

    def _run(self, instances: Sequence[str]) -> bool:
        with tempfile.TemporaryDirectory() as folder:
            incoming, outgoing = Path(folder, "in"), Path(folder, "out")
            for path in (incoming, outgoing):
                path.mkdir()
            for number, instance in enumerate(instances):
                (incoming / f"{number}.dcm").write_bytes(self._get(f"instances/{instance}/file").content)
            application = DDADApplication(incoming, outgoing, self.model, self.objects)
            application.run()
            for path in sorted(outgoing.glob("*.dcm")):
                answer = self.session.post(f"{self.url}/instances", data=path.read_bytes(), timeout=TIMEOUT)
                answer.raise_for_status()
                self._mark(answer.json()["ParentSeries"], 1)
        return bool(application.results)

    def _is_marked(self, series: str, instances: Sequence[str]) -> bool:
        answer = self.session.get(f"{self.url}/series/{series}/{MARK}", timeout=TIMEOUT)
        if answer.status_code == 404:
            return False
        answer.raise_for_status()
        return answer.text == str(len(instances))

    def _mark(self, series: str, instances: int) -> None:
        answer = self.session.put(f"{self.url}/series/{series}/{MARK}", data=str(instances), timeout=TIMEOUT)
        answer.raise_for_status()

    def _get(self, path: str) -> requests.Response:
        answer = self.session.get(f"{self.url}/{path}", timeout=TIMEOUT)
        answer.raise_for_status()
        return answer


def main(arguments: Sequence[str] | None = None) -> int:
    """Watch until interrupted; user and password of Orthanc are taken from ``ORTHANC_LOGIN`` (``user:password``)."""
    parser = argparse.ArgumentParser(prog="python -m monai_ddad.deploy.orthanc", description=main.__doc__)
    parser.add_argument("-m", "--model", type=Path, required=True, help="folder of the bundle")
    parser.add_argument("--models_dir", type=Path, help="folder of model.pt (default: the bundle's models)")
    parser.add_argument("--url", default="http://127.0.0.1:8042", help="Orthanc's REST interface")
    parser.add_argument("--interval", type=float, default=5.0, help="seconds between two looks")
    parser.add_argument("--once", action="store_true", help="look once and end")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        model = Model(options.model, options.models_dir)
    except (CheckpointError, ValueError) as error:
        sys.stderr.write(f"{parser.prog}: {error}\n")
        return 1
    user, _, password = os.environ.get("ORTHANC_LOGIN", "").partition(":")
    watcher = OrthancWatcher(options.url, model, login=(user, password) if user else None)
    try:
        while True:
            try:
                watcher.poll()
            except requests.RequestException as error:
                logger.warning(f"Orthanc does not answer ({type(error).__name__})")
                if options.once:
                    return 1
            if options.once:
                return 0
            time.sleep(options.interval)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
