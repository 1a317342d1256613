"""The verifier reads no entry of another form, be it signed by its merchant in its place in the chain."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from fedrec.privacy.accounting.entry_contents import Answer
from fedrec.privacy.accounting.entry_encoding import SIGNING_CONTEXT, payload_of
from fedrec.privacy.accounting.ledger import Ledger
from fedrec.privacy.audit.verify.encoding import canonical, parsed
from fedrec.privacy.audit.verify.ledger import DUPLICATES, check_chain
from fedrec.privacy.audit.verify.outcome import Merchant, Problem
from fedrec.privacy.identity import SigningIdentity, verify
from tests.support.ledgers import CHARGE, VERSION, made_ledger

Entry = dict[str, Any]
SOUND = replace(CHARGE, round_number=1, adjacency="add-or-remove", duplicate_policy=DUPLICATES["record"])


@pytest.fixture(scope="module")
def identity() -> SigningIdentity:
    return SigningIdentity.generate()


@pytest.fixture(scope="module")
def entries(tmp_path_factory: pytest.TempPathFactory, identity: SigningIdentity) -> list[Entry]:
    """A count, a charge and an answer."""
    path = made_ledger(tmp_path_factory.mktemp("forms") / "l", identity)
    with Ledger(path, signer=identity, verify=verify) as ledger:
        ledger.charge(SOUND, version=VERSION)
        ledger.answer(Answer(training_id=SOUND.training_id, round_number=1, request_hash="12" * 32))
        return [parsed(payload_of(entry)) for entry in ledger.entries()]


def checked(entries: Sequence[Entry], identity: SigningIdentity) -> list[Problem]:
    """What the verifier says of entries that their merchant chained and signed."""
    previous = hashlib.sha256(b"fedrec/ledger/genesis/1" + identity.public).digest()
    rows = []
    for entry in entries:
        payload = canonical(entry)
        previous = hashlib.sha256(b"fedrec/ledger/entry/1" + previous + payload).digest()
        signature = identity.sign(previous, context=SIGNING_CONTEXT)
        row = {"payload": payload.decode(), "hash": previous.hex(), "signature": signature.hex()}
        rows.append(row)
    merchant = Merchant("m0", identity.public.hex(), {"entries": rows})
    return list(check_chain(merchant, made_at=datetime.now(UTC)))


@pytest.mark.parametrize(
    ("number", "part", "changes", "says"),
    [
        (1, "count", {"size": 0}, "size is out of range"),
        (1, "count", {"sigma": 3.9}, "sigma is out of range"),
        (1, "count", {"sigma": 1.1e6}, "sigma is out of range"),
        (1, "count", {"delta": 1.0}, "delta is out of range"),
        (1, "count", {"unit": "photo"}, "unit is out of range"),
        (1, "count", {"number": True}, "number has a wrong type"),
        (1, "count", {"more": 1}, "its count has other fields"),
        (2, "charge", {"sample_rate": 0.0}, "sample_rate is out of range"),
        (2, "charge", {"sample_rate": 1.1}, "sample_rate is out of range"),
        (2, "charge", {"planned_noise_multiplier": -1.0}, "planned_noise_multiplier is out of range"),
        (2, "charge", {"planned_noise_multiplier": 1.1e6}, "planned_noise_multiplier is out of range"),
        (2, "charge", {"beta": 0.0}, "beta is out of range"),
        (2, "charge", {"delta": 1.0}, "delta is out of range"),
        (2, "charge", {"steps": 0}, "steps is out of range"),
        (2, "charge", {"rounds": 10**9}, "steps is out of range"),
        (2, "charge", {"step": -1}, "step is out of range"),
        (2, "charge", {"clip": 0.0}, "clip is out of range"),
        (2, "charge", {"scale": 0}, "scale is out of range"),
        (2, "charge", {"scale": 2**40 + 1}, "scale is out of range"),
        (2, "charge", {"dimension": 10**9 + 1}, "dimension is out of range"),
        (2, "charge", {"dimension": 0}, "dimension is out of range"),
        (2, "charge", {"min_contributors": 0}, "min_contributors is out of range"),
        (2, "charge", {"colluders": -1}, "colluders is out of range"),
        (2, "charge", {"round_number": 0}, "round_number is out of range"),
        (2, "charge", {"rounds": 1, "round_number": 3}, "round_number is out of range"),
        # A round of site figures includes every record, in one step.
        (2, "charge", {"rounds": 1, "round_number": 2}, "sample_rate is out of range"),
        (2, "charge", {"rounds": 1, "round_number": 2, "sample_rate": 1.0, "steps": 2}, "steps is out of"),
        (2, "charge", {"mode": "public"}, "mode is out of range"),
        (2, "charge", {"clipping": "none"}, "clipping is out of range"),
        (2, "charge", {"adjacency": "replace-one"}, "adjacency is out of range"),
        (2, "charge", {"unit": "photo"}, "unit is out of range"),
        (2, "charge", {"duplicate_policy": "kept"}, "duplicate_policy is out of range"),
        (2, "charge", {"seeded": 0}, "seeded has a wrong type"),
        (2, "charge", {"steps": True}, "steps has a wrong type"),
        (2, "charge", {"more": 1}, "its charge has other fields"),
        (2, "epsilons", {"more": 1}, "its epsilons have other fields"),
        (2, "epsilons", {"spent_after": -0.1}, "spent_after has a wrong type or sign"),
        (2, "epsilons", {"spent_before": True}, "spent_before has a wrong type or sign"),
        (2, "epsilons", {"own_epsilon": "1"}, "own_epsilon has a wrong type or sign"),
        (2, "epsilons", {"delta": 0.0}, "delta of its epsilons is outside (0, 1)"),
        (2, "epsilons", {"delta": 1.0}, "delta of its epsilons is outside (0, 1)"),
        (2, "epsilons", {"cap_epsilon": 0.0}, "cap of its epsilons is not a positive number"),
        (2, "epsilons", {"cap_epsilon": True}, "cap of its epsilons is not a positive number"),
        (2, "", {"data": "xy"}, "data is out of range"),
        (2, "", {"more": 1}, "it has other fields"),
        (3, "answer", {"round_number": 0}, "round_number is out of range"),
        (3, "answer", {"request_hash": 5}, "request_hash has a wrong type"),
    ],
)
def test_an_entry_of_another_form_is_not_read(
    entries: list[Entry], identity: SigningIdentity, number: int, part: str, changes: Entry, says: str
) -> None:
    changed = [*entries]
    before = changed[number - 1]
    changed[number - 1] = before | (changes if not part else {part: before[part] | changes})
    (problem,) = checked(changed, identity)
    assert problem.entry == number and says in problem.reason, problem
    assert not checked(entries, identity)
