"""Tests of drawn examples give the same result in every run, on a slow machine too."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st


def drawn() -> list[int]:
    found = []

    @given(st.integers())
    def draw(number: int) -> None:
        found.append(number)

    draw()
    return found


def test_every_run_draws_the_same_examples() -> None:
    if not settings().derandomize:
        pytest.skip("this run was asked to draw new ones")
    examples = drawn()
    assert examples == drawn() and len(set(examples)) > 20


@settings(max_examples=1)
@given(st.booleans())
def test_an_example_may_take_long(_: bool) -> None:
    time.sleep(0.25)
