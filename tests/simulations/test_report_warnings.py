"""Warnings that a report owes its reader: absent classes and merchants, unmeasured rounds, weak settings."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedrec.config import load_config
from fedrec.errors import ConfigError
from fedrec.simulations import local_grid
from fedrec.simulations.data_sources import open_source
from fedrec.simulations.harness import simulate
from tests.support.inline import InlineWorker

Run = Callable[..., dict[str, Any]]


def draw(folder: Path, label: str, count: int, *, seed: int) -> None:
    rng = np.random.default_rng(seed)
    (folder / label).mkdir(parents=True)
    for index in range(count):
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / label / f"{index:02d}.png")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(local_grid, "WorkerProcess", InlineWorker)

    def start(**options: object) -> dict[str, Any]:
        flags: dict[str, object] = {
            "data": tmp_path / "photos",
            "model": "cnn-tanh",
            "rounds": 1,
            "workers": 1,
            "device": "cpu",
        }
        return simulate(load_config(None, flags | {"out": tmp_path / "run"} | options)).report.to_json()

    return start


def said(report: dict[str, Any], text: str) -> list[str]:
    return [warning for warning in report["warnings"] if text in warning]


def test_classes_without_a_record_to_measure_on_are_named(run: Run, tmp_path: Path) -> None:
    for index, label in enumerate(("hat", "mug", "shoe")):
        draw(tmp_path / "photos" / "train", label, 20, seed=index)
    draw(tmp_path / "photos" / "test", "mug", 10, seed=9)
    report = run(merchants=3)
    (warning,) = said(report, "2 classes have no record to measure on")
    assert warning.endswith(": hat, shoe.")
    by_label = {line["label"]: line for line in report["metrics"]["per_class"]}
    assert by_label["hat"]["support"] == 0
    # Absent classes count as 0, as scikit-learn has it for given labels.
    assert report["metrics"]["recall_macro"] == pytest.approx(by_label["mug"]["recall"] / 3)
    assert report["metrics"]["accuracy"] == by_label["mug"]["recall"]


def test_a_merchant_left_with_no_photo_is_named_and_the_others_go_on(run: Run, tmp_path: Path) -> None:
    for merchant in range(3):
        for index, label in enumerate(("mug", "shoe")):
            draw(tmp_path / "photos" / f"m{merchant}", label, 20, seed=10 * merchant + index)
    broken = tmp_path / "photos" / "unlucky" / "mug"
    broken.mkdir(parents=True)
    (broken / "x.png").write_bytes(b"no picture")
    report = run(partition="folder", merchants=4)
    assert report["run"]["merchants"] == 3
    assert [line["merchant"] for line in report["privacy"]["per_merchant"]] == ["m0", "m1", "m2"]
    assert said(report, "unlucky takes no part")


def test_rounds_are_not_measured_on_the_final_split_for_want_of_another(run: Run, tmp_path: Path) -> None:
    # Whether a photo falls into validation is its own matter: of few it may be none.
    photos = tmp_path / "photos"
    for index, label in enumerate(("mug", "shoe")):
        draw(photos / "train", label, 3, seed=100 + index)
        draw(photos / "test", label, 3, seed=200 + index)
    config = load_config(None, {"data": photos, "merchants": 3})
    for seed in range(300, 400):
        if open_source(config).splits.validation is None:
            break
        for index, label in enumerate(("mug", "shoe")):
            shutil.rmtree(photos / "train" / label)
            draw(photos / "train", label, 3, seed=2 * seed + index)
    report = run(merchants=3)
    assert said(report, "the accuracy of rounds is not measured")
    assert [line["accuracy"] for line in report["rounds"]] == [None]
    assert report["metrics"]["accuracy"] is not None


@pytest.mark.parametrize(
    ("options", "warning"),
    [
        ({"epsilon": 64.0, "delta": 1e-5}, "the noise multiplier is at its minimum"),
        ({"delta": 5e-3}, "delta 0.005 is above a tenth of 1 /"),
        ({"delta": 1e-4}, None),
    ],
)
def test_misleading_settings_are_warned_about(
    run: Run, tmp_path: Path, options: dict[str, object], warning: str | None
) -> None:
    for index, label in enumerate(("mug", "shoe")):
        draw(tmp_path / "photos", label, 40, seed=index)
    # Seeded, for the counts that merchants declare decide too: 80 photos with noise of deviation 35 in all.
    report = run(merchants=3, seed=3, **options)
    found = [text for text in report["warnings"] if "delta" in text or "at its minimum" in text]
    if warning is None:
        assert not found
    else:
        assert any(warning in text for text in found), found


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"epsilon": 1e6, "delta": 0.4}, "epsilon: 1e\\+06 is outside"),
        ({"epsilon": 65.0}, "epsilon: 65 is outside"),
        ({"delta": 0.4}, "delta: 0.4 is outside"),
        ({"delta": 9.9e-3, "records": 200}, "one in the"),
    ],
)
def test_budgets_without_meaning_are_refused(
    run: Run, tmp_path: Path, options: dict[str, object], why: str
) -> None:
    for index, label in enumerate(("mug", "shoe")):
        draw(tmp_path / "photos", label, int(str(options.get("records", 40))), seed=index)
    given = {name: value for name, value in options.items() if name != "records"}
    with pytest.raises(ConfigError, match=why):
        run(merchants=3, **given)
