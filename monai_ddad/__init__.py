"""DDAD anomaly detection for medical images: dual-distribution discrepancy with self-supervised refinement.

The names of ``__all__`` are imported when they are first used: ``import monai_ddad`` alone loads neither PyTorch nor
MONAI.

Example:
    >>> import monai_ddad
    >>> monai_ddad.ReadImaged is monai_ddad.ReadImageD is monai_ddad.ReadImageDict
    True
"""

import os

__version__ = "0.1.0"

# read when PyTorch is loaded: threads that spin while they wait make a busy machine several times slower
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

PLACES = {"DDADModel": "networks", "Finding": "decision", "Predictor": "serving", "Result": "decision"}
PLACES |= {"Unreadable": "decision", "load": "serving"}
PLACES |= {
    transform + form: "transforms"  # the dictionary form has three names in MONAI
    for transform in (
        "AxialSlices",
        "BrainSlice",
        "ChestFilm",
        "EightBit",
        "FundusField",
        "PlainResize",
        "ReadImage",
    )
    for form in ("", "d", "D", "Dict")
}
__all__ = [*PLACES]

TYPE_CHECKING = False  # typing's own takes longer to import than all of this
if TYPE_CHECKING:
    from monai_ddad.decision import Finding as Finding
    from monai_ddad.decision import Result as Result
    from monai_ddad.decision import Unreadable as Unreadable
    from monai_ddad.networks import DDADModel as DDADModel
    from monai_ddad.serving import Predictor as Predictor
    from monai_ddad.serving import load as load
    from monai_ddad.transforms import *  # noqa: F403
else:  # a type checker would take any name

    def __getattr__(name: str) -> object:
        if name not in PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = globals()[name] = getattr(import_module(f"{__name__}.{PLACES[name]}"), name)
        return value


def __dir__() -> list[str]:
    return [*__all__, "__doc__", "__version__"]
