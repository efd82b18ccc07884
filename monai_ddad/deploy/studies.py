"""Files of a folder, sorted into images to score; what cannot be used is kept with its reason."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID

from monai_ddad.data.files import PICTURE_SUFFIXES
from monai_ddad.data.series import series_key
from monai_ddad.transforms import ImageReadError
from monai_ddad.transforms.formats.dicom_file import looks_like_dicom, parse_dicom
from monai_ddad.transforms.formats.quiet import quiet
from monai_ddad.transforms.read import MAX_BYTES

__all__ = [
    "Instance",
    "ScoredImage",
    "Unusable",
    "group_instances",
    "list_files",
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
        positions: of the files, in the sorted list of all files.
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
    """Read a DICOM file whole, with the limits of :func:`monai_ddad.transforms.formats.dicom_file.parse_dicom`.

    Raises:
        ImageReadError: it cannot be read, or lacks what a result needs to refer to it.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ImageReadError(f"the file is larger than {MAX_BYTES} bytes")
        content = path.read_bytes()
    except OSError as error:
        raise ImageReadError(f"the file cannot be read ({error.strerror})") from None
    if not content:
        raise ImageReadError("the file is empty")
    if not looks_like_dicom(content[:256]):
        raise ImageReadError("neither a DICOM file nor a picture")
    with quiet:
        file = parse_dicom(content)
        for keyword in (*NEEDED, "Modality", *DESCRIBING):
            try:
                value = file.dataset.get(keyword)
            except Exception:  # an element of a damaged file raises almost anything
                raise ImageReadError(f"{keyword} of the header is damaged") from None
            if keyword in NEEDED and not value:
                raise ImageReadError(f"{keyword} is missing from the header")
            if keyword not in DESCRIBING and not isinstance(value or "", str):
                raise ImageReadError(f"{keyword} of the header is not one value")
        file.dataset.file_meta = FileMetaDataset()
        file.dataset.file_meta.TransferSyntaxUID = UID(file.syntax)
    return file.dataset


def list_files(folder: Path) -> list[Path]:
    """Return all files of a folder and its subfolders, sorted by path; hidden ones and DICOMDIR are left out."""
    paths = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return sorted(path for path in paths if path.name.upper() != "DICOMDIR")


def list_pictures(folder: Path) -> list[ScoredImage]:
    """Return the PNG, JPEG, TIFF, BMP and NIfTI files of a folder, by their positions among all files."""
    return [
        ScoredImage((position,), path)
        for position, path in enumerate(list_files(folder))
        if path.name.lower().endswith(PICTURE_SUFFIXES)
    ]


def read_folder(folder: Path) -> tuple[list[Instance], list[Unusable]]:
    """Read the files of a folder that are no pictures; see :func:`list_files`.

    Returns:
        DICOM files, and what is none or a copy of one.
    """
    instances: list[Instance] = []
    unusable: list[Unusable] = []
    known: set[str] = set()
    for position, path in enumerate(list_files(folder)):
        if path.name.lower().endswith(PICTURE_SUFFIXES):
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
    return instances, unusable


def group_instances(instances: Iterable[Instance]) -> list[ScoredImage]:
    """Put the slices of one volume together; films and photographs stay single.

    See :func:`monai_ddad.data.series.series_key` for what makes a volume.
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
