"""What a stranger's bundle can make the verifier spend: bounded before anything is parsed or composed."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedrec.privacy.accounting.events import Event
from fedrec.privacy.accounting.rdp import ORDERS, rdp_vector
from fedrec.privacy.audit import verify as verifier
from fedrec.privacy.audit.verify import epsilons
from fedrec.privacy.audit.verify.check import BODY, BYTES_PER_VALUE

MIB = 2**20


def peak_of(call: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _read(path: Path) -> None:
    """Read a bundle of right parts; whether it is refused at once or by its signature, it is refused."""
    try:
        assert not verifier.verify(path).ok
    except verifier.UnusableError:
        return


@pytest.mark.parametrize("pattern", ["[],", "{},", '{"a":0},', '"ab",', "1.5,", '{"a":[0]},'])
@pytest.mark.parametrize("sparse", [False, True])
def test_no_text_makes_a_tree_of_many_times_its_size(tmp_path: Path, pattern: str, sparse: bool) -> None:
    """As dense as JSON can be, and with as many values as a bundle may have."""
    marks = sum(map(pattern.count, "[{,"))
    part = pattern + " " * (marks * BYTES_PER_VALUE - len(pattern)) * sparse
    body = dict.fromkeys(BODY, 0) | {"merchants": "HERE"}
    whole = {"schema": "fedrec.audit/5", "body": body, "signer": "00" * 32, "signature": "00" * 64}
    path = tmp_path / "audit.json"
    path.write_text(json.dumps(whole).replace('"HERE"', f"[{part * (MIB // len(part))}0{' ' * 400}]"))
    if sparse:
        assert not verifier.verify(path).ok
    else:
        with pytest.raises(verifier.UnusableError, match="too many values"):
            verifier.verify(path)
    assert peak_of(lambda: _read(path)) < 20 * path.stat().st_size


def test_a_text_that_is_not_ascii_is_no_bundle(tmp_path: Path) -> None:
    """One sign beyond it makes four bytes of every letter."""
    path = tmp_path / "audit.json"
    path.write_text('{"schema":"fedrec.audit/5","x":"' + "a" * MIB + '\U0001f600"}', "utf-8")
    with pytest.raises(verifier.UnusableError, match="no audit bundle"):
        verifier.verify(path)


@pytest.mark.parametrize("noise", [1e-11, 1e-4, 0.0499])
def test_a_sampled_step_of_next_to_no_noise_has_no_figure_and_costs_nothing(noise: float) -> None:
    """A grid that shows it would have a point for every square of its noise multiplier."""
    for vector in (
        lambda: rdp_vector(Event(0.5, noise, 1)),
        lambda: epsilons.rdp_step(0.5, noise),
    ):
        assert np.isinf(vector()).all()
        assert peak_of(vector) < MIB
    # Without sampling there is a closed form.
    np.testing.assert_allclose(rdp_vector(Event(1.0, noise, 1)), ORDERS / (2 * noise**2), rtol=1e-9)


def test_the_least_noise_that_has_a_figure_is_composed_in_little_memory() -> None:
    assert peak_of(lambda: rdp_vector(Event(0.37, 0.05, 1))) < 200 * MIB
    assert peak_of(lambda: epsilons.rdp_step(0.37, 0.05)) < 200 * MIB


def test_more_steps_than_are_ever_stated_are_refused() -> None:
    history = ((0.5, 1.0, 10**12),)
    with pytest.raises(ValueError, match="more than"):
        epsilons.pld_epsilon(history, 1e-5, 1.0)
    with pytest.raises(ValueError, match="more than"):
        epsilons.pld_epsilon_of_copies(history, 1e-3, copies=4)


def test_a_small_epsilon_beside_large_losses_is_found_on_a_grid_of_bounded_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rare losses in the hundreds beside an epsilon of thousandths would take a hundred million points."""
    intervals: list[float] = []

    def step(rate: float, noise: float, interval: float) -> object:
        intervals.append(interval)
        raise ZeroDivisionError

    monkeypatch.setattr(epsilons, "_pld_step", step)
    with pytest.raises(ZeroDivisionError):
        epsilons.pld_epsilon(((1.0, 1e4, 1), (1e-7, 0.05, 1)), 1e-5, 1e-3)
    # The loss at x is (2 x - 1) / (2 noise^2), out to ten deviations.
    assert (2 * 10 * 0.05 + 1) / (2 * 0.05**2) / intervals[0] < 2**21
