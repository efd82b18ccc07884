"""How files are written: whole or not at all, for the user alone, and in CSV without formulas."""

from monai_ddad.io.writing.atomic import atomic_file, private_folder
from monai_ddad.io.writing.picture import PNG_LEVEL, write_picture
from monai_ddad.io.writing.staging import Staging, remove_leftovers
from monai_ddad.io.writing.tables import plain_text, printable, write_table

__all__ = [
    "PNG_LEVEL",
    "Staging",
    "atomic_file",
    "plain_text",
    "printable",
    "private_folder",
    "remove_leftovers",
    "write_picture",
    "write_table",
]
