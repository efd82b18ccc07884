"""The kinds of image files that :class:`~monai_ddad.transforms.ReadImage` reads."""
