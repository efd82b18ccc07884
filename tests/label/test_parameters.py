"""Every parameter is checked before anything is done with it, and what clients send is taken."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("monailabel", reason="needs MONAI Label: make test-label builds its environment")

from fastapi import HTTPException
from fastapi.testclient import TestClient
from PIL import Image

from monai_ddad.label.app.main import DDADApp
from monai_ddad.label.train import ENOUGH
from tests.label.conftest import Server
from tests.label.loaded import loaded
from tests.small_models import BUNDLES

PNG = io.BytesIO()
Image.new("L", (64, 64)).save(PNG, "PNG")
EMPTY = PNG.getvalue()
CANARY = "$__import__('os').system('touch {})"
EXPRESSIONS = ["$__import__('os').system('touch x')", "$1", "@epochs", "%/etc/passwd", "${1}", "1", "1e3"]


@pytest.fixture(scope="module")
def client(trained, tmp_path_factory) -> Iterator[TestClient]:
    """The app on pictures, all but three of which are submitted as normal."""
    root, run = tmp_path_factory.mktemp("loaded"), trained("ddad_brain")
    (root / "studies").mkdir()
    for number, path in enumerate(sorted((run / "phantom/images").glob("*.png"))[: ENOUGH + 3]):
        shutil.copy(path, root / f"studies/{number}.png")
    with loaded(root, "ddad_brain", run) as client:
        for number in (0, 1, *range(5, ENOUGH + 3)):
            files = {"label": ("a.png", EMPTY)}
            assert client.put(f"/datastore/label?image={number}", files=files).status_code == 200
        yield client


@pytest.fixture
def started(monkeypatch) -> list[dict[str, Any]]:
    """Requests of the tasks that would have been started."""
    found: list[dict[str, Any]] = []
    target = "monailabel.utils.async_tasks.task.run_background_task"
    monkeypatch.setattr(target, lambda request, *_: found.append(request) or {"id": "1", "status": "SUBMITTED"})
    return found


@pytest.mark.parametrize("value", [*EXPRESSIONS, 0, -1, 2.5, True, [1], {"_target_": "os.system"}, None, 10**6])
@pytest.mark.parametrize("name", ["epochs", "refine_epochs"])
def test_a_length_that_is_no_number_in_range_starts_no_training(client, started, name, value):
    for path, body in (
        ("/train/ddad_brain_training", {name: value}),
        ("/train/", {"ddad_brain_training": {name: value}}),
    ):
        answer = client.post(path, json=body)
        assert answer.status_code == 422 and name in answer.json()["detail"], answer.text
    assert not started


@pytest.mark.parametrize(
    "name, value",
    [
        ("pretrained", "$True"),
        ("pretrained", "true"),
        ("device", ["cuda"]),
        ("gpus", "0; touch x"),
        ("multi_gpu", "@x"),
        ("local_rank", "$1"),
        ("max_epochs", "$1"),
        ("bundle_path", "/tmp"),
        ("output_dir", "/tmp"),
        ("start_from", "/tmp/model.pt"),
        ("network#_target_", "os.system"),
        ("preset", "$1"),
        ("$1", 1),
    ],
)
def test_a_training_takes_what_its_schema_names(client, started, name, value):
    answer = client.post("/train/ddad_brain_training", json={name: value})
    assert answer.status_code == 422 and name in answer.json()["detail"], answer.text
    assert not started


@pytest.mark.parametrize(
    "path, params",
    [
        ("/infer/ddad_brain?image=0", {"percentile": "$99"}),
        ("/infer/ddad_brain?image=0", {"percentile": 100}),
        ("/infer/ddad_brain?image=0", {"map": "$x"}),
        ("/infer/ddad_brain?image=0", {"map": {"a": 1}}),
        ("/infer/ddad_brain?image=0", {"image": "/etc/passwd"}),
        ("/infer/ddad_brain?image=0", {"result_extension": "/../x.png"}),
        ("/infer/ddad_brain?image=0", {"result_dtype": "object"}),
        ("/infer/ddad_brain?image=0", {"label_tag": "../x"}),
        ("/infer/ddad_brain?image=0", {"save_label": "@x"}),
        ("/batch/infer/ddad_brain", {"max_batch_size": "$1"}),
        ("/batch/infer/ddad_brain", {"max_batch_size": -1}),
        ("/batch/infer/ddad_brain", {"label_tag": "../x"}),
        ("/batch/infer/ddad_brain", {"images": {"a": 1}}),
        ("/batch/infer/ddad_brain", {"save_label": "no"}),
        ("/batch/infer/ddad_brain", {"gpus": "$1"}),
        ("/activelearning/anomaly", {"strategy": "random"}),
        ("/activelearning/anomaly", {"labels": "$x"}),
        ("/activelearning/anomaly", {"client_id": ["x"]}),
        ("/activelearning/anomaly", {"client_id": "x" * 300}),
    ],
)
def test_other_tasks_take_what_their_schema_names(client, started, path, params):
    options = {"data": {"params": json.dumps(params)}} if path.startswith("/infer") else {"json": params}
    answer = client.post(path, **options)
    assert answer.status_code == 422 and next(iter(params)) in answer.json()["detail"], answer.text
    assert not started


@pytest.mark.parametrize(
    "method, path, name",
    [
        ("POST", "/infer/ddad_brain?image=0&outptu=json", "outptu"),
        ("POST", "/infer/ddad_brain?image=0&output=dicom_seg", "output"),
        ("POST", "/infer/ddad_brain?session_id=../..", "session_id"),
        ("POST", "/batch/infer/ddad_brain?images=some", "images"),
        ("GET", "/train/?all=$1", "all"),
        ("GET", "/datastore/?output=$1", "output"),
        ("GET", "/datastore/dataset?limit_cases=0", "limit_cases"),
        ("HEAD", "/datastore/image?image=0&check_sum=CRC:1", ""),
        ("GET", "/logs/?lines=-1", "lines"),
        ("GET", "/info/?x=1", "x"),
        ("GET", "/session/..%5C", "session_id"),
        ("DELETE", "/session/$1", "session_id"),
    ],
)
def test_parameters_in_the_address_are_checked(client, method, path, name):
    answer = client.request(method, path)
    if name:
        assert answer.status_code == 422 and name in answer.json()["detail"], answer.text
    else:
        assert answer.status_code in (404, 422)


def test_what_the_datastore_notes_itself_cannot_be_sent(client):
    for info in (
        {"ddad_normal": True},
        {"ts": "x"},
        {"path": "/etc/passwd"},
        {"strategy": "x"},
        {"a": [[[[[[[[[1]]]]]]]]]},
    ):
        for path in ("/datastore/label/info?label=0&tag=final", "/datastore/image/info?image=0"):
            answer = client.put(path, data={"info": json.dumps(info)})
            assert answer.status_code == 422 and next(iter(info)) in answer.json()["detail"], answer.text
    for text in ('{"a": NaN}', '{"a": {"b": [1, -Infinity]}}', '{"a": 1e999}'):
        answer = client.put("/datastore/image/info?image=0", data={"info": text})
        assert answer.status_code == 422 and "a" in answer.json()["detail"], answer.text
    answer = client.put("/datastore/image/info?image=0", data={"info": '{"a": [1, {"b": "$1"}], "strategy": {}}'})
    assert answer.status_code == 200 and client.get("/datastore/image/info?image=0").json()["a"] == [1, {"b": "$1"}]
    assert client.get("/datastore/?output=all").status_code == 200


def test_a_form_is_needed_where_one_is_read(client):
    answer = client.post("/infer/ddad_brain?image=0", json={"percentile": 1000})
    assert answer.status_code == 415


SLICER = {"client_id": "user-xyz", "result_extension": ".nrrd", "result_dtype": "uint8", "percentile": 99.0}
OHIF = {"result_extension": ".nrrd", "result_dtype": "uint8", "result_compress": False, "restore_label_idx": False}
MONAI = {  # settings of MONAI Label's sample apps
    "name": "train_01",
    "pretrained": True,
    "device": "NVIDIA RTX:0",
    "max_epochs": 50,
    "early_stop_patience": -1,
    "val_split": 0.2,
    "train_batch_size": 1,
    "val_batch_size": 1,
    "multi_gpu": True,
    "gpus": "all",
    "dataset": "SmartCacheDataset",
    "dataloader": "ThreadDataLoader",
    "tracking": "mlflow",
    "tracking_uri": "",
    "tracking_experiment_name": "",
    "local_rank": 0,
    "client_id": None,
}


@pytest.mark.parametrize("params", [SLICER, OHIF, {"client_id": None}, {"device": "cpu", "model": "ddad_brain_region"}])
def test_what_viewers_send_to_be_scored_is_taken(client, params):
    answer = client.post("/infer/ddad_brain_region?image=0", data={"params": json.dumps(params)})
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    "path, body, passed",
    [
        ("/train/ddad_brain_training", None, {}),
        ("/train/ddad_brain_training", {}, {}),
        ("/train/ddad_brain_training?enqueue=false", MONAI, {"pretrained": True, "gpus": "all"}),
        ("/train/ddad_brain_training", {"epochs": 3, "gpus": "0,1"}, {"epochs": 3, "gpus": "0,1"}),
        ("/train/", {"client_id": "x"}, {}),
        ("/train/", {"ddad_brain_training": {"epochs": 3}}, {"epochs": 3}),
    ],
)
def test_what_clients_send_to_train_is_taken_and_what_has_an_effect_is_passed_on(client, started, path, body, passed):
    answer = client.post(path, json=body) if body is not None else client.post(path)
    assert answer.status_code == 200, answer.text
    assert started == [{"model": "ddad_brain_training", **passed}]


def test_the_settings_that_the_app_shows_can_be_sent_back(client, started):
    info = client.get("/info/").json()
    for name, config in ((name, task["config"]) for name, task in info["trainers"].items()):
        assert config and client.post(f"/train/{name}", json=config).status_code == 200
    for name, config in ((name, task["config"]) for name, task in info["models"].items()):
        answer = client.post(f"/infer/{name}?image=0", data={"params": json.dumps(config)})
        assert answer.status_code == 200


def test_batch_parameters_of_clients_are_taken(client, started):
    body = {"device": "cuda", "multi_gpu": True, "gpus": "all", "logging": "WARNING", "save_label": True}
    body |= {"label_tag": "original", "max_workers": 1, "max_batch_size": 0, "client_id": "x"}
    assert client.post("/batch/infer/ddad_brain?images=unlabeled", json=body).status_code == 200
    assert started[0]["images"] == "unlabeled" and started[0]["label_tag"] == "original"


def test_notes_of_slicer_and_its_reviewer_are_kept(client):
    notes = {"label_info": [{"name": "abnormal", "idx": 1}], "client_id": "x"}
    files = {"label": ("image.nii.png", EMPTY)}
    answer = client.put("/datastore/label?image=2&tag=version_1", files=files, data={"params": json.dumps(notes)})
    assert answer.status_code == 200, answer.text
    meta = {"segmentationMeta": {"status": "flagged", "level": "easy", "comment": "$1", "editTime": "1"}}
    answer = client.put("/datastore/updatelabelinfo?label=2&tag=version_1", data={"params": json.dumps(meta)})
    assert answer.status_code == 200, answer.text
    kept = client.get("/datastore/label/info?label=2&tag=version_1").json()
    assert kept["segmentationMeta"] == meta["segmentationMeta"] and kept["label_info"] == notes["label_info"]


@pytest.mark.parametrize(
    "conf, named",
    [({"alpha": "$0.1"}, "alpha"), ({"alpha": "2"}, "alpha"), ({"score": "rec"}, "score"), ({"hosts": "*"}, "hosts")],
)
def test_settings_of_the_server_are_checked(tmp_path, conf, named):
    with pytest.raises(ValueError, match=named):
        DDADApp(str(tmp_path), str(tmp_path / "studies"), {"bundle": str(BUNDLES / "ddad_brain")} | conf)


def test_a_task_checks_its_parameters_itself(client):
    from monailabel.interfaces.utils.app import app_instance

    for method, request in (
        ("train", {"model": "ddad_brain_training", "epochs": "$1"}),
        ("batch_infer", {"model": "ddad_brain", "max_batch_size": "$1"}),
    ):
        with pytest.raises(HTTPException) as refused:
            getattr(app_instance(), method)(request)
        assert refused.value.status_code == 422


def test_an_expression_in_a_request_is_refused_by_a_running_server(trained, start, tmp_path):
    run, canary = trained("ddad_brain"), tmp_path / "canary"
    (tmp_path / "studies").mkdir()
    for path in sorted((run / "phantom/images").glob("*.png"))[:10]:
        shutil.copy(path, tmp_path / "studies")
    server: Server = start(
        "ddad_brain", tmp_path / "studies", models=str(run / "models"), versions=str(tmp_path / "versions")
    )
    for path in sorted((tmp_path / "studies").glob("*.png"))[:7]:
        assert server.submit(path.stem, EMPTY).ok
    request = {"epochs": f"$__import__('os').system('touch {canary}')"}
    answer = server.request("POST", "/train/ddad_brain_training", json=request)
    if answer.ok:
        server.wait_for("/train/")
    assert not canary.exists()
    assert answer.status_code == 422 and "epochs" in answer.json()["detail"]


def test_a_random_image_is_handed_out_again_and_again_whatever_is_noted_of_it(client):
    """Three images within one second, and those that a client says are handed out in the far future."""
    assert all(client.post("/activelearning/random").json()["id"] for _ in range(20))
    for number in range(ENOUGH + 3):
        info = {"strategy": {"random": {"ts": 2**53}}}
        client.put(f"/datastore/image/info?image={number}", data={"info": json.dumps(info)})
    answer = client.post("/activelearning/random")
    assert answer.status_code == 200 and answer.json()["id"] in {"2", "3", "4"}
