"""DICOM images: one picture in many encodings, windows, geometry, and what is refused."""

from __future__ import annotations

import logging
import warnings
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from math import exp

import numpy as np
import pydicom
import pytest
import torch
from monai.data import MetaTensor, list_data_collate
from PIL import Image
from pydicom.dataset import Dataset

from monai_ddad.io.formats.photometry import Lookup, Window
from monai_ddad.transforms import ImageReadError, ReadImage
from tests.transforms.encodings import JPEG, compressed, datasets, depth, equivalent_encodings, picture


@pytest.fixture(scope="module")
def encodings(tmp_path_factory):
    return equivalent_encodings(tmp_path_factory.mktemp("encodings"))


@pytest.fixture
def write(tmp_path):
    """Return a writer of data sets, to numbered files."""

    def save(made: Dataset):
        path = tmp_path / f"{len(list(tmp_path.iterdir())):03}.dcm"
        made.save_as(path)
        return path

    return save


@pytest.fixture(scope="module")
def made():
    return datasets(picture())


@pytest.mark.parametrize("channels", [1, 3])
def test_one_picture_is_read_the_same_from_every_encoding(encodings, channels):
    expected = np.repeat(picture()[None] / 255, channels, axis=0)
    far = {
        name: error
        for name, path in encodings.items()
        if (error := np.abs(ReadImage(channels)(path).numpy() - expected).max()) > 1e-6
    }
    assert len(encodings) > 55 and not far


def test_a_data_set_in_memory_is_read_as_its_file_and_left_alone(encodings):
    for name in ("monochrome1", "jpeg_2000", "voi_lut_of_negative_values", "big_endian_16"):
        source = pydicom.dcmread(encodings[name])
        before = source.to_json()
        assert torch.equal(ReadImage()(source), ReadImage()(encodings[name]))
        assert source.to_json() == before


@pytest.mark.parametrize(
    "name, photometry",
    [
        ("monochrome1", {"voi": "none", "inverted": True, "range": "eight bits"}),
        ("hounsfield", {"modality": "rescale", "range": "min to max"}),
        ("linear", {"voi": "window", "range": "window", "inverted": False}),
        ("voi_lut", {"voi": "lut", "range": "lut"}),
        ("modality_lut", {"modality": "lut", "range": "eight bits"}),
        ("padding_bright", {"padding": True}),
        ("float", {"range": "min to max"}),
        ("palette", {"source": "dicom", "modality": "none", "inverted": False}),
        ("png8", {"source": "picture", "range": "eight bits"}),
    ],
)
def test_the_metadata_say_what_was_done(encodings, name, photometry):
    assert photometry.items() <= ReadImage()(encodings[name]).meta["photometry"].items()


def test_nothing_is_done_twice(encodings):
    once = ReadImage()(encodings["monochrome1"])
    assert ReadImage()(once) is once
    with pytest.raises(TypeError, match="path or pydicom.Dataset, got MetaTensor"):
        ReadImage()(MetaTensor(torch.zeros(1, 8, 8)))


def test_pictures_of_all_kinds_make_a_batch(encodings):
    read = [{"image": ReadImage()(encodings[name])} for name in ("png8", "linear", "monochrome1", "voi_lut")]
    assert list_data_collate(read)["image"].shape == (4, 1, *picture().shape)


def test_pixels_keep_their_size_in_millimetres(made, write):
    source = made["monochrome2"]
    assert "pixel_size" not in ReadImage()(write(source)).meta
    source.ImagerPixelSpacing = [0.2, 0.1]
    assert ReadImage()(write(source)).meta["pixel_size"] == (0.2, 0.1)
    source.PixelSpacing = [0.4, 0.3]
    assert ReadImage()(write(source)).meta["pixel_size"] == (0.4, 0.3)
    source.PixelSpacing = [0, 0]
    assert ReadImage()(write(source)).meta["pixel_size"] == (0.2, 0.1)


def window_by_the_standard(value: float, center: float, width: float, function: str) -> float:
    """PS3.3 C.11.2.1.2.1, C.11.2.1.3.1 and C.11.2.1.3.2, with an output range of 0 to 1."""
    if function == "SIGMOID":
        return 1 / (1 + exp(min(-4 * (value - center) / width, 700)))
    if function == "LINEAR_EXACT":
        if value <= center - width / 2:
            return 0.0
        return 1.0 if value > center + width / 2 else (value - center) / width + 0.5
    if value <= center - 0.5 - (width - 1) / 2:
        return 0.0
    return 1.0 if value > center - 0.5 + (width - 1) / 2 else (value - (center - 0.5)) / (width - 1) + 0.5


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("center, width", [(40.0, 400.0), (127.5, 1.0), (0.0, 2.0), (-600.5, 1500.25)])
def test_windows_equal_a_loop_over_the_formulas_of_the_standard(function, center, width):
    values = np.arange(-1500, 1500, 0.5)
    result = Window(center, width, function)(values)
    expected = [window_by_the_standard(value, center, width, function) for value in values]
    np.testing.assert_allclose(result, expected, atol=1e-12)
    assert (np.diff(result) >= 0).all() and result.min() < 0.1 and result.max() > 0.9


def test_lookup_tables_hold_their_ends():
    table = Lookup(-2, np.array([5, 6, 9]), bits=8)
    assert table(np.array([-99, -2, -1, 0, 99])).tolist() == [5, 5, 6, 9, 9] and table.top == 255


@pytest.mark.parametrize(
    "header, message",
    [
        ({"WindowCenter": 128, "WindowWidth": 0.5}, "WindowWidth of the header is below 1"),
        (
            {"WindowCenter": 128, "WindowWidth": 0, "VOILUTFunction": "SIGMOID"},
            "WindowWidth of the header is not above",
        ),
        ({"WindowCenter": 128, "WindowWidth": 9, "VOILUTFunction": "CUBIC"}, "VOILUTFunction of the header is not"),
        ({"RescaleSlope": 0, "RescaleIntercept": 1}, "RescaleSlope of the header is 0"),
        ({"Rows": None}, "Rows is missing from the header"),
        ({"Rows": 0}, "fewer than 8 x 8 pixels"),
        ({"Rows": 7}, "fewer than 8 x 8 pixels"),
        ({"Rows": 49}, "shorter than the header claims"),
        ({"NumberOfFrames": 0}, "NumberOfFrames or SamplesPerPixel"),
        ({"NumberOfFrames": 2}, "shorter than the header claims"),
        ({"SamplesPerPixel": 4}, "NumberOfFrames or SamplesPerPixel"),
        ({"BitsAllocated": None}, "BitsAllocated is missing"),
        ({"BitsAllocated": 12}, "BitsAllocated, BitsStored or HighBit"),
        ({"BitsStored": 9}, "BitsAllocated, BitsStored or HighBit"),
        ({"PhotometricInterpretation": None}, "PhotometricInterpretation is missing"),
        ({"PhotometricInterpretation": "RGB"}, "at odds"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "lookup table of the header is incomplete"),
        ({"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 255}, "all pixels are marked as padding"),
        ({"PixelData": None}, "holds no pixel data"),
        ({"PixelData": None, "EncryptedAttributesSequence": [Dataset()]}, "are encrypted"),
    ],
    ids=str,
)
def test_headers_that_cannot_be_right_are_refused(write, header, message):
    made = datasets(picture())["monochrome2"]
    for keyword, value in header.items():
        if value is None:
            del made[keyword]
        else:
            setattr(made, keyword, value)
    with pytest.raises(ImageReadError, match=message):
        ReadImage()(write(made))


def test_other_transfer_syntaxes_are_refused(made, write):
    source = made["jpeg_2000"]
    source.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.102"  # MPEG-4
    with pytest.raises(ImageReadError, match="transfer syntax of the DICOM file is not supported"):
        ReadImage()(write(source))


@pytest.mark.parametrize(
    "name, message",
    [
        ("jpeg_2000", "another size than the header claims"),
        ("jp2", "another size than the header claims"),
        ("jpeg_ls", "another size than the header claims"),
        ("rle", "compressed pixel data are damaged"),
    ],
)
def test_compressed_frames_of_another_size_are_refused(write, name, message):
    source = datasets(picture())[name]
    source.Rows += 1
    with pytest.raises(ImageReadError, match=message):
        ReadImage()(write(source))


def jpeg_file(image: Image.Image, unmarked: bool = False) -> bytes:
    """JPEG stream; without its JFIF segment if it should not say what its colours are."""
    image.save(stream := BytesIO(), "JPEG", quality=95, subsampling=0)
    content = stream.getvalue()
    return content[:2] + content[20:] if unmarked else content  # the JFIF segment is the first one


def colours() -> np.ndarray:
    u = picture()
    return np.stack([u, u[::-1], 255 - u], axis=-1)


@pytest.mark.parametrize("photometric", ["YBR_FULL_422", "YBR_FULL", "RGB"])
def test_jpeg_frames_are_read_as_jpeg_files_are(write, photometric):
    for pixels in (picture(), colours()):
        frame = jpeg_file(Image.fromarray(pixels))
        kind = photometric if pixels.ndim == 3 else "MONOCHROME2"
        made = compressed(pixels, lambda _, frame=frame: frame, JPEG, PhotometricInterpretation=kind)
        expected = np.asarray(Image.open(BytesIO(frame))) / 255
        result = ReadImage(1 if pixels.ndim == 2 else 3)(write(made)).numpy()
        np.testing.assert_allclose(result, np.moveaxis(np.atleast_3d(expected), -1, 0), atol=1e-7)


def test_unmarked_jpeg_colours_are_what_the_header_says(write):
    raw = Image.merge("YCbCr", [Image.fromarray(plane) for plane in np.moveaxis(colours(), -1, 0)])
    frame = jpeg_file(raw, unmarked=True)  # as if RGB had been compressed without a transformation
    for kind, expected in (("RGB", colours()), ("YBR_FULL", np.asarray(raw.convert("RGB")))):
        made = compressed(colours(), lambda _: frame, JPEG, PhotometricInterpretation=kind)
        result = ReadImage(3)(write(made)).numpy()
        assert np.abs(result - expected.transpose(2, 0, 1) / 255).mean() < 0.01


def test_a_constant_picture_keeps_its_place_in_the_range_of_its_type(write):
    for stored, bits, expected in (
        (np.full((8, 8), 1023, np.uint16), 12, 1023 / 4095),
        (np.uint8([[51] * 8] * 8), 8, 0.2),
    ):
        made = datasets(picture(8, 8))["monochrome2"]
        made.PixelData, made.BitsAllocated = stored.tobytes(), 8 * stored.itemsize
        made.BitsStored, made.HighBit = depth(bits).values()
        assert np.allclose(ReadImage()(write(made)).numpy(), expected)


@pytest.mark.parametrize(
    "header, message",
    [
        ({}, "another modality than CR or DX"),
        ({"Modality": "MR"}, "another modality than CR or DX"),
        ({"Modality": "DX", "BodyPartExamined": "HAND"}, "another body part than CHEST"),
        ({"Modality": "DX", "BodyPartExamined": "chest "}, None),
        ({"Modality": "CR", "BodyPartExamined": ""}, None),
        ({"Modality": "CR"}, None),
    ],
    ids=str,
)
def test_other_modalities_and_body_parts_are_refused(write, write_image, header, message):
    made = datasets(picture())["monochrome2"]
    del made.Modality
    made.update(Dataset() if not header else _elements(header))
    read = ReadImage(modalities={"DX", "CR"}, body_parts={"CHEST"})
    if message:
        with pytest.raises(ImageReadError, match=message) as caught:
            read(write(made))
        assert "MR" not in str(caught.value) and "HAND" not in str(caught.value)
    else:
        assert read(write(made)).shape == (1, *picture().shape)
    assert read(write_image("picture.png")).shape == (1, 32, 32)


def _elements(header: dict[str, str]) -> Dataset:
    made = Dataset()
    for keyword, value in header.items():
        setattr(made, keyword, value)
    return made


def test_any_takes_all_kinds(write):
    made = datasets(picture())["monochrome2"]
    made.Modality, made.BodyPartExamined = "XA", "HAND"
    assert ReadImage(modalities="any", body_parts="any")(write(made)).shape == (1, *picture().shape)


def test_a_single_string_is_no_collection():
    with pytest.raises(ValueError, match="lists of strings"):
        ReadImage(modalities="CR")


def test_threads_read_what_one_reads_and_leave_warnings_and_loggers_as_they_were(encodings):
    paths = list(encodings.values()) * 2
    filters, levels = list(warnings.filters), [logging.getLogger(name).level for name in ("pydicom", "PIL")]
    with ThreadPoolExecutor(8) as pool:
        parallel = list(pool.map(ReadImage(), paths))
    assert all(torch.equal(image, ReadImage()(path)) for image, path in zip(parallel, paths))
    assert warnings.filters == filters
    assert [logging.getLogger(name).level for name in ("pydicom", "PIL")] == levels


# real files: shape and mean of the grey levels, as pydicom's own pipeline gives them, or the sentence that refuses them
NO_PIXELS = "the DICOM file holds no pixel data: it is no image (but a report, plan or waveform), or it ends early"
NO_IMAGE = "neither a DICOM object nor an image of another known kind, or a damaged one"
UNKNOWN = "not an image file of a known kind (DICOM, NIfTI, PNG, JPEG, TIFF, BMP), or a damaged one"
ODD = {
    "3gb-bulk-data-truncated": "SamplesPerPixel of the header is not one whole number",
    "693_J2KI.dcm": (512, 512),
    "ExplVR_BigEnd.dcm": (60, 80),
    "ExplVR_BigEndNoMeta.dcm": NO_PIXELS,
    "GH184.dcm": (128, 128),
    "J2K_pixelrep_mismatch.dcm": (512, 512),
    "JPEG-lossy.dcm": "the compressed pixel data are damaged, truncated or of an unsupported kind",
    "JPEG2000.dcm": (1024, 256),
    "MR-SIEMENS-DICOM-WithOverlays.dcm": (484, 484),
    "MR_small.dcm": (64, 64),
    "MR_small_RLE.dcm": (64, 64),
    "MR_small_bigendian.dcm": (64, 64),
    "MR_small_jp2klossless.dcm": (64, 64),
    "MR_small_jpeg_ls_lossless.dcm": (64, 64),
    "MR_small_padded.dcm": (64, 64),
    "MR_truncated.dcm": "the pixel data are shorter than the header claims: the file is truncated or damaged",
    "OBXXXX1A_rle.dcm": (600, 800),
    "SC_rgb_jpeg_dcmtk.dcm": (100, 100),
    "SC_ybr_full_422_uncompressed.dcm": (100, 100),
    "UN_sequence.dcm": NO_IMAGE,
    "badVR.dcm": "NumberOfFrames of the header is not a number",
    "color-pl.dcm": (120, 256),
    "empty_charset_LEI.dcm": NO_IMAGE,
    "emri_small.dcm": (64, 64, 10),
    "emri_small_jpeg_ls_lossless.dcm": (64, 64, 10),
    "examples_palette.dcm": (350, 800),
    "image_dfl.dcm": (512, 512),
    "liver_1frame.dcm": "the header describes another number of frames than it claims",
    "meta_missing_tsyntax.dcm": NO_IMAGE,
    "mlut_18.dcm": (512, 512),
    "nested_priv_SQ.dcm": NO_IMAGE,
    "no_meta.dcm": UNKNOWN,  # its first byte is missing
    "no_meta_group_length.dcm": NO_IMAGE,
    "parametric_map_double_float.dcm": (128, 128),
    "parametric_map_float.dcm": (128, 128),
    "priv_SQ.dcm": NO_IMAGE,
    "reportsi.dcm": NO_PIXELS,
    "rtplan.dcm": NO_PIXELS,
    "rtplan_truncated.dcm": NO_PIXELS,
    "test-SR.dcm": NO_PIXELS,
    "vlut_04.dcm": (512, 512),
    "waveform_ecg.dcm": NO_PIXELS,
    "zipMR.gz": "a gzip file that holds no NIfTI volume: unpack it first",
}


def through_pydicom(path) -> np.ndarray:
    """Grey levels of a real file by pydicom's own functions."""
    processing = pytest.importorskip("pydicom.pixels.processing")
    source = pydicom.dcmread(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values = source.pixel_array
    if source.PhotometricInterpretation == "PALETTE COLOR":
        values = (processing.apply_color_lut(values, source) >> 8).astype(np.uint8)
    if values.shape[-1] == 3:
        return np.asarray(Image.fromarray(values).convert("L")) / 255
    if "VOILUTSequence" in source:
        return processing.apply_voi_lut(values, source) / 65535
    values = processing.apply_modality_lut(values, source).astype(float)
    if "WindowCenter" in source:
        shown = processing.apply_windowing(np.append(values, [-1e9, 1e9]).reshape(1, -1), source)[0]
        values = ((shown - shown.min()) / (shown.max() - shown.min()))[:-2].reshape(values.shape)
    elif source.get("BitsStored", 16) <= 8:
        values = values / 255
    else:
        values = (values - values.min()) / (values.max() - values.min())
    values = 1 - values if source.PhotometricInterpretation == "MONOCHROME1" else values
    return values.transpose(2, 1, 0) if values.ndim == 3 else values


@pytest.mark.real_data
def test_the_table_names_every_real_file(real_data):
    assert {path.name for path in (real_data / "dicom/odd").iterdir()} == set(ODD)


@pytest.mark.real_data
@pytest.mark.parametrize("name", [name for name, found in ODD.items() if isinstance(found, tuple)])
def test_odd_real_files_are_read_as_pydicom_reads_them(real_data, name):
    image = ReadImage()(real_data / "dicom/odd" / name)
    assert image.shape == (1, *ODD[name])
    rounding = 1.01 / 255 if "ybr" in name else 1e-6  # of the colour transformation
    np.testing.assert_allclose(image[0].numpy(), through_pydicom(real_data / "dicom/odd" / name), atol=rounding)


@pytest.mark.real_data
@pytest.mark.parametrize("name", [name for name, found in ODD.items() if isinstance(found, str)])
def test_odd_real_files_are_refused_with_one_sentence(real_data, name):
    with pytest.raises(ImageReadError) as caught:
        ReadImage()(real_data / "dicom/odd" / name)
    assert str(caught.value) == ODD[name]


@pytest.mark.real_data
def test_a_film_relabelled_as_monochrome1_is_its_negative(real_data):
    read = ReadImage(modalities=("CR", "DX"), body_parts=("CHEST",))
    film = read(real_data / "dicom/chest_cr/siim_cxr_mono2_jpegbaseline.dcm")
    negative = read(real_data / "dicom/chest_cr/siim_cxr_fake_mono1.dcm")
    assert torch.allclose(film + negative, torch.ones(1, 1024, 1024)) and film.std() > 0.1


@pytest.mark.real_data
def test_bones_are_bright_in_a_real_monochrome1_film(real_data):
    film = ReadImage()(real_data / "dicom/chest_cr/RG1_chest_mono1_15bit_j2k.dcm")[0]
    rows, columns = film.shape
    spine = film[rows // 3 : rows // 2, int(0.48 * columns) : int(0.52 * columns)].mean()
    lung = film[rows // 3 : rows // 2, int(0.68 * columns) : int(0.75 * columns)].mean()
    assert spine > lung + 0.1
    expected = through_pydicom(real_data / "dicom/chest_cr/RG1_chest_mono1_15bit_j2k.dcm")
    np.testing.assert_allclose(film.numpy(), expected, atol=1e-6)
