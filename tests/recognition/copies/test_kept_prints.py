"""A print that a catalogue keeps is small, finds copies without the photo's file, and goes with the photo."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from fedrec.errors import DataError
from fedrec.recognition.catalogue import photo_prints
from fedrec.recognition.catalogue.catalogue import Catalogue
from fedrec.recognition.catalogue.importing import import_file
from fedrec.recognition.catalogue.opening import open_searcher
from fedrec.recognition.catalogue.reindexing import reindex
from fedrec.recognition.catalogue.stored_photos import StoredPhotos
from fedrec.recognition.copies.collection import AllVectors
from fedrec.recognition.copies.finder import Finder
from fedrec.recognition.copies.kept_prints import MOST_KEPT, VERSION, packed, unpacked
from fedrec.recognition.copies.local_features import rooted
from fedrec.recognition.copies.prints import Print, luminance_of, make_print
from tests.recognition.quality.test_measures import texture
from tests.support.colour_embedder import ColourEmbedder, colour_model


def printed(seed: int, *, width: int = 320, height: int = 240) -> Print:
    made = make_print(texture(seed, width=width, height=height))
    assert made is not None
    return made


def read(content: object) -> Print | None:
    return unpacked(content, pixels=lambda: np.zeros((240, 320), np.uint8))


def test_what_is_kept_of_a_print_takes_eleven_kilobytes_and_is_nearly_the_print() -> None:
    made = printed(3)
    content = packed(made)
    assert len(content) <= 11_100
    kept = read(content)
    assert kept is not None and kept.size == made.size and kept.hashes.quality == made.hashes.quality
    assert (kept.hashes.words == made.hashes.words).all()
    count = len(kept.features.points)
    assert count == MOST_KEPT < len(made.features.points)
    assert np.abs(kept.features.points - made.features.points[:count]).max() <= 1 / 128
    alike = (rooted(kept.features.descriptors) * rooted(made.features.descriptors[:count])).sum(axis=1)
    others = rooted(kept.features.descriptors) @ rooted(made.features.descriptors[:count]).T
    assert np.median(alike) > 0.93 and (others.argmax(axis=1) == np.arange(count)).mean() > 0.99


def test_a_picture_without_features_is_kept_too() -> None:
    flat = make_print(Image.new("RGB", (320, 240), "white"))
    assert flat is not None
    kept = read(packed(flat))
    assert kept is not None and kept.features.descriptors.shape == (0, 128) and kept.size == (320, 240)


def test_anything_else_than_a_print_of_this_version_is_none() -> None:
    content = packed(printed(3))
    changed = {
        "version": b"\x00" + content[1:],
        "cut off": content[:-1],
        "longer": content + b"\x00",
        "count": content[:6] + b"\xff\xff" + content[8:],
        "size": content[:1] + b"\xff\xff" + content[3:],
        "no size": content[:1] + b"\x00\x00" + content[3:],
        "quality": content[:5] + b"\xc8" + content[6:],
        "points": content[:264] + b"\xff" * 1200 + content[1464:],
        "text": content.decode("latin-1"),
        "number": 7,
        "nothing": None,
        "empty": b"",
        "version alone": VERSION,
    }
    assert read(content) is not None
    assert {name for name, value in changed.items() if read(value) is not None} == set()
    rng = np.random.default_rng(0)
    for _ in range(300):
        spoilt = bytearray(content)
        for place in rng.integers(0, len(spoilt), 5):
            spoilt[place] = int(rng.integers(0, 256))
        kept = read(bytes(spoilt))
        assert kept is None or np.isfinite(rooted(kept.features.descriptors)).all()


def test_pixels_of_another_photo_are_refused() -> None:
    kept = unpacked(packed(printed(3)), pixels=lambda: np.zeros((100, 100), np.uint8))
    assert kept is not None
    with pytest.raises(DataError, match="isn't of this photo"):
        _ = kept.luminance


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A catalogue of six photos, and the photos beside it."""
    rows = ["product,photo"]
    for seed in range(6):
        texture(seed, width=300, height=220).save(tmp_path / f"{seed}.png")
        rows.append(f"p{seed},{seed}.png")
    (tmp_path / "shop.csv").write_text("\n".join(rows) + "\n")
    model = colour_model()
    Catalogue.create(tmp_path / "shop", model.used)
    with Catalogue(tmp_path / "shop", write=True) as catalogue:
        import_file(catalogue, model, tmp_path / "shop.csv", tell=lambda stage: None)
    return tmp_path / "shop"


def finder_of(catalogue: Catalogue, *, read_all: bool = False) -> Finder:
    stored = StoredPhotos(catalogue, open_searcher(catalogue, tell=lambda stage: None))
    return Finder(stored, embedder=ColourEmbedder(), search=stored, read_all=read_all, kept=stored)


def cropped(seed: int) -> Image.Image:
    return ImageOps.mirror(texture(seed, width=300, height=220).crop((40, 30, 280, 200)))


@pytest.mark.parametrize("read_all", [False, True])
def test_only_the_photo_whose_pixels_decide_is_read(shop: Path, read_all: bool) -> None:
    for seed in (0, 1, 3, 4, 5):
        (shop.parent / f"{seed}.png").unlink()
    with Catalogue(shop) as catalogue:
        finder = finder_of(catalogue, read_all=read_all)
        (found,) = finder.find(cropped(2))
        assert found.number == 2 and found.match.test == "pixels"
        (whole,) = finder.find(texture(4, width=300, height=220))
        assert whole.number == 4 and whole.match.test == "hash", "no file is needed for that"
        assert finder.find(cropped(1)) == [] and "No such file" in finder.unread[1]


def test_a_photo_that_was_turned_is_proposed_by_its_kept_hash(shop: Path) -> None:
    class Blind(ColourEmbedder):
        def embed(self, photos: Sequence[Image.Image]) -> NDArray[np.float32]:
            return np.full((len(photos), 64), 1 / 8, np.float32)

    with Catalogue(shop, write=True) as catalogue, catalogue.transaction() as connection:
        connection.execute("UPDATE print SET content = 'text' WHERE photo_id = 1")
        connection.execute("UPDATE print SET content = x'01ff' WHERE photo_id = 2")
        connection.execute("DELETE FROM print WHERE photo_id = 3")
    with Catalogue(shop) as catalogue:
        stored = StoredPhotos(catalogue, open_searcher(catalogue, tell=lambda stage: None))
        hashes = stored.hashes()
        assert (hashes[:3] == 0).all() and hashes[3:].any(axis=1).all()
        none = AllVectors(np.zeros((0, 64), np.float32))
        finder = Finder(stored, embedder=Blind(), search=none, read_all=False, kept=stored)
        photo = texture(4, width=300, height=220)
        for turned in (photo.rotate(90, expand=True), ImageOps.mirror(photo), ImageOps.invert(photo)):
            assert [found.number for found in finder.find(turned)] == [4]


def test_a_photo_that_was_changed_since_is_named_and_not_compared(shop: Path) -> None:
    shutil.copy(shop.parent / "5.png", shop.parent / "2.png")
    with Catalogue(shop) as catalogue:
        finder = finder_of(catalogue)
        assert finder.find(cropped(2)) == []
        assert finder.unread == {2: "was changed since it was imported: import it again"}
        assert [found.number for found in finder.find(cropped(5))] == [5]


def prints_in(shop: Path) -> dict[int, bytes]:
    with Catalogue(shop) as catalogue:
        return dict(catalogue.rows("SELECT photo_id, content FROM print"))


def test_a_print_goes_with_its_photo_and_leaves_nothing_in_the_file(shop: Path) -> None:
    before = prints_in(shop)
    assert sorted(before) == [1, 2, 3, 4, 5, 6]
    with Catalogue(shop, write=True) as catalogue, catalogue.transaction() as connection:
        connection.execute("DELETE FROM product WHERE name = 'p2'")
    assert sorted(prints_in(shop)) == [1, 2, 4, 5, 6]
    data = (shop / "catalogue.sqlite").read_bytes()
    assert before[3][300:1300] not in data and before[4][300:1300] in data


def test_prints_that_are_missing_or_of_another_version_are_made_again(
    shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = prints_in(shop)
    with Catalogue(shop, write=True) as catalogue, catalogue.transaction() as connection:
        connection.execute("DELETE FROM print WHERE photo_id = 2")
        connection.execute("UPDATE print SET content = x'0000' WHERE photo_id = 3")
        connection.execute("UPDATE print SET content = 'text' WHERE photo_id = 4")
        connection.execute("UPDATE print SET content = ? WHERE photo_id = 5", (VERSION + bytes(9),))
    with Catalogue(shop) as catalogue:
        for number in (1, 2, 4):
            assert [found.number for found in finder_of(catalogue).find(cropped(number))] == [number]
    monkeypatch.setattr(photo_prints, "find_spec", lambda name: None)
    with Catalogue(shop, write=True) as catalogue:
        reindex(catalogue, colour_model(), tell=lambda stage: None)
    assert 2 not in prints_in(shop), "without the packages nothing is made"
    monkeypatch.undo()
    with Catalogue(shop, write=True) as catalogue:
        done = reindex(catalogue, colour_model(), tell=lambda stage: None)
    assert dataclasses.astuple(done) == (6, 0, 0)
    after = prints_in(shop)
    assert [after[key] == before[key] for key in range(1, 7)] == [True, True, True, True, False, True]


def test_the_small_picture_of_a_kept_print_is_that_of_the_print() -> None:
    photo = texture(1, width=900, height=700)
    made = make_print(photo)
    assert made is not None and (luminance_of(photo) == made.luminance).all()
