"""What objects take over of the headers of their images, and what they leave out.

An object carries the patient module and what identifies study and request, as they are, the history of lossy
compression, the study's date and time, UIDs and the geometry; no other texts.
"""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import (
    JPEG2000,
    UID,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSNearLossless,
    OphthalmicPhotography8BitImageStorage,
    OphthalmicPhotography16BitImageStorage,
    generate_uid,
)
from pydicom.valuerep import DA, TM

from monai_ddad.deploy.findings import EYE, ImageFinding, Model
from monai_ddad.io.formats.dicom_file import Header, functional_groups
from monai_ddad.io.formats.planes import Plane, pixel_size
from monai_ddad.io.formats.quiet import quiet
from monai_ddad.transforms import ImageReadError

__all__ = ["PATIENT", "REQUEST", "STUDY", "finish", "references", "requests"]

PATIENT = (  # PS3.3 C.7.1.1
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "TypeOfPatientID",
    "IssuerOfPatientIDQualifiersSequence",
    "SourcePatientGroupIdentificationSequence",
    "GroupOfPatientsIdentificationSequence",
    "PatientBirthDate",
    "PatientBirthDateInAlternativeCalendar",
    "PatientDeathDateInAlternativeCalendar",
    "PatientAlternativeCalendar",
    "PatientSex",
    "QualityControlSubject",
    "PatientBirthTime",
    "ReferencedPatientPhotoSequence",
    "ReferencedPatientSequence",
    "OtherPatientIDs",
    "OtherPatientIDsSequence",
    "OtherPatientNames",
    "EthnicGroup",
    "EthnicGroupCodeSequence",
    "PatientComments",
    "PatientSpeciesDescription",
    "PatientSpeciesCodeSequence",
    "PatientBreedDescription",
    "PatientBreedCodeSequence",
    "BreedRegistrationSequence",
    "StrainDescription",
    "StrainNomenclature",
    "StrainCodeSequence",
    "StrainAdditionalInformation",
    "StrainStockSequence",
    "GeneticModificationsSequence",
    "ResponsiblePerson",
    "ResponsiblePersonRole",
    "ResponsibleOrganization",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
)
STUDY = (  # of PS3.3 C.7.2.1, by which a study is matched with what was asked for
    "AccessionNumber",
    "IssuerOfAccessionNumberSequence",
    "StudyID",
    "ReferringPhysicianName",
)
REQUEST = (  # of PS3.3 table 10-9: numbers, UIDs and codes
    "AccessionNumber",
    "IssuerOfAccessionNumberSequence",
    "StudyInstanceUID",
    "ReferencedStudySequence",
    "RequestedProcedureID",
    "RequestedProcedureCodeSequence",
    "ScheduledProcedureStepID",
    "ScheduledProtocolCodeSequence",
)
KEPT = (  # UIDs, times and geometry, which hold no free text
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "StudyDate",
    "StudyTime",
    "FrameOfReferenceUID",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "SliceThickness",
)
MACROS = ("PixelMeasuresSequence", "PlanePositionSequence", "PlaneOrientationSequence")
GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
MULTIFRAME_IMAGES = (OphthalmicPhotography8BitImageStorage, OphthalmicPhotography16BitImageStorage)
EMPTY = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", *STUDY[::2], STUDY[3], "StudyDate", "StudyTime")
LOSSY = {  # PS3.3 C.7.6.1.1.5.1, by transfer syntax
    JPEGBaseline8Bit: "ISO_10918_1",
    JPEGExtended12Bit: "ISO_10918_1",
    JPEGLSNearLossless: "ISO_14495_1",
}
METHODS = LOSSY | {JPEG2000: "ISO_15444_1", JPEG2000Lossless: "ISO_15444_1"}


def references(finding: ImageFinding, model: Model) -> list[Dataset]:
    """Return stand-ins of the images for highdicom, which copies what it finds: with nothing but what may be copied.

    All say where they lie. A picture that has no place in the patient gets a frame of reference of its own, with the
    centre of its first pixel as origin, columns along x and rows along y, which is where ITK puts such a picture.
    """
    return [_stand_in(dataset, finding, model) for dataset in finding.image.datasets]


def _stand_in(dataset: Dataset, finding: ImageFinding, model: Model) -> Dataset:
    made = Dataset()
    for keyword in KEPT:
        if keyword in dataset:
            made[keyword] = copy.deepcopy(dataset[keyword])
    for keyword in EMPTY:
        if keyword not in made:
            setattr(made, keyword, None)
    made.Modality = dataset.get("Modality") or "OT"
    made.BodyPartExamined = model.body_part
    for keyword, parse in (("StudyDate", DA), ("StudyTime", TM)):
        with contextlib.suppress(ValueError, OverflowError):
            parse(made[keyword].value)
            continue
        made[keyword].value = None
    if finding.heat.affine is None:
        _place_picture(made, dataset)
    else:
        for groups in GROUPS:
            if groups in dataset:
                setattr(made, groups, [_geometry(group) for group in dataset[groups].value])
        if "FrameOfReferenceUID" not in made:
            made.FrameOfReferenceUID = generate_uid(entropy_srcs=["frame", str(dataset.SeriesInstanceUID)])
        if not made.get("SliceThickness"):
            made.SliceThickness = f"{np.linalg.norm(finding.heat.affine[:3, 2]):.6g}"
    made.file_meta = dataset.file_meta
    return made


def _geometry(group: Dataset) -> Dataset:
    kept = Dataset()
    for macro in MACROS:
        if macro in group:
            kept[macro] = copy.deepcopy(group[macro])
    return kept


def _place_picture(made: Dataset, dataset: Dataset) -> None:
    header = Header(*functional_groups(dataset, 1)[0], dataset)
    made.PixelSpacing = [f"{size:.10g}" for size in pixel_size(header) or (1.0, 1.0)]
    made.SliceThickness = made.get("SliceThickness") or 1
    try:
        plane = Plane.of(Header(made, *header.levels))
        made.ImagePositionPatient = [f"{value:.10g}" for value in plane.position]
        made.ImageOrientationPatient = [f"{value:.10g}" for value in (*plane.right, *plane.down)]
    except ImageReadError:
        made.ImagePositionPatient, made.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
        made.FrameOfReferenceUID = None
    if not made.get("FrameOfReferenceUID"):
        made.FrameOfReferenceUID = generate_uid(entropy_srcs=["frame", str(made.SOPInstanceUID)])
        made.PositionReferenceIndicator = None
    if made.SOPClassUID in MULTIFRAME_IMAGES or "NumberOfFrames" in made:
        made.NumberOfFrames = 1
        measures, orientation, position = Dataset(), Dataset(), Dataset()
        measures.PixelSpacing, measures.SliceThickness = made.PixelSpacing, made.SliceThickness
        orientation.ImageOrientationPatient = made.ImageOrientationPatient
        position.ImagePositionPatient = made.ImagePositionPatient
        shared, frame = Dataset(), Dataset()
        shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
        frame.PlanePositionSequence = [position]
        made.SharedFunctionalGroupsSequence, made.PerFrameFunctionalGroupsSequence = [shared], [frame]


def finish(made: Dataset, finding: ImageFinding, model: Model, description: str) -> Dataset:
    """Complete the header of an object: series, patient, study, request and the history of lossy compression."""
    source = finding.image.datasets[0]
    made.SeriesDescription = description
    made.BodyPartExamined = model.body_part
    if model.body_part == EYE and made.Modality != "SEG":  # where it may not be present
        side = source.get("ImageLaterality") or source.get("Laterality")
        made.Laterality = side if side in ("L", "R", "B") else None
    made.SpecificCharacterSet = "ISO_IR 192"
    original = _decoded(source, (*PATIENT, *STUDY))
    for keyword in (*PATIENT, *STUDY):
        if keyword in original:
            made[keyword] = original[keyword]
        elif keyword in made and keyword not in EMPTY:
            del made[keyword]
    if made.Modality != "SR":
        if requested := _requested(source):
            made.RequestAttributesSequence = requested
        for keyword, value in _lossy(finding.image.datasets).items():
            setattr(made, keyword, value)
    return made


def requests(source: Dataset) -> list[Dataset] | None:
    """Return what a report says of the requests that it answers; None where the image names none.

    Source: DICOM PS3.3 C.17.2 (Referenced Request Sequence); texts stay empty.
    """
    own = _decoded(source, STUDY)
    items = _requested(source) or ([Dataset()] if own.get("AccessionNumber") else [])
    for item in items:
        item.StudyInstanceUID = item.get("StudyInstanceUID") or source.StudyInstanceUID
        for keyword in ("AccessionNumber", "IssuerOfAccessionNumberSequence"):
            if not item.get("AccessionNumber") and own.get(keyword):
                item[keyword] = own[keyword]
        for keyword in ("ReferencedStudySequence", "RequestedProcedureCodeSequence"):
            setattr(item, keyword, item.get(keyword) or [])
        for keyword in (
            "AccessionNumber",
            "PlacerOrderNumberImagingServiceRequest",
            "FillerOrderNumberImagingServiceRequest",
            "RequestedProcedureID",
            "RequestedProcedureDescription",
        ):
            setattr(item, keyword, item.get(keyword))
        for keyword in ("ScheduledProcedureStepID", "ScheduledProtocolCodeSequence"):  # of the images' series alone
            if keyword in item:
                del item[keyword]
    return items or None


def _requested(source: Dataset) -> list[Dataset]:
    found = source.get("RequestAttributesSequence") or []
    return [_decoded(item, REQUEST, source) for item in found if isinstance(item, Dataset)]


def _decoded(source: Dataset, keywords: tuple[str, ...], whole: Dataset | None = None) -> Dataset:
    """Copy elements, their texts decoded by the character set of the whole data set."""
    copied = Dataset()
    with quiet:
        copied.SpecificCharacterSet = (source if whole is None else whole).get("SpecificCharacterSet")
        for keyword in keywords:
            if keyword in source:
                copied[keyword] = copy.deepcopy(source[keyword])
        copied.decode()
    del copied.SpecificCharacterSet
    return copied


def _lossy(datasets: list[Dataset]) -> dict[str, Any]:
    """Return the history of lossy compression: once lossy, what is made of an image says so, too.

    Source: DICOM PS3.3 C.7.6.1.1.5.
    """
    for dataset in datasets:
        syntax = UID(dataset.file_meta.TransferSyntaxUID)
        if dataset.get("LossyImageCompression") != "01" and syntax not in LOSSY:
            continue
        known = {"LossyImageCompression": "01"}
        ratio, method = (dataset.get(f"LossyImageCompression{name}") for name in ("Ratio", "Method"))
        if not ratio and syntax.is_compressed:
            ratio = f"{_stored_bytes(dataset) / len(dataset.PixelData):.4g}"
        method = method or METHODS.get(syntax)
        if ratio:
            known["LossyImageCompressionRatio"] = ratio
        if method:
            known["LossyImageCompressionMethod"] = method
        return known
    return {}


def _stored_bytes(dataset: Dataset) -> int:
    """Return the bytes that the pixels take without compression."""
    values = (
        dataset.Rows * dataset.Columns * dataset.get("SamplesPerPixel", 1) * int(dataset.get("NumberOfFrames") or 1)
    )
    return values * -(-dataset.BitsAllocated // 8)
