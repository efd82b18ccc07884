"""MONAI Label's own monaibundle app on the three bundles, without network, driven over HTTP as a client does."""

from __future__ import annotations

import io
import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import numpy as np
import pytest

pytest.importorskip("monailabel", reason="needs MONAI Label: make test-label builds its environment")

from PIL import Image

from tests.label.conftest import Server
from tests.small_models import KINDS

IMAGES = 24


def label(marked: bool) -> bytes:
    values = np.zeros((64, 64), dtype=np.uint8)
    values[10:20, 10:20] = marked
    picture = io.BytesIO()
    Image.fromarray(values).save(picture, "PNG")
    return picture.getvalue()


@pytest.fixture(scope="module")
def server(trained, start_stock, tmp_path_factory) -> Server:
    """The three bundles on their synthetic pictures and a file that is no image."""
    studies = tmp_path_factory.mktemp("studies")
    for bundle in KINDS:
        for number, path in enumerate(sorted((trained(bundle) / "phantom/images").glob("*.png"))[:IMAGES]):
            shutil.copy(path, studies / f"{bundle}_{number:02}.png")
    (studies / "broken.png").write_bytes(b"no image")
    return start_stock(list(KINDS), studies)


def names(bundle: str) -> list[str]:
    return [f"{bundle}_{number:02}" for number in range(IMAGES)]


def wait(server: Server) -> dict:
    return server.wait_for("/train/")


def test_the_app_offers_the_bundles_and_its_strategies(server):
    info = server.request("GET", "/info/").json()
    assert set(info["models"]) == set(info["trainers"]) == set(KINDS)
    assert {model["type"] for model in info["models"].values()} == {"segmentation"}
    assert info["models"]["ddad_cxr"]["labels"] == {"r_dual": 0, "inter": 1, "intra": 2, "rec": 3}  # it has no others
    for strategy in info["strategies"]:
        answer = server.request("POST", f"/activelearning/{strategy}")
        assert answer.ok and answer.json()["id"].removesuffix("broken") in ["", *chain(*map(names, KINDS))]


def test_the_reply_says_what_is_decided(server):
    found = server.infer("ddad_cxr_00", "ddad_cxr").json()
    assert found["score_name"] in found["scores"] and found["score"] == found["scores"][found["score_name"]]
    assert 0 < found["p_value"] <= 1 and 0 <= found["percentile"] <= 100 and found["slices"] == 0
    assert found["flagged"] in (True, False) and isinstance(found["out_of_protocol"], str)


def test_the_region_shrinks_with_the_percentile(server):
    sizes = []
    film = Image.open(server.studies / "ddad_cxr_00.png")
    for percentile in (10, 90):
        picture = Image.open(io.BytesIO(server.result("ddad_cxr_00", "ddad_cxr", percentile=percentile)))
        assert picture.size == film.size
        sizes.append(np.count_nonzero(np.asarray(picture)))
    assert sizes[0] > sizes[1]


def test_eight_clients_get_the_scores_of_one(server):
    asked = names("ddad_brain")[:8]
    one = [server.infer(name, "ddad_brain").json()["scores"] for name in asked]
    with ThreadPoolExecutor(8) as pool:
        many = list(pool.map(lambda name: server.infer(name, "ddad_brain").json()["scores"], asked))
    assert many == one and len({scores["rec"] for scores in one}) == 8


def test_bad_requests_get_a_clear_reply_and_the_server_stays_up(server):
    for name, parameters, status, reason in (
        ("absent", {}, 404, "no such image"),
        ("broken", {}, 422, "cannot be read"),
        ("ddad_cxr_00", {"map": "nonsense"}, 400, "must be one of"),
        ("ddad_cxr_00", {"percentile": "many"}, 400, "percentile"),
        ("ddad_cxr_00", {"percentile": 100}, 400, "percentile"),
        ("ddad_cxr_00", {"result_dtype": "float32", "result_extension": ".png"}, 400, "result_extension"),
        ("ddad_cxr_00", {"result_extension": ".tiff"}, 400, "result_extension"),
        ("ddad_cxr_00", {"result_dtype": "nonsense"}, 400, "result_dtype"),
    ):
        answer = server.infer(name, "ddad_cxr", **parameters)
        assert answer.status_code == status and reason in answer.json()["detail"], answer.text
    assert server.infer("ddad_cxr_00", "ddad_cxr").ok


def test_batch_inference_leaves_labels(server):
    body = {"multi_gpu": False, "max_workers": 2}  # a single worker would stop at the file that is no image
    assert server.request("POST", "/batch/infer/ddad_fundus?images=unlabeled", json=body).ok
    assert server.wait_for("/batch/infer")["status"] == "DONE"
    objects = server.request("GET", "/datastore/?output=all").json()["objects"]
    assert all("original" in objects[name]["labels"] for name in names("ddad_fundus"))
    assert not objects["broken"]["labels"]


@pytest.mark.parametrize("bundle", list(KINDS))
def test_training_makes_a_better_informed_model_and_a_failed_one_changes_nothing(bundle, server):
    model = server.log.parent / "model" / bundle / "models"
    before = model.joinpath("model.pt").read_bytes()
    score = server.infer(f"{bundle}_00", bundle).json()["score"]
    assert server.request("POST", f"/train/{bundle}", json={"max_epochs": 2}).ok
    state = wait(server)  # nothing is labelled
    assert state["status"] == "ERROR" and any("normal images" in line for line in state["details"]), state["details"]
    assert model.joinpath("model.pt").read_bytes() == before

    for name in names(bundle)[:4]:
        assert server.submit(name, label(marked=False)).ok
    assert server.request("POST", f"/train/{bundle}", json={"max_epochs": 2, "val_split": 0}).ok
    state = wait(server)  # nothing is marked
    assert state["status"] == "ERROR" and any("unlabelled images" in line for line in state["details"])
    assert model.joinpath("model.pt").read_bytes() == before

    for number, name in enumerate(names(bundle)):
        assert server.submit(name, label(marked=number % 3 == 2)).ok
    request = {"max_epochs": 3}
    assert server.request("POST", f"/train/{bundle}", json=request).ok
    while server.request("GET", "/train/").json()["status"] == "SUBMITTED":
        time.sleep(0.1)
    assert server.request("POST", f"/train/{bundle}", json=request).status_code == 429
    state = wait(server)
    assert state["status"] == "DONE", state["details"]
    assert model.joinpath("model.pt").read_bytes() != before
    assert server.infer(f"{bundle}_00", bundle).json()["score"] != score
    run = json.loads(model.joinpath("run.json").read_text())
    assert run["settings"]["epochs"] == 3 and run["network"]["members"] == 2  # as it was trained before
    assert run["settings"]["preset"] == "trained" and not run["settings"]["synthetic_data"]
    for name in names(bundle):
        server.request("DELETE", f"/datastore/label?id={name}&tag=final")
    model.joinpath("model.pt").rename(model / "away.pt")
    answer = server.infer(f"{bundle}_00", bundle, model_filename="model.pt")
    assert answer.status_code == 409 and "no weights" in answer.json()["detail"]
    model.joinpath("away.pt").rename(model / "model.pt")
