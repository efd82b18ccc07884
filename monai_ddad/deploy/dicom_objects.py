"""DICOM objects that tell a workstation what was found: overlay, report, segmentation and parametric map.

An object is of the study of its images, in a series of its own, and refers to them; see :mod:`.headers` for what it
takes over of them.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable

import highdicom as hd
import numpy as np
from highdicom.sr import CodedConcept
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from monai_ddad.decision.overlay import add_colour_bar, overlay_heat_map
from monai_ddad.deploy.findings import ImageFinding, Model
from monai_ddad.deploy.headers import PATIENT, finish, references
from monai_ddad.deploy.identity import MAKER, NOTICE, equipment, object_uids
from monai_ddad.deploy.report import report

__all__ = ["OBJECTS", "PATIENT", "draw_overlay", "overlay", "parametric_map", "report", "segmentation"]

ANATOMY = {  # body part -> code and laterality
    "CHEST": (CodedConcept("816094009", "SCT", "Chest"), "U"),
    "HEAD": (CodedConcept("12738006", "SCT", "Brain"), "U"),
    "EYE": (CodedConcept("81745001", "SCT", "Eye"), None),
}


def draw_overlay(finding: ImageFinding, model: Model) -> Image.Image:
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


def _decision(finding: ImageFinding, model: Model) -> str:
    result = finding.result
    if result.p_value is None:
        return "not calibrated"
    decision = "FLAGGED" if result.flagged else "not flagged"
    return f"percentile {result.percentile:.1f}   p {result.p_value:.3g}   alpha {model.alpha:g}   {decision}"


def overlay(finding: ImageFinding, model: Model) -> Dataset:
    """Make a Secondary Capture of :func:`draw_overlay`."""
    sources = references(finding, model)
    made = hd.sc.SCImage.from_ref_dataset(
        ref_dataset=sources[0],
        pixel_array=np.asarray(draw_overlay(finding, model)),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "F"),
        manufacturer=MAKER,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        **object_uids(finding, model, 901),
    )
    made["PatientOrientation"].value = None  # that of the source would also have to hold for the caption
    made.ManufacturerModelName, made.SoftwareVersions = model.name, model.software
    made.ImageType = ["DERIVED", "SECONDARY"]
    made.BurnedInAnnotation = "YES"
    made.DerivationDescription = f"Anomaly overlay of {model.name} {model.version}. {NOTICE.capitalize()}."
    made.SourceImageSequence = [_reference(source) for source in sources]
    return finish(made, finding, model, "DDAD overlay")


def _reference(source: Dataset) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    return reference


def segmentation(finding: ImageFinding, model: Model) -> Dataset:
    """Make a Segmentation of the region above the chosen percentile, one segment."""
    sources = references(finding, model)
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
    frames = _frames(finding, finding.region)
    made = hd.seg.Segmentation(
        source_images=sources,
        pixel_array=frames,
        segmentation_type="BINARY",
        segment_descriptions=[segment],
        omit_empty_frames=len(frames) > 1,
        content_label="DDAD",
        content_description=f"Anomaly map above {_level(model)}",
        **equipment(model),
        **object_uids(finding, model, 902),
    )
    _say_gap(made, finding)
    return finish(made, finding, model, "DDAD anomalous region")


def _level(model: Model) -> str:
    """Name the level above which a pixel belongs to the region."""
    return f"{model.percentile:g} % of normal pixels"


def parametric_map(finding: ImageFinding, model: Model) -> Dataset:
    """Make a Parametric Map of the anomaly map, float32."""
    sources = references(finding, model)
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
        **equipment(model),
        **object_uids(finding, model, 903),
    )
    _say_gap(made, finding)
    _sort_frames(made, finding)
    finish(made, finding, model, "DDAD anomaly map")
    _name_anatomy(made, model)
    return made


def _say_gap(made: Dataset, finding: ImageFinding) -> None:
    """Say how far the slices of a volume lie apart, whatever the images' headers claim: readers take it as it is."""
    if finding.heat.affine is not None:
        gap = np.linalg.norm(finding.heat.affine[:3, 2])
        made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices = f"{gap:.10g}"


def _sort_frames(made: Dataset, finding: ImageFinding) -> None:
    """Put the frames of a volume's map upwards along their normal: dcmqi does not look at the place of each."""
    if finding.heat.affine is not None:
        order = np.argsort(_slice_numbers(made, finding))
        groups = made.PerFrameFunctionalGroupsSequence
        made.PerFrameFunctionalGroupsSequence = [groups[place] for place in order]
        frames = np.frombuffer(made.FloatPixelData, dtype=np.float32).reshape(len(order), -1)
        made.FloatPixelData = frames[order].tobytes()


def _name_anatomy(made: Dataset, model: Model) -> None:
    """Say in the functional groups what is shown, where its side is known: dcmqi crashes without it."""
    region, side = ANATOMY.get(model.body_part, (None, None))
    side = side or made.get("Laterality")
    if region is not None and side:
        anatomy = Dataset()
        anatomy.AnatomicRegionSequence, anatomy.FrameLaterality = [region], side
        made.SharedFunctionalGroupsSequence[0].FrameAnatomySequence = [anatomy]
        if "Laterality" in made:  # may not be present beside it
            del made.Laterality


OBJECTS: dict[str, Callable[[ImageFinding, Model], Dataset]] = {
    "overlay": overlay,
    "report": report,
    "segmentation": segmentation,
    "parametric_map": parametric_map,
}


def _frames(finding: ImageFinding, values: np.ndarray) -> np.ndarray:
    """Return values of the map as (frames, rows, columns), in the order of the images."""
    if finding.heat.affine is None:
        return values[None]
    places = [number for dataset in finding.image.datasets for number in _slice_numbers(dataset, finding)]
    return np.ascontiguousarray(np.stack([values[:, :, place].T for place in places]))


def _slice_numbers(dataset: Dataset, finding: ImageFinding) -> list[int]:
    """Return the number of the slice in the map in which each frame of an image or object of a volume lies."""
    assert finding.heat.affine is not None
    to_voxel = np.linalg.inv(finding.heat.affine)
    numbers = []
    for group in dataset.get("PerFrameFunctionalGroupsSequence") or [dataset]:
        plane = group.PlanePositionSequence[0] if "PlanePositionSequence" in group else group
        x, y, z = map(float, plane.ImagePositionPatient)
        numbers.append(round(float((to_voxel @ [-x, -y, z, 1])[2])))
    return numbers
