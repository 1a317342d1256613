"""Which rosters follow from what a merchant approved by hand, and everything that an adversary may send."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from itertools import combinations, permutations

import pytest
from pydantic import ValidationError

from fedrec.clients.approvals import Approvals, Review, Rules, review
from fedrec.privacy.endorsements import sign_rotation, sign_vouch, vouch_holds
from fedrec.privacy.identity import SigningIdentity
from fedrec.protocol.plan import Peer
from fedrec.protocol.roster_statements import RosterUpdate, SignedRotation, SignedVouch, Vouch

TODAY = date(2026, 11, 29)
FEDERATION, OTHER = "aa" * 32, "bb" * 32
KEYS = {
    name: SigningIdentity.generate()
    for name in ("me", "a", "b", "c", "d", "new", "fake", "fake2", "k1", "k2")
}
FIRST = ("me", "a", "b", "c", "d")
TWO = Rules(least_vouchers=2, follow_rotations=True)


def peer(name: str, key: str | None = None) -> Peer:
    return Peer(name=name, signing_key=KEYS[key or name].public.hex())


def vouch(
    voucher: str,
    whom: Peer,
    *,
    key: str | None = None,
    federation: str = FEDERATION,
    days: int = 30,
) -> SignedVouch:
    statement = Vouch(
        federation=federation,
        peer=whom,
        node_key_hash="cc" * 32,
        voucher=voucher,
        voucher_key=KEYS[key or voucher].public.hex(),
        last_day=(TODAY + timedelta(days=days)).isoformat(),
    )
    return sign_vouch(statement, voucher=KEYS[key or voucher])


def rotation(name: str, old: str, new: str) -> SignedRotation:
    return sign_rotation(name, old=KEYS[old], new=KEYS[new])


BY_HAND = Approvals(federation=FEDERATION).by_hand([peer(name) for name in FIRST], federation=FEDERATION)


def reviewed(
    roster: Iterable[Peer],
    *,
    vouches: Sequence[SignedVouch] = (),
    rotations: Sequence[SignedRotation] = (),
    approvals: Approvals = BY_HAND,
    rules: Rules = TWO,
    own: Peer | None = None,
) -> Review:
    update = RosterUpdate(roster=tuple(roster), vouches=tuple(vouches), rotations=tuple(rotations))
    return review(approvals, update, own=own or peer("me"), rules=rules, today=TODAY)


def with_new(*more: Peer, without: str = "", changed: dict[str, str] | None = None) -> list[Peer]:
    keys = changed or {}
    return [*(peer(name, keys.get(name)) for name in FIRST if name != without), *more]


def test_no_roster_has_a_name_or_a_key_twice_and_nobody_s_word_counts_for_itself() -> None:
    for twice in (
        {"roster": (peer("a"), peer("a", "b"))},
        {"roster": (peer("a"), peer("b", "a"))},
        {"roster": (peer("a"),), "witnesses": (peer("a", "b"),)},
        {"roster": (peer("a"),), "witnesses": (peer("b", "a"),)},
    ):
        with pytest.raises(ValidationError, match="twice"):
            RosterUpdate.model_validate(twice)
    for voucher, key in (("new", "a"), ("a", "new"), ("new", "new")):
        signed = vouch(voucher, peer("new"), key=key)
        assert not vouch_holds(signed, federation=FEDERATION, today=TODAY), (voucher, key)
    assert vouch_holds(vouch("a", peer("new")), federation=FEDERATION, today=TODAY)


def test_enough_vouches_and_no_fewer_make_a_new_merchant_acceptable() -> None:
    for number in range(5):
        for vouchers in combinations("abcd", number):
            vouches = [vouch(name, peer("new")) for name in vouchers]
            found = reviewed(with_new(peer("new")), vouches=vouches)
            assert (not found.problems) == (number >= 2), (vouchers, found)
            if number >= 2:
                (entry,) = found.approvals.vouched
                assert entry.peer == peer("new") and entry.vouchers == vouchers


@pytest.mark.parametrize(
    "second",
    [
        pytest.param(vouch("a", peer("new"), days=60), id="the same merchant again"),
        pytest.param(vouch("b", peer("new"), key="a"), id="its key under another name"),
        pytest.param(vouch("b", peer("new"), federation=OTHER), id="another federation"),
        pytest.param(vouch("b", peer("new"), days=-1), id="ended yesterday"),
        pytest.param(vouch("b", peer("new", "fake")), id="another key of the name"),
        pytest.param(vouch("b", peer("fake", "new")), id="another name of the key"),
        pytest.param(vouch("b", peer("new"), key="fake"), id="a key that isn't its own"),
        pytest.param(vouch("fake", peer("new")), id="a stranger"),
        pytest.param(vouch("new", peer("new")), id="the new one itself"),
        pytest.param(vouch("b", peer("new")).model_copy(update={"signature": "0" * 128}), id="no signature"),
    ],
)
def test_a_second_vouch_that_does_not_count(second: SignedVouch) -> None:
    found = reviewed(with_new(peer("new")), vouches=[vouch("a", peer("new")), second])
    assert (
        len(found.problems) == 1 and "1 of 2 merchants approved by hand vouch for it (a)" in found.problems[0]
    )


@pytest.mark.parametrize(
    ("days", "holds"), [(-1, False), (0, True), (90, True), (92, False), (900_000, False)]
)
def test_a_vouch_holds_through_its_last_day_and_not_for_ever(days: int, holds: bool) -> None:
    """Whoever has a merchant's key could otherwise sign vouches that outlive the stated window."""
    vouches = [vouch(name, peer("new"), days=days) for name in "ab"]
    assert bool(reviewed(with_new(peer("new")), vouches=vouches).problems) != holds


@pytest.mark.parametrize("colluders", [1, 2, 3])
def test_colluders_with_the_server_get_no_invented_merchant_accepted(colluders: int) -> None:
    """All that they can sign, at once and after they exchanged keys; one honest vouch more is
    enough, so that the number is exact."""
    corrupt = ["a", "b", "c", "d"][:colluders]
    rules = Rules(least_vouchers=colluders + 1, follow_rotations=True)
    fakes = [peer("fake"), peer("fake2")]
    everything = [
        vouch(name, fake, key=key)
        for fake in fakes
        for name in (*corrupt, "fake", "fake2", "me", "d")
        for key in (*corrupt, "fake", "fake2", "k1", "k2")
        if (name, key) != (fake.name, fake.name)
    ]
    moved = rotation(corrupt[0], corrupt[0], "k1")
    tries = [
        (with_new(*fakes), []),
        (with_new(fakes[0]), []),
        (with_new(*fakes, changed={corrupt[0]: "k1"}), [moved]),
        (with_new(*fakes, changed={corrupt[0]: "k2"}), [moved, rotation(corrupt[0], "k1", "k2")]),
    ]
    for roster, rotations in tries:
        found = reviewed(roster, vouches=everything, rotations=rotations, rules=rules)
        assert any(problem.startswith("fake") for problem in found.problems)
    if colluders < 4:
        honest = next(name for name in "abcd" if name not in corrupt)
        more = [*everything, vouch(honest, fakes[0])]
        assert not reviewed(with_new(fakes[0]), vouches=more, rules=rules).problems


def test_merchants_accepted_by_vouches_cannot_vouch_and_nobody_counts_in_a_circle() -> None:
    first = reviewed(with_new(peer("new")), vouches=[vouch("a", peer("new")), vouch("b", peer("new"))])
    vouches = [vouch("new", peer("fake")), vouch("a", peer("fake"))]
    found = reviewed(with_new(peer("new"), peer("fake")), vouches=vouches, approvals=first.approvals)
    # A person is told why the second vouch isn't counted.
    assert found.problems[0].endswith("vouch for it (a); not counted: new, accepted by vouches")
    circle = [vouch("fake", peer("new")), vouch("new", peer("fake")), *vouches[1:], vouch("a", peer("new"))]
    assert len(reviewed(with_new(peer("new"), peer("fake")), vouches=circle).problems) == 2
    # Approved by hand, it may.
    both = [*with_new(peer("new"))]
    by_hand = first.approvals.by_hand(both, federation=FEDERATION)
    assert not reviewed([*both, peer("fake")], vouches=vouches, approvals=by_hand).problems


def test_the_order_of_roster_and_statements_changes_nothing() -> None:
    vouches = [vouch("a", peer("new")), vouch("b", peer("new"), key="k1"), vouch("c", peer("new"))]
    rotations = [rotation("b", "b", "k1")]
    roster = with_new(peer("new"), changed={"b": "k1"})
    outcomes = {
        tuple(
            sorted(
                entry.canonical_bytes()
                for entry in reviewed(order, vouches=said, rotations=rotations).approvals.peers
            )
        )
        for order in (roster, roster[::-1], roster[3:] + roster[:3])
        for said in permutations(vouches)
    }
    assert len(outcomes) == 1


def test_no_vouch_is_enough_by_default_and_ones_own_is_an_approval_by_hand() -> None:
    rules = Rules(least_vouchers=None, follow_rotations=True)
    roster, all_four = with_new(peer("new")), [vouch(name, peer("new")) for name in "abcd"]
    assert "least_vouchers" in reviewed(roster, vouches=all_four, rules=rules).problems[0]
    found = reviewed(roster, vouches=[vouch("me", peer("new"))], rules=rules)
    assert not found.problems and not found.approvals.vouched


def test_a_revoked_merchant_is_brought_back_by_hand_alone() -> None:
    gone = reviewed(with_new(without="d"))
    assert not gone.problems and gone.changes == ["d left the roster"]
    vouches = [
        vouch(name, whom) for name in "abc" for whom in (peer("d"), peer("d", "new"), peer("new", "d"))
    ]
    for back, rotations in (
        (peer("d"), []),
        (peer("d", "new"), [rotation("d", "d", "new")]),
        (peer("new", "d"), []),
    ):
        found = reviewed(
            [*with_new(without="d"), back], vouches=vouches, rotations=rotations, approvals=gone.approvals
        )
        assert "was on the roster before" in found.problems[0]
    by_hand = gone.approvals.by_hand(with_new(), federation=FEDERATION)
    assert not reviewed(with_new(), approvals=by_hand).problems and not by_hand.removed


def test_the_word_of_a_revoked_merchant_counts_no_more() -> None:
    vouches = [vouch("a", peer("new")), vouch("d", peer("new"))]
    at_once = reviewed(with_new(peer("new"), without="d"), vouches=vouches)
    assert "1 of 2" in at_once.problems[0]
    gone = reviewed(with_new(without="d")).approvals
    assert (
        "1 of 2" in reviewed(with_new(peer("new"), without="d"), vouches=vouches, approvals=gone).problems[0]
    )


def test_a_vouchers_exchanged_key_counts_once_and_its_old_one_not_at_all() -> None:
    rotations, roster = [rotation("a", "a", "k1")], with_new(peer("new"), changed={"a": "k1"})
    twice = [vouch("a", peer("new")), vouch("a", peer("new"), key="k1")]
    assert "1 of 2" in reviewed(roster, vouches=twice, rotations=rotations).problems[0]
    stolen = [vouch("a", peer("new")), vouch("b", peer("new"))]
    assert "1 of 2" in reviewed(roster, vouches=stolen, rotations=rotations).problems[0]
    assert not reviewed(roster, vouches=[*twice, vouch("b", peer("new"))], rotations=rotations).problems


def test_an_exchanged_key_is_followed_once_and_keeps_how_it_was_approved() -> None:
    chain = [rotation("a", "k1", "k2"), rotation("a", "a", "k1")]
    found = reviewed(with_new(changed={"a": "k2"}), rotations=chain)
    assert not found.problems and not found.approvals.vouched
    # What merchants saw is settled: neither back, nor to a thief's key.
    for key, more in (
        ("a", rotation("a", "k2", "a")),
        ("k1", rotation("a", "k2", "k1")),
        ("fake", rotation("a", "a", "fake")),
    ):
        again = reviewed(with_new(changed={"a": key}), rotations=[*chain, more], approvals=found.approvals)
        assert len(again.problems) == 1, key
    assert not reviewed(with_new(changed={"a": "k2"}), rotations=chain, approvals=found.approvals).problems


@pytest.mark.parametrize(
    ("rotations", "key"),
    [
        pytest.param([], "k1", id="no statement"),
        pytest.param([rotation("b", "a", "k1")], "k1", id="of another name"),
        pytest.param([rotation("a", "fake", "k1")], "k1", id="of a stranger's key"),
        pytest.param([rotation("a", "a", "k1"), rotation("a", "a", "k2")], "k1", id="two successors"),
        pytest.param(
            [rotation("a", "a", "k1").model_copy(update={"old_signature": "0" * 128})],
            "k1",
            id="new key alone",
        ),
        pytest.param(
            [rotation("a", "a", "k1").model_copy(update={"new_signature": "0" * 128})],
            "k1",
            id="old key alone",
        ),
        pytest.param([rotation("a", "a", "k1"), rotation("a", "k1", "a")], "k2", id="a circle"),
    ],
)
def test_a_new_key_that_does_not_follow(rotations: list[SignedRotation], key: str) -> None:
    found = reviewed(with_new(changed={"a": key}), rotations=rotations)
    assert found.problems == ["a has another key, which the approved one didn't sign"]


def test_a_new_key_may_ask_for_a_person_and_never_is_another_merchants() -> None:
    strict = Rules(least_vouchers=2, follow_rotations=False)
    moved = with_new(changed={"a": "k1"})
    assert "rotated_keys" in reviewed(moved, rotations=[rotation("a", "a", "k1")], rules=strict).problems[0]
    # d left; a corrupt a would take the key that d had.
    gone = reviewed(with_new(without="d")).approvals
    taken = reviewed(
        with_new(without="d", changed={"a": "d"}), rotations=[rotation("a", "a", "d")], approvals=gone
    )
    assert "was a merchant's before" in taken.problems[0]


def test_ones_own_exchange_needs_no_statement_and_its_absence_is_noticed() -> None:
    mine = peer("me", "k1")
    assert not reviewed(with_new(changed={"me": "k1"}), own=mine).problems
    assert "this merchant" in reviewed(with_new(), own=mine).problems[0]
    assert "this merchant" in reviewed(with_new(without="me")).problems[0]


def test_names_that_look_alike_are_for_a_person() -> None:
    new = Peer(name="A", signing_key=KEYS["new"].public.hex())
    found = reviewed(with_new(new), vouches=[vouch(name, new) for name in "abc"])
    assert found.problems == ["the names A, a look alike"]
