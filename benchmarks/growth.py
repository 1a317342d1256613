"""What a simulated federation costs as it grows: 10 to 1,000 merchants, each with a real ledger on disk.

Run ``python benchmarks/growth.py [--quick] [--merchants N ...] [--json FILE] [--pictures FOLDER]``. Every
merchant has 20 records of 1,296 random values and trains a linear model of 12,970 parameters, as a head on
cached features does. So what counts is what a merchant costs whatever it holds: noise, kahe with the default
committee, signatures, ledger, messages. CPU is that of all processes together, from the end of one round to
the end of the next, at the median; memory is the proportional set size of all processes, measured about once
a second, at its peak.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from measure import Options, finish
from torch import Tensor, nn

import fedrec
from fedrec._internal.number_format import nice_ticks
from fedrec.api.results import Progress
from fedrec.report.charts import Chart, Line, Tick, draw

SIDE = 36
CLASSES = 10
RECORDS = 20
ROUNDS = 4
SIZES = (10, 30, 100, 300, 1000)
QUICK = (10, 30)
_MB = 2**20
_CPU = "cpu_ms_a_merchant_and_round"
PICTURES = (
    ("growth-cpu.svg", _CPU, "CPU ms a merchant and round"),
    ("growth-memory.svg", "peak_mb", "peak memory of all processes, MB"),
)


class Head(nn.Module):
    """A linear model, as a head on features is."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Linear(SIDE * SIDE, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the class scores."""
        scores: Tensor = self.scores(inputs.flatten(1))
        return scores


def tree_cpu_seconds() -> float:
    """Return the CPU seconds that this process and all its living descendants have taken."""
    total = 0.0
    own = psutil.Process()
    for process in (own, *own.children(recursive=True)):
        times = process.cpu_times()
        total += times.user + times.system
    return total


def records(merchants: int) -> list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Draw every merchant's records: random pictures in one channel, and labels."""
    generator = np.random.default_rng(0)
    return [
        (
            generator.integers(0, 256, (RECORDS, SIDE, SIDE, 1), dtype=np.uint8),
            generator.integers(0, CLASSES, RECORDS),
        )
        for _ in range(merchants)
    ]


def measure(merchants: int, folder: Path) -> dict[str, Any]:
    """Run a federation of one size."""
    stamps: list[float] = []

    def stamp(progress: Progress) -> None:
        stamps.append(tree_cpu_seconds())

    data = records(merchants)
    result = fedrec.simulate(
        model=Head,
        merchants=data,
        test=data[0],
        rounds=ROUNDS,
        sample_rate=0.5,
        epsilon=8.0,
        delta=1e-5,
        out=folder / str(merchants),
        callbacks=[stamp],
    )
    rounds = result.report.rounds
    if not all(line.opened for line in rounds):
        raise RuntimeError(f"a round of {merchants} merchants was lost")
    seconds = statistics.median(after - before for before, after in pairwise(stamps))
    return {
        "merchants": merchants,
        "committee": result.report.secure_aggregation.committee,
        _CPU: 1000 * seconds / merchants,
        "train_seconds": statistics.median(line.seconds_train for line in rounds[1:]),
        "unmask_seconds": statistics.median(line.seconds_unmask for line in rounds[1:]),
        "whole_run_seconds": result.report.run.seconds,
        "upload_bytes": max(line.upload_bytes for line in rounds),
        "peak_mb": result.report.cost.peak_memory_bytes / _MB,
    }


def picture(rows: Sequence[dict[str, Any]], key: str, *, unit: str) -> str:
    """Draw a figure against the number of merchants, on a logarithmic axis, as SVG.

    Args:
        rows: the figures of every size.
        key: name of the figure.
        unit: what the figure is, in words.

    Returns:
        The SVG file.
    """
    sizes = [row["merchants"] for row in rows]
    ticks = nice_ticks(max(row[key] for row in rows))
    return draw(
        Chart(
            describes=f"{unit}, by the number of merchants",
            x_range=(math.log10(sizes[0]), math.log10(sizes[-1])),
            x_ticks=tuple(Tick(math.log10(size), f"{size:,}") for size in sizes),
            y_ticks=tuple(Tick(value, f"{value:,g}") for value in ticks),
            lines=(Line(tuple((math.log10(row["merchants"]), row[key]) for row in rows)),),
            x_title=f"merchants ({unit})",
        ),
        font="Helvetica, Arial, sans-serif",
    )


def main() -> None:
    """Measure every size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="10 and 30 merchants")
    parser.add_argument("--merchants", type=int, nargs="*", help="other sizes")
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    parser.add_argument("--pictures", type=Path, help="draw CPU time and memory into this folder")
    given = parser.parse_args()
    sizes = given.merchants or (QUICK if given.quick else SIZES)
    rows = []
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="fedrec-benchmark-") as folder:
            rows.append(measure(size, Path(folder)))
    if given.pictures:
        for name, key, unit in PICTURES:
            (given.pictures / name).write_text(picture(rows, key, unit=unit) + "\n")
    finish(
        "growth",
        Options(quick=given.quick, json=given.json),
        rows=rows,
        ratios={"cpu_of_the_largest_against_the_smallest": rows[-1][_CPU] / rows[0][_CPU]},
    )


if __name__ == "__main__":
    main()
