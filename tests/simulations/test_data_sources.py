"""Model inputs that workers map from disk."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest

from fedrec.errors import OperatingSystemError
from fedrec.simulations.data_sources import read_digests, write_arrays


def test_inputs_that_find_no_room_are_told_with_their_size_and_folder(tmp_path: Path) -> None:
    """A limit of the process on the size of a file stands for a full disk."""
    inputs, labels = np.ones((2, 1, 1 << 19), dtype=np.float16), np.zeros(2, dtype=np.int64)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(
            OperatingSystemError, match=r"2\.1 MB of .* written to .*: make room .* TMPDIR"
        ) as told:
            write_arrays(tmp_path / "run" / "m0", inputs, labels, digests=[b"a" * 32, b"b" * 32])
        assert f"{tmp_path / 'run'} (" in str(told.value)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    write_arrays(tmp_path / "run" / "m1", inputs, labels, digests=[b"a" * 32, b"b" * 32])
    np.testing.assert_array_equal(np.load(tmp_path / "run" / "m1" / "inputs.npy"), inputs)
    assert read_digests(tmp_path / "run" / "m1") == (b"a" * 32, b"b" * 32)
