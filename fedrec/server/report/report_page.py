"""Lay out a training's report as a document.

No figure is added to the privacy claims. The report may be that of an interrupted run: values that are
missing are shown as a dash.
"""

from __future__ import annotations

from fedrec._internal import number_format
from fedrec.privacy.accounting.budget_rating import USUAL_DELTA, unit_in_words
from fedrec.privacy.audit import claims
from fedrec.protocol import modes
from fedrec.protocol.training_report.metrics_section import MetricsSection
from fedrec.protocol.training_report.privacy_section import PrivacySection
from fedrec.protocol.training_report.report import TrainingReport
from fedrec.protocol.training_report.run_section import RunSection
from fedrec.protocol.trust import TrustModel
from fedrec.report.document import (
    Alert,
    Block,
    Bullets,
    Column,
    Document,
    Figure,
    Figures,
    Paragraph,
    Section,
    Table,
    Tag,
)
from fedrec.report.html import render_html
from fedrec.server.report import figures_page, round_charts, tables


def render(report: TrainingReport) -> str:
    """Render a report as a self-contained HTML page."""
    return render_html(training_document(report))


def training_document(report: TrainingReport) -> Document:
    """Lay out a report."""
    privacy, trust = report.privacy, report.secure_aggregation.trust
    return Document(
        title=f"fedrec report {report.run.id}",
        subtitle=_subtitle(report.run),
        blocks=(
            *_alarms(privacy, trust),
            *_headline(report),
            Section("The guarantee", tuple(_guarantee(privacy, trust))),
            *_warnings(report.warnings),
            Section("Round by round", tuple(round_charts.round_blocks(report))),
            *_party_views(report),
            *_evaluation(report),
            *figures_page.site_figures(report.site_figures),
            Section("Merchants", (tables.merchants(privacy.per_merchant),)),
            Section("Cost", (tables.cost(report),)),
            Section("Settings", tuple(tables.settings(report))),
        ),
        footer=report.schema_name,
    )


def _subtitle(run: RunSection) -> str:
    named = (run.dataset, run.partition, run.model) if run.dataset is not None else (run.engine, run.model)
    parts = [*map(number_format.general, named), f"{number_format.count(run.parameters)} parameters"]
    return " · ".join(parts)


def _alarms(privacy: PrivacySection, trust: TrustModel) -> tuple[Block, ...]:
    reasons = claims.alarms(modes.get(privacy.mode), trust, seeded=privacy.seeded)
    return (Alert(reasons, label="NOT PRIVATE"),) if reasons else ()


def _warnings(texts: tuple[str, ...]) -> tuple[Block, ...]:
    return (Section("Warnings", (Bullets(texts),), tone="warn"),) if texts else ()


def _rounds(report: TrainingReport) -> str:
    """Return how many rounds were finished, of those planned where some are left."""
    planned, done = report.run.rounds, len(report.rounds)
    return f"{planned:,}" if done == planned else f"{done:,} of {planned:,}"


def _headline(report: TrainingReport) -> tuple[Block, ...]:
    run, metrics = report.run, report.metrics
    measured = metrics.accuracy is not None
    big = (*_accuracy(metrics), *_epsilons(report))
    scores = (
        Figure("Precision", number_format.ratio(metrics.precision_macro)),
        Figure("Recall", number_format.ratio(metrics.recall_macro)),
        Figure("ROC AUC", number_format.ratio(metrics.roc_auc_macro)),
    )
    small = (
        Figure("Merchants", number_format.count(run.merchants)),
        Figure("Rounds", _rounds(report)),
        Figure("Time in all", number_format.duration(run.seconds)),
        *(scores if measured else ()),
    )
    return Figures(big), Figures(small, small=True)


def _accuracy(metrics: MetricsSection) -> tuple[Figure, ...]:
    """Show accuracy and macro F1, and on what they were measured; nothing where they weren't."""
    if metrics.accuracy is None:
        return ()
    records = metrics.records
    basis = [f"on {metrics.split}"] if metrics.split else []
    interval = number_format.percent_interval(metrics.accuracy_interval)
    basis.append(f"95% interval for {records:,} records: {interval}")
    largest = max(line.support for line in metrics.per_class)
    if records:
        basis.append(f"largest class alone {number_format.percent(largest / records)}")
    return (
        Figure("Accuracy", number_format.percent(metrics.accuracy), "; ".join(basis), "accuracy"),
        Figure(
            "Macro F1",
            number_format.ratio(metrics.f1_macro),
            f"mean of {len(metrics.per_class)} classes",
            "accuracy",
        ),
    )


def _epsilons(report: TrainingReport) -> tuple[Figure, ...]:
    """Show epsilon in the server's view, and what would be left if the aggregation were broken."""
    privacy, scheme = report.privacy, report.secure_aggregation
    mode = modes.get(privacy.mode)
    if not privacy.charged:
        bounds = (number_format.MISSING, number_format.MISSING)
        delta = broken = "no round was charged"
    elif not mode.private:
        bounds = ("none", "none")
        delta = broken = "no guarantee"
    else:
        bounds = (
            number_format.epsilon(privacy.epsilon),
            number_format.epsilon(privacy.epsilon_aggregation_broken),
        )
        delta = f"{privacy.rating.word}; δ = {number_format.delta(privacy.delta)}"
        if privacy.delta != USUAL_DELTA:
            at = number_format.epsilon(privacy.epsilon_at_usual_delta)
            delta += f"; at δ = {number_format.delta(USUAL_DELTA)}: {at}"
        broken = "the noise on one update"
        if scheme.trust.epsilon_of == "share":
            broken = f"counts already with scheme {scheme.scheme}"
        elif mode.shares_noise:
            broken = "one merchant's own noise"
    return (
        Figure("Epsilon", bounds[0], delta, "epsilon"),
        Figure("If aggregation were broken", bounds[1], broken, "epsilon"),
    )


def _guarantee(privacy: PrivacySection, trust: TrustModel) -> list[Block]:
    if not privacy.charged:
        text = "No round was charged to any merchant, and nothing that depends on its photos was sent by one."
        paid = (
            "What is charged are the noised counts that merchants declared before: epsilon "
            f"{number_format.epsilon(privacy.epsilon)} at δ = {number_format.delta(privacy.delta)}."
        )
        return [Paragraph(text, "lead"), *([] if privacy.epsilon is None else [Paragraph(paid)])]
    found: list[Block] = [
        Paragraph(claims.guarantee(privacy, trust), "lead"),
        Paragraph(privacy.rating.sentence),
    ]
    notes = " ".join((*_copies(privacy), *claims.caveats(privacy, trust)))
    return [*found, Paragraph(notes, "note")] if notes else found


def _copies(privacy: PrivacySection) -> tuple[str, ...]:
    """Return a sentence on the epsilon of several copies of a photo, if there is a guarantee."""
    told = [
        f"{number_format.epsilon(value)} for {copies}"
        for copies, value in privacy.epsilon_of_copies.items()
        if value is not None
    ]
    if not told:
        return ()
    unit = unit_in_words(privacy.unit)
    return (f"Epsilon of all copies of a {unit} together, where there are several: {', '.join(told)}.",)


def _party_views(report: TrainingReport) -> tuple[Section, ...]:
    """Say what each party could see; nothing where nothing was sent."""
    privacy = report.privacy
    if not privacy.charged:
        return ()
    views = claims.party_views(
        modes.get(privacy.mode),
        report.secure_aggregation.trust,
        colluders=privacy.colluders,
        figures=privacy.has_figures,
        epsilon_broken=privacy.epsilon_aggregation_broken,
    )
    protected = privacy.rating.protected
    rows = tuple(
        (
            view.party,
            view.sees,
            Tag(
                claims.verdict(view, protected=protected),
                "good" if protected and not view.exposed else "bad",
            ),
        )
        for view in views
    )
    columns = (Column("Party"), Column("Sees"), Column("Single updates", "verdict"))
    note = (
        "In a simulation all parties are one machine; the table says what each would see in a deployment "
        "with these settings."
    )
    told = () if report.run.deployed else (Paragraph(note, "note"),)
    return (Section("What each party could see", (Table(columns, rows, stacks=True), *told)),)


def _evaluation(report: TrainingReport) -> tuple[Section, ...]:
    """Show how well the model does; one sentence where nobody has measured it."""
    if report.metrics.accuracy is None:
        text = "No evaluation was finished."
        if report.run.deployed:
            text = "Nothing was measured: the training file names no eval_data, photos of the operator's own."
        return (Section("Accuracy", (Paragraph(text, "note"),)),)
    return (
        Section("Confusion matrix", tuple(tables.confusion(report.metrics))),
        Section("Classes", (tables.per_class(report.metrics),)),
    )
