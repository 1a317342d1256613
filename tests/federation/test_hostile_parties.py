"""Attacks on the opening of sums, each tried whole: by dealers, by committee members and by the server."""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message

from fedrec.errors import AggregationError, ProtocolError, RefusedError
from fedrec.privacy.aggregation.dealing import encode_share
from fedrec.privacy.aggregation.scalar_sharing import random_scalars
from fedrec.privacy.aggregation.scheme import CommitteeScheme
from fedrec.privacy.aggregation.seats import seat_order
from fedrec.privacy.derived_parameters import derive
from fedrec.privacy.identity import SealingKey, seal
from fedrec.privacy.randomness import Randomness
from fedrec.protocol.messages import JoinRequest, UnmaskReply, UnmaskRequest
from fedrec.protocol.schema import sha256_hex
from fedrec.protocol.statements import COMMITMENT_CONTEXT, SignedCommitment, box_binding
from fedrec.protocol.transport import pack, unpack
from tests.support.cheating_parties import deal_badly, expected_without, keep, lying, unmask_requests
from tests.support.cohort import Cohort, InProcessGrid


def test_a_member_that_lies_is_named_and_changes_nothing(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path / "a", size=6)
    plan = cohort.plan(rounds=1)
    assert (len(plan.committee), plan.threshold) == (6, 4)
    coordinator, records = cohort.coordinator(plan, InProcessGrid(cohort.app(), 6, tamper=lying({1})))
    coordinator.run()
    assert records[0].opened
    assert list(coordinator.refusals) == ["round 1, m1"]
    assert "not the sum of the key shares" in coordinator.refusals["round 1, m1"]
    expected = expected_without(tmp_path / "b", 6, set())
    np.testing.assert_array_equal(coordinator.weights.parameters, expected)


def test_members_that_lie_in_greater_number_lose_the_round_but_choose_nothing(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path, size=6)
    grid = InProcessGrid(cohort.app(), 6, tamper=lying({1, 2, 3}))
    parameters, records = cohort.train(cohort.plan(rounds=1), grid)
    assert not records[0].opened
    assert not parameters.any()


def test_a_dealer_of_bad_shares_is_named_and_left_out_of_later_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deal_badly(monkeypatch, {"m2"}, targets={1, 2, 3, 4, 5, 6})
    cohort = Cohort(tmp_path, size=6)
    grid = InProcessGrid(cohort.app(), 6)
    coordinator, records = cohort.coordinator(cohort.plan(rounds=3), grid)
    coordinator.run()
    assert [record.opened for record in records] == [False, True, True]
    assert [record.contributors for record in records] == [6, 5, 5]
    assert "don't verify, according to m0, m1, m2, m3, m4, m5" in coordinator.refusals["round 1, m2"]
    asked = {
        (m.metadata.group_id, m.metadata.dst_node_id)
        for m in grid.requests
        if m.metadata.message_type == "train"
    }
    assert ("1", 3) in asked and ("2", 3) not in asked and ("3", 3) not in asked


def test_a_dealer_that_cheats_one_member_costs_that_members_answer_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deal_badly(monkeypatch, {"m2"}, targets={4})
    cohort = Cohort(tmp_path / "a", size=6)
    coordinator, records = cohort.coordinator(cohort.plan(rounds=2))
    coordinator.run()
    # One complaint may itself be a lie (one colluder is assumed): nobody is left out for it.
    assert [record.opened for record in records] == [True, True]
    assert [record.contributors for record in records] == [6, 6]
    assert f"according to {coordinator.plan.committee[3]}" in coordinator.refusals["round 1, m2"]
    monkeypatch.undo()
    expected = expected_without(tmp_path / "b", 6, set(), rounds=2)
    np.testing.assert_array_equal(coordinator.weights.parameters, expected)


def test_excluded_dealers_stay_excluded_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deal_badly(monkeypatch, {"m2"}, targets={1, 2, 3, 4, 5, 6})
    cohort = Cohort(tmp_path, size=6)
    plan = cohort.plan(rounds=3)
    first, records = cohort.coordinator(plan)

    class StoppedError(Exception):
        pass

    def stop(record: object) -> None:
        records.append(record)  # type: ignore[arg-type]
        if len(records) == 2:
            raise StoppedError

    first.on_round = stop
    with pytest.raises(StoppedError):
        first.run()
    second, later = cohort.coordinator(plan)
    second.run()
    assert [(record.round, record.contributors, record.opened) for record in later[1:]] == [(3, 5, True)]


def test_two_overlapping_sets_of_one_round_are_never_both_opened(tmp_path: Path) -> None:
    """The server splits the committee between two sets that differ by one merchant, in every way."""
    cohort = Cohort(tmp_path, size=5)
    plan = cohort.plan(rounds=20)
    requests, blobs = unmask_requests(cohort, plan)
    everyone, without = [0, 1, 2, 3, 4], [0, 1, 2, 3]
    for number, first_half in enumerate(combinations(range(5), 3), start=1):
        offset = 5 * (number - 1)
        opened = {True: 0, False: 0}
        for member in range(5):
            wants_all = member in first_half
            request, boxes = requests[offset + member], blobs[offset + member]
            for chosen in (wants_all, not wants_all):
                try:
                    cohort.merchants[f"m{member}"].unmask(
                        *keep(request, boxes, everyone if chosen else without)
                    )
                except RefusedError:
                    continue
                opened[chosen] += 1
        assert opened == {True: 3, False: 2}  # every member answered once
        assert not all(count >= plan.threshold for count in opened.values())


def test_later_theft_of_every_long_lived_key_opens_nothing(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    plan = cohort.plan(rounds=1)
    grid = InProcessGrid(cohort.app(), 4)
    cohort.train(plan, grid)
    recorded = [m for m in grid.requests if m.metadata.message_type == "query.unmask"]
    _, boxes = unpack(recorded[0].content, UnmaskRequest, max_blob_bytes=10**8)
    binding = box_binding(training_id=plan.training_id, round_number=1, dealer="m0", member="m0")
    # The thief has the disk as it is after the training, the signing keys, and all recorded traffic.
    for name in cohort.names:
        stored = cohort.merchants[name].store.training(plan.training_id)
        assert stored.secrets.sealing_private is None
        signing = cohort.identities[name].private_bytes()
        stolen = SealingKey.from_private_bytes(signing + 2 * signing)
        with pytest.raises(AggregationError, match="doesn't open"):
            stolen.open(boxes["box-1"], binding=binding)
        for file in (tmp_path / name).iterdir():
            content = file.read_bytes()
            assert all(box not in content for box in boxes.values())


def test_a_box_that_the_server_made_itself_is_not_added(tmp_path: Path) -> None:
    """Anybody can seal to a member; what counts are the commitments that the dealer signed."""
    cohort = Cohort(tmp_path)
    plan = cohort.plan(rounds=1)
    requests, blobs = unmask_requests(cohort, plan)
    private = cohort.merchants["m0"].store.training(plan.training_id).secrets.sealing_private
    assert private is not None
    public = SealingKey.from_private_bytes(private).public
    binding = box_binding(training_id=plan.training_id, round_number=1, dealer="m1", member="m0")
    scheme = cohort.merchants["m0"].derived_of_open_training().scheme
    zero = encode_share(1, [0] * (scheme.answer_bytes // 32))
    assert len(zero) == scheme.answer_bytes
    swapped = blobs[0] | {"box-2": seal(public, zero, binding=binding)}
    reply, sent = cohort.merchants["m0"].unmask(requests[0], swapped)
    assert (reply.complaints, sent) == (("m1",), {})


def test_two_merchants_given_two_plans_models_or_minimums_never_share_a_sum(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    plan, other = cohort.plan(rounds=1, nonce="0" * 32), cohort.plan(rounds=1, nonce="1" * 32)
    requests, blobs = unmask_requests(cohort, plan)
    # Another plan has another id, which everything is bound to, and members hold no key of it.
    cohort.merchants["m3"].join(JoinRequest(plan=other))
    with pytest.raises(RefusedError, match="closed"):
        cohort.merchants["m3"].unmask(requests[3], blobs[3])
    # Another model: the signatures of the others don't cover it.
    commitment = requests[0].survivors[1].commitment.model_copy(update={"model_hash": "0" * 64})
    signature = cohort.identities["m1"].sign(commitment.canonical_bytes(), context=COMMITMENT_CONTEXT)
    mixed = requests[0].model_copy(
        update={
            "survivors": (
                requests[0].survivors[0],
                SignedCommitment(commitment=commitment, signature=signature.hex()),
                *requests[0].survivors[2:],
            )
        }
    )
    with pytest.raises(RefusedError, match="different models"):
        cohort.merchants["m0"].unmask(mixed, blobs[0])
    assert sha256_hex(plan.canonical_bytes()) != sha256_hex(other.canonical_bytes())


def test_dropouts_at_every_point_up_to_what_the_committee_allows(tmp_path: Path) -> None:
    """Twelve merchants, a committee of ten with t = 6: two drop before the upload, four members after it."""
    cohort = Cohort(tmp_path / "a", size=12)
    plan = cohort.plan(rounds=1, threshold=6)
    assert len(plan.committee) == 10
    seated = [cohort.names.index(name) for name in plan.committee]
    dropped_before, dropped_after = {seated[4], 11 if 11 not in seated else seated[5]}, set(seated[:4])

    def drop(kind: str, group: str, index: int) -> bool:
        return index in (dropped_before if kind == "train" else dropped_after if "unmask" in kind else ())

    parameters, records = cohort.train(plan, InProcessGrid(cohort.app(), 12, drop=drop))
    assert (records[0].opened, records[0].contributors) == (True, 10)
    expected = expected_without(tmp_path / "b", 12, dropped_before)
    np.testing.assert_array_equal(parameters, expected)


@pytest.mark.slow
def test_a_hundred_merchants_lose_requests_replies_and_a_stored_answer_on_the_way(tmp_path: Path) -> None:
    """A committee of 20 with t = 11: requests and replies are lost in both phases, and the sum is exact."""
    cohort = Cohort(tmp_path / "a", size=100)
    plan = cohort.plan(
        rounds=1, committee=seat_order(cohort.roster)[:20], threshold=11, min_contributors=90, colluders=1
    )
    order = [cohort.names.index(name) for name in seat_order(cohort.roster)]
    unasked, unheard = {order[3], order[40], order[77]}, {order[5], order[60], order[99]}
    silent, unanswered = set(order[8:12]), {order[1], order[2], *order[12:15]}
    answered = cohort.names[order[1]]

    def within(train: set[int], unmask: set[int]) -> Callable[[str, str, int], bool]:
        return lambda kind, group, index: (
            index in (train if kind == "train" else unmask if "unmask" in kind else ())
        )

    grid = InProcessGrid(cohort.app(), 100, drop=within(unasked, silent), lose=within(unheard, unanswered))
    coordinator, records = cohort.coordinator(plan, grid)
    coordinator.close = lambda: None  # type: ignore[method-assign]
    coordinator.run()
    assert (records[0].opened, records[0].contributors) == (True, 94)
    # Its answer was stored and lost: it is given again, word for word, to the same request alone.
    request, blobs = next(
        unpack(m.content, UnmaskRequest, max_blob_bytes=10**8)
        for m in grid.requests
        if m.metadata.message_type == "query.unmask" and m.metadata.dst_node_id == order[1] + 1
    )
    cohort.restart(answered)
    again = cohort.merchants[answered].unmask(request, blobs)
    assert again == cohort.merchants[answered].unmask(request, blobs) and set(again[1]) == {"answer"}
    with pytest.raises(RefusedError, match="different request"):
        cohort.merchants[answered].unmask(*keep(request, blobs, list(range(90))))
    charged = {name for name in cohort.names if cohort.merchants[name].ledger.entries()}
    assert charged == set(cohort.names) - {f"m{index}" for index in unasked}
    expected = expected_without(tmp_path / "b", 100, unasked | unheard, min_contributors=90)
    np.testing.assert_array_equal(coordinator.weights.parameters, expected)


def test_one_dropout_more_than_that_loses_the_round(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path, size=12)
    plan = cohort.plan(rounds=1, threshold=6)

    def drop(kind: str, group: str, index: int) -> bool:
        return "unmask" in kind and cohort.names[index] in plan.committee[:5]

    grid = InProcessGrid(cohort.app(), 12, drop=drop)
    parameters, records = cohort.train(plan, grid)
    assert not records[0].opened and "fewer than the threshold of 6" in (records[0].reason or "")
    assert not parameters.any()


def test_replayed_uploads_and_answers_of_an_earlier_round_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="fedrec")
    cohort = Cohort(tmp_path / "a", size=6)
    kept: dict[str, Message] = {}

    def replay(reply: Message, index: int) -> Message:
        kind = reply.metadata.message_type
        if reply.has_error() or (kind, index) not in (("train", 2), ("query.unmask", 4)):
            return reply
        first = kept.setdefault(f"{kind} {index}", reply)
        reply.content = first.content
        return reply

    coordinator, records = cohort.coordinator(
        cohort.plan(rounds=2), InProcessGrid(cohort.app(), 6, tamper=replay)
    )
    coordinator.run()
    assert [(record.opened, record.contributors) for record in records] == [(True, 6), (True, 5)]
    assert "another training or round" in coordinator.refusals["round 2, m2"]
    assert "ledger head is of another" in coordinator.refusals["round 2, m4"]
    for name in ("m2", "m4"):
        assert f"round 2, {name}: {coordinator.refusals[f'round 2, {name}']}" in caplog.messages


def test_a_dealer_of_another_s_key_turned_round_takes_nobody_out_of_a_sum(tmp_path: Path) -> None:
    """What opens single updates with one key for all: m3, with the server, deals the negative of m0's key.

    Its commitments are m0's with the other sign, so that those of the sum are m1's and m2's alone. What it
    lacks are m0's shares at honest members.
    """
    cohort = Cohort(tmp_path)
    plan = cohort.plan(rounds=1, min_contributors=4)
    requests, blobs = unmask_requests(cohort, plan)
    scheme = derive(plan).scheme
    assert isinstance(scheme, CommitteeScheme)
    for place, member in enumerate(plan.committee[:3]):
        request = requests[place]
        first, own = request.survivors[0].commitment, request.survivors[3].commitment
        negative = tuple(f"{5 - int(one[:2]):02}{one[2:]}" for one in first.key_commitments)
        changed = own.model_copy(update={"key_commitments": negative})
        signature = cohort.identities["m3"].sign(changed.canonical_bytes(), context=COMMITMENT_CONTEXT)
        survivors = (
            *request.survivors[:3], SignedCommitment(commitment=changed, signature=signature.hex())
        )  # fmt: skip
        # A guess at the negative of m0's share, and m0's own box, sealed by m0 for this member.
        guess = encode_share(place + 1, random_scalars(scheme.parcel_bytes // 32, Randomness.from_os()))
        private = cohort.merchants[member].store.training(plan.training_id).secrets.sealing_private
        assert private is not None
        binding = box_binding(training_id=plan.training_id, round_number=1, dealer="m3", member=member)
        sealed = seal(SealingKey.from_private_bytes(private).public, guess, binding=binding)
        box = blobs[place]["box-1"] if place == 1 else sealed
        reply, sent = cohort.merchants[member].unmask(
            request.model_copy(update={"survivors": survivors}), blobs[place] | {"box-4": box}
        )
        assert reply.complaints == ("m3",) and not sent
        with pytest.raises(RefusedError, match="different request"):
            cohort.merchants[member].unmask(request, blobs[place])


def test_a_complaint_about_somebody_who_is_not_in_the_sum_counts_for_nothing(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)

    def slander(reply: Message, index: int) -> Message:
        if index < 2 and reply.metadata.message_type == "query.unmask":
            body, _ = unpack(reply.content, UnmaskReply, max_blob_bytes=10**7)
            reply.content = pack(body.model_copy(update={"complaints": ("m3",)}))
        return reply

    grid = cohort.grid(tamper=slander, drop=lambda kind, group, index: kind == "train" and index == 3)
    coordinator, _ = cohort.coordinator(cohort.plan(rounds=1), grid)
    coordinator.run()
    assert not [where for where, why in coordinator.refusals.items() if "dealt shares" in why]
    assert "m3" not in coordinator.notes()


def test_a_member_whose_store_is_put_back_answers_no_second_set(tmp_path: Path) -> None:
    """The store as it was before the answer, with the key; the ledger has the mark."""
    cohort = Cohort(tmp_path, size=5)
    plan = cohort.plan(rounds=1)
    requests, blobs = unmask_requests(cohort, plan)
    store = tmp_path / "m0" / "store.sqlite"
    before = store.read_bytes()
    cohort.merchants["m0"].unmask(requests[0], blobs[0])
    for put_back in (lambda: store.write_bytes(before), store.unlink):
        cohort.merchants["m0"].context.store.close()
        put_back()
        cohort.restart("m0")
        reason = "already has an answer" if store.read_bytes() == before else "has not joined"
        for chosen in ([0, 1, 2, 3, 4], [0, 1, 2, 3]):
            with pytest.raises(RefusedError, match=reason):
                cohort.merchants["m0"].unmask(*keep(requests[0], blobs[0], chosen))


def test_a_merchant_without_a_seat_opens_nothing_and_records_nothing(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path, size=5)
    plan = cohort.plan(rounds=1, committee=seat_order(cohort.roster)[:4])
    requests, blobs = unmask_requests(cohort, plan)
    (outside,) = set(cohort.names) - set(plan.committee)
    with pytest.raises(RefusedError, match="not on the committee"):
        cohort.merchants[outside].unmask(requests[0], blobs[0])
    assert not any(getattr(entry, "answer", None) for entry in cohort.merchants[outside].ledger.entries())


def test_an_unmask_request_of_another_round_is_refused(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    plan = cohort.plan(rounds=2)
    requests, blobs = unmask_requests(cohort, plan)
    relabelled = requests[0].model_copy(update={"round_number": 2})
    with pytest.raises(ProtocolError, match="another training or round"):
        cohort.merchants["m0"].unmask(relabelled, blobs[0])
    beyond = requests[0].model_copy(update={"round_number": 3})
    with pytest.raises(RefusedError, match="beyond the plan"):
        cohort.merchants["m0"].unmask(beyond, blobs[0])
