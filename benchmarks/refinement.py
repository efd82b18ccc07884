"""What the refinement of DDAD (dual-distribution discrepancy) on features does: scores by epoch, maps, and an ablation.

    python benchmarks/refinement.py bundles/ddad_fundus data/fundus --masks data/fundus_lesions
    python benchmarks/refinement.py --page brain.json films.json fundus.json --write

The first command refines the fit to a data set in the authors' structure with two seeds, for more epochs than the
preset has, looks at all test images after every second one, and writes ``refinement.json``. With ``--masks``, a folder
of abnormal ``images/`` and their ``masks/``, it tries each part of the refinement alone, and compares the maps with the
masks. The second command draws the scores, and prints both as tables. Fifteen minutes a data set on two cores.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from feature_figures import Study
from ignite.engine import Events
from matplotlib.figure import Figure
from monai.bundle import ConfigParser
from monai.data import DataLoader
from pages import DOCS, format_table, machine, publish

from monai_ddad.data import ItemDataset, collate_items
from monai_ddad.decision import Judge
from monai_ddad.evaluation import ItemEvaluator, PixelMetrics
from monai_ddad.evaluation.metrics import auroc, paired_bootstrap
from monai_ddad.evaluation.tables import write_json
from monai_ddad.networks import CellASRNet, DDADModel
from monai_ddad.serving import Runtime
from monai_ddad.training import FeatureRefineTrainer, FeatureTrainer
from monai_ddad.transforms import RandAnomalies, RandBlob, RandMovedPatch, RandTexture, RandWarp

EPOCHS = 40
SEEDS = (0, 1)
SCHEDULE = {"lr": 3e-3, "betas": (0.5, 0.999), "weight_decay": 1e-4}  # as in train.json
PRESET_EPOCHS = 24
SHARES = (0.0, 0.03, 0.3)  # of the discrepancy that stays where nothing looks altered; .03 is the default


class Marked(RandAnomalies):
    """Anomalies whose label is 1 wherever anything has changed."""

    @staticmethod
    def label(image: torch.Tensor, altered: torch.Tensor) -> torch.Tensor:
        """Mark what has changed."""
        return (RandAnomalies.label(image, altered) > 0).to(image.dtype)

    @property
    def settings(self) -> str:
        """What is drawn, in words."""
        return f"{super().settings}, marked"


class PartlyBlind(CellASRNet):
    """A refinement that sees some of its inputs: the features, or the distances."""

    def __init__(self, size: int, features: bool) -> None:
        super().__init__(size)
        self.kept = torch.cat([torch.full((size,), float(features)), torch.full((3,), float(not features))])

    def inputs(self, cells: torch.Tensor, normal: torch.Tensor, unknown: torch.Tensor) -> torch.Tensor:
        """Join them, with 0 in the place of the others."""
        return super().inputs(cells, normal, unknown) * self.kept.to(cells.dtype)


class Refined:
    """A data set's fit, and refinements of it.

    Args:
        bundle, data: folders of the bundle for such images and of the data set.
        folder: of the stored features.
        masks: folder of further images and their masks; None for none.
    """

    def __init__(self, bundle: Path, data: Path, folder: Path, masks: Path | None) -> None:
        self.study = Study(bundle, data, folder)
        groups = list(self.study.keys.values())
        self.known, self.test = groups[0], [*groups[3], *groups[4]]
        self.labels = np.repeat([0, 1], [len(groups[3]), len(groups[4])])
        self.features = self.study.features(self.known, [*groups[1], *groups[2]])
        self.fitted = SimpleNamespace(
            features=self.features,
            folder=folder,
            preparation=None,
            dataset=self.study.images["train normal"],
        )
        self.study.net.fit(*(sums.fine for sums in self.features.totals))
        self.study.net.mark_loaded()
        self.items: list[dict[str, Any]] = []
        if masks is not None:
            names = {file.stem: file for file in (masks / "images").iterdir()}
            self.items = [
                {"image": str(names[file.stem]), "mask": str(file), "label": 1}
                for file in sorted((masks / "masks").iterdir())
            ]
        parser = ConfigParser()
        parser.read_config(str(bundle / "configs" / "train.json"))
        parser.update({"preset": "features", "dataset_dir": str(data), "output_dir": str(folder)})
        self.transform = parser.get_parsed_content("train#preprocessing")

    def train(
        self,
        seed: int = 0,
        epochs: int = PRESET_EPOCHS,
        anomaly: RandAnomalies | None = None,
        asr: Callable[[int], CellASRNet] = CellASRNet,
        look: Callable[[], None] | None = None,
    ) -> None:
        """Refine the fit anew, and look after every second epoch."""
        net = self.study.net
        net.asr = asr(net.size)
        net.fit(*(sums.fine for sums in self.features.totals))
        adam = partial(torch.optim.Adam, **cast(Any, SCHEDULE))
        trainer = FeatureRefineTrainer(
            "cpu", epochs, net, cast(FeatureTrainer, self.fitted), adam, seed=seed, anomaly=anomaly
        )
        if look is not None:
            trainer.add_event_handler(Events.EPOCH_COMPLETED(every=2), lambda engine: look())
        trainer.run()

    @torch.no_grad()
    def scores(self) -> np.ndarray:
        """Return the means of the maps of all test images, (N, M)."""
        net = self.study.net
        found = np.zeros((len(self.test), len(net.map_names)))
        for places, part in self.study.store.read(self.test):
            fine, _ = net.cells(part["first"].float(), part["second"].float())
            field = part["field"][:, None].float() if "field" in part else None
            found[places] = net.enlarged(net.judge(fine), field).mean(dim=(2, 3)).numpy()
        return found

    def pixels(self) -> dict[str, Any]:
        """Compare the maps of the further images with their masks."""
        model = DDADModel(self.study.net).eval()
        dataset = ItemDataset(self.items, self.transform)
        evaluator = ItemEvaluator(
            "cpu",
            DataLoader(dataset, batch_size=8, collate_fn=collate_items),
            Runtime(model),
            judge=Judge(model, transform=self.transform),
            val_handlers=[PixelMetrics(model, dataset)],
            decollate=False,
        )
        evaluator.run()
        return dict(evaluator.state.pixel_metrics)


def curves(refined: Refined) -> list[dict[str, Any]]:
    """Refine with each seed; return the AUROCs after every second epoch, and the comparison at the preset's end."""
    found = []
    for seed in SEEDS:
        areas: list[list[float]] = []
        kept: list[np.ndarray] = []

        def look(areas: list[list[float]] = areas, kept: list[np.ndarray] = kept) -> None:
            kept.append(refined.scores()[:, :2])
            areas.append([float(auroc(column, refined.labels)) for column in kept[-1].T])

        refined.train(seed, EPOCHS, look=look)
        at_end = kept[PRESET_EPOCHS // 2 - 1]
        better = paired_bootstrap(auroc, at_end[:, 1], at_end[:, 0], refined.labels)
        difference = [better.difference, *better.interval, better.p_value]
        found.append({"seed": seed, "areas": areas, "difference": difference})
    return found


def ablation(refined: Refined) -> list[dict[str, Any]]:
    """Try each part of the refinement alone, with the first seed; return image and pixel figures by what was tried."""
    kinds: dict[str, Any] = {"moved patch": RandMovedPatch, "blob": RandBlob, "texture": RandTexture, "warp": RandWarp}
    tried: list[tuple[str, dict[str, Any]]] = [("as in the preset", {})]
    tried += [(f"generator: {name} alone", {"anomaly": RandAnomalies(kinds=[kind()])}) for name, kind in kinds.items()]
    tried += [
        ("input: features alone", {"asr": partial(PartlyBlind, features=True)}),
        ("input: distances alone", {"asr": partial(PartlyBlind, features=False)}),
        ("label: 1 wherever something changed", {"anomaly": Marked()}),
    ]
    rows = []
    for name, settings in tried:
        refined.train(**settings)
        rows.append(_figures(name, refined))
    refined.train()
    asr = refined.study.net.asr
    assert asr is not None
    for share in SHARES:
        asr.least = share
        rows.append(_figures(f"what stays: {share:g}", refined))
    asr.refine = lambda discrepancy, logits: logits.sigmoid()  # type: ignore[method-assign]
    rows.append(_figures("the probability alone", refined))
    return rows


def _figures(name: str, refined: Refined) -> dict[str, Any]:
    areas = [float(auroc(column, refined.labels)) for column in refined.scores().T[:2]]
    pixels = refined.pixels() if refined.items else {}
    return {"what": name, "areas": areas, "pixels": {name: pixels[name] for name in ("r_inter", "inter") if pixels}}


def draw(found: list[dict[str, Any]], file: Path) -> None:
    """Draw the AUROC of the refined score by epoch, beside that of the discrepancy."""
    figure = Figure(figsize=(4 * len(found), 3.2), layout="constrained")
    for axis, one in zip(np.atleast_1d(figure.subplots(1, len(found))), found):
        epochs = np.arange(2, EPOCHS + 1, 2)
        for curve in one["curves"]:
            axis.plot(epochs, np.array(curve["areas"])[:, 0], marker=".", label=f"r_inter, seed {curve['seed']}")
        axis.plot(epochs, np.array(one["curves"][0]["areas"])[:, 1], color="0.4", linestyle="--", label="inter")
        axis.axvline(PRESET_EPOCHS, color="0.8", linewidth=1)
        middle = one["curves"][0]["areas"][0][1]
        axis.set(title=one["bundle"], xlabel="epoch", ylabel="AUROC", ylim=(middle - 0.05, min(1.005, middle + 0.05)))
        axis.legend(loc="lower right", fontsize="small")
    figure.savefig(file, dpi=110)


def pages(files: list[Path], write: bool) -> None:
    """Draw and print what was measured."""
    found = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    draw(found, DOCS / "images" / "refinement.png" if write else Path("refinement.png"))
    rows = []
    for one in found:
        for curve in one["curves"]:
            areas = np.array(curve["areas"])
            better, low, high, p_value = curve["difference"]
            at = areas[PRESET_EPOCHS // 2 - 1]
            rows.append(
                [
                    f"`{one['bundle']}`, seed {curve['seed']}",
                    f"{at[0]:.3f}",
                    f"{at[1]:.3f}",
                    f"{better:+.3f} [{low:+.3f}, {high:+.3f}], p {p_value:.3f}",
                    f"{areas[-10:, 0].std():.4f}",
                    f"{(areas[:, 0] - areas[:, 1]).min():+.3f}",
                ]
            )
    header = ["set", "`r_inter`", "`inter`", "difference, paired", "deviation of the last ten", "lowest difference"]
    text = format_table(header, rows)
    for one in found:
        if one["ablation"]:
            header = [f"`{one['bundle']}`", "AUROC of images", "pixel AUROC", "pixel AP"]
            first = one["ablation"][0]
            plain = first["pixels"]["inter"]
            lines = [["`inter`, not refined", f"{first['areas'][1]:.3f}", *_pixels(plain)]]
            lines += [
                [row["what"], f"{row['areas'][0]:.3f}", *_pixels(row["pixels"]["r_inter"])] for row in one["ablation"]
            ]
            text += f"\n{format_table(header, lines)}"
    publish(f"{text}\n{found[0]['machine']}.\n", "features.md", "refinement", write)


def _pixels(figures: dict[str, float]) -> list[str]:
    return [f"{figures[name]:.3f}" for name in ("pixel_auroc", "pixel_average_precision")]


def main() -> None:
    """Measure a data set, or print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, metavar="BUNDLE DATA", help="bundle and data set")
    parser.add_argument("--masks", type=Path, help="folder of further abnormal images/ and their masks/")
    parser.add_argument("--output", type=Path, default=Path("refinement.json"), help="file to write")
    parser.add_argument("--page", nargs="+", type=Path, help="files of earlier runs, to draw and print")
    parser.add_argument("--write", action="store_true", help="put picture and tables into docs/")
    options = parser.parse_args()
    if options.page:
        pages(options.page, options.write)
        return
    if len(options.folders) != 2:
        parser.error("give the folders of a bundle and of a data set, or --page")
    bundle, data = options.folders
    with tempfile.TemporaryDirectory() as folder:
        refined = Refined(bundle, data, Path(folder), options.masks)
        found = {"bundle": bundle.name, "curves": curves(refined)}
        found["ablation"] = ablation(refined) if options.masks else []
    write_json({**found, "machine": machine()}, options.output)


if __name__ == "__main__":
    main()
