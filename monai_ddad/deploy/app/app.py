"""The application as ``monai-deploy package`` takes it."""

from monai_ddad.deploy.application import DDADApplication

__all__ = ["DDADApplication"]
