"""The memory of a print is kept for the next photo, also in a worker thread, not fetched page by page."""

from __future__ import annotations

import ctypes
import resource
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from fedrec.recognition.copies.collection import PhotoFiles
from fedrec.recognition.copies.finder import Finder
from fedrec.recognition.copies.prints import make_print


def pages_fetched_for_the_second_print() -> int:
    photo = Image.effect_noise((400, 400), 60).convert("RGB")
    make_print(photo)
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    make_print(photo)
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="another C library than glibc")
def test_a_second_print_fetches_few_pages() -> None:
    Finder(PhotoFiles([]))
    with ThreadPoolExecutor(1) as worker:
        there = worker.submit(pages_fetched_for_the_second_print).result()
    here = pages_fetched_for_the_second_print()
    # Without the setting some 9,000 are; how many are left hangs on what the process has freed before.
    assert max(here, there) < 3000
