"""Names of the DICOM objects that can be written of an image."""

KINDS = ("overlay", "report", "segmentation", "parametric_map")
DEFAULT_KINDS = KINDS[:3]
