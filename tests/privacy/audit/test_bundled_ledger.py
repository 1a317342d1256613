"""What an audit's pages read of a bundle has types: another key, type or number is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedrec.clients.merchant_home import MerchantHome
from fedrec.privacy.accounting.entry_encoding import payload_of, read_entry
from fedrec.privacy.accounting.ledger_entries import CountEntry
from fedrec.privacy.audit.bundle import Evidence, MerchantRecord, body_of
from fedrec.privacy.audit.bundled_ledger import BundledLedger
from tests.support.cohort import Cohort


@pytest.fixture(scope="module")
def merchant(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The part of a merchant of a bundle, after a training of two rounds."""
    folder = tmp_path_factory.mktemp("cohort")
    cohort = Cohort(folder)
    cohort.train(cohort.plan(rounds=2))
    record = MerchantRecord(
        name="m0",
        public=cohort.identities["m0"].public,
        ledger=MerchantHome(Path(folder / "m0")).ledger,
        policies=(cohort.policy.rules,),
    )
    found: dict[str, Any] = body_of(Evidence(merchants=(record,)))["merchants"][0]
    return found


def test_entries_are_read_to_what_they_were_written_from(merchant: dict[str, Any]) -> None:
    found = BundledLedger.read(merchant)
    payloads = [row["payload"] for row in merchant["entries"]]
    told = [payload_of(entry) for entry in found.costs]
    kinds = [json.loads(payload)["kind"] for payload in payloads]
    assert told == [
        payload for payload, kind in zip(payloads, kinds, strict=True) if kind in ("charge", "count")
    ]
    assert [entry.charge.round_number for entry in found.charges] == [1, 2]
    assert all(isinstance(entry, CountEntry) for entry in found.counts) and found.counts
    (training,) = found.trainings
    # The training and its count together cost more than the largest training by itself.
    assert training.epsilon is not None and found.summary.training_epsilon is not None
    assert training.epsilon > found.summary.training_epsilon
    assert found.summary.model_dump(mode="json") == merchant["summary"]


@pytest.mark.parametrize(
    "change",
    [
        lambda summary: summary.pop("spent"),
        lambda summary: summary.update(spend=1.0),
        lambda summary: summary.update(spent="1.0"),
        lambda summary: summary.update(spent=math.nan),
        lambda summary: summary.update(charges=2.5),
        lambda summary: summary.update(charges=True),
    ],
)
def test_a_summary_of_another_form_is_refused(
    merchant: dict[str, Any], change: Callable[[dict[str, Any]], object]
) -> None:
    summary = dict(merchant["summary"])
    change(summary)
    with pytest.raises(ValueError, match="LedgerSummary"):
        BundledLedger.read(merchant | {"summary": summary})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda body: body["charge"].pop("delta"), "missing or unknown fields"),
        (lambda body: body["charge"].update(epsilon=1.0), "missing or unknown fields"),
        (lambda body: body["charge"].update(sample_rate="0.1"), "field sample_rate has a wrong type"),
        (lambda body: body["charge"].update(steps=True), "field steps has a wrong type"),
        (lambda body: body["epsilons"].update(spent_after="1"), "field spent_after has a wrong type"),
        (lambda body: body.update(kind="gift"), "its kind is unknown"),
        (lambda body: body.pop("sequence"), "has no number"),
        (lambda body: body.update(sequence=True), "has no number"),
    ],
)
def test_an_entry_of_another_form_is_refused(
    merchant: dict[str, Any], change: Callable[[dict[str, Any]], object], reason: str
) -> None:
    bodies = [json.loads(row["payload"]) for row in merchant["entries"]]
    body = next(body for body in bodies if body["kind"] == "charge")
    change(body)
    with pytest.raises(ValueError, match=reason):
        read_entry(json.dumps(body), digest=bytes(32), signature=bytes(64))
