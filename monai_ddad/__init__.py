"""DDAD anomaly detection for medical images: dual-distribution discrepancy with self-supervised refinement."""

__version__ = "0.1.0"
