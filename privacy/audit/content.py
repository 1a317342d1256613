"""What an audit's pages say, as blocks that the HTML and the PDF lay out alike."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SHOWN_REFUSALS = 50


@dataclass(frozen=True)
class Heading:
    """A section's title."""

    text: str


@dataclass(frozen=True)
class Text:
    """A paragraph; ``strong`` for the one that everything else explains, ``alarm`` for one that warns."""

    text: str
    strong: bool = False
    alarm: bool = False


@dataclass(frozen=True)
class Points:
    """A list of sentences."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """Rows below a row of column titles; the first column is words, the others are figures."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Chart:
    """Lines over a merchant's charges in order: series by name, of equal right to the page's width."""

    title: str
    series: Mapping[str, tuple[float, ...]]


Block = Heading | Text | Points | Table | Chart


def blocks(bundle: Mapping[str, Any]) -> tuple[Block, ...]:
    """Return a bundle's pages, top to bottom; all figures are the bundle's own."""
    body = bundle["body"]
    merchants = body["merchants"]
    plans = [json.loads(text) for text in body["plans"]]
    return (
        *_guarantee(merchants, plans),
        *_spent(merchants, body["attachments"]),
        *_over_time(merchants),
        *_by_training(merchants, plans),
        *_sights(plans),
        *_refusals(body["refusals"]),
        *_attached(body["attachments"]),
        Heading("What is claimed"),
        Points(tuple(body["statements"]["claims"])),
        Heading("What is assumed"),
        Points(tuple(body["statements"]["assumptions"])),
        Heading("What is not covered"),
        Points(tuple(body["statements"]["exclusions"])),
        Heading("How to recheck this"),
        Text(
            "Run 'fedrec audit verify audit.json', or copy verify.py out of the source and run it "
            "anywhere: it "
            "imports nothing of fedrec. It recomputes every figure here from the raw history. It proves that "
            "the record is consistent, not that a merchant ran what it wrote down."
        ),
        Text(f"Signed by {bundle['signer']} at {body['created_at']}."),
    )


def figure(value: float | None) -> str:
    """Return an epsilon for people; None has no bound."""
    return "no bound" if value is None else f"{value:.2f}"


def small(value: float) -> str:
    """Return a delta for people."""
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa} x 10^{int(exponent)}"


def _last(merchant: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(merchant["entries"][-1]["payload"])
    return found


def _guarantee(merchants: Sequence[Any], plans: Sequence[Any]) -> list[Block]:
    charged = [merchant for merchant in merchants if merchant["entries"]]
    if not charged:
        return [Heading("The guarantee"), Text("Nothing was charged: nothing was given away.", strong=True)]
    worst = max(charged, key=lambda m: _infinite(m["summary"]["epsilon_rdp"]))
    summary, charge = worst["summary"], _last(worst)["charge"]
    unit = "product with all its photos" if charge["unit"] == "product" else "photo"
    found: list[Block] = [Heading("The guarantee")]
    if summary["epsilon_rdp"] is None:
        found.append(
            Text(
                "There is NO privacy guarantee: at least one charge was made without noise.",
                strong=True,
                alarm=True,
            )
        )
    else:
        found.append(
            Text(
                f"Whatever anybody concludes from all that the server saw becomes at most "
                f"{_times(summary['epsilon_rdp'])} as likely, or as unlikely, when any one {unit} is added "
                f"to or removed from a merchant, give or take a chance of {small(summary['delta'])}.",
                strong=True,
            )
        )
    colluders = max((plan["colluders"] for plan in plans), default=charge["colluders"])
    others = "1 merchant sides" if colluders == 1 else f"{colluders} merchants side"
    found.append(
        Text(
            f"In formal terms: ({figure(summary['epsilon_rdp'])}, {summary['delta']:.3g})-differential "
            f"privacy under {charge['adjacency']} adjacency of one {charge['unit']}, over everything "
            f"charged, for the merchant that spent most ({worst['merchant']}), against a server that up to "
            f"{others} with; proved by integer-order Renyi accounting. By privacy loss distributions, an "
            f"approximation for sampled discrete Gaussian noise, epsilon is "
            f"{figure(summary['epsilon_pld'])}. If aggregation were broken and somebody saw each upload "
            f"alone, epsilon would be {figure(summary['epsilon_aggregation_broken'])}."
        )
    )
    return found


def _times(epsilon: float) -> str:
    """How much likelier an epsilon allows a conclusion to become."""
    return (
        f"{math.exp(epsilon):,.3g} times"
        if epsilon < 6
        else (f"{math.exp(epsilon):,.0f} times" if epsilon < 14 else "over a million times")
    )


def _infinite(value: float | None) -> float:
    return math.inf if value is None else value


def _spent(merchants: Sequence[Any], attachments: Mapping[str, Any]) -> list[Block]:
    rows = []
    for merchant in merchants:
        summary, cap = merchant["summary"], _cap(merchant)
        spent = summary["epsilon_rdp"] if summary["entries"] else 0.0
        left = "no cap" if cap is None else "none" if spent is None else f"{max(0.0, cap - spent):.2f}"
        rows.append(
            (
                merchant["merchant"],
                str(summary["entries"]),
                figure(summary["epsilon_pld"] if summary["entries"] else 0.0),
                figure(spent),
                left,
                figure(summary["epsilon_aggregation_broken"] if summary["entries"] else 0.0),
                f"{len(merchant['receipts'])}",
            )
        )
    columns = ("merchant", "charges", "epsilon (PLD)", "proved (RDP)", "left", "if broken", "receipts")
    return [
        Heading("Spent and left, by merchant"),
        Text(
            "Merchants hold different photos, so their budgets don't add up: each row is the whole loss "
            "of that "
            "merchant's photos, over all trainings in its ledger. 'Left' is what the merchant's own "
            "lifetime cap "
            "allows still, held against the proved figure. 'If broken' is what would be left of the "
            "guarantee "
            "if every upload could be seen alone."
        ),
        Table(columns, tuple(rows)),
    ]


def _cap(merchant: Mapping[str, Any]) -> float | None:
    """The lifetime cap of the newest policy in the bundle."""
    caps = [json.loads(text)["lifetime_epsilon"] for text in merchant["policies"]]
    return caps[-1] if caps else None


def _over_time(merchants: Sequence[Any]) -> list[Block]:
    series: dict[str, tuple[float, ...]] = {}
    for merchant in merchants:
        values = tuple(json.loads(row["payload"])["epsilons"]["rdp_after"] for row in merchant["entries"])
        if values and all(value is not None for value in values):
            series[merchant["merchant"]] = values
    return [Chart("Proved lifetime epsilon, by charge", series)] if series else []


def _by_training(merchants: Sequence[Any], plans: Sequence[Any]) -> list[Block]:
    rounds: dict[str, list[dict[str, Any]]] = {}
    for merchant in merchants:
        for row in merchant["entries"]:
            entry = json.loads(row["payload"])
            rounds.setdefault(entry["charge"]["training_id"], []).append(entry)
    rows = []
    for training_id, entries in rounds.items():
        charge = entries[0]["charge"]
        rows.append(
            (
                training_id[:12],
                charge["model"],
                charge["mode"],
                str(len({entry["charge"]["round_number"] for entry in entries})),
                f"{charge['sample_rate']:g}",
                f"{charge['guaranteed_noise_multiplier']:.3f}",
                f"{charge['min_contributors']} less {charge['colluders']}",
                entries[0]["created_at"][:10],
            )
        )
    columns = ("training", "model", "mode", "rounds", "rate", "noise", "contributors", "since")
    return [Heading("By training"), Table(columns, tuple(rows))] if rows else []


def _sights(plans: Sequence[Any]) -> list[Block]:
    schemes = sorted({plan["scheme"] for plan in plans})
    rows = []
    for scheme in schemes:
        server = {
            "kahe": "who took part, when, sizes; the noisy sum of each opened round",
            "ckks": "the noisy sums; any single update it chooses, as soon as one merchant sides with it, "
            "whether that one holds the key or not",
        }.get(scheme, "every single update, in clear")
        rows.append((f"the server ({scheme})", server))
        if scheme == "ckks":
            holder = "every ciphertext, of which it is to open the sum; a dishonest one opens any of them"
            rows.append(("the merchant that holds the key (ckks)", holder))
        rows += [
            ("a merchant", "the model of each round; nothing of another's update"),
            ("the network", "TLS traffic"),
        ]
    if not rows:
        return []
    return [Heading("What each party could see"), Table(("party", "sees"), tuple(dict.fromkeys(rows)))]


def _refusals(refusals: Mapping[str, str]) -> list[Block]:
    if not refusals:
        return [Heading("Refusals"), Text("None was recorded.")]
    shown = [f"{who}: {why}" for who, why in list(refusals.items())[:SHOWN_REFUSALS]]
    if len(refusals) > SHOWN_REFUSALS:
        shown.append(f"and {len(refusals) - SHOWN_REFUSALS} more, all of them in audit.json")
    return [Heading("Refusals"), Points(tuple(shown))]


def _attached(attachments: Mapping[str, Any]) -> list[Block]:
    found: list[Block] = []
    for name, title in (("empirical", "Empirical audit"), ("membership", "Membership inference")):
        if name in attachments:
            figures = attachments[name].items()
            rows = tuple(
                (key.replace("_", " "), f"{value:.4g}" if isinstance(value, float) else str(value))
                for key, value in figures
                if isinstance(value, (str, int, float)) and key != "schema"
            )
            found += [Heading(title), Table(("figure", "value"), rows)]
        else:
            found += [Heading(title), Text("Not part of this bundle.")]
    return found
