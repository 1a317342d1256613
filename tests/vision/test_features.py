"""The feature cache: nothing is computed twice, nothing damaged is believed, nobody else can read it."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from fedrec.errors import ConfigError, DataError
from fedrec.vision import feature_batches, feature_cache, features
from fedrec.vision.feature_batches import features_in_batches
from fedrec.vision.feature_cache import (
    FeatureExtractor,
    cache_file,
    default_cache_dir,
    drop_features,
    read_entries,
)
from fedrec.vision.features import Progress, feature_matrices
from fedrec.vision.transforms import augmented_views, to_model_input

SIZE = 8


@pytest.fixture(autouse=True)
def without_the_check_of_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts of pictures are those of the photos."""
    monkeypatch.setattr(feature_batches, "_places_are_alike", lambda extractor: True)


class MeanColour:
    """Counts the pictures it is given; features are the mean of each channel and of the top left pixel."""

    name = "mean-colour"
    dimension = 4
    image_size = SIZE
    batch = 4

    def __init__(
        self, weights_hash: str = "ab" * 32, *, dtype: str = "float32", preparation: str = "wide"
    ) -> None:
        self.weights_hash = weights_hash
        self.dtype = dtype
        self.preparation = preparation
        self.batches: list[int] = []
        self.pictures = 0

    def prepare(self, image: Image.Image) -> np.ndarray:
        return to_model_input(image, size=SIZE, channels=3)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.batches.append(len(images))
        self.pictures += int(images.any(axis=(1, 2, 3)).sum())  # those that fill a batch are black
        means = images.mean(axis=(1, 2))
        return np.concatenate([means, images[:, 0, 0].mean(axis=1, keepdims=True)], axis=1).astype(np.float32)


class Photos:
    """Photos by position, counting how often each is asked for."""

    def __init__(self, count: int) -> None:
        rng = np.random.default_rng(1)
        self.pixels = rng.integers(0, 256, (count, 11, 13, 3)).astype(np.uint8)
        self.asked: list[int] = []

    def image(self, index: int) -> Image.Image:
        self.asked.append(index)
        return Image.fromarray(self.pixels[index])

    @property
    def digests(self) -> list[bytes]:
        return [hashlib.sha256(pixels.tobytes()).digest() for pixels in self.pixels]


def feature_matrix(
    extractor: FeatureExtractor,
    images: Callable[[int], Image.Image],
    digests: list[bytes],
    *,
    views: int = 1,
    cache_dir: Path | None,
    workers: int = 1,
    progress: Progress | None = None,
) -> np.ndarray:
    (found,) = feature_matrices(
        [extractor], images, digests, views=views, cache_dir=cache_dir, workers=workers, progress=progress
    )
    return found


def expected(photos: Photos, *, views: int = 1) -> np.ndarray:
    """What the cache keeps: the extractor's values as float16."""
    rows = []
    for pixels, digest in zip(photos.pixels, photos.digests, strict=True):
        picture = to_model_input(Image.fromarray(pixels), size=SIZE, channels=3)
        rows.append(MeanColour()(augmented_views(picture[None], views=views, seeds=[digest])[0]))
    return np.stack(rows).astype(np.float16)


def the_file(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("views", [1, 3])
def test_features_come_in_order(views: int, workers: int) -> None:
    photos, extractor = Photos(10), MeanColour()
    found = feature_matrix(
        extractor, photos.image, photos.digests, views=views, cache_dir=None, workers=workers
    )
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, expected(photos, views=views))
    assert set(extractor.batches) == {extractor.batch}


def test_a_second_call_computes_nothing(tmp_path: Path) -> None:
    photos, folder = Photos(6), tmp_path / "made" / "here"
    first = feature_matrix(MeanColour(), photos.image, photos.digests, cache_dir=folder)
    photos.asked.clear()
    extractor = MeanColour()
    second = feature_matrix(extractor, photos.image, photos.digests, cache_dir=folder)
    assert not extractor.batches
    assert not photos.asked
    np.testing.assert_array_equal(first, second)


def test_one_changed_photo_is_computed_alone_and_the_rest_is_kept(tmp_path: Path) -> None:
    photos = Photos(6)
    feature_matrix(MeanColour(), photos.image, photos.digests, cache_dir=tmp_path)
    old = photos.digests
    photos.pixels[3] += 1
    photos.asked.clear()
    found = feature_matrix(MeanColour(), photos.image, photos.digests, cache_dir=tmp_path)
    assert photos.asked == [3]
    np.testing.assert_array_equal(found, expected(photos))
    photos.asked.clear()
    feature_matrix(MeanColour(), photos.image, old, cache_dir=tmp_path)
    assert not photos.asked


def test_equal_digests_are_computed_once() -> None:
    photos = Photos(3)
    digests = [photos.digests[0], photos.digests[1], photos.digests[0]]
    found = feature_matrix(MeanColour(), photos.image, digests, cache_dir=None)
    assert sorted(photos.asked) == [0, 1]
    np.testing.assert_array_equal(found[0], found[2])


def test_a_file_is_a_checksum_and_safetensors(tmp_path: Path) -> None:
    """Written and read by another implementation, after the checksum."""
    photos = Photos(4)
    feature_matrix(MeanColour(), photos.image, photos.digests, views=2, cache_dir=tmp_path)
    blob = the_file(tmp_path).read_bytes()
    assert hashlib.sha256(blob[32:]).digest() == blob[:32]
    found = safetensors.numpy.load(blob[32:])
    assert [bytes(digest) for digest in found["digests"]] == photos.digests
    np.testing.assert_array_equal(found["features"], expected(photos, views=2))
    payload = safetensors.numpy.save({name: value[::-1].copy() for name, value in found.items()})
    the_file(tmp_path).write_bytes(hashlib.sha256(payload).digest() + payload)
    photos.asked.clear()
    again = feature_matrix(MeanColour(), photos.image, photos.digests, views=2, cache_dir=tmp_path)
    assert not photos.asked
    np.testing.assert_array_equal(again, expected(photos, views=2))


@pytest.mark.parametrize("cached", [True, False])
def test_a_large_matrix_is_mapped_from_a_file_that_nobody_else_finds(
    tmp_path: Path, cached: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "MAPPED_BYTES", 6 * 2 * 4)
    photos = Photos(5)
    digests = [*photos.digests, photos.digests[0]]
    found = feature_matrix(MeanColour(), photos.image, digests, cache_dir=tmp_path if cached else None)
    assert isinstance(found, np.memmap)
    np.testing.assert_array_equal(found[:5], expected(photos))
    np.testing.assert_array_equal(found[5], found[0])
    found[:] = 0
    assert len(list(tmp_path.iterdir())) == cached
    if cached:
        again = feature_matrix(MeanColour(), Photos(5).image, photos.digests, cache_dir=tmp_path)
        np.testing.assert_array_equal(again, expected(photos))


def test_a_photo_without_finite_features_has_zeros_and_the_others_are_cached(tmp_path: Path) -> None:
    photos, extractor = Photos(5), MeanColour()
    spoilt = bytes(extractor.prepare(photos.image(2)))

    class Fails(MeanColour):
        def __call__(self, images: np.ndarray) -> np.ndarray:
            found = super().__call__(images)
            found[[bytes(image) == spoilt for image in images], 1] = np.nan
            return found

    wanted = expected(photos)
    wanted[2] = 0
    for asked in (5, 0):
        photos.asked.clear()
        found = feature_matrix(Fails(), photos.image, photos.digests, cache_dir=tmp_path)
        np.testing.assert_array_equal(found, wanted)
        assert len(photos.asked) == asked


def test_few_features_wait_for_a_saving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "_UNSAVED_BYTES", 6 * 2 * 4)
    photos, kept = Photos(12), []
    path = cache_file(MeanColour(), views=1, cache_dir=tmp_path)

    def look(done: int, missing: int) -> None:
        kept.append((done, len(read_entries(path, shape=(1, 4)))))

    feature_matrix(MeanColour(), photos.image, photos.digests, cache_dir=tmp_path, progress=look)
    assert kept == [(0, 0), (4, 0), (8, 8), (12, 8)]


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "garbage", "pickle", "folder"])
def test_a_damaged_file_is_computed_afresh(tmp_path: Path, damage: str) -> None:
    photos = Photos(5)
    feature_matrix(MeanColour(), photos.image, photos.digests, cache_dir=tmp_path)
    path = the_file(tmp_path)
    blob = bytearray(path.read_bytes())
    if damage == "flip":
        blob[-3] ^= 1
    if damage == "folder":
        path.unlink()
        path.mkdir()
    else:
        pickled = b"\x80\x04cos\nsystem\n."
        damaged = {"flip": bytes(blob), "truncate": bytes(blob[:-9]), "empty": b"", "garbage": b"\0" * 90}
        path.write_bytes(damaged.get(damage, hashlib.sha256(pickled).digest() + pickled))
    photos.asked.clear()
    found = feature_matrix(MeanColour(), photos.image, photos.digests, cache_dir=tmp_path)
    assert sorted(photos.asked) == list(range(5))
    np.testing.assert_array_equal(found, expected(photos))
    photos.asked.clear()
    feature_matrix(MeanColour(), photos.image, photos.digests, cache_dir=tmp_path)
    assert bool(photos.asked) == (damage == "folder")
    assert len(list(tmp_path.iterdir())) == 1


def test_a_file_of_another_shape_is_computed_afresh(tmp_path: Path) -> None:
    photos, wide = Photos(3), MeanColour()
    feature_matrix(MeanColour(), photos.image, photos.digests, views=2, cache_dir=tmp_path)
    stored = the_file(tmp_path)
    stored.rename(cache_file(wide, views=1, cache_dir=tmp_path))
    found = feature_matrix(wide, photos.image, photos.digests, cache_dir=tmp_path)
    np.testing.assert_array_equal(found, expected(photos))


def test_other_weights_formats_preparations_or_views_are_kept_apart(tmp_path: Path) -> None:
    photos = Photos(2)
    for extractor, views in (
        (MeanColour(), 1),
        (MeanColour("cd" * 32), 1),
        (MeanColour(dtype="bfloat16"), 1),
        (MeanColour(preparation="squash"), 1),
        (MeanColour(), 2),
    ):
        photos.asked.clear()
        feature_matrix(extractor, photos.image, photos.digests, views=views, cache_dir=tmp_path)
        assert sorted(photos.asked) == [0, 1]
    assert len(list(tmp_path.iterdir())) == 5


def test_a_photo_is_decoded_once_for_all_extractors_and_only_what_lacks_is_computed(tmp_path: Path) -> None:
    photos, first = Photos(6), MeanColour()
    feature_matrix(first, photos.image, photos.digests[:2], cache_dir=tmp_path)
    assert len(first.batches) == 1
    photos.asked.clear()
    pair = [MeanColour(), MeanColour(preparation="squash")]
    found = feature_matrices(pair, photos.image, photos.digests, cache_dir=tmp_path)
    assert sorted(photos.asked) == list(range(6))
    assert [extractor.pictures for extractor in pair] == [4, 6]
    for matrix in found:
        np.testing.assert_array_equal(matrix, expected(photos))
    photos.asked.clear()
    assert len(feature_matrices(pair, photos.image, photos.digests, cache_dir=tmp_path)) == 2
    assert not photos.asked


def test_a_forgotten_photo_is_dropped_from_every_file_and_the_rest_is_kept(tmp_path: Path) -> None:
    photos = Photos(3)
    pair = [MeanColour(), MeanColour(preparation="squash")]
    feature_matrices(pair, photos.image, photos.digests, cache_dir=tmp_path)
    drop_features({photos.digests[1]}, cache_dir=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    assert all(photos.digests[1] not in path.read_bytes() for path in tmp_path.iterdir())
    photos.asked.clear()
    for extractor in pair:
        feature_matrices([extractor], photos.image, photos.digests, cache_dir=tmp_path)
    assert photos.asked == [1, 1]
    drop_features(photos.digests, cache_dir=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "header", "number"])
def test_a_file_that_may_hold_a_forgotten_photo_unseen_is_deleted(tmp_path: Path, damage: str) -> None:
    photos = Photos(3)
    feature_matrix(MeanColour(), photos.image, photos.digests, cache_dir=tmp_path)
    path = the_file(tmp_path)
    blob = path.read_bytes()
    flipped = blob[:-3] + bytes([blob[-3] ^ 1]) + blob[-2:]
    length = int.from_bytes(blob[32:40], "little")
    header = blob[40 : 40 + length].replace(b"[3, 32]", b"[]").replace(b"[0, 96]", b"[0, 1]")
    number = blob[:32] + len(header).to_bytes(8, "little") + header + blob[40 + length :]
    damaged = {"flip": flipped, "truncate": blob[:-9], "empty": b"", "header": blob[:60], "number": number}
    path.write_bytes(damaged[damage])
    drop_features({photos.digests[1]}, cache_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_a_killed_save_left_behind_goes_with_a_forgotten_photo_and_with_the_next_save(
    tmp_path: Path,
) -> None:
    old, new, photos = tmp_path / ".features-killed", tmp_path / ".features-written-now", Photos(1)
    feature_matrix(MeanColour(preparation="squash"), photos.image, photos.digests, cache_dir=tmp_path)
    # The whole file was written, and not yet renamed.
    written = the_file(tmp_path).read_bytes()
    for again in (False, True):
        old.write_bytes(written)
        new.write_bytes(written)
        long_ago = time.time() - 3700
        os.utime(old, (long_ago, long_ago))
        if again:
            feature_matrix(MeanColour(), photos.image, photos.digests, cache_dir=tmp_path)
        else:
            drop_features({bytes(32)}, cache_dir=tmp_path)
        assert not old.exists() and new.exists()


def test_a_file_without_a_forgotten_photo_is_read_once_and_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = Photos(3)
    feature_matrix(MeanColour(), photos.image, photos.digests, cache_dir=tmp_path)
    path, hashed = the_file(tmp_path), []
    before = path.stat()

    class Counting:
        @staticmethod
        def sha256(data: memoryview) -> object:
            hashed.append(len(data))
            return hashlib.sha256(data)

    monkeypatch.setattr(feature_cache, "hashlib", Counting)
    monkeypatch.setattr(feature_cache, "read_entries", None)
    drop_features({bytes(32)}, cache_dir=tmp_path)
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert hashed == [before.st_size - 32]


def test_a_file_that_cannot_be_deleted_is_told_after_all_others_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.features", "b.features", "c.features"):
        (tmp_path / name).write_bytes(b"damaged")
    (tmp_path / "d.features").mkdir()
    unlink = Path.unlink

    def held(path: Path, missing_ok: bool = False) -> None:
        if path.name == "b.features":
            raise PermissionError(13, "held by another program", str(path))
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", held)
    with pytest.raises(PermissionError, match=r"b\.features"):
        drop_features({bytes(32)}, cache_dir=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.features", "d.features"]


def test_only_the_owner_can_read(tmp_path: Path) -> None:
    photos, folder = Photos(2), tmp_path / "cache"
    folder.mkdir(mode=0o755)
    feature_matrix(MeanColour(), photos.image, photos.digests, cache_dir=folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(the_file(folder).stat().st_mode) == 0o600


def test_what_was_computed_before_an_interruption_is_kept(tmp_path: Path) -> None:
    photos = Photos(10)

    def broken(index: int) -> Image.Image:
        if index == 9:
            raise DataError("photo 9 is broken")
        return photos.image(index)

    with pytest.raises(DataError, match="photo 9"):
        feature_matrix(MeanColour(), broken, photos.digests, cache_dir=tmp_path)
    photos.asked.clear()
    feature_matrix(MeanColour(), photos.image, photos.digests, cache_dir=tmp_path)
    assert sorted(photos.asked) == [8, 9]


def test_what_takes_long_is_kept_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "_SAVING_PERIOD", 0.0)
    monkeypatch.setattr(features, "_SAVING_SHARE", 0.0)
    photos, extractor, kept = Photos(12), MeanColour(), []

    def look(done: int, missing: int) -> None:
        # As another process would find it, were this one killed here.
        path = cache_file(extractor, views=1, cache_dir=tmp_path)
        kept.append((done, len(read_entries(path, shape=(1, 4)))))

    found = feature_matrix(extractor, photos.image, photos.digests, cache_dir=tmp_path, progress=look)
    assert kept == [(0, 0), (4, 4), (8, 8), (12, 12)]
    np.testing.assert_array_equal(found, expected(photos))


class _Placed(MeanColour):
    """The last pictures of a batch come out otherwise, as a kernel for the rest may compute them."""

    weights_hash = "cd" * 32

    def __call__(self, images: np.ndarray) -> np.ndarray:
        found = super().__call__(images)
        found[2:] *= 1.01
        return found


def test_where_places_differ_a_picture_s_features_are_still_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    pictures = np.random.default_rng(0).integers(0, 256, (6, 1, SIZE, SIZE, 3), dtype=np.uint8)
    for extractor in (_Placed("cd" * 32), MeanColour("ef" * 32)):
        together = features_in_batches(extractor, pictures)
        for count, index in ((5, 0), (5, 4), (2, 1)):
            fewer = features_in_batches(extractor, pictures[:count])
            np.testing.assert_array_equal(fewer[index], together[index])
        rest = features_in_batches(extractor, pictures[1:])
        np.testing.assert_array_equal(rest, together[1:])


def test_a_crash_while_writing_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = Photos(4)
    feature_matrix(MeanColour(), photos.image, photos.digests[:2], cache_dir=tmp_path)
    before = the_file(tmp_path).read_bytes()

    def full(_handle: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    found = feature_matrix(MeanColour(), photos.image, photos.digests, cache_dir=tmp_path)
    np.testing.assert_array_equal(found, expected(photos))
    assert the_file(tmp_path).read_bytes() == before


def test_progress_counts_missing_photos(tmp_path: Path) -> None:
    photos, seen = Photos(6), []
    feature_matrix(MeanColour(), photos.image, photos.digests[:1], cache_dir=tmp_path)
    feature_matrix(
        MeanColour(),
        photos.image,
        photos.digests,
        cache_dir=tmp_path,
        progress=lambda done, of: seen.append((done, of)),
    )
    assert seen == [(0, 5), (4, 5), (5, 5)]


def test_no_photos_have_an_empty_matrix() -> None:
    assert feature_matrix(MeanColour(), Photos(1).image, [], cache_dir=None).shape == (0, 1, 4)


def test_impossible_requests_are_refused() -> None:
    photos = Photos(1)
    with pytest.raises(ConfigError, match="features need 1 view"):
        feature_matrix(MeanColour(), photos.image, photos.digests, views=0, cache_dir=None)
    with pytest.raises(ConfigError, match="digests of"):
        feature_matrix(MeanColour(), photos.image, [b"short"], cache_dir=None)


def test_the_cache_is_in_the_users_own_folder() -> None:
    assert default_cache_dir().parts[-2:] == ("fedrec", "features")
