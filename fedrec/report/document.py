"""Documents as data: what a page says, independent of its layout as HTML or PDF.

Every text is plain. Code that builds a document escapes nothing and passes no markup; the renderers escape.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fedrec.report.charts import Chart

Tone = Literal["plain", "good", "warn", "bad"]
Key = tuple[tuple[str, Literal["blue", "violet", "orange", "limit", "lost"]], ...]
"""A chart's legend: (words, the colour or mark that they explain)."""


@dataclass(frozen=True)
class Tag:
    """A short verdict on a coloured background."""

    text: str
    tone: Tone = "plain"


@dataclass(frozen=True)
class Bar:
    """A figure with a bar beside it; ``share`` is in [0, 1]."""

    text: str
    share: float


@dataclass(frozen=True)
class Named:
    """A name with a less prominent note below it."""

    name: str
    note: str = ""
    tone: Tone = "plain"


@dataclass(frozen=True)
class Code:
    """A key, a hash or a version: set in a fixed-width font, may break anywhere."""

    text: str


@dataclass(frozen=True)
class Pictures:
    """Small pictures side by side, as PNG files; ``alt`` describes them."""

    images: tuple[bytes, ...]
    alt: str
    large: bool = False


Cell = str | Tag | Bar | Named | Code | Pictures


@dataclass(frozen=True)
class Paragraph:
    """A paragraph: ``lead`` is the main statement of a section, ``note`` a less prominent remark."""

    text: str
    kind: Literal["plain", "lead", "note"] = "plain"


@dataclass(frozen=True)
class Alert:
    """Sentences that must not be missed, or a prominent verdict; ``label`` begins each in bold."""

    texts: tuple[str, ...]
    tone: Literal["good", "warn", "bad"] = "bad"
    label: str = ""


@dataclass(frozen=True)
class Bullets:
    """A list of sentences, with an optional small title."""

    items: tuple[str, ...]
    title: str = ""


@dataclass(frozen=True)
class Figure:
    """A headline figure with its name above and a note below."""

    name: str
    value: str
    note: str = ""
    tone: Literal["plain", "accuracy", "epsilon", "good", "bad"] = "plain"


@dataclass(frozen=True)
class Figures:
    """Headline figures side by side; ``small`` ones make a strip without notes."""

    items: tuple[Figure, ...]
    small: bool = False


@dataclass(frozen=True)
class Facts:
    """Names and their values."""

    pairs: tuple[tuple[str, str], ...]
    title: str = ""


@dataclass(frozen=True)
class FactGroups:
    """Several lists of names and values, in columns where there is room."""

    groups: tuple[Facts, ...]


@dataclass(frozen=True)
class Column:
    """A column's title and kind.

    A ``number`` aligns to the right; a ``verdict`` takes as little room as possible.
    """

    title: str
    kind: Literal["text", "number", "verdict"] = "text"


def named_figures(first: str, *others: str) -> tuple[Column, ...]:
    """Return the columns of a table whose first column names the row and whose other columns are figures.

    Args:
        first: title of the first column.
        *others: titles of the other columns.

    Returns:
        The columns.
    """
    return (Column(first), *(Column(title, "number") for title in others))


@dataclass(frozen=True)
class Table:
    """Rows below column titles; the first column names the row.

    Attributes:
        columns: the columns.
        rows: the rows, one cell per column.
        empty: the text shown if there are no rows.
        stacks: whether a row's cells are stacked on a narrow screen: for rows of sentences.
    """

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    empty: str = ""
    stacks: bool = False

    def __post_init__(self) -> None:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError("a row of a table has other cells than the table has columns")


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix ``counts[true][predicted]``; each cell is tinted by its share of the row."""

    labels: tuple[str, ...]
    counts: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Plot:
    """A chart below its name.

    Attributes:
        chart: the chart.
        name: the chart's name.
        note: text beside the name.
        value: text at the far end of that line.
        key: the legend: what is drawn in each colour.
    """

    chart: Chart
    name: str
    note: str = ""
    value: str = ""
    key: Key = ()


@dataclass(frozen=True)
class Plots:
    """Charts side by side; with ``small`` they are many, such as one per merchant, and share one ``key``."""

    items: tuple[Plot, ...]
    caption: str = ""
    small: bool = False
    key: Key = ()


@dataclass(frozen=True)
class Section:
    """A part of a page with its own title."""

    title: str
    blocks: tuple[Block, ...]
    tone: Literal["plain", "warn"] = "plain"


Block = Paragraph | Alert | Bullets | Figures | Facts | FactGroups | Table | Matrix | Plots | Section


@dataclass(frozen=True)
class Document:
    """A whole page, with ``subtitle`` below its title and ``footer`` at its end."""

    title: str
    blocks: tuple[Block, ...]
    subtitle: str = ""
    footer: str = ""
