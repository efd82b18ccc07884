"""A server without a model, without unlabelled images and without a place for versions says so and stays up."""

from __future__ import annotations

import io
import socket
import time

import pytest

pytest.importorskip("monailabel", reason="needs MONAI Label: make test-label builds its environment")

from PIL import Image

from tests.label.conftest import Server


@pytest.fixture(scope="module")
def server(start, tmp_path_factory) -> Server:
    root = tmp_path_factory.mktemp("bare")
    (root / "studies").mkdir()
    for number in range(4):
        Image.new("L", (40, 40), 10 * number).save(root / "studies" / f"{number}.png")
    (root / "file").write_text("no folder")
    return start("ddad_cxr", root / "studies", models=str(root / "models"), versions=str(root / "file/versions"))


def test_without_a_model_every_request_says_to_train_first(server):
    for answer in (server.infer("0", "ddad_cxr"), server.request("POST", "/activelearning/anomaly")):
        assert answer.status_code == 409 and "train first" in answer.json()["detail"]
    assert server.request("POST", "/batch/infer/ddad_cxr?images=all").ok
    state = server.wait_for("/batch/infer")
    assert state["status"] == "ERROR" and any("train first" in line for line in state["details"])
    assert server.request("GET", "/info/").ok


def test_names_that_do_not_exist_are_not_found(server):
    assert server.infer("0", "other").status_code == 404
    assert server.request("POST", "/activelearning/other").status_code == 404


def test_a_training_that_cannot_start_says_what_is_missing(server):
    empty = io.BytesIO()
    Image.new("L", (40, 40)).save(empty, "PNG")
    for number in range(2):
        assert server.submit(str(number), empty.getvalue()).ok
    answer = server.request("POST", "/train/ddad_cxr_training")
    assert answer.status_code == 507 and "cannot be written" in answer.json()["detail"]
    assert server.submit("2", empty.getvalue()).ok
    answer = server.request("POST", "/train/ddad_cxr_training")
    assert answer.status_code == 409 and "1 unlabelled images" in answer.json()["detail"]


def test_clients_that_go_away_leave_the_server_up(server):
    host, port = server.url.removeprefix("http://").split(":")
    for sent in (b"", b"POST /infer/ddad_cxr?image=0 HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nabc"):
        for _ in range(20):
            with socket.create_connection((host, int(port))) as client:
                client.sendall(sent)
    time.sleep(0.5)
    assert server.request("GET", "/info/").ok
