"""MONAI Deploy application of a DDAD bundle: DICOM studies in, DICOM results out.

:mod:`~monai_ddad.deploy.operators` holds the operators and :mod:`~monai_ddad.deploy.application` the application, which
need the MONAI Deploy App SDK. What they are made of does not: :mod:`~monai_ddad.deploy.studies`,
:mod:`~monai_ddad.deploy.findings` and :mod:`~monai_ddad.deploy.dicom_objects`, which needs highdicom.
"""
