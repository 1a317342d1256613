"""An adaptive server against the outsider's checker: a lifetime that only composing would allow."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedrec.clients.policy import MerchantPolicy
from fedrec.privacy.accounting.entry_encoding import payload_of
from fedrec.privacy.accounting.events import Event
from fedrec.privacy.accounting.pld import epsilon_pld
from fedrec.privacy.audit.verify.epsilon_checks import History, check_epsilons
from fedrec.privacy.audit.verify.outcome import Merchant
from fedrec.privacy.audit.verify.policy_checks import check_policies
from tests.support.ledgers import CHARGE, VERSION, open_ledger

POLICY = MerchantPolicy(lifetime_epsilon=8.0, lifetime_delta=1e-5)
FIRST = replace(
    CHARGE, sample_rate=0.05, guaranteed_noise_multiplier=1.0, broken_noise_multiplier=0.4, rounds=1,
    steps=300, beta=1e-14, policy_hash=POLICY.hash,
)  # fmt: skip


def test_a_lifetime_that_only_composing_allows_is_found_by_an_outsider(tmp_path: Path) -> None:
    """The server chose the second training after the first one's result; a merchant let it through."""
    second = replace(FIRST, training_id="22" * 32, steps=200)
    events = [Event(0.05, 1.0, 300), Event(0.05, 1.0, 200)]
    assert epsilon_pld(events, delta=1e-5 - 1e-11) <= 8.0, "composed, it would keep within the cap"
    with open_ledger(tmp_path / "l", 30.0, 1e-5) as ledger:
        for charge in (FIRST, second):
            ledger.charge(charge, version=VERSION)
        entries: list[dict[str, Any]] = [json.loads(payload_of(entry)) for entry in ledger.entries()]
    entries[0]["count"]["policy_hash"] = POLICY.hash
    assert not list(check_epsilons(entries)), "the figures themselves are true"

    def broken() -> set[tuple[int | None, str]]:
        merchant = Merchant("m", "00", {"policies": [POLICY.rules]}, entries=entries)
        return {(p.entry, p.reason) for p in check_policies(merchant, {}) if "lifetime" in p.reason}

    assert {number for number, _ in broken()} == {1, 2, 3}, "another cap than the policy's was used"
    for number, entry in enumerate(entries, start=1):
        entry["epsilons"] |= {
            "cap_epsilon": 8.0,
            "delta": 1e-5,
            "spent_before": History.of(entries[: number - 1]).spent(epsilon=8.0, delta=1e-5),
            "spent_after": History.of(entries[:number]).spent(epsilon=8.0, delta=1e-5),
        }
    assert not list(check_epsilons(entries))
    assert broken() == {(3, "it breaks the policy's rule 'lifetime_epsilon'")}
    # What composing gives, written down in its place, keeps the rule, and isn't what the history gives.
    entries[2]["epsilons"]["spent_after"] = epsilon_pld(events, delta=1e-5)
    assert not broken()
    (problem,) = check_epsilons(entries)
    assert problem.entry == 3 and "lifetime filter, after it" in problem.reason


def test_a_training_that_changes_after_its_first_round_is_found(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "l") as ledger:
        for number in (1, 2, 3):
            ledger.charge(replace(CHARGE, round_number=number, rounds=3), version=VERSION)
        entries: list[dict[str, Any]] = [json.loads(payload_of(entry)) for entry in ledger.entries()]
    entries[2]["charge"]["rounds"] = 1
    assert any("those its training began with" in problem.reason for problem in check_epsilons(entries))
    for entry in entries[1:]:
        entry["charge"]["rounds"] = 1
    assert any("charged 2 of 1 steps" in problem.reason for problem in check_epsilons(entries))
