"""MONAI transforms of DDAD."""

from monai_ddad.transforms.read import ImageReadError, ReadImage, ReadImaged
from monai_ddad.transforms.synthetic import BlendBox, BlendPatch, RandBlendPatch

__all__ = ["BlendBox", "BlendPatch", "ImageReadError", "RandBlendPatch", "ReadImage", "ReadImaged"]
