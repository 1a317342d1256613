"""Documents as PDF: letters of every script, the same bytes again, and data that is never read as markup."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from fedrec.errors import ConfigError
from fedrec.report import pdf
from fedrec.report.document import Column, Document, Matrix, Paragraph, Table
from fedrec.report.pdf import render_pdf
from tests.support.documents import HOSTILE, whole

pytestmark = pytest.mark.skipif(not pdf.can_render_pdf(), reason="needs the extra 'pdf'")
CHINESE, HEBREW, ARABIC = (
    "\u5e3d\u5b50\u5546\u5e97",
    "\u05e0\u05e2\u05dc\u05d9\u05d9\u05dd",
    "\u0642\u0645\u064a\u0635",
)


def text_of(pages: bytes, folder: Path) -> str:
    """What another program reads in the pages."""
    if shutil.which("pdftotext") is None:
        pytest.skip("pdftotext is not installed")
    (folder / "x.pdf").write_bytes(pages)
    done = subprocess.run(
        ["pdftotext", "-layout", str(folder / "x.pdf"), "-"], capture_output=True, text=True, check=True
    )
    return done.stdout


def named(*names: str) -> Document:
    rows = tuple((name, "1") for name in names)
    counts = tuple((1.0,) * len(names) for _ in names)
    return Document(
        title="t", blocks=(Table((Column("class"), Column("photos", "number")), rows), Matrix(names, counts))
    )


def test_names_in_any_script_can_be_read(tmp_path: Path) -> None:
    shown = text_of(
        render_pdf(named(CHINESE, HEBREW, "\u3072\u3089\u304c\u306a", "\ud55c\uad6d\uc5b4")), tmp_path
    )
    for name in (CHINESE, HEBREW, "\u3072\u3089\u304c\u306a", "\ud55c\uad6d\uc5b4"):
        assert name in shown
    assert "\\u" not in shown


def test_no_letter_lacks_a_font(tmp_path: Path) -> None:
    """Every font in the file is one of those that came with the extra, embedded."""
    if shutil.which("pdffonts") is None:
        pytest.skip("pdffonts is not installed")
    (tmp_path / "x.pdf").write_bytes(render_pdf(named(CHINESE, HEBREW, ARABIC)))
    done = subprocess.run(["pdffonts", str(tmp_path / "x.pdf")], capture_output=True, text=True, check=True)
    fonts = [line.split() for line in done.stdout.splitlines()[2:]]
    names = {font[0].partition("+")[2] for font in fonts}
    for wanted in ("NotoSans-", "NotoSansCJKsc-", "NotoSansArabic-", "NotoSansHebrew-"):
        assert any(name.startswith(wanted) for name in names), wanted
    assert all(font[-5:-2] == ["yes", "yes", "yes"] for font in fonts), "embedded, a subset, with its letters"


def test_every_block_is_set_and_the_same_document_gives_the_same_bytes() -> None:
    pages = render_pdf(whole("word"))
    assert pages.startswith(b"%PDF-") and pages == render_pdf(whole("word"))
    assert pages != render_pdf(whole("worse"))


def test_a_hostile_text_is_set_as_it_stands(tmp_path: Path) -> None:
    hostile = "#panic() $x$ *b* <label> @ref [c] \\ // `" + '#read("/etc/passwd")'
    shown = text_of(render_pdf(Document(title="t", blocks=(Paragraph(hostile),))), tmp_path)
    assert " ".join(shown.split()).startswith("t " + hostile)
    assert render_pdf(whole(HOSTILE)).startswith(b"%PDF-")


def test_what_is_missing_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"fedrec\[pdf\]"):
        render_pdf(named("a"))
