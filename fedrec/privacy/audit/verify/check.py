"""Check a whole bundle."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from .bundle_statements import STATEMENTS
from .charge_checks import check_against_plans, check_charges, check_plan
from .encoding import canonical, parsed, parsed_by_hash, signed, utc
from .epsilon_checks import check_epsilons
from .forms import read_form
from .keys import check_last_key, check_shared_keys
from .ledger import charges_of, check_chain, check_openings, check_receipts, costs_of
from .outcome import (
    FILE_NAME,
    UNREADABLE,
    Anchors,
    Merchant,
    Outcome,
    Problem,
    UnusableError,
    is_name,
    problems_of,
    shown,
    unreadable,
)
from .plans import Plan
from .policy_checks import check_policies, policies_of
from .report_checks import check_report
from .reports import Report
from .summary_checks import check_summary, largest_training, largest_with_counts
from .trust import readable_by_server

SCHEMA = "fedrec.audit/5"
MAX_BYTES = 2**30
BYTES_PER_VALUE = 8
"""Fewest bytes per JSON value. Bundles have far more; the parsed tree of ``[[],[],`` would take forty times
the memory of its text."""
FREE_VALUES = 1000
"""Number of values that are parsed however short the file is, so that its actual defect is reported."""
BODY = {
    "created_at", "servers", "plans", "merchants", "refusals", "attachments", "statements", "software",
    "pages",
}  # fmt: skip


def verify(path: Path, *, anchors: Anchors | None = None) -> Outcome:
    """Check a bundle.

    If the bundle's own signature fails, the merchants are still checked, so that the first entry that fails
    is named. The checks are safe on any content, since anybody can sign a bundle.

    Args:
        path: the bundle, a JSON file.
        anchors: keys that the auditor obtained independently; None for none.

    Returns:
        The outcome, with everything that is wrong with the bundle.

    Raises:
        UnusableError: the file is missing or is no bundle.
    """
    outcome = Outcome()
    bundle = _read(path)
    if not outcome.fail("", problems_of(_check_structure(bundle))):
        outcome.fail("", problems_of(_check_signature(bundle)))
        try:
            _check(bundle, outcome, anchors or Anchors(), folder=path.parent)
        except UNREADABLE as error:
            outcome.fail("", [unreadable(error)])
    return outcome


def _read(path: Path) -> dict[str, Any]:
    if path.is_dir():
        raise UnusableError(f"{path} is a folder: name the bundle in it, {path / 'audit.json'}")
    if path.exists() and not path.is_file():
        raise UnusableError(f"{path} can't be read: it is no regular file")
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
    schema = bundle.get("schema") if isinstance(bundle, dict) else None
    if isinstance(schema, str) and schema != SCHEMA and schema.startswith(SCHEMA.partition("/")[0] + "/"):
        raise UnusableError(f"{path} is a bundle of schema {schema[:40]}, and this version reads {SCHEMA}")
    if not isinstance(bundle, dict) or schema != SCHEMA:
        raise UnusableError(f"{path} is no audit bundle: 'fedrec audit report' makes one of a run's folder")
    return bundle


def _check_structure(bundle: Mapping[str, Any]) -> Iterator[Problem]:
    if set(bundle) != {"schema", "body", "signer", "signature"} or set(bundle["body"]) != BODY:
        yield Problem(None, "the bundle lacks a part, or has one that is unknown")


def _check_signature(bundle: Mapping[str, Any]) -> Iterator[Problem]:
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
    outcome.keys |= {name: key[:64] for name, key in _server_names(servers)}
    outcome.keys["signer"] = str(bundle["signer"])[:64]
    outcome.lines.append(f"bundle: made at {body['created_at']}, signed by {str(bundle['signer'])[:64]}")
    plans, problems = _plans(body["plans"])
    problems += [
        problem for plan in plans.values() for problem in problems_of(check_plan(plan, servers=servers))
    ]
    problems += [
        Problem(None, f"the {name}'s key is not one that was given")
        for name, key in _server_names(servers)
        if anchors.servers and key not in anchors.servers
    ]
    problems += [
        Problem(None, f"the server's key {key[:16]}, which was given, is not in the bundle")
        for key in sorted(anchors.servers - set(servers))
    ]
    if body["statements"] != STATEMENTS:
        problems.append(Problem(None, "unknown statement: its words are not those of this version"))
    problems += problems_of(_check_page(body["pages"], folder=folder))
    merchants = _merchants(body["merchants"], problems)
    problems += [
        Problem(None, f"{name}, whose key was given, is not in the bundle")
        for name in anchors.merchants
        if name not in {merchant.name for merchant in merchants}
    ]
    for merchant in merchants:
        outcome.keys[f"merchant {merchant.name}"] = merchant.public[:64]
        found = _merchant(merchant, plans=plans, servers=servers, made_at=made_at)
        # The keys of a valid chain follow from each other: the exchanges between them are signed.
        if anchors.merchants.get(merchant.name, merchant.public) not in {key for _, key in merchant.keys}:
            found.append(Problem(None, "its key is not the one that was given"))
        if not outcome.fail(merchant.name, found):
            outcome.lines.append(f"{merchant.name}: {_summary_line(merchant)}")
        outcome.gaps += [f"{merchant.name}: {gap}" for gap in merchant.gaps]
        outcome.alarms += _alarms(merchant)
    for training_id, plan in plans.items():
        for peer in plan.witnesses:
            owner, key = f"witness {peer.name}", peer.signing_key[:64]
            if outcome.keys.setdefault(owner, key) != key:
                outcome.keys[f"{owner} of training {training_id[:16]}"] = key
    problems += problems_of(check_shared_keys(merchants))
    problems += problems_of(_check_model(merchants))
    outcome.exposures += _exposures(plans)
    report = _report(body["attachments"].get("report"), problems)
    if report is not None:
        if report.run.training_id in plans:
            problems += problems_of(check_report(report, plans[report.run.training_id], merchants))
            outcome.lines += _unchecked_accountants(report)
        else:
            outcome.gaps.append("the attached report is of a training whose plan isn't here")
    outcome.fail("", problems)
    for training_id, plan in plans.items():
        absent = sorted({peer.name for peer in plan.roster} - {m.name for m in merchants})
        if absent:
            outcome.lines.append(f"training {training_id[:16]}: not in this bundle: {', '.join(absent)}")


def _plans(texts: Sequence[str]) -> tuple[dict[str, Plan], list[Problem]]:
    """Return the plans that can be read, by training id, and what is wrong with the others."""
    found, problems = {}, []
    for training_id, value in parsed_by_hash(texts, what="plan").items():
        try:
            found[training_id] = read_form(Plan, value, what=f"the plan of training {training_id[:16]}")
        except ValueError as error:
            problems.append(Problem(None, str(error)))
    return found, problems


def _report(attached: Any, problems: list[Problem]) -> Report | None:
    """Return the attached report, None without one; what can't be read is added to ``problems``."""
    try:
        return None if attached is None else read_form(Report, attached, what="the attached report")
    except ValueError as error:
        problems.append(Problem(None, str(error)))
        return None


def _server_names(servers: Sequence[str]) -> list[tuple[str, str]]:
    """Name the servers in messages: "server" for a single one, else "server 1" and so on."""
    return [("server" if len(servers) == 1 else f"server {i}", key) for i, key in enumerate(servers, start=1)]


def _merchants(raw: Sequence[Mapping[str, Any]], problems: list[Problem]) -> list[Merchant]:
    """Return the merchants; a name or key that occurs twice is added to the bundle's ``problems``."""
    found: list[Merchant] = []
    for number, part in enumerate(raw, start=1):
        try:
            name, public = part["merchant"], part["public_key"]
        except UNREADABLE:
            name, public = None, None
        if not isinstance(name, str) or not is_name(name):
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


def _check_page(pages: Mapping[str, str], *, folder: Path) -> Iterator[Problem]:
    """Check the pages (report, audit page) in the bundle's folder against their hashes in the bundle."""
    for name, digest in pages.items():
        beside = folder / name
        if not FILE_NAME.fullmatch(name):
            yield Problem(None, "a page has no name and key that can be read")
        elif beside.is_file() and hashlib.sha256(beside.read_bytes()).hexdigest() != digest:
            yield Problem(None, f"{name} beside the bundle is not the page that was made with it")


def _check_model(merchants: Iterable[Merchant]) -> Iterator[Problem]:
    """Check that all merchants that were charged for a round were sent the same model."""
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
    merchant: Merchant, *, plans: Mapping[str, Plan], servers: Sequence[str], made_at: datetime
) -> list[Problem]:
    """Run all checks of one merchant, and return all problems, so that the first entry can be named."""
    problems = problems_of(check_chain(merchant, made_at=made_at))
    whole = not problems
    if whole:
        problems += problems_of(check_last_key(merchant))
    problems += problems_of(check_receipts(merchant, servers=servers, plans=plans))
    problems += problems_of(check_openings(merchant))
    problems += problems_of(check_charges(merchant.entries))
    problems += problems_of(check_against_plans(merchant, plans))
    problems += problems_of(check_policies(merchant, plans))
    problems += problems_of(check_epsilons(merchant.entries))
    if whole:
        problems += problems_of(check_summary(merchant))
    return problems


def _summary_line(merchant: Merchant) -> str:
    """Return the line of a merchant whose record holds."""
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
    if len(merchant.keys) > 1:
        exchanges = len(merchant.keys) - 1
        said.append(f"its key was exchanged {exchanges} time{'' if exchanges == 1 else 's'}, each signed")
    if merchant.covered:
        beyond = len(entries) - merchant.covered
        said.append(
            f"the newest receipt covers entry {merchant.covered}"
            + (f", {beyond} beyond it: later entries may have been cut" if beyond else "")
        )
    return "; ".join(said)


def _unchecked_accountants(report: Report) -> Iterator[str]:
    others = sorted(set(report.privacy.cross_checks) - {"rdp"})
    if others:
        yield (
            f"the attached report's epsilons by {', '.join(map(str, others))} are not recomputed; nothing "
            "depends on them"
        )


def _largest(merchant: Merchant) -> str:
    """Return the largest epsilon of a training, with the declared counts (as in reports) and without."""
    own, delta = largest_training(merchant.entries)
    whole = largest_with_counts(merchant.entries)
    return (
        f"the largest training's epsilon is {shown(whole)} at delta {delta:.3g}, the declared counts "
        f"included ({shown(own)} without them)"
    )


def _cap(merchant: Merchant) -> str:
    """Return the cap that applied to the newest entry, from the policy that it names."""
    last = costs_of(merchant.entries)[-1]
    rules = policies_of(merchant).get(last[last["kind"]]["policy_hash"])
    if rules is None:
        return f"(whether {last['epsilons']['cap_epsilon']:g} is its cap, a policy that is not here says)"
    return "(no cap)" if rules["lifetime_epsilon"] is None else f"of {rules['lifetime_epsilon']:g}"


def _exposures(plans: Mapping[str, Plan]) -> Iterator[str]:
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
