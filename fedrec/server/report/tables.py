"""Make the tables of a training's report: confusion matrix, classes, merchants, cost and settings.

Where a report holds something else in place of a table (null, ragged rows, other types), a sentence says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedrec._internal import number_format
from fedrec.report.bidi import isolated
from fedrec.report.document import (
    Bar,
    Block,
    Bullets,
    FactGroups,
    Facts,
    Matrix,
    Paragraph,
    Table,
    named_figures,
)
from fedrec.report.folding import folded, without_empty_columns

_LARGEST_MATRIX = 40
_SHOWN_SKIPPED = 12
_SHOWN_MISTAKES = 5
_NO_EVALUATION = "No evaluation was finished."
DEPLOYED = "deployment"
"""What the report of a deployment names as its engine."""
_RUN = (
    "id", "dataset", "partition", "model", "optimizer", "learning_rate", "local_steps", "local_learning_rate",
    "loss", "early_stopping", "engine", "workers",
)  # fmt: skip
_AGGREGATION = (
    "scheme", "threshold", "committee", "corrupt_members", "seat_risk", "min_contributors", "value_bits",
)  # fmt: skip
_GUARANTEE = ("mode", "unit", "adjacency", "duplicate_policy", "accountant", "seeded")
_NOISE = ("sample_rate", "clipping", "clip", "noise_multiplier", "steps", "class_over_noise", "colluders")


def section(report: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return one section of a report.

    Args:
        report: the report, or a section of it.
        name: the section's key.

    Returns:
        The section, empty if the report has none.
    """
    value = report.get(name)
    return value if isinstance(value, Mapping) else {}


def items(parent: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """Return the mappings in a list.

    Args:
        parent: the section that holds the list.
        name: the list's key.

    Returns:
        The mappings, empty if there is no such list.
    """
    value = parent.get(name)
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, Sequence) else []


def is_deployed(report: Mapping[str, Any]) -> bool:
    """Test whether a report is of a deployment, and not of a simulation."""
    return section(report, "run").get("engine") == DEPLOYED


def confusion(metrics: Mapping[str, Any]) -> list[Block]:
    """Lay out ``confusion[true][predicted]`` with its most frequent mistakes."""
    raw = metrics.get("confusion")
    rows = [row for row in raw if isinstance(row, Sequence)] if isinstance(raw, Sequence) else []
    # A negative count can only come from a broken report; it must not break the page.
    counts = tuple(tuple(max(number_format.number(cell) or 0.0, 0.0) for cell in row) for row in rows)
    size = len(counts)
    if not size or any(len(row) != size for row in counts):
        return [Paragraph(_NO_EVALUATION, "note")]
    known = tuple(str(item.get("label")) for item in items(metrics, "per_class"))
    labels = known if len(known) == size else tuple(map(str, range(size)))
    mistakes = _mistakes(counts, labels)
    if size > _LARGEST_MATRIX:
        text = f"{size} classes are too many for a table here; report.json has it."
        return [Paragraph(text, "note"), *mistakes]
    return [Matrix(labels, counts), *mistakes]


def per_class(metrics: Mapping[str, Any]) -> Table:
    """Lay out precision, recall, F1 and support of each class."""
    rows = tuple(
        (
            str(item.get("label")),
            number_format.ratio(item.get("precision")),
            number_format.ratio(item.get("recall")),
            Bar(number_format.ratio(item.get("f1")), number_format.number(item.get("f1")) or 0.0),
            number_format.count(item.get("support")),
        )
        for item in items(metrics, "per_class")
    )
    return Table(named_figures("Class", "Precision", "Recall", "F1", "Images"), rows, empty=_NO_EVALUATION)


def merchants(privacy: Mapping[str, Any]) -> Table:
    """Lay out what each merchant spent."""
    rows = tuple(
        (
            str(item.get("merchant")),
            number_format.count(item.get("records")),
            number_format.epsilon(item.get("epsilon")),
            number_format.epsilon(item.get("epsilon_lifetime")),
            number_format.count(item.get("rounds_charged")),
        )
        for item in items(privacy, "per_merchant")
    )
    columns = named_figures("Merchant", "Records", "Epsilon, this run", "Epsilon, lifetime", "Rounds charged")
    table = Table(columns, rows, empty="No merchant has reported.", stacks=True)
    return folded(without_empty_columns(table), noun="merchant", loose=("Records",))


def cost(report: Mapping[str, Any]) -> Facts:
    """Lay out traffic, memory and time."""
    spent, scheme, run = (section(report, name) for name in ("cost", "secure_aggregation", "run"))
    each = number_format.number(scheme.get("upload_bytes_per_parameter"))
    parameters = number_format.number(run.get("parameters"))
    upload = None if each is None or parameters is None else each * parameters
    memory = "Peak memory of the server" if is_deployed(report) else "Peak memory of the whole run"
    return Facts(
        _known(
            (
                ("Sent by all merchants, in all rounds", number_format.size(spent.get("bytes_up"))),
                ("Sent to all merchants, in all rounds", number_format.size(spent.get("bytes_down"))),
                ("Largest upload of a merchant in a round", number_format.size(upload)),
                ("The same per parameter", "" if each is None else f"{number_format.general(each)} bytes"),
                (memory, number_format.size(spent.get("peak_memory_bytes"))),
                ("Training, CPU time of all merchants", number_format.duration(spent.get("seconds_train"))),
                (
                    "Noise and encryption, CPU time of all merchants",
                    number_format.duration(scheme.get("seconds_encrypt")),
                ),
                ("Opening of sums, in all rounds", number_format.duration(scheme.get("seconds_unmask"))),
                ("Noise in the sums, as a part of the guaranteed", _noise_kept(report)),
            )
        )
    )


def _noise_kept(report: Mapping[str, Any]) -> str:
    """Say how much noise the opened sums kept, least to most; empty where no round states it."""
    kept = [number_format.number(row.get("noise_kept")) for row in items(report, "rounds")]
    known = [value for value in kept if value is not None]
    if not known:
        return ""
    least, most = (f"{value:.1%}" for value in (min(known), max(known)))
    return least if least == most else f"{least} to {most}"


def settings(report: Mapping[str, Any]) -> list[Block]:
    """Lay out the run's options, and the files that could not be used."""
    run, data, privacy, scheme = (
        section(report, name) for name in ("run", "data", "privacy", "secure_aggregation")
    )
    skipped, ignored = items(data, "skipped"), section(data, "ignored")
    left_out = None if data.get("duplicates_dropped") is None else len(skipped)
    unread = None if data.get("folders") is None else len(ignored)
    # A seed is a name, not an amount: no thousands separators.
    seed = number_format.MISSING if run.get("seed") is None else str(run.get("seed"))
    # Only a model of an installed package is identified by a hash of its code.
    code = [("Model code", str(run["model_code"]))] if run.get("model_code") is not None else []
    groups = (
        Facts(_known((*_named(run, _RUN), *code, ("Seed", seed))), title="Run"),
        Facts(
            _known(
                (
                    (
                        "Records, as declared" if is_deployed(report) else "Records",
                        number_format.count(data.get("records")),
                    ),
                    ("Skipped", number_format.count(left_out)),
                    ("Ignored", number_format.count(unread)),
                    ("Duplicates dropped", number_format.count(data.get("duplicates_dropped"))),
                )
            ),
            title="Data",
        ),
        Facts(_known((*_named(scheme, _AGGREGATION), *_witnesses(scheme))), title="Secure aggregation"),
        Facts(
            _known(
                (
                    *_named(privacy, _GUARANTEE),
                    *(
                        (f"Epsilon by {name.upper()}, a cross-check", number_format.epsilon(value))
                        for name, value in section(privacy, "cross_checks").items()
                    ),
                    *_named(privacy, _NOISE),
                )
            ),
            title="Differential privacy",
        ),
    )
    return [FactGroups(groups), *_skipped(skipped), *_account(ignored, data.get("notes"))]


def _known(pairs: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """Leave out what the reporter doesn't know."""
    return tuple(pair for pair in pairs if pair[1] not in ("", number_format.MISSING))


def _named(values: Mapping[str, Any], names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    return tuple(
        (name.replace("_", " ").capitalize(), number_format.general(values.get(name))) for name in names
    )


def _witnesses(scheme: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return the names of the witnesses on the committee; nothing where there are none."""
    names = [str(name) for name in scheme.get("witnesses") or ()]
    if not names:
        return ()
    return (("Witnesses", ", ".join(names)), *_named(scheme, ("corrupt_witnesses",)))


def _skipped(files: Sequence[Mapping[str, Any]]) -> list[Block]:
    """List the first files that could not be used, with the reasons."""
    if not files:
        return []
    lines = [
        f"{isolated(str(item.get('name')))}: {number_format.general(item.get('reason'))}"
        for item in files[:_SHOWN_SKIPPED]
    ]
    more = len(files) - _SHOWN_SKIPPED
    if more > 0:
        lines.append(f"and {more:,} more, in report.json")
    return [Bullets(tuple(lines), title="Skipped files")]


def _account(ignored: Mapping[str, Any], notes: object) -> list[Block]:
    """Say what else lay in the folder by the reason, and how names and folders were read."""
    lines = [f"{number_format.count(number)} ignored: {reason}" for reason, number in ignored.items()]
    lines += [isolated(str(note)) for note in notes] if isinstance(notes, list) else []
    return [Bullets(tuple(lines), title="The folder")] if lines else []


def _mistakes(counts: Sequence[Sequence[float]], labels: Sequence[str]) -> list[Block]:
    wrong = [
        (cell, labels[i], labels[j])
        for i, row in enumerate(counts)
        for j, cell in enumerate(row)
        if i != j and cell
    ]
    wrong.sort(key=lambda item: -item[0])
    if not wrong:
        return []
    texts = (
        f"{isolated(true)} taken for {isolated(other)} ({cell:,.0f})"
        for cell, true, other in wrong[:_SHOWN_MISTAKES]
    )
    return [Paragraph(f"Most frequent mistakes: {'; '.join(texts)}.", "note")]
