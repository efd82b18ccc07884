"""MONAI transforms of DDAD."""

from monai_ddad.transforms.anomalies import RandAnomalies, RandBlob, RandLocal, RandMovedPatch, RandTexture, RandWarp
from monai_ddad.transforms.brain_mri import AxialSlices, AxialSlicesd, BrainSlice, BrainSliced, slices_to_volume
from monai_ddad.transforms.chest_xray import ChestFilm, ChestFilmd
from monai_ddad.transforms.eight_bit import EightBit, EightBitd, normalise
from monai_ddad.transforms.fundus import FundusField, FundusFieldd
from monai_ddad.transforms.one_slice import picture_to_slice, slice_to_picture
from monai_ddad.transforms.read import ImageReadError, KeepSource, ReadImage, ReadImaged
from monai_ddad.transforms.resample import PlainResize, PlainResized
from monai_ddad.transforms.synthetic import BlendBox, BlendPatch, RandBlendPatch

# the other names by which MONAI's users know the dictionary form of a transform
AxialSlicesD = AxialSlicesd
AxialSlicesDict = AxialSlicesd
BrainSliceD = BrainSliced
BrainSliceDict = BrainSliced
ChestFilmD = ChestFilmd
ChestFilmDict = ChestFilmd
EightBitD = EightBitd
EightBitDict = EightBitd
FundusFieldD = FundusFieldd
FundusFieldDict = FundusFieldd
PlainResizeD = PlainResized
PlainResizeDict = PlainResized
ReadImageD = ReadImaged
ReadImageDict = ReadImaged

__all__ = [
    "AxialSlices",
    "AxialSlicesD",
    "AxialSlicesDict",
    "AxialSlicesd",
    "BlendBox",
    "BlendPatch",
    "BrainSlice",
    "BrainSliceD",
    "BrainSliceDict",
    "BrainSliced",
    "ChestFilm",
    "ChestFilmD",
    "ChestFilmDict",
    "ChestFilmd",
    "EightBit",
    "EightBitD",
    "EightBitDict",
    "EightBitd",
    "FundusField",
    "FundusFieldD",
    "FundusFieldDict",
    "FundusFieldd",
    "ImageReadError",
    "KeepSource",
    "PlainResize",
    "PlainResizeD",
    "PlainResizeDict",
    "PlainResized",
    "RandAnomalies",
    "RandBlendPatch",
    "RandBlob",
    "RandLocal",
    "RandMovedPatch",
    "RandTexture",
    "RandWarp",
    "ReadImage",
    "ReadImageD",
    "ReadImageDict",
    "ReadImaged",
    "normalise",
    "picture_to_slice",
    "slice_to_picture",
    "slices_to_volume",
]
