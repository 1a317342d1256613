"""Trainings before and after a merchant exchanged its key: one ledger, one budget, and an audit of it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from fedrec.clients.identity_file import read_identity, successor
from fedrec.clients.merchant_home import MerchantHome
from fedrec.errors import ProtocolError, RefusedError
from fedrec.privacy.accounting.ledger_creation import create_ledger
from fedrec.privacy.accounting.ledger_entries import charges, spending
from fedrec.privacy.aggregation.seats import seat_order
from fedrec.privacy.audit import verify as verifier
from fedrec.privacy.audit.bundle import Evidence, MerchantRecord, body_of, canonical, seal
from fedrec.privacy.endorsements import sign_rotation
from fedrec.privacy.identity import SigningIdentity
from fedrec.protocol.messages import JoinRequest
from fedrec.protocol.plan import Peer, TrainingPlan
from fedrec.protocol.statements import (
    LEDGER_HEAD_CONTEXT,
    RECEIPT_CONTEXT,
    LedgerHead,
    Receipt,
    SignedLedgerHead,
)
from fedrec.server.receipts import read_receipts
from tests.support.cohort import Cohort

Bundle = dict[str, Any]


def exchange(cohort: Cohort, name: str) -> SigningIdentity:
    """Exchange a merchant's key; returns the old one."""
    file = MerchantHome(cohort.folder / name).identity_file
    old = cohort.identities[name]
    file.write_bytes(successor(old))
    new = cohort.identities[name] = read_identity(file)
    cohort.merchants[name].ledger.rotate(sign_rotation(name, old=old, new=new), signer=new)
    cohort.roster = tuple(
        Peer(name=peer, signing_key=key.public.hex()) for peer, key in cohort.identities.items()
    )
    cohort.restart(name)
    return old


class Scene:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cohort = Cohort(folder, size=3, seed=None)
        first = self.cohort.plan(rounds=1)
        self.cohort.train(first)
        self.old = exchange(self.cohort, "m0")
        # The committee's seats follow from the keys.
        second = self.seated_plan()
        self.cohort.train(second)
        self.plans = (first, second)

    def seated_plan(self) -> TrainingPlan:
        return self.cohort.plan(rounds=1, committee=seat_order(self.cohort.roster))

    def bundle(self) -> Bundle:
        evidence = Evidence(
            merchants=tuple(
                MerchantRecord(
                    name=name,
                    public=self.cohort.identities[name].public,
                    ledger=self.folder / name / "ledger.sqlite",
                    policies=(self.cohort.policy.rules,),
                )
                for name in self.cohort.names
            ),
            plans=self.plans,
            receipts=tuple(read_receipts(self.folder / "receipts.sqlite")),
        )
        bundle: Bundle = json.loads(json.dumps(seal(body_of(evidence), signer=self.cohort.server, pages={})))
        return bundle


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return Scene(tmp_path_factory.mktemp("rotated"))


def outcome(bundle: Bundle, folder: Path, *, merchants: dict[str, str] | None = None) -> verifier.Outcome:
    """Check a bundle, signed as it is: anybody can make and sign one."""
    path = folder / "audit.json"
    path.write_text(json.dumps(seal(bundle["body"], signer=SigningIdentity.generate(), pages={})))
    return verifier.verify(path, anchors=verifier.Anchors(merchants=merchants or {}))


def test_what_was_spent_before_counts_after_and_an_outsider_sees_one_chain(
    scene: Scene, tmp_path: Path
) -> None:
    entries = scene.cohort.merchants["m0"].ledger.entries()
    spent = [entry.epsilons for entry in spending(entries)]
    assert len(charges(entries)) == 2 and all(a.spent_after == b.spent_before for a, b in pairwise(spent))
    bundle = scene.bundle()
    found = outcome(bundle, tmp_path)
    assert not found.failures
    assert any(line.startswith("m0:") and "exchanged 1 time" in line for line in found.lines)
    # The auditor may have got the key before or after the exchange, and no other.
    for key in (scene.old.public.hex(), scene.cohort.identities["m0"].public.hex()):
        assert not outcome(bundle, tmp_path, merchants={"m0": key}).failures
    other = outcome(bundle, tmp_path, merchants={"m0": scene.cohort.identities["m1"].public.hex()})
    assert "not the one that was given" in other.failures["m0"]


def drop_the_exchange(entries: list[dict[str, Any]], scene: Scene) -> None:
    del entries[next(i for i, row in enumerate(entries) if '"kind":"rotation"' in row["payload"])]


def change_the_new_key(entries: list[dict[str, Any]], scene: Scene) -> None:
    """To a thief's key, which signs everything from there on, but for the exchange itself."""
    thief = SigningIdentity.generate()
    _again(entries, scene, lambda rotation: {"new_key": thief.public.hex()}, signer=thief)


def forge_the_new_keys_signature(entries: list[dict[str, Any]], scene: Scene) -> None:
    key = scene.cohort.identities["m0"]
    _again(entries, scene, lambda rotation: {"new_signature": "0" * 128}, signer=key)


def name_another_merchant(entries: list[dict[str, Any]], scene: Scene) -> None:
    key = scene.cohort.identities["m0"]
    _again(entries, scene, lambda rotation: {"merchant": "m1"}, signer=key)


def _again(
    entries: list[dict[str, Any]],
    scene: Scene,
    change: Callable[[dict[str, Any]], dict[str, Any]],
    *,
    signer: SigningIdentity,
) -> None:
    """Change the exchange, and sign the chain again from there as whoever has both keys could."""
    at = next(i for i, row in enumerate(entries) if '"kind":"rotation"' in row["payload"])
    for index in range(at, len(entries)):
        value = json.loads(entries[index]["payload"])
        if index == at:
            value["rotation"] |= change(value["rotation"])
        payload = canonical(value).decode()
        previous = bytes.fromhex(entries[index - 1]["hash"])
        digest = hashlib.sha256(b"fedrec/ledger/entry/1" + previous + payload.encode()).digest()
        key = scene.old if index == at else signer
        entries[index] = {
            "payload": payload,
            "hash": digest.hex(),
            "signature": key.sign(digest, context=b"fedrec/ledger/1").hex(),
        }


@pytest.mark.parametrize(
    ("tamper", "reason"),
    [
        (drop_the_exchange, "hash doesn't follow|one is missing"),
        (change_the_new_key, "didn't sign this exchange"),
        (forge_the_new_keys_signature, "the new key didn't sign"),
        (name_another_merchant, "key of another merchant"),
    ],
)
def test_a_forged_exchange_is_named(
    scene: Scene, tmp_path: Path, tamper: Callable[[list[dict[str, Any]], Scene], None], reason: str
) -> None:
    bundle = scene.bundle()
    part = next(part for part in bundle["body"]["merchants"] if part["merchant"] == "m0")
    tamper(part["entries"], scene)
    found = outcome(bundle, tmp_path)
    assert re.search(reason, found.failures["m0"]), found.failures


def test_a_fresh_ledger_of_the_new_key_is_found(scene: Scene, tmp_path: Path) -> None:
    """A merchant would hide what it spent under the old key."""
    create_ledger(tmp_path / "fresh.sqlite", signer=scene.cohort.identities["m0"], count=scene.cohort.count)
    bundle = scene.bundle()
    evidence = Evidence(
        merchants=(MerchantRecord("m0", scene.cohort.identities["m0"].public, tmp_path / "fresh.sqlite"),),
    )
    fresh = json.loads(json.dumps(body_of(evidence)))["merchants"][0]
    part = next(part for part in bundle["body"]["merchants"] if part["merchant"] == "m0")
    part |= {name: fresh[name] for name in ("entries", "summary")}
    assert "receipt" in outcome(bundle, tmp_path).failures["m0"]
    # And two ledgers that go back to one key are never two merchants.
    bundle = scene.bundle()
    parts = bundle["body"]["merchants"]
    twin = dict(next(part for part in parts if part["merchant"] == "m0"))
    parts.append(twin | {"merchant": "m9", "public_key": scene.old.public.hex()})
    assert "ledgers of the same key" in outcome(bundle, tmp_path).failures[""]


def test_a_receipt_for_the_old_key_counts_and_a_thief_of_it_makes_none(scene: Scene) -> None:
    ledger = scene.cohort.merchants["m0"].ledger
    receipts = [
        r for r in read_receipts(scene.folder / "receipts.sqlite") if r.head.statement.merchant == "m0"
    ]
    for receipt in receipts:
        ledger.accept_receipt(receipt)
    stated = receipts[0].head.statement.model_copy(update={"head_hash": "ab" * 32})
    forged = signed_receipt(stated, signer=scene.old, server=scene.cohort.server)
    with pytest.raises(ProtocolError, match="didn't sign"):
        ledger.accept_receipt(forged)
    assert ledger.usable


def signed_receipt(stated: LedgerHead, *, signer: SigningIdentity, server: SigningIdentity) -> Receipt:
    head = SignedLedgerHead(
        statement=stated, signature=signer.sign(stated.canonical_bytes(), context=LEDGER_HEAD_CONTEXT).hex()
    )
    signature = server.sign(head.canonical_bytes(), context=RECEIPT_CONTEXT).hex()
    return Receipt(head=head, server_key=server.public.hex(), signature=signature)


def test_the_old_key_takes_part_no_more(scene: Scene) -> None:
    """A plan that still names the old key is refused, whoever made it."""
    old = tuple(
        Peer(name=peer.name, signing_key=scene.old.public.hex()) if peer.name == "m0" else peer
        for peer in scene.cohort.roster
    )
    with pytest.raises(RefusedError, match="exchanged its key"):
        scene.cohort.merchants["m0"].join(JoinRequest(plan=scene.cohort.plan(roster=old)))
