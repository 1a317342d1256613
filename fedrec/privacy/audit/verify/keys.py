"""Follow a merchant's identity key through the exchanges of it that its ledger records.

The chain of a ledger starts from the merchant's first key. An entry of kind ``rotation`` is signed by the key
before it, as every entry, and contains a statement that both keys signed. From the next entry on the new key
signs. So an outsider sees one ledger, and one budget, for all keys of a merchant.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .encoding import canonical, parsed, signed
from .outcome import UNREADABLE, Merchant, Problem

CONTEXT = b"fedrec/key-rotation/1"
FIELDS: Mapping[str, tuple[type, ...]] = dict.fromkeys(
    ("merchant", "old_key", "new_key", "old_signature", "new_signature"), (str,)
)


def first_key(merchant: Merchant) -> str:
    """Return the key that the chain starts from: the first exchange's old key, or else the merchant's key."""
    for row in merchant.raw["entries"]:
        try:
            entry = parsed(row["payload"])
            if entry["kind"] == "rotation":
                return str(entry["rotation"]["old_key"])
        except UNREADABLE:
            # The check of the chain names the entry.
            return merchant.public
    return merchant.public


def rotation_fault(merchant: Merchant, rotation: Mapping[str, Any]) -> str | None:
    """Return why an exchange of keys can't follow the merchant's keys so far; None if it can.

    Args:
        merchant: the merchant; its keys so far are in ``merchant.keys``.
        rotation: the content of the entry.

    Returns:
        The reason.
    """
    statement = {name: rotation[name] for name in ("merchant", "old_key", "new_key")} | {"version": 1}
    if rotation["merchant"] != merchant.name:
        return "it exchanges the key of another merchant"
    if rotation["old_key"] != merchant.keys[-1][1]:
        return "it exchanges another key than the one before it"
    if rotation["new_key"] in {key for _, key in merchant.keys}:
        return "it goes back to an earlier key"
    for which in ("old", "new"):
        key = bytes.fromhex(rotation[f"{which}_key"])
        if not signed(key, canonical(statement), rotation[f"{which}_signature"], context=CONTEXT):
            return f"the {which} key didn't sign this exchange"
    return None


def check_last_key(merchant: Merchant) -> Iterator[Problem]:
    """Check that a valid chain ends with the key that the bundle states for the merchant."""
    if merchant.keys[-1][1] != merchant.public:
        yield Problem(
            len(merchant.entries) + 1, "the ledger ends with another key than the one that is stated"
        )


def check_shared_keys(merchants: Iterable[Merchant]) -> Iterator[Problem]:
    """Check that no key is in two merchants' ledgers: one ledger, and one budget, follows from a key."""
    owner: dict[str, str] = {}
    for merchant in merchants:
        for _, key in merchant.keys:
            if owner.setdefault(key, merchant.name) != merchant.name:
                yield Problem(None, f"{merchant.name} and {owner[key]} have ledgers of the same key")
