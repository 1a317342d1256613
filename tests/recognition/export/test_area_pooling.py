"""Maps on a coarser grid keep their mean."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedrec.recognition.export.area_pooling import area_matrix, coarser


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_a_coarser_line_has_the_same_mean(one: int, other: int, seed: int) -> None:
    fine, coarse = max(one, other), min(one, other)
    values = torch.from_numpy(np.random.default_rng(seed).standard_normal(fine).astype(np.float32))
    matrix = area_matrix(fine, coarse)
    assert float((matrix @ values).mean()) == pytest.approx(float(values.mean()), abs=1e-5)
    assert matrix.sum(dim=1).tolist() == pytest.approx([1.0] * coarse, abs=1e-5)


def test_cells_that_divide_evenly_are_plain_means() -> None:
    maps = torch.arange(72, dtype=torch.float32).reshape(2, 6, 6)
    assert torch.allclose(coarser(maps, side=3), torch.nn.functional.avg_pool2d(maps, 2))
