"""The report of a run as one HTML page that stands alone: inline style and SVG, no script.

The page shows what stands in ``report.json`` and adds no figure of its own to the privacy claims. It
can be rendered from the report of an interrupted run: what is missing or null shows as a dash. All
text from the report (class labels, merchants' names, warnings) is escaped, and a content security
policy in the page forbids scripts and outside resources besides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from fedrec._internal import number_format
from fedrec.privacy.accounting.rating import USUAL_DELTA, Rating, unit_in_words
from fedrec.privacy.audit import claims
from fedrec.server.report import charts, tables


def render(report: Mapping[str, Any]) -> str:
    """Render a report as a page.

    Args:
        report: the content of ``report.json`` (schema ``fedrec.report/1``); values may be null or absent.

    Returns:
        A complete HTML document.

    """
    run, metrics = tables.section(report, "run"), tables.section(report, "metrics")
    privacy, scheme = (
        tables.section(report, "privacy"),
        tables.section(report, "secure_aggregation").get("scheme"),
    )
    total = number_format.number(tables.section(report, "data").get("records"))
    rated = claims.rating(privacy, public_total=None if total is None else int(total))
    template = files("fedrec.server.report").joinpath("report.html").read_text(encoding="utf-8")
    return Template(template).substitute(
        title=escape(f"fedrec report {number_format.general(run.get('id'))}"),
        subtitle=_subtitle(run),
        banner=_banner(claims.alarms(privacy, scheme)),
        warnings=_warnings(report),
        headline=_headline(run, metrics, privacy, scheme, rated),
        guarantee=_guarantee(privacy, scheme, rated),
        rounds=_rounds(report),
        sights=_sights(privacy, scheme, rated),
        confusion=tables.confusion(metrics),
        per_class=tables.per_class(metrics),
        merchants=tables.merchants(privacy),
        cost=_cost(report),
        settings=_settings(report),
        schema=escape(number_format.general(report.get("schema"))),
    )


def _subtitle(run: Mapping[str, Any]) -> str:
    named = ("dataset", "partition", "model") if run.get("dataset") is not None else ("engine", "model")
    parts = [number_format.general(run.get(key)) for key in named]
    parts.append(f"{number_format.count(run.get('parameters'))} parameters")
    return " · ".join(escape(part) for part in parts)


def _banner(reasons: Sequence[str]) -> str:
    lines = "".join(f"<p><strong>NOT PRIVATE:</strong> {escape(reason)}</p>" for reason in reasons)
    return f'<div class="banner" role="alert">{lines}</div>' if lines else ""


def _warnings(report: Mapping[str, Any]) -> str:
    value = report.get("warnings")
    texts = (
        [str(text) for text in value] if isinstance(value, Sequence) and not isinstance(value, str) else []
    )
    if not texts:
        return ""
    lines = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f'<section class="warnings"><h2>Warnings</h2><ul>{lines}</ul></section>'


def _headline(
    run: Mapping[str, Any],
    metrics: Mapping[str, Any],
    privacy: Mapping[str, Any],
    scheme: Any,
    rated: Rating,
) -> str:
    off = privacy.get("mode") == "off"
    classes = tables.items(metrics, "per_class")
    supports = [number_format.number(item.get("support")) or 0.0 for item in classes]
    basis = [f"on {metrics.get('split')}"] if metrics.get("split") else []
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
    broken = "one merchant's own noise" if privacy.get("mode") == "distributed" else "the noise on one update"
    if off:
        broken = "no guarantee"
    elif scheme in ("none", "ckks"):
        broken = f"counts already with scheme {scheme}"
    macro_f1 = number_format.ratio(metrics.get("f1_macro"))
    big = (
        ("Accuracy", number_format.percent(metrics.get("accuracy")), "; ".join(basis), "accuracy"),
        ("Macro F1", macro_f1, f"mean of {len(supports)} classes", "accuracy"),
        ("Epsilon", bounds[0], delta, "epsilon"),
        ("If aggregation were broken", bounds[1], broken, "epsilon"),
    )
    small = (
        ("Merchants", number_format.count(run.get("merchants"))),
        ("Rounds", number_format.count(run.get("rounds"))),
        ("Time", number_format.duration(run.get("seconds"))),
        ("Precision", number_format.ratio(metrics.get("precision_macro"))),
        ("Recall", number_format.ratio(metrics.get("recall_macro"))),
        ("ROC AUC", number_format.ratio(metrics.get("roc_auc_macro"))),
    )
    cards = "".join(
        f'<div class="card {css}"><dt>{escape(name)}</dt><dd>{escape(value)}</dd><p>{escape(note)}</p></div>'
        for name, value, note, css in big
    )
    strip = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in small)
    return f'<dl class="cards">{cards}</dl><dl class="strip">{strip}</dl>'


def _guarantee(privacy: Mapping[str, Any], scheme: Any, rated: Rating) -> str:
    sentence = f"<p>{escape(claims.guarantee(privacy, scheme))}</p>"
    words = f'<p class="rating">{escape(rated.sentence)}</p>'
    notes = " ".join((*_copies(privacy), *claims.caveats(privacy, scheme)))
    return sentence + words + (f'<p class="note">{escape(notes)}</p>' if notes else "")


def _copies(privacy: Mapping[str, Any]) -> tuple[str, ...]:
    """Say what epsilon is for several copies of a photo, where the report has it."""
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


def _rounds(report: Mapping[str, Any]) -> str:
    every = tables.items(report, "rounds")
    rows = [row for row in every if number_format.number(row.get("round")) is not None]
    if not rows:
        return '<p class="empty">No round was finished.</p>'
    rows.sort(key=lambda row: float(row["round"]))
    numbers = [int(row["round"]) for row in rows]
    lost = [int(row["round"]) for row in rows if row.get("opened") is False]

    def points(key: str) -> list[tuple[int, float]]:
        values = [(int(row["round"]), number_format.number(row.get(key))) for row in rows]
        return [(at, value) for at, value in values if value is not None and value >= 0]

    accuracy = charts.line_chart(
        points("accuracy"),
        rounds=numbers,
        lost=lost,
        name="accuracy",
        css_class="accuracy",
        show=lambda value: f"{100 * value:.0f}%",
        show_last=number_format.percent,
        top=1.0,
    )
    spent = charts.line_chart(
        points("epsilon"),
        rounds=numbers,
        lost=lost,
        name="epsilon",
        css_class="epsilon",
        show=lambda value: f"{value:.3g}",
        show_last=number_format.epsilon,
    )
    planned = number_format.number(tables.section(report, "run").get("rounds"))
    summary = f"{len(rows)} rounds" if len(rows) != 1 else "1 round"
    if planned is not None and planned > len(rows):
        summary = f"{len(rows)} of {planned:.0f} rounds"
    cross = '<path class="lost" d="M2 2l8 8m0-8l-8 8"/>'
    mark = f'<svg class="key" viewBox="0 0 12 12" aria-hidden="true">{cross}</svg>'
    gone = f"{mark} {len(lost)} lost: not opened, yet charged" if lost else "none lost"
    missed = sum(number_format.number(row.get("dropouts")) or 0.0 for row in rows)
    return (
        f'<div class="pair"><figure><figcaption>Accuracy <span>on validation data</span></figcaption>'
        f"{accuracy}</figure><figure>"
        f"<figcaption>Epsilon <span>spent so far</span></figcaption>{spent}</figure></div>"
        f'<p class="note">{summary}; {gone}; {missed:,.0f} dropouts in all.</p>'
    )


def _sights(privacy: Mapping[str, Any], scheme: Any, rated: Rating) -> str:
    return "".join(
        f'<tr><th scope="row">{escape(sight.party)}</th><td>{escape(sight.sees)}</td><td>'
        f'<span class="tag {"good" if rated.protected and not sight.exposed else "bad"}">'
        f"{escape(claims.verdict(sight, rated))}</span></td></tr>"
        for sight in claims.sights(privacy, scheme)
    )


def _cost(report: Mapping[str, Any]) -> str:
    cost, scheme, run = (tables.section(report, name) for name in ("cost", "secure_aggregation", "run"))
    each, parameters = (
        number_format.number(scheme.get("upload_bytes_per_parameter")),
        number_format.number(run.get("parameters")),
    )
    upload = None if each is None or parameters is None else each * parameters
    return tables.pairs(
        (
            ("Sent by merchants", number_format.size(cost.get("bytes_up"))),
            ("Sent to merchants", number_format.size(cost.get("bytes_down"))),
            ("Upload of a merchant in a round", number_format.size(upload)),
            ("Upload per parameter", f"{number_format.general(each)} bytes"),
            ("Peak memory", number_format.size(cost.get("peak_memory_bytes"))),
            ("Training", number_format.duration(cost.get("seconds_train"))),
            ("Encryption", number_format.duration(scheme.get("seconds_encrypt"))),
            ("Unmasking", number_format.duration(scheme.get("seconds_unmask"))),
        )
    )


def _settings(report: Mapping[str, Any]) -> str:
    run, data, privacy, scheme = (
        tables.section(report, name) for name in ("run", "data", "privacy", "secure_aggregation")
    )
    skipped = tables.items(data, "skipped")
    left_out = None if data.get("duplicates_dropped") is None else len(skipped)
    groups: tuple[tuple[str, list[tuple[str, str]]], ...] = (
        (
            "Run",
            [
                (name.capitalize(), number_format.general(run.get(name)))
                for name in ("id", "dataset", "partition", "model", "engine", "workers")
            ]
            # A seed is a name, not an amount: no thousands separators.
            + [("Seed", number_format.MISSING if run.get("seed") is None else str(run.get("seed")))],
        ),
        (
            "Data",
            [
                ("Records", number_format.count(data.get("records"))),
                ("Skipped", number_format.count(left_out)),
                ("Duplicates dropped", number_format.count(data.get("duplicates_dropped"))),
            ],
        ),
        (
            "Secure aggregation",
            [
                (name.replace("_", " ").capitalize(), number_format.general(scheme.get(name)))
                for name in (
                    "scheme",
                    "threshold",
                    "committee",
                    "corrupt_members",
                    "seat_risk",
                    "min_contributors",
                    "value_bits",
                )
            ],
        ),
        (
            "Differential privacy",
            [
                *(
                    (name.replace("_", " ").capitalize(), number_format.general(privacy.get(name)))
                    for name in ("mode", "unit", "adjacency", "duplicate_policy", "accountant", "seeded")
                ),
                ("Epsilon by RDP, a cross-check", number_format.epsilon(privacy.get("epsilon_rdp"))),
                *(
                    (name.replace("_", " ").capitalize(), number_format.general(privacy.get(name)))
                    for name in (
                        "sample_rate",
                        "clip",
                        "noise_multiplier",
                        "steps",
                        "colluders",
                        "min_contributors",
                    )
                ),
            ],
        ),
    )
    blocks = "".join(f"<div><h3>{escape(name)}</h3>{tables.pairs(pairs)}</div>" for name, pairs in groups)
    return f'<div class="groups">{blocks}</div>{tables.skipped(skipped)}'
