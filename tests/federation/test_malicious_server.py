"""Attacks by the server, and by merchants on it, through the very messages: each tried whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message

from fedrec.clients.merchant_home import MerchantHome
from fedrec.clients.unmasking import answer_as_member, request_parts
from fedrec.errors import AggregationError, ProtocolError, RefusedError
from fedrec.privacy.aggregation import wire
from fedrec.privacy.aggregation.committee import check_survivors
from fedrec.privacy.aggregation.scheme import CommitteeScheme
from fedrec.privacy.derived_parameters import derive
from fedrec.privacy.identity import SealingKey, SigningIdentity
from fedrec.protocol.enrolment import JoinFile
from fedrec.protocol.messages import JoinRequest, TrainReply, TrainRequest, UnmaskRequest
from fedrec.protocol.plan import Peer, TrainingPlan
from fedrec.protocol.schema import sha256_hex
from fedrec.protocol.statements import (
    COMMITMENT_CONTEXT,
    SEALING_KEY_CONTEXT,
    Commitment,
    SignedCommitment,
    SignedSealingKey,
    box_binding,
)
from fedrec.protocol.statements import SealingKey as SealingKeyStatement
from fedrec.protocol.transport import pack, unpack
from tests.support.cheating_parties import keep, noised_update, unmask_requests
from tests.support.cohort import Cohort, InProcessGrid, with_levels

Blobs = dict[str, bytes]


def join_all(cohort: Cohort, plan: TrainingPlan) -> list[SignedSealingKey]:
    replies = [cohort.merchants[name].join(JoinRequest(plan=plan))[0] for name in cohort.names]
    return [reply.sealing_key for reply in replies if reply.sealing_key is not None]


def round_one(plan: TrainingPlan, keys: list[SignedSealingKey]) -> tuple[TrainRequest, Blobs]:
    request = TrainRequest(
        training_id=plan.training_id,
        round_number=1,
        model_hash=plan.initial_model_hash,
        sealing_keys=tuple(keys),
    )
    return request, {"model": bytes(4 * plan.dimension)}


def signed_key(
    identity: SigningIdentity, *, training_id: str, merchant: str, public: bytes
) -> SignedSealingKey:
    statement = SealingKeyStatement(training_id=training_id, merchant=merchant, public_key=public.hex())
    signature = identity.sign(statement.canonical_bytes(), context=SEALING_KEY_CONTEXT)
    return SignedSealingKey(statement=statement, signature=signature.hex())


def sign(cohort: Cohort, commitment: Commitment) -> SignedCommitment:
    identity = cohort.identities[commitment.merchant]
    signature = identity.sign(commitment.canonical_bytes(), context=COMMITMENT_CONTEXT)
    return SignedCommitment(commitment=commitment, signature=signature.hex())


# The server puts keys of its own, or old ones, before the merchants.


@pytest.mark.parametrize("how", ["signature kept", "signed by the server", "another training's", "twice"])
def test_a_sealing_key_that_is_not_the_members_for_this_training_costs_nothing(
    tmp_path: Path, how: str
) -> None:
    cohort = Cohort(tmp_path)
    plan = cohort.plan()
    keys = join_all(cohort, plan)
    servers = SealingKey.generate().public
    forged = {
        "signature kept": replace_key(keys[2], servers),
        "signed by the server": signed_key(
            cohort.server, training_id=plan.training_id, merchant="m2", public=servers
        ),
        # What m2 truly signed for a training before: its private half may have been stolen since.
        "another training's": signed_key(
            cohort.identities["m2"], training_id="ab" * 32, merchant="m2", public=servers
        ),
        # The right key is there as well: which of the two would be used?
        "twice": signed_key(
            cohort.identities["m2"], training_id=plan.training_id, merchant="m2", public=servers
        ),
    }[how]
    given = [*keys, forged] if how == "twice" else [*keys[:2], forged, keys[3]]
    for name in ("m0", "m2"):
        merchant = cohort.merchants[name]
        with pytest.raises(ProtocolError, match=r"sealing key"):
            merchant.train(*round_one(plan, given))
        assert not merchant.ledger.begun
        reply, _ = merchant.train(*round_one(plan, keys))
        assert reply.signed is not None and len(cohort.charges(name)) == 1


def replace_key(key: SignedSealingKey, public: bytes) -> SignedSealingKey:
    statement = key.statement.model_copy(update={"public_key": public.hex()})
    return key.model_copy(update={"statement": statement})


# The server sends merchants other models than the one that they sign for.


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        # Merchants that sign one hash for different models would be in one sum all the same.
        (lambda model: model + 1, "doesn't match its hash"),
        (lambda model: model[:-1], "doesn't match its hash"),
        (lambda model: np.append(model, model), "doesn't match its hash"),
    ],
    ids=["another", "shorter", "longer"],
)
def test_a_model_that_is_not_the_one_of_its_hash_is_charged_nothing(
    tmp_path: Path, change: Callable[[np.ndarray], np.ndarray], reason: str
) -> None:
    cohort = Cohort(tmp_path)
    plan = cohort.plan()
    request, blobs = round_one(plan, join_all(cohort, plan))
    model = change(np.frombuffer(blobs["model"], "<f4")).astype("<f4").tobytes()
    with pytest.raises(ProtocolError, match=reason):
        cohort.merchants["m0"].train(request, {"model": model})
    # Nor is another size right under its own hash.
    if len(model) != len(blobs["model"]):
        other = request.model_copy(update={"round_number": 2, "model_hash": sha256_hex(model)})
        with pytest.raises(ProtocolError, match="wrong size"):
            cohort.merchants["m0"].train(other, {"model": model})
    assert not cohort.merchants["m0"].ledger.begun


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_model_of_values_that_are_not_finite_is_charged_nothing(tmp_path: Path, value: float) -> None:
    cohort = Cohort(tmp_path)
    plan = cohort.plan()
    request, blobs = round_one(plan, join_all(cohort, plan))
    model = np.frombuffer(blobs["model"], "<f4").copy()
    model[3] = value
    later = request.model_copy(update={"round_number": 2, "model_hash": sha256_hex(model.tobytes())})
    with pytest.raises(ProtocolError, match="not finite"):
        cohort.merchants["m0"].train(later, {"model": model.tobytes()})
    assert not cohort.merchants["m0"].ledger.begun


def test_a_swapped_peer_key_in_the_roster_is_refused_by_a_merchant_that_approved_another(
    tmp_path: Path,
) -> None:
    """The roster comes from the merchant's own home, as its join file set it; the plan swaps a peer's key."""
    cohort = Cohort(tmp_path / "cohort")
    home = MerchantHome.create(tmp_path / "home", name="m0", data=tmp_path, units=40)
    (home.folder / "identity.key").write_bytes(cohort.identities["m0"].private_bytes())
    roster = cohort.roster
    home.approve(
        JoinFile(
            address="127.0.0.1:1",
            authority="-----BEGIN CERTIFICATE-----\n",
            roster=roster,
            server_key=cohort.server.public.hex(),
        )
    )
    cohort.policy = home.policy()
    cohort.restart("m0")
    merchant = cohort.merchants["m0"]
    servers = SigningIdentity.generate().public.hex()
    swapped = (roster[0], roster[1], Peer(name="m2", signing_key=servers), roster[3])
    plan = cohort.plan(roster=swapped)
    with pytest.raises(RefusedError, match="policy 'roster_fingerprint'"):
        merchant.join(JoinRequest(plan=plan))
    added = (*roster, Peer(name="m9", signing_key=servers))
    with pytest.raises(RefusedError, match="policy 'roster_fingerprint'"):
        merchant.join(JoinRequest(plan=cohort.plan(roster=added)))
    assert merchant.store.plans() == []
    # With the key that its owner has it joins; the owner of a swapped key refuses in any case.
    assert merchant.join(JoinRequest(plan=cohort.plan(roster=roster)))[0].sealing_key is not None
    with pytest.raises(RefusedError, match="another key"):
        other = Cohort(tmp_path / "other")
        named = plan.model_copy(update={"server_key": other.server.public.hex()})
        other.merchants["m2"].join(JoinRequest(plan=named))


# The server mixes trainings.


@pytest.mark.parametrize("relabelled", [False, True])
def test_plans_that_differ_in_the_minimum_alone_never_share_a_sum(tmp_path: Path, relabelled: bool) -> None:
    """m3 was given a plan with a higher minimum; what it signed is shown to m0, whose training is open."""
    cohort = Cohort(tmp_path)
    plan = cohort.plan(rounds=1, min_contributors=3)
    stricter = with_levels(plan.model_copy(update={"min_contributors": 4}))
    # A sealing key that m3 made under its own plan isn't dealt to.
    keys = join_all(cohort, plan)
    key = signed_key(
        cohort.identities["m3"],
        training_id=stricter.training_id,
        merchant="m3",
        public=SealingKey.generate().public,
    )
    with pytest.raises(ProtocolError, match="sealing key"):
        cohort.merchants["m0"].train(*round_one(plan, [*keys[:3], key]))
    requests, blobs = unmask_requests(cohort, plan)
    honest = requests[0].survivors[3]
    other = sign(cohort, honest.commitment.model_copy(update={"training_id": stricter.training_id}))
    if relabelled:
        other = other.model_copy(update={"commitment": honest.commitment})
    mixed = requests[0].model_copy(update={"survivors": (*requests[0].survivors[:3], other)})
    with pytest.raises(ProtocolError, match="not signed" if relabelled else "another training"):
        cohort.merchants["m0"].unmask(mixed, blobs[0])
    # The whole of the other training means nothing here; this one is still open, and answers.
    with pytest.raises(RefusedError, match="not joined"):
        cohort.merchants["m0"].unmask(
            requests[0].model_copy(update={"training_id": stricter.training_id}), blobs[0]
        )
    assert set(cohort.merchants["m0"].unmask(requests[0], blobs[0])[1]) == {"answer", "layers"}


def test_a_box_opens_for_its_training_round_dealer_and_member_alone(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    plan = cohort.plan(rounds=2)
    keys = join_all(cohort, plan)
    _, sent = cohort.merchants["m1"].train(*round_one(plan, keys))
    stated = {"training_id": plan.training_id, "round_number": 1, "dealer": "m1", "member": "m0"}
    private = cohort.merchants["m0"].store.training(plan.training_id).secrets.sealing_private
    assert private is not None
    member = SealingKey.from_private_bytes(private)
    assert member.open(sent["box-1"], binding=box_binding(**stated))  # type: ignore[arg-type]
    changes: list[dict[str, object]] = [
        {"training_id": "ab" * 32},
        {"round_number": 2},
        {"dealer": "m2"},
        {"member": "m1"},
        {"dealer": "m0", "member": "m1"},
    ]
    for change in changes:
        with pytest.raises(AggregationError, match="doesn't open"):
            member.open(sent["box-1"], binding=box_binding(**(stated | change)))  # type: ignore[arg-type]


# Merchants send what the server must not add.


def through_server(
    folder: Path, tamper: Callable[[Cohort, TrainingPlan, TrainReply, Blobs], tuple[TrainReply, Blobs]]
) -> tuple[int, dict[str, str]]:
    """Run a round in which m1's upload is another; returns the contributors and the refusals."""
    cohort = Cohort(folder)
    plan = cohort.plan(rounds=1)

    def change(reply: Message, index: int) -> Message:
        if reply.metadata.message_type == "train" and index == 1:
            body, blobs = unpack(reply.content, TrainReply, max_blob_bytes=10**7)
            reply.content = pack(*tamper(cohort, plan, body, blobs))
        return reply

    coordinator, records = cohort.coordinator(plan, InProcessGrid(cohort.app(), 4, tamper=change))
    coordinator.run()
    assert records[0].opened
    return records[0].contributors, coordinator.refusals


def resigned(
    **changes: object,
) -> Callable[[Cohort, TrainingPlan, TrainReply, Blobs], tuple[TrainReply, Blobs]]:
    """The merchant itself signs another statement about the same upload."""

    def tamper(
        cohort: Cohort, plan: TrainingPlan, body: TrainReply, blobs: Blobs
    ) -> tuple[TrainReply, Blobs]:
        assert body.signed is not None
        commitment = body.signed.commitment.model_copy(update=changes)
        return body.model_copy(update={"signed": sign(cohort, commitment)}), blobs

    return tamper


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_hash": "0" * 64}, "another merchant or model"),
        ({"training_id": "ab" * 32}, "another training or round"),
        ({"round_number": 2}, "another training or round"),
        ({"boxes_hash": "0" * 64}, "sealed shares are not the ones"),
        ({"ciphertext_hash": "0" * 64}, "ciphertext is not the one"),
        ({"key_commitments": ()}, "0 commitments to its key, not 3"),
        ({"key_commitments": ("02" + "f" * 64,) * 3}, "not a point of the curve"),
    ],
)
def test_the_server_holds_an_upload_against_what_was_signed(
    tmp_path: Path, changes: dict[str, object], reason: str
) -> None:
    contributors, refusals = through_server(tmp_path, resigned(**changes))
    assert contributors == 3
    assert list(refusals) == ["round 1, m1"] and reason in refusals["round 1, m1"]


def test_a_box_changed_on_its_way_is_left_out_with_its_upload(tmp_path: Path) -> None:
    def tamper(
        cohort: Cohort, plan: TrainingPlan, body: TrainReply, blobs: Blobs
    ) -> tuple[TrainReply, Blobs]:
        return body, blobs | {"box-3": blobs["box-2"]}

    contributors, refusals = through_server(tmp_path, tamper)
    assert contributors == 3 and "sealed shares are not the ones" in refusals["round 1, m1"]


@pytest.mark.parametrize("first", [True, False])
def test_one_merchants_upload_through_anothers_node_is_not_added(tmp_path: Path, first: bool) -> None:
    """m1 passes m2's own, rightly signed upload on, as its own or before m2 does."""
    cohort = Cohort(tmp_path)
    plan = cohort.plan(rounds=1)
    kept: dict[str, tuple[TrainReply, Blobs]] = {}
    source, thief = (1, 2) if first else (2, 3)

    def steal(reply: Message, index: int) -> Message:
        if reply.metadata.message_type == "train" and index == source:
            kept["upload"] = unpack(reply.content, TrainReply, max_blob_bytes=10**7)
        if reply.metadata.message_type == "train" and index == thief:
            reply.content = pack(*kept["upload"])
        return reply

    lose = (lambda kind, group, index: kind == "train" and index == source) if first else None
    grid = InProcessGrid(cohort.app(), 4, tamper=steal, lose=lose or (lambda kind, group, index: False))
    coordinator, records = cohort.coordinator(plan, grid)
    coordinator.run()
    assert records[0].contributors == (2 if first else 3)
    assert "another node" in coordinator.refusals[f"round 1, m{thief}"]


def test_a_ciphertext_of_zeros_is_not_added(tmp_path: Path) -> None:
    def tamper(
        cohort: Cohort, plan: TrainingPlan, body: TrainReply, blobs: Blobs
    ) -> tuple[TrainReply, Blobs]:
        parameters = derive(plan).scheme.parameters
        zero = wire.encode(np.zeros(parameters.coefficients, dtype=np.uint64), parameters)
        return resigned(ciphertext_hash=sha256_hex(zero))(cohort, plan, body, blobs | {"ciphertext": zero})

    contributors, refusals = through_server(tmp_path, tamper)
    assert contributors == 3 and "zero throughout" in refusals["round 1, m1"]


# Members of the committee side with the server.


class SplitCommittee:
    """Five members, t = 4, one stated colluder; the server wants everybody's sum and the one without m4."""

    def __init__(self, folder: Path) -> None:
        self.cohort = Cohort(folder / "kahe", size=5)
        self.plan = self.cohort.plan(rounds=1, threshold=4)
        self.scheme = derive(self.plan).scheme
        grid = InProcessGrid(self.cohort.app(), 5, drop=lambda kind, group, index: kind == "query.unmask")
        coordinator, _ = self.cohort.coordinator(self.plan, grid)
        coordinator.close = lambda: None  # type: ignore[method-assign]
        coordinator.run()
        self.uploads = [
            unpack(m.content, TrainReply, max_blob_bytes=10**8)[1]["ciphertext"]
            for m in grid.replies
            if m.metadata.message_type == "train"
        ]
        caught = [m for m in grid.requests if m.metadata.message_type == "query.unmask"]
        self.requests = [unpack(m.content, UnmaskRequest, max_blob_bytes=10**8) for m in caught]
        self.sets = {"all": [0, 1, 2, 3, 4], "without": [0, 1, 2, 3]}

    def corrupt_answer(self, member: int, chosen: str) -> bytes:
        """What a member gives away that keeps no marks: it has its real key."""
        request, boxes = keep(*self.requests[member], self.sets[chosen])
        survivors = check_survivors(request.survivors, plan=self.plan, round_number=1)
        private = self.cohort.merchants[f"m{member}"].store.training(self.plan.training_id)
        assert private.secrets.sealing_private is not None
        assert isinstance(self.scheme, CommitteeScheme)
        _, sent = answer_as_member(
            self.scheme,
            survivors,
            request_parts(survivors, boxes, scheme=self.scheme),
            plan=self.plan,
            member=f"m{member}",
            sealing_key=SealingKey.from_private_bytes(private.secrets.sealing_private),
            kept=derive(self.plan).noise.kept_layers(len(survivors)),
        )
        return sent["answer"]

    def honest_answer(self, member: int, chosen: str) -> bytes:
        """What an honest member answers to its first request; the second set is then refused."""
        merchant = self.cohort.merchants[f"m{member}"]
        other = "without" if chosen == "all" else "all"
        _, sent = merchant.unmask(*keep(*self.requests[member], self.sets[chosen]))
        with pytest.raises(RefusedError, match="different request"):
            merchant.unmask(*keep(*self.requests[member], self.sets[other]))
        return sent["answer"]

    def open(self, chosen: str, answers: dict[int, bytes], *, threshold: int = 4) -> np.ndarray:
        total = self.scheme.new_sum()
        for index in self.sets[chosen]:
            total.add(self.uploads[index])
        return self.scheme.open(
            total,
            answers={member + 1: answer for member, answer in answers.items()},
            threshold=threshold,
            contributors=len(self.sets[chosen]),
            training_id=self.plan.training_id,
            round_number=1,
        )


def the_updates_in_clear(folder: Path) -> list[np.ndarray]:
    """What each of the same merchants uploads, from the same seed, with all of its noise."""
    cohort = Cohort(folder / "clear", size=5)
    plan = cohort.plan(rounds=1, threshold=4)
    start = np.zeros(plan.dimension)
    return [noised_update(cohort, plan, name, start, layers=plan.layers) for name in cohort.names]


def test_a_committee_of_the_servers_fakes_beyond_the_stated_number_opens_everything(tmp_path: Path) -> None:
    """The limit that the documentation states: 2t - m = 3 corrupt members open a single update, exactly."""
    split = SplitCommittee(tmp_path)
    corrupt, honest = (0, 1, 2), {"all": 3, "without": 4}
    opened = {}
    for chosen, member in honest.items():
        answers = {index: split.corrupt_answer(index, chosen) for index in corrupt}
        answers[member] = split.honest_answer(member, chosen)
        opened[chosen] = split.open(chosen, answers)
    updates = the_updates_in_clear(tmp_path)
    np.testing.assert_array_equal(opened["all"], sum(updates))
    np.testing.assert_array_equal(opened["all"] - opened["without"], updates[4])
    assert np.abs(updates[4]).max() > 0


@pytest.mark.parametrize("first_half", [(1, 2), (3, 4), (1, 4), (1, 2, 3), (2, 3, 4)])
def test_the_stated_number_of_colluders_opens_one_set_at_most(
    tmp_path: Path, first_half: tuple[int, ...]
) -> None:
    """m0 answers twice, the others once; however the server splits them, one of the sums stays shut."""
    split = SplitCommittee(tmp_path)
    answers = {chosen: {0: split.corrupt_answer(0, chosen)} for chosen in split.sets}
    for member in range(1, 5):
        chosen = "all" if member in first_half else "without"
        answers[chosen][member] = split.honest_answer(member, chosen)
    opened = 0
    for chosen in split.sets:
        if len(answers[chosen]) >= split.plan.threshold:
            split.open(chosen, answers[chosen])
            opened += 1
            continue
        with pytest.raises(AggregationError, match="too few"):
            split.open(chosen, answers[chosen])
        # Nor does filling up with the answers to the other set, or with the colluder's own of both.
        filled = answers["without" if chosen == "all" else "all"] | answers[chosen]
        with pytest.raises(AggregationError, match="too large to be a sum"):
            split.open(chosen, filled)
        with pytest.raises(AggregationError, match="too large to be a sum"):
            split.open(chosen, answers[chosen], threshold=len(answers[chosen]))
    assert opened == (1 if len(first_half) == 3 else 0)


# Somebody comes later.


@pytest.mark.parametrize(
    "scheme", [{}, {"scheme": "ckks", "committee": ("m0",), "threshold": 1}], ids=["kahe", "ckks"]
)
def test_no_key_of_a_finished_training_is_in_any_file(tmp_path: Path, scheme: dict[str, object]) -> None:
    cohort = Cohort(tmp_path)
    plan = cohort.plan(rounds=2, **scheme)
    coordinator, _ = cohort.coordinator(plan)
    close, coordinator.close = coordinator.close, lambda: None  # type: ignore[method-assign]
    coordinator.run()
    secrets: list[bytes] = []
    for name in plan.committee:
        stored = cohort.merchants[name].store.training(plan.training_id).secrets
        found = stored.sealing_private or stored.decryption_private
        assert found is not None
        # A long key spans pages of the file: any piece of it would do.
        secrets += [found[start : start + 32] for start in range(0, max(1, len(found) - 31), 509)]
    assert any(piece in everything(tmp_path) for piece in secrets)
    close()
    left = everything(tmp_path)
    assert not any(piece in left or piece.hex().encode() in left for piece in secrets)
    for name in cohort.names:
        cohort.restart(name)
    left = everything(tmp_path)
    assert not any(piece in left for piece in secrets)


def everything(folder: Path) -> bytes:
    return b"\n".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())
