"""The audit report finds what was planted, names no file, and says what is known of the real images."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from monai_ddad.__main__ import main
from monai_ddad.data import load_datalist
from monai_ddad.evaluation.survey import write_report
from monai_ddad.io.errors import DataError

SIDE = 24
SPLITS = ["known_normal", "unlabelled", "test_normal", "test_abnormal"]
FOLDERS = ["normal", "unlabeled", "test/normal", "test/abnormal"]


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(40, 200, (SIDE, SIDE), dtype=np.uint8)


@pytest.fixture
def planted(write_image, tmp_path):
    """A data set with a copy of each kind in it: four folders, six images each."""
    for number, folder in enumerate(FOLDERS):
        for i in range(6):
            write_image(f"smith/{folder}/{i}.png", noise(10 * number + i))
    root = tmp_path / "smith"
    shutil.copy(root / "normal/0.png", root / "test/normal/1.png")
    write_image("smith/unlabeled/2.bmp", np.repeat(noise(1)[..., None], 3, axis=2))
    write_image("smith/test/abnormal/3.png", np.uint8(noise(2) // 2 + 60))
    write_image("smith/test/abnormal/4.png", np.uint8(0.6 * noise(3) + 0.4 * noise(99)))
    shutil.copy(root / "test/normal/5.png", root / "test/normal/5b.png")
    return root


def plain_matrices(root: Path, threshold: float) -> dict[str, np.ndarray]:
    """Compare all files with one another, one pair at a time."""
    lists = load_datalist(root)
    files = [Path(item["image"]) for item in lists["training"] + lists["test"]]
    splits = [FOLDERS.index(file.parent.relative_to(root).as_posix()) for file in files]
    grey = [Image.open(file).convert("L") for file in files]
    small = [np.asarray(image.resize((64, 64), Image.Resampling.BILINEAR), dtype=float).ravel() for image in grey]
    found = {kind: np.zeros((len(files), 4), dtype=bool) for kind in ("same_file", "same_content", "near_copy")}
    for i in range(len(files)):
        for j in set(range(len(files))) - {i}:
            same = np.array_equal(np.asarray(grey[i]), np.asarray(grey[j]))
            found["same_file"][i, splits[j]] |= files[i].read_bytes() == files[j].read_bytes()
            found["same_content"][i, splits[j]] |= same
            found["near_copy"][i, splits[j]] |= same or np.corrcoef(small[i], small[j])[0, 1] > threshold
    return {
        kind: np.array([table[np.array(splits) == row].sum(axis=0) for row in range(4)])
        for kind, table in found.items()
    }


def test_planted_copies_are_counted_as_a_plain_loop_counts_them(planted, tmp_path):
    report = write_report(str(planted), str(tmp_path / "audit"), num_workers=2)
    for kind, expected in plain_matrices(planted, 0.99).items():
        assert list(report["copies"][kind]) == SPLITS
        found = [[report["copies"][kind][row][column] for column in SPLITS] for row in SPLITS]
        np.testing.assert_array_equal(found, expected, err_msg=kind)
    assert report["copies"]["same_file"]["known_normal"]["test_normal"] == 1
    assert report["copies"]["same_content"]["known_normal"]["unlabelled"] == 1
    assert report["copies"]["near_copy"]["test_abnormal"]["known_normal"] == 1
    assert report["copies"]["near_copy"]["test_normal"]["test_normal"] == 2
    assert [(pair["test"], pair["training"], pair["same"]) for pair in report["test_copies"]] == [
        (1, 0, "file"),
        (10, 2, ""),
    ]
    assert report["copies_across_splits"] == 2 and report["test_copies"][1]["correlation"] > 0.99
    assert any("1 of 13 test images have the content of a training image" in text for text in report["warnings"])
    assert any("1 of 13 test images are near copies" in text for text in report["warnings"])


def test_planted_confound_stands_out_and_chance_does_not(write_image, tmp_path):
    for number, folder in enumerate(FOLDERS):
        for i in range(30):
            pixels = noise(100 * number + i)
            normal = folder.endswith("normal") and "ab" not in folder
            write_image(f"data/{folder}/{i:02}.bmp", np.repeat(pixels[..., None], 3, axis=2) if normal else pixels)
    report = write_report(str(tmp_path / "data"), str(tmp_path / "audit"), num_workers=2)
    for comparison in report["differences"].values():
        assert {name for name, found in comparison.items() if found["notable"]} == {"is_rgb", "file_size"}
        assert comparison["is_rgb"] == {
            "auroc": 0.0,
            "interval": [0.0, 0.0],
            "medians": [1.0, 0.0],
            "notable": True,
        }
    assert sum("without looking at the disease" in warning for warning in report["warnings"]) == 2


def test_the_authors_structure_says_which_unlabelled_images_are_abnormal(write_image, tmp_path):
    names = {letter: f"{letter}.png" for letter in "abcdefg"}
    for seed, name in enumerate(names.values()):
        write_image(f"data/images/{name}", noise(seed))
    shutil.copy(tmp_path / "data/images/c.png", tmp_path / "data/images/f.png")
    train = {"0": ["a.png", "b.png"], "unlabeled": {"0": ["c.png"], "1": ["d.png", "e.png"]}}
    lists = {"train": train, "test": {"0": [], "1": ["f.png", "g.png"]}}
    (tmp_path / "data/data.json").write_text(json.dumps(lists))
    report = write_report(str(tmp_path / "data"), str(tmp_path / "audit"))
    counts = {split: description["images"] for split, description in report["splits"].items()}
    assert counts == {"known_normal": 2, "unlabelled_normal": 1, "unlabelled_abnormal": 2, "test_abnormal": 2}
    assert report["worst_pairs"]["same_content"][0]["images"] == [
        {"list": "test", "position": 0, "split": "test_abnormal"},
        {"list": "training", "position": 2, "split": "unlabelled_normal"},
    ]
    assert "1 images of unlabelled_normal are in test_abnormal too: one of their labels is wrong." in report["warnings"]
    assert report["differences"]["test_normal_against_test_abnormal"] == {}


def test_unreadable_files_are_named_by_position_and_the_rest_is_examined(planted, tmp_path):
    (planted / "unlabeled/1.png").write_text("no image")
    report = write_report(str(planted), str(tmp_path / "audit"))
    (found,) = report["splits"]["unlabelled"]["unreadable"]
    assert found["position"] == 7 and "of a known kind" in found["reason"]
    assert report["splits"]["unlabelled"]["images"] == 7 and report["copies_across_splits"] == 2
    assert "1 of 26 images cannot be read." in report["warnings"]
    assert f"position 7: {found['reason']}" in (tmp_path / "audit/audit.md").read_text()


def test_a_set_of_unreadable_files_is_reported_too(tmp_path):
    for folder in FOLDERS:
        (tmp_path / "data" / folder).mkdir(parents=True)
        (tmp_path / "data" / folder / "a.png").touch()
    report = write_report(str(tmp_path / "data"), str(tmp_path / "audit"))
    assert report["warnings"] == ["4 of 4 images cannot be read."] and report["copies_across_splits"] == 0
    assert (tmp_path / "audit/worst_pairs.png").is_file()


def test_same_data_give_the_same_files(planted, tmp_path):
    for name in ("a", "b"):
        write_report(str(planted), str(tmp_path / name), num_workers=2)
    for file in ("audit.json", "audit.md", "worst_pairs.png"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_no_file_name_is_written_unless_asked_for(planted, tmp_path, capfd):
    (planted / "unlabeled/1.png").write_text("no image")
    report = write_report(str(planted), str(tmp_path / "audit"))
    assert json.loads((tmp_path / "audit/audit.json").read_text()) == report
    for file in (tmp_path / "audit").iterdir():
        assert b"smith" not in file.read_bytes() and b".bmp" not in file.read_bytes()
    assert "smith" not in "".join(capfd.readouterr())
    named = write_report(str(planted), str(tmp_path / "named"), file_names=True)
    assert named.pop("files")["training"][6:9] == ["unlabeled/0.png", "unlabeled/1.png", "unlabeled/2.bmp"]
    assert named == report
    assert ".bmp" not in (tmp_path / "named/audit.md").read_text()


def write_dicom(path: Path, **values: str) -> None:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    header = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    header.SOPClassUID, header.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    header.Rows = header.Columns = SIDE
    header.BitsAllocated, header.BitsStored, header.HighBit = 16, 12, 11
    header.SamplesPerPixel, header.PixelRepresentation, header.PhotometricInterpretation = 1, 0, "MONOCHROME2"
    header.PixelData = (noise(0).astype(np.uint16) * 16).tobytes()
    for keyword, value in values.items():
        setattr(header, keyword, value)
    header.is_little_endian, header.is_implicit_VR = True, False
    header.save_as(path, write_like_original=False)


def test_only_known_codes_of_a_dicom_header_are_shown(tmp_path, recwarn, caplog, capfd):
    texts = dict.fromkeys(("PatientName", "PatientID", "Manufacturer", "StationName", "StudyDescription"), "CANARY")
    folder = tmp_path / "data/normal"
    folder.mkdir(parents=True)
    write_dicom(folder / "a.dcm", Modality="DX", **texts)
    write_dicom(folder / "b.dcm", Modality="CANARY", SpecificCharacterSet="CANARY", **texts)
    recwarn.clear(), caplog.clear(), capfd.readouterr()
    report = write_report(str(tmp_path / "data"), str(tmp_path / "audit"))
    found = report["splits"]["known_normal"]
    assert found["formats"] == {"DICOM": 2} and found["bits"] == {"12": 2} and found["modes"] == {"grey": 2}
    assert found["modality"] == {"DX": 1, "other": 1}
    assert found["photometric_interpretation"] == {"MONOCHROME2": 2}
    assert found["transfer_syntax"] == {"Explicit VR Little Endian": 2}
    for file in (tmp_path / "audit").iterdir():
        assert b"CANARY" not in file.read_bytes()
    assert "CANARY" not in "".join([*capfd.readouterr(), caplog.text, *(str(warning.message) for warning in recwarn)])


@pytest.mark.parametrize("settings", [{"image_size": 7}, {"near_copy": 0.0}, {"near_copy": 1.0}])
def test_numbers_outside_their_range_are_refused(planted, tmp_path, settings):
    with pytest.raises(DataError, match=r"image_size must be 8 or more and near_copy in \(0, 1\)"):
        write_report(str(planted), str(tmp_path / "audit"), **settings)
    assert not (tmp_path / "audit").exists()


def test_an_empty_list_is_refused(tmp_path):
    (tmp_path / "datalist.json").write_text('{"training": [], "test": []}')
    with pytest.raises(DataError, match="lists no image"):
        write_report(str(tmp_path), str(tmp_path / "audit"))


def test_the_command_of_the_documentation_runs(planted, tmp_path, monkeypatch):
    page = (Path(__file__).resolve().parents[3] / "docs/audit.md").read_text()
    (block,) = re.findall(r"^```bash\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    words = shlex.split(block)
    assert words[:3] == ["python", "-m", "monai_ddad"]
    shutil.copytree(planted, tmp_path / "path/to/dataset")
    monkeypatch.chdir(tmp_path)
    assert main(words[3:]) == 0
    written = {"audit.json", "audit.md", "worst_pairs.png"}
    assert {file.name for file in (tmp_path / "path/to/audit").iterdir()} == written
    assert all(f"`{file}`" in page for file in written)


@pytest.mark.slow
@pytest.mark.real_data
def test_what_is_known_of_the_brain_images_is_found(real_data, tmp_path):
    report = write_report(str(real_data / "brain_mri"), str(tmp_path / "audit"), num_workers=1)
    counts = {split: description["images"] for split, description in report["splits"].items()}
    assert counts["unlabelled_normal"] == 399 and counts["unlabelled_abnormal"] == 600
    normal = [pair for pair in report["test_copies"] if pair["test"] < 300]
    assert 0.15 < sum(pair["same"] == "file" for pair in normal) / 300 < 0.25  # about one in five
    assert len(normal) / 300 > 0.7  # most have a near copy
    assert len(report["test_copies"]) - len(normal) < 10
    rgb = {
        split: sum(count for mode, count in report["splits"][split]["modes"].items() if mode.startswith("RGB"))
        for split in ("test_normal", "test_abnormal")
    }
    assert rgb["test_normal"] > 290 and rgb["test_abnormal"] < 150
    assert report["differences"]["test_normal_against_test_abnormal"]["is_rgb"]["notable"]
