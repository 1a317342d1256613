"""Draw charts as SVG: lines and bars over axes, without scripts or external resources.

Colours are attributes of the SVG, for the PDF; a page's style sheet overrides them by class. Matplotlib's SVG
has fixed colours, so that a page in dark mode would show a white box. Its line of twelve points takes 11 kB
instead of 3.5, and the package 35 MB and half a second of import.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final, Literal

from fedrec._internal.number_format import nice_ticks

Colour = Literal["blue", "violet", "orange"]

COLOURS: Final = {"blue": "#2456c7", "violet": "#7a3fb8", "orange": "#c2570c"}
BAD: Final = "#b3261e"
_SOFT, _GRID, _AXIS = "#5a6675", "#e3e7ec", "#9aa4b1"
_DOTS_UP_TO = 40


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: its position and its label."""

    at: float
    text: str


@dataclass(frozen=True)
class Line:
    """The points of a curve, sorted by x; ``filled`` tints the area below, and ``dots`` mark few points."""

    points: tuple[tuple[float, float], ...]
    colour: Colour = "blue"
    filled: bool = False
    dots: bool = True


@dataclass(frozen=True)
class Band:
    """The area between the lowest and the highest of several curves: (x, low, high) each, sorted by x."""

    places: tuple[tuple[float, float, float], ...]
    colour: Colour = "blue"


@dataclass(frozen=True)
class Bars:
    """Bars of one colour: (x, low, high) each, all ``width`` wide."""

    places: tuple[tuple[float, float, float], ...]
    width: float
    colour: Colour = "blue"


@dataclass(frozen=True)
class Cross:
    """A mark on the x axis for a missing value, with a tooltip."""

    at: float
    text: str


@dataclass(frozen=True)
class Chart:
    """A chart, in the units of its axes.

    Attributes:
        describes: what the chart shows, in words, for screen readers.
        x_range: the ends of the x axis.
        x_ticks: the ticks of the x axis.
        y_ticks: the ticks of the y axis, which goes from the first of them to the last.
        lines: the curves.
        bands: the areas of several curves each, behind the lines.
        bars: the bars.
        crosses: the marks for missing values.
        limit: y value of a dashed line.
        x_title: title of the x axis.
        end_text: label at the end of the last line.
        small: the format of one chart among many.
    """

    describes: str
    x_range: tuple[float, float]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...] = ()
    bands: tuple[Band, ...] = ()
    bars: tuple[Bars, ...] = ()
    crosses: tuple[Cross, ...] = ()
    limit: float | None = None
    x_title: str = ""
    end_text: str = ""
    small: bool = False


@dataclass(frozen=True)
class _Frame:
    """The dimensions of a format, and the positions of values in it."""

    chart: Chart
    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    text: float

    @property
    def end(self) -> int:
        return self.width - self.right

    @property
    def floor(self) -> int:
        return self.height - self.bottom

    def x(self, value: float) -> float:
        low, high = self.chart.x_range
        share = 0.5 if high == low else (value - low) / (high - low)
        return self.left + share * (self.end - self.left)

    def y(self, value: float) -> float:
        low, top = self.chart.y_ticks[0].at, self.chart.y_ticks[-1].at
        return self.floor - max(0.0, min((value - low) / (top - low), 1.0)) * (self.floor - self.top)


def draw(chart: Chart, *, font: str = "") -> str:
    """Draw a chart; every text is escaped.

    Args:
        chart: the chart.
        font: font family of a self-contained file; empty for an element that takes its page's font.

    Returns:
        One ``<svg>`` element.
    """
    frame = (
        _Frame(chart, width=300, height=150, left=34, right=12, top=10, bottom=24, text=11)
        if chart.small
        else _Frame(chart, width=520, height=250, left=48, right=56, top=14, bottom=40, text=12.5)
    )
    size = "chart small" if chart.small else "chart"
    alone = f'xmlns="http://www.w3.org/2000/svg" font-family="{escape(font)}" ' if font else ""
    head = (
        f'<svg {alone}viewBox="0 0 {frame.width} {frame.height}" role="img" class="{size}" '
        f'font-size="{frame.text:g}"><title>{escape(chart.describes)}</title>'
    )
    body = (
        *_axes(frame),
        *_bands(frame),
        *_limit(frame),
        *_bars(frame),
        *_crosses(frame),
        *_lines(frame),
    )
    return f"{head}{''.join(body)}</svg>"


def y_axis(top: float, *, about: int = 5, percent: bool = False) -> tuple[Tick, ...]:
    """Return evenly spaced ticks at round numbers, from 0 to the first that is not below ``top``.

    Args:
        top: the largest value, above 0.
        about: how many ticks to aim for.
        percent: whether to label them as percentages.

    Returns:
        The ticks.
    """
    return _labelled(nice_ticks(top, about=about), percent=percent)


def zoomed_axis(low: float, high: float, *, about: int = 5, percent: bool = False) -> tuple[Tick, ...]:
    """Return evenly spaced ticks at round numbers around a range, for values that are far from 0.

    Args:
        low: the smallest value, not negative.
        high: the largest value, above ``low``.
        about: how many ticks to aim for.
        percent: whether to label them as percentages.

    Returns:
        The ticks.
    """
    step = nice_ticks(high - low, about=about)[1]
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return _labelled([step * number for number in range(first, last + 1)], percent=percent)


def _labelled(ticks: Sequence[float], *, percent: bool) -> tuple[Tick, ...]:
    return tuple(Tick(at, f"{100 * at:.3g}%" if percent else f"{at:.3g}") for at in ticks)


def round_axis(first: int, last: int) -> tuple[Tick, ...]:
    """Return ticks for an axis of round numbers.

    Args:
        first: the first round.
        last: the last round.

    Returns:
        A tick for the first round, and for multiples of a step that are not too near to it.
    """
    if last - first < 6:
        numbers: Sequence[int] = range(first, last + 1)
    else:
        step = max(1, round(nice_ticks(float(last - first), about=5)[1]))
        multiples = range((first // step + 1) * step, last + 1, step)
        numbers = (first, *(number for number in multiples if number - first > step * 0.4))
    return tuple(Tick(number, str(number)) for number in numbers)


def _text(x: float, y: float, text: str, *, anchor: str) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{_SOFT}" class="ink">'
        f"{escape(text)}</text>"
    )


def _axes(frame: _Frame) -> Iterator[str]:
    for tick in frame.chart.y_ticks:
        y = frame.y(tick.at)
        yield (
            f'<line class="grid" stroke="{_GRID}" x1="{frame.left}" x2="{frame.end}" y1="{y:.1f}" '
            f'y2="{y:.1f}"/>'
        )
        yield _text(frame.left - 7, y + frame.text / 3, tick.text, anchor="end")
    for tick in frame.chart.x_ticks:
        x = frame.x(tick.at)
        yield (
            f'<line class="axis" stroke="{_AXIS}" x1="{x:.1f}" x2="{x:.1f}" y1="{frame.floor}" '
            f'y2="{frame.floor + 4}"/>'
        )
        share = (x - frame.left) / (frame.end - frame.left)
        # In a small chart a centred label at an end would be cut off.
        anchor = (
            "middle" if not frame.chart.small or 0.05 < share < 0.9 else "start" if share < 0.5 else "end"
        )
        yield _text(x, frame.floor + frame.text + 6, tick.text, anchor=anchor)
    yield (
        f'<line class="axis" stroke="{_AXIS}" x1="{frame.left}" x2="{frame.end}" y1="{frame.floor}" '
        f'y2="{frame.floor}"/>'
    )
    if frame.chart.x_title:
        yield _text((frame.left + frame.end) / 2, frame.height - 4, frame.chart.x_title, anchor="middle")


def _limit(frame: _Frame) -> Iterator[str]:
    limit = frame.chart.limit
    if limit is not None and frame.chart.y_ticks[0].at <= limit <= frame.chart.y_ticks[-1].at:
        y = frame.y(limit)
        yield (
            f'<line class="limit" stroke="{BAD}" stroke-width="1.4" stroke-dasharray="5 4" '
            f'x1="{frame.left}" x2="{frame.end}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )


def _bars(frame: _Frame) -> Iterator[str]:
    for bars in frame.chart.bars:
        for at, low, high in bars.places:
            left, right = frame.x(at - bars.width / 2), frame.x(at + bars.width / 2)
            yield (
                f'<rect class="{bars.colour} fill" fill="{COLOURS[bars.colour]}" x="{left:.1f}" '
                f'width="{right - left:.1f}" y="{frame.y(high):.1f}" '
                f'height="{frame.y(low) - frame.y(high):.1f}"/>'
            )


def _bands(frame: _Frame) -> Iterator[str]:
    for band in frame.chart.bands:
        low = [f"{frame.x(at):.1f} {frame.y(value):.1f}" for at, value, _ in band.places]
        high = [f"{frame.x(at):.1f} {frame.y(value):.1f}" for at, _, value in band.places]
        yield (
            f'<path class="{band.colour} fill" fill="{COLOURS[band.colour]}" fill-opacity="0.22" '
            f'd="M{"L".join([*low, *reversed(high)])}Z"/>'
        )


def _crosses(frame: _Frame) -> Iterator[str]:
    for cross in frame.chart.crosses:
        yield (
            f'<path class="lost" fill="none" stroke="{BAD}" stroke-width="1.8" stroke-linecap="round" '
            f'd="M{frame.x(cross.at) - 3.5:.1f} {frame.floor - 3.5}l7 7m0-7l-7 7">'
            f"<title>{escape(cross.text)}</title></path>"
        )


def _lines(frame: _Frame) -> Iterator[str]:
    for line in frame.chart.lines:
        if not line.points:
            continue
        colour = COLOURS[line.colour]
        spots = [(frame.x(x), frame.y(y)) for x, y in line.points]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in spots)
        if len(spots) > 1 and line.filled:
            yield (
                f'<path class="{line.colour} fill" fill="{colour}" fill-opacity="0.08" '
                f'd="M{spots[0][0]:.1f} {frame.floor}L{path}L{spots[-1][0]:.1f} {frame.floor}Z"/>'
            )
        if len(spots) > 1:
            yield (
                f'<path class="{line.colour} line" fill="none" stroke="{colour}" stroke-width="2" '
                f'stroke-linejoin="round" d="M{path}"/>'
            )
        if not frame.chart.small and line.dots:
            dots = spots if len(spots) <= _DOTS_UP_TO else spots[-1:]
            for x, y in dots:
                yield f'<circle class="{line.colour} fill" fill="{colour}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>'
    if frame.chart.end_text and frame.chart.lines and frame.chart.lines[-1].points:
        line = frame.chart.lines[-1]
        x, y = line.points[-1]
        yield (
            f'<text class="{line.colour} fill end" fill="{COLOURS[line.colour]}" font-weight="700" '
            f'x="{frame.x(x) + 8:.1f}" y="{frame.y(y) + 4:.1f}">{escape(frame.chart.end_text)}</text>'
        )
