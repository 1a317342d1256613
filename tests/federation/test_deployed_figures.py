"""Site figures of processes over TLS: a daemon that is killed before them, and rules that forbid them."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from measure import fedrec_here

from fedrec.clients.merchant_home import MerchantHome
from fedrec.privacy.accounting.ledger_entries import charges
from fedrec.privacy.accounting.ledger_reader import read_entries
from fedrec.privacy.identity import verify
from fedrec.server.checkpoint import Checkpoint
from fedrec.server.trainings import Training
from fedrec.simulations.federation import Federation
from fedrec.vision.synthetic import generate, write
from tests.support.commands import command_here
from tests.support.daemons import eventually

MERCHANTS = ("merchant-00", "merchant-01", "merchant-02")
PLAN = """
[training]
model = "cnn-tanh"
rounds = 1
sample_rate = 0.5
epsilon = 60
delta = 1e-3
site_figures = 0.1
classes = ["bottle", "chair", "handbag", "hat", "lamp", "mug", "shoe", "t-shirt", "trousers", "watch"]
"""


def allow_figures(federation: Federation, name: str, *, allowed: bool) -> None:
    path = federation.home(name) / "policy.toml"
    lines = [line for line in path.read_text("utf-8").splitlines() if not line.startswith("site_figures")]
    path.write_text("\n".join([*lines, f"site_figures = {str(allowed).lower()}", ""]))


def charged(federation: Federation, name: str) -> list[int]:
    """Return the rounds of all charges in a merchant's ledger."""
    home = MerchantHome.open(federation.home(name))
    outcome, entries = read_entries(home.ledger, public=home.identity().public, verify=verify)
    assert outcome.ok
    return [entry.charge.round_number for entry in charges(entries)]


@contextmanager
def stopped_after_the_last_round(federation: Federation, number: str) -> Iterator[None]:
    """Hold the server between the last round and that of the figures."""
    folder = federation.training(number)
    checkpoint = Checkpoint(folder / "server", training_id=Training(folder).plan().training_id)
    server = federation.processes["server"]
    eventually(lambda: checkpoint.last_record() is not None, seconds=120)
    server.send_signal(signal.SIGSTOP)
    try:
        assert checkpoint.figures() is None, "the server was faster"
        yield
    finally:
        server.send_signal(signal.SIGCONT)


@pytest.mark.slow  # in make test-long
def test_figures_come_although_a_daemon_is_killed_and_charge_nobody_where_one_forbids_them(
    tmp_path: Path,
) -> None:
    photos = tmp_path / "photos"
    # Enough to evaluate that the server is still at it when its checkpoint shows the round.
    write(generate(merchants=3, per_merchant=30, size=16, seed=3, validation=20, test=1500), photos)
    plan = f'{PLAN}eval_data = "{photos / "test"}"\n'
    federation = Federation(tmp_path / "federation", run=fedrec_here)
    federation.enrol({name: photos / "train" / name for name in MERCHANTS}, epsilon=400.0, delta=1e-2)
    for name in MERCHANTS[:2]:
        allow_figures(federation, name, allowed=True)
    federation.plan(plan)
    try:
        federation.start_server("--gather", 60)
        eventually(lambda: "waits up to" in federation.log("server"), seconds=60)
        for name in MERCHANTS:
            federation.start_merchant(name)

        # One merchant doesn't allow them: the training begins for nobody.
        def refused() -> bool:
            return "policy 'site_figures'" in command_here("server", "status", "--home", federation.server)

        eventually(refused, seconds=120)
        assert [charged(federation, name) for name in MERCHANTS] == [[], [], []]
        allow_figures(federation, MERCHANTS[2], allowed=True)

        # A daemon is killed after the last round, and started again.
        with stopped_after_the_last_round(federation, "0001"):
            federation.kill(MERCHANTS[1])
        federation.start_merchant(MERCHANTS[1])
        federation.wait("0001", seconds=150)
        figures = json.loads((federation.training() / "report.json").read_text("utf-8"))["site_figures"]
        assert figures["opened"] and figures["contributors"] == 3 and len(figures["classes"]) == 10
        assert [charged(federation, name) for name in MERCHANTS] == [[1, 2]] * 3

        # Consent is taken back after the last round: nobody is charged for figures that can't be opened.
        federation.plan(plan)
        with stopped_after_the_last_round(federation, "0002"):
            before = federation.log(MERCHANTS[2]).count("policy")
            allow_figures(federation, MERCHANTS[2], allowed=False)
            eventually(lambda: federation.log(MERCHANTS[2]).count("policy") > before, seconds=60)
        federation.wait("0002", seconds=150)
        report = json.loads((federation.training("0002") / "report.json").read_text("utf-8"))
        assert not report["site_figures"]["begun"]
        assert "policy 'site_figures'" in report["refusals"]["round 2, merchant-02"]
        assert [charged(federation, name) for name in MERCHANTS] == [[1, 2, 1]] * 3
        assert "policy 'site_figures'" in federation.log(MERCHANTS[2])
    finally:
        federation.stop()
