"""Batch inference over the datastore."""

from __future__ import annotations

import errno
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import HTTPException
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.tasks.batch_infer import BatchInferTask

from monai_ddad.decision.heat import HeatMap
from monai_ddad.io.writing import write_table
from monai_ddad.label.geometry import grid_of
from monai_ddad.label.infer import PERCENTILE
from monai_ddad.label.labels import label_suffix, write_label
from monai_ddad.label.schemas import BatchParams
from monai_ddad.label.served import ServedModel

__all__ = ["AnomalyBatchInfer"]

logger = logging.getLogger(__name__)

COLUMNS = ("score", "score_name", "p_value", "percentile", "flagged", "out_of_protocol", "slices")
MISSING = (404, 422, 502)  # an image that has gone, cannot be read, or is not given by its server


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
        """Score the images that ``request["images"]`` names: ``all``, ``labeled``, ``unlabeled`` or a list of ids.

        Raises:
            HTTPException: 409, there is no model; 422, a parameter is wrong.
        """
        params = BatchParams.check(request)
        images = sorted(self.get_images({"images": params.images or "all"}, datastore))
        images = images[: params.max_batch_size or None]
        tag = params.label_tag or DefaultLabelTag.ORIGINAL.value
        rows: dict[str, dict[str, Any]] = {}
        for number, image in enumerate(images, start=1):
            logger.info(f"{number} / {len(images)} images")
            try:
                found, path = self.served.find(datastore.get_image_uri(image))
            except HTTPException as error:
                if error.status_code not in MISSING:
                    raise
                rows[image] = {"unreadable": error.detail}
                continue
            rows[image] = found.result.summary()
            if params.save_label:
                heat = found.heat_map()
                region = (found.percentiles(heat.values) > PERCENTILE).astype(np.uint8)
                grid = grid_of(heat, path)
                try:
                    self._save(datastore, image, heat, region, grid, tag, rows[image])
                except OSError as error:
                    if error.errno != errno.ENAMETOOLONG:
                        raise
                    logger.warning("a region is not kept, since the image's name is too long for a label's file")
        self._write_table(rows)
        return rows

    def _save(
        self,
        datastore: Datastore,
        image: str,
        heat: HeatMap,
        region: np.ndarray,
        grid: np.ndarray,
        tag: str,
        known: dict[str, Any],
    ) -> None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"label{label_suffix(heat, grid)}"
            write_label(heat, region, file, grid)
            datastore.save_label(image, os.fspath(file), tag, {"params": known})

    def _write_table(self, rows: dict[str, dict[str, Any]]) -> None:
        columns = (*COLUMNS, "unreadable")
        cells = [[image, *(row.get(name, "") for name in columns)] for image, row in rows.items()]
        write_table(["image", *columns], cells, self.table)
