"""Empty labels in every form that a client sends."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("monailabel", reason="needs MONAI Label: make test-label builds its environment")

import nibabel as nib
import nrrd
from PIL import Image

from monai_ddad.data.empty_label import is_empty_label

WRITERS = {
    "a.nii.gz": lambda values, path: nib.Nifti1Image(values, np.eye(4)).to_filename(path),
    "a.nii": lambda values, path: nib.Nifti1Image(values, np.eye(4)).to_filename(path),
    "a.nrrd": lambda values, path: nrrd.write(str(path), values),
    "a.bin": lambda values, path: values.tofile(path),
    "a.png": lambda values, path: Image.fromarray(values[..., 0]).save(path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_label_is_empty_if_it_marks_nothing(name, tmp_path):
    values = np.zeros((6, 5, 1), dtype=np.uint8)
    WRITERS[name](values, tmp_path / name)
    assert is_empty_label(tmp_path / name)
    values[3, 2] = 1
    WRITERS[name](values, tmp_path / name)
    assert not is_empty_label(tmp_path / name)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.nrrd", "a.png", "a.json", "absent.png"])
def test_what_cannot_be_read_is_not_empty(name, tmp_path):
    if name != "absent.png":
        (tmp_path / name).write_bytes(b"no label")
    assert not is_empty_label(tmp_path / name)
