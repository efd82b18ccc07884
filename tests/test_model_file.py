"""One file holds a model and all that it needs to be used rightly; what is wrong with it is said before it is built."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow, ckpt_export

from monai_ddad.bundle import model_record, network_settings, refuse_expressions, run_record
from monai_ddad.io.checkpoints import RECORD_KEY, CheckpointError, load_file, load_weights, save_file
from monai_ddad.io.errors import DataError, root_cause
from monai_ddad.io.record import SIZE, ModelRecord
from monai_ddad.networks import DDADModel, build_model
from monai_ddad.serving.archive import score_archive
from monai_ddad.serving.predictor import Predictor
from monai_ddad.training import ResumeCheckpoint
from tests.small_models import BUNDLES

BUNDLE = BUNDLES / "ddad_cxr"
QUICK = 10  # seconds, of a busy machine
SMALL = {"image_size": 32, "width": 2, "hidden_size": 8, "latent_size": 4, "members": 2}


def network_of(folder: str, **changes: Any) -> DDADModel:
    """A network of a bundle, with random weights."""
    untrained = json.loads((BUNDLES / folder / "configs/inference.json").read_text())["untrained"]
    preparation = untrained | {"preprocess": "modality"} | changes.pop("preparation", {})
    return build_model(**SMALL | {"bundle": folder, "preparation": preparation, "seed": 0} | changes).eval()


def save_model(folder: Path, bundle: str = "ddad_cxr", **changes: Any) -> Path:
    save_file(network_of(bundle, **changes).state_dict(), folder / "model.pt")
    return folder


def save_record(folder: Path, content: Any) -> Path:
    """Save a model whose record is another text."""
    weights = network_of("ddad_cxr").state_dict()
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    save_file(weights | {RECORD_KEY: torch.tensor(list(text.ljust(SIZE)), dtype=torch.uint8)}, folder / "model.pt")
    return folder


def record_with(place: str, value: Any) -> dict[str, Any]:
    content = json.loads(network_of("ddad_cxr").record.text())
    *parents, last = place.split(".")
    part = content
    for name in parents:
        part = part[name]
    part[last] = value
    return content


def run(bundle: Path, names: list[str], **settings: Any) -> ConfigWorkflow:
    files = [str(bundle / "configs" / f"{name}.json") for name in names]
    workflow = ConfigWorkflow(files, logging_file=False, **settings)
    workflow.initialize()
    workflow.run()
    return workflow


@pytest.mark.parametrize("beside", ["nothing", "another run's", "a folder", "damaged"])
def test_scores_depend_on_the_model_file_alone(beside, trained, tmp_path):
    shutil.copytree(trained("ddad_cxr"), tmp_path, dirs_exist_ok=True)
    models, images = tmp_path / "models", tmp_path / "phantom/images"
    run_file = models / "run.json"
    record = json.loads(run_file.read_text())
    run_file.unlink()
    if beside == "another run's":
        record["network"]["members"] = 3
        record["preparation"] |= {"preprocess": "plain", "percentiles": [30, 40]}
        run_file.write_text(json.dumps(record))
    elif beside == "a folder":
        run_file.mkdir()
    elif beside == "damaged":
        run_file.write_text("[" * 100_000)
    predictor, expected = Predictor(BUNDLE, models), Predictor(BUNDLE, trained("ddad_cxr") / "models")
    files = sorted(images.glob("*.png"))[:5]
    found = [[image.result for image in one.find(files)] for one in (predictor, expected)]
    assert found[0] == found[1] and predictor.network.preparation["preprocess"] == "modality"
    if beside != "nothing":
        with pytest.raises(CheckpointError, match=r"run\.json"):
            run_record(str(models))
    if beside == "another run's":  # of which the report then says nothing
        run(BUNDLE, ["inference"], output_dir=str(tmp_path), dataset_dir=str(images), device="cpu")
        assert json.loads((tmp_path / "eval/inference/metrics.json").read_text())["training"] == {}


def test_the_model_file_says_what_the_run_was(trained):
    models = trained("ddad_cxr") / "models"
    record, written = model_record(models, "ddad_cxr"), json.loads((models / "run.json").read_text())
    assert record.bundle == written["bundle"] == "ddad_cxr" and record.preparation == written["preparation"]
    assert {**record.network, "map_names": record.map_names, "score_names": record.score_names} == written["network"]
    assert record.network["calibration_images"] == 10


def test_exports_carry_the_record(tmp_path):
    models = save_model(tmp_path / "models", preparation={"percentiles": [3.0, 97.0]})
    file = str(models / "model.pt")
    options = {
        "meta_file": str(BUNDLE / "configs/metadata.json"),
        "config_file": str(BUNDLE / "configs/inference.json"),
    }
    target = tmp_path / "script" / "model.ts"
    target.parent.mkdir()
    ckpt_export("network_def", str(target), file, output_dir=str(tmp_path), **options)
    assert model_record(target.parent, "ddad_cxr") == model_record(models)
    assert Predictor(BUNDLE, target.parent).network.preparation["percentiles"] == [3.0, 97.0]


def test_an_onnx_file_carries_the_record(make_net, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from monai_ddad.serving.onnx_models import export_onnx

    network = make_net(refine="none")
    export_onnx(network, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    assert ModelRecord.parse(session.get_modelmeta().custom_metadata_map["record"]) == network.record


@pytest.mark.parametrize("configs", [["inference"], ["train"]])
def test_an_unknown_preparation_is_refused(configs, trained, tmp_path):
    data = str(trained("ddad_cxr") / "phantom")
    with pytest.raises(RuntimeError) as caught:
        run(BUNDLE, configs, output_dir=str(tmp_path), dataset_dir=data, preprocess="modalty")
    assert "preprocess" in str(root_cause(caught.value))


def test_another_preparation_than_the_models_is_refused(trained, tmp_path):
    output, data = str(trained("ddad_cxr")), str(trained("ddad_cxr") / "phantom/images")
    with pytest.raises(CheckpointError, match="preprocess is modality, here plain") as caught:
        try:
            run(BUNDLE, ["inference"], output_dir=output, dataset_dir=data, preprocess="plain", eval_dir=str(tmp_path))
        except RuntimeError as error:
            raise root_cause(error) from None
    assert output not in str(caught.value)


@pytest.mark.parametrize("other", ["ddad_brain", "ddad_fundus", ""])
def test_a_model_of_another_bundle_is_refused_everywhere_with_both_names(other, tmp_path, write_image):
    models = save_model(tmp_path / "models", "ddad_brain") if other == "ddad_brain" else tmp_path / "models"
    if other != "ddad_brain":
        save_file(network_of("ddad_cxr", bundle=other).state_dict(), models / "model.pt")
    folder = write_image("images/a.png").parent
    calls: list[Callable[[], Any]] = [
        lambda: Predictor(BUNDLE, models),
        lambda: score_archive([folder], tmp_path / "a.parquet", BUNDLE, models, device="cpu"),
        lambda: network_settings(models, "ddad_cxr"),
        lambda: run(BUNDLE, ["inference"], models_dir=str(models), dataset_dir=str(folder)),
        lambda: run(BUNDLE, ["train", "evaluate"], models_dir=str(models), dataset_dir=str(folder)),
        lambda: load_weights(network_of("ddad_cxr"), models / "model.pt"),
        lambda: load_weights(
            network_of("ddad_cxr"), models / "model.pt", parts=["discrepancy.ndm", "discrepancy.udm"]
        ),  # to start from
        lambda: network_of("ddad_cxr").load_state_dict(torch.load(models / "model.pt"), strict=False),
    ]
    for call in calls:
        with pytest.raises((CheckpointError, RuntimeError)) as caught:
            call()
        error = root_cause(caught.value)
        assert isinstance(error, CheckpointError) and "ddad_cxr" in str(error) and (other or "no bundle") in str(error)


HOSTILE_TENSORS: dict[str, Callable[[], Any]] = {
    "sparse": lambda: torch.zeros(4, 4).to_sparse(),
    "sparse rows": lambda: torch.eye(4).to_sparse_csr(),
    "meta": lambda: torch.zeros(4, device="meta"),
    "quantized": lambda: torch.quantize_per_tensor(torch.zeros(4), 0.1, 0, torch.qint8),
    "complex": lambda: torch.zeros(4, dtype=torch.complex64),
    "expanded": lambda: torch.zeros(1).expand(10**9),
    "of huge strides": lambda: torch.zeros(100).as_strided((2, 2), (50, 3)),
    "overlapping": lambda: torch.zeros(100).as_strided((50, 50), (1, 1)),
    "negated": lambda: torch.zeros(4, dtype=torch.complex64).conj().imag,
    "nested": lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
    "a set": lambda: {1, 2},
    "complex number": lambda: 1j,
}


@pytest.mark.parametrize("make", HOSTILE_TENSORS.values(), ids=HOSTILE_TENSORS)
@pytest.mark.parametrize("entry", ["model", "start", "resume"])
@pytest.mark.filterwarnings("ignore")
def test_tensors_of_odd_kinds_are_refused_quickly(make, entry, tmp_path):
    weights, began = network_of("ddad_cxr").state_dict(), time.perf_counter()
    torch.save(weights | {"discrepancy.ndm.members.0.encoder.0.weight": make()}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="damaged"):
        if entry == "model":
            Predictor(BUNDLE, tmp_path)
        elif entry == "start":
            load_weights(network_of("ddad_cxr"), tmp_path / "model.pt", parts=["discrepancy.ndm"])
        else:
            torch.save({"fingerprint": {}, "state": {"epochs": {"ndm": 1}, "weights": make()}}, tmp_path / "a.pt")
            load_file(tmp_path / "a.pt")
    assert time.perf_counter() - began < QUICK


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int32, torch.bool])
def test_weights_of_another_type_are_refused(dtype, tmp_path):
    weights = network_of("ddad_cxr").state_dict()
    weights["discrepancy.asr.model.6.bias"] = weights["discrepancy.asr.model.6.bias"].to(dtype)
    save_file(weights, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"asr\.model\.6\.bias has the type"):
        Predictor(BUNDLE, tmp_path)


def test_weights_that_share_memory_are_refused(tmp_path):
    weights = network_of("ddad_cxr").state_dict()
    weights["discrepancy.udm.members.0.encoder.0.weight"] = weights["discrepancy.udm.members.1.encoder.0.weight"]
    save_file(weights, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="share memory"):
        Predictor(BUNDLE, tmp_path)


DEEP = b"[" * 4000 + b"]" * 4000
HOSTILE_RECORDS: dict[str, Any] = {
    "no JSON": b"\xff\xfe",
    "deeply nested": DEEP,
    "a list": [],
    "a number": 3,
    "nothing": {},
    "unknown format": record_with("format", 2),
    "a further part": record_with("command", "x"),
    "members as text": record_with("network.members", "2"),
    "members as bool": record_with("network.members", True),
    "members as fraction": record_with("network.members", 2.0),
    "no members": record_with("network.members", 0),
    "fewer": record_with("network.members", -1),
    "10,000 members": record_with("network.members", 10_000),
    "64 members": record_with("network.members", 64),
    "huge width": record_with("network.width", 512),
    "endless width": record_with("network.width", 10**30),
    "huge layers": record_with("network.hidden_size", 65536),
    "huge code": record_with("network.latent_size", 4096),
    "huge picture": record_with("network.image_size", 1024),
    "odd picture": record_with("network.image_size", 33),
    "huge calibration": record_with("network.calibration_images", 10**7),
    "negative calibration": record_with("network.calibration_images", -3),
    "many channels": record_with("network.in_channels", 16),
    "unknown backbone": record_with("network.backbone", "VAE"),
    "unknown score": record_with("network.score", "nonsense"),
    "score of another set": record_with("network.score", "ddad_plus"),
    "unknown setting": record_with("network.command", "x"),
    "unknown preparation": record_with("preparation.preprocess", "modalty"),
    "no preparation": record_with("preparation", {}),
    "preparation of another bundle": record_with("preparation.margin", 0.02),
    "percentiles as text": record_with("preparation.percentiles", "1, 99"),
    "one percentile": record_with("preparation.percentiles", [1.0]),
    "endless percentiles": record_with("preparation.percentiles", [float("nan"), float("inf")]),
    "body parts in a dictionary": record_with("preparation.body_parts", {"a": 1}),
    "names of others": record_with("map_names", ["inter"]),
    "a name with a path": record_with("bundle", "../ddad_cxr"),
}


@pytest.mark.parametrize("content", HOSTILE_RECORDS.values(), ids=HOSTILE_RECORDS)
def test_records_that_ask_for_what_no_model_may_have_are_refused_before_anything_is_built(content, tmp_path):
    models, began = save_record(tmp_path, content), time.perf_counter()
    with pytest.raises((CheckpointError, RuntimeError)) as caught:
        Predictor(BUNDLE, models)
    assert isinstance(root_cause(caught.value), ValueError) and time.perf_counter() - began < QUICK
    assert str(tmp_path) not in str(root_cause(caught.value))


@pytest.mark.parametrize("change", ["missing", "short", "float"])
def test_a_model_without_a_whole_record_is_refused(change, tmp_path):
    weights = network_of("ddad_cxr").state_dict()
    record = weights.pop(RECORD_KEY)
    if change != "missing":
        weights[RECORD_KEY] = record[:100] if change == "short" else record.float()
    save_file(weights, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="record"):
        Predictor(BUNDLE, tmp_path)
    with pytest.raises(CheckpointError, match="record"):
        network_of("ddad_cxr").load_state_dict(weights)


def test_the_code_of_a_torchscript_file_is_never_run(tmp_path):
    class Creates(torch.nn.Module):
        def __init__(self, path: str) -> None:
            super().__init__()
            self.path = path

        @torch.jit.export
        def __getstate__(self):
            return self.path, self.training

        @torch.jit.export
        def __setstate__(self, state: tuple[str, bool]):
            self.path = state[0]
            self.training = state[1] and bool(torch.from_file(state[0], True, 16).sum() == 0)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image

    canary = tmp_path / "canary"
    torch.jit.script(Creates(str(canary))).save(tmp_path / "model.ts")
    with pytest.raises(CheckpointError):
        Predictor(BUNDLE, tmp_path)
    assert not canary.exists()
    torch.jit.load(tmp_path / "model.ts")
    assert canary.exists()  # the code does run where it is trusted


@pytest.mark.parametrize(
    "state",
    [
        {"epochs": {"ndm": "3"}},
        {"epochs": {"ndm": float("nan")}},
        {"epochs": {"ndm": True}},
        {"epochs": {"ndm": -1}},
        {"epochs": {"ndm": 10**15}},
        {"epochs": []},
        {},
    ],
)
def test_a_training_state_of_other_types_is_refused(state, tmp_path):
    class Engine:
        epochs: dict[str, int] = {}
        fingerprint: dict[str, Any] = {}

        class state:
            max_epochs = 3

        def load_training_state(self, state: dict[str, Any]) -> None:
            raise AssertionError("it was taken")

    save_file({"fingerprint": {}, "state": state}, tmp_path / "checkpoint.pt")
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt"):
        ResumeCheckpoint(str(tmp_path / "checkpoint.pt")).resume(Engine())


CANARIES = ["$open('{}', 'w')", "$__import__('os').system('touch {}')", " $open('{}', 'w')", "@device", "%{}.json::a"]
CANARIES += ["a@#b", "a%::b"]


@pytest.fixture
def canary(tmp_path) -> Path:
    (tmp_path / "canaries").mkdir()
    return tmp_path / "canaries" / "file"


@pytest.mark.parametrize("text", CANARIES)
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [x], lambda x: {"a": [{"b": x}]}, lambda x: (x, 1)])
def test_expressions_are_told_from_text(text, wrap):
    with pytest.raises(ValueError, match="score holds an expression"):
        refuse_expressions(wrap(text), "score")


@pytest.mark.parametrize(
    "value", [{"_target_": "os.system"}, {"a#b": 1}, {"a::b": 1}, {"+a": 1}, {1: 2}, object(), b"$"]
)
def test_what_would_become_an_object_is_no_plain_value(value):
    with pytest.raises(ValueError, match="expression"):
        refuse_expressions([value], "score")


@pytest.mark.parametrize("value", ["ddad_plus", "a@b.c", "50 %", "", None, 0.05, True, ["MR", None], Path("a/b")])
def test_plain_values_are_taken(value):
    assert refuse_expressions(value, "score") is value


@pytest.mark.parametrize("text", CANARIES[:3])
@pytest.mark.parametrize("name", ["score", "alpha", "overlay_map", "map_format", "preprocess", "modalities"])
def test_settings_of_a_predictor_are_never_evaluated(text, name, canary, tmp_path):
    models = save_model(tmp_path / "models")
    with pytest.raises((ValueError, TypeError)):
        Predictor(BUNDLE, models, **{name: text.format(canary)})
    assert not list(canary.parent.iterdir())


@pytest.mark.parametrize("text", CANARIES[:3])
def test_options_of_the_command_line_are_never_evaluated(text, canary, tmp_path, write_image):
    images, models = write_image("images/a.png").parent, save_model(tmp_path / "models")
    value = text.format(canary).replace("/", "\N{DIVISION SLASH}")
    for options in ({"score": text.format(canary)}, {"models_dir": value}, {"device": text.format(canary)}):
        with pytest.raises((DataError, CheckpointError)):
            score_archive([images], tmp_path / "a.parquet", BUNDLE, **{"models_dir": models, "device": "cpu"} | options)
    assert not list(canary.parent.iterdir())


def test_a_folder_of_any_name_holds_a_model(tmp_path):
    for name in ("$x", "@device", "%a", "a#b", "a@#b"):
        models = save_model(tmp_path / name)
        assert Predictor(BUNDLE, models).network.bundle == "ddad_cxr"


@pytest.mark.parametrize("text", CANARIES[:3])
@pytest.mark.parametrize("file", ["model's record", "run.json", "data list"])
def test_text_of_files_is_never_evaluated(text, file, canary, trained, tmp_path):
    text = text.format(canary)
    if file == "model's record":
        for place in (
            "bundle",
            "network.backbone",
            "network.score",
            "network.wanted_score",
            "preparation.preprocess",
            "preparation.modalities",
        ):
            with pytest.raises((CheckpointError, RuntimeError)):
                Predictor(BUNDLE, save_record(tmp_path, record_with(place, text)))
        for reasons in ({"intra": text}, {text: "it is the same for all images"}):
            with pytest.raises((CheckpointError, RuntimeError)):
                Predictor(BUNDLE, save_record(tmp_path, record_with("network.left_out", reasons)))
    elif file == "run.json":
        models = trained("ddad_cxr") / "models"
        shutil.copytree(models, tmp_path / "models")
        record = json.loads((models / "run.json").read_text())
        for name in record["settings"]:
            changed = record | {"settings": record["settings"] | {name: text}}
            (tmp_path / "models/run.json").write_text(json.dumps(changed))
            presets = ConfigParser.load_config_file(str(BUNDLE / "configs/train.json"))["presets"]
            parser = ConfigParser({"presets": presets})
            arguments = {"presets": "@presets", "preset": "trained", "models_dir": str(tmp_path / "models")}
            parser["defaults"] = {"_target_": "monai_ddad.bundle.choose_preset", **arguments}
            parser["all"] = {key: f"$@defaults['{key}']" for key in presets["paper"]}
            parser.get_parsed_content("all")
    else:
        items = [{"image": text, "label": 0, "group": text}, {"image": text, "_target_": "os.system", "command": text}]
        content = {"training": items * 4, "test": [{"image": text, "label": 1}]}
        (tmp_path / "list.json").write_text(json.dumps(content))
        for target, key in (("load_datalist", "dataset_dir"), ("list_images", "source")):
            parser = ConfigParser({"source": str(tmp_path / "list.json")})
            parser["list"] = {"_target_": f"monai_ddad.data.{target}", key: "@source"}
            if target == "load_datalist":
                parser["list"] |= {"unlabeled_size": None, "abnormal_rate": None}
            parser["set"] = {"_target_": "builtins.dict", "data": "@list", "first": "$list(@list)[0]"}
            with suppress(RuntimeError, DataError):  # a missing image may be refused
                parser.get_parsed_content("set")
    assert not list(canary.parent.iterdir())
