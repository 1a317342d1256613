"""An audit's pages: one HTML file that stands alone, and a PDF to print, of the same blocks."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from fpdf import FPDF
from fpdf.enums import TableCellFillMode, WrapMode, XPos, YPos
from fpdf.fonts import FontFace

from fedrec.privacy.audit.content import Block, Chart, Heading, Points, Table, Text, blocks

TITLE = "fedrec: privacy audit"
_COLOURS = ("#2a6fbb", "#c4572e", "#3f8f4f", "#8657b5", "#b8860b", "#2f8f8f", "#b5477a", "#5b5b5b")
_MOST_LINES = 20
_CSP = "default-src 'none'; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light dark; --ink: #1d1f23; --quiet: #5c626d; --line: #d9dde3; --back: #ffffff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8eaee; --quiet: #9aa2ae; --line: #3a3f47; --back: #16181c; } }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--back); margin: 0; }
main { max-width: 60rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; margin: 0 0 1.5rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .5rem; }
.strong { font-size: 1.2rem; line-height: 1.45; border-left: 4px solid #2a6fbb; padding-left: 1rem; }
.alarm { border-color: #c0392b; color: #c0392b; font-weight: 600; }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: right; padding: .35rem .6rem; border-bottom: 1px solid var(--line); }
th { color: var(--quiet); font-weight: 500; } th:first-child, td:first-child { text-align: left; }
table.words th, table.words td { text-align: left; } p { overflow-wrap: anywhere; }
svg { width: 100%; height: auto; } svg text { fill: var(--quiet); font-size: 12px; }
svg .axis { stroke: var(--line); }
figcaption { color: var(--quiet); font-size: .92rem; } figure { margin: 1rem 0; }
"""


def render_html(bundle: Mapping[str, Any]) -> str:
    """Return a bundle's page: inline style and SVG, no script, every text escaped."""
    body = "\n".join(_html(block) for block in blocks(bundle))
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_CSP}">'
        f"<title>{TITLE}</title><style>{_STYLE}</style></head><body><main><h1>{TITLE}</h1>\n{body}\n"
        "</main></body></html>\n"
    )


def _html(block: Block) -> str:
    match block:
        case Heading(text):
            return f"<h2>{escape(text)}</h2>"
        case Text(text, strong, alarm):
            kind = " ".join(name for name, on in (("strong", strong), ("alarm", alarm)) if on)
            return f'<p class="{kind}">{escape(text)}</p>'
        case Points(items):
            return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>"
        case Table(columns, rows):
            head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
            lines = "".join(
                "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
            )
            kind = ' class="words"' if len(columns) == 2 else ""
            inner = f"<thead><tr>{head}</tr></thead><tbody>{lines}</tbody>"
            return f'<div class="wide"><table{kind}>{inner}</table></div>'
        case Chart():
            return _svg(block)


def _svg(chart: Chart) -> str:
    width, height, left, bottom = 720, 240, 44, 26
    shown = list(chart.series.items())[:_MOST_LINES]
    top, longest = _extent(chart)
    lines = []
    for index, (name, values) in enumerate(shown):
        spots = [
            f"{left + (width - left - 8) * (k + 1) / longest:.1f},"
            f"{(height - bottom) - (height - bottom - 12) * value / top:.1f}"
            for k, value in enumerate(values)
        ]
        colour = _COLOURS[index % len(_COLOURS)]
        lines.append(
            f'<polyline fill="none" stroke="{colour}" stroke-width="1.6" points="{left},{height - bottom} '
            f'{" ".join(spots)}"><title>{escape(name)}</title></polyline>'
        )
    marks = "".join(
        f'<line class="axis" x1="{left}" x2="{width - 8}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{top * part:.2g}</text>'
        for part in (0.0, 0.5, 1.0)
        for y in ((height - bottom) - (height - bottom - 12) * part,)
    )
    return (
        f'<figure><svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(chart.title)}">{marks}'
        f'{"".join(lines)}<text x="{width - 8}" y="{height - 8}" text-anchor="end">{longest} charges</text>'
        f"</svg><figcaption>{escape(_caption(chart))}</figcaption></figure>"
    )


def _extent(chart: Chart) -> tuple[float, int]:
    """The largest value, and the most points of a line."""
    top = max(max(values) for values in chart.series.values())
    return max(top, 1e-9) * 1.05, max(len(values) for values in chart.series.values())


def _caption(chart: Chart) -> str:
    names = list(chart.series)
    if len(set(chart.series.values())) == 1 and len(names) > 1:
        return f"{chart.title}; the lines of all {len(names)} merchants lie on each other"
    more = f" (the first {_MOST_LINES} of {len(names)} merchants)" if len(names) > _MOST_LINES else ""
    return chart.title + more


def render_pdf(bundle: Mapping[str, Any]) -> bytes:
    """Return a bundle's pages as a PDF of A4 pages."""
    pdf = _Pdf()
    pdf.set_title(TITLE)
    pdf.set_auto_page_break(auto=True, margin=20)
    pdf.set_margin(20)
    pdf.add_page()
    pdf.set_font("Helvetica", style="B", size=18)
    pdf.line_of(TITLE, height=10)
    for block in blocks(bundle):
        pdf.block(block)
    return bytes(pdf.output())


class _Pdf(FPDF):
    def footer(self) -> None:
        self.set_y(-14)
        self.set_font("Helvetica", size=8)
        self.set_text_color(110)
        self.cell(0, 6, f"{TITLE}, page {self.page_no()}", align="R")
        self.set_text_color(0)

    def line_of(self, text: str, *, height: float) -> None:
        # The built-in fonts know Latin-1 alone; a name beyond it shows question marks.
        plain = text.encode("latin-1", "replace").decode("latin-1")
        wrap = WrapMode.WORD if " " in plain else WrapMode.CHAR
        self.multi_cell(0, height, plain, align="L", new_x=XPos.LMARGIN, new_y=YPos.NEXT, wrapmode=wrap)

    def block(self, block: Block) -> None:
        match block:
            case Heading(text):
                self.ln(4)
                if self.will_page_break(24):
                    self.add_page()
                self.set_font("Helvetica", style="B", size=12)
                self.line_of(text, height=7)
            case Text(text, strong, alarm):
                self.set_font("Helvetica", style="B" if alarm else "", size=12 if strong else 10)
                self.set_text_color(*((176, 40, 30) if alarm else (0, 0, 0)))
                self.line_of(text, height=6 if strong else 5)
                self.set_text_color(0)
                self.ln(1.5)
            case Points(items):
                self.set_font("Helvetica", size=10)
                for item in items:
                    self.line_of(f"-  {item}", height=5)
            case Table(columns, rows):
                self._table(columns, rows)
            case Chart():
                self._chart(block)

    def _table(self, columns: tuple[str, ...], rows: tuple[tuple[str, ...], ...]) -> None:
        self.set_font("Helvetica", size=8)
        self.set_draw_color(200)
        words = len(columns) == 2
        align = ("LEFT", *(("LEFT",) if words else ("RIGHT",) * (len(columns) - 1)))
        widths = (1, 2) if words else (1.6, *(1.0,) * (len(columns) - 1))
        with self.table(
            text_align=align,
            col_widths=widths,
            line_height=4.6,
            borders_layout="HORIZONTAL_LINES",
            cell_fill_mode=TableCellFillMode.NONE,
            headings_style=FontFace(emphasis="BOLD", size_pt=8),
        ) as table:
            for row in (columns, *rows):
                table.row([cell.encode("latin-1", "replace").decode("latin-1") for cell in row])
        self.ln(2)

    def _chart(self, chart: Chart) -> None:
        width, height, left = self.epw, 50.0, 12.0
        if self.will_page_break(height + 14):
            self.add_page()
        x0, y0 = self.l_margin + left, self.get_y() + height
        top, longest = _extent(chart)
        self.set_font("Helvetica", size=8)
        for part in (0.0, 0.5, 1.0):
            y = y0 - (height - 4) * part
            self.set_draw_color(215)
            self.line(x0, y, self.l_margin + width, y)
            self.text(self.l_margin, y + 1, f"{top * part:.2g}")
        for index, values in enumerate(list(chart.series.values())[:_MOST_LINES]):
            colour = _COLOURS[index % len(_COLOURS)]
            self.set_draw_color(*(int(colour[k : k + 2], 16) for k in (1, 3, 5)))
            spots = [(x0, y0)] + [
                (x0 + (width - left) * (k + 1) / longest, y0 - (height - 4) * value / top)
                for k, value in enumerate(values)
            ]
            self.polyline(spots)
        self.set_draw_color(0)
        self.set_y(y0 + 2)
        self.line_of(f"{_caption(chart)} ({longest} charges from left to right)", height=4.5)
        self.ln(2)
