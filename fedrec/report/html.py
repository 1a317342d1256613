"""Render documents as self-contained HTML pages, and as parts of pages that show live figures.

A page holds its style and no script. Its content security policy allows that style by its hash, and nothing
else. Templates escape every text.
"""

from __future__ import annotations

import base64
import hashlib
import math
from functools import lru_cache
from importlib.resources import files
from typing import Final

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from fedrec.report.charts import Chart, draw
from fedrec.report.document import Block, Document, Matrix, Pictures, Table

_LONG_TABLE = 40
_DENSE_MATRIX = 14
_HOT = 0.78
"""The share from which a diagonal cell's background is dark enough for white figures."""
_TINTS = 20
LIVE_POLICY: Final = (
    "default-src 'none'; img-src data:; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def render_html(document: Document) -> str:
    """Return a document as one HTML page that loads no external resource."""
    style = _style()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii")
    body = _environment().get_template("blocks.html").module
    content = Markup("\n").join(body.block(block) for block in document.blocks)  # type: ignore[attr-defined]  # a macro of the file
    pictures = "img-src data:; " if "<img" in content else ""
    policy = f"default-src 'none'; {pictures}style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    page = _environment().get_template("document.html")
    return page.render(
        document=document,
        content=content,
        style=Markup(style),  # noqa: S704 (our own style sheet)
        policy=Markup(policy),  # noqa: S704 (made of constants and a hash)
    )


def render_blocks(blocks: tuple[Block, ...]) -> str:
    """Return blocks as an HTML fragment, for a live page."""
    body = _environment().get_template("blocks.html").module
    return "\n".join(body.block(block) for block in blocks)  # type: ignore[attr-defined]  # a macro of the file


def render_live(*, title: str, source: str, nonce: str) -> str:
    """Return a page that fetches its content every few seconds, and asks for a token if one is needed.

    Args:
        title: the page's title.
        source: path, relative to the page, of an answer made by :func:`render_blocks`.
        nonce: new for each answer; it also goes into ``LIVE_POLICY``, this page's header.

    Returns:
        The HTML page.
    """
    page = _environment().get_template("live.html")
    return page.render(title=title, source=source, nonce=nonce, style=Markup(_style()))  # noqa: S704


@lru_cache(maxsize=1)
def _environment() -> Environment:
    found = Environment(
        loader=FunctionLoader(_template), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    found.filters |= {
        "kind": lambda value: type(value).__name__,
        "svg": _svg,
        "addresses": _addresses,
        "cells": _cells,
        "is_tall": lambda table: isinstance(table, Table) and len(table.rows) > _LONG_TABLE,
        "is_dense": lambda matrix: len(matrix.labels) > _DENSE_MATRIX,
        "width": lambda share: f"{84 * min(max(share, 0.0), 1.0):.1f}",
    }
    return found


def _template(name: str) -> str:
    return files("fedrec.report").joinpath("templates", name).read_text("utf-8")


@lru_cache(maxsize=1)
def _style() -> str:
    # Tints are classes: style attributes would need a content security policy that allows any style.
    tints = "".join(f".v{level} {{ --v: {level / _TINTS:g}; }}\n" for level in range(_TINTS + 1))
    return _template("style.css") + tints


def _svg(chart: Chart) -> Markup:
    return Markup(draw(chart))  # noqa: S704 (draw escapes every text)


def _addresses(pictures: Pictures) -> list[str]:
    return ["data:image/png;base64," + base64.b64encode(image).decode("ascii") for image in pictures.images]


def _cells(matrix: Matrix, row: int) -> list[tuple[str, str, str]]:
    """Return (text, classes, tooltip) for each cell of a matrix's row, tinted by its share of the row."""
    found = []
    total = sum(matrix.counts[row])
    for column, count in enumerate(matrix.counts[row]):
        share = count / total if total else 0.0
        kind = "miss" if column != row else "hit hot" if share > _HOT else "hit"
        # The square root makes errors of a few per cent visible beside a diagonal near one.
        tint = share if column == row else math.sqrt(share)
        words = f"{matrix.labels[row]} taken for {matrix.labels[column]}: {count:.0f} ({100 * share:.1f}%)"
        found.append((f"{count:.0f}" if count else "", f"{kind} v{round(_TINTS * tint)}", words))
    return found
