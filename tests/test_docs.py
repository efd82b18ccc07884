"""Every command and code block of the README and the docs runs as it is written."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from monai_ddad.data.phantom import write_phantom_dataset

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = ["README.md", "docs/quickstart.md", "docs/data.md", "docs/method.md", "docs/results.md"]
BUNDLES = ["ddad_brain", "ddad_cxr", "ddad_fundus"]
PAGES += ["docs/features.md", "docs/audit.md", "docs/decisions.md", "docs/archive.md"] + [
    f"bundles/{bundle}/docs/README.md" for bundle in BUNDLES
]
# the commands that install, which make and the test run itself go through
INSTALL = ("make ", "python3 -m venv", ".venv/bin/pip install")
SMALL = {"members": 2, "epochs": 1, "refine_epochs": 1, "batch_size": 8, "val_interval": 1, "image_size": 64}


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (REPOSITORY / page).read_text(), re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[str]:
    lines = [line.split("  #")[0].strip() for block in blocks(page, "bash") for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith(INSTALL)]


def test_pages_hold_the_commands_that_are_run_here():
    assert sum(len(commands(page)) for page in PAGES) >= 12
    assert [page for page in PAGES if not (REPOSITORY / page).is_file()] == []


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with the bundles and small data sets where the docs expect them."""
    ignored = shutil.ignore_patterns("models", "eval", "phantom")
    shutil.copytree(REPOSITORY / "bundles", tmp_path / "bundles", ignore=ignored)
    write_phantom_dataset(tmp_path / "path/to/dataset", normal=10, unlabeled=10, test=3, side=32)
    shutil.copytree(tmp_path / "path/to/dataset/images", tmp_path / "path/to/folder")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(command.replace("monai-ddad", "python -m monai_ddad", command.startswith("monai-ddad ")))
    assert words[:2] == ["python", "-m"] and words[2] in ("monai.bundle", "monai_ddad"), f"no test runs {command!r}"
    if "mlflow" in words:
        pytest.importorskip("mlflow", reason="mlflow is not installed: pip install monai-ddad[mlflow]")
    if words[2] == "monai.bundle" and words[3] == "run" and "train.json" in command:
        # smaller and quicker, and without the full synthetic set
        given = [word for word in words if word.startswith("--")]
        preset = words[words.index("--preset") + 1] if "--preset" in given else None
        if "--dataset_dir" not in given:
            words += ["--dataset_dir", str(Path("path/to/dataset").resolve())]
            words += [] if preset else ["--preset", "phantom"]  # as it is without a data set
        elif preset is None:
            preset = "features"
        settings = {} if "evaluate.json" in command else {"image_size": 64} if preset == "features" else SMALL
        words += [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    monkeypatch.setattr(sys, "argv", words[2:])
    hook = sys.excepthook
    try:
        runpy.run_module(words[2], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code:
            pytest.fail(f"{command!r} ended with {end.code}")
    finally:
        sys.excepthook = hook


ALIKE = [f"bundles/{bundle}/docs/README.md" for bundle in BUNDLES[1:]]  # made of the template of the first one's


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[pytest.mark.slow] * (page in ALIKE)) for page in PAGES if commands(page)],
)
def test_commands_run_in_the_order_of_the_page(page, workplace, monkeypatch):
    if page.startswith("bundles/"):
        folder = workplace / Path(page).parents[1]
        shutil.copytree(workplace / "path", folder / "path")
        monkeypatch.chdir(folder)
    for command in commands(page):
        run(command, monkeypatch)
    for block in blocks(page, "python"):
        pytest.importorskip("onnxscript", reason="ONNX is not installed: pip install monai-ddad[onnx]")
        exec(compile(block, page, "exec"), {})
    if page == "docs/quickstart.md":
        assert (workplace / "runs/mine/eval/inference/overlays/000000.png").is_file()
        assert (workplace / "runs/mine/models/model.onnx").is_file()
        assert (workplace / "runs/mine/models/model.ts").is_file()


def test_benchmarks_that_the_docs_name_have_the_options_that_they_give():
    text = "".join(path.read_text() for path in (REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md")))
    found = re.findall(r"\bbenchmarks/(\w+\.py)([^`\n]*)", text)
    assert len(found) > 20
    shared = (REPOSITORY / "benchmarks/pages.py").read_text()  # has --run
    for name, options in found:
        source = (REPOSITORY / "benchmarks" / name).read_text()
        known = re.findall(r'add_argument\(\s*"(--\w+)"', source + (shared if "add_runs" in source else ""))
        assert set(re.findall(r"--\w+", options)) <= set(known), (name, options)


def test_data_page_shows_lists_that_are_taken(tmp_path):
    from monai_ddad.data import load_datalist

    authors, monai = (json.loads(block) for block in blocks("docs/data.md", "json"))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "data.json").write_text(json.dumps(authors))
    (tmp_path / "datalist.json").write_text(json.dumps(monai))
    labels = {"training": [0, None, None], "test": [0, 1]}
    assert {key: [item["label"] for item in items] for key, items in load_datalist(tmp_path / "a").items()} == labels
    labels = {"training": [0, None], "test": [1]}
    assert {key: [item["label"] for item in items] for key, items in load_datalist(tmp_path).items()} == labels


def test_settings_table_names_real_settings():
    settings = json.loads((REPOSITORY / "bundles/ddad_brain/configs/train.json").read_text())
    page = (REPOSITORY / "docs/quickstart.md").read_text()
    table = re.search(r"## Settings.*?(\n\|.*?)\n\n", page, re.DOTALL).group(1)
    rows = [line.split("|")[1:3] for line in table.strip().splitlines()[2:]]
    defaults = settings | settings["presets"]["paper"]
    for names, values in rows:
        for name, value in zip(re.findall(r"`(\w+)`", names), values.split(",")):
            assert name in settings, name
            number = re.fullmatch(r"\s*`?([\d.e-]+)`?\s*", value)
            if number:
                assert float(number.group(1)) == defaults[name], name


def floors() -> dict[str, Version]:
    rows = re.findall(r"^\| ([\w-]+) \| ([\d.]+) \|", (REPOSITORY / "SECURITY.md").read_text(), re.MULTILINE)
    return {canonicalize_name(name): Version(version) for name, version in rows}


def test_versions_with_known_advisories_are_neither_allowed_nor_installed_here():
    lowest = floors()
    pins = [
        (file.name, Requirement(line))
        for file in sorted((REPOSITORY / ".ci").glob("*.txt"))
        for line in file.read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert len(lowest) > 10 and {canonicalize_name(pin.name) for _, pin in pins} >= set(lowest)
    for file, pin in pins:
        (specifier,) = pin.specifier
        floor = lowest.get(canonicalize_name(pin.name), Version("0"))
        assert specifier.operator == "==" and Version(specifier.version) >= floor, f"{file}: {pin}"
    asked = [Requirement(text) for text in re.findall(r'"([a-z-]+[>=][^"]*)"', (REPOSITORY / "setup.py").read_text())]
    assert len(asked) > 15
    for requirement in asked:
        for specifier in requirement.specifier:
            if specifier.operator in ("==", ">=") and canonicalize_name(requirement.name) in lowest:
                assert Version(specifier.version) >= lowest[canonicalize_name(requirement.name)], requirement
