"""Inference tasks: the anomaly map, and the region where it is high."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
from fastapi import HTTPException
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from monai_ddad.label.geometry import grid_of
from monai_ddad.label.labels import asked_percentile, label_suffix, write_label
from monai_ddad.label.served import ServedModel

__all__ = ["LABEL", "AnomalyInfer"]

LABEL = "abnormal"  # OHIF makes the colour of the name: a bright orange
PERCENTILE = 99.0  # of normal pixels, from which a pixel belongs to the region


class AnomalyInfer(InferTask):
    """Score an image; the result file is its map, or the region above a percentile of normal pixels.

    The reply's ``params`` hold what :meth:`monai_ddad.decision.Result.summary` gives, and ``"version"``, the number
    of the model's version. A request may ask for another ``"map"`` and ``"percentile"``.

    Args:
        served: the model.
        folder: for the files, a private one of the app.
        result: ``"map"``, a float32 NIfTI file, or ``"region"``, 1 where the map is above the percentile and else 0,
            as PNG of a picture without a place in the patient, else as NIfTI.

    Files lie where ITK puts the image: see :func:`~monai_ddad.label.geometry.grid_of`.
    """

    def __init__(self, served: ServedModel, folder: Path, result: Literal["map", "region"] = "map") -> None:
        what = "anomaly map" if result == "map" else "region of high anomaly"
        super().__init__(
            type=InferType.OTHERS if result == "map" else InferType.SEGMENTATION,  # viewers list the latter
            labels=[LABEL],
            dimension=2,
            description=f"DDAD (dual-distribution discrepancy): score and {what}; not a diagnosis",
            config={"percentile": PERCENTILE} if result == "region" else {},
        )
        self.served = served
        self.folder = folder
        self.result = result

    def is_valid(self) -> bool:
        """Every app shows the task; without a model a request is answered with 409."""
        return True

    def get_path(self, validate: bool = True) -> str | None:
        """Return the file of the served weights to download; there is none to write to (``validate`` false)."""
        file = self.served.versions.current[1] / "model.pt"
        return str(file) if validate and file.is_file() else None

    def __call__(self, request: dict[str, Any]) -> tuple[str | None, dict[str, Any]]:
        """Score the image at ``request["image"]``, a path.

        Raises:
            HTTPException: 409, no model; 422, there is no such map, or the image cannot be read.
        """
        found, path = self.served.find(str(request["image"]))
        name = request.get("map") or None
        try:
            heat = found.heat_map(name)
        except ValueError as error:
            raise HTTPException(status_code=422, detail=f"map: {error}") from None
        values = heat.values
        grid = grid_of(heat, path)
        if self.result == "region":
            percentile = asked_percentile(request, PERCENTILE)
            values = (found.percentiles(heat.values, name) > percentile).astype(np.uint8)
        suffix = label_suffix(heat, grid) if self.result == "region" else ".nii.gz"
        if self.result == "region" and request.get("result_extension") == ".nrrd":  # OHIF and 3D Slicer ask for it
            suffix = ".nrrd"
        with tempfile.NamedTemporaryFile(suffix=suffix, dir=self.folder, delete=False) as file:
            try:
                write_label(heat, values, Path(file.name), grid)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
        version = self.served.versions.current[0]
        return file.name, found.result.summary() | {"version": version, "label_names": {LABEL: 1}}
