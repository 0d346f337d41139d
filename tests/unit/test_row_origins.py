import os
from pathlib import Path

import numpy as np
import pytest

from patchline.banks.row_origins import FILE, RowOrigins


@pytest.mark.parametrize("name", ["a.png", "ä b.png", os.fsdecode(b"\xff.png")])
def test_the_origins_of_rows_are_read_as_they_were_written(tmp_path, name):
    origins = RowOrigins((tmp_path / name, Path("relative.png")), np.array([0, 1, 1]), np.array([7, 0, 1023]))
    (tmp_path / FILE).write_bytes(origins.encode())
    read = RowOrigins.load(tmp_path)
    assert read.paths == (tmp_path / name, Path("relative.png").absolute())
    assert read.image.tolist() == [0, 1, 1]
    assert read.patch.tolist() == [7, 0, 1023]


def test_a_bank_of_an_earlier_build_has_no_origins(tmp_path):
    assert RowOrigins.load(tmp_path) is None


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 damaged"])
def test_a_damaged_file_is_as_none(tmp_path, content):
    (tmp_path / FILE).write_bytes(content)
    assert RowOrigins.load(tmp_path) is None
