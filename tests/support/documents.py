"""A document with every kind of block and cell."""

from __future__ import annotations

import base64
from dataclasses import replace

from fedrec.report.charts import Bars, Chart, Cross, Line, Tick, round_axis, y_axis
from fedrec.report.document import (
    Alert,
    Bar,
    Bullets,
    Code,
    Column,
    Document,
    FactGroups,
    Facts,
    Figure,
    Figures,
    Matrix,
    Named,
    Paragraph,
    Pictures,
    Plot,
    Plots,
    Section,
    Table,
    Tag,
)

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)

HOSTILE = "</style><script>alert('\"&<b>')</script> {{ 7 * 7 }} {% raw %} #let x = 1 \\u4e16"

CHART = Chart(
    describes="epsilon over rounds",
    x_range=(0, 4),
    x_ticks=round_axis(0, 4),
    y_ticks=y_axis(8.0),
    lines=(Line(((0, 1), (2, 4), (4, 8)), "violet", filled=True),),
    bars=(Bars(((1, 0, 2), (2, 2, 4)), width=0.5, colour="orange"),),
    crosses=(Cross(3, "round 3 was lost"),),
    limit=6.0,
    x_title="round",
    end_text="8.00",
)


def whole(text: str) -> Document:
    """A document with every kind of block and cell, and one text wherever a text may stand."""
    chart = replace(
        CHART,
        describes=text,
        x_title=text,
        end_text=text,
        crosses=(Cross(3, text),),
        x_ticks=(Tick(0, text),),
    )
    columns = (Column(text), Column(text, "number"), Column(text, "verdict"))
    rows = (
        (Named(text, text), Bar(text, 0.5), Tag(text, "bad")),
        (Code(text), text, Pictures((PIXEL,), text)),
    )
    return Document(
        title=text,
        subtitle=text,
        footer=text,
        blocks=(
            Alert((text, text), "warn", label=text),
            Figures((Figure(text, text, text, "epsilon"),)),
            Figures((Figure(text, text),), small=True),
            Section(
                text,
                (
                    Paragraph(text, "lead"),
                    Bullets((text, text), title=text),
                    Facts(((text, text),), title=text),
                    FactGroups((Facts(((text, text),), title=text),)),
                    Table(columns, rows),
                    Table(columns, (), empty=text),
                    Matrix((text, text), ((3.0, 1.0), (0.0, 0.0))),
                    Plots((Plot(chart, text, text, text, ((text, "violet"),)),), caption=text),
                    Plots((Plot(replace(chart, small=True), text),), small=True, key=((text, "limit"),)),
                ),
                tone="warn",
            ),
        ),
    )
