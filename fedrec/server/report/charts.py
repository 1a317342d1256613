"""Charts as SVG text for the report page: no script, no outside resource, colours from the page's CSS."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from fedrec._internal.number_format import nice_ticks

_WIDTH, _HEIGHT = 520, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 56, 14, 40
_DOTS_UP_TO = 40


def line_chart(
    points: Sequence[tuple[int, float]],
    *,
    rounds: Sequence[int],
    lost: Sequence[int],
    name: str,
    css_class: str,
    show: Callable[[float], str],
    show_last: Callable[[float], str],
    top: float | None = None,
) -> str:
    """Draw one figure over the rounds.

    Args:
        points: (round, value >= 0) in the order of rounds, only where there is a value.
        rounds: every round number of the run, with a value or without.
        lost: the rounds that were not opened; marked by a cross on the axis.
        name: what the figure is, for readers who cannot see the chart.
        css_class: class of the line, which the page's style sheet colours.
        show: turns a value into the text of a tick.
        show_last: turns the last value into its label.
        top: upper end of the value axis; chosen from the values when None.

    Returns:
        An ``<svg>`` element, or a paragraph where there is nothing to draw.

    """
    if not points:
        return f'<p class="empty">No round has a value for {escape(name)}.</p>'
    first, last = min(rounds), max(rounds)
    last_label = escape(show_last(points[-1][1]))
    highest = max(value for _, value in points)
    ticks = nice_ticks(top if top is not None else (highest or 1.0))

    def x(number: int) -> float:
        share = 0.5 if last == first else (number - first) / (last - first)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        return _HEIGHT - _BOTTOM - min(value / ticks[-1], 1.0) * (_HEIGHT - _TOP - _BOTTOM)

    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" class="chart {css_class}">',
        f"<title>{escape(name)} over {len(rounds)} rounds; {last_label} at round {points[-1][0]}"
        f"{f'; {len(lost)} rounds lost' if lost else ''}</title>",
    ]
    for tick in ticks:
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
            f'<text x="{_LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{escape(show(tick))}</text>'
        )
    floor = _HEIGHT - _BOTTOM
    for number in _round_ticks(first, last):
        parts.append(
            f'<line class="axis" x1="{x(number):.1f}" x2="{x(number):.1f}" y1="{floor}" y2="{floor + 4}"/>'
            f'<text x="{x(number):.1f}" y="{floor + 18}" text-anchor="middle">{number}</text>'
        )
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{floor}" y2="{floor}"/>')
    parts.append(
        f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 4}" text-anchor="middle">round</text>'
    )
    for number in lost:
        parts.append(
            f'<path class="lost" d="M{x(number) - 3.5:.1f} {floor - 3.5}l7 7m0-7l-7 7">'
            f"<title>round {number} was lost</title></path>"
        )
    places = [(x(number), y(value)) for number, value in points]
    if len(places) > 1:
        path = "L".join(f"{px:.1f} {py:.1f}" for px, py in places)
        parts.append(
            f'<path class="area" d="M{places[0][0]:.1f} {floor}L{path}L{places[-1][0]:.1f} {floor}Z"/>'
        )
        parts.append(f'<path class="line" d="M{path}"/>')
    dots = places if len(places) <= _DOTS_UP_TO else places[-1:]
    parts.extend(f'<circle class="dot" cx="{px:.1f}" cy="{py:.1f}" r="3"/>' for px, py in dots)
    end_x, end_y = places[-1]
    parts.append(f'<text class="end" x="{end_x + 8:.1f}" y="{end_y + 4:.1f}">{last_label}</text>')
    parts.append("</svg>")
    return "".join(parts)


def _round_ticks(first: int, last: int) -> tuple[int, ...]:
    """Give the first round and then multiples of a round number, none crowding the first."""
    if last - first < 6:
        return tuple(range(first, last + 1))
    step = max(1, round(nice_ticks(float(last - first), about=5)[1]))
    multiples = range((first // step + 1) * step, last + 1, step)
    return (first, *(m for m in multiples if m - first > step * 0.4))
