"""A real server on a folder of pictures, films, a volume and a series, driven over HTTP as a client does."""

from __future__ import annotations

import csv
import io
import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigWorkflow
from PIL import Image

from tests.label.conftest import Server
from tests.small_models import BUNDLES

pytest.importorskip("monailabel", reason="needs MONAI Label: make test-label builds its environment")

import nrrd

STRATEGIES = {"anomaly", "uncertain", "random"}
PNG = io.BytesIO()
Image.new("L", (64, 64)).save(PNG, "PNG")
EMPTY = PNG.getvalue()


@pytest.fixture(scope="module")
def server(trained, start, tmp_path_factory) -> Server:
    """A server of the brain bundle on 16 pictures, a volume and a file that is no image."""
    run = trained("ddad_brain")
    studies = tmp_path_factory.mktemp("studies")
    for path in sorted((run / "phantom/images").glob("*.png"))[:16]:
        shutil.copy(path, studies)
    (studies / "broken.png").write_bytes(b"no image")
    rng = np.random.default_rng(0)
    y, x, _ = np.meshgrid(*(np.linspace(-1, 1, size) for size in (32, 40, 5)), indexing="ij")
    head = (x**2 + y**2 < 0.8) * rng.uniform(0.5, 1, x.shape)
    nib.Nifti1Image(head.astype(np.float32), np.diag([7.0, 6.0, 20.0, 1.0])).to_filename(studies / "volume.nii.gz")
    return start("ddad_brain", studies, models=str(run / "models"), versions=str(studies.parent / "versions"))


def expected(bundle: str, run: Path, images: list[str]) -> tuple[list[dict[str, str]], Path]:
    """Return the rows that the bundle's own inference writes, and its folder."""
    workflow = ConfigWorkflow(
        str(BUNDLES / bundle / "configs/inference.json"),
        logging_file=False,
        output_dir=str(run),
        dataset_dir=images,
        map_format="nifti",
    )
    workflow.initialize()
    workflow.run()
    folder = run / "eval/inference"
    table = "volumes.csv" if (folder / "volumes.csv").is_file() else "scores.csv"
    with (folder / table).open() as file:
        return list(csv.DictReader(file)), folder


def add_normal(server: Server, number: int, name: str = "") -> None:
    """Send one more picture, and submit it as normal."""
    picture = io.BytesIO()
    path = server.studies / f"{names(server)[number % 16]}.png"
    Image.fromarray(np.roll(np.asarray(Image.open(path)), 1 + number // 16, 1)).save(picture, "PNG")
    name = name or f"more{number}"
    assert server.request("PUT", f"/datastore/?image={name}", files={"file": ("a.png", picture.getvalue())}).ok
    assert server.submit(name, EMPTY).ok


def names(server: Server) -> list[str]:
    return sorted(path.stem for path in server.studies.glob("normal*.png"))


def test_the_app_offers_a_map_a_region_a_training_and_two_strategies(server):
    info = server.request("GET", "/info/").json()
    assert set(info["models"]) == {"ddad_brain", "ddad_brain_region"}
    assert set(info["trainers"]) == {"ddad_brain_training"} and set(info["strategies"]) == STRATEGIES
    types = {name: model["type"] for name, model in info["models"].items()}
    assert types == {"ddad_brain": "others", "ddad_brain_region": "segmentation"}
    assert server.request("POST", "/activelearning/random").json()["id"]
    assert info["datastore"]["total"] == 18


@pytest.mark.parametrize("kind", ["picture", "volume"])
def test_score_and_map_are_those_of_the_bundle(server, trained, kind):
    image = names(server)[0] if kind == "picture" else "volume"
    path = server.studies / (f"{image}.png" if kind == "picture" else "volume.nii.gz")
    (row,), folder = expected("ddad_brain", trained("ddad_brain"), [str(path)])
    found = server.infer(image).json()
    assert (found["score_name"], found["map"]) == ("ddad_plus", "inter")
    assert found["score"] == pytest.approx(float(row["ddad_plus"]), rel=1e-4, abs=1e-4)
    if kind == "picture":
        assert found["p_value"] == pytest.approx(float(row["p_value"]), rel=1e-5)
        assert found["flagged"] == bool(int(row["flagged"])) and found["out_of_protocol"] == row["out_of_protocol"]
    for name in ("inter", "rec"):
        (server.studies.parent / "found.nii.gz").write_bytes(server.result(image, map=name))
        heat = nib.load(server.studies.parent / "found.nii.gz")
        if name == "inter":
            saved = nib.load(next(folder.glob("maps/*.nii.gz")))
            np.testing.assert_allclose(heat.get_fdata(), saved.get_fdata(), rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(heat.affine, saved.affine)
    if kind == "volume":
        assert heat.shape == nib.load(path).shape and np.allclose(heat.affine, nib.load(path).affine)


def test_the_region_is_a_label_map_on_the_grid_of_the_picture(server):
    image = names(server)[0]
    region = np.asarray(Image.open(io.BytesIO(server.result(image, "ddad_brain_region", percentile=90))))
    assert region.shape == (64, 64) and set(np.unique(region)) <= {0, 1}
    larger = np.asarray(Image.open(io.BytesIO(server.result(image, "ddad_brain_region", percentile=10))))
    assert (larger >= region).all() and larger.sum() > region.sum()


def test_a_viewer_that_reads_nrrd_alone_gets_the_region_in_the_same_place(server, tmp_path):
    for suffix in (".nrrd", ".nii.gz"):
        label = server.result("volume", "ddad_brain_region", percentile=50, result_extension=suffix)
        (tmp_path / f"region{suffix}").write_bytes(label)
    values, header = nrrd.read(str(tmp_path / "region.nrrd"))
    expected = nib.load(tmp_path / "region.nii.gz")
    np.testing.assert_array_equal(values, np.asarray(expected.dataobj))
    assert values.any() and header["space"] == "left-posterior-superior"
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = header["space directions"].T, header["space origin"]
    np.testing.assert_allclose(np.diag([-1, -1, 1, 1]) @ affine, expected.affine)


def test_eight_clients_at_once_get_the_scores_of_one(server):
    images = names(server)[:8]
    alone = [server.infer(image).json()["score"] for image in images]
    with ThreadPoolExecutor(8) as pool:
        assert [answer.json()["score"] for answer in pool.map(server.infer, images)] == alone


def test_the_most_suspicious_images_come_first_and_skipped_ones_last(server):
    scores = {image: server.infer(image).json() for image in [*names(server), "volume"]}
    handed = [server.request("POST", "/activelearning/anomaly").json() for _ in range(19)]
    order = [answer["id"] for answer in handed]
    assert sorted(order[:18]) == sorted(
        [*scores, *({path.stem for path in server.studies.glob("*.png")} - set(scores))]
    )
    p_values = [answer["p_value"] for answer in handed[:17] if answer.get("p_value") is not None]
    assert p_values == sorted(p_values)
    assert order[17] == "broken" and "not an image" in handed[17]["unreadable"]
    assert order[18] == order[0]  # all were handed out: the first one waits longest


def test_uncertain_images_are_the_ones_near_the_threshold(server):
    first = server.request("POST", "/activelearning/uncertain").json()
    others = [server.infer(image).json()["p_value"] for image in names(server)]
    assert abs(np.log(first["p_value"] / 0.05)) <= min(abs(np.log(np.array(others) / 0.05))) + 1e-6


@pytest.mark.parametrize(
    "image, status, message",
    [
        ("absent", 404, "no such image"),
        ("../studies/broken", 404, "no such image"),
        ("/etc/hostname", 404, "no such image"),
        ("broken", 422, "cannot be read: not an image"),
    ],
)
def test_an_image_that_cannot_be_scored_has_its_reason_and_the_server_goes_on(server, image, status, message):
    answer = server.infer(image)
    assert answer.status_code == status and message in answer.json()["detail"]
    assert server.infer(names(server)[0]).ok


@pytest.mark.parametrize("params", [{"map": "other"}, {"percentile": 100}, {"percentile": "much"}])
def test_wrong_parameters_are_refused(server, params):
    answer = server.infer(names(server)[0], "ddad_brain_region", **params)
    assert answer.status_code == 422 and next(iter(params)) in answer.json()["detail"]


def test_names_in_requests_do_not_leave_the_datastore(server):
    outside = server.studies.parent / "outside.png"
    for path in ("../outside", "..", "a/b"):
        answer = server.request("PUT", f"/datastore/image?image={path}", files={"file": ("x.png", EMPTY)})
        assert answer.status_code == 422
    for tag in ("../../..", "a/b"):
        assert server.submit(names(server)[0], EMPTY, tag=tag).status_code == 422
    assert server.submit("absent", EMPTY).status_code == 404
    for name in ("image=/etc/hostname", "image=../studies/broken"):
        assert server.request("GET", f"/datastore/image?{name}").status_code == 404
    answer = server.infer(names(server)[0], image="/etc/hostname")
    assert answer.status_code == 422
    assert not outside.exists()


def test_batch_inference_writes_labels_and_a_table(server):
    answer = server.request("POST", "/batch/infer/ddad_brain?images=all", json={"label_tag": "original"})
    assert answer.ok
    state = server.wait_for("/batch/infer")
    assert state["status"] == "DONE", state
    with (server.studies.parent / "versions/batch_inference_ddad_brain.csv").open() as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    assert len(rows) == 18 and "not an image" in rows["broken"]["unreadable"]
    for image in names(server)[:3]:
        assert float(rows[image]["score"]) == pytest.approx(server.infer(image).json()["score"], rel=1e-6)
    labels = server.studies / "labels/original"
    assert len(list(labels.iterdir())) == 17


def test_training_needs_normal_images_and_says_so(server):
    answer = server.request("POST", "/train/ddad_brain_training")
    assert answer.status_code == 409 and "0 normal images" in answer.json()["detail"]


def test_a_training_on_submitted_normals_makes_a_new_version(server, trained):
    before = server.infer(names(server)[0]).json()
    for image in names(server)[:6]:
        assert server.submit(image, EMPTY).ok
    answer = server.request("POST", "/train/ddad_brain_training", json={"epochs": 1, "refine_epochs": 1})
    assert answer.status_code == 409 and "it takes 20 known normals" in answer.json()["detail"]  # and would be worse
    assert "and 6 are left for it" in answer.json()["detail"] and "ddad_plus" in answer.json()["detail"]
    for number in range(32):
        add_normal(server, number)
    add_normal(server, 31, name="copy")  # which counts once
    answer = server.request("POST", "/train/ddad_brain_training", json={"epochs": 1, "refine_epochs": 1})
    assert answer.status_code == 409 and "calibrated, and 38 known normals are too few" in answer.json()["detail"]
    add_normal(server, 32)
    marked = io.BytesIO()
    Image.new("L", (64, 64), 255).save(marked, "PNG")
    assert server.submit(names(server)[6], marked.getvalue()).ok
    answer = server.request("POST", "/train/ddad_brain_training", json={"epochs": 1, "refine_epochs": 1})
    assert answer.ok, answer.text
    assert server.request("POST", "/train/ddad_brain_training").status_code == 429  # one at a time
    state = server.wait_for("/train/")
    assert state["status"] == "DONE", state["details"]
    versions = server.studies.parent / "versions"
    assert [folder.name for folder in versions.iterdir() if folder.is_dir()] == ["0001"]
    record = json.loads((versions / "0001/models/run.json").read_text())
    assert record["settings"]["started_from_weights"] and record["network"]["members"] == 2
    assert record["data"]["normal"] >= 20 and record["data"]["calibration"] >= 19
    assert record["data"]["normal"] + record["data"]["calibration"] == 40  # with the copy
    assert record["data"]["unlabeled"] > 10  # all of the pile, though the model before had a pool of 10
    after = server.infer(names(server)[0]).json()
    assert after["score_name"] == before["score_name"] == "ddad_plus"
    assert (before["version"], after["version"]) == (0, 1) and after["score"] != before["score"]
    assert after["p_value"] is not None
    assert (trained("ddad_brain") / "models/model.pt").is_file()
    handed = server.request("POST", "/activelearning/anomaly").json()
    assert handed["id"] not in names(server)[:7]


def test_a_cancelled_training_changes_nothing(server):
    answer = server.request("POST", "/train/ddad_brain_training", json={"epochs": 5000})
    assert answer.ok, answer.text
    while not list((server.studies.parent / "versions").glob("unfinished-*")):
        assert server.request("GET", "/train/").json()["status"] in ("SUBMITTED", "RUNNING")
    server.request("DELETE", "/train/")
    assert server.request("GET", "/train/").json()["status"] == "STOPPED"
    assert server.infer(names(server)[0]).json()["version"] == 1


def test_a_failed_training_keeps_the_model(server):
    versions = server.studies.parent / "versions"
    served = versions / "0001/models/model.pt"
    content = served.read_bytes()
    served.write_bytes(content[:-1000])  # what the training is to start from
    try:
        for _ in range(60):  # the one that was cancelled takes a moment to end
            answer = server.request("POST", "/train/ddad_brain_training", json={"epochs": 1, "refine_epochs": 1})
            if answer.status_code != 429:
                break
            time.sleep(0.5)
        assert answer.ok, answer.text
        assert server.wait_for("/train/")["status"] == "ERROR"
    finally:
        served.write_bytes(content)
    assert sorted(folder.name for folder in versions.iterdir() if folder.is_dir()) == ["0001"]
    assert server.infer(names(server)[0]).json()["version"] == 1


def test_endpoints_that_would_change_the_app_or_reach_elsewhere_are_closed(server):
    assert server.request("POST", "/reload").status_code == 404
    assert server.request("PUT", "/model/ddad_brain", files={"file": ("model.pt", b"junk")}).status_code == 405
    assert server.request("DELETE", "/model/ddad_brain").status_code == 405
    assert server.request("GET", "/model/ddad_brain").content.startswith(b"PK")
    assert server.infer(names(server)[0]).ok
