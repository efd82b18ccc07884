"""A label is looked at within the limits of any other picture."""

from __future__ import annotations

import pytest

from monai_ddad.data.empty_label import is_empty_label
from monai_ddad.transforms import ImageReadError
from tests.transforms.test_hostile_files import SLOW


@pytest.mark.parametrize("case", SLOW)
def test_a_label_that_takes_long_to_decode_is_refused(tmp_path, case):
    (tmp_path / "label.png").write_bytes(SLOW[case]())
    with pytest.raises(ImageReadError, match="more than 100 scans|too many values|bytes of EXIF"):
        is_empty_label(tmp_path / "label.png")
