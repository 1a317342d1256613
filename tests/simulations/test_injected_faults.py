"""Injected crashes: where they come, what they leave on disk, and that a training goes on with them."""

from __future__ import annotations

import math
import sqlite3
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from fedrec.config import load_config
from fedrec.errors import ConfigError
from fedrec.server.cohort_defaults import default_min_contributors
from fedrec.simulations import local_grid
from fedrec.simulations.harness import simulate
from fedrec.simulations.injected_faults import Crashes, CrashPoint
from fedrec.vision.synthetic import generate, write
from tests.support.inline import InlineWorker

MERCHANTS, ROUNDS, PROBABILITY = 4, 3, 0.3
SILENT = ("charged", "stored")


def points(seed: int) -> dict[tuple[int, int], CrashPoint]:
    """(merchant, round) -> where it crashes."""
    crashes = Crashes(PROBABILITY, seed)
    drawn: dict[tuple[int, int], CrashPoint | None] = {
        (merchant, number): crashes.point(merchant=merchant, round_number=number)
        for merchant in range(MERCHANTS)
        for number in range(1, ROUNDS + 1)
    }
    return {key: point for key, point in drawn.items() if point is not None}


def absent(found: dict[tuple[int, int], CrashPoint], number: int) -> int:
    return sum(point in SILENT for (_, at), point in found.items() if at == number)


# All points come up, and no round loses more than it can spare.
SEED = next(
    seed
    for seed in range(10_000)
    if set(points(seed).values()) == {"charged", "stored", "sent"}
    and max(absent(points(seed), number) for number in range(1, ROUNDS + 1)) == 1
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "photos"
    write(generate(merchants=MERCHANTS, per_merchant=20, size=16, seed=1, validation=10, test=10), folder)
    return folder


def run(photos: Path, out: Path, **options: object) -> dict[str, Any]:
    flags: dict[str, object] = {
        "data": photos,
        "partition": "folder",
        "model": "cnn-tanh",
        "rounds": ROUNDS,
        "workers": 1,
    }
    flags |= {"device": "cpu", "seed": SEED, "min_contributors": 3, "crash": PROBABILITY, "out": out}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_grid, "WorkerProcess", InlineWorker)
        return simulate(load_config(None, flags | options)).report.to_json()


def test_a_crash_drops_the_upload_that_was_not_sent_and_the_merchant_is_back_from_disk(
    photos: Path, tmp_path: Path
) -> None:
    crashes = points(SEED)
    report = run(photos, tmp_path / "run")
    assert [line["contributors"] for line in report["rounds"]] == [
        MERCHANTS - absent(crashes, number) for number in range(1, ROUNDS + 1)
    ]
    assert all(line["opened"] for line in report["rounds"])
    # Whatever the point, the round was charged, and once.
    assert [line["rounds_charged"] for line in report["privacy"]["per_merchant"]] == [ROUNDS] * MERCHANTS
    for merchant in range(MERCHANTS):
        store = tmp_path / "run" / "merchants" / f"merchant-{merchant:02d}" / "store.sqlite"
        with sqlite3.connect(store) as db:
            stored = {row[0] for row in db.execute("SELECT round_number FROM reply WHERE kind = 'upload'")}
        assert stored == {
            number for number in range(1, ROUNDS + 1) if crashes.get((merchant, number)) != "charged"
        }


def test_crashes_come_as_often_as_asked_and_at_each_point_alike() -> None:
    crashes = Crashes(0.3, 5)
    found = [crashes.point(merchant=m, round_number=r) for m in range(100) for r in range(100)]
    counts = Counter(found)
    # Five standard deviations of a binomial of 10,000.
    assert abs(counts[None] - 7000) < 5 * math.sqrt(10_000 * 0.3 * 0.7)
    for point in ("charged", "stored", "sent"):
        assert abs(counts[point] - 1000) < 5 * math.sqrt(10_000 * 0.1 * 0.9)


def test_the_default_minimum_allows_for_crashes_as_for_dropouts() -> None:
    config = load_config(None, {"drop": 0.1, "crash": 0.2})
    assert default_min_contributors(merchants=10, colluders=1, drop=config.planned_dropouts) == 4
    assert load_config(None, {"crash": 0.9, "drop": 0.9}).planned_dropouts == 1
    with pytest.raises(ConfigError, match="--crash 1"):
        load_config(None, {"crash": 1})


@pytest.mark.parametrize("percent", range(51))
def test_the_default_minimum_is_exact(percent: int) -> None:
    """2 x 0.07 x 100 is 14.000000000000002 in floats, which would be rounded up to 15."""
    config = load_config(None, {"drop": percent / 100})
    least = default_min_contributors(merchants=100, colluders=5, drop=config.planned_dropouts)
    assert least == 100 - max(5, 2 * percent)
    assert config.planned_dropouts == Fraction(percent, 100)
