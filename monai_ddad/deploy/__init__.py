"""MONAI Deploy application of a DDAD bundle: DICOM studies in, DICOM results out.

:mod:`~monai_ddad.deploy.operators` holds the operators and :mod:`~monai_ddad.deploy.application` the application, which
need the MONAI Deploy App SDK. What they are made of does not: :mod:`~monai_ddad.deploy.studies`,
:mod:`~monai_ddad.deploy.findings` and :mod:`~monai_ddad.deploy.dicom_objects`, which needs highdicom.
"""

import contextlib

# holoscan, on which the SDK stands, needs CUDA's runtime without a GPU too, and does not find the one that pip installs
with contextlib.suppress(ImportError, RuntimeError):
    from cuda.pathfinder import load_nvidia_dynamic_lib

    load_nvidia_dynamic_lib("cudart")
