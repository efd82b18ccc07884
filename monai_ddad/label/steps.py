"""What MONAI Label's own ``monaibundle`` app runs of a bundle: reading, inference, and the reply.

The bundle's ``inference.json`` names these steps where that app looks for them: ``pre_transforms``, ``inferer`` and
``post_transforms``.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from fastapi import HTTPException
from monai.config import KeysCollection
from monai.transforms import MapTransform

from monai_ddad.data.items import BatchItem, collate_items, prepare
from monai_ddad.decision.finding import Finding, Unreadable
from monai_ddad.decision.heat import HeatMap, restore_map
from monai_ddad.label.geometry import grid_of
from monai_ddad.label.labels import asked_percentile, label_suffix
from monai_ddad.label.served import UnreadableImageError
from monai_ddad.transforms import ImageReadError, KeepSource

__all__ = ["AnomalyResultd", "ReadItemd"]

PATH = "path"  # key of the item's path in its data
ITEM = "item"  # key of the item as it was read
FORMATS = (".nii", ".nii.gz", ".nrrd")  # of maps; regions may be PNG too


class ReadItemd(MapTransform):
    """Read and prepare one picture or volume as the bundle does.

    Args:
        keys: key of the path of a file, or of a folder with the DICOM files of one series.
        preparation: the bundle's ``item_preparation``.

    The key becomes a float32 tensor in [-1, 1], (C, h, w) of a picture and (S, C, h, w) of a volume's slices, and
    ``"item"`` the :class:`~monai_ddad.data.BatchItem` and the transform that prepared it.
    """

    def __init__(self, keys: KeysCollection, preparation: KeepSource) -> None:
        super().__init__(keys)
        self.preparation = preparation

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Read.

        Raises:
            HTTPException: 404, there is no such image; 422, it cannot be read.
        """
        result = dict(data)
        for key in self.key_iterator(result):
            path = result[key]
            if not path:  # what MONAI Label makes of an id that its datastore does not have
                raise HTTPException(status_code=404, detail="there is no such image in the datastore.")
            try:
                batch = collate_items([prepare(self.preparation, {"image": path, PATH: path})])
            except ImageReadError as error:
                raise UnreadableImageError(str(error)) from None
            item: BatchItem = batch["items"][0]
            result[ITEM] = item, self.preparation.preparation
            result[key] = batch["image"] if item.is_volume else batch["image"][0]
        return result


class AnomalyResultd(MapTransform):
    """Turn what :class:`~monai_ddad.serving.inferer.DecidingInferer` found into MONAI Label's reply.

    The key becomes an array on the grid on which ITK reads the file, its first axis along the columns: of a request
    with a floating ``result_dtype`` the map itself, else the region in which it lies above a percentile of normal
    pixels, 1 in it and 0 around it. ``"result"`` becomes the ``params`` of the reply. A request may name another
    ``"map"`` and ``"percentile"``.

    Args:
        keys: key of what was found.
        percentile: of the pixels of normal images, in [0, 100).
    """

    def __init__(self, keys: KeysCollection, percentile: float) -> None:
        super().__init__(keys)
        self.percentile = percentile

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Make the reply of one request."""
        result = dict(data)
        for key in self.key_iterator(result):
            found: Finding | Unreadable | None = result[key]
            item, transform = result.pop(ITEM)
            if found is None:
                raise HTTPException(status_code=409, detail="the model has no weights: train it, or put model.pt back.")
            if isinstance(found, Unreadable):
                raise UnreadableImageError(found.reason)
            result["result"] = found.result.summary()
            name = result.get("map") or found.result.map
            if name not in found.judge.network.map_names:
                names = ", ".join(found.judge.network.map_names)
                raise HTTPException(status_code=400, detail=f"the map must be one of {names}.")
            heat = restore_map(item, found.maps[:, found.judge.channel(name)], transform)
            grid = grid_of(heat, item.data[PATH])
            floating = self._choose_format(result, heat, grid)
            values = heat.values
            if not floating:
                asked = asked_percentile(result, self.percentile)
                values = (found.percentiles(values, name) > asked).astype(np.uint8)
            voxels = heat.voxels(values)
            result[key] = voxels[None]
            result["image"] = None  # its grid is the prepared one
            result["image_meta_dict"] = {"spatial_shape": voxels.shape, "original_affine": grid}
        return result

    def _choose_format(self, result: dict[Hashable, Any], heat: HeatMap, grid: np.ndarray) -> bool:
        """Set the format of the reply's file where the request does not; tell whether it holds the map itself."""
        try:
            floating = np.issubdtype(np.dtype(result.get("result_dtype") or np.uint8), np.floating)
        except TypeError:
            raise HTTPException(status_code=400, detail="result_dtype must be float32 or uint8.") from None
        if not result.get("result_extension"):
            result["result_extension"] = ".nii.gz" if floating else label_suffix(heat, grid)
        formats = FORMATS if heat.affine is not None or floating else (*FORMATS, ".png")
        if result["result_extension"] not in formats:
            raise HTTPException(status_code=400, detail=f"result_extension must be one of {', '.join(formats)}.")
        return bool(floating)
