"""One picture in many encodings that mean the same, for tests that they are read, or scored, the same."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import highdicom
import jpeg_ls
import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, SecondaryCaptureImageStorage, generate_uid

IMPLICIT, EXPLICIT, BIG, DEFLATED = (UID(f"1.2.840.10008.1.2{end}") for end in ("", ".1", ".2", ".1.99"))
RLE, JPEG, JPEG_LS, JPEG_2000 = (UID(f"1.2.840.10008.1.2.{end}") for end in ("5", "4.50", "4.80", "4.90"))


def picture(rows: int = 48, columns: int = 40) -> np.ndarray:
    """(rows, columns) uint8 from 0 to 255, smooth with some noise, several pixels black."""
    row, column = np.mgrid[0:rows, 0:columns]
    smooth = 255 * (row + 2 * column) / (rows + 2 * columns - 3)
    noisy = np.clip(smooth + np.random.default_rng(0).integers(-9, 10, smooth.shape), 0, 255).astype(np.uint8)
    noisy[:2, :2], noisy[-1, -1] = 0, 255
    return noisy


def dataset(stored: np.ndarray | bytes, syntax: UID = EXPLICIT, **header: Any) -> FileDataset:
    """Make a DICOM image.

    Args:
        stored: (H, W), (F, H, W) or (H, W, 3) values, of which type and shape give the image pixel module; or bytes,
            whose header must be given.
        syntax: transfer syntax.
        **header: elements by keyword, in place of the usual ones; those that are None are left out.
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    meta.TransferSyntaxUID = syntax
    encoding = {"is_implicit_VR": syntax == IMPLICIT, "is_little_endian": syntax != BIG}
    made = FileDataset("", {}, file_meta=meta, preamble=bytes(128), **encoding)
    elements: dict[str, Any] = {
        "SOPClassUID": SecondaryCaptureImageStorage,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "Modality": "OT",
        "PhotometricInterpretation": "MONOCHROME2",
    }
    if isinstance(stored, np.ndarray):
        elements |= _image_pixels(stored, big_endian=syntax == BIG)
    else:
        elements["PixelData"] = stored
    for keyword, value in (elements | header).items():
        if value is not None:
            setattr(made, keyword, value)
    if syntax.is_compressed and syntax != DEFLATED:
        made["PixelData"].VR, made["PixelData"].is_undefined_length = "OB", True
    elif "PixelData" in made:
        made["PixelData"].VR = "OB" if made.BitsAllocated <= 8 and syntax != IMPLICIT else "OW"
    return made


def _image_pixels(stored: np.ndarray, big_endian: bool) -> dict[str, Any]:
    colour = stored.ndim == 3 and stored.shape[-1] == 3
    frames = stored.shape[0] if stored.ndim == 3 and not colour else None
    bits = 8 * stored.dtype.itemsize
    rows, columns = stored.shape[:2] if colour else stored.shape[-2:]
    return {
        "Rows": rows,
        "Columns": columns,
        "NumberOfFrames": frames,
        "SamplesPerPixel": 3 if colour else 1,
        "PlanarConfiguration": 0 if colour else None,
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(stored.dtype.kind == "i"),
        "PixelData": stored.astype(stored.dtype.newbyteorder(">" if big_endian else "<")).tobytes(),
    }


def depth(bits: int) -> dict[str, int]:
    """Elements that say how many bits are stored."""
    return {"BitsStored": bits, "HighBit": bits - 1}


def table(first: int, entries: np.ndarray, bits: int) -> list[Dataset]:
    """Sequence of one lookup table."""
    item = Dataset()
    item.LUTDescriptor = [len(entries) % 2**16, first, bits]
    item.LUTData = [int(entry) for entry in entries]
    item["LUTData"].VR = "US"
    return [item]


def compressed(u: np.ndarray, encode: Callable[[np.ndarray], bytes], syntax: UID, **header: Any) -> FileDataset:
    """Make an image whose one frame is a compressed stream."""
    frame = encode(u)
    return dataset(u, syntax, PixelData=encapsulate([frame + bytes(len(frame) % 2)]), **header)


def saved(form: str, **options: Any) -> Callable[[np.ndarray], bytes]:
    """Return an encoder of PIL."""

    def encode(pixels: np.ndarray) -> bytes:
        Image.fromarray(pixels).save(stream := BytesIO(), form, **options)
        return stream.getvalue()

    return encode


def run_length(pixels: np.ndarray) -> bytes:
    """Encode a frame in RLE, literal runs alone; source: DICOM PS3.5 annex G."""
    planes = pixels.astype(pixels.dtype.newbyteorder(">")).view(np.uint8).reshape(-1, pixels.dtype.itemsize).T
    segments = []
    for plane in planes:
        runs = [plane[at : at + 128].tobytes() for at in range(0, len(plane), 128)]
        segment = b"".join(bytes([len(run) - 1]) + run for run in runs)
        segments.append(segment + bytes(len(segment) % 2))
    starts = np.cumsum([64] + [len(segment) for segment in segments[:-1]])
    header = np.zeros(16, "<u4")
    header[0], header[1 : 1 + len(segments)] = len(segments), starts
    return header.tobytes() + b"".join(segments)


def pictures(u: np.ndarray) -> dict[str, Image.Image]:
    """The encodings that are no DICOM, by file name."""
    grey = Image.fromarray(u)
    return {
        "png8.png": grey,
        "png16.png": Image.fromarray(u.astype(np.uint16) * 257),
        "tiff8.tif": grey,
        "tiff16.tif": Image.fromarray(u.astype(np.uint16) * 257),
        "float.tif": Image.fromarray(u.astype(np.float32) / 255),
        "bmp.bmp": grey,
        "rgb.png": grey.convert("RGB"),
        "rgba.png": grey.convert("RGBA"),
        "la.png": grey.convert("LA"),
    }


def datasets(u: np.ndarray) -> dict[str, FileDataset]:
    """The DICOM encodings, by name."""
    wide, negative = u.astype(np.uint16), 255 - u
    ramp = np.arange(256)
    return (
        _grey_levels(u, wide, negative)
        | _tables(u, wide, negative, ramp)
        | _bits(u, wide)
        | _files(u, wide)
        | {
            "rgb_planar_0": dataset(np.repeat(u[..., None], 3, axis=-1), PhotometricInterpretation="RGB"),
            "rgb_planar_1": dataset(
                np.repeat(u[..., None], 3, axis=-1),
                PhotometricInterpretation="RGB",
                PlanarConfiguration=1,
                PixelData=u.tobytes() * 3,
            ),
            "ybr_full": dataset(np.stack([u, u * 0 + 128, u * 0 + 128], axis=-1), PhotometricInterpretation="YBR_FULL"),
            "ybr_full_422": dataset(
                np.repeat(u[..., None], 3, axis=-1),
                PhotometricInterpretation="YBR_FULL_422",
                PixelData=np.insert(u.reshape(-1, 2), 2, [[128], [128]], axis=1).tobytes(),
            ),
            "secondary_capture": highdicom_capture(u),
        }
    )


def _grey_levels(u: np.ndarray, wide: np.ndarray, negative: np.ndarray) -> dict[str, FileDataset]:
    center = {"WindowCenter": 128, "WindowWidth": 256}
    return {
        "monochrome2": dataset(u),
        "monochrome1": dataset(negative, PhotometricInterpretation="MONOCHROME1"),
        "inverse": dataset(negative, PresentationLUTShape="INVERSE"),
        "monochrome1_and_inverse": dataset(
            negative, PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="INVERSE"
        ),
        "slope_minus_1": dataset(negative, RescaleSlope=-1, RescaleIntercept=255),
        "hounsfield": dataset(wide + 1024, RescaleSlope=1, RescaleIntercept=-1024, **depth(12)),
        "slope": dataset(wide * 16, RescaleSlope=0.25, RescaleIntercept=7, **depth(12)),
        "linear": dataset(wide, **center),
        "linear_of_slope": dataset(wide * 2, RescaleSlope=0.5, RescaleIntercept=0, VOILUTFunction="LINEAR", **center),
        "linear_exact": dataset(wide, WindowCenter=127.5, WindowWidth=255, VOILUTFunction="LINEAR_EXACT"),
        "first_of_two_windows": dataset(wide, WindowCenter=[128, 40], WindowWidth=[256, 80]),
        "monochrome1_window": dataset(255 - wide, PhotometricInterpretation="MONOCHROME1", **center),
        "padding_black": dataset(u, PixelPaddingValue=0),
        "padding_bright": dataset(_with_padding(wide * 257, 65000), PixelPaddingValue=65000),
        "padding_as_if_unsigned": _padding_as_if_unsigned(wide),
        "padding_range": dataset(
            _with_padding(wide * 128, 65000), PixelPaddingValue=64000, PixelPaddingRangeLimit=65535
        ),
    }


def _padding_as_if_unsigned(wide: np.ndarray) -> FileDataset:
    made = dataset(_with_padding(wide.astype(np.int16) * 100, -2000))
    made.add_new("PixelPaddingValue", "US", 2**16 - 2000)
    return made


def _with_padding(stored: np.ndarray, value: int) -> np.ndarray:
    stored = stored.copy()
    stored[0, :2] = value
    return stored


def _tables(u: np.ndarray, wide: np.ndarray, negative: np.ndarray, ramp: np.ndarray) -> dict[str, FileDataset]:
    palette = (255 - ramp).astype("<u2") * 257
    colours = {f"{name}PaletteColorLookupTable" for name in ("Red", "Green", "Blue")}
    return {
        "modality_lut": dataset(negative, ModalityLUTSequence=table(0, 255 - ramp, 16)),
        "voi_lut": dataset(negative, VOILUTSequence=table(0, 255 - ramp, 8)),
        "voi_lut_deep": dataset(wide + 500, VOILUTSequence=table(500, ramp * 257, 16)),
        "voi_lut_of_negative_values": dataset(
            wide + 24, RescaleSlope=1, RescaleIntercept=-1024, VOILUTSequence=table(2**16 - 1000, ramp * 257, 16)
        ),
        "palette": dataset(
            negative,
            PhotometricInterpretation="PALETTE COLOR",
            **{f"{name}Descriptor": [256, 0, 16] for name in colours},
            **{f"{name}Data": palette.tobytes() for name in colours},
        ),
    }


def _bits(u: np.ndarray, wide: np.ndarray) -> dict[str, FileDataset]:
    overlay = np.where(wide % 2, 0xA000, 0).astype(np.uint16)  # in the bits that are not stored
    return {
        "10_bits": dataset(wide * 4, **depth(10)),
        "12_bits": dataset(wide * 16, **depth(12)),
        "15_bits": dataset(wide * 128, **depth(15)),
        "16_bits": dataset(wide * 257),
        "16_bits_signed": dataset(wide.astype(np.int16) * 128 - 16000),
        "12_bits_signed": dataset(
            ((wide.astype(np.int16) * 16 - 2048) & 0xFFF).astype(np.uint16), PixelRepresentation=1, **depth(12)
        ),
        "12_bits_and_overlay": dataset(wide * 16 | overlay, **depth(12)),
        "12_bits_on_top": dataset(wide * 256, BitsStored=12, HighBit=15),
        "32_bits": dataset(u.astype(np.uint32) * 2**20),
        "float": dataset(b"", **_float_pixels(u.astype("<f4"), "FloatPixelData", 32)),
        "double": dataset(b"", **_float_pixels(u.astype("<f8") * 1e99, "DoubleFloatPixelData", 64)),
    }


def _float_pixels(values: np.ndarray, keyword: str, bits: int) -> dict[str, Any]:
    whole = _image_pixels(values, big_endian=False) | {"PixelData": None, "BitsStored": None, "HighBit": None}
    return whole | {"PixelRepresentation": None, "BitsAllocated": bits, keyword: values.tobytes()}


def _files(u: np.ndarray, wide: np.ndarray) -> dict[str, FileDataset]:
    encode_2000 = saved("JPEG2000", irreversible=False, no_jp2=True)
    return {
        "implicit": dataset(wide * 257, IMPLICIT),
        "implicit_tables": dataset(255 - u, IMPLICIT, VOILUTSequence=table(0, 255 - np.arange(256), 8)),
        "big_endian": dataset(u, BIG),
        "big_endian_16": dataset(wide * 257, BIG),
        "big_endian_tables": dataset(wide, BIG, VOILUTSequence=table(0, np.arange(256) * 257, 16)),
        "deflated": dataset(u, DEFLATED),
        "one_frame": dataset(u, NumberOfFrames=1),
        "functional_groups": dataset(wide, NumberOfFrames=1, SharedFunctionalGroupsSequence=[_window_group()]),
        "rle": compressed(u, run_length, RLE),
        "rle_16": compressed(wide * 257, run_length, RLE),
        "jpeg_ls": compressed(u, lambda pixels: bytes(jpeg_ls.encode(pixels)), JPEG_LS),
        "jpeg_ls_signed": compressed(
            wide.astype(np.int16) * 128 - 16000, lambda pixels: bytes(jpeg_ls.encode(pixels.view(np.uint16))), JPEG_LS
        ),
        "jpeg_2000": compressed(u, encode_2000, JPEG_2000),
        "jpeg_2000_16": compressed(wide * 257, encode_2000, JPEG_2000),
        "jp2": compressed(u, saved("JPEG2000", irreversible=False, no_jp2=False), JPEG_2000),
    }


def _window_group() -> Dataset:
    window = Dataset()
    window.WindowCenter, window.WindowWidth = 128, 256
    group = Dataset()
    group.FrameVOILUTSequence = [window]
    return group


def highdicom_capture(u: np.ndarray) -> FileDataset:
    """Make a secondary capture with another library."""
    return highdicom.sc.SCImage(
        pixel_array=u,
        photometric_interpretation="MONOCHROME2",
        bits_allocated=8,
        coordinate_system="PATIENT",
        study_instance_uid=generate_uid(),
        series_instance_uid=generate_uid(),
        sop_instance_uid=generate_uid(),
        series_number=1,
        instance_number=1,
        manufacturer="test",
        patient_orientation=("L", "P"),
    )


def equivalent_encodings(folder: Path) -> dict[str, Path]:
    """Write :func:`picture` in all encodings.

    Args:
        folder: an existing, empty folder.

    Returns:
        path by name of the encoding; all are to be read as ``picture() / 255``.
    """
    u, paths = picture(), {}
    for name, image in pictures(u).items():
        paths[name.split(".")[0]] = folder / name
        image.save(folder / name)
    for name, made in datasets(u).items():
        paths[name] = folder / f"{name}.dcm"
        made.save_as(paths[name])
    for name, syntax in {"no_meta_explicit": EXPLICIT, "no_meta_implicit": IMPLICIT}.items():
        whole = BytesIO()
        dataset(u, syntax).save_as(whole)
        paths[name] = folder / name
        paths[name].write_bytes(whole.getvalue()[whole.getvalue().index(b"\x08\x00\x16\x00") :])  # from SOPClassUID on
    return paths
