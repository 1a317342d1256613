"""Verdicts on real photos with known flaws, the file of thresholds, and the command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps
from typer.testing import CliRunner

from fedrec.cli.app import app
from fedrec.errors import ConfigError, DataError
from fedrec.recognition.photo_files import photo_files
from fedrec.recognition.quality.thresholds import default_thresholds, read_thresholds
from fedrec.recognition.quality.verdict import FLAWS, judge, measures
from tests.recognition.quality.test_measures import texture
from tests.support.real_photos import clothing_photos

FLAWED: dict[str, Callable[[Image.Image], Image.Image]] = {
    "blurred": lambda photo: photo.filter(ImageFilter.GaussianBlur(2)),
    "dark": lambda photo: ImageEnhance.Brightness(photo).enhance(0.3),
    "washed-out": lambda photo: Image.blend(photo, Image.new("RGB", photo.size, "white"), 0.65),
    "small": lambda photo: photo.resize((photo.width // 2, photo.height // 2)),
    "framed": lambda photo: ImageOps.expand(photo, 14, "black"),
    "overexposed": lambda photo: ImageEnhance.Brightness(photo).enhance(4),
}


def cut_out(photo: Image.Image, backdrop: int) -> Image.Image:
    """The middle of a photo before a backdrop, as in a studio."""
    mask = Image.new("L", (2 * photo.width, 2 * photo.height))
    box = (photo.width // 4, photo.height // 4, 7 * photo.width // 4, 7 * photo.height // 4)
    ImageDraw.Draw(mask).rounded_rectangle(box, radius=min(photo.size) // 2, fill=255)
    made = Image.new("RGB", photo.size, (backdrop,) * 3)
    made.paste(photo, mask=mask.resize(photo.size, Image.Resampling.BOX))
    return made


def between(photo: Image.Image, low: int, high: int) -> Image.Image:
    """A photo with its levels between two others."""
    return photo.point([low + (high - low) * value // 255 for value in range(256)] * 3)


GOOD: dict[str, Callable[[Image.Image], Image.Image]] = {
    "studio": lambda photo: cut_out(photo, 255),
    "black product": lambda photo: cut_out(between(photo, 5, 60), 255),
    "white product": lambda photo: cut_out(between(photo, 215, 250), 255),
    "mirror": ImageOps.mirror,
}


def test_products_before_a_white_backdrop_are_good_photos() -> None:
    limits = default_thresholds()
    photos = [Image.open(path).convert("RGB") for path in clothing_photos("validation")[::12]]
    photos = [photo for photo in photos if judge(photo, limits).is_good][::2]
    for kind, change in GOOD.items():
        assert np.mean([judge(change(photo), limits).is_good for photo in photos]) >= 0.9, kind


def test_flaws_of_real_photos_are_named_and_good_photos_pass() -> None:
    """The photos are of the validation split: no threshold was set on them."""
    limits = default_thresholds()
    photos = [Image.open(path).convert("RGB") for path in clothing_photos("validation")[::8]]
    good = [judge(photo, limits).is_good for photo in photos]
    assert np.mean(good) >= 0.95
    for flaw, spoil in FLAWED.items():
        found = [judge(spoil(photo), limits).findings for photo in photos[::3]]
        named = [flaw in {finding.flaw for finding in findings} for findings in found]
        assert np.mean(named) >= 0.9, flaw


def test_every_flaw_has_a_measure_a_limit_and_words() -> None:
    assert set(FLAWS) == set(default_thresholds()) == set(measures(texture(0)))
    for limit in default_thresholds().values():
        assert limit.origin
        step = -1e-6 if limit.least is not None else 1e-6
        assert limit.is_passed(limit.limit + step) and not limit.is_passed(limit.limit)


def test_a_file_replaces_single_limits(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[small]\nleast = 50\norigin = "our shop"\n')
    found = read_thresholds(path)
    assert found["small"].limit == 50 and found["blurred"] == default_thresholds()["blurred"]
    assert {finding.flaw for finding in judge(texture(0), default_thresholds()).findings} >= {"small"}
    assert "small" not in {finding.flaw for finding in judge(texture(0), found).findings}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[smal]\nleast = 1\norigin = "x"', "no flaw 'smal'"),
        ('[small]\nmost = 1\norigin = "x"', "is given by least"),
        ('[small]\nleast = 1\nmost = 2\norigin = "x"', "either least or most"),
        ('[small]\nleast = nan\norigin = "x"', "small.least"),
        ("[small]\nleast = 1", "small.origin"),
        ("small = 3", "small"),
        ("[small", "is not TOML"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=told) as caught:
        read_thresholds(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="can't be read"):
        read_thresholds(tmp_path / "none.toml")


def test_photos_are_found_below_folders_and_no_link_is_followed(tmp_path: Path) -> None:
    for name in ("b/2.png", "b/c/1.JPG", "a.webp", "b/notes.txt", ".hidden/x.png"):
        (tmp_path / "shop" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "shop" / name).touch()
    (tmp_path / "shop" / "loop").symlink_to(tmp_path / "shop")
    odd = tmp_path / "photo.dat"
    odd.touch()
    found = photo_files([odd, tmp_path / "shop"])
    assert found == [odd, *(tmp_path / "shop" / name for name in ("a.webp", "b/2.png", "b/c/1.JPG"))]
    with pytest.raises(DataError, match="no file or folder"):
        photo_files([tmp_path / "none"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no photo"):
        photo_files([tmp_path / "empty"])


def test_the_command_names_photo_flaw_and_advice_and_goes_on_after_a_broken_file(tmp_path: Path) -> None:
    texture(1, width=300, height=280).save(tmp_path / "good.png")
    texture(2, width=300, height=280).filter(ImageFilter.GaussianBlur(4)).save(tmp_path / "soft.png")
    (tmp_path / "torn.jpg").write_bytes(b"\xff\xd8\xff nothing")
    shown = CliRunner().invoke(app, ["catalogue", "quality", str(tmp_path)])
    assert shown.exit_code == 0, shown.output
    lines = shown.output.splitlines()
    assert any("soft.png: The photo is blurred. Hold the camera still" in line for line in lines)
    assert any("torn.jpg: can't be read" in line for line in lines)
    assert lines[-1].startswith("1 of 2 photos are good; found: 1 blurred")
    shown = CliRunner().invoke(app, ["catalogue", "quality", str(tmp_path), "--json"])
    rows = {Path(row["photo"]).name: row for row in map(json.loads, shown.output.splitlines())}
    assert rows["good.png"]["good"] is True and rows["soft.png"]["good"] is False
    assert [flaw["flaw"] for flaw in rows["soft.png"]["flaws"]] == ["blurred"]
    assert rows["torn.jpg"]["good"] is None and rows["torn.jpg"]["error"]
    shown = CliRunner().invoke(app, ["catalogue", "quality", str(tmp_path / "torn.jpg")])
    assert isinstance(shown.exception, DataError)
