"""Documents as data: what a page says, apart from how HTML and PDF lay it out.

Every text is plain. Whoever builds a document escapes nothing and hands over no markup: the renderers do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fedrec.report.charts import Chart

Tone = Literal["plain", "good", "warn", "bad"]
Key = tuple[tuple[str, Literal["blue", "violet", "orange", "limit", "lost"]], ...]
"""What a chart's colours and marks mean: (words, what is drawn so)."""


@dataclass(frozen=True)
class Tag:
    """A verdict of a few words on a coloured ground."""

    text: str
    tone: Tone = "plain"


@dataclass(frozen=True)
class Bar:
    """A figure with a bar beside it; ``share`` lies in [0, 1]."""

    text: str
    share: float


@dataclass(frozen=True)
class Named:
    """A name with a quieter note below it."""

    name: str
    note: str = ""
    tone: Tone = "plain"


@dataclass(frozen=True)
class Code:
    """A key, a hash or a version: set in fixed width, may break anywhere."""

    text: str


@dataclass(frozen=True)
class Pictures:
    """Small pictures side by side, PNG files each; ``alt`` says what they show."""

    images: tuple[bytes, ...]
    alt: str
    large: bool = False


Cell = str | Tag | Bar | Named | Code | Pictures


@dataclass(frozen=True)
class Paragraph:
    """A paragraph: ``lead`` is what the rest of a section explains, ``note`` is a quieter remark."""

    text: str
    kind: Literal["plain", "lead", "note"] = "plain"


@dataclass(frozen=True)
class Alert:
    """Sentences that must not be missed, or a verdict that stands out; ``label`` opens each in bold."""

    texts: tuple[str, ...]
    tone: Literal["good", "warn", "bad"] = "bad"
    label: str = ""


@dataclass(frozen=True)
class Bullets:
    """A list of sentences, with a small title where one is given."""

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
    """A column's title; figures align to the right, a ``verdict`` takes no more room than it needs."""

    title: str
    kind: Literal["text", "number", "verdict"] = "text"


def named_figures(first: str, *others: str) -> tuple[Column, ...]:
    """Return the columns of a table whose first column names a row and whose others are figures."""
    return (Column(first), *(Column(title, "number") for title in others))


@dataclass(frozen=True)
class Table:
    """Rows below column titles; the first column names the row. ``empty`` is said where there is no row.

    ``stacks`` puts the cells of a row below each other on a narrow screen: for rows of sentences.
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
    """A confusion matrix: ``counts[true][predicted]``, shown with each row tinted by its shares."""

    labels: tuple[str, ...]
    counts: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Plot:
    """A chart below its name; ``note`` stands beside the name, ``value`` at the far end of that line.

    ``key`` names what is drawn, by the class of its colour.
    """

    chart: Chart
    name: str
    note: str = ""
    value: str = ""
    key: Key = ()


@dataclass(frozen=True)
class Plots:
    """Charts side by side; the small ones are many, one for each merchant, with one ``key`` for all."""

    items: tuple[Plot, ...]
    caption: str = ""
    small: bool = False
    key: Key = ()


@dataclass(frozen=True)
class Section:
    """A part of a page with a title of its own."""

    title: str
    blocks: tuple[Block, ...]
    tone: Literal["plain", "warn"] = "plain"


Block = Paragraph | Alert | Bullets | Figures | Facts | FactGroups | Table | Matrix | Plots | Section


@dataclass(frozen=True)
class Document:
    """A whole page: ``subtitle`` below its title, ``footer`` at its end."""

    title: str
    blocks: tuple[Block, ...]
    subtitle: str = ""
    footer: str = ""
