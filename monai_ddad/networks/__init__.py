"""Networks of DDAD."""

from monai_ddad.networks.autoencoder import AE, AEU
from monai_ddad.networks.ddad import BACKBONES, DDADNet, Discrepancies
from monai_ddad.networks.encoder import ENCODER, Encoder
from monai_ddad.networks.ensemble import Ensemble
from monai_ddad.networks.feature_net import FeatureNet
from monai_ddad.networks.feature_scores import FEATURE_SCORES, FeatureScores
from monai_ddad.networks.folding import fold
from monai_ddad.networks.gaussian import DualGaussian, Gaussian, Moments
from monai_ddad.networks.memory import MemAE, Memory
from monai_ddad.networks.model import DDADModel, Decided, Deciding, ScoreHead, build_model
from monai_ddad.networks.plus import MIN_GROUPS, PLUS_NAMES, PlusScores, unlearnable
from monai_ddad.networks.refine import ASRNet, CellASRNet
from monai_ddad.networks.settings import REFINE_INPUTS, FeatureSettings, Settings

__all__ = [
    "AE",
    "AEU",
    "BACKBONES",
    "ENCODER",
    "FEATURE_SCORES",
    "MIN_GROUPS",
    "PLUS_NAMES",
    "REFINE_INPUTS",
    "ASRNet",
    "CellASRNet",
    "DDADModel",
    "DDADNet",
    "Decided",
    "Deciding",
    "Discrepancies",
    "DualGaussian",
    "Encoder",
    "Ensemble",
    "FeatureNet",
    "FeatureScores",
    "FeatureSettings",
    "Gaussian",
    "MemAE",
    "Memory",
    "Moments",
    "PlusScores",
    "ScoreHead",
    "Settings",
    "build_model",
    "fold",
    "unlearnable",
]
