"""Reading image files: right values, and a plain error for every bad file."""

from __future__ import annotations

import struct
import time
import traceback
import zlib

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image

from monai_ddad.data import normalise
from monai_ddad.transforms import ImageReadError, ReadImage, ReadImaged


def pixels(*shape: int) -> np.ndarray:
    """Smooth colour ramps with some noise, so that resizing and compression keep most of them."""
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]]
    grey = 255 * (rows + 2 * columns) / (shape[0] + 2 * shape[1])
    ramps = np.stack([grey, grey[::-1], 255 - grey], axis=-1) if len(shape) == 3 else grey
    return np.clip(ramps + np.random.default_rng(0).integers(-9, 10, shape), 0, 255).astype(np.uint8)


def plain(path, mode: str) -> np.ndarray:
    """The authors' reading: open, then convert; scaled as torchvision's ToTensor does."""
    values = np.asarray(Image.open(path).convert(mode))
    return (values[None] if mode == "L" else values.transpose(2, 0, 1)).astype(np.float32) / np.float32(255)


@pytest.mark.parametrize("channels, mode", [(1, "L"), (3, "RGB")])
@pytest.mark.parametrize(
    "name, image",
    [
        ("grey.png", Image.fromarray(pixels(90, 130))),
        ("colour.png", Image.fromarray(pixels(90, 130, 3))),
        ("opaque_rgba.png", Image.fromarray(pixels(90, 130, 3)).convert("RGBA")),
        ("opaque_la.png", Image.fromarray(pixels(90, 130)).convert("LA")),
        ("palette.png", Image.fromarray(pixels(90, 130, 3)).convert("P", palette=Image.Palette.ADAPTIVE)),
        ("bits.png", Image.fromarray(pixels(90, 130)).convert("1")),
        ("grey.jpg", Image.fromarray(pixels(90, 130))),
        ("colour.jpeg", Image.fromarray(pixels(90, 130, 3))),
        ("cmyk.jpg", Image.fromarray(pixels(90, 130, 3)).convert("CMYK")),
        ("colour.bmp", Image.fromarray(pixels(90, 130, 3))),
        ("grey.tif", Image.fromarray(pixels(90, 130))),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_values_are_those_of_a_plain_convert(tmp_path, name, image, channels, mode):
    image.save(tmp_path / name)
    result = ReadImage(channels)(tmp_path / name)
    assert result.dtype == torch.float32 and result.shape == (channels, 90, 130) and result.is_contiguous()
    assert np.array_equal(result, plain(tmp_path / name, mode))


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparent_pixels_become_black(tmp_path, mode):
    image = Image.fromarray(pixels(20, 20)).convert(mode)
    image.putalpha(Image.fromarray(np.repeat(np.uint8([[0] * 10 + [255] * 10]), 20, axis=0)))
    image.save(tmp_path / "half.png")
    result = ReadImage()(tmp_path / "half.png")[0].numpy()
    assert (result[:, :10] == 0).all() and np.array_equal(result[:, 10:], pixels(20, 20)[:, 10:] / np.float32(255))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["deep.png", "deep.tif"])
@pytest.mark.parametrize("factor, offset", [(257, 0), (16, 0), (16, 300), (1, 0)])  # 16 bits, 12 bits, 8 bits in 16
def test_16_bit_files_go_from_their_smallest_to_their_largest_value(write_image, name, channels, factor, offset):
    values = np.arange(256, dtype=np.uint16).reshape(16, 16)
    twin = ReadImage(channels)(write_image("twin.png", values.astype(np.uint8)))
    deep = ReadImage(channels)(write_image(name, values * factor + offset))
    assert torch.allclose(deep, twin, atol=1e-6) and deep.meta["photometry"]["range"] == "min to max"


def test_16_bit_values_keep_their_precision(write_image):
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    result = ReadImage()(write_image("all.png", values))[0].numpy()
    np.testing.assert_allclose(result, values / 65535, atol=1e-7)


@pytest.mark.parametrize("value", [0, 30000, 65535])
def test_a_constant_16_bit_file_keeps_its_place_in_the_range_of_its_type(write_image, value):
    image = ReadImage()(write_image("constant.png", np.full((20, 20), value, dtype=np.uint16)))
    assert torch.allclose(image, torch.tensor(value / 65535)) and image.meta["photometry"]["range"] == "type"


def test_float_files_in_0_to_1_are_kept(write_image):
    values = np.linspace(0, 0.7, 400, dtype=np.float32).reshape(20, 20)
    assert np.array_equal(ReadImage()(write_image("float.tif", values))[0].numpy(), values)


@pytest.mark.parametrize(
    "value, message", [(np.nan, "1 pixels are NaN"), (np.inf, "infinite"), (1.01, "0, 1"), (-0.1, "0, 1")]
)
def test_float_files_with_other_values_are_refused(write_image, value, message):
    values = np.full((20, 20), 0.5, dtype=np.float32)
    values[3, 4] = value
    with pytest.raises(ImageReadError, match=message):
        ReadImage()(write_image("float.tif", values))


@pytest.mark.parametrize("value", [-1, 65536])
def test_integer_files_of_more_than_16_bits_are_refused(write_image, value):
    values = np.full((20, 20), 7, dtype=np.int32)
    values[3, 4] = value
    with pytest.raises(ImageReadError, match="16 bits"):
        ReadImage()(write_image("integer.tif", values))


@pytest.mark.parametrize("value", [0, 100, 255])
def test_a_constant_image_stays_constant(write_image, value):
    image = ReadImage()(write_image("constant.png", np.full((50, 70), value, dtype=np.uint8)))
    assert (image == np.float32(value) / np.float32(255)).all()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG file of 8-bit grey whose header says what it likes."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def saved(tmp_path, suffix: str) -> bytes:
    path = tmp_path / f"whole.{suffix}"
    Image.fromarray(pixels(90, 130)).save(path)
    return path.read_bytes()


@pytest.mark.parametrize("name", ["patient_doe.png", "patient_doe.jpg", "patient_doe.tif", "patient_doe.bmp"])
@pytest.mark.parametrize("share", [0.002, 0.05, 0.5, 0.95])
def test_files_cut_short_are_refused_without_their_path(tmp_path, name, share):
    whole = saved(tmp_path, name.rsplit(".")[-1])
    path = tmp_path / name
    path.write_bytes(whole[: int(share * len(whole))])
    assert_refused(path)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "empty"),
        (b"Dear colleague, please find attached", "not an image file"),
        (png(1, 1, b"\0\0"), "fewer than 8 x 8 pixels"),
        (png(64, 7, bytes(65 * 7)), "fewer than 8 x 8 pixels"),
        (png(64, 64, b"\0"), "truncated"),
        (b"GIF89a\x40\x00\x40\x00\x00\x00\x00\x3b", "PNG, JPEG, TIFF, BMP"),
    ],
    ids=["empty", "text", "1x1", "flat", "missing rows", "gif"],
)
def test_bad_files_are_refused_with_the_reason_and_without_their_path(tmp_path, content, message):
    path = tmp_path / "patient_doe.png"
    path.write_bytes(content)
    assert message in assert_refused(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    assert "no such file" in assert_refused(tmp_path / "patient_doe.png")
    (tmp_path / "patient_folder.png").mkdir()
    assert_refused(tmp_path / "patient_folder.png")


@pytest.mark.parametrize("width, height", [(65535, 65535), (2**14, 2**13 + 1), (2**31 - 1, 8)])
def test_a_header_that_claims_a_huge_image_is_refused_before_decoding(tmp_path, width, height):
    (tmp_path / "bomb.png").write_bytes(png(width, height))
    started = time.perf_counter()
    assert "pixels" in assert_refused(tmp_path / "bomb.png")
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp"])
def test_damaged_bytes_end_in_an_image_or_a_plain_error(tmp_path, suffix):
    """No other exception may come out, whatever byte is hit."""
    whole, generator, refused = saved(tmp_path, suffix), np.random.default_rng(0), 0
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[generator.integers(min(len(whole), 300))] = generator.integers(256)
        (tmp_path / "damaged").write_bytes(damaged)
        try:
            image = ReadImage()(tmp_path / "damaged")
        except ImageReadError:
            refused += 1
        else:
            assert image.ndim == 3 and image.dtype == torch.float32 and 0 <= image.min() <= image.max() <= 1
    assert refused > 0


def assert_refused(path) -> str:
    """Read a file that cannot be read; return the message, free of its path."""
    with pytest.raises(ImageReadError) as caught:
        ReadImage()(path)
    shown = "".join(traceback.format_exception(caught.value))  # with the errors it came from
    assert "patient" not in shown and str(path.parent) not in shown and path.name not in shown
    return str(caught.value)


@pytest.mark.parametrize("channels", [0, 2, 4])
def test_other_numbers_of_channels_are_refused(channels):
    with pytest.raises(ValueError, match=f"1 .grey. or 3 .RGB., got {channels}"):
        ReadImage(channels)


def test_the_content_decides_not_the_suffix(tmp_path, write_image):
    path = write_image("picture.png", pixels(30, 50))
    expected = ReadImage()(path)
    for name in ("picture.dcm", "picture.nii.gz", "picture"):
        (tmp_path / name).write_bytes(path.read_bytes())
        assert torch.equal(ReadImage()(tmp_path / name), expected)


def test_the_metadata_are_those_monai_expects(write_image):
    path = write_image("own.png", pixels(30, 50))
    image = ReadImage()(str(path))
    assert isinstance(image, MetaTensor) and image.shape == (1, 30, 50)
    assert torch.equal(image.affine, torch.eye(4, dtype=torch.float64)) and image.meta["original_channel_dim"] == 0
    assert image.meta["spatial_shape"].tolist() == [30, 50] and image.meta["filename_or_obj"] == str(path)
    assert image.meta["photometry"] == {
        "source": "picture",
        "modality": "none",
        "voi": "none",
        "inverted": False,
        "range": "eight bits",
        "padding": False,
    }


def test_the_dictionary_form_reads_its_keys_alone(write_image):
    path = write_image("a.png")
    item = {"image": str(path), "label": 1, "other": "text"}
    result = ReadImaged("image")(item)
    assert torch.equal(result.pop("image"), ReadImage()(path))
    assert result == {"label": 1, "other": "text"} and item["image"] == str(path)
    assert ReadImaged("absent", allow_missing_keys=True)(item) == item


def test_normalising_equals_to_tensor_and_normalize_bit_for_bit():
    values = np.arange(256, dtype=np.uint8)
    scaled = values.astype(np.float32) / np.float32(255)
    expected = (scaled - np.float32(0.5)) / np.float32(0.5)
    result = normalise(torch.from_numpy(values))
    assert result.dtype == torch.float32 and np.array_equal(result.numpy(), expected)
    np.testing.assert_allclose(result, 2 * values.astype(np.float64) / 255 - 1, atol=1e-7)
