"""Attacks by and on witnesses: second answers, foreign sets, slander, and pooled shares."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message

from fedrec.clients.unmasking import answer_as_member
from fedrec.clients.witness.openings import Openings
from fedrec.clients.witness.witness import Witness
from fedrec.errors import AggregationError, LedgerError, ProtocolError, RefusedError
from fedrec.privacy.aggregation.committee import check_survivors
from fedrec.privacy.aggregation.dealing import decode_share, encode_share
from fedrec.privacy.aggregation.parameters import SchemeParameters
from fedrec.privacy.aggregation.scalar_sharing import ORDER, interpolate
from fedrec.privacy.aggregation.scheme import CommitteeScheme
from fedrec.privacy.aggregation.seats import seat_order
from fedrec.privacy.derived_parameters import derive
from fedrec.privacy.identity import SealingKey
from fedrec.protocol.messages import CloseRequest, JoinRequest, UnmaskReply, UnmaskRequest
from fedrec.protocol.plan import Peer, TrainingPlan
from fedrec.protocol.statements import COMMITMENT_CONTEXT, SignedCommitment
from fedrec.protocol.transport import pack, unpack
from fedrec.server.complaints import Complaints
from tests.support.cheating_parties import keep, lying, unmask_requests
from tests.support.cohort import Cohort

SCALARS = 74
"""Of a packed key, for four merchants and the model of these tests."""
Caught = dict[str, tuple[UnmaskRequest, dict[str, bytes]]]


def caught(cohort: Cohort, plan: TrainingPlan) -> Caught:
    """The request of the first round to every member of the committee, none of which was delivered."""
    requests, blobs = unmask_requests(cohort, plan)
    return dict(zip(plan.committee, zip(requests, blobs, strict=True), strict=False))


class PowerCutError(Exception):
    """The process ends here."""


def test_a_witness_opens_one_set_of_a_round_across_restarts(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path, witnesses=5)
    plan = cohort.plan(rounds=1)
    request, blobs = caught(cohort, plan)["w0"]
    first = cohort.watchers["w0"].unmask(request, blobs)
    assert set(first[1]) == {"answer", "layers"} and first[0].head is None
    for _ in range(2):
        # The same request gets the same bytes; any other set of the round is refused.
        assert cohort.watchers["w0"].unmask(request, blobs) == first
        for chosen in ([0, 1, 2], [1, 2, 3], [3, 2, 1, 0]):
            with pytest.raises(RefusedError, match="for a different request"):
                cohort.watchers["w0"].unmask(*keep(request, blobs, chosen))
        # So is the same set with another box, or with another statement of a corrupt dealer about its upload.
        for changed, boxes in (
            (request, blobs | {"box-1": blobs["box-2"]}),
            (signed_anew(cohort, request, 2, ciphertext_hash="0" * 64), blobs),
        ):
            with pytest.raises(RefusedError, match="for a different request"):
                cohort.watchers["w0"].unmask(changed, boxes)
        cohort.restart_witness("w0")
    # The answer is erased with the training, and nothing is answered any more.
    cohort.watchers["w0"].close_training(CloseRequest(training_id=plan.training_id))
    with pytest.raises(RefusedError, match="closed"):
        cohort.watchers["w0"].unmask(request, blobs)
    with pytest.raises(RefusedError, match="closed"):
        cohort.watchers["w0"].join(JoinRequest(plan=plan))


def signed_anew(
    cohort: Cohort,
    request: UnmaskRequest,
    index: int,
    *,
    context: bytes = COMMITMENT_CONTEXT,
    **changes: object,
) -> UnmaskRequest:
    """The set with one commitment changed, and signed by the merchant that it names or by a witness."""
    commitment = request.survivors[index].commitment.model_copy(update=changes)
    name = commitment.merchant
    signer = cohort.watchers[name].identity if name in cohort.watchers else cohort.identities[name]
    signature = signer.sign(commitment.canonical_bytes(), context=context).hex()
    survivors = list(request.survivors)
    survivors[index] = SignedCommitment(commitment=commitment, signature=signature)
    return request.model_copy(update={"survivors": tuple(survivors)})


def test_two_processes_of_one_witness_open_one_set(tmp_path: Path) -> None:
    """A daemon that was started twice, or a copy beside it with the same files."""
    cohort = Cohort(tmp_path, witnesses=5)
    request, blobs = caught(cohort, cohort.plan(rounds=1))["w0"]
    with ThreadPoolExecutor(2) as pool:
        tries = [
            pool.submit(opened_by, cohort, keep(request, blobs, chosen)) for chosen in ([0, 1, 2], [1, 2, 3])
        ]
        outcomes = [attempt.result() for attempt in tries]
    assert sorted(outcomes) == [False, True]


def opened_by(cohort: Cohort, asked: tuple[UnmaskRequest, dict[str, bytes]]) -> bool:
    """Whether another process of the witness, here a thread of its own, answers."""
    witness = cohort.start_witness("w0")
    try:
        return bool(witness.unmask(*asked)[1])
    except (RefusedError, sqlite3.OperationalError):
        return False
    finally:
        witness.close()


def test_a_witness_that_is_killed_after_its_mark_answers_nothing_in_that_round(tmp_path: Path) -> None:
    """Nobody can know whether its answer left: neither the other set nor the same is answered again."""

    def cut(name: str, event: str) -> None:
        if (name, event) == ("w0", "marked"):
            raise PowerCutError

    cohort = Cohort(tmp_path, witnesses=5, on_event=cut)
    plan = cohort.plan(rounds=1)
    request, blobs = caught(cohort, plan)["w0"]
    with pytest.raises(PowerCutError):
        cohort.watchers["w0"].unmask(request, blobs)
    cohort.on_event = lambda name, event: None
    cohort.restart_witness("w0")
    for again in ((request, blobs), keep(request, blobs, [0, 1, 2])):
        with pytest.raises(RefusedError, match="was begun before"):
            cohort.watchers["w0"].unmask(*again)


def test_a_witness_whose_record_of_openings_is_gone_or_old_opens_nothing(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path, witnesses=5)
    request, blobs = caught(cohort, cohort.plan(rounds=1))["w0"]
    folder = tmp_path / "w0"
    cohort.watchers["w0"].unmask(request, blobs)
    cohort.watchers["w0"].close()
    kept = (folder / "openings.sqlite").read_bytes()
    (folder / "openings.sqlite").unlink()
    with pytest.raises(LedgerError, match=r"is gone: .*create another"):
        cohort.start_witness("w0")
    Openings.create(folder / "openings.sqlite")
    with pytest.raises(LedgerError, match="lacks round 1"):
        cohort.start_witness("w0")
    (folder / "openings.sqlite").write_bytes(b"SQLite format 3\0" + bytes(5000))
    with pytest.raises(LedgerError, match="can't be read"):
        cohort.start_witness("w0")
    # The store alone put back: the mark still stands, and the store has no key without its training.
    (folder / "openings.sqlite").write_bytes(kept)
    (folder / "store.sqlite").unlink()
    cohort.watchers["w0"] = cohort.start_witness("w0")
    with pytest.raises(RefusedError, match="has not joined"):
        cohort.watchers["w0"].unmask(*keep(request, blobs, [0, 1, 2]))


def test_a_witness_checks_a_survivor_set_as_a_merchant_does(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path / "a", witnesses=5)
    plan = cohort.plan(rounds=2)
    requests = caught(cohort, plan)
    request, blobs = requests["w0"]
    witness, other = cohort.watchers["w0"], Cohort(tmp_path / "b", witnesses=5)
    foreign, foreign_blobs = caught(other, other.plan(rounds=1))["w0"]

    resigned = partial(signed_anew, cohort, request)
    forged = request.survivors[0].model_copy(update={"signature": "0" * 128})
    twice = (*request.survivors[:3], request.survivors[0])
    attempts: list[tuple[UnmaskRequest, Mapping[str, bytes], str]] = [
        (foreign, foreign_blobs, "has not joined that training"),
        (foreign.model_copy(update={"training_id": plan.training_id}), foreign_blobs, "another training"),
        (request.model_copy(update={"round_number": 2}), blobs, "another training or round"),
        (request.model_copy(update={"round_number": 3}), blobs, "beyond the plan"),
        (*keep(request, blobs, [0, 1]), "2 merchants, 3 are required"),
        (*keep(request, blobs, []), "0 merchants, 3 are required"),
        (request.model_copy(update={"survivors": twice}), blobs, "names a merchant twice"),
        (request.model_copy(update={"survivors": (forged, *request.survivors[1:])}), blobs, "not signed"),
        (resigned(0, model_hash="0" * 64), blobs, "different models"),
        (resigned(0, round_number=2), blobs, "another training or round"),
        (resigned(0, context=b"fedrec/joined/1"), blobs, "not signed"),
        # A witness is no contributor, whatever it signs.
        (resigned(0, merchant="w1"), blobs, "'w1' is not on the roster"),
        (request, {}, "box-1"),
    ]
    for attempt, boxes, reason in attempts:
        with pytest.raises((RefusedError, ProtocolError), match=reason):
            witness.unmask(attempt, boxes)
    assert not witness.openings.has(plan.training_id, 1)
    # Boxes of another member: its dealers are complained about, and nothing is opened.
    reply, sent = witness.unmask(request, requests["w1"][1])
    assert reply.complaints == tuple(s.commitment.merchant for s in request.survivors) and not sent


def test_a_request_that_its_server_did_not_sign_for_it_never_reaches_a_witness(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path, witnesses=5)
    request, blobs = caught(cohort, cohort.plan(rounds=1))["w0"]
    gate = cohort.watchers["w0"].gate
    for content, reason in (
        (cohort.signed(request, blobs, recipient="w1"), "another merchant"),
        (Cohort(tmp_path / "b", size=3).signed(request, blobs, recipient="w0"), "not signed by the server"),
        (pack(request, blobs), "sign"),
    ):
        with pytest.raises((RefusedError, ProtocolError), match=reason):
            gate.check(content, kind="query.unmask")
    assert gate.check(cohort.signed(request, blobs, recipient="w0"), kind="query.unmask")


def test_a_witness_joins_no_plan_that_a_merchant_would_refuse(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path, witnesses=5)
    plan, witness = cohort.plan(), cohort.watchers["w0"]
    seats = plan.committee
    stranger = (Peer(name="w0", signing_key="ab" * 32), *plan.witnesses[1:])
    drawn = seat_order(plan.roster, stranger)[: len(seats)]
    for changes, reason in (
        ({"threshold": 5}, "two different sets"),
        ({"corrupt_members": 1, "corrupt_witnesses": 0}, "0 corrupt witnesses"),
        ({"colluders": 2}, "fewer than 2 honest"),
        ({"committee": (*seats[1:], seats[0])}, "fingerprint draws"),
        ({"noise_levels": (4,)}, "noise levels"),
        ({"seat_risk": 0.5}, "policy 'largest_seat_risk'"),
        # Its own key would be deleted before the sum is opened.
        ({"upload_window": 30 * 86400}, "policy 'training_expires_days'"),
        ({"server_key": "ab" * 32}, "server key is not that of the witness's join file"),
        ({"witnesses": stranger, "committee": drawn}, "another key under its name"),
    ):
        with pytest.raises(RefusedError, match=reason):
            witness.join(JoinRequest(plan=plan.model_copy(update=changes)))
    assert not witness.store.plans()


def test_a_witness_has_the_key_of_one_training_alone(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path, witnesses=5)
    first, second = cohort.plan(rounds=1), cohort.plan(rounds=1)
    request, blobs = caught(cohort, first)["w0"]
    witness = cohort.watchers["w0"]
    witness.join(JoinRequest(plan=second))
    assert witness.store.training(first.training_id).secrets.sealing_private is None
    with pytest.raises(RefusedError, match="closed"):
        witness.unmask(request, blobs)


def rules(witness: Witness, **changes: object) -> None:
    """Put other rules into force, as an edited policy.toml does."""
    witness.use_policy(witness.policy.model_copy(update=changes))


def test_a_witness_opens_for_whom_and_as_often_as_its_policy_says(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path, witnesses=5)
    plan = cohort.plan(rounds=2)
    requests, blobs = unmask_requests(cohort, plan)
    one, two = (index for index, name in enumerate(plan.committee * 2) if name == "w0")
    first, second, boxes, more = requests[one], requests[two], blobs[one], blobs[two]
    witness, now = cohort.watchers["w0"], datetime(2026, 11, 29, 12, tzinfo=UTC)
    witness.now = lambda: now
    free = witness.policy
    for changes, reason in (
        ({"merchants": frozenset({"m0", "m1", "m2"})}, "policy 'merchants': merchant 'm3'"),
        ({"roster_fingerprint": "0" * 64}, "roster that was not approved"),
        ({"server_key": "0" * 64}, "another server"),
        ({"modes": frozenset({"local"})}, "policy 'modes'"),
        ({"schemes": frozenset({"other"})}, "policy 'schemes'"),
        ({"least_contributors": 4}, "policy 'least_contributors'"),
        ({"least_colluders": 2}, "policy 'least_colluders'"),
        ({"least_corrupt_members": 4}, "policy 'least_corrupt_members'"),
        ({"largest_openings_per_training": 1}, "policy 'largest_openings_per_training': 2 > 1"),
    ):
        rules(witness, **changes)
        for attempt in (lambda: witness.unmask(first, boxes), lambda: witness.join(JoinRequest(plan=plan))):
            with pytest.raises(RefusedError, match=reason):
                attempt()
        witness.use_policy(free)
    witness.suspend("paused")
    with pytest.raises(RefusedError, match="paused"):
        witness.unmask(first, boxes)
    rules(witness, largest_openings_per_day=1)
    answered = witness.unmask(first, boxes)
    with pytest.raises(RefusedError, match="policy 'largest_openings_per_day': at most 1"):
        witness.unmask(second, more)
    # Once more for the same request is no other opening; neither is a refusal; and a day ends.
    assert witness.unmask(first, boxes) == answered
    now += timedelta(hours=12)
    assert set(witness.unmask(second, more)[1]) == {"answer", "layers"}


@pytest.mark.parametrize("liars", [{"w2"}, {"w1", "w3"}, {"m1", "w4"}])
def test_members_that_lie_are_named_and_change_nothing(tmp_path: Path, liars: set[str]) -> None:
    """As many as answers may be missing: two of 9, with t = 7."""
    cohort, honest = Cohort(tmp_path / "a", witnesses=5), Cohort(tmp_path / "b", witnesses=5)
    plan = cohort.plan(rounds=2)
    tamper = lying({cohort.parties.index(name) for name in liars})
    coordinator, records = cohort.coordinator(plan, cohort.grid(tamper=tamper))
    coordinator.run()
    assert [record.opened for record in records] == [True] * 2
    for name in liars:
        assert "not the sum of the key shares" in coordinator.refusals[f"round 1, {name}"]
        assert "not asked to open sums" in coordinator.notes()[name]
    assert {name for name in coordinator.notes() if "answer was wrong" in coordinator.notes()[name]} == liars
    expected, _ = honest.train(honest.plan(rounds=2))
    np.testing.assert_array_equal(coordinator.weights.parameters, expected)


def test_liars_that_agree_on_a_lie_are_named(tmp_path: Path) -> None:
    """Two add to one share what a polynomial adds that is zero at 0 and at five honest members' points.

    Without the other two honest members the answers lie on polynomials of the right degree, and would open
    the right key: only the commitments show who lies.
    """
    cohort, honest = Cohort(tmp_path / "a", witnesses=5), Cohort(tmp_path / "b", witnesses=5)
    plan = cohort.plan(rounds=1)
    seats = {name: x for x, name in enumerate(plan.committee, start=1)}
    liars = [seats[plan.committee[0]], seats[plan.committee[1]]]
    zeros = [0, *[x for x in seats.values() if x not in liars][:5]]

    def tamper(reply: Message, index: int) -> Message:
        x = seats[cohort.parties[index]]
        if x in liars and reply.metadata.message_type == "query.unmask":
            body, blobs = unpack(reply.content, UnmaskReply, max_blob_bytes=10**7)
            share = decode_share(blobs["answer"], member=x, count=SCALARS)
            share[3] = (share[3] + math.prod(x - zero for zero in zeros)) % ORDER
            reply.content = pack(body, {"answer": encode_share(x, share)})
        return reply

    coordinator, records = cohort.coordinator(plan, cohort.grid(tamper=tamper))
    coordinator.run()
    assert records[0].opened
    named = {name for name, x in seats.items() if x in liars}
    assert set(coordinator.refusals) == {f"round 1, {name}" for name in named}
    assert all("not the sum of the key shares" in reason for reason in coordinator.refusals.values())
    expected, _ = honest.train(honest.plan(rounds=1))
    np.testing.assert_array_equal(coordinator.weights.parameters, expected)


def test_more_liars_than_answers_may_be_missing_lose_the_round_but_choose_nothing(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path, witnesses=5)
    tamper = lying({cohort.parties.index(name) for name in ("w0", "w1", "w2")})
    parameters, records = cohort.train(cohort.plan(rounds=1), cohort.grid(tamper=tamper))
    assert not records[0].opened and not parameters.any()


def test_corrupt_witnesses_and_a_merchant_can_slander_nobody_out_of_the_training(tmp_path: Path) -> None:
    """Three complain, all that the plan takes to be corrupt; a fourth would make it a dealer's fault."""
    cohort = Cohort(tmp_path, witnesses=5)
    plan = cohort.plan()

    def slander(by: set[str]) -> set[str]:
        complaints = Complaints(colluders=plan.colluders, corrupt_witnesses=plan.corrupt_witnesses)
        complaints.add({"m1": by})
        return set(complaints.excluded)

    assert slander({"w0", "w1", "m0"}) == set()
    assert slander({"w0", "w1", "m0", "m2"}) == {"m1"}

    def tamper(reply: object, index: int) -> object:
        if cohort.parties[index] in ("w0", "w1") and reply.metadata.message_type == "query.unmask":  # type: ignore[attr-defined]
            body, _ = unpack(reply.content, UnmaskReply, max_blob_bytes=10**7)  # type: ignore[attr-defined]
            reply.content = pack(body.model_copy(update={"complaints": ("m1",)}))  # type: ignore[attr-defined]
        return reply

    coordinator, records = cohort.coordinator(plan, cohort.grid(tamper=tamper))
    coordinator.run()
    assert {record.merchants for record in records} == {("m0", "m1", "m2", "m3")}
    assert all(record.opened for record in records)


# --- what corrupt members have together ------------------------------------------------------------------


def answer(
    cohort: Cohort, plan: TrainingPlan, member: str, request: UnmaskRequest, boxes: dict[str, bytes]
) -> bytes:
    """What a corrupt member computes about any set: its key, and no rule that stops it."""
    party = cohort.watchers.get(member) or cohort.merchants[member]
    private = party.store.training(plan.training_id).secrets.sealing_private
    scheme = derive(plan).scheme
    assert private is not None and isinstance(scheme, CommitteeScheme)
    _, sent = answer_as_member(
        scheme,
        check_survivors(request.survivors, plan=plan, round_number=1),
        [boxes[f"box-{n}"] for n in range(1, len(request.survivors) + 1)],
        plan=plan,
        member=member,
        sealing_key=SealingKey.from_private_bytes(private),
        kept=derive(plan).noise.kept_layers(len(request.survivors)),
    )
    return sent["answer"]


def key_of(plan: TrainingPlan, answers: Mapping[str, bytes]) -> np.ndarray:
    """The key that these members' answers open; raises where they are too few."""
    parameters = derive(plan).scheme.parameters
    assert isinstance(parameters, SchemeParameters)
    seats = {plan.committee.index(member) + 1: blob for member, blob in answers.items()}
    shares = {
        x: decode_share(blob, member=x, count=SCALARS)[:SCALARS]
        for x, blob in list(seats.items())[: plan.threshold]
    }
    return parameters.key_packing.unpack(interpolate(shares))


@pytest.mark.parametrize(
    ("corrupt", "opens"),
    [(("m0", "w0", "w1"), False), (("m0", "w0", "w1", "w2"), False), (("m0", "w0", "w1", "w2", "w3"), True)],
)
def test_two_sets_open_only_with_more_corrupt_members_than_the_plan_states(
    tmp_path: Path, corrupt: tuple[str, ...], opens: bool
) -> None:
    """The server splits the honest members in every way; the corrupt ones answer about both sets.

    4 merchants, 5 witnesses, t = 7 of 9: the stated f is 3, 4 are withstood, and 5 open single updates.
    """
    cohort = Cohort(tmp_path, witnesses=5)
    plan = cohort.plan(rounds=1)
    requests = caught(cohort, plan)
    honest = [name for name in plan.committee if name not in corrupt]
    whole = {name: answer(cohort, plan, name, *requests[name]) for name in corrupt}
    less = {name: answer(cohort, plan, name, *keep(*requests[name], [0, 1, 2])) for name in corrupt}
    # Real merchants and witnesses: which of the two sets each answers, it answers once.
    first = set(honest[: (len(honest) + 1) // 2])
    for name in honest:
        party = cohort.watchers.get(name) or cohort.merchants[name]
        both = [requests[name], keep(*requests[name], [0, 1, 2])]
        asked, target = (both, whole) if name in first else (both[::-1], less)
        target[name] = party.unmask(*asked[0])[1]["answer"]
        with pytest.raises(RefusedError, match="different request"):
            party.unmask(*asked[1])
    reached = [len(answers) >= plan.threshold for answers in (whole, less)]
    assert all(reached) == opens
    splits = [(len(corrupt) + n, len(corrupt) + len(honest) - n) for n in range(len(honest) + 1)]
    assert any(min(split) >= plan.threshold for split in splits) == opens
    if opens:
        # The difference of the two keys is the one key of m3, which is small.
        assert int(np.abs(key_of(plan, whole) - key_of(plan, less)).max()) < 100
    else:
        with pytest.raises(AggregationError, match="too large to be a sum of merchants' keys"):
            key_of(plan, min((whole, less), key=len))
