"""Trainings with witnesses on the committee: who may be absent, and what witnesses never do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedrec.clients.merchant_home import MerchantHome
from fedrec.errors import RefusedError
from fedrec.privacy.audit.bundle import Evidence, MerchantRecord, body_of, canonical, seal
from fedrec.privacy.audit.verify import verify as verify_bundle
from fedrec.protocol.messages import JoinRequest, TrainRequest
from fedrec.server.attendance import CohortIncompleteError
from fedrec.server.receipts import read_receipts
from fedrec.server.report.report_page import render
from tests.support.cohort import Cohort, InProcessGrid
from tests.support.training_reports import changed


class ThinningGrid(InProcessGrid):
    """A grid from which some nodes vanish for good after the first round's openings."""

    gone: frozenset[int] = frozenset()

    def get_node_ids(self) -> list[int]:
        past = any(message.metadata.message_type == "query.unmask" for message in self.requests)
        return [node for node in range(1, self.size + 1) if not (past and node in self.gone)]


def thinning(cohort: Cohort, gone: set[str]) -> ThinningGrid:
    def drop(kind: str, group: str, index: int) -> bool:
        return cohort.parties[index] in gone and group not in ("1", "join")

    grid = ThinningGrid(cohort.app(), len(cohort.parties), drop=drop)
    grid.gone = frozenset(cohort.parties.index(name) + 1 for name in gone)
    return grid


def test_four_merchants_lose_one_for_good_and_go_on(tmp_path: Path) -> None:
    """With five witnesses; by the same numbers without any, the fourth is the last to be missed."""
    cohort = Cohort(tmp_path / "a", witnesses=5)
    plan = cohort.plan()
    assert (plan.min_contributors, len(plan.committee), plan.threshold, plan.corrupt_members) == (3, 9, 7, 3)
    coordinator, records = cohort.coordinator(plan, thinning(cohort, {"m2"}))
    coordinator.run()
    assert [record.opened for record in records] == [True, True, True]
    assert [record.merchants for record in records] == [
        ("m0", "m1", "m2", "m3"), ("m0", "m1", "m3"), ("m0", "m1", "m3"),
    ]  # fmt: skip
    # The merchant and a witness too: as many as the threshold leaves.
    other = Cohort(tmp_path / "b", witnesses=5)
    coordinator, records = other.coordinator(other.plan(), thinning(other, {"m2", "w4"}))
    coordinator.run()
    assert [record.opened for record in records] == [True, True, True]


def test_three_merchants_of_which_one_answers_no_opening_go_on(tmp_path: Path) -> None:
    """Its upload is in every sum. Three merchants alone lose every round that way."""
    for witnesses in (5, 0):
        cohort = Cohort(tmp_path / str(witnesses), size=3, witnesses=witnesses)
        plan = cohort.plan(**({} if witnesses else {"threshold": 3}))
        grid = cohort.grid(drop=lambda kind, group, index: kind == "query.unmask" and index == 1)
        coordinator, records = cohort.coordinator(plan, grid)
        coordinator.run()
        assert [record.opened for record in records] == [witnesses == 5] * 3
        assert {record.merchants for record in records} == {("m0", "m1", "m2")}


def test_witnesses_change_no_model_send_no_upload_and_are_charged_nothing(tmp_path: Path) -> None:
    with_witnesses, without = Cohort(tmp_path / "a", witnesses=5), Cohort(tmp_path / "b")
    grid = with_witnesses.grid()
    plan = with_witnesses.plan()
    ours, records = with_witnesses.train(plan, grid)
    theirs, _ = without.train(without.plan())
    np.testing.assert_array_equal(ours, theirs)
    assert ours.any()
    assert {record.contributors for record in records} == {4} and {r.dropouts for r in records} == {0}
    asked = {
        (message.metadata.message_type, with_witnesses.parties[message.metadata.dst_node_id - 1])
        for message in grid.requests
    }
    assert {name for kind, name in asked if kind == "train"} == set(with_witnesses.names)
    assert {name for kind, name in asked if kind == "query.unmask"} == set(with_witnesses.parties)
    for name in with_witnesses.watchers:
        assert with_witnesses.last_receipt(name) is None
        files = {path.name for path in (tmp_path / "a" / name).iterdir()}
        assert files == {"identity.key", "store.sqlite", "openings.sqlite", "requests.bin"}
        stored = with_witnesses.watchers[name].store.training(plan.training_id)
        assert stored.closed and stored.secrets.sealing_private is None


def test_a_witness_takes_no_step(tmp_path: Path) -> None:
    """Whoever asks."""
    cohort = Cohort(tmp_path, witnesses=5)
    plan = cohort.plan()
    witness = cohort.watchers["w0"]
    witness.join(JoinRequest(plan=plan))
    request = TrainRequest(training_id=plan.training_id, round_number=1, model_hash="0" * 64, sealing_keys=())
    with pytest.raises(RefusedError, match="no photos"):
        witness.train(request, {})


def test_no_round_is_charged_while_too_few_members_are_connected(tmp_path: Path) -> None:
    """All four merchants are there. Without three witnesses the sum couldn't be opened."""
    cohort = Cohort(tmp_path, witnesses=5)
    coordinator, records = cohort.coordinator(cohort.plan(), thinning(cohort, {"w0", "w1", "w2"}))
    with pytest.raises(CohortIncompleteError, match=r"6 committee members are connected, 7 are needed.*w0"):
        coordinator.run()
    assert [record.opened for record in records] == [True]
    assert [len(cohort.charges(name)) for name in cohort.names] == [1] * 4


def test_reports_and_audits_name_witnesses_as_what_they_are(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path, witnesses=5)
    plan = cohort.plan(rounds=1)
    cohort.train(plan)
    evidence = Evidence(
        merchants=tuple(
            MerchantRecord(
                name=name,
                public=cohort.identities[name].public,
                ledger=MerchantHome(tmp_path / name).ledger,
                policies=(cohort.policy.rules,),
            )
            for name in cohort.names
        ),
        plans=(plan,),
        receipts=tuple(read_receipts(tmp_path / "receipts.sqlite")),
    )
    sealed = seal(body_of(evidence), signer=cohort.server, pages={})
    (tmp_path / "audit.json").write_bytes(canonical(sealed))
    outcome = verify_bundle(tmp_path / "audit.json")
    assert not outcome.failures and {line.partition(":")[0] for line in outcome.lines} >= set(cohort.names)
    for name, witness in cohort.watchers.items():
        assert outcome.keys[f"witness {name}"] == witness.identity.public.hex()
        assert f"merchant {name}" not in outcome.keys
        assert not any(line.startswith(f"{name}:") or name in line for line in outcome.lines)
    named: dict[str, Any] = {"witnesses": list(cohort.watchers), "corrupt_witnesses": 2}
    shown = render(changed(secure_aggregation=named))
    assert "w0, w1, w2, w3, w4" in shown
