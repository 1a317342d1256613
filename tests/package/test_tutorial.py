"""The tutorial: its commands run as they are shown, and its pictures are what they lead to."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from tests.support.browser import BROWSER
from tests.support.layout import DOCS
from tests.support.screenshots import is_blank, likeness
from tests.support.shown_commands import shown_commands, shown_files
from tests.support.tutorial import PAGES, REPORT_SIZE, Reader, report_picture

PICTURES = DOCS / "pictures"
ALIKE = 0.8
"""The least likeness of two pictures of one page: figures and curves differ from run to run."""

needs_a_browser = pytest.mark.skipif(
    BROWSER is None or shutil.which("bash") is None, reason="no Chromium, or no bash"
)


def picture_of(page: Path) -> Path:
    (shown,) = re.findall(r"!\[[^\]]+\]\(\.\./pictures/([\w.-]+)\)", page.read_text("utf-8"))
    return PICTURES / str(shown)


def test_five_pages_lead_on_each_with_commands_and_a_small_picture_of_its_own() -> None:
    assert [page.name[0] for page in PAGES] == list("12345")
    for page, following in zip(PAGES, [*PAGES[1:], None], strict=True):
        assert shown_commands(page)
        assert following is None or f"]({following.name})" in page.read_text("utf-8")
        assert picture_of(page).stat().st_size < 150_000
        assert not is_blank(picture_of(page))
    assert "rounds = 20" in shown_files(PAGES[3])["training.toml"]
    pictures = [picture_of(page) for page in PAGES]
    # A measure by which all pages look alike would prove nothing below.
    pairs = [(one, other) for one in pictures for other in pictures if one != other]
    assert max(likeness(one, other) for one, other in pairs) < ALIKE


def check_picture(reader: Reader, page: Path, out: Path) -> None:
    """Take a page's picture anew, and compare it with the one that it shows."""
    shown, taken = picture_of(page), out / page.with_suffix(".png").name
    reader.picture(page, taken)
    with Image.open(shown) as one, Image.open(taken) as other:
        assert one.size == other.size
    assert not is_blank(taken)
    assert likeness(shown, taken) > ALIKE, f"{taken} doesn't look like {shown}"


@pytest.mark.slow
@needs_a_browser
def test_the_first_command_leads_to_the_report_that_is_shown(tmp_path: Path) -> None:
    (folder := tmp_path / "reader").mkdir()
    with Reader(folder) as reader:
        reader.follow(PAGES[0])
        check_picture(reader, PAGES[0], tmp_path)
        report_picture(next(folder.glob("runs/*/report.html")), tmp_path / "report.png")
        with Image.open(PICTURES / "report.png") as shown:
            assert shown.size == REPORT_SIZE
        assert likeness(PICTURES / "report.png", tmp_path / "report.png") > ALIKE
        accuracy = re.search(r"accuracy +([\d.]+)%", next(iter(reader.printed.values())))
        assert accuracy is not None and float(accuracy[1]) > 60


@pytest.mark.slow
@needs_a_browser
def test_four_further_steps_lead_to_a_federation_and_a_served_model(tmp_path: Path) -> None:
    (folder := tmp_path / "reader").mkdir()
    with Reader(folder) as reader:
        for page in PAGES[1:]:
            reader.follow(page)
            check_picture(reader, page, tmp_path)
        (predicted,) = [text for command, text in reader.printed.items() if "predict" in command]
        assert "mug/000005.png: mug " in predicted
        (verified,) = [text for command, text in reader.printed.items() if "audit verify" in command]
        assert "The record holds." in verified
