"""Batch inference over the datastore."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.tasks.batch_infer import BatchInferTask

from monai_ddad.label.infer import PERCENTILE
from monai_ddad.label.labels import write_label
from monai_ddad.label.served import ServedModel, UnreadableImageError
from monai_ddad.outputs import HeatMap
from monai_ddad.transforms import ImageReadError
from monai_ddad.writing import write_table

__all__ = ["AnomalyBatchInfer"]

logger = logging.getLogger(__name__)

COLUMNS = ("score", "score_name", "p_value", "percentile", "flagged", "out_of_protocol", "slices")


class AnomalyBatchInfer(BatchInferTask):
    """Score many images; save the region of high anomaly of each as a label, and one table.

    Args:
        served: the model.
        table: the CSV file, a row an image: its id, what is found, and why it cannot be read.
    """

    def __init__(self, served: ServedModel, table: Path) -> None:
        self.served = served
        self.table = table

    def __call__(self, request: dict[str, Any], datastore: Datastore, infer: Callable[..., Any]) -> dict[str, Any]:
        """Score the images that ``request["images"]`` names: ``all``, ``labeled``, ``unlabeled`` or a list of ids."""
        images = sorted(self.get_images(request, datastore))
        limit = int(request.get("max_batch_size", 0) or 0)
        images = images[:limit] if limit > 0 else images
        tag = request.get("label_tag") or DefaultLabelTag.ORIGINAL.value
        rows: dict[str, dict[str, Any]] = {}
        for number, image in enumerate(images, start=1):
            logger.info(f"{number} / {len(images)} images")
            try:
                predictor, dataset, position, result = self.served.find(datastore.get_image_uri(image))
            except UnreadableImageError as error:
                rows[image] = {"unreadable": error.detail}
                continue
            rows[image] = result.summary()
            if request.get("save_label", True):
                try:
                    heat = predictor.heat_map(dataset, position)
                except ImageReadError as error:
                    rows[image]["unreadable"] = f"scored, but without a label: {error}"
                    continue
                region = (predictor.percentiles(heat.values) > PERCENTILE).astype(np.uint8)
                self._save(datastore, image, heat, region, getattr(tag, "value", tag), rows[image])
        self._write_table(rows)
        return rows

    def _save(
        self, datastore: Datastore, image: str, heat: HeatMap, region: np.ndarray, tag: str, known: dict[str, Any]
    ) -> None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / ("label.png" if heat.affine is None else "label.nii.gz")
            write_label(heat, region, file)
            datastore.save_label(image, os.fspath(file), tag, {"params": known})

    def _write_table(self, rows: dict[str, dict[str, Any]]) -> None:
        columns = (*COLUMNS, "unreadable")
        cells = [[image, *(row.get(name, "") for name in columns)] for image, row in rows.items()]
        write_table(["image", *columns], cells, self.table)
