"""The parts of a campaign with an upload window: its length, its requests, its stored replies, its status."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from fedrec._internal.durations import duration_text, parse_duration
from fedrec.cli import server
from fedrec.cli.status_lines import _window
from fedrec.clients.status import summarise_plan
from fedrec.errors import ConfigError, ProtocolError, TrainingError
from fedrec.protocol.messages import CloseReply, TrainReply
from fedrec.protocol.reply_encoding import decode_reply, encode_reply
from fedrec.server import pauses
from fedrec.server.live_state import LiveState
from fedrec.server.message_exchange import ExchangeSettings
from fedrec.server.server_home import ServerHome
from fedrec.server.status_document import server_status
from fedrec.server.status_endpoint import ServerObserver
from fedrec.server.status_page import status_blocks
from fedrec.server.training_file import add_training, read_training_file, write_plan
from fedrec.server.trainings import Training
from fedrec.server.window import campaign_files
from fedrec.server.window.campaign_files import CampaignFiles, Survivor, SurvivorSet, Window, delete_cancelled
from fedrec.server.window.standing_requests import StandingRequests
from fedrec.server.window.stored_replies import StoredReplies
from tests.support.campaigns import campaign
from tests.support.cohort import Cohort, InProcessGrid


@pytest.mark.parametrize(("text", "seconds"), [("30m", 1800), ("12h", 43_200), ("7d", 604_800)])
def test_a_length_of_time_is_read_and_written_alike(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds and duration_text(seconds) == text
    assert duration_text(90) == "90s" and duration_text(48 * 3600) == "2d"


def planned(folder: Path, lines: str) -> Any:
    cohort = Cohort(folder / "homes")
    (folder / "trainings").mkdir()
    path = folder / "training.toml"
    path.write_text(f'[training]\nclasses = ["hat", "mug"]\nmethod = "one-round"\n{lines}\n')
    return add_training(
        folder / "trainings",
        read_training_file(path),
        server_key="0" * 64,
        roster=cohort.roster,
        sizes=(400,) * 4,
    ).plan()


def test_a_training_file_puts_the_window_into_the_plan(tmp_path: Path) -> None:
    assert planned(tmp_path, 'model = "lite2-views-head"\nwindow = "7d"').upload_window == 604_800


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ('window = "a week"', "'window' must be a whole number of minutes, hours or days"),
        ("window = 7", "'window' must be text, as in '30m'"),
        ('window = "7d"\nsite_figures = 0.1', "leave out window or site_figures"),
        ('window = "0d"', "'window' must be a whole number"),
        ('window = "91d"', "'window' must be from 1m to 90d"),
        (
            'window = "7d"\nmethod = "steps"',
            "window is the time in which the uploads of method = 'one-round'",
        ),
    ],
)
def test_another_window_is_one_line(tmp_path: Path, lines: str, told: str) -> None:
    path = tmp_path / "training.toml"
    method = "" if "method" in lines else 'method = "one-round"\n'
    path.write_text(f'[training]\nclasses = ["hat", "mug"]\n{method}{lines}\n')
    with pytest.raises(ConfigError, match=told):
        read_training_file(path)


def test_whoever_does_not_answer_is_asked_again_after_pauses_and_at_once_when_it_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(pauses, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    cohort = Cohort(tmp_path, size=3)
    grid = InProcessGrid(cohort.app(), 3, drop=lambda kind, group, index: True)
    settings = ExchangeSettings(
        message_type="query.close", reply_type=CloseReply, max_blob_bytes=0, timeout=60, group_id="close"
    )
    requests = StandingRequests(grid, settings)
    asked: list[float] = []
    for second in range(200):
        clock[0] = float(second)
        for name in requests.due({"m0"} if second != 150 else set()):
            asked.append(clock[0])
            requests.send({}, names={1: name})
    # 30 s, then 60 s; it was away at 150 s.
    assert asked == [0.0, 30.0, 90.0, 151.0, 181.0]


def test_nobody_is_asked_more_often_by_coming_and_going(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(pauses, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    found: pauses.Pauses[str] = pauses.Pauses(first=30.0)
    asked: list[int] = []
    for second in range(100):
        clock[0] = float(second)
        found.keep({"m0"} if second % 2 == 0 else set())
        if second % 2 == 0 and found.is_due("m0"):
            asked.append(second)
            found.asked("m0")
    assert asked == [0, 30, 60, 90]


def test_a_stored_reply_is_read_as_strictly_as_a_message() -> None:
    whole = encode_reply(CloseReply(merchant="m0"), {"box-1": b"12345"})
    assert decode_reply(whole, CloseReply) == (CloseReply(merchant="m0"), {"box-1": b"12345"})
    for place in range(len(whole) - 5):
        with_change = whole[:place] + bytes([whole[place] ^ 0x80]) + whole[place + 1 :]
        with pytest.raises(ProtocolError):
            decode_reply(with_change, CloseReply)
    endless = b'[{"merchant":"m0"},[["box-1",Infinity]]]'
    endless = len(endless).to_bytes(4, "little") + endless
    other = encode_reply(CloseReply(merchant="m0"), {"Box": b""})
    for wrong in (b"", whole[:-1], whole + b"1", other, endless):
        with pytest.raises(ProtocolError):
            decode_reply(wrong, CloseReply)


def test_a_stored_reply_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    _, plan = campaign(tmp_path / "homes", upload_window=3600)
    files = CampaignFiles(tmp_path, plan=plan)
    replies = StoredReplies(files, upload_bytes=10, answer_bytes=10)
    reply = TrainReply(merchant="m0")
    replies.keep("m0", reply, {"ciphertext": b"0" * 10})
    assert replies.upload("m0") == (reply, {"ciphertext": b"0" * 10})
    replies.keep("m0", reply, {"ciphertext": b"0" * 11})
    with pytest.raises(ProtocolError, match="too large"):
        replies.upload("m0")
    files.path("upload", "m0").write_bytes(bytes(1 << 20))
    with pytest.raises(ProtocolError, match="too large"):
        replies.upload("m0")


def test_a_window_that_is_not_the_plans_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, plan = campaign(tmp_path / "homes", upload_window=3600)
    synced: list[Path] = []
    monkeypatch.setattr(campaign_files, "sync_folder", synced.append)
    files = CampaignFiles(tmp_path, plan=plan)
    files.write_window(Window(training_id=plan.training_id, began=5, ends=3605))
    # The new folder's own entry outlasts a loss of power too.
    assert synced == [tmp_path] and files.window() is not None
    path = files.folder / "window.json"
    for ends, told in (("3606", "another length than the plan's"), ("999999999999", "can't be used")):
        path.write_bytes(path.read_bytes().replace(b"3605", ends.encode()))
        with pytest.raises(TrainingError, match=told):
            files.window()
        # Whoever looks at the status sees the rest of it.
        assert campaign_files.shown_progress(tmp_path, plan) is None
        path.write_bytes(path.read_bytes().replace(ends.encode(), b"3605"))


def test_a_failed_campaign_that_is_cancelled_leaves_no_upload(tmp_path: Path) -> None:
    _, plan = campaign(tmp_path / "homes", upload_window=3600)
    ServerHome.create(tmp_path / "server", address="127.0.0.1:9443", listen=None)
    training = Training(ServerHome.open(tmp_path / "server").trainings / "0001")
    training.folder.mkdir()
    write_plan(training, plan, seed=0)
    files = CampaignFiles(training.folder, plan=plan)
    StoredReplies(files, upload_bytes=10, answer_bytes=10).keep("m1", TrainReply(merchant="m1"), {})
    training.set_status("failed", "the disk is full")
    CliRunner().invoke(
        server.app, ["cancel", "1", "--home", str(tmp_path / "server")], catch_exceptions=False
    )
    assert training.is_cancelled() and not files.folder.exists()


def test_operator_and_merchant_see_how_far_a_campaign_is(tmp_path: Path) -> None:
    drawn = ("m2", "m0", "m1")
    cohort, plan = campaign(tmp_path / "homes", upload_window=7 * 86400, committee=drawn)
    ServerHome.create(tmp_path / "server", address="127.0.0.1:9443", listen=None)
    home = ServerHome.open(tmp_path / "server")
    training = Training(home.trainings / "0001")
    training.folder.mkdir()
    write_plan(training, plan, seed=0)
    training.set_status("running", "the window is open")
    files = CampaignFiles(training.folder, plan=plan)
    files.write_window(Window(training_id=plan.training_id, began=1_700_000_000, ends=1_700_604_800))
    replies = StoredReplies(files, upload_bytes=10, answer_bytes=10)
    replies.keep("m1", TrainReply(merchant="m1"), {})

    def shown() -> str:
        return CliRunner().invoke(server.app, ["status", "--home", str(home.folder)]).output

    def waited_for() -> tuple[object, ...]:
        now = datetime.now(UTC)
        found = server_status(home, LiveState(time=now, started=now, training="0001")).waiting_for
        assert found is not None
        return found.what, found.merchants, found.since

    assert waited_for() == ("uploads", ("m0", "m2"), "2023-11-14T22:13:20+00:00")
    told = "until 2023-11-21 22:13 UTC: 1 of 3 uploads; missing: m0, m2"
    assert f"  window    {told}\n" in shown()
    status = ServerObserver(home).status()
    assert status.training is not None and status.training.window is not None
    assert status.training.window.text == told
    assert status.training.window.missing == ("m0", "m2")
    assert told in str(status_blocks(status))
    survivor = Survivor(merchant="m1", commitment_hash="0" * 64)
    files.write_survivors(
        SurvivorSet(training_id=plan.training_id, fixed=1_700_604_800, survivors=(survivor,))
    )
    # The answers are waited for since the set was fixed, and told in the roster's order.
    members = ("m0", "m1", "m2")
    assert waited_for() == ("answers that open the sum", members, "2023-11-21T22:13:20+00:00")
    assert "closed: 1 of 3 uploads; missing: m0, m2; 0 of the 3 answers needed; waits for m0, m1" in shown()
    summary = summarise_plan(plan, cohort.merchants["m0"].ledger.entries(), lifetime_delta=1e-4)
    assert (summary.upload_window, summary.committee) == (7 * 86400, drawn)
    (line,) = _window(summary, merchant="m0")
    assert line == (
        "  window    7d for all uploads: it is needed once, for its upload; as a member of the committee "
        "it is needed when the sum is opened"
    )
    (line,) = _window(replace(summary, last_round=1, committee=()), merchant="m0")
    assert line == "  window    7d for all uploads: its upload is made; it isn't needed any more"
    delete_cancelled([training])
    assert files.stored("upload") == ["m1"]
    training.set_status("cancelled")
    delete_cancelled([training])
    assert not files.folder.exists()
