from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.errors import ConfigError, DataError
from fedrec.vision.datasets import ImageSet
from fedrec.vision.partition import Partition, merchant_names, parse_partition, partition


def image_set(labels: list[int], *, merchants: list[str] | None = None, same: bool = False) -> ImageSet:
    pixels = np.zeros((len(labels), 2, 2, 3), dtype=np.uint8)
    if not same:
        pixels[:, 0, 0, 0] = np.arange(len(labels)) % 256
        pixels[:, 0, 0, 1] = np.arange(len(labels)) // 256
    names = [f"r{i}" for i in range(len(labels))]
    return ImageSet.from_arrays(["a", "b", "c"], pixels, labels, names=names, merchants=merchants)


def test_parses_what_it_prints() -> None:
    assert parse_partition("iid") == Partition("iid")
    assert parse_partition("folder") == Partition("folder")
    assert parse_partition("dirichlet:0.5") == Partition("dirichlet", 0.5)
    assert parse_partition("classes:2") == Partition("classes", classes=2)
    for text in ("iid", "folder", "dirichlet:0.5", "dirichlet:10", "classes:1"):
        assert str(parse_partition(text)) == text


BAD_ALPHAS = ["", "0", "-1", "nan", "inf", "x", "1e999"]
BAD_COUNTS = ["", "0", "-1", "1.5", "nan", "x", "1001", "\u00b2", "1e9"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "IID",
        "iid:1",
        "folder:x",
        "dirichlet",
        *(f"dirichlet:{alpha}" for alpha in BAD_ALPHAS),
        "classes",
        *(f"classes:{count}" for count in BAD_COUNTS),
    ],
)
def test_refuses_other_texts(text: str) -> None:
    with pytest.raises(ConfigError, match="partition"):
        parse_partition(text)


@settings(max_examples=60, deadline=None)
@given(
    labels=st.lists(st.integers(0, 2), min_size=12, max_size=150),
    merchants=st.integers(1, 6),
    seed=st.integers(0, 2**40),
    spec=st.sampled_from(["iid", "dirichlet:0.3", "dirichlet:1", "dirichlet:100"]),
)
def test_shares_are_disjoint_cover_and_leave_nobody_out(
    labels: list[int], merchants: int, seed: int, spec: str
) -> None:
    images = image_set(labels)
    try:
        shares = partition(images, spec=parse_partition(spec), merchants=merchants, seed=seed)
    except DataError:
        assert spec == "dirichlet:0.3"  # only strong skew on few records may fail to serve everybody
        return
    assert [share.name for share in shares] == merchant_names(merchants)
    together = np.concatenate([share.indices for share in shares])
    assert sorted(together.tolist()) == list(range(len(labels)))
    assert min(len(share.indices) for share in shares) >= 1
    assert all(share.indices.dtype == np.int64 for share in shares)
    again = partition(images, spec=parse_partition(spec), merchants=merchants, seed=seed)
    assert [s.indices.tolist() for s in shares] == [s.indices.tolist() for s in again]
    if spec == "iid":
        sizes = [len(share.indices) for share in shares]
        assert max(sizes) - min(sizes) <= 1


def test_alpha_sets_the_skew() -> None:
    images = image_set([i % 3 for i in range(3000)])

    def skew(alpha: float) -> float:
        gaps = []
        for seed in range(5):
            for share in partition(images, spec=Partition("dirichlet", alpha), merchants=5, seed=seed):
                mix = np.bincount(images.labels[share.indices], minlength=3) / len(share.indices)
                gaps.append(np.abs(mix - 1 / 3).sum())
        return float(np.mean(gaps))

    assert skew(1000.0) < 0.1 < skew(1.0) < skew(0.1)


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(9, 30), min_size=3, max_size=3),
    merchants=st.integers(1, 9),
    each=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_each_merchant_has_its_number_of_classes_and_equal_parts_of_them(
    counts: list[int], merchants: int, each: int, seed: int
) -> None:
    images = image_set([label for label, count in enumerate(counts) for _ in range(count)])
    spec = Partition("classes", classes=each)
    if merchants * each < 3:
        with pytest.raises(ConfigError, match="every class has a merchant"):
            partition(images, spec=spec, merchants=merchants, seed=seed)
        return
    shares = partition(images, spec=spec, merchants=merchants, seed=seed)
    together = np.concatenate([share.indices for share in shares])
    assert sorted(together.tolist()) == list(range(len(images)))
    held = np.array([np.bincount(images.labels[share.indices], minlength=3) for share in shares])
    assert ((held > 0).sum(axis=1) == min(each, 3)).all()
    for column in held.T:
        assert np.ptp(column[column > 0]) <= 1


def test_folder_follows_the_merchants() -> None:
    images = image_set([0, 1, 2, 0], merchants=["zoe", "ann", "zoe", "ann"])
    shares = partition(images, spec=Partition("folder"), merchants=None, seed=0)
    assert [(share.name, share.indices.tolist()) for share in shares] == [("ann", [1, 3]), ("zoe", [0, 2])]
    with pytest.raises(ConfigError, match="2 merchants"):
        partition(images, spec=Partition("folder"), merchants=3, seed=0)
    with pytest.raises(DataError, match="folder per merchant"):
        partition(image_set([0, 1]), spec=Partition("folder"), merchants=None, seed=0)


def test_copies_that_meet_in_a_share_count_once() -> None:
    images = image_set([0, 0, 0, 0], merchants=["a", "b", "c", "d"], same=True)
    (share,) = partition(images, spec=Partition("iid"), merchants=1, seed=0)
    assert share.indices.tolist() == [0] and share.duplicates_dropped == 3


def test_impossible_divisions_are_refused() -> None:
    images = image_set([0, 1, 2])
    with pytest.raises(DataError, match="cannot be shared"):
        partition(images, spec=Partition("iid"), merchants=4, seed=0)
    with pytest.raises(DataError, match="larger ALPHA"):
        partition(image_set([0] * 20), spec=Partition("dirichlet", 1e-6), merchants=3, seed=0)
    for merchants, seed, told in (
        (0, 0, "at least 1"),
        (None, 0, "needs the number of merchants"),
        (2, -1, "is negative"),
    ):
        with pytest.raises(ConfigError, match=told):
            partition(images, spec=Partition("iid"), merchants=merchants, seed=seed)
