"""Files of a folder, sorted into images to score; what cannot be used is kept with its reason."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset

from monai_ddad.io.files import HEAD, PICTURE_SUFFIXES, LeftOut, find_files, log_left_out, looks_like_dicom
from monai_ddad.io.formats.dicom_parse import parse_dicom
from monai_ddad.io.formats.opening import open_image
from monai_ddad.io.formats.quiet import quiet
from monai_ddad.io.series import series_key
from monai_ddad.transforms import ImageReadError

__all__ = [
    "Instance",
    "ScoredImage",
    "Unusable",
    "group_instances",
    "list_pictures",
    "read_folder",
    "read_instance",
]

NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")  # to refer to an image
DESCRIBING = (  # by which studies and series are told apart and selected
    "StudyID",
    "StudyDate",
    "StudyTime",
    "StudyDescription",
    "AccessionNumber",
    "SeriesDate",
    "SeriesTime",
    "SeriesDescription",
    "SeriesNumber",
    "BodyPartExamined",
    "PatientPosition",
)


@dataclass(frozen=True)
class Unusable:
    """Files that give no result.

    Attributes:
        positions: of the files, in the sorted list of all image files.
        reason: one sentence, without anything from a header or a path.
    """

    positions: tuple[int, ...]
    reason: str


@dataclass(frozen=True)
class Instance:
    """A DICOM file.

    Attributes:
        position: of the file.
        dataset: its elements, with pixel data and ``file_meta``.
    """

    position: int
    dataset: Dataset


@dataclass(frozen=True)
class ScoredImage:
    """One film, photograph or volume.

    Attributes:
        positions: of its files.
        source: what :class:`monai_ddad.transforms.ReadImage` takes: the path of a picture file, a DICOM data set, or
            the data sets of the slices of one volume.
    """

    positions: tuple[int, ...]
    source: Path | Dataset | list[Dataset]

    @property
    def datasets(self) -> list[Dataset]:
        """DICOM data sets of the image; none of a picture file."""
        if isinstance(self.source, Path):
            return []
        return self.source if isinstance(self.source, list) else [self.source]


def read_instance(path: Path) -> Dataset:
    """Read a DICOM file whole, with the limits of :func:`monai_ddad.io.formats.dicom_parse.parse_dicom`.

    Raises:
        ImageReadError: it cannot be read, or lacks what a result needs to refer to it.
    """
    with quiet, open_image(path) as opened:
        head = opened.read(HEAD)
        if not head:
            raise ImageReadError("the file is empty")
        if not looks_like_dicom(head):
            raise ImageReadError("neither a DICOM file nor a picture")
        file = parse_dicom(opened)
        for keyword in (*NEEDED, "Modality", *DESCRIBING):
            try:
                value = file.dataset.get(keyword)
            except Exception:  # an element of a damaged file raises almost anything
                raise ImageReadError(f"{keyword} of the header is damaged") from None
            if keyword in NEEDED and not value:
                raise ImageReadError(f"{keyword} is missing from the header")
            if keyword not in DESCRIBING and not isinstance(value or "", str):
                raise ImageReadError(f"{keyword} of the header is not one value")
    return file.dataset


def list_pictures(folder: Path) -> list[ScoredImage]:
    """Return the PNG, JPEG, TIFF, BMP and NIfTI files of a folder, by their positions among all image files."""
    return _pictures(_list_files(folder, LeftOut()))


def read_folder(
    folder: Path, left_out: LeftOut | None = None
) -> tuple[list[Instance], list[Unusable], list[ScoredImage]]:
    """Read the DICOM files of a folder and list its pictures, in the order of their paths.

    Args:
        folder: see :func:`monai_ddad.io.files.walk`.
        left_out: is added to: how many entries are no images, by reason, which is also logged.

    Returns:
        DICOM files, what is none or a copy of one, and pictures.
    """
    files = _list_files(folder, LeftOut() if left_out is None else left_out)
    instances: list[Instance] = []
    unusable: list[Unusable] = []
    known: set[str] = set()
    for position, path in enumerate(files):
        if _is_picture(path):
            continue
        try:
            dataset = read_instance(path)
        except ImageReadError as error:
            unusable.append(Unusable((position,), str(error)))
            continue
        if dataset.SOPInstanceUID in known:
            unusable.append(Unusable((position,), "a second file of the same SOP instance"))
            continue
        known.add(dataset.SOPInstanceUID)
        instances.append(Instance(position, dataset))
    return instances, unusable, _pictures(files)


def _list_files(folder: Path, left_out: LeftOut) -> list[Path]:
    files = find_files(folder, left_out)
    log_left_out(left_out)
    return files


def _pictures(files: Sequence[Path]) -> list[ScoredImage]:
    return [ScoredImage((position,), path) for position, path in enumerate(files) if _is_picture(path)]


def _is_picture(path: Path) -> bool:
    return path.name.lower().endswith(PICTURE_SUFFIXES)


def group_instances(instances: Iterable[Instance]) -> list[ScoredImage]:
    """Put the slices of one volume together; films and photographs stay single.

    See :func:`monai_ddad.io.series.series_key` for what makes a volume.
    """
    groups: dict[Hashable, list[Instance]] = {}
    with quiet:
        for instance in instances:
            key = series_key(instance.dataset)
            groups.setdefault(instance.position if key is None else key, []).append(instance)
    return [_image(group) for group in groups.values()]


def _image(group: Sequence[Instance]) -> ScoredImage:
    datasets = [instance.dataset for instance in group]
    positions = tuple(instance.position for instance in group)
    return ScoredImage(positions, datasets[0] if len(datasets) == 1 else datasets)
