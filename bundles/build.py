"""Write the configs of the bundles from their templates: ``python bundles/build.py [FOLDER]``.

A bundle has to be whole when it is copied elsewhere, so each has all its files. What they share stands once, in
``templates/``; ``templates/<bundle>.json`` holds what is different, as ``id#of#the#value: value`` by file.

With a folder of the public data sets by which the models that come along are made (``brain_mri``, ``chest_xray`` and
``fundus``, each with ``data.json`` and ``images/``), these are made anew, too.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any

BUNDLES = Path(__file__).parent
TEMPLATES = BUNDLES / "templates"
CONFIGS = (
    "train.json",
    "multi_gpu_train.json",
    "evaluate.json",
    "inference.json",
    "inference_trt.json",
    "metadata.json",
)
DATA = {"ddad_brain": "brain_mri", "ddad_cxr": "chest_xray", "ddad_fundus": "fundus"}
WIDTH = 120


def set_value(config: dict[str, Any], identifier: str, value: Any) -> None:
    """Set one value of a nested config; a ``+`` at the end of the id inserts it into a list instead."""
    *parents, last = identifier.split("#")
    place: Any = config
    for name in parents:
        place = place[int(name)] if isinstance(place, list) else place[name]
    if last.endswith("+"):
        place.insert(int(last[:-1]), value)
    else:
        place[last] = value


def layout(value: Any, indent: int = 0, used: int = 0) -> str:
    """Write JSON with each dictionary and list on one line where it fits."""
    flat = json.dumps(value, ensure_ascii=False)
    if (indent and len(flat) + used <= WIDTH) or not value or not isinstance(value, (dict, list)):
        return flat
    inner = " " * (indent + 2)
    if isinstance(value, list):
        parts = [inner + layout(item, indent + 2, indent + 3) for item in value]
        return "[\n" + ",\n".join(parts) + "\n" + " " * indent + "]"
    parts = [
        f"{inner}{json.dumps(key)}: {layout(item, indent + 2, indent + 7 + len(key))}" for key, item in value.items()
    ]
    return "{\n" + ",\n".join(parts) + "\n" + " " * indent + "}"


def render(bundle: str) -> dict[str, str]:
    """Return the text of each file of a bundle that is made from a template, by its place in the bundle."""
    specific = json.loads((TEMPLATES / f"{bundle}.json").read_text(encoding="utf-8"))
    configs = {name: json.loads((TEMPLATES / name).read_text(encoding="utf-8")) for name in CONFIGS}
    for name, config in configs.items():
        for identifier, value in specific.get(name.removesuffix(".json"), {}).items():
            set_value(config, identifier, value)
    train = configs["train.json"]
    for name in ("evaluate.json", "inference.json"):  # how images are prepared where nothing is trained yet
        untrained = {setting: train["presets"]["paper"][setting] for setting in train["preparation"]}
        set_value(configs[name], "untrained", untrained)
    texts = {name: layout(config) + "\n" for name, config in configs.items()}
    texts["logging.conf"] = (TEMPLATES / "logging.conf").read_text(encoding="utf-8")
    texts |= {f"configs/{name}": text for name, text in texts.items()}  # and at the top, for shorter commands
    texts["large_files.yml"] = (TEMPLATES / "large_files.yml").read_text(encoding="utf-8")
    texts["docs/README.md"] = fill(TEMPLATES.joinpath("README.md").read_text(encoding="utf-8"), specific["README"])
    texts["docs/data_license.txt"] = (TEMPLATES / f"{bundle}_data_license.txt").read_text(encoding="utf-8")
    texts["LICENSE"] = (BUNDLES.parent / "LICENSE").read_text(encoding="utf-8")
    return texts


def fill(text: str, parts: dict[str, str]) -> str:
    """Put a bundle's own sentences into a Markdown template and break its paragraphs anew."""
    wrap = textwrap.TextWrapper(WIDTH, break_on_hyphens=False).fill
    paragraphs = text.format(**parts).strip().split("\n\n")
    return "\n\n".join(part if part.startswith(("```", "#")) else wrap(part) for part in paragraphs) + "\n"


def train(bundle: str, data: Path) -> None:
    """Make the model that comes with a bundle: ``shipped/model.pt``, and ``run.json``, which says how it was made."""
    target = BUNDLES / bundle / "shipped"
    with tempfile.TemporaryDirectory() as folder:
        config = str(BUNDLES / bundle / "train.json")
        settings = ["--dataset_dir", str(data), "--output_dir", folder, "--phases", "['ndm', 'udm']"]
        subprocess.run([sys.executable, "-m", "monai.bundle", "run", "--config_file", config, *settings], check=True)
        target.mkdir(exist_ok=True)
        for name in ("model.pt", "run.json"):
            shutil.copyfile(Path(folder, "models", name), target / name)


def main() -> None:
    """Write the files of all bundles."""
    for template in sorted(TEMPLATES.glob("ddad_*.json")):
        for name, text in render(template.stem).items():
            file = BUNDLES / template.stem / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        if len(sys.argv) > 1:
            train(template.stem, Path(sys.argv[1]).resolve() / DATA[template.stem])


if __name__ == "__main__":
    main()
