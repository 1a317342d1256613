"""Check a merchant's ledger entries: their format, the chain of hashes and signatures, and the receipts."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from .encoding import canonical, parsed, signed, utc
from .epsilons import MOST_STEPS
from .keys import FIELDS, first_key, rotation_fault
from .modes import CLIPPINGS, MODES
from .outcome import UNREADABLE, Merchant, Problem
from .plans import Plan

SALT_BYTES = 32
LEAST_SIGMA = 4.0
"""Smallest sigma of a count's discrete Gaussian for which its accounting is proved, in records."""
DUPLICATES = {
    "record": "exact duplicates (decoded pixels and label) dropped",
    "product": "products with the same photos and label dropped; a photo may stand in several products",
}


_NUMBER = (int, float)


_CHARGE: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(
        ("training_id", "model_hash", "mode", "unit", "adjacency", "duplicate_policy", "clipping", "run"),
        (str,),
    ),
    **dict.fromkeys(("model", "code", "policy_hash"), (str,)),
    **dict.fromkeys(("round_number", "scale", "dimension", "min_contributors", "colluders"), (int,)),
    **dict.fromkeys(("rounds", "step", "steps"), (int,)),
    **dict.fromkeys(("sample_rate", "clip", "planned_noise_multiplier", "sensitivity", "delta"), _NUMBER),
    **dict.fromkeys(("guaranteed_noise_multiplier", "broken_noise_multiplier", "beta"), _NUMBER),
    "seeded": (bool,),
}


_COUNT: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("unit", "code", "policy_hash"), (str,)),
    **dict.fromkeys(("number", "size"), (int,)),
    **dict.fromkeys(("sigma", "delta"), _NUMBER),
    "seeded": (bool,),
}


_ANSWER: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("training_id", "request_hash"), (str,)),
    "round_number": (int,),
}


_FIELDS = {
    "charge": {"sequence", "created_at", "kind", "accountants", "epsilons", "charge", "data"},
    "count": {"sequence", "created_at", "kind", "accountants", "epsilons", "count"},
    "answer": {"sequence", "created_at", "kind", "answer"},
    "rotation": {"sequence", "created_at", "kind", "rotation"},
}
_CONTENTS = {"charge": _CHARGE, "count": _COUNT, "answer": _ANSWER, "rotation": FIELDS}
_COSTS = ("charge", "count")
ROUNDING_VARIANCE = 9.0
"""With this subtracted from a discrete Gaussian's variance, a continuous Gaussian's PLD bounds its own."""
_DIGITS = re.compile(r"[0-9a-f]{64}")


_EPSILONS = ("spent_before", "spent_after", "own_epsilon")


def check_chain(merchant: Merchant, *, made_at: datetime) -> Iterator[Problem]:
    """Check the chain, and parse the entries into ``merchant.entries`` up to the first that isn't valid.

    Args:
        merchant: the merchant; gets its entries and its keys.
        made_at: when the bundle was made.

    Yields:
        What is wrong with the first entry that isn't valid.

    Raises:
        ValueError: the merchant's public key is not hexadecimal.
    """
    merchant.keys.append((1, first_key(merchant)))
    public = bytes.fromhex(merchant.keys[-1][1])
    previous = hashlib.sha256(b"fedrec/ledger/genesis/1" + public).digest()
    keys: set[tuple[Any, ...]] = set()
    before, unit, counts = datetime.min.replace(tzinfo=UTC), "", 0
    for number, row in enumerate(merchant.raw["entries"], start=1):
        try:
            payload, digest, signature = row["payload"], bytes.fromhex(row["hash"]), row["signature"]
            entry = parsed(payload)
            _check_form(entry)
            moment = utc(entry["created_at"])
            if set(row) != {"payload", "hash", "signature"} or canonical(entry) != payload.encode():
                raise ValueError("it is not in its one encoding")
        except UNREADABLE as error:
            yield Problem(number, f"it can't be read ({str(error)[:100]})")
            return
        kind, written = entry["kind"], entry["created_at"]
        about = entry[kind]
        key = _key(entry)
        wrong = {
            f"it is numbered {entry['sequence']}: one is missing, or they were reordered": (
                entry["sequence"] != number
            ),
            "its hash doesn't follow from the entry before it and its content": (
                hashlib.sha256(b"fedrec/ledger/entry/1" + previous + payload.encode()).digest() != digest
            ),
            "its signature is not this merchant's": (
                not signed(public, digest, signature, context=b"fedrec/ledger/1")
            ),
            "its training, round and step were charged before": key in keys and kind == "charge",
            "its round was answered before": key in keys and kind == "answer",
            "a ledger begins with the count that its merchant declares": number == 1 and kind != "count",
            "its count is not the next one": kind == "count" and about["number"] != counts + 1,
            f"it is dated {written}, before the entry before it": moment < before,
            f"it is dated {written}, after the bundle was made": moment > made_at,
            f"it protects a {about.get('unit')}, those before it a {unit}: their epsilons don't add up": (
                kind in _COSTS and unit not in ("", about["unit"])
            ),
        }
        reason = next((reason for reason, holds in wrong.items() if holds), None)
        if kind == "rotation" and reason is None:
            reason = rotation_fault(merchant, about)
            merchant.keys.append((number + 1, about["new_key"]))
            public = bytes.fromhex(about["new_key"])
        if reason is not None:
            yield Problem(number, reason)
            return
        keys.add(key)
        before, unit, previous = moment, unit or about["unit"], digest
        counts += kind == "count"
        merchant.entries.append(entry | {"hash": row["hash"]})


def _key(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what identifies an entry; no two entries of a ledger may have the same."""
    about = entry[entry["kind"]]
    if entry["kind"] == "count":
        return ("count", about["number"])
    if entry["kind"] == "rotation":
        return ("rotation", about["new_key"])
    return (entry["kind"], *round_of(about), about.get("step"))


def charges_of(entries: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the entries that are charges of rounds."""
    return [entry for entry in entries if entry["kind"] == "charge"]


def costs_of(entries: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the entries that spend privacy: charges and counts."""
    return [entry for entry in entries if entry["kind"] in _COSTS]


def cost(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what an entry spends: sampling rate, noise multipliers of both views, steps and beta.

    A count includes every record and has sensitivity 1. It is accounted for as Gaussian noise of variance
    sigma^2 - 9, which bounds its discrete Gaussian.
    """
    if entry["kind"] == "charge":
        found: Mapping[str, Any] = entry["charge"]
        return found
    noise = math.sqrt(entry["count"]["sigma"] ** 2 - ROUNDING_VARIANCE)
    return {
        "sample_rate": 1.0,
        "guaranteed_noise_multiplier": noise,
        "broken_noise_multiplier": noise,
        "steps": 1,
        "beta": 0.0,
    }


def is_of_figures(charge: Mapping[str, Any]) -> bool:
    """Return whether a charge is of site figures, whose round follows the training's last one."""
    return bool(charge["round_number"] == charge["rounds"] + 1)


def account(charge: Mapping[str, Any]) -> str:
    """Return what a charge is accounted for with: its training, or the site figures of it."""
    return f"{charge['training_id']}/figures" if is_of_figures(charge) else str(charge["training_id"])


def check_openings(merchant: Merchant) -> Iterator[Problem]:
    """Check the dataset versions that a merchant disclosed against the commitments in its charges.

    Args:
        merchant: the merchant; gets the versions that are valid.

    Yields:
        Each disclosed version that isn't the committed one.
    """
    disclosed = merchant.raw["openings"]
    for entry in charges_of(merchant.entries):
        opening = disclosed.get(str(entry["sequence"]))
        if opening is None:
            continue
        salt, version = bytes.fromhex(opening["salt"]), opening["version"]
        digest = hashlib.sha256(b"fedrec/ledger/data/1" + salt + version.encode()).hexdigest()
        if len(salt) != SALT_BYTES or digest != entry["data"]:
            yield Problem(
                entry["sequence"], "what is disclosed of its photos' version isn't what it commits to"
            )
        else:
            merchant.versions[entry["sequence"]] = version
    known = {str(entry["sequence"]) for entry in charges_of(merchant.entries)}
    if not set(disclosed) <= known:
        yield Problem(None, "versions of photos are disclosed for entries that aren't there")


def _check_form(entry: Any) -> None:
    """Raise ``ValueError`` unless an entry has exactly its fields, with the right types and ranges."""
    kind = entry["kind"]
    if set(entry) != _FIELDS[kind]:
        raise ValueError("it has other fields")
    about, fields = entry[kind], _CONTENTS[kind]
    if set(about) != set(fields):
        raise ValueError(f"its {kind} has other fields")
    for name, kinds in fields.items():
        if not isinstance(about[name], kinds) or isinstance(about[name], bool) != (bool in kinds):
            raise ValueError(f"{name} has a wrong type")
    if kind == "answer":
        ranges = {"round_number": about["round_number"] >= 1}
    elif kind == "rotation":
        ranges = {name: bool(_DIGITS.fullmatch(about[name])) for name in ("old_key", "new_key")}
    else:
        _check_epsilons_form(entry["epsilons"])
        ranges = _count_ranges(about) if kind == "count" else _charge_ranges(about)
    if kind == "charge":
        ranges["data"] = bool(_DIGITS.fullmatch(entry["data"]))
    for name, within in ranges.items():
        if not within:
            raise ValueError(f"{name} is out of range")


def _check_epsilons_form(epsilons: Mapping[str, Any]) -> None:
    if set(epsilons) != {*_EPSILONS, "cap_epsilon", "delta"}:
        raise ValueError("its epsilons have other fields")
    for name in _EPSILONS:
        value = epsilons[name]
        if value is not None and (
            not isinstance(value, _NUMBER) or isinstance(value, bool) or not value >= 0
        ):
            raise ValueError(f"{name} has a wrong type or sign")
    if not isinstance(epsilons["delta"], float) or not 0 < epsilons["delta"] < 1:
        raise ValueError("the delta of its epsilons is outside (0, 1)")
    cap = epsilons["cap_epsilon"]
    if not isinstance(cap, _NUMBER) or isinstance(cap, bool) or not 0 < cap < math.inf:
        raise ValueError("the cap of its epsilons is not a positive number")


def _count_ranges(count: Mapping[str, Any]) -> dict[str, bool]:
    return {
        "size": count["size"] >= 1,
        "sigma": LEAST_SIGMA <= count["sigma"] <= 1e6,
        "delta": 0 < count["delta"] < 1,
        "unit": count["unit"] in DUPLICATES,
    }


def _charge_ranges(charge: Mapping[str, Any]) -> dict[str, bool]:
    return {
        "sample_rate": 0 < charge["sample_rate"] <= 1
        and (charge["sample_rate"] == 1 or not is_of_figures(charge)),
        "planned_noise_multiplier": 0 <= charge["planned_noise_multiplier"] <= 1e6,
        "beta": 0 < charge["beta"] < 1,
        "delta": 0 < charge["delta"] < 1,
        "steps": charge["steps"] >= 1
        and charge["rounds"] * charge["steps"] <= MOST_STEPS
        and (charge["steps"] == 1 or not is_of_figures(charge)),
        "step": charge["step"] >= 0,
        "clip": charge["clip"] > 0,
        "scale": 1 <= charge["scale"] <= 2**40,
        "dimension": 1 <= charge["dimension"] <= 10**9,
        "min_contributors": charge["min_contributors"] >= 1,
        "colluders": charge["colluders"] >= 0,
        "round_number": 1 <= charge["round_number"] <= charge["rounds"] + 1,
        "mode": charge["mode"] in MODES,
        "clipping": charge["clipping"] in CLIPPINGS,
        "adjacency": charge["adjacency"] == "add-or-remove",
        "unit": charge["unit"] in DUPLICATES,
        "duplicate_policy": charge["duplicate_policy"] == DUPLICATES.get(charge["unit"]),
    }


def check_receipts(
    merchant: Merchant, *, servers: Collection[str], plans: Mapping[str, Plan]
) -> Iterator[Problem]:
    """Check that every receipt is signed by both parties, and is for an entry of the chain.

    Args:
        merchant: the merchant; gets the last entry with a receipt, or a gap if it has no receipts.
        servers: the bundle's server keys.
        plans: the bundle's plans by training id; a receipt must be signed by its plan's server.

    Yields:
        Each receipt that isn't valid.
    """
    hashes = {entry["hash"]: entry for entry in merchant.entries}
    places = {_key(entry)[:3]: entry["sequence"] for entry in merchant.entries}
    # A merchant whose ledger has only a count hasn't joined a training yet.
    if not merchant.raw["receipts"] and len(merchant.raw["entries"]) > 1:
        merchant.gaps.append("no receipts: entries may have been cut from the end")
    for receipt in merchant.raw["receipts"]:
        head, stated = receipt["head"], receipt["head"]["statement"]
        where = f"the receipt of round {stated['round_number']} of training {stated['training_id'][:16]}"
        at = places.get((_KINDS.get(stated["moment"]), *round_of(stated)))
        plan = plans.get(stated["training_id"])
        confirmed = hashes.get(stated["head_hash"])
        key = merchant.public if confirmed is None else merchant.key_of(confirmed["sequence"] + 1)
        signers = servers if plan is None else (plan.server_key,)
        if stated["merchant"] != merchant.name or not signed(
            bytes.fromhex(key),
            canonical(stated),
            head["signature"],
            context=b"fedrec/ledger-head/1",
        ):
            yield Problem(at, f"{where} holds a head that this merchant didn't sign")
        elif receipt["server_key"] not in signers or not signed(
            bytes.fromhex(receipt["server_key"]),
            canonical(head),
            receipt["signature"],
            context=b"fedrec/ledger-receipt/1",
        ):
            yield Problem(at, f"{where} is not signed by the server's key")
        elif confirmed is None:
            yield Problem(
                at or len(merchant.entries) + 1,
                f"the ledger lacks an entry that {where} is for: it was restored to an older state, changed, "
                "or cut",
            )
        elif not _is_of(confirmed, stated):
            yield Problem(confirmed["sequence"], f"{where} is for an entry of another round")
        else:
            merchant.covered = max(merchant.covered, confirmed["sequence"])


_KINDS = {"charged": "charge", "answered": "answer"}


def _is_of(entry: Mapping[str, Any], stated: Mapping[str, Any]) -> bool:
    """Return whether a signed head can be that of an entry; a head of a join can be that of any entry."""
    if stated["moment"] == "joined":
        return bool(stated["round_number"] == 0)
    kind = _KINDS[stated["moment"]]
    return bool(entry["kind"] == kind and round_of(entry[kind]) == round_of(stated))


def round_of(named: Mapping[str, Any]) -> tuple[str, int]:
    """Return the training id and round number of a charge, an answer or a statement."""
    return named["training_id"], named["round_number"]
