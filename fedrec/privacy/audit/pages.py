"""An audit's page to read: one HTML file that stands alone."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from fedrec.privacy.audit.blocks import Block, Heading, Line, Panel, Panels, Points, Table, Text, shortened
from fedrec.privacy.audit.content import blocks
from fedrec.privacy.audit.timeline import SPENT, TRAINING

TITLE = "fedrec: privacy audit"
_WIDTH, _HEIGHT = 300, 170
_LEFT, _RIGHT, _TOP, _BOTTOM = 38, 12, 24, 24
_LONGEST_NAME = 28
_CSP = "default-src 'none'; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light dark; --ink: #1d1f23; --quiet: #5c626d; --line: #d9dde3; --back: #ffffff;
  --spent: #2a6fbb; --training: #c4772e; --cap: #b0281e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaee; --quiet: #9aa2ae; --line: #3a3f47;
  --back: #16181c; --spent: #6aa9ee; --training: #e0a060; --cap: #f07468; } }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--back); margin: 0; }
main { max-width: 60rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; margin: 0 0 1.5rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .5rem; }
.strong { font-size: 1.2rem; line-height: 1.45; border-left: 4px solid var(--spent); padding-left: 1rem; }
.alarm { border-left: 4px solid var(--cap); padding-left: 1rem; color: var(--cap); font-weight: 600; }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: right; padding: .35rem .6rem; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { color: var(--quiet); font-weight: 500; } th:first-child, td:first-child { text-align: left; }
td { white-space: nowrap; }
table.words td { white-space: normal; overflow-wrap: anywhere; min-width: 5.5rem; }
table.words th, table.words td { text-align: left; } p, li { overflow-wrap: anywhere; }
figure { margin: 1rem 0; } figcaption, .key { color: var(--quiet); font-size: .92rem; }
.panels { display: grid; gap: .75rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr)); }
.panels.one { grid-template-columns: minmax(0, 36rem); }
svg { width: 100%; height: auto; display: block; } svg text { fill: var(--quiet); font-size: 11px; }
svg .name { fill: var(--ink); font-size: 12px; font-weight: 600; } svg .grid { stroke: var(--line); }
.spent { stroke: var(--spent); stroke-width: 2; } .training { stroke: var(--training); stroke-width: 1.4; }
.cap { stroke: var(--cap); stroke-width: 1.4; stroke-dasharray: 5 4; } polyline { fill: none; }
.key svg { width: 1.8rem; height: .7rem; display: inline-block; } .key span { margin-right: 1.2rem; }
@media (max-width: 30rem) { main { padding: 1.2rem .8rem 3rem; } th, td { padding: .3rem .4rem; }
  .strong { font-size: 1.08rem; } }
"""


def render_html(body: Mapping[str, Any], *, signer: str) -> str:
    """Return the page of a bundle's body: inline style and SVG, no script, every text escaped."""
    content = "\n".join(_html(block) for block in blocks(body, signer=signer))
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_CSP}">'
        f"<title>{TITLE}</title><style>{_STYLE}</style></head><body><main><h1>{TITLE}</h1>\n{content}\n"
        "</main></body></html>\n"
    )


def _html(block: Block) -> str:
    match block:
        case Heading(text):
            return f"<h2>{escape(text)}</h2>"
        case Text(text, strong, alarm):
            kind = " ".join(name for name, on in (("strong", strong), ("alarm", alarm)) if on)
            return f'<p class="{kind}"{" role=alert" if alarm else ""}>{escape(text)}</p>'
        case Points(items):
            return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>"
        case Table(columns, rows, words):
            head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
            lines = "".join(
                "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
            )
            kind = ' class="words"' if words else ""
            inner = f"<thead><tr>{head}</tr></thead><tbody>{lines}</tbody>"
            return f'<div class="wide"><table{kind}>{inner}</table></div>'
        case Panels():
            return _panels(block)


def _panels(chart: Panels) -> str:
    keys = "".join(
        f'<span><svg viewBox="0 0 28 10" aria-hidden="true"><line class="{css}" x1="0" x2="28" y1="5" '
        f'y2="5"/></svg> {escape(label)}</span>'
        for css, label in (("spent", SPENT), ("training", TRAINING), ("cap", "the merchant's lifetime cap"))
    )
    css = "panels one" if len(chart.panels) == 1 else "panels"
    inner = "".join(_panel(chart, panel) for panel in chart.panels)
    axes = f"Upward: {chart.y_title}, the same scale for all. Across: {chart.x_title}."
    return (
        f"<figure><figcaption>{escape(chart.title)}. {escape(axes)} {escape(chart.note)}</figcaption>"
        f'<p class="key">{keys}</p><div class="{css}">{inner}</div></figure>'
    )


def _panel(chart: Panels, panel: Panel) -> str:
    right, floor = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    top = chart.y_ticks[-1]

    def x(place: float) -> float:
        return _LEFT + (right - _LEFT) * place

    def y(value: float) -> float:
        return floor - (floor - _TOP) * value / top

    parts = [
        f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
        f'<text x="{_LEFT - 5}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>'
        for tick in chart.y_ticks
    ]
    parts += [
        f'<line class="grid" x1="{x(place):.1f}" x2="{x(place):.1f}" y1="{floor}" y2="{floor + 4}"/>'
        f'<text x="{x(place):.1f}" y="{floor + 16}" text-anchor="{_anchor(place)}">{escape(label)}</text>'
        for place, label in chart.x_ticks
    ]
    if panel.cap is not None and panel.cap <= top:
        height = f"{y(panel.cap):.1f}"
        parts.append(f'<line class="cap" x1="{_LEFT}" x2="{right}" y1="{height}" y2="{height}"/>')

    def curve(line: Line, css: str) -> str:
        spots = " ".join(f"{x(place):.1f},{y(value):.1f}" for place, value in line)
        return f'<polyline class="{css}" points="{spots}"/>'

    for label, css in ((TRAINING, "training"), (SPENT, "spent")):
        if panel.curves[label]:
            parts.append(curve(panel.curves[label], css))
    title = f"{panel.name}: {panel.last} spent"
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(parts)}'
        f'<text class="name" x="{_LEFT}" y="14">{escape(shortened(panel.name, most=_LONGEST_NAME))}</text>'
        f'<text class="name" x="{right}" y="14" text-anchor="end">{escape(panel.last)}</text></svg>'
    )


def _anchor(place: float) -> str:
    return "start" if place < 0.05 else "end" if place > 0.9 else "middle"
