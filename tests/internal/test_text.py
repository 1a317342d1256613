"""Nouns that are counted: one of them is none of several."""

from __future__ import annotations

import re

import pytest

from fedrec._internal.text import counted
from tests.support.layout import PACKAGE


@pytest.mark.parametrize(
    ("number", "told"),
    [(0, "0 rounds"), (1, "1 round"), (2, "2 rounds"), (2000, "2,000 rounds")],
)
def test_a_noun_agrees_with_its_number(number: int, told: str) -> None:
    assert counted(number, "round") == told


def test_an_odd_plural_is_given() -> None:
    assert counted(1, "entry", plural="entries") == "1 entry"
    assert counted(3, "entry", plural="entries") == "3 entries"


def test_no_message_writes_a_plural_in_parentheses() -> None:
    """As in "1 thing(s)"; a call's own ``(s)`` follows a name without a space before it."""
    found = {
        path.name: match.group()
        for path in PACKAGE.rglob("*.py")
        for match in re.finditer(r"\} [a-z ]+\((s|es)\)", path.read_text("utf-8"))
    }
    assert not found
