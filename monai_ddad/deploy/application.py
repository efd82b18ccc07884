"""The application: a folder of DICOM studies and pictures in, DICOM objects and a JSON file out."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from holoscan.logger import LogLevel, set_log_level
from monai.deploy.conditions import CountCondition
from monai.deploy.core import Application

from monai_ddad.deploy.findings import Model
from monai_ddad.deploy.kinds import DEFAULT_KINDS
from monai_ddad.deploy.operators import (
    AnomalyOperator,
    DicomWriterOperator,
    JsonWriterOperator,
    SeriesSelectorOperator,
    StudyLoaderOperator,
)
from monai_ddad.deploy.studies import Unusable
from monai_ddad.io.errors import DataError
from monai_ddad.io.files import LeftOut
from monai_ddad.io.locks import LOCK, lock_folder
from monai_ddad.io.writing import Staging

__all__ = ["DDADApplication", "check_rules", "default_rules", "whole_output"]


def default_rules(modalities: Sequence[str] | None) -> str:
    """Return rules that select every series of the modalities, as the SDK's selector takes them.

    Args:
        modalities: DICOM modalities; None selects every series.

    Example:
        >>> default_rules(["CR", "DX"])
        '{"selections": [{"name": "CR, DX", "conditions": {"Modality": "^(CR|DX)$"}}]}'
    """
    if not modalities:
        return ""
    condition = {"Modality": f"^({'|'.join(modalities)})$"}
    return json.dumps({"selections": [{"name": ", ".join(modalities), "conditions": condition}]})


def check_rules(rules: str) -> str:
    """Return rules that have the form of the SDK's.

    Raises:
        ValueError: they do not.
    """
    try:
        selections = json.loads(rules)["selections"]
        right = bool(selections) and all(
            isinstance(one["conditions"], dict) and one["conditions"] for one in selections
        )
    except (KeyError, TypeError, ValueError):
        right = False
    if not right:
        raise ValueError('rules must have the form {"selections": [{"name": "", "conditions": {"Modality": "^MR$"}}]}.')
    return rules


@contextmanager
def whole_output(folder: Path) -> Iterator[Path]:
    """Give a folder to write to, whose files come to an output folder when the block ends well, and not before.

    What a run has left there that was killed is removed first.

    Args:
        folder: the output folder, which is made where missing.

    Raises:
        DataError: there are other files in it: objects of other patients might be taken for those of this run.
        FolderInUseError: another process writes to it.
        OSError: it cannot be written to.
    """
    with lock_folder(folder, "--output"), Staging(folder) as unfinished:
        if set(os.listdir(folder)) - {LOCK, unfinished.parent.name}:
            raise DataError("the output folder is not empty: give another one.")
        yield unfinished


class DDADApplication(Application):
    """Score the studies of one folder.

    Args:
        input_folder: folder of DICOM and picture files.
        output_folder: folder to write to; it must exist.
        model: the bundle.
        objects: what to write of DICOM images, see :class:`~monai_ddad.deploy.operators.DicomWriterOperator`.
        rules: JSON in the SDK's format; None selects the modalities that the bundle takes.
        identifiers: whether ``results.json`` holds UIDs.

    Raises:
        ValueError: the rules have another form.

    Attributes:
        unusable: after a run, what could not be used.
        left_out: after a run, how many entries of the folder are no images, by reason.
        results: after a run, the rows of ``results.json``, one an image that was scored.
    """

    def __init__(
        self,
        input_folder: Path,
        output_folder: Path,
        model: Model,
        objects: Sequence[str] = DEFAULT_KINDS,
        rules: str | None = None,
        identifiers: bool = False,
    ) -> None:
        super().__init__([sys.executable])
        self.input_folder = input_folder
        self.output_folder = output_folder
        self.model = model
        self.objects = objects
        self.rules = default_rules(model.modalities) if rules is None else check_rules(rules)
        self.identifiers = identifiers
        self.unusable: list[Unusable] = []
        self.left_out = LeftOut()
        self.results: list[dict[str, Any]] = []

    def compose(self) -> None:
        """Connect the operators."""
        unusable: Any = self.unusable
        once = CountCondition(self, 1)
        found: Any = {"unusable": self.unusable, "left_out": self.left_out}
        loader = StudyLoaderOperator(self, once, input_folder=self.input_folder, **found, name="study_loader")
        selector = SeriesSelectorOperator(self, rules=self.rules, unusable=unusable, name="series_selector")
        anomaly = AnomalyOperator(
            self,
            model=self.model,
            ports=("study_selected_series_list", "pictures"),
            unusable=unusable,
            name="anomaly",
        )
        folder: dict[str, Any] = {"model": self.model, "output_folder": self.output_folder}
        dicom = DicomWriterOperator(self, **folder, objects=self.objects, name="dicom_writer")
        table = JsonWriterOperator(
            self, **folder, **found, results=self.results, identifiers=self.identifiers, name="json_writer"
        )
        self.add_flow(loader, selector, {("dicom_study_list", "dicom_study_list")})
        self.add_flow(loader, anomaly, {("pictures", "pictures")})
        self.add_flow(selector, anomaly, {("study_selected_series_list", "study_selected_series_list")})
        self.add_flow(anomaly, dicom, {("findings", "findings")})
        self.add_flow(dicom, table, {("written", "written")})

    def run(self) -> None:
        """Run once; holoscan's own log is kept silent, since it quotes errors and with them paths."""
        set_log_level(LogLevel.OFF)
        super().run()
