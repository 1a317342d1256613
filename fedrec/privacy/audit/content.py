"""What an audit's pages say, as blocks that the HTML and the PDF lay out alike."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedrec._internal import number_format
from fedrec.privacy.accounting.copies import SHOWN, epsilon_of_copies
from fedrec.privacy.accounting.entries import finite
from fedrec.privacy.accounting.events import MIN_DELTA, Event
from fedrec.privacy.accounting.pld import epsilon_pld
from fedrec.privacy.accounting.rating import USUAL_DELTA, Rating, rate, unit_in_words
from fedrec.privacy.audit import claims
from fedrec.privacy.audit.attacks import attack_blocks
from fedrec.privacy.audit.blocks import Block, Heading, Points, Table, Text
from fedrec.privacy.audit.timeline import timeline
from fedrec.protocol import modes
from fedrec.protocol.modes import ModeSpec
from fedrec.protocol.schema import sha256_hex
from fedrec.protocol.trust import TrustModel

SHOWN_REFUSALS, SHOWN_PLACES, SHOWN_WARNINGS = 30, 3, 20
NO_BOUND = "no bound"

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class _Ledger:
    """A merchant's part of a bundle, with the entries that cost something parsed."""

    name: str
    key: str
    summary: Mapping[str, Any]
    costs: tuple[Entry, ...]
    policies: Mapping[str, Mapping[str, Any]]
    receipts: int

    @classmethod
    def read(cls, merchant: Mapping[str, Any]) -> _Ledger:
        return cls(
            name=merchant["merchant"],
            key=merchant["public_key"],
            summary=merchant["summary"],
            costs=tuple(
                entry
                for row in merchant["entries"]
                if (entry := json.loads(row["payload"]))["kind"] != "answer"
            ),
            policies={sha256_hex(text.encode()): json.loads(text) for text in merchant["policies"]},
            receipts=len(merchant["receipts"]),
        )

    @property
    def charges(self) -> tuple[Entry, ...]:
        """The entries that are rounds' charges."""
        return tuple(entry for entry in self.costs if entry["kind"] == "charge")

    @property
    def last(self) -> Mapping[str, Any]:
        """What was charged last, a round or a count."""
        found: Mapping[str, Any] = self.costs[-1][self.costs[-1]["kind"]]
        return found

    @property
    def policy_hash(self) -> str:
        """The policy that the last charge was made under."""
        return str(self.last["policy_hash"])

    @property
    def cap(self) -> float | None:
        """The lifetime cap of that policy, if that is here."""
        rules = self.policies.get(self.policy_hash)
        found = None if rules is None else rules["lifetime_epsilon"]
        return None if found is None else float(found)


def blocks(body: Mapping[str, Any], *, signer: str) -> tuple[Block, ...]:
    """Return the pages of a bundle's body, top to bottom; ``signer`` is the key that will sign it."""
    ledgers = [_Ledger.read(merchant) for merchant in body["merchants"]]
    plans = {sha256_hex(text.encode()): json.loads(text) for text in body["plans"]}
    said = body["statements"]
    return (
        *_guarantee(ledgers, plans),
        *_spent(ledgers),
        *_over_time(ledgers),
        *_by_training(ledgers, plans),
        *_sights(plans, ledgers),
        Heading("Threat model"),
        Points(tuple(said["threat_model"])),
        *_refusals(body["refusals"]),
        *_warnings(body["attachments"].get("report")),
        *attack_blocks(body["attachments"]),
        Heading("What is claimed"),
        Points(tuple(said["claims"])),
        Heading("What is assumed"),
        Points(tuple(said["assumptions"])),
        Heading("What is not covered"),
        Points(tuple(said["exclusions"])),
        *_software(body["software"], ledgers),
        *_keys(body, ledgers, signer=signer),
    )


def epsilon(value: float | None) -> str:
    """Return an epsilon for people, rounded up; None has no bound."""
    return NO_BOUND if value is None else number_format.epsilon(value)


def _infinite(value: float | None) -> float:
    return math.inf if value is None else value


def _guarantee(ledgers: Sequence[_Ledger], plans: Mapping[str, Any]) -> list[Block]:
    found: list[Block] = [Heading("The guarantee")]
    charges = [entry["charge"] for ledger in ledgers for entry in ledger.charges]
    seeded = [ledger.name for ledger in ledgers if ledger.summary["seeded"]]
    worst = max(ledgers, key=lambda ledger: _infinite(ledger.summary["training_epsilon"]))
    last = worst.last
    none = any(ledger.summary[name] is None for ledger in ledgers for name in ("training_epsilon", "spent"))
    if not charges:
        text = "No round was charged: beside the noised count of units that each declared, nothing was given."
        found.append(Text(text, strong=True))
    if none:
        bare = any(charge["guaranteed_noise_multiplier"] == 0 for charge in charges)
        why = "at least one charge was made without noise" if bare else "rounding has used up the whole delta"
        found.append(Text(f"There is NO privacy guarantee: {why}.", strong=True, alarm=True))
    if seeded:
        found.append(
            Text(
                f"There is NO privacy guarantee: noise and sampling of {', '.join(seeded)} came from a seed; "
                "whoever has it can take the noise away again. The figures below are those that unseeded "
                "noise would have had.",
                strong=True,
                alarm=True,
            )
        )
    for training_id, plan in plans.items():
        exposed = claims.exposure(claims.trust_of(plan))
        if exposed is not None:
            text = f"NOT ENCRYPTED: in training {training_id[:12]}, {exposed}."
            found.append(Text(text, strong=True, alarm=True))
    if none:
        return found
    unit = unit_in_words(last["unit"])
    given = "Without a seed these settings would give: " if seeded else ""
    if charges:
        found += _headline(worst, plans, unit=unit, given=given)
    most = max(ledgers, key=lambda ledger: _infinite(ledger.summary["spent"]))
    rated = rate(most.summary["spent"], delta=most.summary["delta"], unit=unit)
    found.append(
        Text(
            "Over a lifetime, all trainings and counts together: epsilon "
            f"{epsilon(most.summary['spent'])} at delta {number_format.delta(most.summary['delta'])} "
            "for the merchant that spent most "
            f"({most.name}), as its lifetime cap counts it, by a filter that holds for a server which "
            f"chooses each training after seeing the last one's results. {rated.sentence}",
            alarm=not rated.protected,
        )
    )
    colluders = max((charge["colluders"] for charge in charges), default=0)
    against = "a server that no merchant sides with"
    if any(mode is not None and mode.shares_noise for mode in map(_mode, charges)):
        others = "1 merchant sides" if colluders == 1 else f"{colluders} merchants side"
        against = f"a server that up to {others} with"
    found.append(
        Text(
            f"In formal terms: ({epsilon(most.summary['spent'])}, "
            f"{number_format.delta(most.summary['delta'])})-differential privacy under add-or-remove "
            f"adjacency of one {last['unit']}, over everything that was charged, against {against}. If "
            f"aggregation were broken and somebody saw each upload alone, epsilon would be "
            f"{epsilon(most.summary['spent_aggregation_broken'])} by the same rule."
        )
    )
    return found


def _headline(worst: _Ledger, plans: Mapping[str, Any], *, unit: str, given: str) -> list[Block]:
    """State the proved epsilon of the training that cost most, in words and for copies."""
    summary = worst.summary
    mine: dict[str, list[Entry]] = {}
    for entry in worst.charges:
        mine.setdefault(entry["charge"]["training_id"], []).append(entry)
    training_id, entries = max(
        mine.items(), key=lambda item: _infinite(item[1][-1]["epsilons"]["own_epsilon"])
    )
    charge, plan = entries[0]["charge"], plans.get(training_id)
    steps, delta = sum(entry["charge"]["steps"] for entry in entries), charge["delta"]
    events = [Event(charge["sample_rate"], charge["guaranteed_noise_multiplier"], steps)]
    betas = steps * charge["beta"]
    rated = rate(
        summary["training_epsilon"],
        delta=delta,
        unit=unit,
        public_total=None if plan is None else plan["records_total"],
    )
    copies = ", ".join(
        f"{epsilon(finite(epsilon_of_copies(events, copies=k, delta=delta, betas=betas)))} for {k}"
        for k in SHOWN
    )
    usual = ""
    if delta != USUAL_DELTA:
        left = USUAL_DELTA - betas
        at = finite(epsilon_pld(events, delta=left)) if left >= MIN_DELTA else None
        usual = f" (at delta {number_format.delta(USUAL_DELTA)}: {epsilon(at)})"
    return [
        Text(given + rated.sentence, strong=True, alarm=not rated.protected),
        Text(
            f"That is the training that cost most, {training_id[:12]} at {worst.name}: epsilon "
            f"{epsilon(summary['training_epsilon'])} at delta {number_format.delta(delta)}{usual}, proved by "
            f"privacy loss distributions. Where there are several copies of a {unit}, epsilon of all of them "
            f"together is {copies}."
        ),
    ]


def _spent(ledgers: Sequence[_Ledger]) -> list[Block]:
    rows = []
    for ledger in ledgers:
        summary = ledger.summary
        rows.append(
            (
                ledger.name,
                str(summary["charges"]),
                str(summary["size"]),
                epsilon(summary["training_epsilon"]),
                epsilon(summary["spent"]),
                rate(summary["spent"], delta=summary["delta"]).word,
                _left(ledger, summary["spent"]),
                epsilon(summary["spent_aggregation_broken"]),
                number_format.delta(summary["delta"]),
                str(ledger.receipts),
            )
        )
    columns = (
        "merchant", "charges", "size", "training", "spent", "in words", "left", "if broken", "delta",
        "receipts",
    )  # fmt: skip
    return [
        Heading("Spent and left, by merchant"),
        Text(
            "Merchants hold different photos, so their budgets don't add up: each row is the whole loss of "
            "that merchant's photos, over all trainings in its ledger and the noised count of units that it "
            "declared, 'size'. 'Training' is the largest epsilon of one training by itself, 'spent' what the "
            "lifetime cap counts for all of them at 'delta'. 'Left' is what the cap allows still, of the "
            "policy that the merchant's last charge was made under. 'If broken' is what would be spent "
            "if every upload could be seen alone."
        ),
        Table(columns, tuple(rows)),
    ]


def _left(ledger: _Ledger, spent: float | None) -> str:
    if ledger.policy_hash not in ledger.policies:
        return "policy not here"
    if ledger.cap is None:
        return "no cap"
    if spent is None:
        return "none"
    left = ledger.cap - spent
    return f"overrun by {number_format.epsilon(-left)}" if left < 0 else f"{math.floor(left * 100) / 100:.2f}"


def _over_time(ledgers: Sequence[_Ledger]) -> list[Block]:
    return [
        Heading("Over time"),
        timeline(
            {ledger.name: ledger.costs for ledger in ledgers},
            {ledger.name: ledger.cap for ledger in ledgers},
        ),
    ]


def _by_training(ledgers: Sequence[_Ledger], plans: Mapping[str, Any]) -> list[Block]:
    charges: dict[str, dict[str, list[Entry]]] = {}
    for ledger in ledgers:
        for entry in ledger.charges:
            charges.setdefault(entry["charge"]["training_id"], {}).setdefault(ledger.name, []).append(entry)
    rows = []
    for training_id, by_merchant in charges.items():
        entries = [entry for mine in by_merchant.values() for entry in mine]
        charge, plan = entries[0]["charge"], plans.get(training_id)
        rounds = {entry["charge"]["round_number"] for entry in entries}
        rows.append(
            (
                training_id[:12],
                charge["model"],
                f"{charge['mode']}, {plan['scheme'] if plan else 'plan not here'}",
                f"{len(rounds)}" + (f" of {plan['rounds']}" if plan else ""),
                str(len(by_merchant)),
                number_format.general(charge["sample_rate"]),
                f"{charge['guaranteed_noise_multiplier']:.3f}",
                epsilon(_largest([mine[-1]["epsilons"]["own_epsilon"] for mine in by_merchant.values()])),
                min(entry["created_at"] for entry in entries)[:10],
            )
        )
    columns = ("training", "model", "mode", "rounds", "merchants", "rate", "noise", "epsilon", "since")
    note = (
        "Epsilon of each training by itself, proved by PLD, at its own delta: the largest of its merchants. "
        "Those of several trainings don't simply add up: the table above has them together."
    )
    return [Heading("By training"), Text(note), Table(columns, tuple(rows))] if rows else []


def _mode(charge: Mapping[str, Any]) -> ModeSpec | None:
    return modes.find(charge["mode"])


def _largest(values: Sequence[float | None]) -> float | None:
    return (
        None
        if any(value is None for value in values)
        else max(value for value in values if value is not None)
    )


def _sights(plans: Mapping[str, Any], ledgers: Sequence[_Ledger]) -> list[Block]:
    charged: dict[str, list[float | None]] = {}
    seeded = any(ledger.summary["seeded"] for ledger in ledgers)
    for ledger in ledgers:
        for training_id, own in {
            entry["charge"]["training_id"]: entry["epsilons"]["own_epsilon"] for entry in ledger.charges
        }.items():
            charged.setdefault(training_id, []).append(own)
    kinds: dict[tuple[str, str, int], list[Rating]] = {}
    trusts: dict[str, TrustModel | None] = {}
    for training_id, owns in charged.items():
        plan = plans.get(training_id)
        if plan is not None:
            own = None if seeded else _largest(owns)
            rated = rate(own, delta=plan["delta"], public_total=plan["records_total"])
            kinds.setdefault((plan["mode"], plan["scheme"], plan["colluders"]), []).append(rated)
            trust = claims.trust_of(plan)
            if trusts.setdefault(plan["scheme"], trust) != trust:
                trusts[plan["scheme"]] = None
    found: list[Block] = []
    for (mode, scheme, colluders), ratings in sorted(kinds.items(), key=lambda item: item[0]):
        seen = claims.sights({"mode": mode, "colluders": colluders}, trusts[scheme])
        if len(kinds) > 1:
            found.append(Text(f"In trainings of mode {mode} with scheme {scheme}:"))
        worst = next((rated for rated in ratings if not rated.protected), ratings[0])
        rows = tuple((sight.party, sight.sees, claims.verdict(sight, worst)) for sight in seen)
        found.append(Table(("party", "sees", "single updates"), rows, words=True))
    return [Heading("What each party could see"), *found] if found else []


def _refusals(refusals: Mapping[str, Mapping[str, str] | None]) -> list[Block]:
    missing = [who for who, found in refusals.items() if found is None]
    reasons: dict[tuple[str, str], list[str]] = {}
    for who, found in refusals.items():
        for where, reason in (found or {}).items():
            reasons.setdefault((who, reason), []).append(where)
    rows = []
    for (who, reason), places in list(reasons.items())[:SHOWN_REFUSALS]:
        more = f" and {len(places) - SHOWN_PLACES} more" if len(places) > SHOWN_PLACES else ""
        count = f"{len(places)} x: " if len(places) > 1 else ""
        rows.append((who, reason, f"{count}{'; '.join(places[:SHOWN_PLACES])}{more}"))
    result: list[Block] = [Heading("Refusals")]
    if rows:
        result.append(Table(("recorded by", "reason", "where"), tuple(rows), words=True))
    elif any(found is not None for found in refusals.values()):
        result.append(
            Text(f"Recorded by {', '.join(w for w, f in refusals.items() if f is not None)}: none.")
        )
    if len(reasons) > SHOWN_REFUSALS:
        result.append(Text(f"{len(reasons) - SHOWN_REFUSALS} more reasons stand in audit.json."))
    if "server" not in refusals:
        missing.insert(0, "the server")
    if missing:
        result.append(Text(f"Not collected from: {', '.join(missing)}."))
    return result


def _warnings(report: Mapping[str, Any] | None) -> list[Block]:
    warnings = (report or {}).get("warnings")
    if not isinstance(warnings, list) or not warnings:
        return []
    shown = [str(text) for text in warnings[:SHOWN_WARNINGS]]
    if len(warnings) > SHOWN_WARNINGS:
        shown.append(f"and {len(warnings) - SHOWN_WARNINGS} more, all of them in audit.json")
    return [Heading("Warnings of the training's own report"), Points(tuple(shown))]


def _software(software: Mapping[str, str], ledgers: Sequence[_Ledger]) -> list[Block]:
    costs = [entry for ledger in ledgers for entry in ledger.costs]
    codes = sorted({entry[entry["kind"]]["code"] for entry in costs})
    accountants = sorted({entry["accountants"] for entry in costs})
    rows = [("this report was made by", software["code"])]
    rows += [("charges were made by", code) for code in codes]
    rows += [("accountants", text) for text in accountants]
    rows += [(name, text) for name, text in software.items() if name != "code"]
    return [Heading("Software"), Table(("what", "version"), tuple(rows), words=True)]


def _keys(body: Mapping[str, Any], ledgers: Sequence[_Ledger], *, signer: str) -> list[Block]:
    rows = [("signer of this report", signer), *(("server", key) for key in body["servers"])]
    rows += [(ledger.name, ledger.key) for ledger in ledgers]
    return [
        Heading("How to recheck this"),
        Text(
            "Run 'fedrec audit verify audit.json', or copy the folder fedrec/privacy/audit/verify out of the "
            "source and run 'python -m verify audit.json' anywhere: it imports nothing of fedrec. It "
            "recomputes every figure here from the raw history, and holds these pages against the bundle. It "
            "proves that the record is consistent, not that a merchant ran what it wrote down."
        ),
        Text(
            "All of that rests on the keys below. Compare each, whole, with what its owner tells you by "
            "another way (by phone, on paper), or give it to verify with --server-key and --merchant."
        ),
        Table(("whose key", "public key"), tuple(rows), words=True),
        Text(f"Made at {body['created_at']}."),
    ]
