"""Copies are found, and photos that share a floor are not: on made and on real photos, and by the command."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps
from typer.testing import CliRunner

from fedrec.cli import copies_places
from fedrec.cli.app import app
from fedrec.errors import ConfigError, DataError
from fedrec.recognition import zero_training
from fedrec.recognition.catalogue import models
from fedrec.recognition.catalogue.catalogue import Catalogue, UsedModel
from fedrec.recognition.catalogue.importing import import_file
from fedrec.recognition.catalogue.photo_model import ModelOutput, PhotoModel
from fedrec.recognition.copies import decision
from fedrec.recognition.copies.agreement import agreement
from fedrec.recognition.copies.alignment import alignments
from fedrec.recognition.copies.collection import AllVectors
from fedrec.recognition.copies.decision import Asked, Match
from fedrec.recognition.copies.finder import Finder
from fedrec.recognition.copies.local_features import Sought
from fedrec.recognition.copies.overlap import overlap
from fedrec.recognition.copies.prints import Print, make_print
from tests.recognition.quality.test_measures import compressed, texture
from tests.support.real_photos import clothing_photos

Edit = Callable[[Image.Image, Image.Image], Image.Image]


def match(first: Print, second: Print) -> Match | None:
    """How a photo matches another one."""
    return decision.match(Asked(first), second)


def with_text(photo: Image.Image) -> Image.Image:
    done = photo.copy()
    font = ImageFont.load_default(size=max(10, photo.height // 9))
    for share in (0.2, 0.7):
        place = (photo.width // 12, int(share * photo.height))
        ImageDraw.Draw(done).text(place, "CHEAP SHOP", "white", font)
    return done


def beside(photo: Image.Image, other: Image.Image) -> Image.Image:
    done = Image.new("RGB", (2 * photo.width, photo.height))
    done.paste(other.resize(photo.size), (0, 0))
    done.paste(photo, (photo.width, 0))
    return done


def thumbnail_model() -> PhotoModel:
    """The same embedder as catalogues use one."""
    embedder = Thumbnails()
    used = UsedModel(
        embedder.embedding_id, embedder.dimension, path=None, labels_of=None, description="small"
    )
    return PhotoModel(
        used, lambda photos: [ModelOutput(vector, None, None) for vector in embedder.embed(photos)]
    )


EDITS: dict[str, Edit] = {
    "crop and mirror": lambda photo, _: compressed(
        ImageOps.mirror(photo.crop((20, 30, photo.width - 40, photo.height - 20))), 40
    ),
    "turn": lambda photo, _: photo.rotate(12, Image.Resampling.BICUBIC, fillcolor=(250, 250, 250)),
    "frame": lambda photo, _: ImageOps.expand(photo, 40, "navy"),
    "dark, soft": lambda photo, _: ImageEnhance.Brightness(
        photo.filter(ImageFilter.GaussianBlur(1.5))
    ).enhance(0.5),
    "text": lambda photo, _: with_text(photo),
    "collage": beside,
}


class Made:
    """A collection in memory."""

    def __init__(self, photos: Sequence[Image.Image]) -> None:
        self.photos = list(photos)
        self.names = [str(number) for number in range(len(self.photos))]

    def photo(self, number: int) -> Image.Image:
        return self.photos[number]


class Thumbnails:
    """An embedder of small grey pictures."""

    embedding_id = "thumbnails"
    dimension = 64

    def embed(self, photos: Sequence[Image.Image]) -> np.ndarray:
        rows = np.stack(
            [np.asarray(photo.convert("L").resize((8, 8)), np.float32).ravel() for photo in photos]
        )
        rows -= rows.mean(axis=1, keepdims=True)
        done: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return done


def on_a_floor(*, garment: int, shift: int = 0) -> Image.Image:
    """A garment of its own texture, on a floor that all share."""
    photo = texture(99, width=360, height=300).crop((shift, 0, shift + 320, 300))
    shape = Image.new("L", photo.size)
    ImageDraw.Draw(shape).polygon([(90, 40), (230, 40), (280, 140), (220, 130), (220, 270), (100, 270)], 255)
    photo.paste(texture(garment, width=320, height=300), (0, 0), shape)
    return photo


def test_a_shared_floor_is_no_copy_though_most_features_match() -> None:
    first, second, moved = on_a_floor(garment=1), on_a_floor(garment=2), on_a_floor(garment=2, shift=20)
    prints = [make_print(photo) for photo in (first, second, moved, ImageOps.mirror(first))]
    assert all(prints)
    aligned = alignments(Sought(prints[0].features).matched(prints[1].features))  # type: ignore[union-attr]
    assert aligned[0].inliers > 50, "features alone would call it a copy"
    assert match(prints[0], prints[1]) is None  # type: ignore[arg-type]
    assert match(prints[0], prints[2]) is None  # type: ignore[arg-type]
    assert match(prints[0], prints[3]) is not None  # type: ignore[arg-type]


def plain_garment_on_a_carpet(seed: int) -> Image.Image:
    noise = np.random.default_rng(0).normal(size=(360, 280))
    carpet = cv2.GaussianBlur(noise, (0, 0), 1.5)
    pixels = np.clip(120 + 35 * carpet / carpet.std(), 0, 255).astype(np.uint8)
    outline = np.array(
        [[70, 60], [210, 60], [250, 120], [215, 140], [205, 310], [75, 310], [65, 140], [30, 120]]
    )
    moved = outline + np.random.default_rng(seed).integers(-12, 13, outline.shape)
    return Image.fromarray(cv2.fillPoly(pixels, [moved.astype(np.int32)], 60.0)).convert("RGB")


def test_two_plain_garments_on_one_carpet_are_no_copies_though_their_outlines_alone_differ() -> None:
    first, second = (make_print(plain_garment_on_a_carpet(seed)) for seed in (1, 2))
    assert first is not None and second is not None
    laid = overlap(first.luminance, second.luminance, np.eye(3))
    assert laid is not None
    seen = agreement(laid)
    assert seen.mean > 0.7 and seen.exact > 0.45 and seen.thick == 0  # all that marks on a copy would change
    assert match(first, second) is None and match(second, first) is None


def under_writing(photo: Image.Image) -> Image.Image:
    """Half transparent lines of writing over the whole photo."""
    layer = Image.new("RGBA", photo.size)
    for row in range(4, photo.height, 44):
        line = "© STOCK PHOTO  " * 6
        ImageDraw.Draw(layer).text((-row, row), line, (255, 255, 255, 140), ImageFont.load_default(size=18))
    return Image.alpha_composite(photo.convert("RGBA"), layer).convert("RGB")


def test_a_part_under_writing_is_a_copy_and_another_garment_under_it_is_none() -> None:
    crop = (20, 10, 300, 280)
    first, second = (
        on_a_floor(garment=number).point([60 + v // 3 for v in range(256)] * 3) for number in (1, 2)
    )
    one, other = under_writing(first.crop(crop)), under_writing(second.crop(crop))
    prints = [make_print(photo) for photo in (first, one, ImageOps.mirror(one), other)]
    found = [match(asked, prints[0]) for asked in prints[1:] if asked and prints[0]]
    assert [one and one.test for one in found] == ["marked", "marked", None]


def test_a_shared_margin_is_no_copy() -> None:
    """Two photos of one large carpet, which overlap at a side where no garment lies."""
    carpet = texture(99, width=520, height=300)
    left, right = carpet.crop((0, 0, 320, 300)), carpet.crop((200, 0, 520, 300))
    for photo, garment, place in ((left, 1, (20, 30)), (right, 2, (140, 30))):
        photo.paste(texture(garment, width=160, height=240), place)
    first, second = make_print(left), make_print(right)
    assert first is not None and second is not None and match(first, second) is None
    crop = make_print(left.crop((120, 0, 320, 300)))
    assert crop is not None and match(crop, first) is not None


def covered(photo: Image.Image, *, radius: int, places: Sequence[tuple[int, int]]) -> Image.Image:
    """A photo with stickers laid over it."""
    made = photo.copy()
    draw = ImageDraw.Draw(made)
    for x, y in places:
        draw.ellipse(
            (x - radius, y - radius, x + radius, y + radius), fill=(255, 205, 40), outline=(80, 50, 0)
        )
        draw.ellipse((x - radius // 2, y - radius // 2, x - radius // 4, y), fill=(60, 40, 0))
    return made


@pytest.mark.parametrize("places", [[(80, 80)], [(240, 200)], [(60, 60), (260, 70), (70, 230)]])
def test_stickers_beside_the_middle_hide_no_copy(places: list[tuple[int, int]]) -> None:
    photo = texture(3, width=320, height=300)
    first = make_print(covered(photo, radius=75 if len(places) == 1 else 45, places=places))
    second = make_print(photo)
    assert first is not None and second is not None
    found = match(first, second)
    assert found is not None and found.test == "covered"


def test_a_shared_stand_is_no_copy_though_the_rest_is_the_same_to_the_pixel() -> None:
    photos = [texture(3, width=320, height=300) for _ in range(2)]
    for photo, garment in zip(photos, (7, 8), strict=True):
        photo.paste(texture(garment, width=130, height=130), (95, 85))
    first, second = (make_print(photo) for photo in photos)
    assert first is not None and second is not None
    assert alignments(Sought(first.features).matched(second.features))[0].inliers > 50
    assert match(first, second) is None


@pytest.mark.parametrize("read_all", [True, False])
def test_a_negative_is_found_also_mirrored_and_cropped(read_all: bool) -> None:
    photos = [texture(seed, width=200, height=150) for seed in range(8)]
    vectors = AllVectors(Thumbnails().embed(photos))
    finder = Finder(Made(photos), embedder=Thumbnails(), search=vectors, read_all=read_all)
    cropped = photos[5].crop((10, 8, 190, 140))
    # A mirrored thumbnail is near another one.
    for edited in (photos[5], cropped, ImageOps.mirror(cropped))[: 3 if read_all else 2]:
        (found,) = finder.find(ImageOps.invert(edited))
        assert found.number == 5 and found.transformation.words()[0] == "in negative"
    assert finder.find(ImageOps.invert(texture(40, width=200, height=150))) == []
    both = Finder(Made([photos[1], ImageOps.invert(photos[1]), photos[2]]))
    assert [(number, found.number) for number, found in both.pairs()] == [(0, 1)]


def test_one_watermark_on_two_photos_is_no_copy() -> None:
    first, second = (make_print(with_text(texture(seed, width=320, height=240))) for seed in (1, 2))
    assert first is not None and second is not None and match(first, second) is None


def test_edits_of_real_photos_are_found_and_other_photos_are_not() -> None:
    """The photos are of the validation split: no threshold was set on them."""
    photos = [Image.open(path).convert("RGB") for path in clothing_photos("validation")[::12]]
    stored, others = photos[:16], photos[16:]
    finder = Finder(Made(stored))
    assert all(not finder.find(photo) for photo in others)
    hits = [
        [found.number for found in finder.find(edit(photo, others[number % len(others)]))] == [number]
        for number, photo in enumerate(stored[:4])
        for edit in EDITS.values()
    ]
    assert np.mean(hits) >= 0.95


@pytest.mark.parametrize("read_all", [True, False])
def test_a_model_proposes_candidates_also_for_parts_of_a_collage(read_all: bool) -> None:
    photos = [texture(seed, width=160, height=120) for seed in range(14)]
    vectors = AllVectors(Thumbnails().embed(photos))
    finder = Finder(Made(photos), embedder=Thumbnails(), search=vectors, read_all=read_all)
    found = finder.find(beside(photos[3], photos[8]))
    assert sorted(one.number for one in found) == [3, 8]
    assert [one.match.of_first for one in found] == pytest.approx([0.5, 0.5], abs=0.05)
    assert finder.find(texture(50, width=160, height=120)) == []


def test_pairs_of_a_collection_are_found_once_with_and_without_a_model() -> None:
    photos = [texture(seed, width=200, height=150) for seed in range(6)]
    photos += [ImageOps.mirror(photos[1]), photos[4].crop((30, 20, 180, 140))]
    for embedder in (None, Thumbnails()):
        pairs = [(number, found.number) for number, found in Finder(Made(photos), embedder=embedder).pairs()]
        assert sorted(tuple(sorted(pair)) for pair in pairs) == [(1, 6), (4, 7)]


def png_of(width: int, height: int) -> bytes:
    """A few kilobytes that unpack to any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)

    head = width.to_bytes(4) + height.to_bytes(4) + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1 << 20)))


def test_the_command_shows_pairs_draws_them_and_goes_on_after_hostile_files(tmp_path: Path) -> None:
    shop, theirs = tmp_path / "shop", tmp_path / "theirs"
    shop.mkdir()
    theirs.mkdir()
    photo = texture(1, width=300, height=220)
    photo.save(shop / "mug.png")
    texture(2, width=300, height=220).save(shop / "plate.png")
    ImageOps.mirror(photo.crop((40, 30, 280, 200))).save(theirs / "stolen.png")
    (theirs / "bomb.png").write_bytes(png_of(60_000, 60_000))
    torn = io.BytesIO()
    photo.save(torn, "JPEG")
    (theirs / "torn.jpg").write_bytes(torn.getvalue()[:2000])
    drawn = tmp_path / "drawn"
    asked = ["catalogue", "copies", str(theirs), "--against", str(shop), "--pictures", str(drawn)]
    shown = CliRunner().invoke(app, asked, catch_exceptions=False)
    lines = shown.stdout.splitlines()
    assert any("stolen.png" in line and "mug.png: mirrored, shows 6" in line for line in lines)
    assert sum("can't be read" in line for line in lines) == 2
    assert lines[-1] == "1 pair among 3 photos; 2 photos involved"
    with Image.open(drawn / "pair-0001.jpg") as picture:
        assert picture.size == (240 + 8 + 300 + 8 + 300, 220)
        laid, other = (
            np.asarray(picture.convert("L"), np.float32)[:, left : left + 300] for left in (556, 248)
        )
    assert np.abs(laid - other).mean() < 6, "the photo lies where it was cut from"
    shown = CliRunner().invoke(app, [*asked[:5], "--json"], catch_exceptions=False)
    pair = json.loads(shown.stdout)
    assert pair["mirrored"] and pair["test"] == "pixels" and pair["score"] > 0.9
    shown = CliRunner().invoke(app, ["catalogue", "copies", str(shop)], catch_exceptions=False)
    assert shown.stdout == "0 pairs among 2 photos\n"
    shown = CliRunner().invoke(app, ["catalogue", "copies", str(theirs / "torn.jpg")])
    assert isinstance(shown.exception, DataError)


def test_places_that_overlap_show_no_file_as_a_copy_of_itself_and_each_pair_once(tmp_path: Path) -> None:
    shop = tmp_path / "shop"
    (shop / "old").mkdir(parents=True)
    photo = texture(1, width=300, height=220)
    photo.save(shop / "mug.png")
    texture(2, width=300, height=220).save(shop / "plate.png")
    photo.save(shop / "old" / "mug.png")
    (shop / "linked.png").symlink_to(shop / "plate.png")
    for place, photos in ((shop, 4), (shop / "old", 4), (shop / "mug.png", 4)):
        asked = ["catalogue", "copies", str(place), "--against", str(shop)]
        shown = CliRunner().invoke(app, asked, catch_exceptions=False)
        lines = shown.stdout.splitlines()
        assert len(lines) == 2 and lines[0].endswith("the whole photo (hash, 1.00)")
        assert "old/mug.png" in lines[0]
        assert lines[1] == f"1 pair among {photos} photos; 2 photos involved"


class Bundle(Thumbnails):
    """What opening a bundle gives."""

    classes = ()


def test_a_catalogue_is_compared_by_its_own_vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = [texture(seed, width=200, height=150) for seed in range(5)]
    rows = ["product,photo,title"]
    for number, photo in enumerate(photos):
        photo.save(tmp_path / f"{number}.png")
        rows.append(f"p{number},{number}.png,Thing {number}")
    (tmp_path / "shop.csv").write_text("\n".join(rows) + "\n")
    model = thumbnail_model()
    Catalogue.create(tmp_path / "shop", model.used)
    with Catalogue(tmp_path / "shop", write=True) as catalogue:
        import_file(catalogue, model, tmp_path / "shop.csv", tell=lambda stage: None)
    monkeypatch.setattr(zero_training, "backbone_bundle", lambda: tmp_path / "bundle")
    monkeypatch.setattr(copies_places, "open_model", lambda folder: Bundle())
    monkeypatch.setattr(models, "photo_model_of", lambda bundle, path: thumbnail_model())
    ImageOps.mirror(photos[2]).save(tmp_path / "theirs.png")
    asked = ["catalogue", "copies", str(tmp_path / "theirs.png"), "--against", str(tmp_path / "shop")]
    shown = CliRunner().invoke(app, [*asked, "--json"], catch_exceptions=False)
    assert json.loads(shown.stdout)["other"] == "p2/2.png"
    shown = CliRunner().invoke(app, [*asked, "--model", str(tmp_path)])
    assert isinstance(shown.exception, ConfigError)
    photos[2].save(tmp_path / "theirs.png")
    (tmp_path / "2.png").unlink()
    drawn = [*asked, "--json", "--pictures", str(tmp_path / "drawn")]
    shown = CliRunner().invoke(app, drawn, catch_exceptions=False)
    pair = json.loads(shown.stdout)
    assert (pair["other"], pair["test"], pair["picture"]) == ("p2/2.png", "hash", None)
    assert shown.stderr == "pair-0001.jpg can't be drawn: No such file or directory\n"
    assert list((tmp_path / "drawn").iterdir()) == []
    shown = CliRunner().invoke(app, ["catalogue", "copies", str(tmp_path / "shop")], catch_exceptions=False)
    unread = "p2/2.png: can't be read: No such file or directory"
    assert shown.stdout == f"{unread}\n0 pairs among 4 photos\n"
