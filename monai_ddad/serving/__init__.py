"""A trained bundle as a function of files, and the forms in which its model runs."""

from monai_ddad.serving.inferer import DecidingInferer
from monai_ddad.serving.onnx_models import export_onnx
from monai_ddad.serving.predictor import Predictor, load
from monai_ddad.serving.programs import export_program
from monai_ddad.serving.runtimes import Runtime

__all__ = ["DecidingInferer", "Predictor", "Runtime", "export_onnx", "export_program", "load"]
