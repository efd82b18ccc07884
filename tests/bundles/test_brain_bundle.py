"""The brain bundle: layout, configs, and runs of each config in this process."""

from __future__ import annotations

import csv
import json
import math
import shutil
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow, ckpt_export, verify_net_in_out
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

from monai_ddad.bundle import network_settings
from monai_ddad.data import normalise
from monai_ddad.decision.overlay import overlay_heat_map
from monai_ddad.io.checkpoints import CheckpointError, load_file, load_weights
from monai_ddad.io.errors import root_cause
from monai_ddad.networks import build_model
from monai_ddad.networks.calibration import map_percentiles
from monai_ddad.transforms import PlainResize, ReadImage

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "ddad_brain"
CONFIGS = BUNDLE / "configs"
NAMES = ["r_dual", "inter", "intra", "rec"]


def run(configs: str | list[str], **settings: Any) -> ConfigWorkflow:
    names = [configs] if isinstance(configs, str) else configs
    workflow = ConfigWorkflow([str(CONFIGS / f"{name}.json") for name in names], logging_file=False, **settings)
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    return workflow


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, dataset_dir: Path, small: dict[str, Any]) -> Path:
    """Output folder of a small run."""
    output = tmp_path_factory.mktemp("output")
    run("train", output_dir=str(output), dataset_dir=str(dataset_dir), **small)
    return output


def read_table(path: Path) -> dict[str, np.ndarray]:
    with path.open() as file:
        rows = list(csv.DictReader(file))
    text = ("out_of_protocol",)
    return {
        name: np.array([row[name] if name in text else float(row[name] or "nan") for row in rows]) for name in rows[0]
    }


@pytest.mark.parametrize(
    ("kind", "configs"), [("train", ["train"]), ("infer", ["inference"]), ("infer", ["train", "evaluate"])]
)
def test_required_properties_are_there(kind, configs, trained, dataset_dir, tmp_path):
    files = [str(CONFIGS / f"{name}.json") for name in configs]
    settings = {"dataset_dir": str(dataset_dir), "output_dir": str(tmp_path)}
    shutil.copytree(trained / "models", tmp_path / "models")
    workflow = ConfigWorkflow(files, workflow_type=kind, logging_file=False, **settings)
    workflow.initialize()
    assert workflow.check_properties() == []


@pytest.mark.parametrize("use_trace", [False, True])
def test_exported_torchscript_equals_the_trained_model(trained, tmp_path, use_trace):
    ckpt_export(
        net_id="network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(trained / "models" / "model.pt"),
        meta_file=str(CONFIGS / "metadata.json"),
        config_file=str(CONFIGS / "inference.json"),
        output_dir=str(trained),
        use_trace=use_trace,
        input_shape=[1, 1, 16, 16],
    )
    network = load_weights(build_model(network_settings(str(trained / "models"))), trained / "models" / "model.pt")
    image = torch.rand(3, 1, 16, 16) * 2 - 1
    scripted = torch.jit.load(tmp_path / "model.ts").eval()
    torch.testing.assert_close(scripted(image), network(image), rtol=1e-5, atol=1e-5)


def test_training_leaves_everything(trained):
    expected = ["models/model.pt", "models/run.json", "eval/metrics.json", "eval/scores.csv"]
    expected += ["eval/gallery.png", "eval/report.html"]
    assert [name for name in expected if not (trained / name).is_file()] == []
    assert list((trained / "eval" / "tensorboard").glob("events*"))
    weights = torch.load(trained / "models" / "model.pt", weights_only=True)
    assert weights.keys() == build_model(network_settings(str(trained / "models"))).state_dict().keys()
    with Image.open(trained / "eval" / "gallery.png") as picture:
        assert len(picture.convert("RGB").getcolors(maxcolors=2**24)) > 20


def test_metrics_are_those_of_the_score_table(trained):
    metrics = json.loads((trained / "eval" / "metrics.json").read_text())
    with (trained / "eval" / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    labels = [int(row["label"]) for row in rows]
    assert labels == [0] * 6 + [1] * 6
    for name in NAMES:
        scores = [float(row[name]) for row in rows]
        figures = metrics["splits"]["all"]["scores"][name]
        assert math.isclose(figures["auroc"], roc_auc_score(labels, scores), abs_tol=1e-9)
        assert math.isclose(figures["average_precision"], average_precision_score(labels, scores), abs_tol=1e-9)
        low, high = figures["auroc_interval"]
        assert low <= figures["auroc"] <= high
    record = metrics["training"]
    assert record["epochs"] == {"ndm": 2, "udm": 2, "asr": 1}
    assert record["settings"]["seed"] == 0
    assert record["data"]["normal"] == 16 and record["data"]["unlabeled"] == 10
    assert record["seconds"]["ensembles"] > 0 and record["seconds"]["refine"] > 0
    assert record["versions"]["torch"].startswith("2.")


def test_evaluation_alone_repeats_the_figures(trained, dataset_dir, tmp_path):
    shutil.copytree(trained / "models", tmp_path / "models", ignore=shutil.ignore_patterns("checkpoint*"))
    run(["train", "evaluate"], output_dir=str(tmp_path), dataset_dir=str(dataset_dir))
    ours, theirs = (json.loads((folder / "eval" / "metrics.json").read_text()) for folder in (tmp_path, trained))
    assert ours["splits"] == theirs["splits"] and ours["warnings"] == theirs["warnings"]


def test_the_score_of_the_training_decides_until_another_is_asked_for(folders, small, tmp_path):
    settings = {"output_dir": str(tmp_path / "out"), "dataset_dir": str(folders)}
    run("train", **(small | settings | {"score": "intra", "calibration_share": 0.4, "calibration_minimum": 0}))

    def decided_by(part: str) -> str:
        return json.loads((tmp_path / "out" / part / "metrics.json").read_text())["score"]

    assert decided_by("eval") == "intra"
    run(["train", "evaluate"], **settings)
    assert decided_by("eval") == "intra"
    table = read_table(tmp_path / "out" / "eval" / "scores.csv")
    run(["train", "evaluate"], score="rec", **settings)
    assert decided_by("eval") == "rec"
    other = read_table(tmp_path / "out" / "eval" / "scores.csv")
    for name, found in (("intra", table), ("rec", other)):
        order = np.argsort(found[name])
        assert (np.diff(found["percentile"][order]) >= 0).all()
    run("inference", **(settings | {"dataset_dir": str(folders / "test")}))
    assert decided_by("eval/inference") == "intra"


def test_evaluation_takes_the_pool_of_the_training(folders, small, tmp_path):
    pool = sorted((folders / "unlabeled").iterdir())
    shutil.copy(pool[5], folders / "test" / "normal" / "a_copy.png")
    settings = {"output_dir": str(tmp_path / "out"), "dataset_dir": str(folders)}
    run("train", **settings, **(small | {"unlabeled_size": 4}))
    run(["train", "evaluate"], **settings)
    assert list(json.loads((tmp_path / "out" / "eval" / "metrics.json").read_text())["splits"]) == ["all"]


@pytest.mark.parametrize("missing", ["test images", "model"])
def test_evaluation_without_test_images_or_model_is_an_error(missing, trained, folders, tmp_path):
    if missing == "test images":
        shutil.copytree(trained / "models", tmp_path / "out" / "models")
        shutil.rmtree(folders / "test")
    with pytest.raises(RuntimeError) as caught:
        run(["train", "evaluate"], output_dir=str(tmp_path / "out"), dataset_dir=str(folders))
    expected = "no test images" if missing == "test images" else "train first"
    assert expected in str(root_cause(caught.value))


@pytest.mark.parametrize(
    "change", [{"network": {}}, {"settings": {"seed": "0"}}, {"data": None}, {"bundle": "ddad_cxr"}]
)
def test_a_record_that_is_damaged_or_of_another_run_is_not_evaluated_by(change, trained, dataset_dir, tmp_path):
    shutil.copytree(trained / "models", tmp_path / "models")
    record = json.loads((tmp_path / "models" / "run.json").read_text())
    (tmp_path / "models" / "run.json").write_text(json.dumps(record | change))
    with pytest.raises(RuntimeError) as caught:
        run(["train", "evaluate"], output_dir=str(tmp_path), dataset_dir=str(dataset_dir))
    assert isinstance(root_cause(caught.value), CheckpointError) and "run.json" in str(root_cause(caught.value))


def test_whole_numbers_are_taken_for_fractions(dataset_dir, small, tmp_path):
    settings = {"output_dir": str(tmp_path), "dataset_dir": str(dataset_dir)}
    run(
        "train",
        **settings,
        **(small | {"backbone": "MemAE", "shrink_threshold": 0, "phases": ["ndm", "udm", "refine"]}),
    )
    run("inference", **settings)
    assert (tmp_path / "eval" / "inference" / "scores.csv").is_file()


def test_other_programs_check_the_network_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["server.py"])
    verify_net_in_out(
        net_id="network_def",
        config_file=str(CONFIGS / "inference.json"),
        meta_file=str(CONFIGS / "metadata.json"),
        device="cpu",
    )


def test_it_works_without_network_and_home_and_in_folders_of_any_name(dataset_dir, small, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.delenv("HOME", raising=False)
    output = tmp_path / "[x] é, ü"
    shutil.copytree(dataset_dir, tmp_path / "données du jour")
    run("train", output_dir=str(output), dataset_dir=str(tmp_path / "données du jour"), **small)
    run("inference", output_dir=str(output), dataset_dir=str(tmp_path / "données du jour"))
    assert (output / "eval" / "inference" / "scores.csv").is_file()


def test_a_model_can_be_called_from_many_threads(trained):
    network = load_weights(build_model(network_settings(str(trained / "models"))), trained / "models" / "model.pt")
    images = torch.rand(16, 2, 1, 16, 16) * 2 - 1
    with torch.inference_mode():
        expected = [network.decide(batch).scores for batch in images]

    def score(batch):
        with torch.inference_mode():
            return network.decide(batch).scores

    with ThreadPoolExecutor(8) as pool:
        for found, alone in zip(pool.map(score, images), expected):
            torch.testing.assert_close(found, alone)
    assert not network.training


def test_inference_scores_a_folder_without_labels(trained, dataset_dir, tmp_path):
    folder = tmp_path / "films"
    folder.mkdir()
    names = sorted(path.name for path in (dataset_dir / "images").iterdir())[:3]
    for name in names:
        with Image.open(dataset_dir / "images" / name) as image:
            image.resize((50, 40)).save(folder / name)
    shutil.copytree(trained / "models", tmp_path / "out" / "models")
    run("inference", output_dir=str(tmp_path / "out"), dataset_dir=str(folder))
    results = tmp_path / "out" / "eval" / "inference"
    with (results / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["position"] for row in rows] == ["0", "1", "2"]
    assert all(row["label"] == "" and math.isfinite(float(row[name])) for row in rows for name in NAMES)
    for position in range(3):
        with Image.open(results / "overlays" / f"{position:06d}.png") as overlay:
            assert overlay.size == (130, 160) and overlay.mode == "RGB"  # with the colour bar
    assert "without label" in (results / "report.html").read_text()
    written = b"".join(path.read_bytes() for path in results.rglob("*") if path.suffix in (".csv", ".json"))
    assert not any(name.encode() in written for name in names)
    run("inference", output_dir=str(tmp_path / "out"), dataset_dir=str(folder), file_names=True)
    with (results / "scores.csv").open() as file:
        assert [Path(row["image"]).name for row in csv.DictReader(file)] == names


def test_odd_images_get_right_scores(trained, dataset_dir, tmp_path):
    folder = tmp_path / "odd"
    folder.mkdir()
    grey = np.random.default_rng(0).integers(0, 256, (40, 30), dtype=np.uint8)
    grey[0, :2] = 0, 255
    opaque = np.dstack([grey, grey, grey, np.full_like(grey, 255)])
    pictures = {"a8bit": grey, "b16bit": grey.astype(np.uint16) * 257, "calpha": opaque, "dconstant": grey * 0 + 90}
    for name, pixels in pictures.items():
        Image.fromarray(pixels).save(folder / f"{name}.png")
    Image.fromarray((grey / np.float32(255)).astype(np.float32)).save(folder / "efloat.tif")
    shutil.copytree(trained / "models", tmp_path / "out" / "models")
    run("inference", output_dir=str(tmp_path / "out"), dataset_dir=str(folder))
    table = read_table(tmp_path / "out" / "eval" / "inference" / "scores.csv")
    for name in NAMES:
        assert np.isfinite(table[name]).all()
        np.testing.assert_allclose(table[name][[1, 2, 4]], table[name][0], rtol=1e-5)
    assert table["rec"][3] != table["rec"][0]


def test_finished_run_trains_nothing_again(trained, dataset_dir, small, tmp_path, monkeypatch):
    shutil.copytree(trained, tmp_path / "again")
    before = load_file(trained / "models" / "model.pt")

    def refuse(*args):
        raise AssertionError("a step of training was made")

    monkeypatch.setattr("monai_ddad.training.members.Member.step", refuse)
    monkeypatch.setattr("monai_ddad.training.RefineTrainer._part_of_step", refuse)
    run("train", output_dir=str(tmp_path / "again"), dataset_dir=str(dataset_dir), **small)
    after = load_file(tmp_path / "again" / "models" / "model.pt")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_phases_run_alone_give_the_same_model(trained, dataset_dir, small, tmp_path):
    settings = small | {"output_dir": str(tmp_path), "dataset_dir": str(dataset_dir)}
    run("train", phases=["ndm"], **settings)
    assert not (tmp_path / "models" / "model.pt").exists()
    with pytest.raises(RuntimeError) as caught:
        run("train", phases=["refine"], **settings)
    assert "udm" in str(root_cause(caught.value))
    for phase in (["udm"], ["refine"], ["evaluate"]):
        run("train", phases=phase, **settings)
    whole, parts = (load_file(folder / "models" / "model.pt") for folder in (trained, tmp_path))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert (tmp_path / "eval" / "metrics.json").is_file()


def test_phases_on_unfinished_parts_are_refused(dataset_dir, small, tmp_path):
    settings = small | {"output_dir": str(tmp_path), "dataset_dir": str(dataset_dir)}
    run("train", phases=["ndm"], **settings)
    run("train", phases=["udm"], **(settings | {"epochs": 1, "output_dir": str(tmp_path / "short")}))
    run("train", phases=["ndm"], **(settings | {"epochs": 1, "output_dir": str(tmp_path / "short")}))
    settings["output_dir"] = str(tmp_path / "short")
    with pytest.raises(RuntimeError) as caught:
        run("train", phases=["refine", "evaluate"], **settings)
    assert "udm has 1 of 2 epochs" in str(root_cause(caught.value))
    run("train", phases=["evaluate"], **settings)
    assert not (tmp_path / "short" / "models" / "model.pt").exists()


@pytest.fixture
def folders(dataset_dir, tmp_path):
    """The data set as plain folders: 6 normal, 6 unlabelled, 3 + 3 test images."""
    names = sorted(path.name for path in (dataset_dir / "images").iterdir())
    places = ["normal"] * 6 + ["unlabeled"] * 6 + ["test/normal"] * 3 + ["test/abnormal"] * 3
    for name, place in zip(names, places):
        (tmp_path / "folders" / place).mkdir(parents=True, exist_ok=True)
        shutil.copy(dataset_dir / "images" / name, tmp_path / "folders" / place)
    return tmp_path / "folders"


def test_data_set_without_test_images_trains_and_says_that_nothing_is_evaluated(folders, small, tmp_path, caplog):
    shutil.rmtree(folders / "test")
    run("train", output_dir=str(tmp_path / "out"), dataset_dir=str(folders), **small)
    assert (tmp_path / "out" / "models" / "model.pt").is_file()
    assert not (tmp_path / "out" / "eval" / "metrics.json").exists()
    assert "no test images" in caplog.text


def test_test_images_of_one_class_give_scores_and_no_ranking(folders, small, tmp_path):
    shutil.rmtree(folders / "test" / "abnormal")
    run("train", output_dir=str(tmp_path / "out"), dataset_dir=str(folders), **small)
    figures = json.loads((tmp_path / "out" / "eval" / "metrics.json").read_text())["splits"]["all"]
    assert figures == {"normal": 3, "abnormal": 0, "scores": {}}


def test_model_is_evaluated_on_another_test_set_alone(trained, folders, tmp_path):
    shutil.rmtree(folders / "normal")
    shutil.rmtree(folders / "unlabeled")
    shutil.copytree(trained / "models", tmp_path / "out" / "models")
    run(["train", "evaluate"], output_dir=str(tmp_path / "out"), dataset_dir=str(folders))
    metrics = json.loads((tmp_path / "out" / "eval" / "metrics.json").read_text())
    assert list(metrics["splits"]) == ["all"]
    assert metrics["splits"]["all"]["normal"] == 3


def test_copies_of_training_images_are_left_out_of_a_second_split(folders, small, tmp_path):
    copied = sorted((folders / "unlabeled").iterdir())[0]
    shutil.copy(copied, folders / "test" / "normal" / "a_copy.png")
    run("train", output_dir=str(tmp_path / "out"), dataset_dir=str(folders), **small)
    splits = json.loads((tmp_path / "out" / "eval" / "metrics.json").read_text())["splits"]
    assert (splits["all"]["normal"], splits["without_duplicates"]["normal"]) == (4, 3)
    table = read_table(tmp_path / "out" / "eval" / "scores.csv")
    assert table["duplicate"].tolist() == [1, 0, 0, 0, 0, 0, 0]
    kept = {name: values[table["duplicate"] == 0] for name, values in table.items()}
    expected = roc_auc_score(kept["label"], kept["inter"])
    assert splits["without_duplicates"]["scores"]["inter"]["auroc"] == pytest.approx(expected)


def test_no_name_of_a_patient_is_written(folders, small, tmp_path, caplog, capfd):
    named = tmp_path / "Muster^Erika"
    folders.rename(named)
    for path in list(named.rglob("*.png")):
        path.rename(path.with_name(f"Muster_Erika_{path.name}"))
    run("train", output_dir=str(tmp_path / "out"), dataset_dir=str(named), **small)
    run("inference", output_dir=str(tmp_path / "out"), dataset_dir=str(named / "unlabeled"))
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(written) > 15
    assert [path.name for path in written if b"Muster" in path.read_bytes() or "Muster" in path.name] == []
    assert "Muster" not in caplog.text + "".join(capfd.readouterr())


def test_overlays_of_an_earlier_inference_are_removed(trained, dataset_dir, tmp_path):
    shutil.copytree(trained / "models", tmp_path / "models")
    images = [str(path) for path in sorted((dataset_dir / "images").iterdir())]
    overlays = tmp_path / "eval" / "inference" / "overlays"
    run("inference", output_dir=str(tmp_path), dataset_dir=images[:5])
    assert len(list(overlays.iterdir())) == 5
    run("inference", output_dir=str(tmp_path), dataset_dir=images[5:7])
    assert sorted(path.name for path in overlays.iterdir()) == ["000000.png", "000001.png"]


def test_overlay_shows_a_map_in_percentiles_of_normal_pixels(trained, dataset_dir, tmp_path):
    shutil.copytree(trained / "models", tmp_path / "models")
    path = sorted((dataset_dir / "images").iterdir())[0]
    run("inference", output_dir=str(tmp_path), dataset_dir=str(path), overlay_map="inter")
    network = load_weights(build_model(network_settings(str(trained / "models"))), trained / "models" / "model.pt")
    picture = ReadImage()(path)
    square = PlainResize(16)(picture).mul(255).round().to(torch.uint8)
    heat = network(normalise(square)[None])[0, network.map_names.index("inter")].detach().numpy()
    shown = Image.fromarray((picture[0].numpy() * 255).astype(np.uint8))
    restored = np.asarray(Image.fromarray(heat).resize(shown.size, Image.Resampling.BILINEAR))
    quantiles = network.calibration.map_quantiles[network.map_names.index("inter")].numpy()
    expected = overlay_heat_map(shown, map_percentiles(restored, quantiles))
    with Image.open(tmp_path / "eval" / "inference" / "overlays" / "000000.png") as overlay:
        overlaid = np.asarray(overlay)[: shown.height, : shown.width].astype(int)
    difference = np.abs(overlaid - np.asarray(expected).astype(int))
    assert difference.max() <= 1


@pytest.mark.parametrize(
    ("setting", "message"), [({"preset": "fast"}, "preset must be"), ({"dataset_dir": ""}, "empty")]
)
def test_wrong_settings_say_what_to_do(setting, message, dataset_dir, small, tmp_path):
    settings = small | {"output_dir": str(tmp_path), "dataset_dir": str(dataset_dir)} | setting
    with pytest.raises(RuntimeError) as caught:
        run("train", **settings)
    assert message in str(root_cause(caught.value))


def test_one_member_without_refinement_gives_finite_scores(dataset_dir, small, tmp_path):
    settings = small | {"members": 1, "refine": "none", "output_dir": str(tmp_path), "dataset_dir": str(dataset_dir)}
    run("train", **settings)
    table = read_table(tmp_path / "eval" / "scores.csv")
    assert list(table) == ["position", "label", "inter", "rec", "out_of_protocol"]
    assert np.isfinite(table["inter"]).all() and np.isfinite(table["rec"]).all()


def test_one_member_with_refinement_says_what_to_do(dataset_dir, small, tmp_path):
    settings = small | {"members": 1, "output_dir": str(tmp_path), "dataset_dir": str(dataset_dir)}
    with pytest.raises(RuntimeError) as caught:
        run("train", **settings)
    assert "set refine to none" in str(root_cause(caught.value))


@pytest.mark.parametrize("backbone", ["AE-U", "MemAE"])
def test_other_backbones_and_rgb_run(backbone, dataset_dir, small, tmp_path):
    settings = small | {"backbone": backbone, "in_channels": 3, "refine": "intra", "output_dir": str(tmp_path)}
    run("train", dataset_dir=str(dataset_dir), **settings)
    metrics = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert metrics["training"]["network"]["map_names"][0] == "r_intra"
    assert metrics["training"]["network"]["in_channels"] == 3


def test_bfloat16_runs(dataset_dir, small, tmp_path):
    run("train", precision="bfloat16", output_dir=str(tmp_path), dataset_dir=str(dataset_dir), **small)
    assert all(value.isfinite().all() for value in load_file(tmp_path / "models" / "model.pt").values())


def test_continuing_with_other_settings_is_refused(trained, dataset_dir, small, tmp_path):
    shutil.copytree(trained, tmp_path / "again")
    settings = small | {"seed": 1, "output_dir": str(tmp_path / "again"), "dataset_dir": str(dataset_dir)}
    with pytest.raises(RuntimeError) as caught:
        run("train", **settings)
    assert isinstance(root_cause(caught.value), CheckpointError) and "other seed" in str(root_cause(caught.value))


@pytest.mark.parametrize(
    "change", [{"backbone": "AE-U"}, {"members": 3}, {"image_size": 32}, {"refine": "none", "score": "rec"}]
)
def test_evaluating_a_checkpoint_of_another_model_is_refused(change, trained, dataset_dir):
    with pytest.raises(RuntimeError) as caught:
        run(["train", "evaluate"], output_dir=str(trained), dataset_dir=str(dataset_dir), **change)
    assert isinstance(root_cause(caught.value), CheckpointError) and "another model" in str(root_cause(caught.value))


def test_a_score_that_the_network_does_not_compute_is_refused(trained, dataset_dir):
    with pytest.raises(RuntimeError) as caught:
        run(["train", "evaluate"], output_dir=str(trained), dataset_dir=str(dataset_dir), score="z_rec")
    assert "score must be one of r_dual, inter, intra, rec, got 'z_rec'" in str(root_cause(caught.value))


def test_inference_without_a_model_says_to_train_first(dataset_dir, tmp_path):
    with pytest.raises(RuntimeError) as caught:
        run("inference", output_dir=str(tmp_path), dataset_dir=str(dataset_dir / "images"))
    assert "train first" in str(root_cause(caught.value))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_model_file_cut_off_is_refused(share, trained, dataset_dir, tmp_path):
    shutil.copytree(trained / "models", tmp_path / "models")
    content = (trained / "models" / "model.pt").read_bytes()
    (tmp_path / "models" / "model.pt").write_bytes(content[: int(share * len(content))])
    with pytest.raises(RuntimeError) as caught:
        run("inference", output_dir=str(tmp_path), dataset_dir=str(dataset_dir / "images"))
    assert isinstance(root_cause(caught.value), CheckpointError)


def test_built_in_data_is_used_without_a_data_set(small, tmp_path, caplog):
    run("train", output_dir=str(tmp_path), **(small | {"phases": []}))
    assert (tmp_path / "phantom" / "data.json").is_file()
    assert "SYNTHETIC" in caplog.text
