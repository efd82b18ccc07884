"""Measure what DDAD (dual-distribution discrepancy) flags as out of protocol, on three public sets, as Markdown.

python benchmarks/out_of_protocol.py --data ../shared/data --output table.md

The check is fitted on all training images of a set, known normal and unlabelled, at 64 x 64. The test images are
measured as they are, and up to 50 normal and 50 abnormal ones of them altered; so are 50 of each of the other sets.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter

from monai_ddad.data import load_datalist
from monai_ddad.evaluation.metrics import binomial_interval
from monai_ddad.io.errors import DataError
from monai_ddad.networks.protocol import ProtocolCheck
from monai_ddad.transforms import BrainSlice, ChestFilm, FundusField, ImageReadError, PlainResize, ReadImage
from monai_ddad.transforms.resample import SquareTransform

logger = logging.getLogger("out_of_protocol")

TEMPLATES = Path(__file__).parents[1] / "bundles" / "templates"
SIDE = 64  # of the prepared images, pixels
EACH = 50  # test images of a class to alter, and images of another set
SEED = 0
PREPARATIONS = ("plain", "modality")
NORMAL, ABNORMAL, BOTH = "unchanged normal", "unchanged abnormal", "unchanged, all"
WORDS = "patient report findings no acute normal the of in with date study comparison impression signed lungs"

Item = dict[str, Any]  # of a data list
Share = tuple[int, int]  # images that were flagged, and of how many
Alteration = Callable[[np.ndarray, np.random.Generator], np.ndarray]  # of a (C, H, W) float32 picture in [0, 1]


class Source(NamedTuple):
    """A data set: its name in the table, its bundle's template and transform, and the channels that this one needs."""

    name: str
    template: str
    modality: Callable[..., SquareTransform]
    channels: int


SETS = {
    "brain_mri": Source("brain", "ddad_brain.json", BrainSlice, 1),
    "chest_xray": Source("chest", "ddad_cxr.json", ChestFilm, 1),
    "fundus": Source("fundus", "ddad_fundus.json", FundusField, 3),
}


def resize(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize each channel, antialiased bilinear."""
    channels = (Image.fromarray(channel) for channel in picture)
    return np.stack([np.asarray(channel.resize((width, height), Image.Resampling.BILINEAR)) for channel in channels])


def frame(picture: np.ndarray, _: np.random.Generator) -> np.ndarray:
    """Show the picture at half its size in a black frame."""
    height, width = picture.shape[1:]
    top, left = height // 4, width // 4
    framed = np.zeros_like(picture)
    framed[:, top : top + height // 2, left : left + width // 2] = resize(picture, height // 2, width // 2)
    return framed


def crop(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Enlarge a quarter of the picture, anywhere in it."""
    height, width = picture.shape[1:]
    top, left = rng.integers(0, height // 2 + 1), rng.integers(0, width // 2 + 1)
    return resize(picture[:, top : top + height // 2, left : left + width // 2], height, width)


def text_page(picture: np.ndarray, rng: np.random.Generator, paper: int, ink: int) -> np.ndarray:
    """Write lines of words, some of them empty, on a page at least as large as the picture."""
    height, width = (max(side, 224) for side in picture.shape[1:])
    page = Image.new("L", (width, height), paper)
    draw, font = ImageDraw.Draw(page), ImageFont.load_default()
    for line in range(12, height - 12, 14):
        if rng.random() < 0.85:
            words = rng.choice(WORDS.split(), width // 50 + rng.integers(0, 4))
            draw.text((12, line), " ".join(words), fill=ink, font=font)
    return np.repeat(np.asarray(page, dtype=np.float32)[None] / 255, len(picture), axis=0)


def gradient(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Let red, green and blue rise from 0 to 1, each in a direction of its own; one channel shows their luminance."""
    y, x = (np.linspace(0, 1, side) for side in picture.shape[1:])
    ramps = [np.cos(angle) * x + np.sin(angle) * y[:, None] for angle in rng.uniform(0, 2 * np.pi, 3)]
    colours = np.stack([(ramp - ramp.min()) / np.ptp(ramp) for ramp in ramps])
    return colours if len(picture) == 3 else np.tensordot([[0.299, 0.587, 0.114]], colours, axes=1)


def salt_and_pepper(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blacken 15 % of the pixels and whiten 15 %."""
    chance = rng.random(picture.shape[1:])
    return np.where(chance < 0.15, 0, np.where(chance > 0.85, 1, picture))


ALTERATIONS: dict[str, Alteration] = {
    "inverted": lambda picture, _: 1 - picture,
    "all black": lambda picture, _: np.zeros_like(picture),
    "all white": lambda picture, _: np.ones_like(picture),
    "all grey": lambda picture, _: np.full_like(picture, 0.4),
    "text page, black on white": lambda picture, rng: text_page(picture, rng, paper=255, ink=0),
    "text page, white on black": lambda picture, rng: text_page(picture, rng, paper=0, ink=255),
    "noise": lambda picture, rng: rng.random(picture.shape),
    "colour gradient": gradient,
    "heavy blur": lambda picture, _: gaussian_filter(picture, 0.06 * max(picture.shape[1:]), axes=(1, 2)),
    "strong crop": crop,
    "rotated by 90 degrees, left": lambda picture, _: np.rot90(picture, 1, (1, 2)),
    "rotated by 90 degrees, right": lambda picture, _: np.rot90(picture, -1, (1, 2)),
    "rotated by 180 degrees": lambda picture, _: np.rot90(picture, 2, (1, 2)),
    "upside down": lambda picture, _: picture[:, ::-1],
    "mirrored": lambda picture, _: picture[:, :, ::-1],
    "half its size in a black frame": frame,
    "salt and pepper": salt_and_pepper,
    "strong noise": lambda picture, rng: np.clip(picture + rng.normal(0, 0.3, picture.shape), 0, 1),
    "overexposed": lambda picture, _: np.clip(2.5 * picture + 0.2, 0, 1),
    "underexposed": lambda picture, _: 0.2 * picture,
}


def transforms(source: Source, preparation: str) -> tuple[ReadImage, SquareTransform]:
    """Choose how a set's pictures are read and prepared, by modality with the settings of the bundle."""
    if preparation == "plain":
        return ReadImage(), PlainResize(SIDE)
    settings = json.loads((TEMPLATES / source.template).read_text(encoding="utf-8"))["train"]
    chosen = {name: settings[name] for name in settings["modality_settings"]}
    return ReadImage(source.channels), source.modality(SIDE, **chosen)


def measure(name: str, preparation: str, lists: Mapping[str, Mapping[str, list[Item]]]) -> dict[str, Share]:
    """Fit the check on one set's training images and count what it flags: share by row of the table."""
    read, prepare = transforms(SETS[name], preparation)

    def pictures(items: Iterable[Item]) -> Iterator[np.ndarray]:
        return (np.asarray(read(item["image"])) for item in items)

    def prepared(images: Iterable[np.ndarray]) -> torch.Tensor:
        tensors = (torch.from_numpy(np.ascontiguousarray(image)) for image in images)
        return torch.stack([prepare(tensor).as_tensor() for tensor in tensors]) * 2 - 1

    def share(images: Iterable[np.ndarray]) -> Share:
        flagged = (check(prepared(images)) > 1).any(dim=1)
        return int(flagged.sum()), len(flagged)

    training = prepared(pictures(lists[name]["training"]))
    check = ProtocolCheck(training.shape[1])
    check.fit(training)

    test = lists[name]["test"]
    normal, abnormal = (list(pictures(item for item in test if item["label"] == label)) for label in (0, 1))
    shares = {NORMAL: share(normal), ABNORMAL: share(abnormal)}
    shares[BOTH] = shares[NORMAL][0] + shares[ABNORMAL][0], shares[NORMAL][1] + shares[ABNORMAL][1]
    chosen = spread(normal) + spread(abnormal)
    for kind, alter in ALTERATIONS.items():
        rng = np.random.default_rng(SEED)  # anew, so that no kind depends on those before it
        shares[kind] = share(alter(picture, rng) for picture in chosen)
    for other in SETS:
        if other != name:
            shares[f"another set: {SETS[other].name}"] = share(pictures(spread(lists[other]["test"])))
    return shares


def spread(values: Sequence[Any]) -> list[Any]:
    """Take up to :data:`EACH` of them, evenly over the list."""
    return [values[int(place)] for place in np.linspace(0, len(values) - 1, min(EACH, len(values)))]


def render(results: dict[str, dict[str, Share]]) -> str:
    """Write shares by column and row as a Markdown table, and below it the worst one of unchanged images."""
    others = [f"another set: {source.name}" for source in SETS.values()]
    lines = [["Share flagged, %", *results], ["---"] * (len(results) + 1)]
    unchanged = (NORMAL, ABNORMAL, BOTH)
    for kind in (*unchanged, *ALTERATIONS, *others):
        write = exact if kind in unchanged else rounded
        lines.append([kind, *(write(*shares[kind]) if kind in shares else "" for shares in results.values())])
    worst = max(results, key=lambda column: np.divide(*results[column][BOTH]))
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{table}\n\nWorst share among all unchanged images of a set, %: {exact(*results[worst][BOTH])}, {worst}.\n"


def rounded(flagged: int, count: int) -> str:
    """Write a share in percent."""
    return f"{100 * flagged / count:.0f}"


def exact(flagged: int, count: int) -> str:
    """Write a share in percent with its count and its 95 % interval."""
    low, high = binomial_interval(flagged, count)
    return f"{100 * flagged / count:.1f} ({flagged} of {count}) [{100 * low:.1f}, {100 * high:.1f}]"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; the program ends with 1 where data cannot be used or a file not be written, and says why."""
    parser = argparse.ArgumentParser(description="Measure what is flagged as out of protocol, on three public sets.")
    parser.add_argument("--data", required=True, type=Path, help=f"folder with {', '.join(SETS)}")
    parser.add_argument("--output", type=Path, help="Markdown file to write the table to as well")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS), help="to fit on (default: all)")
    parser.add_argument("--preparations", nargs="+", choices=PREPARATIONS, default=PREPARATIONS, help="(default: both)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    missing = [name for name in SETS if not (options.data / name).is_dir()]
    if missing:
        needed = f"all of {', '.join(SETS)} are needed, as each is measured against the others"
        parser.exit(1, f"{parser.prog}: the folder of --data lacks {', '.join(missing)}: {needed}.\n")
    try:
        lists = {name: load_datalist(options.data / name) for name in SETS}
        results = {}
        for name in options.sets:
            for preparation in options.preparations:
                column = f"{SETS[name].name} {preparation}"
                logger.info(f"{column} ...")
                results[column] = measure(name, preparation, lists)
        table = render(results)
        sys.stdout.write(table)
        if options.output is not None:
            options.output.write_text(table, encoding="utf-8")
    except DataError as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    except ImageReadError as error:
        parser.exit(1, f"{parser.prog}: an image cannot be read: {error}.\n")
    except OSError as error:
        parser.exit(1, f"{parser.prog}: a file cannot be read or written: {error.strerror or type(error).__name__}.\n")


if __name__ == "__main__":
    main()
