"""Whole rounds between a real server and real merchants: exactness, dropouts, restarts, hostile servers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message

from fedrec.errors import RefusedError, TrainingError
from fedrec.privacy.accounting import pld, rdp
from fedrec.privacy.accounting.loss_composition import LossSum
from fedrec.privacy.accounting.privacy_loss import Losses
from fedrec.privacy.randomness import Randomness
from fedrec.protocol.messages import (
    CloseRequest,
    JoinReply,
    JoinRequest,
    TrainReply,
    TrainRequest,
    UnmaskRequest,
)
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.refusals import Refusal
from fedrec.protocol.statements import SignedCommitment
from fedrec.protocol.training_report.round_line import RoundRecord
from fedrec.protocol.transport import Body, pack, unpack
from fedrec.server.checkpoint import Checkpoint
from tests.support.cheating_parties import expected_without
from tests.support.cohort import DIMENSION, Cohort, InProcessGrid, change_means

CLEAR = {"scheme": "none", "committee": (), "threshold": 0}


@pytest.mark.parametrize(
    "mode", [{}, {"mode": "off", "noise_multiplier": None}, {"mode": "local", "local_steps": 2}]
)
def test_clear_and_encrypted_trainings_end_at_the_same_model(tmp_path: Path, mode: dict[str, object]) -> None:
    cohort = Cohort(tmp_path)
    # In clear, no noise could be taken off a sum that has more contributors than it needs.
    all_come = {"min_contributors": cohort.size, **mode}
    encrypted, records = cohort.train(cohort.plan(**all_come))
    clear, _ = cohort.train(cohort.plan(**all_come, **CLEAR))
    assert [record.opened for record in records] == [True] * 3
    assert np.abs(encrypted).max() > 0
    np.testing.assert_array_equal(encrypted, clear)


def test_unseeded_trainings_differ(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path, seed=None)
    first, _ = cohort.train(cohort.plan())
    second, _ = cohort.train(cohort.plan())
    assert not np.array_equal(first, second)


def test_an_entry_says_whether_the_very_noise_of_its_round_was_seeded(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path, seed=None)
    change_means(
        cohort.merchants["m1"],
        randomness_for=lambda plan, number: (
            Randomness.seeded(1, number) if number == 2 else Randomness.from_os()
        ),
    )
    cohort.train(cohort.plan())
    seeded = {name: [entry.charge.seeded for entry in cohort.charges(name)] for name in cohort.names}
    assert seeded == {name: [False, name == "m1", False] for name in cohort.names}
    seeds = Cohort(tmp_path / "seeds", seed=3)
    seeds.train(seeds.plan(rounds=1))
    assert all(seeds.charges(name)[0].charge.seeded for name in seeds.names)


def test_a_restarted_merchant_composes_what_is_left_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    composed = 0
    real = LossSum.composed

    def compose(total: LossSum) -> Losses:
        nonlocal composed
        composed += 1
        return real(total)

    def forget() -> None:
        """Be as a new process, which has none of an old one's caches."""
        for kept in (*vars(pld).values(), *vars(rdp).values()):
            if hasattr(kept, "cache_clear"):
                kept.cache_clear()

    monkeypatch.setattr(LossSum, "composed", compose)
    forget()
    cohort = Cohort(tmp_path, size=3)
    coordinator, _ = cohort.coordinator(cohort.plan(rounds=5))
    counts: list[int] = []

    def after(record: RoundRecord) -> None:
        nonlocal composed
        counts.append(composed)
        composed = 0
        if record.round == 2:
            forget()
            for name in cohort.names:
                cohort.restart(name)

    coordinator.on_round = after
    coordinator.run()
    # At the join, and in the first round after the restart; every other charge is looked up.
    assert counts[0] > 0 and counts[2] > 0
    assert [counts[1], *counts[3:]] == [0, 0, 0]


def test_an_entry_is_enough_to_compute_its_sensitivity_again(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    cohort.train(cohort.plan(rounds=1))
    charge = cohort.charges("m0")[0].charge
    assert charge.dimension == DIMENSION
    rounding = charge.beta - 2.0**-60
    spread = math.sqrt(2 * math.log(1 / rounding)) * (charge.scale + math.sqrt(charge.dimension) / 2)
    again = (1 + 2.0**-16) * math.sqrt(charge.scale**2 + charge.dimension / 4 + spread)
    assert charge.sensitivity == pytest.approx(again, rel=1e-12)


def test_the_opened_sum_is_that_of_the_contributors_alone(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path, size=5)
    plan = cohort.plan(rounds=1)
    grid = InProcessGrid(
        cohort.app(), 5, drop=lambda kind, group, index: (kind, group, index) == ("train", "1", 2)
    )
    with_dropout, records = cohort.train(plan, grid)
    assert (records[0].contributors, records[0].dropouts, records[0].opened) == (4, 1, True)

    # What isn't needed of their noise is gone to the last unit.
    np.testing.assert_array_equal(with_dropout, expected_without(tmp_path / "others", 5, {2}))


def test_a_round_below_the_minimum_is_charged_not_opened_and_training_goes_on(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)

    def drop(kind: str, group: str, index: int) -> bool:
        return kind == "train" and group == "2" and index < 2

    grid = InProcessGrid(cohort.app(), 4, drop=drop)
    _, records = cohort.train(cohort.plan(), grid)
    assert [record.opened for record in records] == [True, False, True]
    assert "2 contributors" in (records[1].reason or "")
    charged = [[entry.charge.round_number for entry in cohort.charges(name)] for name in cohort.names]
    assert charged == [[1, 3], [1, 3], [1, 2, 3], [1, 2, 3]]


def test_too_few_members_lose_the_round_and_nothing_is_asked_twice(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    grid = InProcessGrid(
        cohort.app(), 4, drop=lambda kind, group, index: kind == "query.unmask" and group == "1" and index < 2
    )
    _, records = cohort.train(cohort.plan(rounds=2), grid)
    assert [record.opened for record in records] == [False, True]
    asked = [
        m for m in grid.requests if m.metadata.message_type == "query.unmask" and m.metadata.group_id == "1"
    ]
    assert len(asked) == 4


def test_a_restart_between_phases_answers_the_same(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    grid = InProcessGrid(cohort.app(), 4)
    plan = cohort.plan(rounds=1)
    cohort.train(plan, grid)
    # Closed trainings answer nothing any more, so the replay is taken before the close of a second one.
    second = cohort.plan(rounds=1)
    coordinator, _ = cohort.coordinator(second, grid)
    coordinator.close = lambda: None  # type: ignore[method-assign]
    coordinator.run()
    request = [m for m in grid.requests if m.metadata.message_type == "train"][-4]
    body, blobs = unpack(request.content, TrainRequest, max_blob_bytes=10**6)
    first_reply = cohort.merchants["m0"].train(body, blobs)
    cohort.restart("m0")
    assert cohort.merchants["m0"].train(body, blobs) == first_reply
    assert len(cohort.charges("m0")) == 2


def _open_round(
    cohort: Cohort, plan: TrainingPlan
) -> tuple[InProcessGrid, list[UnmaskRequest], list[dict[str, bytes]]]:
    """Run one round up to the unmask requests, which are caught and not delivered."""
    grid = InProcessGrid(cohort.app(), cohort.size, drop=lambda kind, group, index: kind == "query.unmask")
    coordinator, _ = cohort.coordinator(plan, grid)
    coordinator.close = lambda: None  # type: ignore[method-assign]
    coordinator.run()
    caught = [m for m in grid.requests if m.metadata.message_type == "query.unmask"]
    parsed = [unpack(m.content, UnmaskRequest, max_blob_bytes=10**7) for m in caught]
    return grid, [body for body, _ in parsed], [blobs for _, blobs in parsed]


def _subset(
    request: UnmaskRequest, blobs: dict[str, bytes], keep: list[int]
) -> tuple[UnmaskRequest, dict[str, bytes]]:
    smaller = request.model_copy(update={"survivors": tuple(request.survivors[i] for i in keep)})
    return smaller, {f"box-{n}": blobs[f"box-{i + 1}"] for n, i in enumerate(keep, start=1)}


def test_a_member_refuses_to_open_one_merchant(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    _, requests, blobs = _open_round(cohort, cohort.plan(rounds=1))
    for keep in ([0], [0, 1]):
        with pytest.raises(RefusedError, match="3 are required"):
            cohort.merchants["m0"].unmask(*_subset(requests[0], blobs[0], keep))
    with pytest.raises(RefusedError, match="twice"):
        cohort.merchants["m0"].unmask(*_subset(requests[0], blobs[0], [0, 0, 0]))


def test_a_member_answers_one_survivor_set_per_round_even_after_a_restart(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    _, requests, blobs = _open_round(cohort, cohort.plan(rounds=1))
    answer = cohort.merchants["m0"].unmask(requests[0], blobs[0])
    cohort.restart("m0")
    assert cohort.merchants["m0"].unmask(requests[0], blobs[0]) == answer
    with pytest.raises(RefusedError, match="different request"):
        cohort.merchants["m0"].unmask(*_subset(requests[0], blobs[0], [0, 1, 2]))


def test_a_member_stopped_between_its_mark_and_its_answer_gives_none(tmp_path: Path) -> None:
    class Stopped(Exception): ...  # noqa: N818

    def stop(name: str, event: str) -> None:
        if event == "marked":
            raise Stopped

    cohort = Cohort(tmp_path, on_event=stop)
    _, requests, blobs = _open_round(cohort, cohort.plan(rounds=1))
    with pytest.raises(Stopped):
        cohort.merchants["m0"].unmask(requests[0], blobs[0])
    cohort.restart("m0")
    for request, parts in (_subset(requests[0], blobs[0], [0, 1, 2]), (requests[0], blobs[0])):
        with pytest.raises(RefusedError, match="isn't tried again"):
            cohort.merchants["m0"].unmask(request, parts)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("round_number", 2, "another training or round"),
        ("ciphertext_hash", "0" * 64, "not signed"),
        ("model_hash", "0" * 64, "not signed"),
        ("merchant", "m1", "not signed"),
        ("merchant", "stranger", "not on the roster"),
    ],
)
def test_a_member_checks_every_commitment(tmp_path: Path, field: str, value: object, message: str) -> None:
    cohort = Cohort(tmp_path)
    _, requests, blobs = _open_round(cohort, cohort.plan(rounds=2))
    first = requests[0].survivors[0]
    forged = SignedCommitment(
        commitment=first.commitment.model_copy(update={field: value}), signature=first.signature
    )
    request = requests[0].model_copy(update={"survivors": (forged, *requests[0].survivors[1:])})
    with pytest.raises(Exception, match=message):
        cohort.merchants["m0"].unmask(request, blobs[0])


def test_shares_sealed_for_another_member_or_round_are_never_added(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    plan = cohort.plan(rounds=2)
    _, requests, blobs = _open_round(cohort, plan)
    first, second = requests[0], next(r for r in requests if r.round_number == 2)
    reply, sent = cohort.merchants["m0"].unmask(first, blobs[1])  # m1's boxes
    assert (set(reply.complaints), sent) == (set(cohort.names), {})
    reply, sent = cohort.merchants["m0"].unmask(second, blobs[0])  # the first round's boxes
    assert (set(reply.complaints), sent) == (set(cohort.names), {})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"threshold": 2}, "two different sets"),
        ({"min_contributors": 2}, "fewer than 2 honest"),
        ({"dimension": DIMENSION + 1}, "parameters"),
        ({"scheme": "none", "committee": (), "threshold": 0}, "schemes"),
        ({"mode": "off", "noise_multiplier": None}, "modes"),
        ({"colluders": 0}, "least_colluders"),
        ({"scheme": "rot13"}, "schemes"),
    ],
)
def test_a_merchant_refuses_a_loose_plan(tmp_path: Path, changes: dict[str, object], reason: str) -> None:
    from fedrec.clients.policy import MerchantPolicy

    cohort = Cohort(tmp_path, policy=MerchantPolicy(least_contributors=1))
    with pytest.raises(RefusedError, match=reason):
        cohort.merchants["m0"].join(JoinRequest(plan=cohort.plan(**changes)))
    assert cohort.charges("m0") == []


def test_a_swapped_roster_key_is_refused(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    swapped = (cohort.roster[0].model_copy(update={"signing_key": "ab" * 32}), *cohort.roster[1:])
    with pytest.raises(RefusedError, match="another key"):
        cohort.merchants["m0"].join(JoinRequest(plan=cohort.plan(roster=swapped)))


def _tampered(reply: Message, change: Callable[[dict[str, bytes]], None]) -> Message:
    body, blobs = unpack(reply.content, TrainReply, max_blob_bytes=10**7)
    change(blobs)
    reply.content = pack(body, blobs)
    return reply


@pytest.mark.parametrize("what", ["flip", "truncate", "drop"])
def test_a_bad_upload_is_left_out_and_the_round_goes_on(tmp_path: Path, what: str) -> None:
    cohort = Cohort(tmp_path)

    def change(blobs: dict[str, bytes]) -> None:
        data = blobs["ciphertext"]
        if what == "flip":
            blobs["ciphertext"] = data[:-1] + bytes([data[-1] ^ 1])
        elif what == "truncate":
            blobs["ciphertext"] = data[:-8]
        else:
            del blobs["ciphertext"]

    def tamper(reply: Message, index: int) -> Message:
        is_upload = not reply.has_error() and "train" in reply.metadata.message_type
        return _tampered(reply, change) if index == 1 and is_upload else reply

    _, records = cohort.train(cohort.plan(rounds=1), InProcessGrid(cohort.app(), 4, tamper=tamper))
    assert (records[0].opened, records[0].contributors) == (True, 3)


def test_a_round_number_is_never_run_twice(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    plan = cohort.plan(rounds=2)
    coordinator, records = cohort.coordinator(plan)
    coordinator.checkpoint.reserve(1)
    coordinator.run()
    assert [record.round for record in records] == [2]
    with pytest.raises(TrainingError, match="never run twice"):
        coordinator.checkpoint.reserve(2)


def test_a_member_that_is_away_at_a_restart_keeps_its_place_and_comes_back(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path, size=5)
    plan = cohort.plan(rounds=4, threshold=4)
    away: set[int] = set()

    class Late(InProcessGrid):
        def get_node_ids(self) -> Iterable[int]:
            return [node for node in super().get_node_ids() if node - 1 not in away]

    coordinator, records = cohort.coordinator(plan, Late(cohort.app(), cohort.size))

    class Stopped(Exception): ...  # noqa: N818

    def stop(record: RoundRecord) -> None:
        records.append(record)
        raise Stopped

    coordinator.on_round = stop
    with pytest.raises(Stopped):
        coordinator.run()
    # The server starts again while m4, of the committee, is away; it comes back after two more rounds.
    away.add(4)
    again, later = cohort.coordinator(plan, Late(cohort.app(), cohort.size))

    def come_back(record: RoundRecord) -> None:
        later.append(record)
        if record.round == 3:
            away.clear()

    again.on_round = come_back
    again.run()
    # The last round is told again: a crash may have come before its record was kept.
    assert later[0] == records[0]
    assert [(record.round, record.opened, record.contributors) for record in later[1:]] == [
        (2, True, 4),
        (3, True, 4),
        (4, True, 5),
    ]


def test_a_train_reply_has_only_the_fields_of_the_protocol(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    grid = InProcessGrid(cohort.app(), 4)
    cohort.train(cohort.plan(rounds=1), grid)
    uploads = [m for m in grid.replies if not m.has_error() and m.metadata.message_type == "train"]
    assert len(uploads) == 4
    sizes = set()
    for message in uploads:
        body, blobs = unpack(message.content, TrainReply, max_blob_bytes=10**7)
        assert set(body.model_dump()) == {"merchant", "refused", "signed", "head"}
        assert set(blobs) == {"ciphertext", "box-1", "box-2", "box-3", "box-4"}
        assert not message.content.metric_records
        sizes.add(sum(map(len, blobs.values())))
    assert len(sizes) == 1


def test_the_first_round_starts_from_the_model_that_the_plan_names(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    _, records = cohort.train(cohort.plan(rounds=1, initial_model_hash="0" * 64))
    assert (records[0].opened, records[0].contributors) == (False, 0)
    assert cohort.charges("m0") == []


@pytest.mark.parametrize("changes", [{"committee": (), "threshold": 0}, {"scheme": "none"}])
def test_a_committee_goes_with_the_scheme_that_needs_one(tmp_path: Path, changes: dict[str, object]) -> None:
    cohort = Cohort(tmp_path)
    with pytest.raises(RefusedError, match="committee"):
        cohort.merchants["m0"].join(JoinRequest(plan=cohort.plan(mode="local", **changes)))


def test_joining_the_next_training_deletes_the_last_ones_sealing_key(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    merchant = cohort.merchants["m0"]
    first, second = cohort.plan(), cohort.plan()
    merchant.join(JoinRequest(plan=first))
    assert merchant.store.training(first.training_id).secrets.sealing_private is not None
    merchant.join(JoinRequest(plan=second))
    assert merchant.store.training(first.training_id).secrets.sealing_private is None
    with pytest.raises(RefusedError, match="closed"):
        merchant.join(JoinRequest(plan=first))


BUDGET = "policy 'lifetime_epsilon': the merchant's lifetime budget would be passed"


def test_a_plan_is_held_against_the_ledger_before_its_first_round(tmp_path: Path) -> None:
    """One round alone would fit; that the others don't is said at the join, and not how much is left."""
    probe = Cohort(tmp_path / "probe")
    plan = probe.plan(rounds=1)
    probe.train(plan)
    (entry,) = probe.charges("m0")
    spent = entry.epsilons.spent_after
    assert spent is not None
    policy = probe.policy.model_copy(update={"lifetime_epsilon": 1.05 * spent, "lifetime_delta": plan.delta})
    cohort = Cohort(tmp_path / "cohort", policy=policy)
    refused = reply_to(cohort, "query.join", JoinRequest(plan=cohort.plan(rounds=3)), JoinReply)
    assert refused.refused == Refusal(code="budget") and str(refused.refused) == BUDGET
    merchant = cohort.merchants["m0"]
    assert not merchant.ledger.begun and merchant.store.plans() == []
    # What fits is joined, and joined again once a part of it was charged.
    fits = cohort.plan(rounds=1)
    cohort.train(fits)
    assert len(cohort.charges("m0")) == 1
    again = reply_to(cohort, "query.join", JoinRequest(plan=cohort.plan(rounds=1)), JoinReply)
    assert again.refused == Refusal(code="budget")


def test_a_merchant_joins_again_with_just_the_rounds_left(tmp_path: Path) -> None:
    probe = Cohort(tmp_path / "probe")
    probe.train(probe.plan(rounds=3))
    spent = probe.charges("m0")[-1].epsilons.spent_after
    assert spent is not None
    policy = probe.policy.model_copy(update={"lifetime_epsilon": 1.0001 * spent, "lifetime_delta": 1e-4})
    cohort = Cohort(tmp_path / "cohort", policy=policy)
    plan = cohort.plan(rounds=3)

    def again(reply: Message, index: int) -> Message:
        if reply.metadata.message_type == "train" and index == 0:
            cohort.restart("m0")
            assert cohort.merchants["m0"].join(JoinRequest(plan=plan))[0].refused is None
        return reply

    coordinator, records = cohort.coordinator(plan, InProcessGrid(cohort.app(), cohort.size, tamper=again))
    coordinator.run()
    assert [record.contributors for record in records] == [4, 4, 4]


def test_a_full_budget_is_refused_without_telling_the_server_how_full(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    plan = cohort.plan(rounds=1)

    def spend(reply: Message, index: int) -> Message:
        """The cap is lowered after the join: the round finds it."""
        ledger = cohort.merchants[f"m{index}"].ledger
        ledger.set_cap(epsilon_lifetime=1e-3, delta_lifetime=1e-4)
        return reply

    coordinator, records = cohort.coordinator(plan, InProcessGrid(cohort.app(), cohort.size, tamper=spend))
    coordinator.run()
    assert (records[0].opened, records[0].contributors) == (False, 0)
    assert set(coordinator.refusals.values()) == {BUDGET}


def reply_to(
    cohort: Cohort,
    kind: str,
    request: JoinRequest | TrainRequest | UnmaskRequest | CloseRequest,
    answer: type[Body],
) -> Body:
    """What merchant m0 answers by way of the ClientApp."""
    grid = InProcessGrid(cohort.app(), cohort.size)
    message = grid.create_message(cohort.signed(request), kind, 1, "1")
    (reply,) = grid.send_and_receive([message])
    return unpack(reply.content, answer, max_blob_bytes=10**7)[0]


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    Checkpoint(tmp_path, training_id="a" * 64).reserve(1)
    with pytest.raises(TrainingError, match="another training"):
        Checkpoint(tmp_path, training_id="b" * 64).last_reserved()
