"""A merchant's entries: their form, the chain of hashes and signatures, and the server's receipts."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from .outcome import UNREADABLE, Merchant, Problem
from .reading import canonical, parsed, signed, utc

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
    **dict.fromkeys(("model", "code", "policy_hash", "dataset_version"), (str,)),
    **dict.fromkeys(("round_number", "scale", "dimension", "min_contributors", "colluders"), (int,)),
    **dict.fromkeys(("size_bucket", "step", "steps"), (int,)),
    **dict.fromkeys(("sample_rate", "clip", "planned_noise_multiplier", "sensitivity", "delta"), _NUMBER),
    **dict.fromkeys(("guaranteed_noise_multiplier", "broken_noise_multiplier", "beta"), _NUMBER),
    "seeded": (bool,),
}


_EPSILONS = ("pld_before", "pld_after", "rdp_before", "rdp_after")


def chain(merchant: Merchant, *, made_at: datetime) -> Iterator[Problem]:
    """Parse the entries into ``merchant.entries``, up to the first of wrong form, place or signature."""
    public = bytes.fromhex(merchant.public)
    previous = hashlib.sha256(b"fedrec/ledger/genesis/1" + public).digest()
    keys: set[tuple[str, int, int]] = set()
    before, unit = datetime.min.replace(tzinfo=UTC), ""
    for number, row in enumerate(merchant.raw["entries"], start=1):
        try:
            payload, digest, signature = row["payload"], bytes.fromhex(row["hash"]), row["signature"]
            entry = parsed(payload)
            _form(entry)
            moment = utc(entry["created_at"])
            if set(row) != {"payload", "hash", "signature"} or canonical(entry) != payload.encode():
                raise ValueError("it is not in its one encoding")
        except UNREADABLE as error:
            yield Problem(number, f"it can't be read ({str(error)[:100]})")
            return
        charge, written = entry["charge"], entry["created_at"]
        key = (charge["training_id"], charge["round_number"], charge["step"])
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
            "its training, round and step were charged before": key in keys,
            f"it is dated {written}, before the entry before it": moment < before,
            f"it is dated {written}, after the bundle was made": moment > made_at,
            f"it hides a {charge['unit']}, those before it a {unit}: they don't add up": (
                unit not in ("", charge["unit"])
            ),
        }
        reason = next((reason for reason, holds in wrong.items() if holds), None)
        if reason is not None:
            yield Problem(number, reason)
            return
        keys.add(key)
        before, unit, previous = moment, charge["unit"], digest
        merchant.entries.append(entry | {"hash": row["hash"]})


def _form(entry: Any) -> None:
    """Raise ``ValueError`` unless an entry has just its fields, of their types and in their ranges."""
    if set(entry) != {"sequence", "created_at", "accountants", "epsilons", "charge"}:
        raise ValueError("it has other fields")
    charge, epsilons = entry["charge"], entry["epsilons"]
    if set(charge) != set(_CHARGE) or set(epsilons) != {*_EPSILONS, "delta"}:
        raise ValueError("its charge or epsilons have other fields")
    for name, kinds in _CHARGE.items():
        if not isinstance(charge[name], kinds) or isinstance(charge[name], bool) != (bool in kinds):
            raise ValueError(f"{name} has a wrong type")
    for name in _EPSILONS:
        value = epsilons[name]
        if value is not None and (
            not isinstance(value, _NUMBER) or isinstance(value, bool) or not value >= 0
        ):
            raise ValueError(f"{name} has a wrong type or sign")
    if not isinstance(epsilons["delta"], float) or not 0 < epsilons["delta"] < 1:
        raise ValueError("the delta of its epsilons is outside (0, 1)")
    ranges = {
        "sample_rate": 0 < charge["sample_rate"] <= 1,
        "planned_noise_multiplier": 0 <= charge["planned_noise_multiplier"] <= 1e6,
        "beta": 0 < charge["beta"] < 1,
        "delta": 0 < charge["delta"] < 1,
        "steps": 1 <= charge["steps"] <= 10**6,
        "step": charge["step"] >= 0,
        "clip": charge["clip"] > 0,
        "scale": 1 <= charge["scale"] <= 2**40,
        "dimension": 1 <= charge["dimension"] <= 10**9,
        "min_contributors": charge["min_contributors"] >= 1,
        "colluders": charge["colluders"] >= 0,
        "round_number": charge["round_number"] >= 1,
        "mode": charge["mode"] in ("distributed", "local", "off"),
        "clipping": charge["clipping"] in ("fixed", "automatic"),
        "adjacency": charge["adjacency"] == "add-or-remove",
        "unit": charge["unit"] in DUPLICATES,
        "duplicate_policy": charge["duplicate_policy"] == DUPLICATES.get(charge["unit"]),
    }
    for name, within in ranges.items():
        if not within:
            raise ValueError(f"{name} is out of range")


def receipts(merchant: Merchant, *, servers: Collection[str], plans: Mapping[str, Any]) -> Iterator[Problem]:
    """See that every head that both sides signed stands in the chain, and by the server of its training."""
    hashes = {entry["hash"]: entry for entry in merchant.entries}
    rounds = {round_of(entry["charge"]): entry["sequence"] for entry in merchant.entries}
    if not merchant.raw["receipts"] and merchant.raw["entries"]:
        merchant.gaps.append("no receipts: entries may have been cut from the end")
    for receipt in merchant.raw["receipts"]:
        head, stated = receipt["head"], receipt["head"]["statement"]
        where = f"the receipt of round {stated['round_number']} of training {stated['training_id'][:16]}"
        at = rounds.get(round_of(stated))
        plan = plans.get(stated["training_id"])
        signers = servers if plan is None else (plan["server_key"],)
        if stated["merchant"] != merchant.name or not signed(
            bytes.fromhex(merchant.public),
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
        elif stated["head_hash"] not in hashes:
            yield Problem(
                at or len(merchant.entries) + 1,
                f"the ledger lacks an entry that {where} is for: it was put back to an older state, changed, "
                "or cut",
            )
        elif round_of(hashes[stated["head_hash"]]["charge"]) != round_of(stated):
            yield Problem(
                hashes[stated["head_hash"]]["sequence"], f"{where} is for an entry of another round"
            )
        else:
            merchant.covered = max(merchant.covered, hashes[stated["head_hash"]]["sequence"])


def round_of(named: Mapping[str, Any]) -> tuple[str, int]:
    """Name the round of a charge or a statement."""
    return named["training_id"], named["round_number"]
