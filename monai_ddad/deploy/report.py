"""The structured report: measurements, and a code of its own for each answer."""

from __future__ import annotations

import highdicom as hd
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from monai_ddad.decision.finding import Result
from monai_ddad.deploy.findings import ImageFinding, Model
from monai_ddad.deploy.headers import finish, references, requests
from monai_ddad.deploy.identity import MAKER, NOTICE, object_uids
from monai_ddad.networks.protocol import REASONS

__all__ = ["DECISIONS", "PROTOCOL", "SCHEME", "report"]

SCHEME = "99DDAD"
DECISIONS = {  # of an image, by its flag: code and meaning
    True: ("flagged", "Flagged"),
    False: ("not_flagged", "Not flagged"),
    None: ("not_calibrated", "Not calibrated"),
}
PROTOCOL = {  # by the reason why an image is out of protocol: code and meaning
    "": ("in_protocol", "In protocol"),
    REASONS[0]: ("odd_brightness", "Out of protocol by its brightness"),
    REASONS[1]: ("odd_layout", "Out of protocol by its layout"),
    REASONS[2]: ("odd_detail", "Out of protocol by its detail"),
    REASONS[3]: ("odd_orientation", "Out of protocol by its orientation"),
}
PROCEDURES = {
    "CHEST": CodedConcept("399208008", "SCT", "Plain chest X-ray"),
    "HEAD": CodedConcept("816077007", "SCT", "MRI of brain"),
    "EYE": CodedConcept("252846004", "SCT", "Ophthalmic photography"),
}
IMAGING = CodedConcept("363679005", "SCT", "Imaging")


def report(finding: ImageFinding, model: Model) -> Dataset:
    """Make a structured report (TID 1500) with every score, the p-value, the percentile and the decision.

    Each answer has a code of its own in the scheme ``99DDAD``, see :data:`DECISIONS` and :data:`PROTOCOL`; the reason
    why an image is out of protocol, and which scores could not be learnt, is there as text, too.
    """
    sources = references(finding, model)
    group = hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(uid=generate_uid(), identifier="DDAD"),
        algorithm_id=hd.sr.AlgorithmIdentification(name=f"DDAD {model.name}", version=model.version),
        measurements=_measurements(finding.result, model),
        qualitative_evaluations=_evaluations(finding.result),
        source_images=[hd.sr.SourceImageForMeasurementGroup.from_source_image(source) for source in sources],
    )
    for comment in filter(None, [finding.result.out_of_protocol, *finding.result.notes]):
        text = hd.sr.TextContentItem(codes.DCM.Comment, comment, hd.sr.RelationshipTypeValues.CONTAINS)
        group[0].ContentSequence.append(text)
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
        requested_procedures=requests(finding.image.datasets[0]),
        coding_schemes=[CodingSchemeIdentificationItem(SCHEME, name="DDAD", responsible_organization=MAKER)],
        **object_uids(finding, model, 904),
    )
    made.ManufacturerModelName, made.SoftwareVersions = model.name, model.software
    return finish(made, finding, model, "DDAD report")


def _measurements(result: Result, model: Model) -> list[hd.sr.Measurement]:
    values = [(_score(name), score) for name, score in result.scores.items()]
    if result.p_value is not None and result.percentile is not None:
        values.append((_code("p_value", "P-value"), result.p_value))
        values.append((_code("percentile", "Percentile among normal images"), result.percentile))
        values.append((_code("alpha", "Rate of false alarms asked for"), model.alpha))
    return [
        hd.sr.Measurement(name=name, value=float(f"{value:.9g}"), unit=codes.UCUM.NoUnits) for name, value in values
    ]


def _evaluations(result: Result) -> list[hd.sr.QualitativeEvaluation]:
    answers = {
        ("score", "Deciding score"): _score(result.score),
        ("decision", "Decision"): _code(*DECISIONS[result.flagged]),
        ("protocol", "Protocol"): _code(*PROTOCOL[result.out_of_protocol]),
        ("use", "Use"): _code("research", NOTICE.capitalize()),
    }
    return [hd.sr.QualitativeEvaluation(_code(*question), answer) for question, answer in answers.items()]


def _score(name: str) -> CodedConcept:
    return _code(name, f"Anomaly score {name}")


def _code(value: str, meaning: str) -> CodedConcept:
    return CodedConcept(value, SCHEME, meaning)
