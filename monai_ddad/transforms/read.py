"""Reading image files: the only place that turns a file into pixel values."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Callable, Collection, Hashable, Mapping
from typing import Any, BinaryIO, cast

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from monai.utils import MetaKeys, SpaceKeys
from pydicom.dataset import Dataset

from monai_ddad.io.files import HIDDEN, LeftOut, describe, find_files, looks_like_dicom
from monai_ddad.io.formats.decoded import DecodedImage, ImageReadError, in_channels_of
from monai_ddad.io.formats.dicom import check_kind, read_dicom, read_series
from monai_ddad.io.formats.dicom_file import DicomFile, Header
from monai_ddad.io.formats.dicom_parse import parse_dicom
from monai_ddad.io.formats.nifti import NIFTI_HEAD, looks_like_nifti, read_nifti
from monai_ddad.io.formats.opening import open_image
from monai_ddad.io.formats.picture import read_picture
from monai_ddad.io.formats.quiet import quiet

__all__ = ["SOURCE", "ImageReadError", "KeepSource", "ReadImage", "ReadImaged", "Source"]

File = str | os.PathLike[str] | Dataset
Source = File | list[File] | tuple[File, ...] | MetaTensor

GZIP = b"\x1f\x8b"
ANY = "any"  # kind of image
SOURCE = "source"  # key of the image as it was read, beside the prepared one


class ReadImage(Transform):
    """Read a DICOM, NIfTI, PNG, JPEG, TIFF or BMP image, whichever its content says it is, to grey levels in [0, 1].

    Pictures keep rows and columns; volumes have nibabel's axes and their affine. The levels are those a viewer shows:
    DICOM rescale, window and inversion are applied once, 8-bit values are u / 255, and what is deeper and has no window
    goes from its smallest to its largest value. ``meta["photometry"]`` says what was done, and an image that carries it
    is returned as it is; ``meta["pixel_size"]`` is the (row, column) spacing of a picture in mm, where the file says.

    Args:
        in_channels: 1 for grey, 3 for RGB.
        modalities: accepted values of a DICOM file's Modality, such as ``("CR", "DX")``; None or ``"any"`` for all.
        body_parts: accepted values of its BodyPartExamined, where that is not empty; None or ``"any"`` for all.

    Raises:
        ValueError: ``in_channels`` is another number, or a single string is given for a collection.

    Source: method.md section 1 (8 bits, or minimum to maximum); DICOM PS3.3 C.11 and PS3.4 N.2.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("L", (30, 40), 51).save(f"{folder}/a.png")
        ...     image = ReadImage()(f"{folder}/a.png")
        >>> image.shape, image.max().item(), image.meta["photometry"]["range"]
        (torch.Size([1, 40, 30]), 0.20000000298023224, 'eight bits')
    """

    def __init__(
        self,
        in_channels: int = 1,
        modalities: Collection[str] | None = None,
        body_parts: Collection[str] | None = None,
    ) -> None:
        if in_channels not in (1, 3):
            raise ValueError(f"in_channels must be 1 (grey) or 3 (RGB), got {in_channels}.")
        modalities, body_parts = (None if kinds == ANY else kinds for kinds in (modalities, body_parts))
        if isinstance(modalities, str) or isinstance(body_parts, str):
            raise ValueError("modalities and body_parts must be any, or lists of strings such as ['CR', 'DX'].")
        self.in_channels = in_channels
        self.modalities = modalities
        self.body_parts = body_parts

    def __call__(self, source: Source) -> MetaTensor:
        """Read one image.

        Args:
            source: path of a file, a ``pydicom.Dataset``, or a list of either, the slices of one DICOM series, also as
                the path of the folder that holds nothing else.

        Returns:
            (C, H, W) picture or (C, I, J, K) volume, float32 in [0, 1].

        Raises:
            ImageReadError: the file is missing, empty, truncated, damaged, not supported, too small or too large, or a
                DICOM image of another modality or body part; nothing else is raised for any file.
            TypeError: ``source`` is neither.
        """
        if isinstance(source, MetaTensor) and "photometry" in source.meta:
            return source
        files = list(source) if isinstance(source, (list, tuple)) else _in_folder(cast(File, source))
        for file in files:
            if not isinstance(file, (str, os.PathLike, Dataset)):
                raise TypeError(f"an image must be given as path or pydicom.Dataset, got {type(file).__name__}.")
        try:
            with quiet:
                decoded = self._decode(cast("list[File]", files))
                values = in_channels_of(decoded.values, self.in_channels)
        except ImageReadError:
            raise
        except Exception as error:  # readers of damaged files raise nearly anything, and quote what they read
            raise ImageReadError(f"the file is damaged ({type(error).__name__})") from None
        return _with_meta(values, decoded, "" if isinstance(files[0], Dataset) else os.fspath(cast(str, files[0])))

    def _decode(self, files: list[File]) -> DecodedImage:
        if not files:
            raise ImageReadError("an empty list, the slices of a series are expected")
        if len(files) > 1:
            return read_series((self._dicom(file) for file in files), len(files))
        if isinstance(files[0], Dataset):
            return read_dicom(self._accept(DicomFile.of(files[0])))
        with open_image(files[0]) as file:
            head = file.read(NIFTI_HEAD)
            file.seek(0)
            if not head:
                raise ImageReadError("the file is empty")
            if head.startswith(GZIP):
                return _read_gzip(file)
            if looks_like_dicom(head):
                return read_dicom(self._accept(parse_dicom(file)))
            if looks_like_nifti(head):
                return read_nifti(file)
            return read_picture(file, self.in_channels)

    def _dicom(self, source: File) -> DicomFile:
        """Take one slice of a series."""
        if isinstance(source, Dataset):
            return self._accept(DicomFile.of(source))
        with open_image(source) as file:
            head = file.read(NIFTI_HEAD)
            file.seek(0)
            if not looks_like_dicom(head):
                raise ImageReadError("a file of the series is no DICOM file")
            return self._accept(parse_dicom(file))

    def _accept(self, file: DicomFile) -> DicomFile:
        check_kind(Header(file.dataset), self.modalities, self.body_parts)
        return file


class ReadImaged(MapTransform):
    """Dictionary form of :class:`ReadImage`: replaces each key's source by the image.

    Args:
        keys: keys of the items to read.
        in_channels, modalities, body_parts: see :class:`ReadImage`.
        allow_missing_keys: don't raise an error if a key is missing.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (30, 40)).save(f"{folder}/a.png")
        ...     ReadImaged("image", in_channels=3)({"image": f"{folder}/a.png"})["image"].shape
        torch.Size([3, 40, 30])
    """

    def __init__(
        self,
        keys: KeysCollection,
        in_channels: int = 1,
        modalities: Collection[str] | None = None,
        body_parts: Collection[str] | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.read = ReadImage(in_channels, modalities, body_parts)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Read the sources named by the keys; see :class:`ReadImage` for result and errors."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.read(result[key])
        return result


class KeepSource(Transform):
    """Read and prepare an item, and keep the image as it was read beside what was made of it.

    Args:
        reading: the transform that reads, such as :class:`ReadImaged` of ``"image"``.
        preparation: begins with it, and leaves an image that was read already as it is.

    Example:
        >>> reading = ReadImaged("image")
        >>> kept = KeepSource(reading, lambda item: {"image": reading(item)["image"] * 2})
        >>> image = MetaTensor(torch.ones(1, 4, 4), meta={"photometry": {}})
        >>> item = kept({"image": image})
        >>> item["source"] is image, item["image"].max().item()
        (True, 2.0)
    """

    def __init__(
        self, reading: Callable[[dict[str, Any]], dict[str, Any]], preparation: Callable[[dict[str, Any]], Any]
    ) -> None:
        self.reading = reading
        self.preparation = preparation

    def __call__(self, data: dict[str, Any]) -> dict[str, Any] | list[dict[str, Any]]:
        """Return the prepared item, or items of a volume's slices, with the image as it was read as ``"source"``."""
        read = self.reading(data)
        parts = self.preparation(read)
        kept = {SOURCE: read["image"]}
        return parts | kept if isinstance(parts, dict) else [part | kept for part in parts]


def _in_folder(source: File) -> list[File]:
    """Return the files in a folder, which are the slices of one series; what is no folder as it is."""
    if not isinstance(source, (str, os.PathLike)) or not os.fspath(source) or not os.path.isdir(source):
        return [source]
    left_out = LeftOut()
    files = find_files(source, left_out)
    if set(left_out) - {HIDDEN}:
        raise ImageReadError(f"the folder holds more than the files of one series: {describe(left_out)}")
    if not files:
        raise ImageReadError("the folder is empty")
    return list(files)


def _read_gzip(file: BinaryIO) -> DecodedImage:
    with gzip.GzipFile(fileobj=file) as unpacked:
        try:
            head = unpacked.read(NIFTI_HEAD)
            if not looks_like_nifti(head):
                raise ImageReadError("a gzip file that holds no NIfTI volume: unpack it first")
            unpacked.seek(0)
            return read_nifti(cast(BinaryIO, unpacked))
        except (EOFError, OSError, zlib.error):
            raise ImageReadError("the gzip file is truncated or damaged") from None


def _with_meta(values: np.ndarray, decoded: DecodedImage, name: str) -> MetaTensor:
    meta: dict[str, Any] = {
        MetaKeys.ORIGINAL_AFFINE: decoded.affine.copy(),
        MetaKeys.SPATIAL_SHAPE: np.array(values.shape[1:]),
        MetaKeys.ORIGINAL_CHANNEL_DIM: 0,
        MetaKeys.SPACE: SpaceKeys.RAS,
        "filename_or_obj": name,
        "photometry": decoded.photometry,
    }
    if decoded.pixel_size is not None:
        meta["pixel_size"] = decoded.pixel_size
    return MetaTensor(torch.from_numpy(values), affine=torch.from_numpy(decoded.affine), meta=meta)
