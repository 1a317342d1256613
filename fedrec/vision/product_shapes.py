"""Outlines of the ten products of the synthetic photos, drawn with varying proportions.

A shape is drawn in its own coordinates, x to the right and y downward, about -1 to 1 each way, through
a :class:`Pen` that places it in the picture. Three inks keep the parts apart, so that colours can be
chosen afterwards: the red channel is the coverage of the product, the green one that of its accents
(a label, a sole), the blue one that of its dark lines (an opening, a seam).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Point = tuple[float, float]
Ink = tuple[int, int, int]

BODY: Final[Ink] = (255, 0, 0)
ACCENT: Final[Ink] = (255, 255, 0)
LINE: Final[Ink] = (255, 0, 255)
HOLE: Final[Ink] = (0, 0, 0)


class Pen:
    """Draws polygons and strokes of a shape, placed by an affine map, on a picture of layers.

    Args:
        side: width and height of the picture in pixels.
        matrix: (2, 2) float64, shape coordinates to pixels.
        centre: the pixel where the shape's origin lands.
    """

    def __init__(self, side: int, matrix: NDArray[np.float64], centre: Point) -> None:
        self.layers = Image.new("RGB", (side, side))
        self._draw = ImageDraw.Draw(self.layers)
        self._matrix = matrix
        self._centre = np.asarray(centre, dtype=np.float64)
        self._unit = float(np.sqrt(abs(np.linalg.det(matrix))))

    def _place(self, points: Sequence[Point]) -> list[Point]:
        placed = np.asarray(points, dtype=np.float64) @ self._matrix.T + self._centre
        return [(float(x), float(y)) for x, y in placed]

    def polygon(self, points: Sequence[Point], ink: Ink = BODY) -> None:
        """Fill a polygon.

        Args:
            points: its corners, in shape coordinates.
            ink: its layers.
        """
        self._draw.polygon(self._place(points), fill=ink)

    def ellipse(self, x: float, y: float, rx: float, ry: float, ink: Ink = BODY) -> None:
        """Fill an ellipse.

        Args:
            x: its centre, in shape coordinates.
            y: likewise.
            rx: its horizontal radius.
            ry: its vertical radius.
            ink: its layers.
        """
        self.polygon(arc(x, y, rx, ry, 0.0, 360.0, steps=24), ink)

    def stroke(self, points: Sequence[Point], width: float, ink: Ink = BODY) -> None:
        """Draw a line through points.

        Args:
            points: in shape coordinates.
            width: in shape units.
            ink: its layers.
        """
        self._draw.line(self._place(points), fill=ink, width=max(1, round(width * self._unit)), joint="curve")


def arc(
    x: float, y: float, rx: float, ry: float, start: float, end: float, *, steps: int = 12
) -> list[Point]:
    """Return points of an elliptic arc.

    Args:
        x: the ellipse's centre.
        y: likewise.
        rx: its horizontal radius.
        ry: its vertical radius.
        start: first angle in degrees, clockwise from the right, since y points down.
        end: last angle.
        steps: number of points.

    Returns:
        The points, evenly spaced by angle.
    """
    angles = np.radians(np.linspace(start, end, steps))
    return list(zip((x + rx * np.cos(angles)).tolist(), (y + ry * np.sin(angles)).tolist(), strict=True))


def _mug(pen: Pen, rng: np.random.Generator) -> None:
    half, height, taper = rng.uniform(0.42, 0.58), rng.uniform(0.5, 0.78), rng.uniform(0.75, 1.0)
    reach = rng.uniform(0.26, 0.4)
    pen.stroke(arc(half * 0.9, 0.0, reach, height * 0.55, -100, 100), rng.uniform(0.12, 0.2))
    rim = rng.uniform(0.08, 0.18)
    bottom = arc(0, height, half * taper, rim * 0.8, 0, 180)
    pen.polygon([(-half, -height), (half, -height), *bottom])
    pen.ellipse(0, -height, half, rim)
    pen.ellipse(0, -height, half * 0.82, rim * 0.72, LINE)
    if rng.random() < 0.5:
        y = rng.uniform(-0.15, 0.35) * height
        pen.polygon(
            [(-half * 0.9, y - 0.1), (half * 0.9, y - 0.1), (half * 0.88, y + 0.1), (-half * 0.88, y + 0.1)],
            ACCENT,
        )


def _bottle(pen: Pen, rng: np.random.Generator) -> None:
    half, neck = rng.uniform(0.25, 0.4), rng.uniform(0.08, 0.14)
    shoulder, top = rng.uniform(-0.4, -0.1), -0.95
    pen.polygon(
        [
            (-neck, top),
            (neck, top),
            (neck, shoulder - 0.22),
            (half, shoulder),
            (half, 0.95),
            (-half, 0.95),
            (-half, shoulder),
            (-neck, shoulder - 0.22),
        ]
    )
    cap = rng.uniform(0.1, 0.18)
    pen.polygon(
        [(-neck * 1.3, top), (neck * 1.3, top), (neck * 1.3, top + cap), (-neck * 1.3, top + cap)], ACCENT
    )
    low, high = rng.uniform(0.45, 0.75), rng.uniform(-0.02, 0.2)
    pen.polygon([(-half, high), (half, high), (half, low), (-half, low)], ACCENT)


def _t_shirt(pen: Pen, rng: np.random.Generator) -> None:
    half, length = rng.uniform(0.42, 0.55), rng.uniform(0.7, 0.95)
    reach, drop = rng.uniform(0.85, 1.0), rng.uniform(-0.3, 0.05)
    neck, cuff = rng.uniform(0.14, 0.24), rng.uniform(0.16, 0.26)
    right = [
        (neck, -0.8),
        (half, -0.72),
        (reach, drop),
        (reach - cuff, drop + cuff),
        (half, -0.2),
        (half, length),
    ]
    pen.polygon(right + [(-x, y) for x, y in reversed(right)])
    pen.ellipse(0, -0.8, neck, rng.uniform(0.1, 0.25), HOLE)
    if rng.random() < 0.4:
        size = rng.uniform(0.12, 0.24)
        pen.polygon([(-size, -0.2), (size, -0.2), (size, 0.2), (-size, 0.2)], ACCENT)


def _trousers(pen: Pen, rng: np.random.Generator) -> None:
    waist, flare = rng.uniform(0.3, 0.42), rng.uniform(0.0, 0.25)
    crotch, length = rng.uniform(-0.35, -0.1), rng.uniform(0.8, 0.98)
    inner, hem = rng.uniform(0.08, 0.2), rng.uniform(0.2, 0.3)
    outer = waist + flare
    right = [
        (waist, -0.92),
        (outer, crotch),
        (inner + hem + flare * 0.6, length),
        (inner + flare * 0.6, length),
    ]
    pen.polygon([*right, (0.0, crotch), *[(-x, y) for x, y in reversed(right)]])
    pen.polygon([(-waist, -0.95), (waist, -0.95), (waist, -0.8), (-waist, -0.8)], ACCENT)
    pen.stroke([(0, -0.8), (0, crotch)], 0.04, LINE)


def _shoe(pen: Pen, rng: np.random.Generator) -> None:
    ankle, top, toe = rng.uniform(-0.35, -0.1), rng.uniform(-0.65, -0.3), rng.uniform(0.05, 0.25)
    heel = rng.uniform(0.08, 0.3)
    pen.polygon(
        [
            (-0.9, top),
            (ankle, top),
            (ankle + 0.2, toe - 0.15),
            *arc(0.65, 0.4, 0.3, 0.4 - toe, -90, 0, steps=6),
            (0.95, 0.5),
            (-0.92, 0.5),
        ]
    )
    pen.polygon(
        [(-0.95, 0.42), (0.98, 0.42), (0.95, 0.56), (-0.4, 0.56), (-0.45, 0.5 + heel), (-0.95, 0.5 + heel)],
        ACCENT,
    )
    for step in range(int(rng.integers(2, 4))):
        x = ankle + 0.02 + 0.13 * step
        pen.stroke([(x - 0.12, top + 0.25 + 0.08 * step), (x + 0.1, top + 0.15 + 0.1 * step)], 0.05, LINE)


def _handbag(pen: Pen, rng: np.random.Generator) -> None:
    half, top, taper = rng.uniform(0.62, 0.85), rng.uniform(-0.2, 0.0), rng.uniform(0.7, 1.0)
    handle = rng.uniform(0.3, 0.45)
    pen.stroke(arc(0, top, handle, rng.uniform(0.5, 0.8), 180, 360), rng.uniform(0.09, 0.15))
    pen.polygon([(-half * taper, top), (half * taper, top), (half, 0.75), (-half, 0.75)])
    flap = top + rng.uniform(0.22, 0.4)
    pen.stroke([(-half * taper, top + 0.08), (0, flap), (half * taper, top + 0.08)], 0.05, LINE)
    pen.ellipse(0, flap, 0.1, 0.1, ACCENT)


def _hat(pen: Pen, rng: np.random.Generator) -> None:
    half, height = rng.uniform(0.4, 0.55), rng.uniform(0.55, 0.9)
    brim = rng.uniform(0.12, 0.22)
    pen.ellipse(0, 0.35, 0.98, brim)
    pen.polygon(
        [(-half, 0.35), *arc(0, 0.35 - height * 0.4, half * 0.92, height * 0.6, 180, 360), (half, 0.35)]
    )
    band = rng.uniform(0.12, 0.22)
    pen.polygon([(-half, 0.3 - band), (half, 0.3 - band), (half, 0.3), (-half, 0.3)], ACCENT)


def _watch(pen: Pen, rng: np.random.Generator) -> None:
    radius, strap = rng.uniform(0.38, 0.52), rng.uniform(0.18, 0.28)
    pen.polygon([(-strap, -0.98), (strap, -0.98), (strap, 0.98), (-strap, 0.98)])
    pen.ellipse(0, 0, radius, radius * rng.uniform(0.9, 1.1))
    pen.ellipse(0, 0, radius * 0.75, radius * 0.75, ACCENT)
    for length in (0.62, 0.42):
        angle = rng.uniform(0, 2 * np.pi)
        tip = (radius * length * float(np.cos(angle)), radius * length * float(np.sin(angle)))
        pen.stroke([(0, 0), tip], 0.07, LINE)
    pen.ellipse(radius + 0.04, 0, 0.07, 0.07)


def _lamp(pen: Pen, rng: np.random.Generator) -> None:
    wide, narrow = rng.uniform(0.5, 0.7), rng.uniform(0.18, 0.35)
    edge, base = rng.uniform(-0.3, -0.02), rng.uniform(0.3, 0.5)
    pen.stroke([(0, edge), (0, 0.9)], rng.uniform(0.08, 0.14))
    pen.polygon([(-narrow, -0.92), (narrow, -0.92), (wide, edge), (-wide, edge)], ACCENT)
    pen.polygon([(-base, 0.95), *arc(0, 0.92, base, rng.uniform(0.1, 0.25), 180, 360), (base, 0.95)])


def _chair(pen: Pen, rng: np.random.Generator) -> None:
    half, seat, lean = rng.uniform(0.42, 0.58), rng.uniform(0.0, 0.18), rng.uniform(0.0, 0.2)
    leg = rng.uniform(0.09, 0.14)
    for x in (-half + leg / 2, half - leg / 2):
        pen.stroke([(x, seat), (x * 1.12, 0.95)], leg)
    pen.polygon(
        [
            (-half - 0.05, seat - 0.08),
            (half + 0.05, seat - 0.08),
            (half + 0.1, seat + 0.12),
            (-half - 0.1, seat + 0.12),
        ],
        ACCENT,
    )
    back = [(-half - lean, -0.95), (-half - lean + 0.22, -0.95), (-half + 0.2, seat), (-half - 0.02, seat)]
    pen.polygon(back)
    if rng.random() < 0.5:
        pen.stroke([(half * 0.95, seat - 0.05), (half * 0.95, seat - 0.35), (-half, seat - 0.35)], leg * 0.9)


SHAPES: Final[dict[str, Callable[[Pen, np.random.Generator], None]]] = {
    "bottle": _bottle,
    "chair": _chair,
    "handbag": _handbag,
    "hat": _hat,
    "lamp": _lamp,
    "mug": _mug,
    "shoe": _shoe,
    "t-shirt": _t_shirt,
    "trousers": _trousers,
    "watch": _watch,
}
"""Product class to the function that draws it; the keys, sorted, are the classes."""
