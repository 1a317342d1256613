"""``--eval-data``: public photos take the place of a test split, copies and broken files included."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedrec.config import load_config
from fedrec.simulations.data_sources import Source, open_source

CLASSES, PHOTOS = ("mug", "shoe"), 40


def draw(folder: Path, *, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
        for index in range(PHOTOS):
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(
                folder / name / f"{index:02d}.png"
            )
    return folder


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return draw(tmp_path / "own", seed=1)


@pytest.fixture
def public(tmp_path: Path) -> Path:
    return draw(tmp_path / "public", seed=2)


def opened(own: Path, public: Path | None) -> Source:
    return open_source(load_config(None, {"data": own, "eval_data": public, "merchants": 3}))


def test_nothing_is_held_out_of_training_for_figures_that_public_photos_give(own: Path, public: Path) -> None:
    alone, with_public = opened(own, None), opened(own, public)
    assert (alone.splits.metrics_split, with_public.splits.metrics_split) == ("holdout", "eval-data")
    assert len(with_public.splits.metrics) == 2 * PHOTOS
    train, validation = with_public.splits.train, with_public.splits.validation
    assert validation is not None and len(train) + len(validation) == 2 * PHOTOS
    # The holdout is a fifth; what falls into validation beside it is fewer.
    assert len(train) > len(alone.splits.train)


def test_public_photos_that_are_trained_on_are_left_out_of_the_figures_and_counted(
    own: Path, public: Path
) -> None:
    trained = opened(own, public).splits.train.records
    for record in trained[:5]:
        shutil.copy(own / record.name, public / record.name.replace("/", "/copy-"))
    splits = opened(own, public).splits
    assert splits.leaked_dropped == 5
    assert len(splits.metrics) == 2 * PHOTOS
    assert not {record.digest for record in splits.train.records} & {
        record.digest for record in splits.metrics.records
    }


def test_broken_public_photos_are_named(own: Path, public: Path) -> None:
    (public / "mug" / "broken.png").write_bytes(b"nothing")
    (public / "sock").mkdir()
    shutil.copy(public / "mug" / "00.png", public / "sock" / "1.png")
    skipped = opened(own, public).skipped
    assert [skip.name for skip in skipped] == ["eval-data/mug/broken.png", "eval-data/sock/1.png"]
    assert "not one of this training's" in skipped[1].reason
