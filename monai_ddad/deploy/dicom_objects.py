"""DICOM objects that tell a workstation what was found: overlay, report, segmentation and parametric map.

An object is of the study of its images, in a series of its own, and refers to them. It carries the patient module of
the images as it is, and of the rest of their headers nothing but UIDs, the study's date and time, and the geometry.
"""

from __future__ import annotations

import contextlib
import copy
import textwrap
from collections.abc import Callable
from typing import Any

import highdicom as hd
import numpy as np
from highdicom.sr import CodedConcept
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import (
    ExplicitVRLittleEndian,
    OphthalmicPhotography8BitImageStorage,
    OphthalmicPhotography16BitImageStorage,
    generate_uid,
)
from pydicom.valuerep import DA, TM

from monai_ddad.deploy.findings import EYE, Finding, Model
from monai_ddad.outputs import add_colour_bar, overlay_heat_map
from monai_ddad.transforms.formats.quiet import quiet

__all__ = ["OBJECTS", "draw_overlay", "overlay", "parametric_map", "report", "segmentation"]

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
    "SpacingBetweenSlices",
)
PLACE = ("FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness")
MACROS = ("PixelMeasuresSequence", "PlanePositionSequence", "PlaneOrientationSequence")
MULTIFRAME_IMAGES = (OphthalmicPhotography8BitImageStorage, OphthalmicPhotography16BitImageStorage)
EMPTY = (  # what highdicom reads of an image, present or not
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
)
MAKER = "monai_ddad"
NOTICE = "RESEARCH USE, NOT A DIAGNOSIS"
SCHEME = "99DDAD"
PROCEDURES = {
    "CHEST": CodedConcept("399208008", "SCT", "Plain chest X-ray"),
    "HEAD": CodedConcept("816077007", "SCT", "MRI of brain"),
    "EYE": CodedConcept("252846004", "SCT", "Ophthalmic photography"),
}
IMAGING = CodedConcept("363679005", "SCT", "Imaging")


def draw_overlay(finding: Finding, model: Model) -> Image.Image:
    """Draw the map over the picture, or over the highest slice, with a colour bar and what is found below it."""
    result = finding.result
    picture = add_colour_bar(overlay_heat_map(finding.heat.image(), finding.picture_percentiles))
    lines = [f"{result.score} {result.scores[result.score]:.4g}   {_decision(finding, model)}"]
    if result.map != result.score:
        lines.append(f"shown is the map {result.map}")
    if finding.heat.slice is not None:
        lines.append(f"mean of {result.slices} slices, shown is slice {finding.heat.slice} of the volume, from 0")
    if result.out_of_protocol:
        lines.append(f"OUT OF PROTOCOL: {result.out_of_protocol}")
    lines += result.notes
    lines += [f"DDAD {model.name} {model.version}", NOTICE]
    size = max(12, picture.width // 45)
    font = ImageFont.load_default(size)
    lines = [part for line in lines for part in textwrap.wrap(line, round(1.8 * picture.width / size))]
    canvas = Image.new("RGB", (picture.width, picture.height + round(1.4 * size * len(lines)) + size), "black")
    canvas.paste(picture, (0, 0))
    draw = ImageDraw.Draw(canvas)
    for number, line in enumerate(lines):
        draw.text((size // 2, picture.height + size // 2 + 1.4 * size * number), line, font=font, fill="white")
    return canvas


def _decision(finding: Finding, model: Model) -> str:
    result = finding.result
    if result.p_value is None:
        return "not calibrated"
    decision = "FLAGGED" if result.flagged else "not flagged"
    return f"percentile {result.percentile:.1f}   p {result.p_value:.3g}   alpha {model.alpha:g}   {decision}"


def overlay(finding: Finding, model: Model) -> Dataset:
    """Make a Secondary Capture of :func:`draw_overlay`."""
    sources = _references(finding, model)
    made = hd.sc.SCImage.from_ref_dataset(
        ref_dataset=sources[0],
        pixel_array=np.asarray(draw_overlay(finding, model)),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "F"),
        manufacturer=MAKER,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        **_uids(finding, model, 901),
    )
    made["PatientOrientation"].value = None  # that of the source would also have to hold for the caption
    made.ManufacturerModelName, made.SoftwareVersions = model.name, model.software
    made.ImageType = ["DERIVED", "SECONDARY"]
    made.BurnedInAnnotation = "YES"
    made.DerivationDescription = f"Anomaly overlay of {model.name} {model.version}. {NOTICE.capitalize()}."
    made.SourceImageSequence = [_reference(source) for source in sources]
    return _finish(made, finding, model, "DDAD overlay")


def _reference(source: Dataset) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    return reference


def segmentation(finding: Finding, model: Model) -> Dataset:
    """Make a Segmentation of the region above the chosen percentile, one segment."""
    sources = [
        _placed(source) if source.SOPClassUID in MULTIFRAME_IMAGES else source for source in _references(finding, model)
    ]
    algorithm = hd.AlgorithmIdentificationSequence(
        name="DDAD", family=codes.DCM.ArtificialIntelligence, version=model.version, source=MAKER
    )
    segment = hd.seg.SegmentDescription(
        segment_number=1,
        segment_label=f"Anomaly > {_level(model)}",
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Lesion,
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm,
        tracking_uid=generate_uid(),
        tracking_id="anomaly",
    )
    made = hd.seg.Segmentation(
        source_images=sources,
        pixel_array=_frames(finding, finding.region),
        segmentation_type="BINARY",
        segment_descriptions=[segment],
        omit_empty_frames=len(_order(finding)) > 1,
        content_label="DDAD",
        content_description=f"Anomaly map above {_level(model)}",
        **_equipment(model),
        **_uids(finding, model, 902),
    )
    if "FrameOfReferenceUID" not in made:
        made.PatientOrientation = None
    return _finish(made, finding, model, "DDAD anomalous region")


def _level(model: Model) -> str:
    """Name the level above which a pixel belongs to the region."""
    return f"{model.percentile:g} % of normal pixels"


def parametric_map(finding: Finding, model: Model) -> Dataset:
    """Make a Parametric Map of the anomaly map, float32; a film gets a frame of reference of its own."""
    sources = [source if "FrameOfReferenceUID" in source else _placed(source) for source in _references(finding, model)]
    values = _frames(finding, finding.heat.values.astype(np.float32))
    top = float(values.max())
    mapping = hd.pm.RealWorldValueMapping(
        lut_label="DDAD",
        lut_explanation="Anomaly map",
        unit=codes.UCUM.NoUnits,
        value_range=(float(values.min()), top),
        slope=1.0,
        intercept=0.0,
        quantity_definition=codes.DCM.Saliency,
    )
    window = hd.VOILUTTransformation(window_center=top / 2, window_width=top or 1.0, voi_lut_function="LINEAR_EXACT")
    made = hd.pm.ParametricMap(
        source_images=sources,
        pixel_array=values,
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[mapping],
        voi_lut_transformations=[window],
        derived_pixel_contrast="NONE",
        content_label="DDAD",
        content_description=f"Anomaly map {finding.result.map}",
        **_equipment(model),
        **_uids(finding, model, 903),
    )
    return _finish(made, finding, model, "DDAD anomaly map")


def report(finding: Finding, model: Model) -> Dataset:
    """Make a structured report (TID 1500) with every score, the p-value, the percentile and the decision."""
    sources, result = _references(finding, model), finding.result
    algorithm = hd.sr.AlgorithmIdentification(name=f"DDAD {model.name}", version=model.version)
    values = {name: (f"Anomaly score {name}", score) for name, score in result.scores.items()}
    if result.p_value is not None and result.percentile is not None:
        values["p_value"] = "P-value", result.p_value
        values["percentile"] = "Percentile among normal images", result.percentile
        values["alpha"] = "Rate of false alarms asked for", model.alpha
    measurements = [
        hd.sr.Measurement(
            name=_code(code, name),
            value=float(f"{value:.9g}"),
            unit=codes.UCUM.NoUnits,
            algorithm_id=algorithm,
        )
        for code, (name, value) in values.items()
    ]
    decisions = {None: "Not calibrated", True: "Flagged", False: "Not flagged"}
    evaluations = [
        hd.sr.QualitativeEvaluation(_code("score", "Deciding score"), _code(result.score, result.score)),
        hd.sr.QualitativeEvaluation(_code("decision", "Decision"), _code("decided", decisions[result.flagged])),
        hd.sr.QualitativeEvaluation(_code("use", "Use"), _code("research", NOTICE.capitalize())),
        hd.sr.QualitativeEvaluation(
            _code("protocol", "Out of protocol"), _code("reason", (result.out_of_protocol or "no")[:64])
        ),
    ]
    group = hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(uid=generate_uid(), identifier="DDAD"),
        measurements=measurements,
        qualitative_evaluations=evaluations,
        source_images=[hd.sr.SourceImageForMeasurementGroup.from_source_image(source) for source in sources],
    )
    for note in result.notes:
        group[0].ContentSequence.append(
            hd.sr.TextContentItem(codes.DCM.Comment, note, hd.sr.RelationshipTypeValues.CONTAINS)
        )
    device = hd.sr.DeviceObserverIdentifyingAttributes(
        uid=generate_uid(), name=MAKER, manufacturer_name=MAKER, model_name=model.name, serial_number=model.version
    )
    content = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(
            observer_device_context=hd.sr.ObserverContext(codes.DCM.Device, device)
        ),
        procedure_reported=PROCEDURES.get(model.body_part, IMAGING),
        imaging_measurements=[group],
        title=codes.DCM.ImagingMeasurementReport,
    )
    made = hd.sr.ComprehensiveSR(
        evidence=sources,
        content=content,
        is_complete=True,
        is_final=False,
        is_verified=False,
        manufacturer=MAKER,
        **_uids(finding, model, 904),
    )
    made.ManufacturerModelName, made.SoftwareVersions = model.name, model.software
    return _finish(made, finding, model, "DDAD report")


OBJECTS: dict[str, Callable[[Finding, Model], Dataset]] = {
    "overlay": overlay,
    "report": report,
    "segmentation": segmentation,
    "parametric_map": parametric_map,
}


def _code(value: str, meaning: str) -> CodedConcept:
    return CodedConcept(value, SCHEME, meaning)


def _uids(finding: Finding, model: Model, series_number: int) -> dict[str, Any]:
    """Return UIDs that are the same whenever the same model finds the same of the same images, so nothing doubles."""
    known = [str(dataset.SOPInstanceUID) for dataset in finding.image.datasets]
    known += [model.name, model.version, finding.result.score, f"{model.percentile:g} {model.alpha:g} {series_number}"]
    return {
        "series_instance_uid": generate_uid(entropy_srcs=["series", *known]),
        "series_number": series_number,
        "sop_instance_uid": generate_uid(entropy_srcs=["instance", *known]),
        "instance_number": 1,
    }


def _equipment(model: Model) -> dict[str, Any]:
    return {
        "manufacturer": MAKER,
        "manufacturer_model_name": model.name,
        "software_versions": model.software,
        "device_serial_number": model.version,
    }


def _references(finding: Finding, model: Model) -> list[Dataset]:
    """Return stand-ins of the images for highdicom, which copies what it finds: with nothing but what may be copied."""
    stand_ins = []
    for dataset in finding.image.datasets:
        stand_in = Dataset()
        for keyword in KEPT:
            if keyword in dataset:
                stand_in[keyword] = copy.deepcopy(dataset[keyword])
        for groups in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
            if groups in dataset:
                setattr(stand_in, groups, [_geometry(group) for group in dataset[groups].value])
        for keyword in EMPTY:
            if keyword not in stand_in:
                setattr(stand_in, keyword, None)
        for keyword in ("PixelSpacing", "ImagerPixelSpacing"):
            if keyword in stand_in and not (stand_in[keyword].value and min(map(float, stand_in[keyword].value)) > 0):
                del stand_in[keyword]
        stand_in.Modality = dataset.get("Modality") or "OT"
        stand_in.BodyPartExamined = model.body_part
        for keyword, parse in (("StudyDate", DA), ("StudyTime", TM)):
            with contextlib.suppress(ValueError, OverflowError):
                parse(stand_in[keyword].value)
                continue
            stand_in[keyword].value = None
        if finding.heat.affine is not None:
            if "FrameOfReferenceUID" not in stand_in:
                stand_in.FrameOfReferenceUID = generate_uid(entropy_srcs=["frame", str(dataset.SeriesInstanceUID)])
            if not stand_in.get("SliceThickness"):
                stand_in.SliceThickness = f"{np.linalg.norm(finding.heat.affine[:3, 2]):.6g}"
        elif not all(keyword in stand_in for keyword in PLACE):
            for keyword in (*PLACE[:3], "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
                if keyword in stand_in:
                    del stand_in[keyword]
        if stand_in.SOPClassUID in MULTIFRAME_IMAGES and "NumberOfFrames" not in stand_in:
            stand_in.NumberOfFrames = 1
        stand_in.file_meta = dataset.file_meta
        stand_ins.append(stand_in)
    return stand_ins


def _geometry(group: Dataset) -> Dataset:
    kept = Dataset()
    for macro in MACROS:
        if macro in group:
            kept[macro] = copy.deepcopy(group[macro])
    return kept


def _placed(stand_in: Dataset) -> Dataset:
    placed = copy.deepcopy(stand_in)
    placed.FrameOfReferenceUID = generate_uid(entropy_srcs=["frame", str(stand_in.SOPInstanceUID)])
    placed.PositionReferenceIndicator = None
    placed.ImagePositionPatient, placed.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    placed.PixelSpacing = placed.get("PixelSpacing") or placed.get("ImagerPixelSpacing") or [1, 1]
    placed.SliceThickness = placed.get("SliceThickness") or 1
    if "NumberOfFrames" in placed:
        measures, orientation, position = Dataset(), Dataset(), Dataset()
        measures.PixelSpacing, measures.SliceThickness = placed.PixelSpacing, placed.SliceThickness
        orientation.ImageOrientationPatient = placed.ImageOrientationPatient
        position.ImagePositionPatient = placed.ImagePositionPatient
        shared, frame = Dataset(), Dataset()
        shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
        frame.PlanePositionSequence = [position]
        placed.SharedFunctionalGroupsSequence, placed.PerFrameFunctionalGroupsSequence = [shared], [frame]
    return placed


def _order(finding: Finding) -> list[int]:
    """Return for each frame of the images, in their order, the number of its slice in the map."""
    datasets, affine = finding.image.datasets, finding.heat.affine
    if affine is None:
        return [0] * len(datasets)
    to_voxel = np.linalg.inv(affine)
    places = []
    for dataset in datasets:
        groups = dataset.get("PerFrameFunctionalGroupsSequence") or [dataset]
        for group in groups:
            plane = group.PlanePositionSequence[0] if "PlanePositionSequence" in group else group
            x, y, z = map(float, plane.ImagePositionPatient)
            places.append(round(float((to_voxel @ [-x, -y, z, 1])[2])))
    return places


def _frames(finding: Finding, values: np.ndarray) -> np.ndarray:
    """Return values of the map as (frames, rows, columns), in the order of the images."""
    if finding.heat.affine is None:
        return values[None]
    return np.ascontiguousarray(np.stack([values[:, :, place].T for place in _order(finding)]))


def _finish(made: Dataset, finding: Finding, model: Model, description: str) -> Dataset:
    source = finding.image.datasets[0]
    made.SeriesDescription = description
    made.BodyPartExamined = model.body_part
    if model.body_part == EYE and made.Modality != "SEG":  # where it may not be present
        side = source.get("ImageLaterality") or source.get("Laterality")
        made.Laterality = side if side in ("L", "R", "B") else None
    made.SpecificCharacterSet = "ISO_IR 192"
    original = Dataset()
    with quiet:
        original.SpecificCharacterSet = source.get("SpecificCharacterSet")
        for keyword in PATIENT:
            if keyword in source:
                original[keyword] = copy.deepcopy(source[keyword])
        original.decode()
    for keyword in PATIENT:
        if keyword in original:
            made[keyword] = original[keyword]
        elif keyword in made and keyword not in EMPTY:
            del made[keyword]
    return made
