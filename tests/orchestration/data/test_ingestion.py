"""What the check of a picture lets in is what training can decode."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finedefics.pictures import decode_image
from finedefics_platform.data import ingestion
from finedefics_platform.data.ingestion import check_picture


def test_a_picture_that_decoding_refuses_is_refused_with_the_same_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingestion, "FORMATS", ("PNG", "TIFF"))
    values = np.arange(64, dtype=np.float32).reshape(8, 8)
    for name, scale in (("plain.tif", 1 / 63), ("heights.tif", 1.0)):
        Image.fromarray(values * np.float32(scale)).save(tmp_path / name)
    Image.fromarray(values.astype(np.uint16) << 10).save(tmp_path / "deep.png")
    for name in ("plain.tif", "deep.png"):
        assert check_picture(str(tmp_path / name)).problem is None
        decode_image((tmp_path / name).read_bytes(), name)
    refused = check_picture(str(tmp_path / "heights.tif")).problem
    assert refused == "the picture's numbers run from 0 to 63, and floats may from 0 to 1"


def test_a_path_that_no_file_can_have_is_a_problem_of_that_picture(tmp_path: Path) -> None:
    assert (check_picture(str(tmp_path / "a\0.jpg")).problem or "").startswith("cannot be read (")
    assert (check_picture(str(tmp_path / ("a" * 5000))).problem or "").startswith("cannot be read (")
