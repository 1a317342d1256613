"""Each step of finding a copy against numpy, a naive loop, or a second way to compute it."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from fedrec.recognition.copies.agreement import WINDOW, agreement
from fedrec.recognition.copies.alignment import alignments
from fedrec.recognition.copies.collection import AllVectors
from fedrec.recognition.copies.decision import Asked, Match, match
from fedrec.recognition.copies.feature_index import FeatureIndex
from fedrec.recognition.copies.hashes import SYMMETRIES, distances, hashes, symmetry
from fedrec.recognition.copies.local_features import MOST_FEATURES, Sought, local_features
from fedrec.recognition.copies.overlap import overlap
from fedrec.recognition.copies.prints import LONGEST_SIDE, make_print
from fedrec.recognition.copies.proposals import MOST_CANDIDATES, merged
from fedrec.recognition.copies.strips import agreeing_strip
from fedrec.recognition.copies.transformation import Transformation, transformation
from tests.recognition.quality.test_measures import texture

TURNED: tuple[Callable[[NDArray[np.uint8]], NDArray[np.uint8]], ...] = (
    lambda a: a,
    lambda a: np.rot90(a),
    lambda a: np.rot90(a, 2),
    lambda a: np.rot90(a, 3),
    lambda a: a[::-1],
    lambda a: a[:, ::-1],
    lambda a: a.swapaxes(0, 1),
    lambda a: np.rot90(a, 2).swapaxes(0, 1),
)


def made(photo: Image.Image, other: Image.Image) -> tuple[Match, Transformation]:
    """How a photo matches another one, which it must."""
    first, second = make_print(photo), make_print(other)
    assert first is not None and second is not None
    found = match(Asked(first), second)
    assert found is not None
    return found, transformation(found, size=first.size)


def test_mirrored_features_are_those_of_the_mirrored_picture() -> None:
    picture = np.asarray(texture(3, width=200, height=160).convert("L"))
    mirrored, real = (
        local_features(picture).mirrored(),
        local_features(np.ascontiguousarray(picture[:, ::-1])),
    )
    assert 50 < len(real.points) <= MOST_FEATURES
    near = []
    for point, descriptor in zip(mirrored.points, mirrored.descriptors, strict=True):
        there = np.linalg.norm(real.points - point, axis=1) < 0.7
        away = np.abs(real.descriptors[there].astype(int) - descriptor).mean(axis=1)
        near.append(away.min() if len(away) else np.inf)
    assert np.median(near) < 3 and np.mean(np.array(near) < 4) > 0.8, "unmirrored, the median is 25"


def test_a_print_of_the_negative_is_that_of_the_negative_picture() -> None:
    photo = texture(3, width=200, height=160)
    printed, real = make_print(photo), make_print(ImageOps.invert(photo))
    assert printed is not None and real is not None
    negative = printed.negative()
    assert np.abs(negative.luminance.astype(int) - real.luminance).max() <= 1
    assert np.bitwise_count(negative.hashes.words ^ real.hashes.words).sum(axis=1).max() <= 8
    near = []
    for point, descriptor in zip(negative.features.points, negative.features.descriptors, strict=True):
        there = np.linalg.norm(real.features.points - point, axis=1) < 0.7
        away = np.abs(real.features.descriptors[there].astype(int) - descriptor).mean(axis=1)
        near.append(away.min() if len(away) else np.inf)
    assert np.median(near) < 3 and np.mean(np.array(near) < 4) > 0.8


@pytest.mark.parametrize("number", range(8))
def test_a_hash_in_each_symmetry_tells_how_the_photo_was_turned(number: int) -> None:
    photo = np.asarray(texture(1, width=256, height=192))
    turned = np.ascontiguousarray(TURNED[number](photo))
    bits = distances(hashes(photo), hashes(turned))
    assert bits.argmin() == number and bits[number] <= 48 and np.delete(bits, number).min() > 80
    height, width = photo.shape[:2]
    matrix = symmetry(number, source=(width, height), target=(turned.shape[1], turned.shape[0]))
    for x, y in ((0, 0), (width - 1, 0), (30, 100)):
        column, row = np.rint((matrix @ (x, y, 1))[:2]).astype(int)
        assert (turned[row, column] == photo[y, x]).all()
    assert len(SYMMETRIES) == len(TURNED)


def test_an_alignment_is_the_map_that_made_the_picture() -> None:
    picture = np.asarray(texture(5, width=300, height=240).convert("L"))
    true = cv2.getRotationMatrix2D((150, 120), 25, 0.8)
    moved = np.asarray(cv2.warpAffine(picture, true, (300, 240)), dtype=np.uint8)
    best = alignments(Sought(local_features(picture)).matched(local_features(moved)))[0]
    assert best.inliers > 30
    for point in ((60, 60), (240, 180), (150, 120)):
        expected = true @ (*point, 1)
        got = best.matrix @ (*point, 1)
        assert np.linalg.norm(got[:2] / got[2] - expected) < 1


def test_agreement_is_the_correlation_of_windows_where_both_are() -> None:
    first, second = (np.asarray(texture(seed, width=160, height=160).convert("L")) for seed in (1, 2))
    mixed = np.where(np.arange(160) < 100, first, second).astype(np.uint8)
    laid = overlap(first, mixed, np.eye(3))
    assert laid is not None and laid.of_first == laid.of_second == pytest.approx(1)
    assert np.abs(laid.first - first).max() < 1e-3
    found = agreement(laid)
    one, two = (cv2.GaussianBlur(part, (0, 0), 1.2).astype(np.float64) for part in (laid.first, laid.second))
    half, values = WINDOW // 2, []
    for row in range(2 * half, 160 - 2 * half):
        for column in range(2 * half, 160 - 2 * half):
            place = slice(row - half, row + half + 1), slice(column - half, column + half + 1)
            values.append(np.corrcoef(one[place].ravel(), two[place].ravel())[0, 1])
    assert found.mean == pytest.approx(np.mean(values), abs=0.03)
    assert found.thick > 0.2
    assert found.strip is not None
    assert found.strip.length == pytest.approx(100 / 160, abs=0.08) and found.strip.inner > 0.95


def test_overlap_shares_are_those_of_the_rectangles() -> None:
    picture = np.asarray(texture(1, width=200, height=100).convert("L"))
    matrix = np.array([[1.0, 0, 150], [0, 1, 40], [0, 0, 1]])
    laid = overlap(picture, picture, matrix)
    assert laid is not None
    assert laid.of_first == pytest.approx(50 * 60 / 20_000) and laid.of_second == pytest.approx(0.15)
    away = np.array([[1.0, 0, 500], [0, 1, 0], [0, 0, 1]])
    assert overlap(picture, picture, away) is None


def test_no_map_is_too_wild_for_the_comparison() -> None:
    rng = np.random.default_rng(0)
    first = np.asarray(texture(1, width=90, height=60).convert("L"))
    second = np.asarray(texture(2, width=50, height=80).convert("L"))
    compared = 0
    for _ in range(300):
        scale = 10.0 ** rng.uniform(-3, 3)
        matrix = np.eye(3) * [scale, scale, 1] + rng.normal(size=(3, 3)) * [
            [1, 1, 60],
            [1, 1, 60],
            [0.01, 0.01, 0],
        ]
        laid = overlap(first, second, matrix)
        if laid is not None:
            compared += 1
            assert max(laid.first.shape) <= 1024 and np.isfinite(laid.first).all()
            found = agreement(laid)
            assert -1.001 <= found.mean <= 1.001 and 0 <= found.thick <= 1
            assert 0 <= laid.of_first <= 1.01 and 0 <= laid.of_second <= 1.01
    assert compared > 50


def test_no_strip_is_found_where_nothing_counts() -> None:
    assert agreeing_strip(np.ones((50, 50), np.float32), np.zeros((50, 50), bool)) is None


def test_votes_are_those_of_equal_codes_in_a_loop() -> None:
    photos = [local_features(np.asarray(texture(seed).convert("L"))) for seed in range(4)]
    index = FeatureIndex([photo.descriptors for photo in photos], photos=4)
    codes = [index._codes(photo.descriptors) for photo in photos]
    asked = photos[2]
    mine = np.concatenate([index._codes(asked.descriptors), index._codes(asked.mirrored().descriptors)])
    usual = 1 + sum(map(len, codes)) / 65536
    expected = np.zeros(4)
    for row in mine:
        for table in range(4):
            equal = np.array([(theirs[:, table] == row[table]).sum() for theirs in codes])
            if equal.sum() < 64 * usual:
                expected += equal / (1 + equal.sum() / (4 * usual))
    assert index.votes(asked) == pytest.approx(expected)
    assert index.votes(asked).argmax() == 2
    assert FeatureIndex([], photos=0).votes(asked).shape == (0,)


def test_nearest_vectors_are_those_of_a_full_sort() -> None:
    rng = np.random.default_rng(0)
    stored, asked = rng.normal(size=(50, 8)).astype(np.float32), rng.normal(size=(3, 8)).astype(np.float32)
    numbers, similarity = AllVectors(stored).nearest(asked, count=7)
    assert (numbers == np.argsort(-(asked @ stored.T), axis=1)[:, :7]).all()
    assert similarity == pytest.approx(np.take_along_axis(asked @ stored.T, numbers, axis=1))
    assert AllVectors(stored[:2]).nearest(asked, count=7)[0].shape == (3, 2)


def test_proposals_are_merged_in_turn_and_bounded() -> None:
    assert merged([[5, 1], [], [2, 5, 9]], without=frozenset({1})) == [5, 2, 9]
    assert len(merged([range(30), range(30, 60)], without=frozenset())) == MOST_CANDIDATES


def test_the_transformation_is_what_was_done() -> None:
    photo = texture(7, width=320, height=240)
    crop = photo.crop((80, 60, 240, 180))
    _, seen = made(crop, photo)
    assert seen.of_other == pytest.approx(0.25, abs=0.03) and seen.of_photo > 0.97 and not seen.mirrored
    assert seen.words() == [f"shows {seen.of_other:.0%} of the other photo"]
    _, seen = made(ImageOps.mirror(crop).rotate(10, expand=True), photo)
    assert seen.mirrored and seen.degrees == pytest.approx(10, abs=1) and seen.words()[0] == "mirrored"
    _, seen = made(photo.resize((480, 240)), photo)
    assert seen.stretch == pytest.approx(1.5, abs=0.05)
    _, seen = made(ImageOps.expand(photo, 60, "white"), photo)
    assert seen.of_photo == pytest.approx(320 * 240 / (440 * 360), abs=0.03) and seen.of_other > 0.97


def test_a_print_is_bounded_and_a_line_has_none() -> None:
    large = make_print(Image.new("RGB", (3000, 2000), "white"))
    assert large is not None and max(large.size) == LONGEST_SIDE and len(large.features.points) == 0
    assert match(Asked(large), large) is None, "two blank photos are no copies of each other"
    assert make_print(Image.new("RGB", (60_000, 3))) is None
