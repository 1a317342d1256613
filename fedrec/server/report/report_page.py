"""Lay out the content of ``report.json`` as a document.

No figure is added to the privacy claims. The report may be that of an interrupted run: values that are
missing or null are shown as a dash.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedrec._internal import number_format
from fedrec.privacy.accounting.budget_rating import USUAL_DELTA, Rating, unit_in_words
from fedrec.privacy.audit import claims
from fedrec.protocol import modes
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


def render(report: Mapping[str, Any]) -> str:
    """Render the content of ``report.json`` as a self-contained HTML page."""
    return render_html(training_document(report))


def training_document(report: Mapping[str, Any]) -> Document:
    """Lay out a report (schema ``fedrec.report/1``); any of its values may be null or absent."""
    run, metrics = tables.section(report, "run"), tables.section(report, "metrics")
    privacy, aggregation = (
        tables.section(report, "privacy"),
        tables.section(report, "secure_aggregation"),
    )
    trust = claims.trust_of(aggregation)
    total = number_format.number(tables.section(report, "data").get("records"))
    rated = claims.rating(privacy, public_total=None if total is None else int(total))
    return Document(
        title=f"fedrec report {number_format.general(run.get('id'))}",
        subtitle=_subtitle(run),
        blocks=(
            *_alarms(claims.alarms(privacy, trust)),
            *_headline(report, rated),
            Section("The guarantee", tuple(_guarantee(privacy, trust, rated))),
            *_warnings(report),
            Section("Round by round", tuple(round_charts.round_blocks(report))),
            *_party_views(report, trust, rated),
            *_evaluation(report, metrics),
            *figures_page.site_figures(report),
            Section("Merchants", (tables.merchants(privacy),)),
            Section("Cost", (tables.cost(report),)),
            Section("Settings", tuple(tables.settings(report))),
        ),
        footer=number_format.general(report.get("schema")),
    )


def _subtitle(run: Mapping[str, Any]) -> str:
    named = ("dataset", "partition", "model") if run.get("dataset") is not None else ("engine", "model")
    parts = [number_format.general(run.get(key)) for key in named]
    parts.append(f"{number_format.count(run.get('parameters'))} parameters")
    return " · ".join(parts)


def _alarms(reasons: Sequence[str]) -> tuple[Block, ...]:
    return (Alert(tuple(reasons), label="NOT PRIVATE"),) if reasons else ()


def _warnings(report: Mapping[str, Any]) -> tuple[Block, ...]:
    value = report.get("warnings")
    if not isinstance(value, Sequence) or isinstance(value, str):
        return ()
    texts = tuple(str(text) for text in value)
    return (Section("Warnings", (Bullets(texts),), tone="warn"),) if texts else ()


def _is_uncharged(privacy: Mapping[str, Any]) -> bool:
    """Test whether a report says that not one round was charged: it was stopped before its first."""
    return number_format.number(privacy.get("steps")) == 0 and bool(privacy.get("events"))


def _rounds(report: Mapping[str, Any]) -> str:
    """Return how many rounds were finished, of those planned where some are left."""
    planned = number_format.number(tables.section(report, "run").get("rounds"))
    done = len(tables.items(report, "rounds"))
    if planned is None or done == planned:
        return number_format.count(planned)
    return f"{done:,} of {number_format.count(planned)}"


def _headline(report: Mapping[str, Any], rated: Rating) -> tuple[Block, ...]:
    run, metrics, privacy, aggregation = (
        tables.section(report, name) for name in ("run", "metrics", "privacy", "secure_aggregation")
    )
    measured = number_format.number(metrics.get("accuracy")) is not None
    mode, trust = modes.find(privacy.get("mode")), claims.trust_of(aggregation)
    off = mode is not None and not mode.private
    classes = tables.items(metrics, "per_class")
    supports = [number_format.number(item.get("support")) or 0.0 for item in classes]
    basis = [f"on {metrics.get('split')}"] if metrics.get("split") else []
    interval = number_format.percent_interval(metrics.get("accuracy_interval"))
    if interval != number_format.MISSING:
        basis.append(f"95% interval for {number_format.count(sum(supports))} records: {interval}")
    if sum(supports):
        basis.append(f"largest class alone {number_format.percent(max(supports) / sum(supports))}")
    bounds = [
        "none" if off else number_format.epsilon(privacy.get(key))
        for key in ("epsilon", "epsilon_aggregation_broken")
    ]
    delta = "no guarantee" if off else f"{rated.word}; δ = {number_format.delta(privacy.get('delta'))}"
    if not off and privacy.get("delta") != USUAL_DELTA:
        at = number_format.epsilon(privacy.get("epsilon_at_1e-5"))
        delta += f"; at δ = {number_format.delta(USUAL_DELTA)}: {at}"
    broken = "the noise on one update"
    if off or mode is None or trust is None:
        broken = "no guarantee"
    elif trust.epsilon_of == "share":
        broken = f"counts already with scheme {number_format.general(aggregation.get('scheme'))}"
    elif mode.shares_noise:
        broken = "one merchant's own noise"
    if _is_uncharged(privacy):
        bounds = [number_format.MISSING] * 2
        delta = broken = "no round was charged"
    macro_f1 = number_format.ratio(metrics.get("f1_macro"))
    big = (
        *(
            (
                Figure(
                    "Accuracy", number_format.percent(metrics.get("accuracy")), "; ".join(basis), "accuracy"
                ),
                Figure("Macro F1", macro_f1, f"mean of {len(supports)} classes", "accuracy"),
            )
            if measured
            else ()
        ),
        Figure("Epsilon", bounds[0], delta, "epsilon"),
        Figure("If aggregation were broken", bounds[1], broken, "epsilon"),
    )
    scores = (
        Figure("Precision", number_format.ratio(metrics.get("precision_macro"))),
        Figure("Recall", number_format.ratio(metrics.get("recall_macro"))),
        Figure("ROC AUC", number_format.ratio(metrics.get("roc_auc_macro"))),
    )
    small = (
        Figure("Merchants", number_format.count(run.get("merchants"))),
        Figure("Rounds", _rounds(report)),
        Figure("Time in all", number_format.duration(run.get("seconds"))),
        *(scores if measured else ()),
    )
    return Figures(big), Figures(small, small=True)


def _guarantee(privacy: Mapping[str, Any], trust: TrustModel | None, rated: Rating) -> list[Block]:
    if _is_uncharged(privacy):
        count = number_format.epsilon(privacy.get("epsilon"))
        text = "No round was charged to any merchant, and nothing that depends on its photos was sent by one."
        paid = (
            f"What is charged are the noised counts that merchants declared before: epsilon {count} at "
            f"δ = {number_format.delta(privacy.get('delta'))}."
        )
        return [Paragraph(text, "lead"), *([] if count == number_format.MISSING else [Paragraph(paid)])]
    found: list[Block] = [
        Paragraph(claims.guarantee(privacy, trust), "lead"),
        Paragraph(rated.sentence),
    ]
    notes = " ".join((*_copies(privacy), *claims.caveats(privacy, trust)))
    return [*found, Paragraph(notes, "note")] if notes else found


def _copies(privacy: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a sentence on the epsilon of several copies of a photo, if the report has it."""
    found = tables.section(privacy, "epsilon_of_copies")
    told = [
        f"{number_format.epsilon(value)} for {copies}"
        for copies, value in found.items()
        if number_format.number(value) is not None
    ]
    if not told:
        return ()
    unit = unit_in_words(privacy.get("unit"))
    return (f"Epsilon of all copies of a {unit} together, where there are several: {', '.join(told)}.",)


def _party_views(report: Mapping[str, Any], trust: TrustModel | None, rated: Rating) -> tuple[Section, ...]:
    """Say what each party could see; nothing where nothing was sent."""
    privacy = tables.section(report, "privacy")
    if _is_uncharged(privacy):
        return ()
    rows = tuple(
        (
            view.party,
            view.sees,
            Tag(claims.verdict(view, rated), "good" if rated.protected and not view.exposed else "bad"),
        )
        for view in claims.party_views(privacy, trust)
    )
    columns = (Column("Party"), Column("Sees"), Column("Single updates", "verdict"))
    note = (
        "In a simulation all parties are one machine; the table says what each would see in a deployment "
        "with these settings."
    )
    told = () if tables.is_deployed(report) else (Paragraph(note, "note"),)
    return (Section("What each party could see", (Table(columns, rows, stacks=True), *told)),)


def _evaluation(report: Mapping[str, Any], metrics: Mapping[str, Any]) -> tuple[Section, ...]:
    """Show how well the model does; one sentence where nobody has measured it."""
    if number_format.number(metrics.get("accuracy")) is None and not tables.items(metrics, "per_class"):
        text = "No evaluation was finished."
        if tables.is_deployed(report):
            text = "Nothing was measured: the training file names no eval_data, photos of the operator's own."
        return (Section("Accuracy", (Paragraph(text, "note"),)),)
    return (
        Section("Confusion matrix", tuple(tables.confusion(metrics))),
        Section("Classes", (tables.per_class(metrics),)),
    )
