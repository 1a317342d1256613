"""What the verifier says of committees that a merchant would refuse: each rule by itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedrec.privacy.audit.verify.forms import read_form
from fedrec.privacy.audit.verify.plans import Peer, Plan
from fedrec.privacy.audit.verify.seats import check_committee, draw_seats, seat_risk
from tests.support.cohort import Cohort


def found(plan: dict[str, Any], **changes: Any) -> list[str]:
    read = read_form(Plan, plan | changes, what="it")
    return [problem.reason for problem in check_committee(read, "it")]


def peers(values: list[dict[str, str]]) -> list[Peer]:
    return [Peer(**value) for value in values]


def stated(folder: Path, *, witnesses: int = 0, **changes: Any) -> dict[str, Any]:
    plan: dict[str, Any] = json.loads(Cohort(folder, witnesses=witnesses).plan(**changes).canonical_bytes())
    assert not found(plan)
    return plan


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"threshold": 5}, "asks for 5 of a committee of 4"),
        ({"threshold": 0}, "asks for 0 of a committee of 4"),
        ({"corrupt_members": 0}, "lets 0 corrupt members reach"),
        ({"corrupt_members": 3, "threshold": 3}, "lets 3 corrupt members reach the threshold of 3"),
        ({"corrupt_members": 2, "threshold": 3}, "lets two overlapping sets of a round be opened"),
        ({"corrupt_witnesses": 1}, "takes 1 of 0 witnesses to be corrupt"),
        ({"seat_risk": 0.5}, "states a seat risk of 0.5"),
    ],
)
def test_each_rule_of_a_committee_is_told(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    assert any(told in text for text in found(stated(tmp_path), **changes))


def test_witnesses_without_a_seat_or_taken_to_be_honest_are_told(tmp_path: Path) -> None:
    plan = stated(tmp_path, witnesses=3)
    assert any("0 of 3 witnesses" in text for text in found(plan, corrupt_witnesses=0))
    assert any("4 of 3 witnesses" in text for text in found(plan, corrupt_witnesses=4))
    assert any("2 of 3 witnesses" in text for text in found(plan, corrupt_members=1, corrupt_witnesses=2))
    two = draw_seats(peers(plan["roster"]), 2, peers(plan["witnesses"]))
    assert any("without a seat for each witness" in text for text in found(plan, committee=two, threshold=2))


def test_a_committee_beyond_all_limits_is_told_before_anything_is_computed(tmp_path: Path) -> None:
    plan = stated(tmp_path)
    many = [{"name": f"m{number}", "signing_key": f"{number:064x}"} for number in range(1001)]
    assert found(plan, roster=many) == ["it has a committee of 4 among 1001 merchants"]
    assert found(plan, roster=many[:200], committee=[each["name"] for each in many[:101]]) == [
        "it has a committee of 101 among 200 merchants"
    ]
    assert found(plan, committee=[*plan["committee"], "m9"]) == ["it has a committee of 5 among 4 merchants"]


def test_a_scheme_without_a_committee_counts_nobody_corrupt(tmp_path: Path) -> None:
    plan = stated(tmp_path, scheme="none", committee=(), threshold=0)
    for changes in ({"corrupt_members": 1}, {"corrupt_witnesses": 1}, {"seat_risk": 1e-9}, {"threshold": 1}):
        assert found(plan, **changes) == ["it counts a committee that scheme none doesn't have"]


def test_a_draw_that_may_seat_too_many_is_told(tmp_path: Path) -> None:
    plan = stated(tmp_path)
    roster = [{"name": f"m{number}", "signing_key": f"{number:064x}"} for number in range(400)]
    risk = seat_risk(cohort=400, colluders=40, seats=10, corrupt=3)
    seats = draw_seats(peers(roster), 10)
    numbers = {"colluders": 40, "threshold": 7, "corrupt_members": 3, "seat_risk": risk}
    assert found(plan, roster=roster, committee=seats, **numbers) == [
        f"it has a seat risk of {risk:.3g}, over 1e-06"
    ]
