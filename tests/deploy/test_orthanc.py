"""From PACS to PACS: a study sent to Orthanc gets its results into the same study, once."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import pydicom
import pytest
import requests

pytest.importorskip("monai.deploy", reason="needs the MONAI Deploy App SDK: make test-deploy builds its environment")
from pynetdicom import AE
from pynetdicom.sop_class import ComputedRadiographyImageStorage

from monai_ddad.deploy.findings import Model
from monai_ddad.deploy.orthanc import OrthancWatcher, main
from tests.deploy.conftest import film
from tests.small_models import BUNDLES


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def orthanc(tmp_path) -> Iterator[tuple[str, int]]:
    """Address of the REST interface of an Orthanc, and port of its DICOM server."""
    if shutil.which("Orthanc") is None:
        pytest.skip("needs Debian's package orthanc")
    http, dicom = free_port(), free_port()
    settings = {
        "HttpPort": http,
        "DicomPort": dicom,
        "DicomCheckCalledAet": False,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {"watcher": "secret"},
        "StableAge": 1,
        "StorageDirectory": str(tmp_path / "storage"),
        "IndexDirectory": str(tmp_path / "storage"),
    }
    (tmp_path / "orthanc.json").write_text(json.dumps(settings))
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(["Orthanc", str(tmp_path / "orthanc.json")], stdout=log, stderr=log)
        url = f"http://127.0.0.1:{http}"
        for _ in range(120):
            try:
                requests.get(f"{url}/system", timeout=2, auth=LOGIN).raise_for_status()
                break
            except requests.RequestException:
                time.sleep(0.25)
        yield url, dicom
        process.terminate()
        process.wait(20)


LOGIN = ("watcher", "secret")


def poll_until(watcher: OrthancWatcher, wanted: int) -> None:
    limit = time.monotonic() + 60
    done = 0
    while done < wanted and time.monotonic() < limit:
        done += watcher.poll()
        time.sleep(0.3)
    assert done == wanted


def test_results_are_found_under_the_same_study_and_made_once(orthanc, trained):
    url, dicom = orthanc
    study = film(0)
    entity = AE()
    entity.add_requested_context(ComputedRadiographyImageStorage)
    association = entity.associate("127.0.0.1", dicom)
    assert association.is_established and association.send_c_store(study).Status == 0
    association.release()
    other = BytesIO()
    film(1, Modality="CT", BodyPartExamined="ABDOMEN").save_as(other)
    requests.post(f"{url}/instances", data=other.getvalue(), auth=LOGIN, timeout=10).raise_for_status()

    model = Model(BUNDLES / "ddad_cxr", trained("ddad_cxr") / "models")
    watcher = OrthancWatcher(url, model, login=LOGIN)
    poll_until(watcher, 1)

    def objects() -> list[pydicom.Dataset]:
        query = {"Level": "Instance", "Query": {"StudyInstanceUID": study.StudyInstanceUID}}
        found = requests.post(f"{url}/tools/find", json=query, auth=LOGIN, timeout=10).json()
        files = [requests.get(f"{url}/instances/{one}/file", auth=LOGIN, timeout=10).content for one in found]
        return [pydicom.dcmread(BytesIO(file)) for file in files]

    stored = objects()
    assert sorted(one.Modality for one in stored) == ["CR", "OT", "SEG", "SR"]
    assert {one.PatientID for one in stored} == {study.PatientID}
    assert len({one.SeriesInstanceUID for one in stored}) == 4

    time.sleep(2.5)  # the study is stable again, with the results in it
    assert watcher.poll() == 0
    again = OrthancWatcher(url, model, login=LOGIN)  # as after a restart
    assert again.poll() == 0 and len(objects()) == 4
    later = film(2, StudyInstanceUID=study.StudyInstanceUID, SeriesInstanceUID=study.SeriesInstanceUID)
    content = BytesIO()
    later.save_as(content)  # a second film of the same series
    requests.post(f"{url}/instances", data=content.getvalue(), auth=LOGIN, timeout=10).raise_for_status()
    poll_until(again, 1)  # the results of the first film have the UIDs that they had
    assert sorted(one.Modality for one in objects()) == sorted(["CR", "OT", "SEG", "SR"] * 2)


def test_a_study_that_cannot_be_scored_does_not_stop_the_watcher(orthanc, trained, monkeypatch, caplog):
    url, _ = orthanc
    watcher = OrthancWatcher(url, Model(BUNDLES / "ddad_cxr", trained("ddad_cxr") / "models"), login=LOGIN)
    works = watcher._run

    def fails_once(instances):
        monkeypatch.setattr(watcher, "_run", works)
        raise NotImplementedError("a value of a header")

    monkeypatch.setattr(watcher, "_run", fails_once)
    for number in range(2):
        content = BytesIO()
        film(number).save_as(content)
        requests.post(f"{url}/instances", data=content.getvalue(), auth=LOGIN, timeout=10).raise_for_status()
    poll_until(watcher, 1)
    assert "a study could not be scored (NotImplementedError)" in caplog.text and "a value" not in caplog.text


def test_what_a_server_calls_its_instances_names_no_file(tmp_path, monkeypatch):
    found: list[str] = []

    class Application:
        results = ()

        def __init__(self, incoming: Path, *_: object) -> None:
            found.extend(path.name for path in incoming.iterdir())

        def run(self) -> None:
            pass

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("monai_ddad.deploy.orthanc.DDADApplication", Application)
    watcher = OrthancWatcher("http://127.0.0.1", model=None)
    monkeypatch.setattr(watcher, "_get", lambda path: SimpleNamespace(content=b"a file"))
    assert watcher._run(["../../evil", str(tmp_path / "evil"), "plain"]) is False
    assert sorted(found) == ["0.dcm", "1.dcm", "2.dcm"] and not list(tmp_path.iterdir())


def test_an_orthanc_that_is_not_there_or_lets_nobody_in_is_said(orthanc, trained, caplog, monkeypatch):
    arguments = ["-m", str(BUNDLES / "ddad_cxr"), "--models_dir", str(trained("ddad_cxr") / "models"), "--once"]
    for url in (f"http://127.0.0.1:{free_port()}", orthanc[0]):
        caplog.clear()
        assert main([*arguments, "--url", url]) == 1 and "Orthanc does not answer" in caplog.text
    monkeypatch.setenv("ORTHANC_LOGIN", ":".join(LOGIN))
    assert main([*arguments, "--url", orthanc[0]]) == 0
