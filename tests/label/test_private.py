"""What the app writes belongs to the user alone, whatever the umask says."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pydicom
import pytest
import requests

pytest.importorskip("monailabel", reason="needs MONAI Label: make test-label builds its environment")

from PIL import Image
from pydicom.data import get_testdata_file

from monai_ddad.label.dicomweb import DicomWebStore, _parts
from tests.label.loaded import loaded

PNG = io.BytesIO()
Image.new("L", (64, 64)).save(PNG, "PNG")
PICTURE = PNG.getvalue()


def open_to_others(folder: Path, before: set[Path]) -> list[str]:
    """Return what is new in a folder and can be opened by others."""
    new = [path for path in [folder, *folder.rglob("*")] if path not in before and not path.is_symlink()]
    return [f"{path.relative_to(folder)} {path.stat().st_mode:o}" for path in new if path.stat().st_mode & 0o077]


def test_uploads_labels_sessions_tables_and_logs_are_private(trained, tmp_path, monkeypatch):
    run = trained("ddad_brain")
    (tmp_path / "studies").mkdir()
    for number, path in enumerate(sorted((run / "phantom/images").glob("*.png"))[:3]):
        shutil.copy(path, tmp_path / f"studies/{number}.png")
    (tmp_path / "app-logs").mkdir()
    with loaded(tmp_path, "ddad_brain", run) as client:
        own = {tmp_path, tmp_path / "studies", *(tmp_path / "studies").glob("*.png")}
        own |= {
            path for name in ("app", "models", "app-logs") for path in [tmp_path / name, *(tmp_path / name).rglob("*")]
        }
        assert client.put("/datastore/image?image=new", files={"file": ("a.png", PICTURE)}).status_code == 200
        assert client.put("/datastore/label?image=new", files={"label": ("a.png", PICTURE)}).status_code == 200
        assert client.put("/session/", files=[("files", ("a.png", PICTURE))]).status_code == 200
        sent = [("files", (name, PICTURE)) for name in ("a.png", "b.png")]
        assert client.put("/session/", files=sent).status_code == 200
        assert client.post("/activelearning/anomaly").status_code == 200
        from monailabel.interfaces.utils.app import app_instance

        app_instance().batch_infer({"model": "ddad_brain", "images": "all"})
        written = {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*") if path not in own}
        assert written == {"studies", "sessions", "versions"}
        assert open_to_others(tmp_path, own) == []


def test_a_log_that_was_there_before_is_closed(trained, tmp_path):
    os.makedirs(tmp_path / "app/logs")
    os.chmod(tmp_path / "app/logs", 0o755)
    (tmp_path / "app/logs/app.log").touch(0o644)
    from monai_ddad.label.private import keep_private

    mask = os.umask(0o022)
    try:
        keep_private(tmp_path / "app/logs")
        assert os.umask(0o022) == 0o077
    finally:
        os.umask(mask)
    assert open_to_others(tmp_path / "app/logs", set()) == []


def one_part(content: bytes) -> requests.Response:
    """An answer of a server that sends one file."""
    head = b"--part\r\nContent-Type: application/dicom\r\n\r\n"
    kind = 'multipart/related; type="application/dicom"; boundary=part'
    answer = requests.Response()
    answer._content, answer.encoding = head + content + b"\r\n--part--", "utf-8"
    answer.headers["Content-Type"] = kind
    return answer


@pytest.mark.parametrize(
    "content, kind, files",
    [
        (b"DICM", "application/dicom", [b"DICM"]),
        (
            b"--a\r\nContent-Type: x/y\r\n\r\n1\r\n--a\r\nContent-Type: x/y\r\n\r\n2\r\n--a--",
            "multipart/related; boundary=a",
            [b"1", b"2"],
        ),
        (b"--a\r\nno head\r\n--a--", "multipart/related; boundary=a", []),
        (b"--a--", "multipart/related", []),
        (b"<html>", "text/html", []),
        (b"", None, []),
    ],
)
def test_the_files_of_an_answer_are_taken_as_they_are(content, kind, files):
    answer = requests.Response()
    answer._content, answer.encoding = content, "utf-8"
    answer.headers.update({} if kind is None else {"Content-Type": kind})
    assert _parts(answer) == files


def test_a_downloaded_series_is_private(tmp_path):
    instance = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    found = {"0020000E": {"vr": "UI", "Value": [str(instance.SeriesInstanceUID)]}}
    found |= {
        "0020000D": {"vr": "UI", "Value": [str(instance.StudyInstanceUID)]},
        "00080060": {"vr": "CS", "Value": ["CT"]},
    }
    client = SimpleNamespace(
        base_url="http://127.0.0.1:1/dicom-web",
        wado_url_prefix=None,
        search_for_series=lambda **_: [found],
        _http_get=lambda url, headers: one_part(Path(get_testdata_file("CT_small.dcm")).read_bytes()),
    )
    mask = os.umask(0o077)
    try:
        folder = Path(DicomWebStore(client, {}, str(tmp_path / "cache")).get_image_uri(str(instance.SeriesInstanceUID)))
    finally:
        os.umask(mask)
    (file,) = folder.iterdir()
    assert file.read_bytes() == Path(get_testdata_file("CT_small.dcm")).read_bytes()
    assert open_to_others(tmp_path / "cache", set()) == []
