"""Photos that look alike: what the perceptual hash is blind to, and grouping against a naive loop."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from fedrec.vision import hamming_components
from fedrec.vision.datasets import open_folder
from fedrec.vision.near_duplicates import NEAR_BITS, near_duplicates, perceptual_hashes


def _photo(seed: int, size: int = 96) -> Image.Image:
    """A smooth random picture, as photos are."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)


def _hash(image: Image.Image) -> int:
    return int.from_bytes(perceptual_hashes(np.asarray(image)[None])[0])


def test_resized_recompressed_and_brightened_photos_look_alike(tmp_path: Path) -> None:
    for seed in range(5):
        photo = _photo(seed)
        photo.save(tmp_path / "x.jpg", quality=60)
        others = [photo.resize((60, 48)), Image.open(tmp_path / "x.jpg"), photo.point(lambda v: 20 + v * 0.8)]
        assert max((_hash(photo) ^ _hash(other)).bit_count() for other in others) <= NEAR_BITS
    between = [(_hash(_photo(a)) ^ _hash(_photo(b))).bit_count() for a in range(8) for b in range(a)]
    assert min(between) > 3 * NEAR_BITS


def _naive_hash(picture: np.ndarray) -> bytes:
    """The bits one by one: each cell's mean against that of the cell to its left."""

    def ends(length: int, count: int, index: int) -> slice:
        start = index * length // count
        return slice(start, max(start + 1, (index + 1) * length // count))

    height, width = picture.shape[:2]
    bits = ""
    for row in range(16):
        means = [
            picture[ends(height, 16, row), ends(width, 17, column)].astype(float).sum(axis=2).mean()
            for column in range(17)
        ]
        bits += "".join("1" if right > left else "0" for left, right in pairwise(means))
    return int(bits, 2).to_bytes(32)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.tuples(st.integers(1, 3), st.integers(1, 50), st.integers(1, 50), st.sampled_from([1, 3])),
)
def test_a_hash_is_that_of_a_naive_loop(seed: int, shape: tuple[int, int, int, int]) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)
    assert perceptual_hashes(pixels) == [_naive_hash(picture) for picture in pixels]


def test_tiny_and_empty_pictures() -> None:
    assert perceptual_hashes(np.zeros((0, 4, 4, 3), np.uint8)) == []
    assert perceptual_hashes(np.zeros((2, 1, 1, 1), np.uint8)) == [bytes(32)] * 2
    ramp = np.arange(17, dtype=np.uint8)[None, None, :, None].repeat(16, axis=1)
    assert perceptual_hashes(ramp) == [b"\xff" * 32]
    assert near_duplicates([]) == []


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(0, 2**256 - 1) | st.sampled_from([0, 1, 7, 15, 1 << 255]), max_size=12),
    st.integers(0, 8),
)
def test_groups_are_those_of_a_naive_loop(hashes: list[int], bits: int) -> None:
    groups = [{i} for i in range(len(hashes))]
    for i, a in enumerate(hashes):
        for j, b in enumerate(hashes[:i]):
            if (a ^ b).bit_count() <= bits and groups[i] is not groups[j]:
                merged = groups[i] | groups[j]
                for k in merged:
                    groups[k] = merged
    expected = sorted({tuple(sorted(group)) for group in groups if len(group) > 1})
    assert [
        tuple(group) for group in near_duplicates([h.to_bytes(32) for h in hashes], bits=bits)
    ] == expected


def _flipped(codes: NDArray[np.uint8], count: int, *, seed: int) -> NDArray[np.uint8]:
    """Change ``count`` bits of each code, at random."""
    bits = np.unpackbits(codes, axis=1)
    places = np.argsort(np.random.default_rng(seed).random(bits.shape), axis=1)[:, :count]
    np.put_along_axis(bits, places, 1 - np.take_along_axis(bits, places, axis=1), axis=1)
    return np.packbits(bits, axis=1)


def _codes(kind: str) -> NDArray[np.uint8]:
    rng = np.random.default_rng(7)
    random = rng.integers(0, 256, (600, 32), dtype=np.uint8)
    if kind == "just linked, and just not":
        return np.concatenate(
            [random, _flipped(random[:300], 20, seed=1), _flipped(random[300:], 21, seed=2)]
        )
    if kind == "one photo a thousand times":
        return _flipped(random[:1].repeat(1000, axis=0), 15, seed=3)
    if kind == "groups":
        return _flipped(random[:20].repeat(60, axis=0), 14, seed=4)
    return np.packbits(rng.random((1200, 256)) < 0.07, axis=1)


@pytest.mark.parametrize("share", [0.0, 1e9], ids=["all pairs", "runs"])
@pytest.mark.parametrize(
    "kind", ["just linked, and just not", "one photo a thousand times", "groups", "nearly blank"]
)
def test_no_link_is_missed_and_none_is_invented(
    kind: str, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hamming_components, "_FEW", 0)
    monkeypatch.setattr(hamming_components, "_MOST_IN_RUNS", share)
    codes = _codes(kind)
    found = hamming_components.hamming_components(codes, bits=20)
    bits = np.unpackbits(codes, axis=1).astype(np.float32)
    linked = bits @ (1 - bits).T + (1 - bits) @ bits.T <= 20
    # Every code takes the least number that is linked to it, until nothing changes.
    expected, before = np.arange(len(codes)), np.array([])
    while not np.array_equal(expected, before):
        before, expected = expected, np.where(linked, expected, len(codes)).min(axis=1)
    assert 1 < len(set(expected)) < len(codes)
    assert np.array_equal(found, expected)


def test_a_folder_keeps_photos_that_look_alike(tmp_path: Path) -> None:
    for label, seeds in (("hat", (1, 2)), ("mug", (3, 4))):
        (tmp_path / label).mkdir()
        for seed in seeds:
            _photo(seed).save(tmp_path / label / f"{seed}.png")
    _photo(1).resize((80, 80)).save(tmp_path / "hat" / "1-smaller.png")
    train = open_folder(tmp_path).train
    assert len(train) == 5 and train.duplicates_dropped == 0
    groups = near_duplicates([record.perceptual_hash for record in train.records])
    assert [[train.records[i].name for i in group] for group in groups] == [
        ["hat/1-smaller.png", "hat/1.png"]
    ]
