"""The whole check of a bundle, in order."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from .figures import hold_report, hold_summary, largest_training, with_counts
from .ledger import chain, charges_of, costs_of, openings, receipts
from .outcome import (
    NAME,
    UNREADABLE,
    Anchors,
    Merchant,
    Outcome,
    Problem,
    UnusableError,
    guarded,
    shown,
    unreadable,
)
from .reading import canonical, parsed, signed, utc
from .rules import policies, rules_of
from .spending import spending
from .statements import STATEMENTS
from .terms import charges, follow_plans, plan_problems
from .trust import readable_by_server

SCHEMA = "fedrec.audit/5"
MAX_BYTES = 2**30
BYTES_PER_VALUE = 8
"""A bundle has no more values than one in so many bytes: it has far fewer, and a parser's tree of ``[[],[],``
would take forty times its text."""
FREE_VALUES = 1000
"""So many values are read however short the text, so that a broken one is named as what it is."""
BODY = {
    "created_at", "servers", "plans", "merchants", "refusals", "attachments", "statements", "software",
    "pages",
}  # fmt: skip


def verify(path: Path, *, anchors: Anchors | None = None) -> Outcome:
    """Check a bundle; whatever is wrong with it is in the outcome.

    A broken outer signature ends nothing: the checks of each merchant still name the first entry that fails.
    They are safe on any content, since a stranger can sign whatever he made up.

    Raises:
        UnusableError: there is no such file, or it is no bundle.

    """
    outcome = Outcome()
    bundle = _read(path)
    if not outcome.fail("", guarded(_parts(bundle))):
        outcome.fail("", guarded(_sealed(bundle)))
        try:
            _check(bundle, outcome, anchors or Anchors(), folder=path.parent)
        except UNREADABLE as error:
            outcome.fail("", [unreadable(error)])
    return outcome


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UnusableError(f"{path} is larger than {MAX_BYTES} bytes")
        data = path.read_bytes()
        if not data.isascii():
            raise UnusableError(f"{path} is no audit bundle: it holds bytes beyond ASCII")
        if sum(map(data.count, (b"[", b"{", b","))) > FREE_VALUES + len(data) // BYTES_PER_VALUE:
            raise UnusableError(f"{path} is no audit bundle: it has too many values")
        bundle = parsed(data)
    except OSError as error:
        raise UnusableError(f"{path} can't be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UnusableError(f"{path} is not a whole JSON file ({str(error)[:100]})") from None
    if not isinstance(bundle, dict) or bundle.get("schema") != SCHEMA:
        raise UnusableError(f"{path} is no audit bundle of schema {SCHEMA}")
    return bundle


def _parts(bundle: Mapping[str, Any]) -> Iterator[Problem]:
    if set(bundle) != {"schema", "body", "signer", "signature"} or set(bundle["body"]) != BODY:
        yield Problem(None, "the bundle lacks a part, or has one that is unknown")


def _sealed(bundle: Mapping[str, Any]) -> Iterator[Problem]:
    if not signed(
        bytes.fromhex(bundle["signer"]),
        canonical(bundle["body"]),
        bundle["signature"],
        context=b"fedrec/audit/1",
    ):
        yield Problem(None, "the bundle's own signature doesn't hold: it was changed after it was made")


def _check(bundle: Mapping[str, Any], outcome: Outcome, anchors: Anchors, *, folder: Path) -> None:
    body = bundle["body"]
    made_at = utc(body["created_at"])
    servers = [str(key) for key in body["servers"]]
    outcome.keys |= {name: key[:64] for name, key in _named(servers)}
    outcome.keys["signer"] = str(bundle["signer"])[:64]
    outcome.lines.append(f"bundle: made at {body['created_at']}, signed by {str(bundle['signer'])[:64]}")
    plans = {hashlib.sha256(text.encode()).hexdigest(): parsed(text) for text in body["plans"]}
    problems = [
        problem for plan in plans.values() for problem in guarded(plan_problems(plan, servers=servers))
    ]
    problems += [
        Problem(None, f"the {name}'s key is not one that was given")
        for name, key in _named(servers)
        if anchors.servers and key not in anchors.servers
    ]
    problems += [
        Problem(None, f"the server's key {key[:16]}, which was given, is not in the bundle")
        for key in sorted(anchors.servers - set(servers))
    ]
    if body["statements"] != STATEMENTS:
        problems.append(Problem(None, "unknown statement: its words are not those of this version"))
    problems += guarded(_pages(body["pages"], folder=folder))
    merchants = _merchants(body["merchants"], problems)
    problems += [
        Problem(None, f"{name}, whose key was given, is not in the bundle")
        for name in anchors.merchants
        if name not in {merchant.name for merchant in merchants}
    ]
    for merchant in merchants:
        outcome.keys[f"merchant {merchant.name}"] = merchant.public[:64]
        found = _merchant(merchant, plans=plans, servers=servers, made_at=made_at)
        if merchant.public != anchors.merchants.get(merchant.name, merchant.public):
            found.append(Problem(None, "its key is not the one that was given"))
        if not outcome.fail(merchant.name, found):
            outcome.lines.append(f"{merchant.name}: {_said(merchant)}")
        outcome.gaps += [f"{merchant.name}: {gap}" for gap in merchant.gaps]
        outcome.alarms += _alarms(merchant)
    problems += guarded(_one_model_a_round(merchants))
    outcome.exposures += _exposures(plans)
    report = body["attachments"].get("report")
    if report is not None:
        if report["run"]["training_id"] in plans:
            problems += guarded(hold_report(report, plans[report["run"]["training_id"]], merchants))
            outcome.lines += _unchecked(report)
        else:
            outcome.gaps.append("the attached report is of a training whose plan isn't here")
    outcome.fail("", problems)
    for training_id, plan in plans.items():
        absent = sorted({str(peer["name"]) for peer in plan["roster"]} - {m.name for m in merchants})
        if absent:
            outcome.lines.append(f"training {training_id[:16]}: not in this bundle: {', '.join(absent)}")


def _named(servers: Sequence[str]) -> list[tuple[str, str]]:
    """Name servers: a lone one "server", of several each by its number."""
    return [("server" if len(servers) == 1 else f"server {i}", key) for i, key in enumerate(servers, start=1)]


def _merchants(raw: Sequence[Mapping[str, Any]], problems: list[Problem]) -> list[Merchant]:
    """Tell the merchants apart; a name or a key that comes twice is a problem of the bundle."""
    found: list[Merchant] = []
    for number, part in enumerate(raw, start=1):
        try:
            name, public = part["merchant"], part["public_key"]
        except UNREADABLE:
            name, public = None, None
        if not isinstance(name, str) or not NAME.fullmatch(name):
            problems.append(Problem(None, f"merchant number {number} has no name and key that can be read"))
        elif name in {merchant.name for merchant in found}:
            problems.append(Problem(None, f"merchant {name} comes twice"))
        elif public in {merchant.public for merchant in found}:
            problems.append(Problem(None, f"merchant {name} has another merchant's key"))
        else:
            found.append(Merchant(name=name, public=str(public), raw=part))
    if not raw:
        problems.append(Problem(None, "the bundle holds no merchant"))
    return found


def _pages(pages: Mapping[str, str], *, folder: Path) -> Iterator[Problem]:
    """Hold the pages for people that lie beside the bundle against their hashes in it."""
    for name, digest in pages.items():
        beside = folder / name
        if not NAME.fullmatch(name):
            yield Problem(None, "a page has no name and key that can be read")
        elif beside.is_file() and hashlib.sha256(beside.read_bytes()).hexdigest() != digest:
            yield Problem(None, f"{name} beside the bundle is not the page that was made with it")


def _one_model_a_round(merchants: Iterable[Merchant]) -> Iterator[Problem]:
    """See that all merchants that were charged for a round were sent one model."""
    first: dict[tuple[str, int], tuple[str, str]] = {}
    for merchant in merchants:
        for entry in charges_of(merchant.entries):
            charge = entry["charge"]
            round_ = charge["training_id"], charge["round_number"]
            other, model = first.setdefault(round_, (merchant.name, charge["model_hash"]))
            if model != charge["model_hash"]:
                yield Problem(
                    None,
                    f"entry {entry['sequence']} of {merchant.name} names another model for round {round_[1]} "
                    f"of training {round_[0][:16]} than {other}'s does",
                )


def _merchant(
    merchant: Merchant, *, plans: Mapping[str, Any], servers: Sequence[str], made_at: datetime
) -> list[Problem]:
    """Check one merchant's part; all problems of all checks, so that the first entry can be named."""
    problems = guarded(chain(merchant, made_at=made_at))
    whole = not problems
    problems += guarded(receipts(merchant, servers=servers, plans=plans))
    problems += guarded(openings(merchant))
    problems += guarded(charges(merchant.entries))
    problems += guarded(follow_plans(merchant, plans))
    problems += guarded(policies(merchant, plans))
    problems += guarded(spending(merchant.entries))
    if whole:
        problems += guarded(hold_summary(merchant))
    return problems


def _said(merchant: Merchant) -> str:
    """What to say of a merchant whose record holds."""
    entries, costs, charged = merchant.entries, costs_of(merchant.entries), charges_of(merchant.entries)
    epsilons = costs[-1]["epsilons"]
    count = next(entry["count"] for entry in reversed(costs) if entry["kind"] == "count")
    counts = len(costs) - len(charged)
    said = [
        f"{len(charged)} charge{'' if len(charged) == 1 else 's'} and {counts} "
        f"count{'' if counts == 1 else 's'} hold, lifetime epsilon {shown(epsilons['spent_after'])} "
        f"{_cap(merchant)} at delta {epsilons['delta']:.3g}"
    ]
    if charged:
        said.append(_largest(merchant))
    if epsilons["delta"] * count["size"] >= 1:
        said.append(f"that delta alone allows a whole {count['unit']} of {count['size']} to be shown")
    if charged and not merchant.versions:
        said.append("photos' versions are not disclosed, so the rule 'changed_data' was not checked")
    if merchant.covered:
        beyond = len(entries) - merchant.covered
        said.append(
            f"the newest receipt covers entry {merchant.covered}"
            + (f", {beyond} beyond it: what came after may have been cut" if beyond else "")
        )
    return "; ".join(said)


def _unchecked(report: Mapping[str, Any]) -> Iterator[str]:
    others = sorted(set(report["privacy"]["cross_checks"]) - {"rdp"})
    if others:
        yield f"the attached report's figures by {', '.join(map(str, others))} are not recomputed, nor needed"


def _largest(merchant: Merchant) -> str:
    """The training that cost most, with the declared counts, as pages and reports have it, and without."""
    own, delta = largest_training(merchant.entries)
    whole = with_counts(merchant.entries)
    return (
        f"the largest training's epsilon is {shown(whole)} at delta {delta:.3g}, the declared counts "
        f"included ({shown(own)} without them)"
    )


def _cap(merchant: Merchant) -> str:
    """The cap that the newest entry was held against, by the policy that it names."""
    last = costs_of(merchant.entries)[-1]
    rules = rules_of(merchant).get(last[last["kind"]]["policy_hash"])
    if rules is None:
        return f"(whether {last['epsilons']['cap_epsilon']:g} is its cap, a policy that is not here says)"
    return "(no cap)" if rules["lifetime_epsilon"] is None else f"of {rules['lifetime_epsilon']:g}"


def _exposures(plans: Mapping[str, Any]) -> Iterator[str]:
    for training_id, plan in plans.items():
        if readable_by_server(plan):
            yield f"NOT ENCRYPTED: the server could read every update of training {training_id[:16]}"


def _alarms(merchant: Merchant) -> Iterator[str]:
    seeded = sum(entry[entry["kind"]]["seeded"] for entry in costs_of(merchant.entries))
    bare = sum(e["charge"]["guaranteed_noise_multiplier"] == 0 for e in charges_of(merchant.entries))
    if seeded:
        yield f"seeded ({seeded} charges or counts of {merchant.name})"
    if bare:
        yield f"no noise ({bare} charges of {merchant.name})"
