"""Data lists, checks and built-in data of DDAD."""

from monai_ddad.data.audit import Audit, audit
from monai_ddad.data.datalist import dataset_or_phantom, list_images, load_datalist
from monai_ddad.data.items import BatchItem, ItemDataset, collate_items
from monai_ddad.data.resident import ResidentDataset
from monai_ddad.io.errors import DataError
from monai_ddad.transforms.eight_bit import normalise

__all__ = [
    "Audit",
    "BatchItem",
    "DataError",
    "ItemDataset",
    "ResidentDataset",
    "audit",
    "collate_items",
    "dataset_or_phantom",
    "list_images",
    "load_datalist",
    "normalise",
]
