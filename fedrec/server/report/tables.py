"""The tables of the report page, as HTML: confusion matrix, classes, merchants, pairs of name and value.

Whatever a report holds in place of a table (null, ragged rows, other types) gives a sentence instead.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from fedrec._internal import number_format

_LARGEST_MATRIX = 40
_LONG_TABLE = 40
_SHOWN_SKIPPED = 12
_SHOWN_MISTAKES = 5


def section(report: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Give one section of a report, empty where the report has none."""
    value = report.get(name)
    return value if isinstance(value, Mapping) else {}


def items(parent: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """Give the mappings of a list in a section, empty where it has none."""
    value = parent.get(name)
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, Sequence) else []


def confusion(metrics: Mapping[str, Any]) -> str:
    """Build the heat table of ``confusion[true][predicted]``, each row tinted by its share."""
    raw = metrics.get("confusion")
    rows = [row for row in raw if isinstance(row, Sequence)] if isinstance(raw, Sequence) else []
    # A negative count can only come from a broken report; it must not break the page.
    matrix = [[max(number_format.number(cell) or 0.0, 0.0) for cell in row] for row in rows]
    size = len(matrix)
    if not size or any(len(row) != size for row in matrix):
        return '<p class="empty">No evaluation was finished.</p>'
    known = [str(item.get("label")) for item in items(metrics, "per_class")]
    labels = known if len(known) == size else [str(index) for index in range(size)]
    mistakes = _mistakes(matrix, labels)
    if size > _LARGEST_MATRIX:
        return (
            f'<p class="note">{size} classes are too many for a table here; report.json has it.</p>{mistakes}'
        )
    heads = "".join(f'<th scope="col"><span>{escape(label)}</span></th>' for label in labels)
    body = []
    for index, (label, row) in enumerate(zip(labels, matrix, strict=True)):
        cells = []
        total = sum(row)
        for column, cell in enumerate(row):
            share = cell / total if total else 0.0
            # Only the diagonal's colour is dark enough for white figures.
            css = "miss" if column != index else "hit hot" if share > 0.78 else "hit"
            # The root makes a mistake of a few per cent visible beside a diagonal near one.
            tint = share if column == index else math.sqrt(share)
            shown = f"{cell:.0f}" if cell else ""
            hover = escape(f"{label} taken for {labels[column]}: {cell:.0f} ({100 * share:.1f}%)")
            cells.append(f'<td class="{css}" style="--v:{tint:.3f}" title="{hover}">{shown}</td>')
        body.append(f'<tr><th scope="row">{escape(label)}</th>{"".join(cells)}</tr>')
    dense = " dense" if size > 14 else ""
    return (
        f'<div class="scroll"><table class="confusion{dense}"><thead><tr>'
        f'<th class="corner">true ↓ &nbsp; predicted →</th>'
        f"{heads}</tr></thead><tbody>{''.join(body)}</tbody></table></div>{mistakes}"
    )


def per_class(metrics: Mapping[str, Any]) -> str:
    """Build the table of precision, recall, F1 and support of each class."""
    rows = []
    for item in items(metrics, "per_class"):
        f1 = number_format.number(item.get("f1")) or 0.0
        bar = f'<span class="bar" style="--w:{min(max(f1, 0.0), 1.0):.3f}"></span>'
        rows.append(
            (
                escape(str(item.get("label"))),
                number_format.ratio(item.get("precision")),
                number_format.ratio(item.get("recall")),
                f"{bar}{number_format.ratio(item.get('f1'))}",
                number_format.count(item.get("support")),
            )
        )
    return _table(("Class", "Precision", "Recall", "F1", "Images"), rows, empty="No evaluation was finished.")


def merchants(privacy: Mapping[str, Any]) -> str:
    """Build the table of what each merchant spent."""
    rows = [
        (
            escape(str(item.get("merchant"))),
            number_format.count(item.get("records")),
            number_format.epsilon(item.get("epsilon")),
            number_format.epsilon(item.get("epsilon_lifetime")),
            number_format.count(item.get("rounds_charged")),
        )
        for item in items(privacy, "per_merchant")
    ]
    heads = ("Merchant", "Records", "Epsilon, this run", "Epsilon, lifetime", "Rounds charged")
    return _table(heads, rows, empty="No merchant has reported.")


def skipped(files: Sequence[Mapping[str, Any]]) -> str:
    """List the first of the files that could not be used, with their reasons."""
    if not files:
        return ""
    lines = "".join(
        f"<li><code>{escape(str(item.get('name')))}</code> "
        f"{escape(number_format.general(item.get('reason')))}</li>"
        for item in files[:_SHOWN_SKIPPED]
    )
    more = len(files) - _SHOWN_SKIPPED
    rest = f"<li>and {more:,} more, in report.json</li>" if more > 0 else ""
    return f'<h3>Skipped files</h3><ul class="skipped">{lines}{rest}</ul>'


def pairs(named: Iterable[tuple[str, str]]) -> str:
    """Build a list of names and values, both plain text."""
    lines = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in named)
    return f'<dl class="pairs">{lines}</dl>'


def _mistakes(matrix: Sequence[Sequence[float]], labels: Sequence[str]) -> str:
    wrong = [
        (cell, labels[i], labels[j])
        for i, row in enumerate(matrix)
        for j, cell in enumerate(row)
        if i != j and cell
    ]
    wrong.sort(key=lambda item: -item[0])
    if not wrong:
        return ""
    texts = (
        f"{escape(true)} taken for {escape(other)} ({cell:,.0f})"
        for cell, true, other in wrong[:_SHOWN_MISTAKES]
    )
    return f'<p class="note">Most frequent mistakes: {"; ".join(texts)}.</p>'


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, empty: str) -> str:
    """Build a table whose first column is text and whose others are figures; cells are HTML already."""
    if not rows:
        return f'<p class="empty">{escape(empty)}</p>'
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>'
        for row in rows
    )
    tall = " tall" if len(rows) > _LONG_TABLE else ""
    return (
        f'<div class="scroll{tall}"><table class="figures"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
