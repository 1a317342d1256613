from __future__ import annotations

import csv
import errno
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression

from fedrec.errors import ConfigError
from fedrec.vision.datasets import ImageSet, open_folder
from fedrec.vision.synthetic import CLASSES, generate, merchant_style, write


def pixels(images: ImageSet | None) -> np.ndarray:
    assert images is not None
    found = images.pixels()
    assert found is not None
    return found


def test_same_seed_same_bits_and_other_seed_other_bits() -> None:
    first = generate(merchants=3, per_merchant=20, seed=5, validation=10, test=10)
    second = generate(merchants=3, per_merchant=20, seed=5, validation=10, test=10)
    other = generate(merchants=3, per_merchant=20, seed=6, validation=10, test=10)
    assert first.train.records == second.train.records
    for split in ("train", "validation", "test"):
        assert np.array_equal(pixels(getattr(first, split)), pixels(getattr(second, split)))
        assert not np.array_equal(pixels(getattr(first, split)), pixels(getattr(other, split)))


def test_a_photo_does_not_depend_on_how_many_there_are() -> None:
    few = generate(merchants=2, per_merchant=5, seed=1, validation=0, test=0)
    many = generate(merchants=4, per_merchant=9, seed=1, validation=3, test=3)
    assert few.validation is None and few.test is None
    assert {r.digest for r in few.train.records} <= {r.digest for r in many.train.records}


def test_shape_and_balance() -> None:
    splits = generate(merchants=4, per_merchant=30, size=40, seed=2, validation=20, test=50)
    assert len(CLASSES) >= 10 and splits.train.classes == CLASSES
    assert pixels(splits.train).shape == (120, 40, 40, 3) and pixels(splits.test).shape == (50, 40, 40, 3)
    assert np.bincount(splits.train.labels).tolist() == [12] * 10
    assert {r.merchant for r in splits.train.records} == {f"merchant-0{i}" for i in range(4)}
    digests = [{r.digest for r in s.records} for s in (splits.train, splits.validation, splits.test) if s]
    assert sum(map(len, digests)) == len(set.union(*digests)) == 190


def test_merchants_have_styles_of_their_own() -> None:
    styles = [merchant_style(3, merchant) for merchant in range(8)]
    assert len(set(styles)) == 8 and {style.backdrop for style in styles} == {
        "plain",
        "gradient",
        "patterned",
        "cluttered",
    }


def test_written_photos_load_as_the_same_records(tmp_path: Path) -> None:
    splits = generate(merchants=2, per_merchant=10, seed=4, validation=10, test=10)
    assert write(splits, tmp_path / "photos") == 40
    loaded = open_folder(tmp_path / "photos")
    assert loaded.train.classes == CLASSES and not loaded.train.skipped

    def content(images: ImageSet | None) -> list[tuple[str | None, int, bytes]]:
        assert images is not None
        return sorted((r.merchant or "", r.label, r.digest) for r in images.records)

    assert content(loaded.train) == content(splits.train)
    assert content(loaded.validation) == content(splits.validation)
    assert content(loaded.test) == content(splits.test)
    with pytest.raises(ConfigError, match="new folder"):
        write(splits, tmp_path / "photos")


def test_a_full_disk_is_said_to_be_one_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(image: Image.Image, file: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    splits = generate(merchants=1, per_merchant=2, seed=4, validation=0, test=0)
    monkeypatch.setattr(Image.Image, "save", fill)
    with pytest.raises(OSError, match=r"No space left on device: .*000000\.png"):
        write(splits, tmp_path / "photos")


def test_numbers_out_of_range_are_refused() -> None:
    for merchants, per_merchant, size, seed in ((0, 1, 32, 0), (1, 0, 32, 0), (1, 1, 8, 0), (1, 1, 32, -1)):
        with pytest.raises(ConfigError, match="must be"):
            generate(
                merchants=merchants, per_merchant=per_merchant, size=size, seed=seed, validation=0, test=0
            )


@pytest.mark.filterwarnings("ignore:lbfgs failed")
def test_a_linear_model_on_pixels_is_not_enough_and_colour_says_nothing() -> None:
    splits = generate(merchants=10, per_merchant=100, seed=7, validation=0, test=300)
    assert splits.test is not None
    train, test = pixels(splits.train) / 255.0, pixels(splits.test) / 255.0

    def score(seen: np.ndarray, asked: np.ndarray) -> float:
        model = LogisticRegression(C=0.01, max_iter=30).fit(seen, splits.train.labels)
        return float(model.score(asked, splits.test.labels))  # type: ignore[union-attr]

    flat = score(train.reshape(len(train), -1), test.reshape(len(test), -1))
    assert 0.15 < flat < 0.8
    assert score(train.mean(axis=(1, 2)), test.mean(axis=(1, 2))) < 0.2


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_small_cnn_is_enough() -> None:
    import torch
    from torch import nn

    splits = generate(merchants=10, per_merchant=400, seed=7, validation=0, test=1000)
    assert splits.test is not None
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.GroupNorm(8, 32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.GroupNorm(8, 64), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(4096, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip

    def tensor(images: ImageSet) -> torch.Tensor:
        return torch.from_numpy(pixels(images)).permute(0, 3, 1, 2).float() / 127.5 - 1

    inputs, labels = tensor(splits.train), torch.from_numpy(splits.train.labels.copy())
    steps = 8 * (-(-len(inputs) // 64))
    optimiser = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
    for _ in range(8):
        for batch in torch.split(torch.randperm(len(inputs)), 64):
            optimiser.zero_grad()
            torch.autograd.backward(nn.functional.cross_entropy(net(inputs[batch]), labels[batch]))
            optimiser.step()
            schedule.step()
    with torch.no_grad():
        found = net(tensor(splits.test)).argmax(1).numpy()
    assert (found == splits.test.labels).mean() > 0.9


def test_written_photos_come_with_a_list_of_products(tmp_path: Path) -> None:
    splits = generate(merchants=2, per_merchant=6, seed=1, validation=3, test=0)
    assert write(splits, tmp_path / "photos") == 15
    rows = list(csv.DictReader((tmp_path / "photos" / "products.csv").open(encoding="utf-8")))
    assert len(rows) == 12 and len({row["product"] for row in rows}) == 12
    for row in rows:
        photo = tmp_path / "photos" / row["photo"]
        assert photo.is_file() and photo.parent.name == row["category"].replace("/", "-")
