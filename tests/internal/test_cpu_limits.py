"""A limit of CPU time holds on any machine: it is as much longer as other work takes longer."""

from __future__ import annotations

import pytest

from tests.support import speed


@pytest.mark.parametrize(("slower", "spent", "within"), [(10, 15, True), (10, 25, False), (1, 2.5, False)])
def test_a_limit_follows_the_machine(
    monkeypatch: pytest.MonkeyPatch, slower: float, spent: float, within: bool
) -> None:
    monkeypatch.setattr(speed, "work_seconds", lambda: slower * speed.USUAL_SECONDS)
    assert speed.is_within(spent, limit=2) is within
    assert speed.is_within(1.9, limit=2)
