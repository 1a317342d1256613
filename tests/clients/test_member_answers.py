"""A member's check of the shares it adds: wrong ones are named whenever the sum of all isn't right."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from fedrec.clients.unmasking import answer_as_member
from fedrec.privacy.aggregation.committee import check_survivors
from fedrec.privacy.aggregation.dealing import decode_share, encode_share
from fedrec.privacy.aggregation.scalar_sharing import ORDER
from fedrec.privacy.aggregation.scheme import CommitteeScheme
from fedrec.privacy.derived_parameters import derive
from fedrec.privacy.identity import SealingKey, seal
from fedrec.protocol.messages import UnmaskReply, UnmaskRequest
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.statements import box_binding
from tests.support.cheating_parties import unmask_requests
from tests.support.cohort import Cohort

Boxes = dict[str, bytes]


class Seat:
    """The first member of a committee, with the request that it gets and its boxes."""

    def __init__(self, folder: Path) -> None:
        cohort = Cohort(folder, size=4)
        self.plan: TrainingPlan = cohort.plan(rounds=1)
        requests, blobs = unmask_requests(cohort, self.plan)
        self.request: UnmaskRequest = requests[0]
        self.boxes: Boxes = dict(blobs[0])
        self.name = self.plan.committee[0]
        private = cohort.merchants[self.name].store.training(self.plan.training_id).secrets.sealing_private
        assert private is not None
        self.key = SealingKey.from_private_bytes(private)
        scheme = derive(self.plan).scheme
        assert isinstance(scheme, CommitteeScheme)
        self.scheme = scheme

    def with_errors(self, errors: Mapping[str, Mapping[int, int]]) -> Boxes:
        """The boxes, with numbers added to scalars of the shares of some dealers."""
        boxes = dict(self.boxes)
        for number, signed in enumerate(self.request.survivors, start=1):
            dealer = signed.commitment.merchant
            binding = box_binding(
                training_id=self.plan.training_id, round_number=1, dealer=dealer, member=self.name
            )
            content = self.key.open(boxes[f"box-{number}"], binding=binding)
            length = self.scheme.parcel_bytes
            count = length // 32 - 1
            share = decode_share(content[:length], member=1, count=count)
            for place, error in errors.get(dealer, {}).items():
                share[place] = (share[place] + error) % ORDER
            changed = encode_share(1, share) + content[length:]
            boxes[f"box-{number}"] = seal(self.key.public, changed, binding=binding)
        return boxes

    def answer(self, boxes: Boxes) -> tuple[UnmaskReply, dict[str, bytes]]:
        survivors = check_survivors(self.request.survivors, plan=self.plan, round_number=1)
        return answer_as_member(
            self.scheme,
            survivors,
            [boxes[f"box-{n}"] for n in range(1, len(survivors) + 1)],
            plan=self.plan,
            member=self.name,
            sealing_key=self.key,
            kept=derive(self.plan).noise.kept_layers(len(survivors)),
        )


@pytest.fixture(scope="module")
def seat(tmp_path_factory: pytest.TempPathFactory) -> Seat:
    return Seat(tmp_path_factory.mktemp("seat"))


def test_right_shares_are_added(seat: Seat) -> None:
    reply, blobs = seat.answer(seat.boxes)
    assert reply.complaints == ()
    assert seat.answer(seat.with_errors({}))[1] == blobs


@pytest.mark.parametrize(
    "errors",
    [
        {"m1": {0: 1}},
        {"m1": {-1: 1}},  # the scalar of the commitments' random part
        {"m1": {3: 1}, "m2": {3: 1}},
        {"m0": {3: 1}, "m1": {3: ORDER - 2}, "m2": {3: 5}},
        {"m1": {3: 1}, "m2": {4: ORDER - 1}},
        {name: {0: 1 << place} for place, name in enumerate(("m0", "m1", "m2", "m3"))},
        # Two that make up for each other are named too, once another one is wrong.
        {"m0": {3: 1}, "m1": {3: ORDER - 1}, "m3": {0: 7}},
    ],
)
def test_every_dealer_of_a_wrong_share_is_named(seat: Seat, errors: dict[str, dict[int, int]]) -> None:
    reply, blobs = seat.answer(seat.with_errors(errors))
    assert set(reply.complaints) == set(errors) and not blobs


def test_a_box_that_does_not_open_is_named_beside_a_wrong_share(seat: Seat) -> None:
    boxes = seat.with_errors({"m1": {2: 9}})
    last = f"box-{len(seat.request.survivors)}"
    boxes[last] = boxes[last][:-1] + bytes([boxes[last][-1] ^ 1])
    closed = seat.request.survivors[-1].commitment.merchant
    assert set(seat.answer(boxes)[0].complaints) == {"m1", closed}
    # All other shares are right, and so is their sum: it is still no answer about this set.
    boxes = seat.boxes | {last: boxes[last]}
    reply, blobs = seat.answer(boxes)
    assert reply.complaints == (closed,) and not blobs


def test_errors_that_make_up_for_each_other_change_nothing(seat: Seat) -> None:
    """Two dealers may agree on such shares; the member's answer is what right shares give."""
    errors = {"m1": {0: 12345, 5: 1}, "m2": {0: ORDER - 12345, 5: ORDER - 1}}
    assert seat.answer(seat.with_errors(errors)) == seat.answer(seat.boxes)
