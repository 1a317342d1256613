"""Trainings that the server neither closes nor goes on with: the merchant ends them itself."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedrec.cli.client import app
from fedrec.clients.daemon import Daemon, DaemonOptions
from fedrec.clients.merchant_home import MerchantHome
from fedrec.clients.store import MerchantStore
from fedrec.clients.store_types import TrainingSecrets
from fedrec.errors import ConnectionLostError, RefusedError
from fedrec.flower.fleet import FleetLink
from fedrec.privacy.identity import SealingKey
from fedrec.protocol.enrolment import JoinFile
from fedrec.protocol.messages import JoinRequest, TrainRequest
from fedrec.vision.devices import pick_device
from tests.support.cohort import Cohort

NOW = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
IDS = ("ab" * 32, "cd" * 32)


def sealing_key(cohort: Cohort, training_id: str) -> bytes | None:
    return cohort.merchants["m0"].store.training(training_id).secrets.sealing_private


def test_a_training_that_the_server_leaves_alone_is_finished(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    merchant, plan = cohort.merchants["m0"], cohort.plan()
    merchant.context.now = lambda: NOW
    merchant.join(JoinRequest(plan=plan))
    for days in (1, 30):
        merchant.context.now = lambda days=days: NOW + days * DAY  # type: ignore[misc]
        assert merchant.expire() == [] and sealing_key(cohort, plan.training_id) is not None
    merchant.context.now = lambda: NOW + 30 * DAY + timedelta(seconds=1)
    assert merchant.expire() == [plan.training_id]
    assert sealing_key(cohort, plan.training_id) is None


def test_every_request_starts_the_days_anew_and_a_late_one_finds_the_training_closed(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    merchant, plan = cohort.merchants["m0"], cohort.plan()
    request = TrainRequest(training_id=plan.training_id, round_number=1, model_hash="0" * 64, sealing_keys=())
    merchant.context.now = lambda: NOW
    merchant.join(JoinRequest(plan=plan))
    merchant.context.now = lambda: NOW + 29 * DAY
    with pytest.raises(RefusedError, match="first round's model"):
        merchant.train(request, {})
    merchant.context.now = lambda: NOW + 58 * DAY
    assert merchant.expire() == []
    merchant.context.now = lambda: NOW + 60 * DAY
    with pytest.raises(RefusedError, match="was closed"):
        merchant.train(request, {})
    assert sealing_key(cohort, plan.training_id) is None
    with pytest.raises(RefusedError, match="was closed"):
        merchant.join(JoinRequest(plan=plan))


def test_a_restart_does_not_start_the_days_anew(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    plan = cohort.plan()
    cohort.merchants["m0"].context.now = lambda: NOW
    cohort.merchants["m0"].join(JoinRequest(plan=plan))
    cohort.restart("m0")
    cohort.merchants["m0"].context.now = lambda: NOW + 31 * DAY
    assert cohort.merchants["m0"].expire() == [plan.training_id]


def home_with_trainings(folder: Path) -> MerchantHome:
    home = MerchantHome.create(folder / "home", name="m0", data=folder, units=10)
    store = MerchantStore(home.store)
    for training_id in IDS:
        store.join(
            training_id,
            plan=b"{}",
            seeded=False,
            make_secrets=lambda: TrainingSecrets(sealing_private=SealingKey.generate().private_bytes()),
        )
        store.mark_active(training_id, now=NOW - 400 * DAY)
    store.close()
    return home


def keys(home: MerchantHome) -> list[bool]:
    store = MerchantStore(home.store)
    found = [store.training(training_id).secrets.sealing_private is not None for training_id in IDS]
    store.close()
    return found


def test_a_merchant_can_forget_a_training(tmp_path: Path) -> None:
    home = home_with_trainings(tmp_path)

    def forget(*arguments: str) -> Exception | None:
        done = CliRunner().invoke(app, ["forget", *arguments, "--home", str(home.folder)])
        error = done.exception
        return error if isinstance(error, Exception) else None

    for wrong in ((), (IDS[0], "--all"), ("ef",)):
        assert "name a training" in str(forget(*wrong)) or "open are: abab" in str(forget(*wrong))
    assert keys(home) == [True, True]
    assert forget(IDS[0][:6]) is None
    assert keys(home) == [False, True]
    assert "open are: cdcd" in str(forget(IDS[0]))
    assert forget("--all") is None
    assert keys(home) == [False, False]


def test_the_daemon_looks_when_it_starts_even_where_no_server_answers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = home_with_trainings(tmp_path)
    monkeypatch.setattr(
        MerchantHome,
        "joined",
        lambda self: JoinFile.model_construct(address="127.0.0.1:1", roster=(), server_key="ab" * 32),
    )
    daemon = Daemon(home, DaemonOptions(device=pick_device("cpu")))

    def no_server() -> FleetLink:
        daemon.stop()
        raise ConnectionLostError("nobody answers")

    monkeypatch.setattr(daemon, "connection", no_server)
    with caplog.at_level(logging.WARNING):
        daemon.run()
    assert keys(home) == [False, False]
    assert "expired: its keys are deleted" in caplog.text


def test_a_training_of_another_version_is_refused_and_ends_with_the_next(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    merchant = cohort.merchants["m0"]
    old, new = IDS[0], cohort.plan(rounds=1)
    merchant.store.join(old, plan=b'{"version": 0}', seeded=False, make_secrets=TrainingSecrets)
    request = TrainRequest(training_id=old, round_number=1, model_hash="0" * 64, sealing_keys=())
    with pytest.raises(RefusedError, match="another version of fedrec"):
        merchant.train(request, {})
    # The daemon asks it before a message is read, and goes on for a refusal alone.
    with pytest.raises(RefusedError, match="another version of fedrec"):
        merchant.derived_of_open_training()
    merchant.join(JoinRequest(plan=new))
    assert merchant.store.open_trainings() == [new.training_id]
