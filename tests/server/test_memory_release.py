"""A server's chunks of numbers stay in memory that it has: no page is fetched anew for each."""

from __future__ import annotations

import ctypes
import resource

import numpy as np
import pytest

from fedrec.privacy.dp.layer_noise import remove_layer
from fedrec.server.memory_release import give_memory_back


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="another C library than glibc")
def test_removing_a_layer_of_noise_fetches_no_page_for_each_chunk() -> None:
    give_memory_back()
    values = np.zeros(2**20, dtype=np.int64)
    remove_layer(values, 1, std=6000.0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    remove_layer(values, 2, std=6000.0)
    # Without the setting some 500 pages are fetched for each of 16 chunks.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 1000
