"""The benchmarks run, on small data."""

from __future__ import annotations

import csv
import importlib
import itertools
import json
import runpy
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from PIL import Image
from skimage.metrics import structural_similarity
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from monai_ddad.data import load_datalist, normalise
from monai_ddad.data.phantom import PhantomKind, write_phantom_dataset
from monai_ddad.io.checkpoints import save_file
from monai_ddad.networks import build_model

REPOSITORY = Path(__file__).resolve().parents[1]
SMALL = {
    "preset": "phantom",
    "members": 2,
    "refine": "none",
    "image_size": 32,
    "width": 2,
    "hidden_size": 8,
    "epochs": 1,
}


def table(name: str, monkeypatch, capsys, *arguments: str) -> list[list[str]]:
    """Run a benchmark and return the cells of the table that it prints."""
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    runpy.run_path(str(REPOSITORY / "benchmarks" / name), run_name="__main__")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Output folder of a run with 10 calibration images."""
    folder = tmp_path_factory.mktemp("run")
    write_phantom_dataset(folder / "phantom", normal=30, unlabeled=24, test=6, side=32)
    settings = SMALL | {"calibration_minimum": 10, "unlabeled_size": 24, "output_dir": str(folder)}
    config = str(REPOSITORY / "bundles/ddad_brain/configs/train.json")
    workflow = ConfigWorkflow(config, logging_file=False, dataset_dir=str(folder / "phantom"), **settings)
    workflow.initialize()
    workflow.run()
    return folder


def test_scores_are_compared_with_each_other_and_with_other_methods(trained, monkeypatch, capsys):
    run = ("--run", str(REPOSITORY / "bundles/ddad_brain"), str(trained), str(trained / "phantom"))
    for methods in (["AE-U", "brightness"], ["pixel discriminant"]):  # the second call keeps what the first has found
        table("baselines.py", monkeypatch, capsys, *run, "--methods", *methods)
    rows = table("compare.py", monkeypatch, capsys, str(trained), str(trained))
    start = next(i for i, row in enumerate(rows) if row[0] == "method")
    scores, costs = rows[2:start], rows[start + 2 :]
    names = [row[0] for row in scores]
    assert names[:3] == ["`inter`", "`intra`", "`rec`"] and "`ddad_plus`" in names
    assert names[-3:] == ["brightness", "pixel discriminant", "AE-U"]
    assert all(len(row) == 5 and row[1] == row[3] for row in scores)
    beside = table("compare.py", monkeypatch, capsys, str(trained), "--beside", str(trained))[2:]
    rows_by_name = {row[0]: row for row in beside}
    assert rows_by_name["`inter`, preset `phantom`"][1:] == scores[0][1:3]
    assert [row[0] for row in costs] == ["DDAD", *names[-3:]] and all(row[1].endswith(" MiB") for row in costs)
    with (trained / "eval/scores.csv").open() as file:
        found = list(csv.DictReader(file))
    labels = [int(row["label"]) for row in found]
    area = roc_auc_score(labels, [float(row["inter"]) for row in found])
    assert scores[0][1].startswith(f"{area:.3f} [")
    measured = json.loads((trained / "baselines.json").read_text())["methods"]
    assert measured["DDAD"]["scores"] == pytest.approx([float(row["ddad_plus"]) for row in found], abs=1e-4)
    areas = [roc_auc_score(labels, measured[name]["scores"]) for name in names[-3:]]
    areas[0] = max(areas[0], 1 - areas[0])  # the brightness alone gets the sign that suits it
    assert [row[1].split()[0] for row in scores[-3:]] == [f"{area:.3f}" for area in areas]
    content = json.loads((trained / "baselines.json").read_text())
    for name in ("seed", "epochs"):
        (trained / "baselines.json").write_text(json.dumps(content | {"settings": content["settings"] | {name: 9}}))
        with pytest.raises(SystemExit, match="another seed, epochs or images: run baselines.py again"):
            table("compare.py", monkeypatch, capsys, str(trained))
    (trained / "baselines.json").write_text(json.dumps(content))


def test_runs_that_differ_in_more_than_the_seed_are_not_laid_out_as_one(module):
    compare = module("compare")
    nothing = {"scores": {}, "labels": np.zeros(0), "alone": np.zeros(0, dtype=bool), "training_s": None}
    runs = [
        compare.Results({"settings": {"seed": 0, "epochs": epochs}}, preset="default", **nothing)
        for epochs in (50, 250)
    ]
    with pytest.raises(ValueError, match="runs of one data set differ in preset or epochs"):
        compare.lay_out(runs)


def test_methods_are_compared_on_a_data_set_without_a_run(tmp_path, monkeypatch, capsys):
    write_phantom_dataset(tmp_path / "phantom", normal=20, unlabeled=8, test=6, side=64)
    items = load_datalist(tmp_path / "phantom")
    shutil.copy(items["training"][0]["image"], items["test"][1]["image"])
    bundle = str(REPOSITORY / "bundles/ddad_brain")
    arguments = ("--data", bundle, str(tmp_path), str(tmp_path / "phantom"), "--methods", "fine detail", "--seed", "3")
    table("baselines.py", monkeypatch, capsys, *arguments)
    content = json.loads((tmp_path / "baselines.json").read_text())
    assert content["training"] == content["training"] | {"known": 20, "pool": 8} and content["settings"]["seed"] == 3
    assert content["near_copy"][1] and not all(content["near_copy"])
    header, _, row, *_ = table("compare.py", monkeypatch, capsys, str(tmp_path))
    assert header == ["score", "seed 3, all", "seed 3, without near copies"]
    area = roc_auc_score(content["labels"], content["methods"]["fine detail"]["scores"])
    assert row[1].startswith(f"{area:.3f} [") and row[1].endswith("]")


def test_folders_and_methods_that_do_not_exist_are_named(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit, match=r"no baselines.json: run benchmarks/baselines.py"):
        table("compare.py", monkeypatch, capsys, str(tmp_path))
    with pytest.raises(SystemExit, match="there is no method 'AEU': choose among all, brightness"):
        table("baselines.py", monkeypatch, capsys, "--data", *[str(tmp_path)] * 3, "--methods", "AEU")


@pytest.fixture
def module(monkeypatch) -> Callable[[str], ModuleType]:
    """Import a module of the benchmarks."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    return importlib.import_module


def settings(module: Callable[[str], ModuleType], **changes: object) -> object:
    """Return how small networks are trained."""
    small = {"seed": 0, "epochs": 2, "batch_size": 8, "learning_rate": 1e-3, "precision": "float32"}
    return module("measured").Settings(**small | {"latent_size": 4, "width": 4, "hidden_size": 16} | changes)


def pictures(number: int, seed: int = 0) -> torch.Tensor:
    """Draw (N, 1, 32, 32) uint8 images of smooth cells."""
    cells = torch.rand((number, 1, 4, 4), generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(cells, size=32, mode="bilinear").mul(255).to(torch.uint8)


def test_the_score_of_each_network_is_that_of_its_paper(module):
    reconstruction = module("reconstruction")
    image, mean, log_variance = torch.rand((3, 5, 1, 32, 32), generator=torch.Generator().manual_seed(0)) * 2 - 1
    error = (image - mean).numpy()
    similar = [structural_similarity(a[0].numpy(), b[0].numpy(), data_range=2) for a, b in zip(image, mean)]
    expected = {
        "squared": (error**2).mean(axis=(1, 2, 3)),
        "absolute": abs(error).mean(axis=(1, 2, 3)),
        "weighted": (np.exp(-log_variance.numpy()) * error**2).mean(axis=(1, 2, 3)),
    }
    for name, values in expected.items():
        output = torch.cat([mean, log_variance], dim=1) if name == "weighted" else mean
        found = getattr(reconstruction, name)(image, output).mean(dim=(1, 2, 3)).numpy()
        assert found == pytest.approx(values, rel=1e-5), name
    whole = reconstruction.structure(image, mean)[:, :, 3:-3, 3:-3].mean(dim=(1, 2, 3))  # beyond, edges are repeated
    assert (1 - whole).tolist() == pytest.approx(similar, abs=1e-5)


def test_the_denoising_network_is_to_return_what_the_noise_was_added_to(module):
    reconstruction = module("reconstruction")
    network = reconstruction.DenoisingAE(image_size=32, width=4, hidden_size=16, latent_size=4)
    network.forward = lambda image: image
    image = torch.zeros(400, 1, 32, 32)
    torch.manual_seed(0)
    noise = reconstruction.coarse_noise(image)
    torch.manual_seed(0)
    assert network.training_loss(image).item() == pytest.approx(noise.square().mean().item())
    assert abs(noise.mean()) < 0.01 and 0.2 < noise.std() < 0.4
    steps = [(noise - noise.roll(shift, dims=3)).abs().mean().item() for shift in (1, 8)]
    assert steps[0] < steps[1] / 1.5  # smooth within a cell


def test_single_networks_learn_and_depend_on_the_seed_alone(module):
    reconstruction, known = module("reconstruction"), pictures(16)
    values = normalise(known)
    for name, method in reconstruction.NETWORKS.items():
        make = method.fit.keywords["make"]
        untrained, trained, again, other = (
            reconstruction.train(make, known, settings(module, epochs=epochs, seed=seed))
            for epochs, seed in ((0, 0), (40, 0), (40, 0), (40, 1))
        )
        torch.rand(1)  # what was drawn before changes nothing
        assert torch.equal(trained(values), again(values)), name
        assert not torch.equal(trained(values), other(values)), name
        assert trained.training_loss(values) < untrained.training_loss(values), name


def test_scores_come_in_order_with_what_they_cost(module):
    measured, controls = module("measured"), module("controls")
    known, pool, test = pictures(20), pictures(20, seed=1), pictures(70, seed=2)
    found = measured.measure(controls.CONTROLS["nearest neighbour"], known, pool, test, settings(module))
    distances = torch.cdist(normalise(test).flatten(1), normalise(known).flatten(1)).amin(dim=1)
    assert found["scores"] == pytest.approx(distances.tolist(), rel=1e-4)
    assert found["training_s"] >= 0 and found["image_ms"] > 0


def test_a_process_of_its_own_gives_the_same_without_the_memory_of_this_one(module, tmp_path):
    measured, method = module("measured"), module("controls").CONTROLS["PCA ratio"]
    parts = [pictures(20), pictures(20, seed=1), pictures(70, seed=2)]
    save_file(dict(zip(("known", "pool", "test"), parts)), tmp_path / "images.pt")
    ballast = torch.ones(2**27)  # 512 MiB
    found = measured.measure_apart(method, tmp_path / "images.pt", settings(module))
    assert found["scores"] == pytest.approx(measured.measure(method, *parts, settings(module))["scores"], rel=1e-4)
    assert 100 < found["peak_mib"] < measured.peak_memory() - ballast.nbytes / 2**20 / 2


def test_methods_that_cannot_run_say_why(module):
    measured, images = module("measured"), pictures(4)
    missing = measured.Method(lambda *_: None, needs="no_such_library")
    with pytest.raises(ImportError, match=r"no_such_library cannot be imported .* make .venv-compare/installed"):
        measured.measure(missing, images, images, images, settings(module))
    broken = measured.Method(lambda *_: lambda batch: np.full(len(batch), np.nan))
    with pytest.raises(FloatingPointError, match="4 of 4 scores are not finite"):
        measured.measure(broken, images, images, images, settings(module))


def test_weights_of_a_backbone_are_the_users_or_random_with_all_blocks_in_effect(module, tmp_path):
    patches = module("patches")
    backbone = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1), torch.nn.BatchNorm2d(2))
    torch.nn.init.zeros_(backbone[1].weight)
    patches.set_weights(backbone, None)
    assert torch.equal(backbone[1].weight, torch.ones(2))
    given = {name: torch.full_like(value, 3) for name, value in backbone.state_dict().items()}
    save_file(given | {"fc.weight": torch.zeros(1)}, tmp_path / "whole.pt")
    patches.set_weights(backbone, str(tmp_path / "whole.pt"))
    assert all((value == 3).all() for value in backbone.state_dict().values())
    save_file({name: value for name, value in given.items() if name != "0.bias"}, tmp_path / "part.pt")
    with pytest.raises(ValueError, match=r"lacks 1 of the 7 tensors of a resnet18, .* such as 0.bias"):
        patches.set_weights(backbone, str(tmp_path / "part.pt"))


def test_the_library_pyod_sees_the_principal_components(module):
    method, (known, test) = module("outliers").OUTLIERS["PyOD KNN"], (pictures(40), pictures(8, seed=1))
    pytest.importorskip(method.needs, reason="make .venv-compare/installed has it", exc_type=ImportError)
    found = module("measured").measure(method, known, known, test, settings(module))
    pixels = normalise(known).flatten(1).numpy()
    components = PCA(16, random_state=0).fit(pixels)
    neighbours = NearestNeighbors(n_neighbors=5).fit(components.transform(pixels))
    distances, _ = neighbours.kneighbors(components.transform(normalise(test).flatten(1).numpy()))
    assert found["scores"] == pytest.approx(distances[:, -1].tolist(), rel=1e-4)


@pytest.mark.parametrize("name", ["PaDiM", "PatchCore", "PaDiM, same encoder", "PatchCore, same encoder"])
def test_the_library_anomalib_finds_what_is_unlike_known_normals(name, module, monkeypatch):
    method, known = module("patches").PATCHES[f"anomalib {name}"], pictures(40)
    monkeypatch.setattr(module("patches"), "KEPT", 1.0)  # there are few patches here
    pytest.importorskip(method.needs, reason="make .venv-compare/installed has it", exc_type=ImportError)
    test = known[:8].clone()
    test[4:, :, 8:20, 8:20] = 255 - test[4:, :, 8:20, 8:20]
    scores, again = (
        module("measured").measure(method, known, known, test, settings(module))["scores"] for _ in range(2)
    )
    assert max(scores[:4]) < min(scores[4:]) and scores == again


def test_settings_that_differ_name_the_rows(trained, tmp_path, monkeypatch, capsys):
    other = tmp_path / "other"
    shutil.copytree(trained, other)
    metrics = json.loads((other / "eval/metrics.json").read_text())
    metrics["training"]["settings"]["seed"] = 1
    (other / "eval/metrics.json").write_text(json.dumps(metrics))
    header, _, *rows = table("settings.py", monkeypatch, capsys, "--runs", str(trained), str(other))
    assert [row[0] for row in rows] == ["`seed` 0", "`seed` 1"] and header[-1] == "`ddad_plus`"
    assert rows[0][1:] == rows[1][1:] and rows[0][1] == ""  # no ASR-Net


def test_asr_net_is_trained_on_maps_as_they_are_and_standardised(trained, tmp_path, monkeypatch, capsys):
    bundle, data = REPOSITORY / "bundles/ddad_brain", trained / "phantom"
    settings = SMALL | {"refine": "dual", "refine_epochs": 1, "unlabeled_size": 24, "output_dir": str(tmp_path)}
    config = str(bundle / "configs/train.json")
    workflow = ConfigWorkflow(config, logging_file=False, dataset_dir=str(data), **settings)
    workflow.initialize()
    workflow.run()
    options = ("--run", str(bundle), str(tmp_path), str(data), "--epochs", "2")
    header, _, *rows = table("refine_inputs.py", monkeypatch, capsys, *options)
    assert header[2:] == ["1", "2"] and [row[1] for row in rows] == ["as they are", "standardised"]
    assert all(0 <= float(cell) <= 1 for row in rows for cell in row[2:]) and rows[0][2:] != rows[1][2:]


def test_standardised_maps_have_mean_0_and_deviation_1(module):
    maps = torch.rand(5, 2, 8, 8) * torch.tensor([3.0, 0.1]).view(2, 1, 1)
    scale = module("refine_inputs").Standardise(maps.mean(dim=(0, 2, 3)), maps.std(dim=(0, 2, 3)))
    torch.testing.assert_close(scale(maps).mean(dim=(0, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(scale(maps).std(dim=(0, 2, 3)), torch.ones(2))


def test_pools_have_the_rate_and_size_that_they_are_of(module):
    robustness = module("robustness")
    normal, abnormal = [f"n{i}" for i in range(400)], [f"{kind}_{i}" for i in range(300) for kind in "ab"]
    found = list(robustness.variants(normal, abnormal, "(a|b)_"))
    pools = {variant.name: variant.pool for variant in found}
    ill = {name: sum(path in set(abnormal) for path in pool) for name, pool in pools.items()}
    assert [ill[f"rate_{rate}"] / len(pools[f"rate_{rate}"]) for rate in (0.0, 0.25, 1.0)] == [0, 0.25, 1]
    assert {len(pools[f"rate_{rate}"]) for rate in robustness.RATES} == {400}
    assert [len(pools[f"size_{size}"]) for size in (20, 800)] == [20, 800] and ill["size_800"] == 400
    assert pools["gamma_0.7"] == pools["rate_0.5"] and "gamma_1.0" not in pools
    assert not any(path.startswith("a") for path in pools["without_a"])
    assert ill["without_a"] == ill["without_b"] == ill["without_nothing"] == 300


@pytest.mark.slow
def test_pools_of_another_brightness_are_trained_once(tmp_path, monkeypatch, capsys):
    data = tmp_path / "data"
    write_phantom_dataset(data, normal=40, unlabeled=8, test=4, side=32)
    options = ["--bundle", str(REPOSITORY / "bundles/ddad_brain"), "--data", str(data), "--epochs", "1"]
    options += ["--output", str(tmp_path / "out"), "--experiments", "gamma"]
    table("robustness.py", monkeypatch, capsys, *options)
    file = tmp_path / "out/data.json"
    first = json.loads(file.read_text())["variants"]
    assert [variant["value"] for variant in first] == [0.7, 1.0, 1.4]
    dark, plain = (
        json.loads((tmp_path / f"out/data/{name}/datalist.json").read_text()) for name in ("gamma_1.4", "rate_0.5")
    )
    pairs = [
        (one["image"], two["image"]) for one, two in zip(dark["training"], plain["training"]) if "label" not in one
    ]
    for one, two in pairs:
        changed, image = (np.asarray(Image.open(path)) for path in (one, two))
        np.testing.assert_array_equal(changed, np.rint(255 * (image / 255) ** 1.4))
    assert len({one for one, _ in pairs}) == len(pairs) == 4
    monkeypatch.setattr(sys, "executable", "nothing")
    table("robustness.py", monkeypatch, capsys, *options)
    assert json.loads(file.read_text())["variants"] == first
    datalist = tmp_path / "out/data/gamma_1.4/datalist.json"
    datalist.write_text(json.dumps(dark | {"test": dark["test"][1:]}))
    with pytest.raises(ValueError, match=r"gamma_1.4 holds another training: give another --output"):
        table("robustness.py", monkeypatch, capsys, *options)
    with pytest.raises(SystemExit):
        table("robustness.py", monkeypatch, capsys, *options, "--write")
    assert "leave out --experiments" in capsys.readouterr().err


def test_figures_of_a_type_are_of_its_images_and_all_normal_ones(trained, module):
    items = load_datalist(trained / "phantom")["test"]
    abnormal = [i for i, item in enumerate(items) if item["label"]]
    named = [{**item, "image": f"type_{i % 2 if i in abnormal else 'none'}.png"} for i, item in enumerate(items)]
    found = module("robustness").figures(trained, named, r"type_(\d)")
    alone = "without near copies"
    assert list(found) == ["all", alone, "0", "1", f"0, {alone}", f"1, {alone}"]
    with (trained / "eval/scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    for kind in (0, 1):
        kept = [i for i in range(len(rows)) if i not in abnormal or i % 2 == kind]
        area = roc_auc_score([int(rows[i]["label"]) for i in kept], [float(rows[i]["rec"]) for i in kept])
        assert found[str(kind)]["rec"][0] == pytest.approx(area)
        assert found[str(kind)]["rec"][1] <= area <= found[str(kind)]["rec"][2]


def test_what_is_left_of_a_gain_is_laid_out_by_type(module):
    robustness = module("robustness")

    def point(experiment: str, value: object, areas: tuple[float, float]) -> dict[str, object]:
        splits = {f"{kind}{end}": areas[kind == "b"] for kind in "ab" for end in ("", f", {robustness.ALONE}")}
        figures = {split: {name: [area] * 3 for name in robustness.SCORES} for split, area in splits.items()}
        return {"experiment": experiment, "value": value, "figures": figures}

    pure, full = point("rate", 0.0, (0.5, 0.9)), point("without", "nothing", (0.9, 0.905))
    text = robustness.lay_out([pure, full, point("without", "a", (0.7, 0.9)), point("without", "b", (0.9, 0.8))])
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]
    assert rows[0] == ["a", "`ddad_plus`", "0.500 (0.500)", "0.700 (0.700)", "0.900 (0.900)", "50% (50%)"]
    assert rows[-1][0] == "b" and rows[-1][3:] == ["0.800 (0.800)", "0.905 (0.905)", "- (-)"]


def test_the_cost_of_scores_is_laid_out(monkeypatch, capsys):
    rows = table("plus_cost.py", monkeypatch, capsys, "--images", "40", "--rounds", "1")
    assert [row[0].split(",")[0] for row in rows[2:5]] == [
        "scoring 40 images",
        "training 50 epochs on 40 images",
        "training 250 epochs on 40 images",
    ]


def test_new_phantoms_are_flagged_at_about_the_promised_rate(trained, monkeypatch, capsys):
    options = ("--resamplings", "60", "--calibration", "9")
    rows = table("promised_rate.py", monkeypatch, capsys, str(trained), *options)
    assert [row[:3] for row in rows[1:5]] == [["`inter`", "0.01", "0.0000"], ["`inter`", "0.05", "0.0000"]] + [
        ["`inter`", alpha, f"{float(alpha):.4f}"] for alpha in ("0.1", "0.2")
    ]
    for row in rows[1:]:
        rate = float(row[3].split()[0])
        assert rate <= 0.45 and (rate > 0.02 or row[1] != "0.2")  # a fifth is expected of 60, and none at .01 and .05
        assert rate == 0 or row[1] in ("0.1", "0.2")


def test_realised_rates_are_laid_out_a_row_a_score(trained, monkeypatch, capsys):
    rows = table("realised_rates.py", monkeypatch, capsys, str(trained))
    names = build_model(refine="none", scores="plus").score_names
    assert [row[2] for row in rows] == ["score", *(f"`{name}`" for name in names), "by chance"]
    assert all(row[1].startswith("all (6)") for row in rows[1:])


def test_kinds_out_of_protocol_have_a_row_each(tmp_path, monkeypatch, capsys):
    kinds: dict[str, PhantomKind] = {"brain_mri": "brain", "chest_xray": "chest", "fundus": "fundus"}
    for name, kind in kinds.items():
        write_phantom_dataset(tmp_path / name, kind=kind, normal=14, unlabeled=8, test=2, side=64)
    options = ("--data", str(tmp_path), "--sets", "chest_xray", "--preparations", "plain")
    rows = {row[0]: row[1] for row in table("out_of_protocol.py", monkeypatch, capsys, *options)}
    assert rows["Share flagged, %"] == "chest plain" and len(rows) > 24
    assert rows["all white"] == rows["noise"] == "100"


@pytest.fixture
def speed(monkeypatch) -> ModuleType:
    """The module of the speed benchmark, whose command takes minutes."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    return importlib.import_module("speed")


def test_ways_are_timed_in_turns_and_the_median_of_all_rounds_but_the_first_counts(speed):
    calls: list[str] = []
    lasting = {"authors": [100.0, 4.0, 9.0, 5.0], "float32": [100.0, 2.0, 1.0, 3.0]}

    def way(name: str) -> Callable[[Callable[[], float]], float]:
        def timed(clock: Callable[[], float]) -> float:
            calls.append(name)
            return lasting[name].pop(0)

        return timed

    assert speed.in_turns({name: way(name) for name in lasting}, 3, time.process_time) == {"authors": 5, "float32": 2}
    assert calls == ["authors", "float32"] * 4


def test_a_piece_takes_its_share_of_the_time(speed):
    times = iter([10.0, 16.0])
    assert speed.each(lambda: 3)(lambda: next(times)) == 2.0


def test_the_whole_job_follows_from_its_parts(speed):
    parts = ("a network, 64 images", "ASR-Net, 8 images")
    times = {f"training step of {part}": {"authors": 2.0, "float32": 1.0, "bfloat16": 0.5} for part in parts}
    times["scoring a prepared image by six networks and ASR-Net"] = {"authors": 0.1, "float32": 0.01}
    times["scoring a prepared image by six networks"] = {"authors": 0.06, "float32": 0.005}
    times["reading a picture"] = {"authors": 0.001, "float32": 0.002}
    found = speed.whole_job(times, normal=1000, unlabeled=1000, test=600)
    steps, refine = 3 * 250 * (15 + 31), 100 * 125
    scored = 101 * 0.1 + 0.06 + 11 * 0.03
    assert found["authors"] == pytest.approx(9 * 2600 * 0.001 + 2 * (steps + refine) + scored * 600)
    assert found["float32"] == pytest.approx(2600 * 0.002 + steps + refine + 600 * 0.01 + (10 * 600 + 1000) * 0.005)
    once = speed.whole_job(times, normal=1000, unlabeled=1000, test=600, evaluations=1)
    assert once == found | {"authors": pytest.approx(found["authors"] - 100 * 0.1 * 600)}
    assert speed.row("the whole job", {"authors": 12.0, "float32": 6.0, "bfloat16": 4.0})[1:4] == [
        "12 s",
        "2.00",
        "3.00",
    ]


def test_an_epoch_of_a_trainer_counts_its_networks_steps(speed):
    images = torch.randint(0, 255, (128, 1, 64, 64), dtype=torch.uint8)
    ticks = itertools.count()
    epoch = speed.ensemble_epoch(images, "float32")
    assert epoch.steps == 3 and epoch(lambda: next(ticks)) == pytest.approx(1 / 3)
    assert epoch.trainer.epochs == {"ndm": 2, "udm": 2}
    epoch(lambda: next(ticks))
    assert epoch.trainer.epochs == {"ndm": 4, "udm": 4}


def test_the_authors_jobs_run(speed, write_image):
    authors = importlib.import_module("authors")
    found = authors.Authors([str(write_image(f"{i}.png", seed=i)) for i in range(64)], few=8)
    assert all(0 < found(job) < 60 for job in authors.JOBS)


def test_the_gpu_benchmark_runs_on_a_cpu(monkeypatch, capsys):
    options = ("--normal", "8", "--unlabeled", "8", "--epochs", "2", "--refine_epochs", "2", "--few", "1")
    rows = table("gpu.py", monkeypatch, capsys, *options, "--precisions", "float32")
    assert [row[1] for row in rows[2:]] == ["eager", "graph", "eager", "graph", "", ""]
    assert all(float(row[3].split()[0]) > 0 for row in rows[2:])


def test_memory_holds_at_least_the_pixels(monkeypatch, capsys):
    rows = table("memory.py", monkeypatch, capsys, "--sizes", "64x32")
    marks = [int(cell) for cell in rows[-1][2:]]
    assert len(marks) == 5 and marks[0] > 100 and marks == sorted(marks)


def test_precisions_are_compared_where_nothing_else_differs(trained, tmp_path, monkeypatch, capsys):
    runs = []
    for precision, area, seed in (("float32", 0.9, 0), ("bfloat16", 0.905, 0), ("bfloat16", 0.9, 1)):
        figures = json.loads((trained / "eval" / "metrics.json").read_text())
        figures["training"]["settings"] |= {"precision": precision, "seed": seed}
        figures["splits"]["all"]["scores"]["inter"]["auroc"] = area
        runs.append(tmp_path / str(len(runs)))
        (runs[-1] / "eval").mkdir(parents=True)
        (runs[-1] / "eval" / "metrics.json").write_text(json.dumps(figures))
    rows = table("precision.py", monkeypatch, capsys, str(runs[0]), str(runs[1]))
    assert rows[2][1:] == ["0", "inter", "float32 0.9000", "bfloat16 0.9050", "+0.0050"]
    with pytest.raises(ValueError, match="differ in more than the precision"):
        table("precision.py", monkeypatch, capsys, str(runs[0]), str(runs[2]))
