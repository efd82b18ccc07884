"""Operators of the MONAI Deploy App SDK around a DDAD bundle."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai.deploy.core import ConditionType, Fragment, Operator, OperatorSpec
from monai.deploy.core.domain.dicom_series import DICOMSeries
from monai.deploy.core.domain.dicom_series_selection import StudySelectedSeries
from monai.deploy.core.domain.dicom_study import DICOMStudy
from monai.deploy.operators import DICOMDataLoaderOperator, DICOMSeriesSelectorOperator
from pydicom.dataset import Dataset

from monai_ddad.decision.finding import Result
from monai_ddad.deploy.dicom_objects import OBJECTS, draw_overlay
from monai_ddad.deploy.findings import ImageFinding, Model
from monai_ddad.deploy.kinds import DEFAULT_KINDS, KINDS
from monai_ddad.deploy.studies import Instance, ScoredImage, Unusable, group_instances, list_pictures, read_folder
from monai_ddad.io.files import LeftOut
from monai_ddad.io.formats.quiet import quiet
from monai_ddad.io.writing import atomic_file, write_picture

__all__ = [
    "AnomalyOperator",
    "DicomWriterOperator",
    "JsonWriterOperator",
    "PictureLoaderOperator",
    "SeriesSelectorOperator",
    "StudyLoaderOperator",
    "Written",
]

logger = logging.getLogger(__name__)

SERIES = (
    "SeriesDate",
    "SeriesTime",
    "SeriesDescription",
    "SeriesNumber",
    "Modality",
    "BodyPartExamined",
    "PatientPosition",
)
POSITION = "ddad_position"  # attribute of a data set: the position of its file
NOT_SELECTED = "a series that the selection rules leave out, as of another modality, or cannot be applied to"


class StudyLoaderOperator(DICOMDataLoaderOperator):
    """Load the DICOM studies and the pictures of a folder; a file that cannot be read does not stop the others.

    Unlike the SDK's own loader, it bounds what it reads, keeps images at the same place in the patient, which a reader
    has to refuse rather than choose from, and writes neither paths nor values to the log.

    Named output:
        dicom_study_list: list of ``DICOMStudy``.
        pictures: list of :class:`monai_ddad.deploy.studies.ScoredImage`, of PNG, JPEG, TIFF, BMP and NIfTI files.

    Args:
        fragment: the application.
        input_folder: the folder.
        unusable: list to which files are added that cannot be used.
        left_out: is added to: how many entries of the folder are no images, by reason.
    """

    def __init__(
        self,
        fragment: Fragment,
        *args: Any,
        input_folder: Path,
        unusable: list[Unusable] | None = None,
        left_out: LeftOut | None = None,
        **kwargs: Any,
    ) -> None:
        self.unusable = [] if unusable is None else unusable
        self.left_out = LeftOut() if left_out is None else left_out
        super().__init__(fragment, *args, input_folder=input_folder, must_load=False, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """Name the ports."""
        super().setup(spec)
        spec.output("pictures").condition(ConditionType.NONE)

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Load the folder."""
        instances, unusable, pictures = read_folder(Path(self.input_path), self.left_out)
        self.unusable += unusable
        op_output.emit(self.to_studies(instances), self.output_name)
        op_output.emit(pictures, "pictures")

    def to_studies(self, instances: Sequence[Instance]) -> list[DICOMStudy]:
        """Sort instances by study and series."""
        studies: dict[str, DICOMStudy] = {}
        series: dict[tuple[str, str], DICOMSeries] = {}
        with quiet:
            for instance in instances:
                dataset = instance.dataset
                setattr(dataset, POSITION, instance.position)
                study, of_series = str(dataset.StudyInstanceUID), str(dataset.SeriesInstanceUID)
                if study not in studies:
                    studies[study] = DICOMStudy(study)
                    self.populate_study_attributes(studies[study], dataset)
                if (study, of_series) not in series:
                    made = series[study, of_series] = DICOMSeries(of_series)
                    for keyword in SERIES:
                        setattr(made, keyword, dataset.get(keyword))
                    studies[study].add_series(made)
                series[study, of_series].add_sop_instance(dataset)
        return list(studies.values())


class PictureLoaderOperator(Operator):
    """List the PNG, JPEG, TIFF, BMP and NIfTI files of a folder.

    Named output:
        pictures: list of :class:`monai_ddad.deploy.studies.ScoredImage`.

    Args:
        fragment: the application.
        input_folder: the folder.
    """

    def __init__(self, fragment: Fragment, *args: Any, input_folder: Path, **kwargs: Any) -> None:
        self.input_folder = input_folder
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """Name the port."""
        spec.output("pictures")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """List the folder."""
        op_output.emit(list_pictures(self.input_folder), "pictures")


class SeriesSelectorOperator(DICOMSeriesSelectorOperator):
    """Select every series that the rules match, and say of the others that they were not selected.

    Args:
        fragment: the application.
        rules: JSON in the SDK's format; empty selects every series.
        unusable: list to which the files of other series are added.
    """

    def __init__(
        self, fragment: Fragment, *args: Any, rules: str = "", unusable: list[Unusable] | None = None, **kwargs: Any
    ) -> None:
        self.unusable = [] if unusable is None else unusable
        super().__init__(fragment, *args, rules=rules, all_matched=True, **kwargs)

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Select what arrived; what the SDK's operator logs through the root logger, values of headers, is dropped."""
        logging.root.disabled = True
        try:
            super().compute(op_input, op_output, context)
        finally:
            logging.root.disabled = False

    def filter(
        self,
        selection_rules: Any,
        dicom_study_list: list[DICOMStudy],
        all_matched: bool = False,
        sort_by_sop_instance_count: bool = False,
    ) -> list[StudySelectedSeries]:
        """Select; see the SDK's operator."""
        chosen: list[StudySelectedSeries] = []
        for study in dicom_study_list:
            with contextlib.suppress(AttributeError, NotImplementedError, TypeError, ValueError):  # its headers are odd
                chosen += super().filter(selection_rules, [study], all_matched, sort_by_sop_instance_count)
        kept = {id(one.series) for study in chosen for one in study.selected_series}
        left_out = [series for study in dicom_study_list for series in study.get_all_series() if id(series) not in kept]
        for series in left_out:
            positions = [_position(sop.get_native_sop_instance(), -1) for sop in series.get_sop_instances()]
            self.unusable.append(Unusable(tuple(positions), NOT_SELECTED))
        return chosen


class AnomalyOperator(Operator):
    """Score films, photographs and series, a few at a time.

    Named input:
        study_selected_series_list: list of ``StudySelectedSeries``, of this module's loader or the SDK's; may be
            missing.
        pictures: list of :class:`monai_ddad.deploy.studies.ScoredImage`; may be missing.

    Named output:
        findings: iterator of :class:`monai_ddad.deploy.findings.ImageFinding`, which are computed as they are taken, so
            that few maps are in memory at a time; for one receiver.

    The images are read from the DICOM data sets by the bundle's own transforms, so the score is that of the bundle.

    Args:
        fragment: the application.
        model: the bundle, loaded once.
        ports: the inputs that are connected.
        unusable: list to which images are added that cannot be read, as they are come to.
    """

    def __init__(
        self,
        fragment: Fragment,
        *args: Any,
        model: Model,
        ports: Sequence[str] = ("study_selected_series_list",),
        unusable: list[Unusable] | None = None,
        **kwargs: Any,
    ) -> None:
        self.model = model
        self.ports = tuple(ports)
        self.unusable = [] if unusable is None else unusable
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """Name the ports."""
        for port in self.ports:
            spec.input(port)
        spec.output("findings")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Score what arrived."""
        images: list[ScoredImage] = []
        for port in self.ports:
            arrived = op_input.receive(port)
            images += arrived if port == "pictures" else _selected_images(arrived)
        op_output.emit(self._find(images), "findings")

    def _find(self, images: Sequence[ScoredImage]) -> Iterator[ImageFinding]:
        for found in self.model.find(images):
            if isinstance(found, Unusable):
                self.unusable.append(found)
            else:
                yield found


def _selected_images(studies: Sequence[StudySelectedSeries]) -> list[ScoredImage]:
    datasets: dict[int, Dataset] = {}  # a series may be selected twice
    for study in studies:
        for selected in study.selected_series:
            for sop in selected.series.get_sop_instances():
                datasets[id(sop)] = sop.get_native_sop_instance()
    return group_instances(Instance(_position(data, number), data) for number, data in enumerate(datasets.values()))


def _position(dataset: Dataset, otherwise: int) -> int:
    return int(getattr(dataset, POSITION, otherwise))


@dataclass(frozen=True)
class Written:
    """What was written of an image.

    Attributes:
        image: the film, photograph or volume.
        result: what is found of it.
        files: names of what was written.
        failed: why an object could not be written, by its kind.
    """

    image: ScoredImage
    result: Result
    files: list[str]
    failed: dict[str, str]


class DicomWriterOperator(Operator):
    """Write what is found of DICOM images as DICOM objects, and overlays of pictures as PNG.

    Files are named after the position of the image's first file, such as ``000000_overlay.dcm``. Each appears when it
    is complete.

    Named input:
        findings: iterable of :class:`monai_ddad.deploy.findings.ImageFinding`.

    Named output:
        written: list of :class:`Written`, one for each; no receiver is needed.

    Args:
        fragment: the application.
        model: the model that found it.
        output_folder: folder to write to.
        objects: what to write, names of :data:`monai_ddad.deploy.kinds.KINDS`.
    """

    def __init__(
        self,
        fragment: Fragment,
        *args: Any,
        model: Model,
        output_folder: Path,
        objects: Sequence[str] = DEFAULT_KINDS,
        **kwargs: Any,
    ) -> None:
        if set(objects) - set(KINDS):
            raise ValueError(f"objects must be among {', '.join(KINDS)}.")
        self.model = model
        self.output_folder = output_folder
        self.objects = tuple(objects)
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """Name the ports."""
        spec.input("findings")
        spec.output("written").condition(ConditionType.NONE)

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Write the files."""
        op_output.emit([self._write(finding) for finding in op_input.receive("findings")], "written")

    def _write(self, finding: ImageFinding) -> Written:
        stem = f"{finding.image.positions[0]:06d}"
        if not finding.image.datasets:
            write_picture(self.output_folder / f"{stem}_overlay.png", draw_overlay(finding, self.model))
            return Written(finding.image, finding.result, [f"{stem}_overlay.png"], {})
        names, failed = [], {}
        for kind in self.objects:
            try:
                with quiet:  # highdicom's warnings quote what they object to
                    content = io.BytesIO()  # pydicom hides why a file cannot be written
                    OBJECTS[kind](finding, self.model).save_as(content, enforce_file_format=True)
            except OSError:
                raise
            except Exception as error:  # odd headers end in almost any error
                failed[kind] = f"it cannot be made of such a header ({type(error).__name__})"
            else:
                with atomic_file(self.output_folder / f"{stem}_{kind}.dcm") as file:
                    file.write(content.getbuffer())
                names.append(f"{stem}_{kind}.dcm")
        return Written(finding.image, finding.result, names, failed)


class JsonWriterOperator(Operator):
    """Write ``results.json``: what was found of each image, by the positions of its files, and what cannot be used.

    Named input:
        written: list of :class:`Written`.

    Args:
        fragment: the application.
        model: the model that found it.
        output_folder: folder to write to.
        unusable: what cannot be used.
        left_out: how many entries of the folder are no images, by reason.
        results: list to which the rows of the images are added.
        identifiers: also write the UIDs of study, series and SOP instances, by which a patient can be found.
    """

    def __init__(
        self,
        fragment: Fragment,
        *args: Any,
        model: Model,
        output_folder: Path,
        unusable: list[Unusable],
        left_out: LeftOut | None = None,
        results: list[dict[str, Any]] | None = None,
        identifiers: bool = False,
        **kwargs: Any,
    ) -> None:
        self.model = model
        self.output_folder = output_folder
        self.unusable = unusable
        self.left_out = LeftOut() if left_out is None else left_out
        self.results = [] if results is None else results
        self.identifiers = identifiers
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """Name the port."""
        spec.input("written")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Write the file."""
        self.results += [self._row(one) for one in op_input.receive("written")]
        unusable = [
            {"files": list(one.positions), "reason": one.reason}
            for one in sorted(self.unusable, key=lambda one: one.positions)
        ]
        content = {
            "model": {"name": self.model.name, "version": self.model.version, "software": self.model.software},
            "alpha": self.model.alpha,
            "percentile": self.model.percentile,
            "notice": "research use, not a diagnosis",
            "images": self.results,
            "unusable": unusable,
            "left_out": dict(self.left_out),
        }
        with atomic_file(self.output_folder / "results.json") as file:
            file.write(json.dumps(content, indent=2).encode() + os.linesep.encode())
        for one in self.unusable:
            several = f" and {len(one.positions) - 1} more" if len(one.positions) > 1 else ""
            logger.warning(f"file {one.positions[0]}{several} not used: {one.reason}")
        for row in self.results:
            for kind, reason in row["not_written"].items():
                logger.warning(f"the {kind} of file {row['files'][0]} is not written: {reason}")
        unused = sum(len(one.positions) for one in self.unusable)
        logger.info(f"{len(self.results)} images are scored, {unused} files are not used")

    def _row(self, one: Written) -> dict[str, Any]:
        row = {"files": list(one.image.positions), **one.result.summary()}
        row |= {"written": one.files, "not_written": one.failed}
        if self.identifiers and one.image.datasets:
            first = one.image.datasets[0]
            row["study"], row["series"] = str(first.StudyInstanceUID), str(first.SeriesInstanceUID)
            row["instances"] = [str(dataset.SOPInstanceUID) for dataset in one.image.datasets]
        return row
