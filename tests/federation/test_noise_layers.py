"""Noise that a sum doesn't need is taken off it; what members, dealers and the server may try about that."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message

from fedrec.clients import uploading
from fedrec.clients.unmasking import answer_as_member, request_parts
from fedrec.errors import ProtocolError, RefusedError
from fedrec.privacy.aggregation.committee import check_survivors
from fedrec.privacy.aggregation.layer_seeds import SeedCommitments, SeedDealing, deal_seeds, read_opened
from fedrec.privacy.aggregation.scalar_sharing import interpolate
from fedrec.privacy.aggregation.scheme import CommitteeScheme
from fedrec.privacy.derived_parameters import derive
from fedrec.privacy.identity import SealingKey
from fedrec.privacy.randomness import Randomness
from fedrec.protocol.messages import JoinRequest, UnmaskReply
from fedrec.protocol.statements import dealing_statement
from fedrec.protocol.transport import pack, unpack
from tests.support.cheating_parties import expected_without, keep, unmask_requests
from tests.support.cohort import Cohort, InProcessGrid


@pytest.mark.parametrize("absent", [set(), {5}, {1, 5}, {1, 4, 5}])
def test_every_sum_keeps_the_noise_that_its_contributors_need(tmp_path: Path, absent: set[int]) -> None:
    cohort = Cohort(tmp_path / "a", size=6)
    plan = cohort.plan(rounds=1)
    assert plan.noise_levels == (6, 5, 4, 3)
    grid = InProcessGrid(cohort.app(), 6, drop=lambda kind, group, index: kind == "train" and index in absent)
    model, records = cohort.train(plan, grid)
    np.testing.assert_array_equal(model, expected_without(tmp_path / "b", 6, absent))
    assert records[0].noise_kept == pytest.approx(1.0, abs=1e-12)


# --- members ---------------------------------------------------------------------------------------------


def changed(indices: set[int], change: Callable[[bytes], bytes]) -> Callable[[Message, int], Message]:
    """Change what these members open of the layers, and nothing of their key shares."""

    def tamper(reply: Message, index: int) -> Message:
        if index in indices and reply.metadata.message_type == "query.unmask":
            body, blobs = unpack(reply.content, UnmaskReply, max_blob_bytes=10**7)
            altered = change(blobs.pop("layers"))
            reply.content = pack(body, blobs | ({"layers": altered} if altered else {}))
        return reply

    return tamper


@pytest.mark.parametrize(
    "change",
    [
        lambda blob: blob[:70] + bytes([blob[70] ^ 1]) + blob[71:],
        lambda blob: blob[:-32],
        lambda blob: b"\xff" * len(blob),
        lambda blob: b"",
    ],
    ids=["one bit", "short", "outside the field", "missing"],
)
def test_a_member_that_opens_other_shares_is_named_and_changes_nothing(
    tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    cohort = Cohort(tmp_path / "a", size=6)
    plan = cohort.plan(rounds=1)
    coordinator, records = cohort.coordinator(plan, cohort.grid(tamper=changed({0}, change)))
    coordinator.run()
    np.testing.assert_array_equal(coordinator.weights.parameters, expected_without(tmp_path / "b", 6, set()))
    assert records[0].noise_kept == pytest.approx(1.0)
    assert list(coordinator.refusals) == [f"round 1, {cohort.names[0]}"]


def test_a_member_that_opens_layers_which_the_sum_needs_is_named(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)

    def tamper(reply: Message, index: int) -> Message:
        if index == 0 and reply.metadata.message_type == "query.unmask":
            body, blobs = unpack(reply.content, UnmaskReply, max_blob_bytes=10**7)
            reply.content = pack(body, blobs | {"layers": bytes(3 * 64)})
        return reply

    grid = cohort.grid(tamper=tamper, drop=lambda kind, group, index: kind == "train" and index == 3)
    coordinator, records = cohort.coordinator(cohort.plan(rounds=1), grid)
    coordinator.run()
    assert records[0].opened and records[0].noise_kept == pytest.approx(1.0)
    assert "opened noise layers that the sum needs" in coordinator.refusals["round 1, m0"]


def test_where_too_few_open_their_shares_the_sum_keeps_all_noise(tmp_path: Path) -> None:
    """Correct and noisier: three of four members must answer, and only two tell the truth."""
    cohort = Cohort(tmp_path / "a")
    plan = cohort.plan(rounds=1)
    wrong = changed({0, 1}, lambda blob: bytes(len(blob)))
    model, records = cohort.train(plan, cohort.grid(tamper=wrong))
    # Four contributors, three of them honest: the deviation of what a sum of three needs of each.
    assert records[0].opened and records[0].noise_kept == pytest.approx((3 / 2) ** 0.5)
    assert (model != expected_without(tmp_path / "b", 4, set())).mean() > 0.5


def test_what_a_member_opens_follows_from_the_survivors_alone(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path, size=5)
    plan = cohort.plan(rounds=1)
    requests, blobs = unmask_requests(cohort, plan)
    merchant = cohort.merchants["m0"]
    with pytest.raises(RefusedError, match="2 merchants, 3 are required"):
        merchant.unmask(*keep(requests[0], blobs[0], [0, 1]))
    four = keep(requests[0], blobs[0], [0, 1, 2, 4])
    # Another merchant's box in its place opens nothing: the box is bound to its dealer.
    first = merchant.unmask(*four)
    # Levels 5, 4, 3: one layer is kept, and one of each of the four is opened; nothing of m3.
    assert len(first[1]["layers"]) == 4 * (32 + 32)
    assert merchant.unmask(*four) == first
    for chosen in ([0, 1, 2, 3, 4], [0, 1, 2], [0, 1, 2, 3], [4, 2, 1, 0]):
        with pytest.raises(RefusedError, match="different request"):
            merchant.unmask(*keep(requests[0], blobs[0], chosen))
    # A sum of the minimum needs every layer.
    assert set(cohort.merchants["m1"].unmask(*keep(requests[1], blobs[1], [0, 1, 2]))[1]) == {"answer"}
    # Nor does a box stand for another dealer's.
    request, boxes = keep(requests[2], blobs[2], [0, 1, 2, 3])
    swapped = boxes | {"box-1": blobs[2]["box-5"]}
    reply, sent = cohort.merchants["m2"].unmask(request, swapped)
    assert reply.complaints == ("m0",) and sent == {}


def test_a_commitment_to_another_number_of_layers_is_refused(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    plan = cohort.plan(rounds=1)
    requests, blobs = unmask_requests(cohort, plan)
    signed = requests[0].survivors[0]
    for field, values in (("layer_seed_hashes", ()), ("layer_part_hashes", ("00" * 32,) * 5)):
        commitment = signed.commitment.model_copy(update={field: values})
        other = signed.model_copy(update={"commitment": commitment})
        request = requests[0].model_copy(update={"survivors": (other, *requests[0].survivors[1:])})
        with pytest.raises(ProtocolError, match="wrong number of noise layers"):
            cohort.merchants["m0"].unmask(request, blobs[0])


@pytest.mark.parametrize("levels", [(), (4,), (4, 3, 2), (3,), (5, 3), (3, 4)])
def test_a_plan_with_other_levels_than_follow_is_refused(tmp_path: Path, levels: tuple[int, ...]) -> None:
    cohort = Cohort(tmp_path)
    assert cohort.plan().noise_levels == (4, 3)
    with pytest.raises(RefusedError, match="noise levels"):
        cohort.merchants["m0"].join(JoinRequest(plan=cohort.plan(noise_levels=levels)))


@pytest.mark.parametrize("first_half", [(1, 2), (3, 4), (1, 4), (1, 2, 3), (2, 3, 4), (1, 2, 3, 4), ()])
def test_members_that_answer_twice_open_no_layer_that_the_opened_sum_keeps(
    tmp_path: Path, first_half: tuple[int, ...]
) -> None:
    """m0 is corrupt and opens whatever it has; the server asks the others about two sets, as it likes."""
    cohort = Cohort(tmp_path, size=5)
    plan = cohort.plan(rounds=1, threshold=4)
    requests, blobs = unmask_requests(cohort, plan)
    derived = derive(plan)
    sets = {"all": [0, 1, 2, 3, 4], "least": [0, 1, 2]}
    answered: dict[str, set[int]] = {chosen: {0} for chosen in sets}
    shares: dict[tuple[str, int], dict[int, int]] = {}
    commitments = {signed.commitment.merchant: signed.commitment for signed in requests[0].survivors}

    def note(member: int, chosen: list[int], opened: bytes, kept: int) -> None:
        size = 32 * (plan.layers - kept + 1)
        for place, dealer in enumerate(chosen):
            commitment = commitments[f"m{dealer}"]
            found = read_opened(
                opened[size * place : size * (place + 1)],
                SeedCommitments(commitment.layer_seed_hashes, commitment.layer_part_hashes),
                kept=kept,
                member=member + 1,
                statement=dealing_statement(
                    training_id=plan.training_id, round_number=1, dealer=commitment.merchant
                ),
            )
            for layer, share in enumerate(found, start=kept + 1):
                shares.setdefault((commitment.merchant, layer), {})[member] = share

    private = cohort.merchants["m0"].store.training(plan.training_id).secrets.sealing_private
    assert private is not None and isinstance(derived.scheme, CommitteeScheme)
    survivors = check_survivors(requests[0].survivors, plan=plan, round_number=1)
    _, sent = answer_as_member(
        derived.scheme,
        survivors,
        request_parts(survivors, blobs[0], scheme=derived.scheme),
        plan=plan,
        member="m0",
        sealing_key=SealingKey.from_private_bytes(private),
        kept=0,
    )
    note(0, sets["all"], sent["layers"], 0)
    for member in range(1, 5):
        chosen = "all" if member in first_half else "least"
        _, sent = cohort.merchants[f"m{member}"].unmask(*keep(requests[member], blobs[member], sets[chosen]))
        answered[chosen].add(member)
        if "layers" in sent:
            kept = derived.noise.kept_layers(len(sets[chosen]))
            note(member, sets[chosen], sent["layers"], kept)
    opened = [chosen for chosen in sets if len(answered[chosen]) >= plan.threshold]
    assert len(opened) <= 1
    known = {at for at, held in shares.items() if len(held) >= plan.threshold}
    for chosen in opened:
        kept = derived.noise.kept_layers(len(sets[chosen]))
        needed = {(f"m{dealer}", layer) for dealer in sets[chosen] for layer in range(1, kept + 1)}
        assert not known & needed
    if not opened:
        # Nothing is seen that noise would have to hide; and so few shares fit every seed.
        assert all(interpolate({x + 1: [s] for x, s in held.items()}) for held in shares.values())


# --- dealers ---------------------------------------------------------------------------------------------


def deal_other_seeds(monkeypatch: pytest.MonkeyPatch, dealer: str, *, members: set[int]) -> None:
    """Let a dealer commit to its seeds, and give these members shares of others, which it commits to too."""

    def deal(
        seeds: list[int], *, members: int, threshold: int, statement: bytes, rng: Randomness
    ) -> SeedDealing:
        options = {"members": members, "threshold": threshold, "statement": statement, "rng": rng}
        honest = deal_seeds(seeds, **options)  # type: ignore[arg-type]
        if f'"{dealer}"'.encode() not in statement:
            return honest
        other = deal_seeds([seed + 1 for seed in seeds], **options)  # type: ignore[arg-type]

        def mixed(right: tuple[Any, ...], wrong: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(w if x in targets else r for x, (r, w) in enumerate(zip(right, wrong, strict=True)))

        published = SeedCommitments(
            seeds=honest.published.seeds, parts=mixed(honest.published.parts, other.published.parts)
        )
        return SeedDealing(parts=mixed(honest.parts, other.parts), published=published)

    targets = members
    monkeypatch.setattr(uploading, "deal_seeds", deal)


@pytest.mark.parametrize("members", [{0}, {0, 1, 2, 3, 4, 5}], ids=["one member", "all members"])
def test_a_dealer_of_other_seeds_keeps_its_own_noise_and_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, members: set[int]
) -> None:
    cohort = Cohort(tmp_path, size=6)
    deal_other_seeds(monkeypatch, "m2", members=members)
    plan = cohort.plan(rounds=2)
    coordinator, records = cohort.coordinator(plan)
    coordinator.run()
    assert [record.opened for record in records] == [True, True]
    # The cheat's own noise is none of what honest contributors keep.
    assert records[0].noise_kept == pytest.approx(1.0, abs=1e-12)
    assert "its noise layers can't be removed" in coordinator.refusals["round 1, m2"]
    assert records[1].merchants == ("m0", "m1", "m3", "m4", "m5")
    assert records[1].noise_kept == pytest.approx(1.0)
    assert "dealt noise layers" in coordinator.notes()["m2"]


def test_shares_that_differ_from_what_was_signed_are_complained_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = Cohort(tmp_path)

    def deal(seeds: list[int], **options: object) -> SeedDealing:
        honest = deal_seeds(seeds, **options)  # type: ignore[arg-type]
        if b'"m2"' not in options["statement"]:  # type: ignore[operator]
            return honest
        first = honest.parts[0]
        return SeedDealing(
            parts=(first[:40] + bytes([first[40] ^ 1]) + first[41:], *honest.parts[1:]),
            published=honest.published,
        )

    monkeypatch.setattr(uploading, "deal_seeds", deal)
    requests, blobs = unmask_requests(cohort, cohort.plan(rounds=1))
    reply, sent = cohort.merchants["m0"].unmask(requests[0], blobs[0])
    assert reply.complaints == ("m2",) and sent == {}
    assert set(cohort.merchants["m1"].unmask(requests[1], blobs[1])[1]) == {"answer", "layers"}
