"""The merchant's own command for events, what emits them, and what a daemon says that it is doing."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedrec.clients.activity import ActivityLog, read_activity
from fedrec.clients.event_hook import Event, EventHook, HookCommand, find_program, run_command
from fedrec.clients.event_limit import MOST_AN_HOUR
from fedrec.clients.event_watch import EventWatch
from fedrec.clients.photo_counts import PhotoCounts
from fedrec.clients.policy import MerchantPolicy
from fedrec.clients.refusals import PAUSED
from fedrec.errors import ConfigError
from fedrec.protocol.messages import CloseRequest, JoinRequest
from tests.support.cohort import Cohort

EVENT = Event("training-started", "2026-01-01T00:00:00+00:00", "m0", "ab" * 32, "cnn", 3)
SCRIPT = """
import json, os, sys
seen = {"arguments": sys.argv[2:], "input": json.load(sys.stdin), "environment": sorted(os.environ)}
open(sys.argv[1], "w").write(json.dumps(seen))
"""


def test_a_command_gets_name_and_json_and_no_shell_and_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDREC_SECRET", "not for a command")
    script, out = tmp_path / "script.py", tmp_path / "out.json"
    script.write_text(SCRIPT)
    evil = f"; touch {tmp_path / 'evil'} $(touch {tmp_path / 'evil'})"
    hook = EventHook(
        lambda: HookCommand((sys.executable, str(script), str(out), evil), 30.0), folder=tmp_path
    )
    hook.emit(EVENT)
    hook.close()
    seen = json.loads(out.read_text())
    assert seen["arguments"] == [evil, "training-started"] and not (tmp_path / "evil").exists()
    assert seen["input"] == {
        "event": "training-started",
        "at": EVENT.at,
        "merchant": "m0",
        "training_id": "ab" * 32,
        "model": "cnn",
        "rounds": 3,
        "reason": "",
        "left_out": 0,
    }
    assert "FEDREC_SECRET" not in seen["environment"]


def test_a_command_that_hangs_fails_or_is_missing_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    started = time.monotonic()
    sleeper = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    run_command(HookCommand((sys.executable, "-c", sleeper), 0.5), EVENT, folder=tmp_path)
    assert time.monotonic() - started < 20 and "longer than 0.5 s" in caplog.messages[-1]
    commands = [("/no/such/command",), (sys.executable, "-c", "raise SystemExit(3)")]
    told_of = ("/no/such/command can't be run (No such file", "ended with code 3")
    for words, told in zip(commands, told_of, strict=True):
        hook = EventHook(lambda words=words: HookCommand(words, 9.0), folder=tmp_path)  # type: ignore[misc]
        hook.emit(EVENT)
        hook.close()
        assert told in caplog.messages[-1]


def test_a_program_is_found_where_its_start_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    for name, mode in (("tell.sh", 0o755), ("plain.sh", 0o644), ("bin/ring", 0o755)):
        (tmp_path / name).write_text("#!/bin/sh\nexit 0\n")
        (tmp_path / name).chmod(mode)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    for name, runs in {
        "ring": True,
        "./tell.sh": True,
        "bin/ring": True,
        str(tmp_path / "tell.sh"): True,
        "tell.sh": False,
        "./plain.sh": False,
        "./none": False,
        "bin": False,
    }.items():
        command = HookCommand((name,), 30.0)
        assert (find_program(command, folder=tmp_path) is not None) is runs, name
        try:
            run_command(command, EVENT, folder=tmp_path)
        except OSError:
            assert not runs, name
        else:
            assert runs, name


def test_a_daemon_waits_for_no_command(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedrec.clients.event_hook._MOST_WAITING", 3)
    monkeypatch.setattr("fedrec.clients.event_hook._CLOSE_SECONDS", 60.0)
    held = "import pathlib, time\nwhile not pathlib.Path('go').exists(): time.sleep(0.01)"
    command = HookCommand((sys.executable, "-c", held), 900.0)
    hook = EventHook(lambda: command, folder=tmp_path)
    # Longer than a test may take, if it waited for the first.
    for _ in range(6):
        hook.emit(EVENT)
    assert "too many events wait" in caplog.text
    (tmp_path / "go").touch()
    hook.close()
    # Also where the last ones fill the queue.
    assert hook._thread is not None and not hook._thread.is_alive()


class Emitted(EventHook):
    """Keeps events instead of running a command."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)


def test_events_tell_of_trainings_and_decisions_once(tmp_path: Path) -> None:
    cohort, hook = Cohort(tmp_path), Emitted()
    merchant = cohort.merchants["m0"]
    plan, refused = cohort.plan(), cohort.plan()
    merchant.store.note_refusal(kind="query.join", reason="long ago", plan=refused.canonical_bytes())
    watch = EventWatch(merchant.store, hook, merchant="m0")

    def told() -> list[tuple[str, str, str]]:
        watch.poll()
        watch.poll()
        found: list[tuple[str, str, str]] = [
            (event.event, event.training_id, event.reason) for event in hook.events
        ]
        hook.events.clear()
        return found

    assert told() == []
    merchant.join(JoinRequest(plan=plan))
    assert told() == [("training-started", plan.training_id, "")]
    for reason, expected in (
        ("policy 'models': no", 1),
        (PAUSED, 0),
        ("policy 'models': no", 0),
        ("other", 1),
    ):
        merchant.store.note_refusal(kind="query.join", reason=reason, plan=refused.canonical_bytes())
        assert told() == [("decision-needed", refused.training_id, reason)] * expected
    # Photos that aren't there are the owner's to bring back. The command learns no number of them.
    for counts in (
        PhotoCounts(unit="record", problem="/photos is empty"),
        PhotoCounts(unit="record", held=7),
    ):
        merchant.store.put_photo_counts(plan.training_id, counts)
        told_now = told()
        assert [(name, of) for name, of, _ in told_now] == [("decision-needed", plan.training_id)] * (
            counts.held == 0
        )
        assert all("noise alone" in reason and "/photos" not in reason for _, _, reason in told_now)
    merchant.store.put_photo_counts(plan.training_id, PhotoCounts(unit="record", held=7, used=7))
    # A round that is refused is the policy at work, not a question.
    merchant.store.note_refusal(kind="train", reason="policy 'hours': no")
    assert told() == []
    watch.decision("policy.toml can't be used")
    watch.decision("policy.toml can't be used")
    assert told() == [("decision-needed", "", "policy.toml can't be used")]
    merchant.close_training(CloseRequest(training_id=plan.training_id))
    assert told() == [("training-ended", plan.training_id, "")]


def test_a_server_does_not_choose_how_often_the_command_is_run(tmp_path: Path) -> None:
    cohort, hook, seconds = Cohort(tmp_path), Emitted(), [0.0]
    store = cohort.merchants["m0"].store
    watch = EventWatch(store, hook, merchant="m0", clock=lambda: seconds[0])

    def refuse(reason: str) -> list[tuple[str, int]]:
        hook.events.clear()
        # Each plan has a nonce of its own.
        plan = cohort.plan().canonical_bytes()
        store.note_refusal(kind="query.join", reason=reason, plan=plan)
        watch.poll()
        return [(event.reason, event.left_out) for event in hook.events]

    assert [refuse("policy 'models': no") for _ in range(4)] == [[("policy 'models': no", 0)], [], [], []]
    told = [refuse(f"policy 'largest_rounds': {101 + n} > 100") for n in range(30)]
    assert sum(map(len, told)) == MOST_AN_HOUR - 1 and not any(told[MOST_AN_HOUR:])
    # What a server does hides nothing of the merchant's own.
    hook.events.clear()
    watch.decision("policy.toml can't be used")
    assert [event.reason for event in hook.events] == ["policy.toml can't be used"]
    hook.events.clear()
    seconds[0] = 3599.0
    watch.poll()
    assert not hook.events
    seconds[0] = 3600.0
    watch.poll()
    watch.poll()
    # The latest of those without room, and how many others there were: 1 + 30 reasons, 6 passed on, and it.
    assert [(event.reason, event.left_out) for event in hook.events] == [
        ("policy 'largest_rounds': 130 > 100", 31 - MOST_AN_HOUR - 1)
    ]
    seconds[0] = 86_400.0
    assert refuse("policy 'models': no") == [("policy 'models': no", 0)]


def test_the_command_is_no_rule_and_its_form_is_checked() -> None:
    text = "lifetime_epsilon = 1.0\nlifetime_delta = 1e-5\n"
    with_hook = MerchantPolicy.parse(text + 'on_event = ["notify", "it\'s; here"]\non_event_seconds = 2')
    without = MerchantPolicy.parse(text)
    assert with_hook.hook == HookCommand(("notify", "it's; here"), 2.0) and without.hook is None
    # Neither its auditors nor its ledger see the command.
    assert with_hook.rules == without.rules and with_hook.hash == without.hash
    for wrong in ('"notify"', "[]", "[1]", '[""]', '["a\\u0000b"]'):
        with pytest.raises(ConfigError, match="'on_event"):
            MerchantPolicy.parse(text + f"on_event = {wrong}")
    with pytest.raises(ConfigError, match="on_event_seconds"):
        MerchantPolicy.parse(text + "on_event_seconds = 0")


def test_a_daemon_says_what_it_does_and_not_too_often(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "fedrec.clients.activity")
    seconds = [0.0]
    activity = ActivityLog(tmp_path, clock=lambda: seconds[0])
    assert read_activity(tmp_path) is None
    activity.tell("photos")
    found = read_activity(tmp_path)
    assert found is not None and found.text == "reading photos" and found.started <= found.since
    assert (tmp_path / "activity.json").stat().st_mode & 0o077 == 0
    for done in range(1, 3001):
        seconds[0] += 0.01
        activity.tell("features", done, 3000)
    found = read_activity(tmp_path)
    assert found is not None and found.text.startswith("extracting features of photos, 2,9")
    # Half a minute of progress is three lines in a log, not three thousand.
    assert 3 <= len(caplog.messages) <= 4
    activity.tell("waiting")
    assert (found := read_activity(tmp_path)) is not None and not found.is_starting
    (tmp_path / "activity.json").write_text("rubbish")
    assert read_activity(tmp_path) is None
    ActivityLog(tmp_path / "missing").tell("photos")


def test_a_process_that_loads_libraries_is_starting_and_one_that_is_gone_is_not(tmp_path: Path) -> None:
    ActivityLog(tmp_path).tell("loading")
    found = read_activity(tmp_path)
    assert found is not None and found.is_starting
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert not found.model_copy(update={"pid": ended.pid}).is_starting
    # Its number was given to a later process, such as this one.
    assert not found.model_copy(update={"started": "2001-01-01T00:00:00+00:00"}).is_starting
    assert not found.model_copy(update={"pid": -5}).is_starting
