"""Render documents as PDF: A4 pages of the same blocks as the HTML, set by Typst.

Typst was chosen by trial. WeasyPrint would print the HTML itself, but needs the system's Pango, took a minute
to subset one CJK font, and reversed Arabic in charts. PDFs of fpdf2 and reportlab are laid out by hand. Typst
is one wheel without system libraries, shapes Arabic and Hebrew, tags its pages for screen readers, and is
deterministic. The document is passed to it as data, never as markup. Only the fonts of two packages are used,
which cover every script, and none of the system's, so that a page looks the same wherever it is made.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from fedrec._internal.pip_command import pip_command
from fedrec.errors import ConfigError
from fedrec.report.charts import Chart, draw
from fedrec.report.document import Document

_FONT_PACKAGES: Final = ("manimgx_fonts", "manimgx_fonts_cjk")
_CHART_FONT: Final = "Noto Sans"


def can_render_pdf() -> bool:
    """Return whether the packages of the extra ``pdf`` are installed."""
    return all(find_spec(name) is not None for name in ("typst", *_FONT_PACKAGES))


def render_pdf(document: Document) -> bytes:
    """Return a document as a PDF of A4 pages (PDF/UA-1); the same document gives the same bytes.

    Raises:
        ConfigError: the extra ``pdf`` is not installed.
    """
    if not can_render_pdf():
        raise ConfigError(f"a PDF needs the extra 'pdf': {pip_command('fedrec[pdf]')}")
    import typst

    template = files("fedrec.report").joinpath("templates", "document.typ").read_bytes()
    pages = typst.compile(
        template,
        format="pdf",
        font_paths=typst.Fonts(include_system_fonts=False, font_paths=_font_folders()),
        sys_inputs={"document": json.dumps(_plain(document), ensure_ascii=False)},
        pdf_standards=["ua-1"],
    )
    return bytes(pages)


def _font_folders() -> list[Path]:
    specs = [find_spec(name) for name in _FONT_PACKAGES]
    return [Path(folder) for spec in specs if spec for folder in spec.submodule_search_locations or ()]


def _plain(value: Any) -> Any:
    """Return a value that JSON can hold: a dataclass as a mapping with its kind, a chart as its SVG."""
    if isinstance(value, Chart):
        return {"kind": "Chart", "svg": draw(value, font=_CHART_FONT), "describes": value.describes}
    if is_dataclass(value) and not isinstance(value, type):
        named = {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
        # A block's own field "kind" becomes "style".
        return {"style": named.pop("kind", ""), "kind": type(value).__name__} | named
    if isinstance(value, bytes):
        return list(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value
