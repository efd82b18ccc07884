"""Networks of DDAD."""

from monai_ddad.networks.autoencoder import AE, AEU
from monai_ddad.networks.ddad import BACKBONES, REFINE_INPUTS, DDADNet, Decision, ScoringDDADNet
from monai_ddad.networks.ensemble import Ensemble
from monai_ddad.networks.folding import fold
from monai_ddad.networks.memory import MemAE, Memory
from monai_ddad.networks.plus import MIN_GROUPS, PLUS_NAMES, PlusScores, unlearnable
from monai_ddad.networks.refine import ASRNet

__all__ = [
    "AE",
    "AEU",
    "BACKBONES",
    "MIN_GROUPS",
    "PLUS_NAMES",
    "REFINE_INPUTS",
    "ASRNet",
    "DDADNet",
    "Decision",
    "Ensemble",
    "MemAE",
    "Memory",
    "PlusScores",
    "ScoringDDADNet",
    "fold",
    "unlearnable",
]
