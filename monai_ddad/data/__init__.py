"""Data lists, checks and built-in data of DDAD."""

from monai_ddad.data.audit import Audit, audit, require_all_read
from monai_ddad.data.datalist import dataset_or_phantom, list_images, load_datalist
from monai_ddad.data.hold_out import hold_out
from monai_ddad.data.resident import DataError, ResidentDataset, normalise

__all__ = [
    "Audit",
    "DataError",
    "ResidentDataset",
    "audit",
    "dataset_or_phantom",
    "hold_out",
    "list_images",
    "load_datalist",
    "normalise",
    "require_all_read",
]
