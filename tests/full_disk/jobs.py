"""What is run on a full disk: ``LD_PRELOAD=full_disk.so python -m tests.full_disk.jobs SCRATCH POINTS NAME...``."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from monai.bundle import ConfigWorkflow
from PIL import Image

from monai_ddad import __main__ as cli
from monai_ddad import program
from monai_ddad.data.phantom import write_phantom_dataset
from monai_ddad.io.checkpoints import load_file
from tests.full_disk.on_full_disk import disturb, main
from tests.small_models import BUNDLES, SMALL

CHEST = BUNDLES / "ddad_cxr"
STATE = re.compile(r"models/checkpoint_\w+\.pt|eval/tensorboard/.*")  # written on the way, not results

Found = dict[str, Any]


def workflow(*configs: str, **settings: Any) -> str:
    """Run configs of a bundle; return what the command line would say where it fails."""
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    program.logger.addHandler(handler)
    try:
        with contextlib.redirect_stderr(said):
            made = ConfigWorkflow(
                [str(CHEST / "configs" / name) for name in configs],
                meta_file=str(CHEST / "configs/metadata.json"),
                logging_file=False,
                **settings,
            )
            try:
                made.initialize()
                made.run()
            except Exception as error:
                said.truncate(0)  # what MONAI and Ignite log on the way
                program._report(type(error), error, error.__traceback__)
                return said.getvalue() or "nothing"
        return ""
    finally:
        program.logger.removeHandler(handler)


def command(*arguments: str) -> str:
    """Run a command of the package; return what it says where it fails."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        return (said.getvalue() or "nothing") if cli.main(arguments) else ""


def settings(folder: Path) -> dict[str, Any]:
    return {"dataset_dir": str(folder / "data"), "output_dir": str(folder / "run"), **SMALL, "epochs": 1}


def trained(folder: Path) -> Path:
    """Make a folder with images and an evaluated run, by copying the first one of this process."""
    made = folder.parent.parent / "trained"
    if not made.exists():
        write_phantom_dataset(made / "data", kind="chest", normal=30, unlabeled=10, test=4, side=64)
        for path in sorted((made / "data/images").glob("*.png"))[:4]:
            (made / "films").mkdir(exist_ok=True)
            shutil.copy(path, made / "films")
        assert not workflow("train.json", **settings(made))
        assert not workflow("inference.json", **scoring(made))
    shutil.copytree(made, folder)
    return folder


def scoring(folder: Path) -> dict[str, Any]:
    return {
        "dataset_dir": str(folder / "films"),
        "output_dir": str(folder / "run"),
        "map_format": "npz",
        "num_workers": 1,
    }


def train(folder: Path, points: int | None) -> Found:
    before = trained(folder / "before")

    def run(work: Path) -> str:
        return with_a_whole_model(work, workflow("train.json", **settings(work) | {"epochs": 2}))

    return disturb(before, run, folder, of_a_training, points)


def of_a_training(name: str) -> bool:
    """Tell whether a training may have changed a file when it fails: a model is complete before it is evaluated."""
    return bool(STATE.fullmatch(name.removeprefix("run/"))) or name.startswith("run/models/")


def with_a_whole_model(work: Path, said: str) -> str:
    """Return what a training has said, having read the model that is there: the old or the new one, but whole."""
    load_file(work / "run/models/model.pt")
    return said


def features(folder: Path, points: int | None) -> Found:
    before = folder / "before"
    write_phantom_dataset(before / "data", kind="chest", normal=24, unlabeled=24, test=4, side=64)

    def run(work: Path) -> str:
        given = {"dataset_dir": str(work / "data"), "output_dir": str(work / "run"), "num_workers": 1}
        given |= {"preset": "features", "image_size": 64, "encoder_digest": "random weights, seed 0"}
        return with_a_whole_model(work, workflow("train.json", **given))

    assert not run(before)
    shutil.rmtree(before / "run/models/features")  # there is something left to do
    return disturb(before, run, folder, of_a_training, points)


def evaluate(folder: Path, points: int | None) -> Found:
    before = trained(folder / "before")

    def run(work: Path) -> str:
        given = settings(work)
        names = ("dataset_dir", "output_dir")
        return workflow("train.json", "evaluate.json", **{name: given[name] for name in names})

    return disturb(before, run, folder, lambda name: "tensorboard" in name, points)


def inference(folder: Path, points: int | None) -> Found:
    before = trained(folder / "before")
    sorted((before / "films").iterdir())[0].unlink()  # the next result is another one
    return disturb(before, lambda work: workflow("inference.json", **scoring(work)), folder, points=points)


def score(folder: Path, points: int | None) -> Found:
    before = trained(folder / "before")

    def run(work: Path) -> str:
        return command(
            *("score", str(work / "films"), "--output", str(work / "table/scores.parquet"), "--overwrite"),
            *("--bundle", str(CHEST), "--models", str(work / "run/models"), "--device", "cpu", "--num_workers", "0"),
        )

    assert not run(before)
    sorted((before / "films").iterdir())[0].unlink()  # the next result is another one
    return disturb(before, run, folder, lambda name: ".parquet.parts/" in name, points)


def report(folder: Path, points: int | None) -> Found:
    before = trained(folder / "before")
    return disturb(before, lambda work: command("report", str(work / "run")), folder, points=points)


def comparison(folder: Path, points: int | None) -> Found:
    before = trained(folder / "before")

    def run(work: Path) -> str:
        return command("report", "--compare", *[str(work / "run")] * 2, "--output", str(work / "both/two.html"))

    return disturb(before, run, folder, points=points)


def audit(folder: Path, points: int | None) -> Found:
    before = folder / "before"
    write_phantom_dataset(before / "data", kind="chest", normal=4, unlabeled=4, test=2, side=64)

    def run(work: Path) -> str:
        return command("audit", str(work / "data"), "--output", str(work / "audit"))

    assert not run(before)
    return disturb(before, run, folder, points=points)


def datalist(folder: Path, points: int | None) -> Found:
    before = folder / "before"
    write_phantom_dataset(before / "data", kind="chest", normal=4, unlabeled=4, test=2, side=64)

    def run(work: Path) -> str:
        return command("datalist", str(work / "data"), "--output", str(work / "list/datalist.json"))

    assert not run(before)
    return disturb(before, run, folder, points=points)


def prepare(folder: Path, points: int | None) -> Found:
    before = folder / "before"
    groups = ("normal", "unlabeled/normal", "unlabeled/abnormal", "test/normal", "test/abnormal")
    for number, group in enumerate(groups):
        path = before / "originals" / group / "a.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (40, 40), dtype=np.uint8)).save(path)

    def run(work: Path) -> str:
        return command("prepare", "cxad", str(work / "originals"), str(work / "made"), "--num_workers", "1")

    assert not run(before)
    (before / "made/images/normal_a.png").unlink()  # there is something left to do
    return disturb(before, run, folder, lambda name: name.startswith("made/images/"), points)


def deploy(folder: Path, points: int | None) -> Found:
    from monai_ddad.deploy.__main__ import main as application
    from tests.deploy.conftest import ALL, film, picture, save

    before = trained(folder / "before")
    save(before / "studies", film(0))
    Image.fromarray(picture(1)).save(before / "studies/picture.png")

    def run(work: Path) -> str:
        said = io.StringIO()
        arguments = ["-i", work / "studies", "-o", work / "found", "-m", CHEST, "--models_dir", work / "run/models"]
        with contextlib.redirect_stderr(said):
            code = application([*map(str, arguments), "--objects", *ALL])
        assert code in (0, 1)
        return (said.getvalue() or "nothing") if code else ""

    return disturb(before, run, folder, points=points)


def studies(folder: Path) -> Path:
    """Make a folder of a small model and of a datastore with four images, two of them submitted as normal."""
    from monai_ddad.label.datastores import FolderStore
    from tests.test_model_file import save_model

    before = folder / "before"
    (before / "studies").mkdir(parents=True)
    (before / "models").mkdir()
    save_model(before / "models", "ddad_cxr", score="rec")
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 40), dtype=np.uint8)
        Image.fromarray(pixels).save(before / f"studies/{number}.png")
    Image.new("L", (40, 40)).save(folder / "empty.png")
    Image.new("L", (40, 40), 1).save(folder / "marked.png")
    store = FolderStore(str(before / "studies"))
    for number in range(2):
        store.save_label(str(number), str(folder / "empty.png"), "final", {})
    return before


def keep(folder: Path, points: int | None, put: Callable[[Any], Any]) -> Found:
    from monai_ddad.label.datastores import FolderStore

    def run(work: Path) -> str:
        try:
            put(FolderStore(str(work / "studies")))
        except OSError as error:
            return error.strerror or "nothing"
        return ""

    return disturb(studies(folder), run, folder, points=points)


def label(folder: Path, points: int | None) -> Found:
    return keep(folder, points, lambda store: store.save_label("0", str(folder / "marked.png"), "final", {}))


def image(folder: Path, points: int | None) -> Found:
    return keep(folder, points, lambda store: store.add_image("new", str(folder / "marked.png"), {}))


def version(folder: Path, points: int | None) -> Found:
    from monai_ddad.label.datastores import FolderStore
    from monai_ddad.label.train import AnomalyTrain
    from monai_ddad.label.versions import ModelVersions

    def run(work: Path) -> str:
        task = AnomalyTrain(ModelVersions(CHEST, work / "models", work / "versions"), {"device": "cpu"})
        try:
            task({"epochs": 1, "refine_epochs": 1}, FolderStore(str(work / "studies")))
        except (OSError, RuntimeError) as error:
            return str(error)
        return ""

    return disturb(studies(folder), run, folder, lambda name: "tensorboard" in name, points)


JOBS: dict[str, Callable[[Path, int | None], Found]] = {
    job.__name__: job
    for job in (
        *(train, features, evaluate, inference, score, report, comparison, audit, datalist, prepare, deploy),
        *(label, image, version),
    )
}

if __name__ == "__main__":
    logging.disable(logging.WARNING)
    main(JOBS, sys.argv[1:])
