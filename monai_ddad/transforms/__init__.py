"""MONAI transforms of DDAD."""

from monai_ddad.transforms.brain_mri import AxialSlices, AxialSlicesd, BrainSlice, BrainSliced, slices_to_volume
from monai_ddad.transforms.chest_xray import ChestFilm, ChestFilmd
from monai_ddad.transforms.eight_bit import EightBit, EightBitd, normalise
from monai_ddad.transforms.fundus import FundusField, FundusFieldd
from monai_ddad.transforms.one_slice import picture_to_slice, slice_to_picture
from monai_ddad.transforms.read import ImageReadError, ReadImage, ReadImaged
from monai_ddad.transforms.resample import PlainResize, PlainResized
from monai_ddad.transforms.synthetic import BlendBox, BlendPatch, RandBlendPatch

__all__ = [
    "AxialSlices",
    "AxialSlicesd",
    "BlendBox",
    "BlendPatch",
    "BrainSlice",
    "BrainSliced",
    "ChestFilm",
    "ChestFilmd",
    "EightBit",
    "EightBitd",
    "FundusField",
    "FundusFieldd",
    "ImageReadError",
    "PlainResize",
    "PlainResized",
    "RandBlendPatch",
    "ReadImage",
    "ReadImaged",
    "normalise",
    "picture_to_slice",
    "slice_to_picture",
    "slices_to_volume",
]
