"""Networks of DDAD."""

from monai_ddad.networks.autoencoder import AE, AEU
from monai_ddad.networks.ddad import BACKBONES, REFINE_INPUTS, DDADNet, Decision, ScoringDDADNet
from monai_ddad.networks.ensemble import Ensemble
from monai_ddad.networks.folding import fold
from monai_ddad.networks.memory import MemAE, Memory
from monai_ddad.networks.plus import MIN_GROUPS, PLUS_NAMES, UNFITTED_NAMES, PlusScores, unlearnable
from monai_ddad.networks.pu import PU_NAME, PUClassifier
from monai_ddad.networks.refine import ASRNet
from monai_ddad.networks.winograd import WinogradASRNet

__all__ = [
    "AE",
    "AEU",
    "BACKBONES",
    "MIN_GROUPS",
    "PLUS_NAMES",
    "PU_NAME",
    "REFINE_INPUTS",
    "UNFITTED_NAMES",
    "ASRNet",
    "DDADNet",
    "Decision",
    "Ensemble",
    "MemAE",
    "Memory",
    "PUClassifier",
    "PlusScores",
    "ScoringDDADNet",
    "WinogradASRNet",
    "fold",
    "unlearnable",
]
