"""Runs that are started on one folder at the same moment are refused or right, and never mixed."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigWorkflow

from monai_ddad.io.checkpoints import CheckpointError
from monai_ddad.io.locks import FolderInUseError, lock_folder
from monai_ddad.serving.archive import score_archive
from tests.processes import start

BUSY = r"process (\d+) on this host has been writing here for \d+ s"
REFUSED = BUSY + r": wait for it, stop it, or give another --(output|features)"
OTHER = "is of a run with other"  # settings: it began after the first one's end
BRAIN = "bundles/ddad_brain"


@pytest.fixture
def workflow(repository, small, dataset_dir) -> Callable[..., Callable[[], None]]:
    """Return a function that gives a run of one of the bundle's configs."""

    def make(config: str, folder: Path, **settings: Any) -> Callable[[], None]:
        train = [str(repository / BRAIN / "configs" / "train.json")]
        files = {
            "train": train,
            "evaluate": [*train, str(repository / BRAIN / "configs" / "evaluate.json")],
            "inference": str(repository / BRAIN / "configs" / "inference.json"),
        }
        common = {"output_dir": str(folder), "dataset_dir": str(dataset_dir), "device": "cpu"}
        common |= (small if config == "train" else {}) | settings

        def call() -> None:
            running = ConfigWorkflow(files[config], logging_file=False, **common)
            running.initialize()
            running.run()

        return call

    return make


def at_once(folder: Path, *calls: Callable[[], None]) -> list[str]:
    """Run calls in processes that begin at one moment; return what each was refused with, if it was."""
    folder.mkdir()

    def run(number: int, call: Callable[[], None]) -> None:
        (folder / f"ready{number}").touch()
        while len(list(folder.glob("ready*"))) < len(calls):
            time.sleep(0.001)
        said = ""
        try:
            call()
        except Exception as error:  # MONAI wraps it
            reason: BaseException = error
            while reason.__cause__ is not None:
                reason = reason.__cause__
            if not isinstance(reason, (CheckpointError, FolderInUseError)):
                raise
            said = str(reason)
        (folder / f"said{number}").write_text(said)

    processes = [start(lambda number=number, call=call: run(number, call)) for number, call in enumerate(calls)]
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0] * len(calls)
    said = [(folder / f"said{number}").read_text() for number in range(len(calls))]
    numbers = [re.match(REFUSED, one) for one in said if one and OTHER not in one]
    assert all(found and int(found[1]) in [process.pid for process in processes] for found in numbers), said
    return said


def digest(folder: Path, *names: str) -> list[str]:
    return [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "models" / "model.pt", weights_only=True)


@pytest.mark.parametrize("turn", range(2))
def test_of_two_trainings_one_is_refused_and_the_other_is_as_if_alone(workflow, tmp_path, turn):
    said = at_once(tmp_path / "at_once", *[workflow("train", tmp_path / "run", seed=seed) for seed in range(2)])
    (seed,) = [seed for seed, one in enumerate(said) if not one]
    start(workflow("train", tmp_path / "alone", seed=seed)).join(300)
    found, expected = weights(tmp_path / "run"), weights(tmp_path / "alone")
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)
    assert not list((tmp_path / "run").rglob(".*"))


def test_of_two_trainings_on_one_folder_of_features_one_is_refused_and_the_other_is_as_if_alone(workflow, tmp_path):
    given = {"preset": "features", "image_size": 64, "encoder_digest": "random weights, seed 0"}

    def train(name: str, features: str) -> Callable[[], None]:
        return workflow("train", tmp_path / name, **given, features_dir=str(tmp_path / features))

    said = at_once(tmp_path / "at_once", *[train(f"run{number}", "shared") for number in range(2)])
    assert sum(not one for one in said) >= 1
    start(train("alone", "own")).join(300)
    expected = weights(tmp_path / "alone")
    for number in [number for number, one in enumerate(said) if not one]:
        found = weights(tmp_path / f"run{number}")
        assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def test_of_two_evaluations_and_of_two_inferences_one_is_refused_or_both_are_right(workflow, tmp_path):
    workflow("train", tmp_path / "run")()
    for config, output in (("evaluate", "eval"), ("inference", "eval/inference")):
        start(workflow(config, tmp_path / "run", eval_dir=str(tmp_path / f"{config}_alone"))).join(300)
        said = at_once(tmp_path / config, *[workflow(config, tmp_path / "run") for _ in range(3)])
        assert sum(not one for one in said) >= 1
        files = "scores.csv", "gallery.png"
        assert digest(tmp_path / "run" / output, *files) == digest(tmp_path / f"{config}_alone", *files)
    assert not list((tmp_path / "run").rglob(".*"))


def test_an_inference_beside_a_training_has_one_model_or_the_other(workflow, tmp_path):
    run = tmp_path / "run"
    workflow("train", run)()
    possible = []
    for number, epochs in enumerate((2, 4)):
        workflow("train", run, epochs=epochs)()
        workflow("inference", run, eval_dir=str(tmp_path / f"alone{number}"))()
        possible += digest(tmp_path / f"alone{number}", "scores.csv")
    for number in range(2):
        inferences = [workflow("inference", run, eval_dir=str(tmp_path / f"{number}{i}")) for i in range(2)]
        longer = workflow("train", run, epochs=4 + 2 * (number + 1))
        at_once(tmp_path / f"at_once{number}", longer, *inferences)
        workflow("inference", run, eval_dir=str(tmp_path / f"after{number}"))()
        possible += digest(tmp_path / f"after{number}", "scores.csv")
        assert all(digest(tmp_path / f"{number}{i}", "scores.csv")[0] in possible[-2:] for i in range(2))
    assert len(set(possible)) == 4


def test_of_several_calls_of_score_one_is_refused_or_finds_it_done(repository, workflow, dataset_dir, tmp_path):
    workflow("train", tmp_path / "run")()
    bundle, models = repository / BRAIN, tmp_path / "run" / "models"

    def score(output: str, overwrite: bool) -> Callable[[], None]:
        options = {"device": "cpu", "num_workers": 1, "overwrite": overwrite}
        return lambda: score_archive([dataset_dir / "images"], tmp_path / output, bundle, models, **options) and None

    score("alone.parquet", False)()
    said = at_once(tmp_path / "at_once", *[score("together.parquet", True) for _ in range(3)])
    assert sum(not one for one in said) >= 1
    assert digest(tmp_path, "together.parquet") == digest(tmp_path, "alone.parquet")
    assert not (tmp_path / "together.parquet.parts").exists()


@pytest.mark.parametrize("config", ["train", "inference"])
def test_a_folder_in_use_is_refused_before_images_are_read(workflow, tmp_path, config):
    folder = tmp_path / "run" / ("models" if config == "train" else "eval/inference")
    running = workflow(config, tmp_path / "run", dataset_dir=str(tmp_path / "absent"))

    def refused() -> None:
        with pytest.raises(RuntimeError) as caught:
            running()
        assert isinstance(caught.value.__cause__, FolderInUseError)

    with lock_folder(folder, "--output_dir"):
        process = start(refused)
        process.join(120)
    assert process.exitcode == 0
