"""Check the false-positive rate that DDAD (dual-distribution discrepancy) promises, on synthetic normal images.

    python -m monai.bundle run --config_file bundles/ddad_brain/train.json --output_dir runs/demo
    python benchmarks/promised_rate.py runs/demo

Each resampling draws calibration images and one new normal image that neither the model nor another resampling has
seen, and asks whether the new one is flagged. The flags are independent, so that their number is binomial, with the
exact rate floor(alpha (n + 1)) / (n + 1) of n calibration images. The promise holds unless the interval lies above it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from monai_ddad.bundle import network_settings, run_record
from monai_ddad.data import normalise
from monai_ddad.data.phantom import PhantomKind, draw_phantom
from monai_ddad.evaluation.metrics import flag_rate
from monai_ddad.evaluation.tables import ALPHAS
from monai_ddad.io.checkpoints import load_weights
from monai_ddad.networks import DDADModel, build_model
from monai_ddad.networks.calibration import TIE, NormalScores
from monai_ddad.seeding import derive_seed
from monai_ddad.transforms import PlainResize

SIDE = 128  # of the phantoms that the bundles draw
STREAM = 4242  # of seeds that no data set draws from


@torch.inference_mode()
def score_phantoms(network: DDADModel, kind: PhantomKind, seeds: range) -> torch.Tensor:
    """Draw normal phantoms and score them: (N, M)."""
    resize = PlainResize(network.discrepancy.image_size)
    scores = []
    for batch in tqdm([seeds[start : start + 64] for start in range(0, len(seeds), 64)], unit="batch", disable=None):
        images = []
        for seed in batch:
            pixels = draw_phantom(derive_seed(seed, STREAM), abnormal=False, side=SIDE, kind=kind)[0]
            images.append(resize(torch.from_numpy(pixels.reshape(1, *pixels.shape).astype(np.float32) / 255)))
        grey = (torch.stack([image.as_tensor() for image in images]) * 255).round().to(torch.uint8)
        scores.append(network.decide(normalise(grey)).scores)
    return torch.cat(scores)


def flag_new_ones(scores: torch.Tensor, resamplings: int) -> np.ndarray:
    """Return the p-values, (resamplings, M), of the last image of each part against the others of that part."""
    found = []
    for part in scores.view(resamplings, -1, scores.shape[1]):
        normals = NormalScores(scores.shape[1])
        normals.fit(part[:-1], range(len(part) - 1))
        found.append(normals.p_values(part[-1]))
    return torch.stack(found).numpy()


def main() -> None:
    """Print the rates of all scores as a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="output folder of a training on the built-in images")
    parser.add_argument("--kind", choices=("brain", "chest"), default="brain", help="what the run was trained on")
    parser.add_argument("--resamplings", type=int, default=500)
    parser.add_argument("--calibration", type=int, default=30, help="calibration images of each resampling")
    parser.add_argument("--first", type=int, default=0, help="number of the first image, for other draws")
    options = parser.parse_args()
    models = str(options.run / "models")
    if run_record(models)["preparation"]["preprocess"] != "plain":
        parser.error("a run with --preprocess plain is needed")
    network = build_model(network_settings(models)).eval()
    load_weights(network, options.run / "models" / "model.pt")
    images = options.resamplings * (options.calibration + 1)
    scores = score_phantoms(network, options.kind, range(options.first, options.first + images))
    p_values = flag_new_ones(scores, options.resamplings)

    lines = ["| score | promised | exact | flagged, 95 % interval | promise holds |", "|---|---|---|---|---|"]
    for channel, name in enumerate(network.score_names):
        for alpha in ALPHAS:
            exact = np.floor(alpha * (1 + TIE) * (options.calibration + 1)) / (options.calibration + 1)
            rate = flag_rate(p_values[:, channel], alpha)
            kept = "yes" if rate.low <= alpha else "no"
            lines.append(
                f"| `{name}` | {alpha:g} | {exact:.4f} | {rate.value:.4f} [{rate.low:.4f}, {rate.high:.4f}] | {kept} |"
            )
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
