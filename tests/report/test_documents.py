"""The wing that lays out documents: every kind of block, escaping, the page's own policy, and charts."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrec.report.bidi import isolated
from fedrec.report.charts import Line, draw
from fedrec.report.document import (
    Column,
    Document,
    Matrix,
    Paragraph,
    Table,
)
from fedrec.report.html import render_html
from tests.support.documents import CHART, HOSTILE, PIXEL, whole
from tests.support.pages import Outline


def test_every_text_is_escaped_everywhere() -> None:
    plain, hostile = Outline(render_html(whole("word"))), Outline(render_html(whole(HOSTILE)))
    assert hostile.tags == plain.tags
    assert [name for name, _ in hostile.attributes] == [name for name, _ in plain.attributes]
    shown = "".join(plain.texts).count("word")
    assert shown > 40 and "".join(hostile.texts).count(HOSTILE) == shown
    assert "49" not in "".join(hostile.texts)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30))
def test_any_text_is_shown_unchanged(text: str) -> None:
    page = Outline(render_html(Document(title="t", blocks=(Paragraph(text),))))
    assert text in "".join(page.texts)


def test_the_policy_allows_the_pages_own_style_and_nothing_else() -> None:
    page = render_html(Document(title="t", blocks=()))
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert style is not None and policy is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    rules = dict(rule.strip().split(" ", 1) for rule in policy[1].split(";"))
    assert rules == {
        "default-src": "'none'",
        "style-src": f"'sha256-{digest}'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert " style=" not in render_html(whole("word")), "the policy would ignore it"


def test_pictures_are_in_the_page_and_only_then_allowed() -> None:
    page = render_html(whole("word"))
    assert re.findall(r'src="([^"]*)"', page) == ["data:image/png;base64," + base64.b64encode(PIXEL).decode()]
    assert "img-src data:;" in page
    assert "img-src" not in render_html(Document(title="<img src=x>", blocks=()))


def test_the_same_document_gives_the_same_bytes() -> None:
    assert render_html(whole("word")) == render_html(whole("word"))


def test_a_row_fits_its_columns() -> None:
    with pytest.raises(ValueError, match="other cells"):
        Table((Column("a"), Column("b")), (("only one",),))


def test_shares_tint_the_matrix() -> None:
    page = render_html(Document(title="t", blocks=(Matrix(("a", "b"), ((75.0, 25.0), (0.0, 0.0))),)))
    cells = re.findall(r'<td class="([^"]*)" title="([^"]*)">([^<]*)</td>', page)
    assert [(text, classes) for classes, _, text in cells] == [
        ("75", "hit v15"),
        ("25", "miss v10"),
        ("", "miss v0"),
        ("", "hit v0"),
    ]
    assert cells[1][1] == "a taken for b: 25 (25.0%)"


def test_a_chart_holds_what_it_is_given() -> None:
    svg = draw(CHART)
    assert "xmlns" not in svg and 'xmlns="http://www.w3.org/2000/svg"' in draw(CHART, font="Noto Sans")
    assert "<title>epsilon over rounds</title>" in svg and "<title>round 3 was lost</title>" in svg
    rects = re.findall(r'<rect class="orange fill"[^>]* y="([\d.]+)" height="([\d.]+)"', svg)
    (low_top, low), (high_top, high) = [(float(y), float(height)) for y, height in rects]
    assert low == pytest.approx(high, abs=0.11) and high_top + high == pytest.approx(low_top, abs=0.11)
    limit = re.search(r'class="limit"[^>]* y1="([\d.]+)"', svg)
    grid = [float(y) for y in re.findall(r'class="grid"[^>]* y1="([\d.]+)"', svg)]
    assert limit is not None and float(limit[1]) in grid, "6 is a tick of this axis"
    assert 'class="limit"' not in draw(replace(CHART, limit=9.0)), "above the axis"


def test_a_chart_without_a_value_still_has_its_axes() -> None:
    empty = draw(replace(CHART, lines=(Line(()),), bars=(), crosses=()))
    assert "<circle" not in empty and "8.00" not in empty and 'class="axis"' in empty


def test_right_to_left_names_are_isolated() -> None:
    assert isolated("hat") == "hat" and isolated("\u5e3d\u5b50") == "\u5e3d\u5b50"
    for name in ("\u05e0\u05e2\u05dc\u05d9\u05d9\u05dd", "\u0642\u0645\u064a\u0635 x"):
        assert isolated(name) == f"\u2068{name}\u2069"
