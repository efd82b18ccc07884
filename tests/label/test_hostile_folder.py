"""The datastore lists what all commands list, and counts the same as left out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("monailabel", reason="needs MONAI Label: make test-label builds its environment")

from monai_ddad.label.datastores import FolderStore
from tests.hostile_folder import as_user, hostile_folder, picture

LIST = """
import json, os, sys
from monai_ddad.data import list_images
from monai_ddad.label.datastores import FolderStore

folder = sys.argv[1]
for _ in range(2):  # the second time it has a list of its own to begin with
    store = FolderStore(folder)
    found = {}
    for image in store.list_images():
        path = os.path.join(folder, store._filename(image, store._datastore.objects[image].image.ext))
        items = [item["image"] for item in list_images(path)]
        found[image] = [file for item in items for file in ([item] if isinstance(item, str) else item)]
print(json.dumps([found, store.left_out]))
"""


def test_the_store_lists_the_same_images_and_counts_the_same_as_left_out(tmp_path):
    with hostile_folder(tmp_path) as (folder, images, left_out):
        command = as_user(sys.executable, "-c", LIST, str(folder))
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
        found, counted = json.loads(done.stdout)
    files = [os.path.relpath(file, folder) for files in found.values() for file in files]
    assert sorted(files) == sorted(images) and counted == left_out
    assert {"series", "directory.png", "no_suffix", "UPPER", "line%0Aend", "line%E2%80%A8separator"} < set(found)
    assert {"latin-%FC", "empty", "empty.png"} < set(found)  # of empty.dcm and empty.png


def test_ids_stay_when_other_files_come(tmp_path):
    def write(*names: str) -> list[str]:
        for name in names:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(picture())
        return sorted(FolderStore(str(tmp_path)).list_images())

    assert write("b.png", "c d.png") == ["b", "c d"]
    assert write("b.jpg", "b/1.png") == ["b", "b (2)", "b.jpg", "c d"]
    store = FolderStore(str(tmp_path))
    paths = {image: Path(store.get_image_uri(image)).name for image in store.list_images()}
    assert paths == {"b": "b.png", "b (2)": "b", "b.jpg": "b.jpg", "c d": "c d.png"}
    (tmp_path / "b.png").unlink()
    assert sorted(FolderStore(str(tmp_path)).list_images()) == ["b", "b (2)", "b.jpg", "c d"][1:]
    assert write("100%2f.png") == ["100%252f", "b (2)", "b.jpg", "c d"]
