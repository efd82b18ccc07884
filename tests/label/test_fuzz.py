"""Requests to all routes, made from the server's own OpenAPI document, with hostile values everywhere."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

pytest.importorskip("monailabel", reason="needs MONAI Label: make test-label builds its environment")

import nibabel as nib
import numpy as np
from fastapi.testclient import TestClient
from PIL import Image
from pydicom.data import get_testdata_file

from tests.label.loaded import loaded

REQUESTS = 5000 if os.environ.get("MONAI_DDAD_SLOW") else 300
PAGES = ("/", "/docs", "/openapi.json", "/favicon.ico", "/reload", "/static/ohif/index.html", "/logs/gpu")
SECRET = b"none-of-the-datastore's"


def hostile(canary: Path) -> list[str]:
    """Return texts that would leave a file, show what they should not, or break what takes them for something else."""
    call = f"__import__('os').system('touch {canary}')"
    return [
        f"${call}",
        f"$import os; {call}",
        call,
        f"${{{call}}}",
        f"{{{{{call}}}}}",
        f"$(touch {canary})",
        f"`touch {canary}`",
        f"; touch {canary}",
        "{{1337*1337}}",
        "${1337*1337}",
        "$1337*1337",
        "@validate#evaluator",
        "@x",
        "%/etc/passwd",
        "%../secret.txt",
        "../secret.txt",
        "../../etc/passwd",
        "/etc/passwd",
        str(canary.parent / "secret.txt"),
        "file:///etc/passwd",
        "a\0b",
        "a\r\nSet-Cookie: x=1",
        "..",
        ".",
        "",
        " ",
        "é" * 200,
        "x" * 300,
        "x" * 5000,
        "\u202e\u2028name",
        "NaN",
        "-1",
        "1e999",
        "9" * 400,
        "null",
        "[" * 500,
        "<script>alert(1)</script>",
        "=1+1",
        "true",
        '"',
        "\\",
        "\udcff",
        "_target_",
    ]


def picture() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def contents(canary: Path) -> list[tuple[str, bytes]]:
    """Return names and contents of files that a client may send, some of them what they say."""
    volume = nib.Nifti1Image(np.zeros((8, 8, 2), dtype=np.float32), np.eye(4)).to_bytes()
    pickle = f"cos\nsystem\n(S'touch {canary}'\ntR.".encode()
    dicom = Path(get_testdata_file("CT_small.dcm")).read_bytes()
    good = [("a.png", picture()), ("a.nii", volume), ("a.nii.gz", gzip.compress(volume)), ("a.dcm", dicom)]
    good += [("label.bin", bytes(64)), ("a.nrrd", b"NRRD0004\ntype: uint8\n"), ("IM0001", dicom)]
    bad = [("a.pkl", pickle), ("a.png", pickle), ("a.pt", pickle), ("a.svg", b"<svg onload='alert(1)'/>")]
    bad += [("a.html", b"<script>"), ("a.py", b"import os"), ("a.png", b""), ("a.nii.gz", gzip.compress(bytes(10**6)))]
    bad += [("a.zip", b"PK\3\4"), ("a.json", b"{}"), ("a.dcm", b"\0" * 128 + b"DICM" + b"\xff" * 99)]
    bad += [("a.tif", b"II*\0" + b"\xff" * 30), ("a.nii", volume[:352]), ("a.bmp", b"BM"), ("a.jpg", b"\xff\xd8\xff")]
    return good + bad


class Fuzzer:
    """Makes requests from an OpenAPI document, valid ones with something wrong in them."""

    def __init__(self, document: dict[str, Any], canary: Path, known: list[str], seed: int) -> None:
        self.random = random.Random(seed)
        self.schemas = document.get("components", {}).get("schemas", {})
        self.texts = hostile(canary)
        self.files = contents(canary)
        self.known = known
        self.operations = [
            (method.upper(), path, operation)
            for path, item in document["paths"].items()
            for method, operation in item.items()
        ]

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def text(self) -> str:
        return self.random.choice(self.known if self.chance(0.4) else self.texts)

    def anything(self) -> Any:
        return self.random.choice([self.text(), 10**30, -1, 0.5, True, None, [], [self.text()], {self.text(): 1}])

    def value(self, schema: dict[str, Any]) -> Any:
        """Return a value of a schema, or anything at all."""
        if "$ref" in schema:
            schema = self.schemas[schema["$ref"].rpartition("/")[2]]
        if self.chance(0.2):
            return self.anything()
        for several in ("anyOf", "oneOf", "allOf"):
            if several in schema:
                return self.value(self.random.choice(schema[several]))
        if "enum" in schema or "const" in schema:
            return self.random.choice(schema.get("enum", [schema.get("const")]))
        kind = schema.get("type")
        if kind == "object" or "properties" in schema:
            names = [name for name in schema.get("properties", {}) if self.chance(0.3)]
            found = {name: self.value(schema["properties"][name]) for name in names}
            return found | ({self.text(): self.anything()} if self.chance(0.2) else {})
        if kind == "array":
            return [self.value(schema.get("items", {})) for _ in range(self.random.randrange(3))]
        if kind in ("integer", "number"):
            low, high = schema.get("minimum", -1), schema.get("maximum", schema.get("exclusiveMaximum", 10**9))
            return self.random.choice([low, high, 1, 2, low - 1, high + 1])
        if kind == "boolean":
            return self.chance(0.5)
        return None if kind == "null" else self.text()

    def part(self, schema: dict[str, Any]) -> str:
        """Return a value as the text that an address or a form holds."""
        if "contentSchema" in schema or schema.get("contentMediaType") == "application/json":
            return self.text() if self.chance(0.1) else json.dumps(self.value(schema.get("contentSchema", {})))
        value = self.value(schema)
        return value if isinstance(value, str) else json.dumps(value)

    def form(self, schema: dict[str, Any]) -> tuple[bytes, str]:
        """Return the fields and files of a form."""
        schema = self.schemas[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
        fields, files = {}, []
        for name, field in schema.get("properties", {}).items():
            text = json.dumps(field)
            if "octet-stream" in text or '"binary"' in text:
                for _ in range(self.random.choice([1, 1, 1, 2, 0]) if field.get("type") == "array" else 1):
                    called, content = self.random.choice(self.files)
                    called = f"{self.text()}{called}" if self.chance(0.2) else called
                    files.append((name, (called, content)))
            elif self.chance(0.7):
                fields[name] = self.part(field)
        if self.chance(0.1):
            fields[self.text() or "x"] = self.text()
        return encode(fields, files)

    def request(self) -> dict[str, Any]:
        """Return what a client is to send."""
        method, path, operation = self.random.choice(self.operations)
        if self.chance(0.03):
            method, path, operation = self.random.choice(["GET", "POST", "PUT", "DELETE"]), "", {}
            path = self.random.choice([*PAGES, f"/{quote(self.text(), errors='surrogateescape')}"])
        query = []
        for parameter in operation.get("parameters", []):
            schema = parameter.get("schema", {})
            if parameter["in"] == "path":
                text = self.part(schema)
                path = path.replace(f"{{{parameter['name']}}}", quote(text, safe="", errors="surrogateescape"))
            elif parameter["in"] == "query" and (parameter.get("required") or self.chance(0.3)):
                query.append((parameter["name"], self.part(schema)))
        if self.chance(0.05):
            query.append((self.text() or "x", self.text()))
        encoded = "&".join(f"{_quote(name)}={_quote(value)}" for name, value in query)
        made: dict[str, Any] = {"method": method, "url": f"{path}?{encoded}" if encoded else path, "headers": {}}
        body = operation.get("requestBody", {}).get("content", {})
        if "multipart/form-data" in body or "application/x-www-form-urlencoded" in body:
            made["content"], kind = self.form(next(iter(body.values()))["schema"])
            made["headers"]["content-type"] = kind
        elif body and self.chance(0.9):
            made["content"] = json.dumps(self.value(body["application/json"]["schema"])).encode()
            made["headers"]["content-type"] = "application/json"
        elif self.chance(0.05):
            made["content"] = self.text().encode(errors="surrogateescape")
        if self.chance(0.1):
            name = self.random.choice(["Host", "Origin", "User-Agent", "Cookie", "X-Forwarded-Host", "Content-Type"])
            made["headers"][name] = self.text().encode(errors="surrogateescape")
        return made


def encode(fields: dict[str, str], files: list[tuple[str, tuple[str, bytes]]]) -> tuple[bytes, str]:
    """Return the body and the type of a form with the names of fields and files as they are."""
    parts = [(f'name="{name}"', text.encode(errors="surrogateescape")) for name, text in fields.items()]
    parts += [(f'name="{name}"; filename="{called}"', content) for name, (called, content) in files]
    body = b"".join(
        b"--limit\r\nContent-Disposition: form-data; "
        + head.encode(errors="surrogateescape")
        + b"\r\n\r\n"
        + part
        + b"\r\n"
        for head, part in parts
    )
    return body + b"--limit--\r\n", "multipart/form-data; boundary=limit"


def _quote(text: str) -> str:
    return quote(text, safe="", errors="surrogateescape")


@pytest.fixture
def places(trained, tmp_path) -> Path:
    """A folder with pictures for the datastore and things beside it that no request may reach."""
    (tmp_path / "studies").mkdir()
    (tmp_path / "tmp").mkdir()
    (tmp_path / "secret.txt").write_bytes(SECRET)
    pictures = sorted((trained("ddad_brain") / "phantom/images").glob("*.png"))[:8]
    for number, path in enumerate(pictures):
        shutil.copy(path, tmp_path / f"studies/image{number}.png")
    shutil.copy(pictures[0], tmp_path / "studies/$__import__('os').system('touch canary').png")
    return tmp_path


def refill(places: Path, client: TestClient) -> None:
    """Put back a picture and labels that requests have removed."""
    for number in range(8):
        name = f"image{number}"
        client.put(f"/datastore/image?image={name}", files={"file": ("a.png", picture())})
        if number < 4:
            client.put(f"/datastore/label?image={name}", files={"label": ("a.bin", bytes(number % 2 + 8))})


def outside(places: Path) -> dict[Path, int]:
    """Return the files that the server has no business with, with their sizes."""
    own = ("studies", "versions", "sessions")
    found = [path for path in places.rglob("*") if path.is_file() and path.relative_to(places).parts[0] not in own]
    return {path: path.stat().st_size for path in found if "logs" not in path.parts}


def test_no_request_fails_leaves_its_place_or_is_evaluated(places, trained, monkeypatch):
    monkeypatch.chdir(places)
    monkeypatch.setattr(tempfile, "tempdir", str(places / "tmp"))
    started: list[Any] = []

    def start(request: dict[str, Any], method: str, *_: object) -> dict[str, Any]:
        started.append(request)
        return {"id": "1", "status": "RUNNING", "request": request}

    monkeypatch.setattr("monailabel.utils.async_tasks.task.run_background_task", start)
    statuses: Counter[int] = Counter()
    failed: list[Any] = []
    with loaded(places, "ddad_brain", trained("ddad_brain")) as client:
        known = [f"image{number}" for number in range(8)]
        known += ["ddad_brain", "ddad_brain_region", "ddad_brain_training", "anomaly", "random", "final", "original"]
        fuzzer = Fuzzer(client.get("/openapi.json").json(), places / "canary", known, seed=0)
        before = outside(places)
        for number in range(REQUESTS):
            if number % 250 == 0:
                refill(places, client)
            request = fuzzer.request()
            try:
                answer = client.request(**request, follow_redirects=False)
            except UnicodeError:  # the client cannot read where it is sent
                continue
            statuses[answer.status_code] += 1
            if answer.status_code >= 500 or b"1787569" in answer.content or SECRET in answer.content:
                failed.append((request["method"], request["url"][:200], answer.status_code, answer.text[:200]))
            if b"root:x:0" in answer.content:
                failed.append((request["method"], request["url"][:200], "a file of the machine"))
            if answer.status_code == 200 and "session_id" in answer.text[:20]:
                fuzzer.known.append(answer.json()["session_id"])
        assert not failed, f"{len(failed)} of {REQUESTS}: {failed[:20]}"
        refill(places, client)
        # of the many few start a task; this one does, without what it does not take
        assert client.post("/batch/infer/ddad_brain", json={"device": "$print()"}).status_code == 200
        assert outside(places) == before
    assert not list((places / "tmp").iterdir()) and not list((places / "app/results").glob("*/new/*"))
    assert not (places / "canary").exists()
    assert statuses[200] > REQUESTS / 10 and statuses[422] > REQUESTS / 10, statuses
    texts = [text for request in started for text in request.values() if isinstance(text, str)]
    assert started and not any(text.startswith(("$", "@", "%")) for text in texts)
    assert os.path.exists(places / "studies")
