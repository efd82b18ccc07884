"""Films and a series in an Orthanc server, through DICOMweb."""

from __future__ import annotations

import io
import json
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pydicom
import pytest
import requests

pytest.importorskip("monailabel", reason="needs MONAI Label: make test-label builds its environment")
if shutil.which("Orthanc") is None:
    pytest.skip("needs Debian's packages orthanc and orthanc-dicomweb", allow_module_level=True)

from PIL import Image

from monai_ddad.data import list_images
from monai_ddad.decision.finding import Finding
from monai_ddad.serving.predictor import Predictor
from tests.label.conftest import Server
from tests.small_models import BUNDLES

pytestmark = pytest.mark.real_data


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory, real_data):
    """Address of the DICOMweb interface of an Orthanc with the films and the series, and their folders by UID."""
    folder = tmp_path_factory.mktemp("orthanc")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        "HttpPort": port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomServerEnabled": False,
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "Plugins": ["/usr/share/orthanc/plugins/libOrthancDicomWeb.so"],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    log = (folder / "log").open("w")
    process = subprocess.Popen(["Orthanc", str(folder / "orthanc.json")], stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    for _ in range(120):
        try:
            requests.get(f"{url}/system", timeout=2).raise_for_status()
            break
        except requests.RequestException:
            time.sleep(0.25)
    series: dict[str, list[Path]] = {}
    for path in [*(real_data / "dicom/chest_cr").glob("*.dcm"), *(real_data / "dicom/mr_brain_series").iterdir()]:
        header = pydicom.dcmread(path, stop_before_pixels=True)
        series.setdefault(str(header.SeriesInstanceUID), []).append(path)
        requests.post(f"{url}/instances", data=path.read_bytes(), timeout=30).raise_for_status()
    yield f"{url}/dicom-web", series
    process.terminate()
    process.wait(20)


@pytest.fixture(params=["ddad_cxr", "ddad_brain"])
def server(request, orthanc, trained, start, tmp_path) -> tuple[str, Server]:
    bundle = request.param
    environment = {"MONAI_LABEL_DICOMWEB_CACHE_PATH": str(tmp_path / "cache")}
    run = trained(bundle)
    models, versions = str(run / "models"), str(tmp_path / "versions")
    return bundle, start(bundle, orthanc[0], environment, models=models, versions=versions)


def expected_scores(bundle: str, models: Path, series: dict[str, list[Path]]) -> dict[str, float | None]:
    """Return the score of each series, of several films the highest; None where it is refused."""
    predictor = Predictor(BUNDLES / bundle, models)
    scores: dict[str, float | None] = {}
    for uid, paths in series.items():
        found = predictor.find([item["image"] for item in list_images([str(path) for path in paths])])
        results = [one.result for one in found if isinstance(one, Finding)]
        scores[uid] = max((result.scores[result.score] for result in results), default=None)
    return scores


def test_the_stock_app_gives_the_same_scores(orthanc, trained, start_stock, tmp_path):
    url, series = orthanc
    bundles = ("ddad_cxr", "ddad_brain")
    client = start_stock(bundles, url, {"MONAI_LABEL_DICOMWEB_CACHE_PATH": str(tmp_path / "cache")})
    scored = []
    for bundle in bundles:
        for uid, score in expected_scores(bundle, trained(bundle) / "models", series).items():
            answer = client.infer(uid, bundle)
            if answer.status_code == 500:
                continue  # that app asks for plain pixels, and Orthanc 1.10 decodes no JPEG 2000
            if score is None:
                assert answer.status_code == 422 and "another modality" in answer.json()["detail"]
            else:
                assert answer.json()["score"] == pytest.approx(score, rel=1e-5)
                scored.append(bundle)
    assert sorted(scored) == ["ddad_brain", "ddad_cxr"]


def test_series_are_scored_handed_out_and_submitted_as_normal(server, orthanc, trained):
    bundle, client = server
    _, series = orthanc
    read = 0
    for uid, score in expected_scores(bundle, trained(bundle) / "models", series).items():
        answer = client.infer(uid)
        if score is None:
            assert answer.status_code == 422 and "another modality" in answer.json()["detail"]
            continue
        read += 1
        assert answer.json()["score"] == pytest.approx(score, rel=1e-5)
    assert read == (1 if bundle == "ddad_brain" else len(series) - 1)
    handed = [client.request("POST", "/activelearning/anomaly").json() for _ in series]
    assert sorted(answer["id"] for answer in handed) == sorted(series)
    assert ["unreadable" in answer for answer in handed] == [False] * read + [True] * (len(series) - read)
    empty = io.BytesIO()
    Image.new("L", (8, 8)).save(empty, "PNG")
    first = handed[0]["id"]
    assert client.submit(first, empty.getvalue()).ok
    assert client.request("GET", "/info/").json()["datastore"]["completed"] == 1
    again = client.request("POST", "/activelearning/anomaly").json()
    assert again["id"] != first
    answer = client.request("POST", f"/train/{bundle}_training")
    assert answer.status_code == 409 and "1 normal images" in answer.json()["detail"]
    for path in ("/proxy/dicom/%2e%2e/system", "/proxy/dicom/wado/%2e%2e/%2e%2e/system"):
        prepared = requests.Request("GET", client.url).prepare()
        prepared.url = f"{client.url}{path}"  # as it stands: requests would resolve it
        assert requests.Session().send(prepared).status_code == 404
    found = client.request("GET", "/proxy/dicom/qido/series")
    assert found.ok and len(found.json()) == len(series)
    assert client.infer("1.2.3").status_code == client.infer("../..").status_code == 404
