"""What the verifier reads of a JSON value: fields of known types, or a line that names the place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from fedrec.privacy.audit.verify.forms import read_form


@dataclass(frozen=True)
class Inner:
    """A form in another."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Outer:
    """A form with a field of each kind."""

    count: int
    share: float
    sure: bool
    left: float | None
    each: tuple[Inner, ...]
    named: Mapping[str, float | None]
    own: Inner | None = None


GOOD: dict[str, Any] = {
    "count": 3, "share": 1, "sure": True, "left": None, "each": [{"text": "a"}, {"text": "b"}],
    "named": {"x": 0.5, "y": None}, "unknown": [],
}  # fmt: skip


def test_a_form_has_its_fields_and_leaves_out_others() -> None:
    read = read_form(Outer, GOOD, what="it")
    expected = Outer(
        count=3, share=1, sure=True, left=None, each=(Inner("a"), Inner("b")), named={"x": 0.5, "y": None}
    )
    assert read == expected and read.own is None
    assert read_form(Outer, GOOD | {"own": {"text": "c"}}, what="it").own == Inner("c")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"count": True}, "'count' of it is not a whole number"),
        ({"count": 3.0}, "'count' of it is not a whole number"),
        ({"count": None}, "'count' of it is not a whole number"),
        ({"share": "1"}, "'share' of it is not a number"),
        ({"share": False}, "'share' of it is not a number"),
        ({"sure": 1}, "'sure' of it is not true or false"),
        ({"left": []}, "'left' of it is not a number"),
        ({"each": {}}, "'each' of it is not a list"),
        ({"each": [{"text": "a"}, {"text": 1}]}, "'each.1.text' of it is not text"),
        ({"each": [{"text": "a"}, {}]}, "it has no 'each.1.text'"),
        ({"each": ["a"]}, "'each.0' of it is not an object"),
        ({"named": [0.5]}, "'named' of it is not an object"),
        ({"named": {"x": {}}}, "'named.x' of it is not a number"),
        ({"own": 7}, "'own' of it is not an object"),
    ],
)
def test_another_type_is_named_with_its_place(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError) as caught:
        read_form(Outer, GOOD | changes, what="it")
    assert str(caught.value) == told


def test_a_missing_field_and_another_value_are_named() -> None:
    for name in ("count", "left", "each"):
        with pytest.raises(ValueError, match=rf"^it has no '{name}'$"):
            read_form(Outer, {key: value for key, value in GOOD.items() if key != name}, what="it")
    others: list[Any] = [None, [], "text", 3]
    for value in others:
        with pytest.raises(ValueError, match=r"^it is not an object$"):
            read_form(Outer, value, what="it")
