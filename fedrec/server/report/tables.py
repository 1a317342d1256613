"""Make the tables of a training's report: confusion matrix, classes, merchants, cost and settings."""

from __future__ import annotations

from collections.abc import Sequence

from fedrec._internal import number_format
from fedrec.protocol.training_report.aggregation_section import AggregationSection
from fedrec.protocol.training_report.metrics_section import MetricsSection
from fedrec.protocol.training_report.privacy_section import MerchantLine, PrivacySection
from fedrec.protocol.training_report.report import TrainingReport
from fedrec.protocol.training_report.round_line import RoundLine
from fedrec.protocol.training_report.run_section import DataSection, RunSection, SkippedFile
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

_Pair = tuple[str, object]


def confusion(metrics: MetricsSection) -> list[Block]:
    """Lay out ``confusion[true][predicted]`` with its most frequent mistakes."""
    counts, labels = metrics.confusion, tuple(line.label for line in metrics.per_class)
    if not counts:
        return [Paragraph(_NO_EVALUATION, "note")]
    mistakes = _mistakes(counts, labels)
    if len(counts) > _LARGEST_MATRIX:
        text = f"{len(counts)} classes are too many for a table here; report.json has it."
        return [Paragraph(text, "note"), *mistakes]
    return [Matrix(labels, counts), *mistakes]


def per_class(metrics: MetricsSection) -> Table:
    """Lay out precision, recall, F1 and support of each class."""
    rows = tuple(
        (
            line.label,
            number_format.ratio(line.precision),
            number_format.ratio(line.recall),
            Bar(number_format.ratio(line.f1), line.f1),
            number_format.count(line.support),
        )
        for line in metrics.per_class
    )
    return Table(named_figures("Class", "Precision", "Recall", "F1", "Images"), rows, empty=_NO_EVALUATION)


def merchants(lines: Sequence[MerchantLine]) -> Table:
    """Lay out what each merchant spent."""
    rows = tuple(
        (
            line.merchant,
            number_format.count(line.records),
            number_format.epsilon(line.epsilon),
            number_format.epsilon(line.epsilon_lifetime),
            number_format.count(line.rounds_charged),
        )
        for line in lines
    )
    columns = named_figures("Merchant", "Records", "Epsilon, this run", "Epsilon, lifetime", "Rounds charged")
    table = Table(columns, rows, empty="No merchant has reported.", stacks=True)
    return folded(without_empty_columns(table), noun="merchant", loose=("Records",))


def cost(report: TrainingReport) -> Facts:
    """Lay out traffic, memory and time."""
    spent, scheme, run = report.cost, report.secure_aggregation, report.run
    each = scheme.upload_bytes_per_parameter
    memory = "Peak memory of the server" if run.deployed else "Peak memory of the whole run"
    return Facts(
        _known(
            (
                ("Sent by all merchants, in all rounds", number_format.size(spent.bytes_up)),
                ("Sent to all merchants, in all rounds", number_format.size(spent.bytes_down)),
                ("Largest upload of a merchant in a round", number_format.size(each * run.parameters)),
                ("The same per parameter", f"{number_format.general(each)} bytes"),
                (memory, number_format.size(spent.peak_memory_bytes)),
                ("Training, CPU time of all merchants", number_format.duration(spent.seconds_train)),
                (
                    "Noise and encryption, CPU time of all merchants",
                    number_format.duration(scheme.seconds_encrypt),
                ),
                ("Opening of sums, in all rounds", number_format.duration(scheme.seconds_unmask)),
                ("Noise in the sums, as a part of the guaranteed", _noise_kept(report.rounds)),
            )
        )
    )


def _noise_kept(rounds: Sequence[RoundLine]) -> str:
    """Say how much noise the opened sums kept, least to most; empty where no round states it."""
    known = [line.noise_kept for line in rounds if line.noise_kept is not None]
    if not known:
        return ""
    least, most = (f"{value:.1%}" for value in (min(known), max(known)))
    return least if least == most else f"{least} to {most}"


def settings(report: TrainingReport) -> list[Block]:
    """Lay out the run's options, and the files that could not be used."""
    groups = (
        Facts(_run(report.run), title="Run"),
        Facts(_data(report.data, deployed=report.run.deployed), title="Data"),
        Facts(_aggregation(report.secure_aggregation), title="Secure aggregation"),
        Facts(_privacy(report.privacy), title="Differential privacy"),
    )
    return [FactGroups(groups), *_skipped(report.data.skipped), *_account(report.data)]


def _run(run: RunSection) -> tuple[tuple[str, str], ...]:
    return _shown(
        ("Id", run.id),
        ("Dataset", run.dataset),
        ("Partition", run.partition),
        ("Model", run.model),
        ("Optimizer", run.optimizer),
        ("Learning rate", run.learning_rate),
        ("Local steps", run.local_steps),
        ("Local learning rate", run.local_learning_rate),
        ("Loss", run.loss),
        ("Early stopping", run.early_stopping),
        ("Engine", run.engine),
        ("Workers", run.workers),
        # Only a model of an installed package is identified by a hash of its code.
        ("Model code", run.model_code),
        # A seed is a name, not an amount: no thousands separators.
        ("Seed", None if run.seed is None else str(run.seed)),
    )


def _data(data: DataSection, *, deployed: bool) -> tuple[tuple[str, str], ...]:
    """Lay out what became of the photos; a deployed server knows nothing but what was declared."""
    return _shown(
        ("Records, as declared" if deployed else "Records", data.records),
        ("Skipped", None if deployed else len(data.skipped)),
        ("Ignored", None if data.folders is None else sum(data.ignored.values())),
        ("Duplicates dropped", data.duplicates_dropped),
    )


def _aggregation(scheme: AggregationSection) -> tuple[tuple[str, str], ...]:
    witnesses: tuple[_Pair, ...] = ()
    if scheme.witnesses:
        witnesses = (
            ("Witnesses", ", ".join(scheme.witnesses)),
            ("Corrupt witnesses", scheme.corrupt_witnesses),
        )
    return _shown(
        ("Scheme", scheme.scheme),
        ("Threshold", scheme.threshold),
        ("Committee", scheme.committee),
        ("Corrupt members", scheme.corrupt_members),
        ("Seat risk", scheme.seat_risk),
        ("Min contributors", scheme.min_contributors),
        ("Value bits", scheme.value_bits),
        *witnesses,
    )


def _privacy(privacy: PrivacySection) -> tuple[tuple[str, str], ...]:
    checks = (
        (f"Epsilon by {name.upper()}, a cross-check", number_format.epsilon(value))
        for name, value in privacy.cross_checks.items()
    )
    return _shown(
        ("Mode", privacy.mode),
        ("Unit", privacy.unit),
        ("Adjacency", privacy.adjacency),
        ("Duplicate policy", privacy.duplicate_policy),
        ("Accountant", privacy.accountant),
        ("Seeded", privacy.seeded),
        *checks,
        ("Sample rate", privacy.sample_rate),
        ("Clipping", privacy.clipping),
        ("Clip", privacy.clip),
        ("Noise multiplier", privacy.noise_multiplier),
        ("Steps", privacy.steps),
        ("Class over noise", privacy.class_over_noise),
        ("Colluders", privacy.colluders),
    )


def _shown(*pairs: _Pair) -> tuple[tuple[str, str], ...]:
    """Format settings, without those that the reporter doesn't know."""
    return _known(tuple((name, number_format.general(value)) for name, value in pairs))


def _known(pairs: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """Leave out what the reporter doesn't know."""
    return tuple(pair for pair in pairs if pair[1] not in ("", number_format.MISSING))


def _skipped(files: Sequence[SkippedFile]) -> list[Block]:
    """List the first files that could not be used, with the reasons."""
    if not files:
        return []
    lines = [f"{isolated(item.name)}: {item.reason}" for item in files[:_SHOWN_SKIPPED]]
    more = len(files) - _SHOWN_SKIPPED
    if more > 0:
        lines.append(f"and {more:,} more, in report.json")
    return [Bullets(tuple(lines), title="Skipped files")]


def _account(data: DataSection) -> list[Block]:
    """Say what else lay in the folder by the reason, and how names and folders were read."""
    lines = [f"{number_format.count(number)} ignored: {reason}" for reason, number in data.ignored.items()]
    lines += [isolated(note) for note in data.notes]
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
