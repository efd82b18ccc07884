"""DDAD anomaly detection for medical images: dual-distribution discrepancy with self-supervised refinement."""

import os

__version__ = "0.1.0"

# read when PyTorch is loaded: threads that spin while they wait make a busy machine several times slower
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
