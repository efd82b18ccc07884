"""Files that clients send: images and labels alone, under names that stay where they belong."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

pytest.importorskip("monailabel", reason="needs MONAI Label: make test-label builds its environment")

from fastapi.testclient import TestClient
from PIL import Image
from pydicom.data import get_testdata_file

from tests.label.loaded import loaded

PNG = io.BytesIO()
Image.new("L", (64, 64)).save(PNG, "PNG")
PICTURE = PNG.getvalue()
VOLUME = nib.Nifti1Image(np.zeros((8, 8, 2), dtype=np.float32), np.eye(4)).to_bytes()
CT = Path(get_testdata_file("CT_small.dcm")).read_bytes()
PICKLE = b"cos\nsystem\n(S'true'\ntR."
OTHERS = {
    "a.pkl": PICKLE,
    "a.pt": PICKLE,
    "a.svg": b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
    "a.html": b"<script>alert(1)</script>",
    "a.py": b"import os",
    "a.sh": b"#!/bin/sh",
    "a.zip": b"PK\3\4",
    "a.tar.gz": gzip.compress(b"x" * 2000),
    "a.json": b"{}",
    "a.npy": b"\x93NUMPY",
    "a.png.html": b"<script>",
    "a.html.png": b"<script>alert(1)</script>",
    "a.nii.gz": gzip.compress(b"x" * 2000),
    "a.nii": b"x" * 2000,
    "a.jpg": PICTURE,
    "a.png": b"",
    "a.dcm": b"x" * 2000,
    "a.ima": b"x" * 2000,
    "1.2.840.113619.2.55": b"x" * 2000,
    "b.png": CT,
    "a": PICKLE,
    ".png": PICKLE,
    "": PICKLE,
}
ROUTES = [
    ("PUT", "/datastore/image?image=new", "file"),
    ("PUT", "/datastore/?image=new", "file"),
    ("PUT", "/datastore/label?image=0", "label"),
    ("PUT", "/session/", "files"),
    ("POST", "/infer/ddad_brain", "file"),
]
LONG = "x" * 260


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("loaded")


@pytest.fixture(scope="module")
def client(trained, place) -> Iterator[TestClient]:
    run = trained("ddad_brain")
    (place / "studies").mkdir()
    for number, path in enumerate(sorted((run / "phantom/images").glob("*.png"))[:3]):
        shutil.copy(path, place / f"studies/{number}.png")
    (place / "elsewhere.png").write_bytes(PICTURE)
    (place / "studies/link.png").symlink_to(place / "elsewhere.png")
    with loaded(place, "ddad_brain", run) as client:
        yield client


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.suffix != ".json" and path.name != "meta.info"}


@pytest.mark.parametrize("method, path, field", ROUTES)
@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_image_is_not_taken(client, place, method, path, field, name):
    before = files(place)
    answer = client.request(method, path, files=[(field, (name, OTHERS[name]))])
    assert answer.status_code in (415, 422) and field in answer.json()["detail"], answer.text
    assert files(place) == before


@pytest.mark.parametrize(
    "name, content",
    [
        ("a.png", PICTURE),
        ("A.PNG", PICTURE),
        ("volume.1.2.nii.gz", gzip.compress(VOLUME)),
        ("a.nii", VOLUME),
        *((name, CT) for name in ("a.dcm", "IM0001", "1.2.840.113619.2.55", "a.DICOM", "a.ima", "a.v2", "MR.1.gz")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",  # gzip's bytes hold the time
)
def test_images_are_taken(client, name, content):
    for path, field in (("/datastore/image?image=taken", "file"), ("/session/", "files")):
        answer = client.put(
            path, files=[(field, (name, content))], data={"client_id": "x"} if "session" in path else None
        )
        assert answer.status_code == 200, answer.text
    session = answer.json()["session_id"]
    assert client.get(f"/session/{session}?image=true").content == content
    assert client.delete(f"/session/{session}").status_code == 200
    assert client.get(f"/session/{session}").status_code == 404
    assert client.delete("/datastore/image?id=taken").status_code == 200


@pytest.mark.parametrize("name", ["a.png", "a.nii", "a.nii.gz", "label.bin", "a.nrrd", "a.seg.nrrd"])
def test_labels_are_taken(client, name):
    contents = {"png": PICTURE, "nii": VOLUME, "gz": gzip.compress(VOLUME), "bin": bytes(99), "nrrd": b"NRRD0004\n"}
    content = contents[name.rpartition(".")[2]]
    answer = client.put("/datastore/label?image=1&tag=try", files={"label": (name, content)})
    assert answer.status_code == 200, answer.text
    assert client.get("/datastore/label?label=1&tag=try").content == content


def test_a_file_can_be_sent_to_be_scored_at_once(client, place):
    content = (place / "studies/0.png").read_bytes()
    own = client.post("/infer/ddad_brain?image=0&output=json").json()
    sent = client.post("/infer/ddad_brain?output=json", files={"file": ("x.png", content)})
    assert sent.status_code == 200 and sent.json()["score"] == pytest.approx(own["score"], rel=1e-5)


NAMES = ["../x", "a/b", "/etc/x", "..", ".", "a\0b", "a\nb", LONG, "é" * 130, "$1", "x;y", "~", "a\\b", "\u2028"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_no_file_here_can_have_is_refused(client, place, name):
    before = files(place)
    upload = {"file": ("a.png", PICTURE)}
    label = {"label": ("a.png", PICTURE)}
    for path, params, sent in (
        ("/datastore/image", {"image": name}, upload),
        ("/datastore/label", {"image": "0", "tag": name}, label),
    ):
        answer = client.put(path, params=params, files=sent)
        assert answer.status_code == 422 and ("image" in answer.text or "tag" in answer.text), answer.text
    answer = client.put("/datastore/label", params={"image": name}, files=label)
    assert answer.status_code in (404, 422)
    assert files(place) == before


@pytest.mark.parametrize(
    "name",
    ["../../x.png", "/etc/x.png", "..\\x.png", f"{LONG}.png", "$__import__('os').system('true').png", "a\u2028.png"],
)
def test_the_name_of_a_file_leads_nowhere(client, place, name):
    before = files(place) - files(place / "studies") - files(place / "sessions")
    for method, path, field in ROUTES:
        answer = client.request(method, path, files=[(field, (name, PICTURE))])
        assert answer.status_code in (200, 409, 415, 422), answer.text
    assert {path for path in files(place) - before if not {"studies", "sessions"} & set(path.parts)} == set()


@pytest.mark.parametrize(
    "method, path",
    [
        (method, f"{path}={name}{rest}")
        for name in ("..%2F..%2Fetc%2Fpasswd", "a%00b", LONG, "%FF%FE", "$1", "")
        for method, path, rest in (
            ("GET", "/datastore/image?image", ""),
            ("HEAD", "/datastore/image?image", ""),
            ("DELETE", "/datastore/image?id", ""),
            ("GET", "/datastore/image/info?image", ""),
            ("PUT", "/datastore/image/info?image", ""),
            ("GET", "/datastore/label?tag=final&label", ""),
            ("GET", "/datastore/label?label=0&tag", ""),
            ("GET", "/datastore/label/info?tag=final&label", ""),
            ("PUT", "/datastore/label/info?tag=final&label", ""),
            ("DELETE", "/datastore/label?tag=final&id", ""),
            ("POST", "/infer/ddad_brain?image", ""),
        )
    ],
)
def test_what_is_not_there_is_not_found(client, method, path):
    assert client.request(method, path).status_code in (404, 422)


@pytest.mark.parametrize(
    "method, path",
    [
        ("GET", "/logs/gpu"),
        ("GET", "/proxy/dicom/wado/studies"),
        ("GET", "/proxy/dicom/%252e%252e/x"),
        ("POST", "/proxy/dicom/stow/studies"),
        ("PUT", "/model/ddad_brain"),
        ("DELETE", "/model/ddad_brain"),
        ("POST", "/infer/wsi/ddad_brain"),
        ("POST", "/infer/wsi_v2/ddad_brain"),
        ("POST", "/infer/ddad_brain"),
        ("POST", "/scoring/dice"),
        ("POST", "/train/other"),
        ("POST", "/batch/infer/other"),
        ("GET", "/model/other"),
        ("GET", "/model/info/other"),
        ("POST", "/reload"),
        ("PUT", "/session/?uncompress=true"),
    ],
)
def test_requests_that_cannot_be_met_say_so(client, method, path):
    answer = client.request(method, path)
    assert answer.status_code in (404, 405, 422), answer.text


def test_an_archive_of_nothing_is_not_found(client):
    for tag in ("final", "try"):
        for name in ("0", "1", "2"):
            client.delete(f"/datastore/label?id={name}&tag={tag}")
    wait_until(lambda: client.get("/datastore/").json()["completed"] == 0)
    assert client.get("/datastore/dataset").status_code == 404


def wait_until(true: Callable[[], bool]) -> None:
    """Wait for what the datastore's watch of its folder does."""
    for _ in range(100):
        if true():
            return
        time.sleep(0.1)
    raise TimeoutError


def test_an_archive_is_not_unpacked(client, place):
    answer = client.put("/session/?uncompress=true", files=[("files", ("a.png", PICTURE))])
    assert answer.status_code == 422 and "uncompress" in answer.json()["detail"]


@pytest.mark.parametrize("path", ["", "%00", "..%5C..%5Capp.py", LONG, "app-config.js", "x/y"])
def test_the_viewer_shows_its_own_files_alone(client, path):
    answer = client.get(f"/ohif/{path}")
    assert answer.status_code == 200 and (b"window.config" in answer.content or b"OHIF" in answer.content)


def test_a_link_is_neither_written_through_nor_followed_to_remove(client, place):
    answer = client.put("/datastore/image?image=link", files={"file": ("a.png", PICTURE + b"more")})
    assert answer.status_code == 409 and (place / "elsewhere.png").read_bytes() == PICTURE
    if client.get("/datastore/image/info?image=link").status_code == 200:
        assert client.delete("/datastore/image?id=link").status_code == 200
        assert not (place / "studies/link.png").is_symlink()
    assert (place / "elsewhere.png").read_bytes() == PICTURE


def test_a_file_called_like_an_expression_is_an_image_like_others(client, place):
    file = "$__import__('os').system('touch canary')"
    shutil.copy(place / "studies/0.png", place / f"studies/{file}.png")
    name = file.replace("$", "%24").replace("'", "%27")  # an id holds plain letters alone
    from monailabel.interfaces.utils.app import app_instance

    app_instance().datastore().refresh()
    answer = client.post("/infer/ddad_brain", params={"image": file, "output": "json"})
    assert answer.status_code == 404, answer.text
    answer = client.post("/infer/ddad_brain", params={"image": name, "output": "json"})
    assert answer.status_code == 200, answer.text
    answer = client.put("/datastore/label", params={"image": name}, files={"label": ("a.png", PICTURE)})
    assert answer.status_code == 200, answer.text
    assert json.loads(client.get("/datastore/?output=all").text)["objects"][name]
    assert not list(place.rglob("canary")) and not Path("canary").exists()
