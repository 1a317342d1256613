"""An audit's pages to print: a PDF of A4 pages, of the same blocks as the HTML."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from fpdf import FPDF
from fpdf.enums import TableCellFillMode, WrapMode, XPos, YPos
from fpdf.fonts import FontFace

from fedrec.privacy.audit.blocks import Block, Heading, Panel, Panels, Points, Table, Text, shortened
from fedrec.privacy.audit.content import blocks
from fedrec.privacy.audit.pages import TITLE
from fedrec.privacy.audit.timeline import SPENT, TRAINING

_RAISED = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
_PLAIN = {"–": "-", "’": "'", "“": '"', "”": '"'}
_SPENT, _TRAINING, _CAP = (42, 111, 187), (196, 119, 46), (176, 40, 30)
_INDENT, _PANEL_HEIGHT = 4.0, 42.0
_CHART_HEIGHT = _PANEL_HEIGHT + 40.0
_LONG_WORD = 40
_NOTE = (
    "Letters that this page's fonts lack are written by their Unicode numbers, as \\u4e16; audit.html "
    "shows them."
)


def render_pdf(body: Mapping[str, Any], *, signer: str) -> bytes:
    """Return the pages of a bundle's body as a PDF."""
    pdf = _Pdf()
    pdf.set_title(TITLE)
    pdf.set_auto_page_break(auto=True, margin=20)
    pdf.set_margin(20)
    pdf.add_page()
    pdf.set_font("Helvetica", style="B", size=18)
    pdf.line_of(TITLE, height=10)
    content = blocks(body, signer=signer)
    for block, following in zip(content, (*content[1:], None), strict=True):
        # A title stays with what it is the title of.
        if (
            isinstance(block, Heading)
            and isinstance(following, Panels)
            and pdf.will_page_break(_CHART_HEIGHT)
        ):
            pdf.add_page()
        pdf.block(block)
    if pdf.lacked_letters:
        pdf.block(Text(_NOTE))
    return bytes(pdf.output())


class _Pdf(FPDF):
    """The built-in fonts know Latin-1 alone: nothing has to be shipped, and no other letter is ever lost."""

    lacked_letters = False

    def footer(self) -> None:
        self.set_y(-14)
        self.set_font("Helvetica", size=8)
        self.set_text_color(110)
        self.cell(0, 6, f"{TITLE}, page {self.page_no()}", align="R")
        self.set_text_color(0)

    def plain(self, text: str) -> str:
        """Return a text in Latin-1: raised digits after a caret, what else it lacks by Unicode number."""
        text = re.sub("[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+", lambda found: "^" + found[0].translate(_RAISED), text)
        text = "".join(_PLAIN.get(letter, letter) for letter in text)
        encoded = text.encode("latin-1", "backslashreplace")
        self.lacked_letters = self.lacked_letters or len(encoded) != len(text)
        return encoded.decode("latin-1")

    def line_of(self, text: str, *, height: float) -> None:
        plain = self.plain(text)
        longest = max(map(len, plain.split()), default=0)
        wrap = WrapMode.CHAR if longest > _LONG_WORD else WrapMode.WORD
        self.multi_cell(0, height, plain, align="L", new_x=XPos.LMARGIN, new_y=YPos.NEXT, wrapmode=wrap)

    def block(self, block: Block) -> None:
        match block:
            case Heading(text):
                self.ln(4)
                # A title, and the first lines of what it is the title of.
                if self.will_page_break(34):
                    self.add_page()
                self.set_font("Helvetica", style="B", size=12)
                self.line_of(text, height=7)
            case Text(text, strong, alarm):
                self.set_font("Helvetica", style="B" if alarm else "", size=12 if strong else 10)
                self.set_text_color(*(_CAP if alarm else (0, 0, 0)))
                self.line_of(text, height=6 if strong else 5)
                self.set_text_color(0)
                self.ln(1.5)
            case Points(items):
                self._points(items)
            case Table(columns, rows, words):
                self._table(columns, rows, words=words)
            case Panels():
                self._panels(block)

    def _points(self, items: Sequence[str]) -> None:
        self.set_font("Helvetica", size=10)
        margin = self.l_margin
        for item in items:
            if self.will_page_break(12):
                self.add_page()
            self.set_x(margin)
            self.cell(_INDENT, 5, "-")
            self.set_left_margin(margin + _INDENT)
            self.line_of(item, height=5)
            self.set_left_margin(margin)
            self.set_x(margin)
        self.ln(1.5)

    def _table(self, columns: tuple[str, ...], rows: tuple[tuple[str, ...], ...], *, words: bool) -> None:
        if self.will_page_break(24):
            self.add_page()
        self.set_font("Helvetica", size=8)
        self.set_draw_color(200)
        align = ("LEFT", *(("LEFT" if words else "RIGHT",) * (len(columns) - 1)))
        texts = [[self.plain(cell) for cell in row] for row in (columns, *rows)]
        with self.table(
            text_align=align,
            col_widths=self._widths(texts, words=words),
            line_height=4.6,
            borders_layout="HORIZONTAL_LINES",
            cell_fill_mode=TableCellFillMode.NONE,
            headings_style=FontFace(emphasis="BOLD", size_pt=8),
            wrapmode=WrapMode.CHAR if any(_long(text) for row in texts for text in row) else WrapMode.WORD,
        ) as table:
            for row in texts:
                table.row(row)
        self.ln(2)

    def _widths(self, texts: Sequence[Sequence[str]], *, words: bool) -> tuple[float, ...]:
        """Share out the width by the longest text of each column; sentences take what is left."""
        longest = [max(self.get_string_width(row[k]) for row in texts) + 3.0 for k in range(len(texts[0]))]
        most = self.epw * (0.7 if words else 0.4)
        bounded = [min(width, most) for width in longest]
        spare = self.epw - sum(bounded)
        if spare >= 0:
            # What is left over goes to everybody alike, so that figures don't crowd on one side.
            return tuple(width + spare / len(bounded) for width in bounded)
        return tuple(max(width, 16.0) for width in bounded)

    def _panels(self, chart: Panels) -> None:
        each_row = min(3, len(chart.panels))
        self.set_font("Helvetica", size=9)
        if self.will_page_break(_PANEL_HEIGHT + 24):
            self.add_page()
        self.line_of(
            f"{chart.title}. Upward: {chart.y_title}, the same scale for all. Across: {chart.x_title}. "
            f"{chart.note}",
            height=4.5,
        )
        self._key()
        width = self.epw / each_row
        for first in range(0, len(chart.panels), each_row):
            if self.will_page_break(_PANEL_HEIGHT + 2):
                self.add_page()
            top = self.get_y()
            for column, panel in enumerate(chart.panels[first : first + each_row]):
                self._panel(chart, panel, left=self.l_margin + column * width, top=top, width=width)
            self.set_xy(self.l_margin, top + _PANEL_HEIGHT + 1)
        self.set_draw_color(0)
        self.set_line_width(0.2)
        self.ln(2)

    def _key(self) -> None:
        x, y = self.l_margin, self.get_y() + 3
        self.set_font("Helvetica", size=8)
        for colour, label in ((_SPENT, SPENT), (_TRAINING, TRAINING), (_CAP, "the merchant's lifetime cap")):
            self._pen(colour)
            self.line(x, y, x + 7, y)
            self.text(x + 9, y + 1, label)
            x += 14 + self.get_string_width(label)
        self.set_dash_pattern()
        self.set_y(y + 3)

    def _pen(self, colour: tuple[int, int, int]) -> None:
        self.set_draw_color(*colour)
        self.set_line_width(0.5 if colour == _SPENT else 0.35)
        dash = 1.5 if colour == _CAP else 0
        self.set_dash_pattern(dash=dash, gap=dash)

    def _panel(self, chart: Panels, panel: Panel, *, left: float, top: float, width: float) -> None:
        x0, x1 = left + 10, left + width - 5
        y0, y1 = top + _PANEL_HEIGHT - 6, top + 6
        highest = chart.y_ticks[-1]

        def x(place: float) -> float:
            return x0 + (x1 - x0) * place

        def y(value: float) -> float:
            return y0 - (y0 - y1) * value / highest

        self.set_line_width(0.2)
        self.set_font("Helvetica", size=7)
        self.set_draw_color(215)
        for tick in chart.y_ticks:
            self.line(x0, y(tick), x1, y(tick))
            self.text(x0 - 1.5 - self.get_string_width(f"{tick:g}"), y(tick) + 1, f"{tick:g}")
        for place, label in chart.x_ticks:
            self.line(x(place), y0, x(place), y0 + 1)
            room = self.get_string_width(label)
            self.text(min(max(x(place) - room / 2, x0), x1 - room), y0 + 4, label)
        if panel.cap is not None and panel.cap <= highest:
            self._pen(_CAP)
            self.line(x0, y(panel.cap), x1, y(panel.cap))
        for label, colour in ((TRAINING, _TRAINING), (SPENT, _SPENT)):
            if panel.curves[label]:
                self._pen(colour)
                self.polyline([(x(place), y(value)) for place, value in panel.curves[label]])
        self.set_dash_pattern()
        self.set_font("Helvetica", style="B", size=7.5)
        self.text(x0, top + 4, shortened(self.plain(panel.name), most=int((x1 - x0) / 1.9) - 4))
        self.text(x1 - self.get_string_width(panel.last), top + 4, panel.last)


def _long(text: str) -> bool:
    return max(map(len, text.split()), default=0) > _LONG_WORD
