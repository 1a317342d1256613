from __future__ import annotations

import subprocess
import sys
import time

import psutil
import pytest

from fedrec.simulations import memory_meter
from fedrec.simulations.memory_meter import MemoryMeter, tree_bytes

MIB = 2**20
_HOLD = "import sys; held = b'x' * (400 * 2**20); print(len(held), flush=True); sys.stdin.read()"


def test_without_linux_it_is_the_resident_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """psutil tells of proportional shares on Linux alone."""
    own = psutil.Process().memory_info().rss
    monkeypatch.setattr(memory_meter, "_TELLS_SHARES", False)
    monkeypatch.delattr(psutil.Process, "memory_full_info")
    assert own // 2 < tree_bytes() < own + 2048 * MIB


def test_the_peak_is_that_of_all_descendants_together() -> None:
    before = tree_bytes()
    nested = (
        "import subprocess, sys; "
        f"child = subprocess.Popen([sys.executable, '-c', {_HOLD!r}], stdin=subprocess.PIPE); "
        "sys.stdin.read(); child.kill(); child.wait()"
    )
    with MemoryMeter() as meter:
        process = subprocess.Popen(
            [sys.executable, "-c", nested], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            assert process.stdout is not None and process.stdout.readline()
            deadline = time.monotonic() + 60
            while meter.peak_bytes <= before + 250 * MIB:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(30)
        after = tree_bytes()
    assert meter.peak_bytes > before + 250 * MIB
    assert after < before + 250 * MIB
