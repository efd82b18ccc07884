"""What standardised input maps change in ASR-Net of DDAD (dual-distribution discrepancy), epoch by epoch.

    python benchmarks/refine_inputs.py --run bundles/ddad_cxr runs/chest data/chest_xray --epochs 10 --write

The ensembles are those of an evaluated run. ASR-Net is trained anew on their maps as they are, as in the paper, and on
maps less their mean over the known normals, in standard deviations; all else is equal, also the order of the images and
the anomalies. The table holds the AUROC of the refined map's mean after each epoch, on all test images.
"""

from __future__ import annotations

import argparse
import copy
from functools import partial
from pathlib import Path

import numpy as np
import torch
from authors import REFINE_ADAM
from ignite.engine import Events
from pages import add_runs, format_table, publish
from prepared import read_trained
from torch import nn

from monai_ddad.bundle import run_record
from monai_ddad.data import ResidentDataset, normalise
from monai_ddad.evaluation.metrics import auroc
from monai_ddad.networks import ASRNet, DDADNet
from monai_ddad.serving.predictor import Predictor
from monai_ddad.training import RefineTrainer

BATCH = 64


class Standardise(nn.Module):
    """Subtract a mean from each channel and divide by a deviation; (C,) each."""

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, mean: torch.Tensor, deviation: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.view(-1, 1, 1))
        self.register_buffer("deviation", deviation.view(-1, 1, 1))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Standardise (B, C, H, W) maps."""
        return (maps - self.mean) / self.deviation


@torch.no_grad()
def input_maps(network: DDADNet, images: torch.Tensor) -> torch.Tensor:
    """Compute ASR-Net's input of (N, C, H, W) uint8 images."""
    found = [network.discrepancy_maps(normalise(batch))[:, network.refine_channels] for batch in images.split(BATCH)]
    return torch.cat(found)


def train(network: DDADNet, known: torch.Tensor, test: torch.Tensor, labels: np.ndarray, epochs: int) -> list[float]:
    """Train ``asr`` on known normals; return the AUROC of the refined map's mean after each epoch."""
    data = ResidentDataset(
        [{"image": image, "label": 0} for image in known], lambda item: {"image": normalise(item["image"])}
    )
    adam = partial(REFINE_ADAM, fused=True)
    trainer = RefineTrainer("cpu", epochs, network, data, adam, precision="auto")
    maps, areas = input_maps(network, test), []

    @torch.no_grad()
    def score() -> None:
        assert network.asr is not None
        network.asr.eval()
        scores = [network.asr(batch).softmax(dim=1)[:, 1].mean(dim=(1, 2)) for batch in maps.split(BATCH)]
        areas.append(float(auroc(torch.cat(scores).numpy(), labels)))

    trainer.add_event_handler(Events.EPOCH_COMPLETED, score)
    trainer.run()
    return areas


def compare(bundle: Path, run: Path, data: Path, epochs: int) -> list[list[float]]:
    """Return the AUROCs of both ways.

    Raises:
        ValueError: the run has no ASR-Net.
    """
    prepared, network = (
        read_trained(bundle, run, data),
        Predictor(bundle, run / "models", torch.device("cpu")).network.discrepancy,
    )
    if not isinstance(network, DDADNet) or network.asr is None:
        raise ValueError(f"{run} has no ASR-Net.")
    labels = np.array(prepared.labels)
    maps, areas = input_maps(network, prepared.known), []
    for standardised in (False, True):
        other = copy.deepcopy(network)
        torch.manual_seed(prepared.settings.seed)
        other.asr = ASRNet(maps.shape[1])
        if standardised:
            scale = Standardise(maps.mean(dim=(0, 2, 3)), maps.std(dim=(0, 2, 3)))
            other.asr.model = nn.Sequential(scale, *other.asr.model)
        areas.append(train(other, prepared.known, prepared.test, labels, epochs))
    return areas


def main() -> None:
    """Print or write the table of all runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_runs(parser)
    parser.add_argument("--epochs", type=int, default=10, help="of ASR-Net")
    parser.add_argument("--write", action="store_true", help="put the table into docs/scores.md")
    options = parser.parse_args()
    rows = []
    for bundle, run, data in options.run:
        record = run_record(str(run / "models"))
        about = f"`{bundle.name}`, {record['network']['backbone']}, seed {record['settings']['seed']}"
        for words, areas in zip(("as they are", "standardised"), compare(bundle, run, data, options.epochs)):
            rows.append([about, words, *(f"{area:.3f}" for area in areas)])
    header = ["ensembles of", "maps", *(str(epoch + 1) for epoch in range(options.epochs))]
    publish(format_table(header, rows), "scores.md", "refine", options.write)


if __name__ == "__main__":
    main()
