"""The server's status: who is connected, what is waited for, and what a terminal shows of it."""

from __future__ import annotations

import json
import logging
import re
import socket
import sys
import threading
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from typer.testing import CliRunner

from fedrec.cli.app import app
from fedrec.cli.server_status import status_lines
from fedrec.flower import NODE_GONE, error_reply
from fedrec.flower.connection_limits import ConnectionLimits
from fedrec.flower.guard import FleetRequest, Guard
from fedrec.flower.node_activation import DEACTIVATE
from fedrec.protocol.bundle_offer import MODELS
from fedrec.protocol.messages import CloseRequest, JoinReply
from fedrec.protocol.training_report.round_line import RoundLine
from fedrec.protocol.transport import pack
from fedrec.server.checkpoint import Checkpoint
from fedrec.server.live_state import LIVE_FILE, Connection, LiveState, announce_start, read_live
from fedrec.server.message_exchange import ExchangeSettings, ask
from fedrec.server.presence import AWAY_SECONDS, Presence
from fedrec.server.reply_board import ReplyBoard
from fedrec.server.server_home import ServerHome
from fedrec.server.status_document import seconds_left, server_status
from fedrec.server.status_endpoint import ServerObserver
from fedrec.server.status_page import status_blocks
from fedrec.server.training_run import TrainingRun, _StoppedError
from tests.support.callers import KEY, Call, admitted
from tests.support.cohort import InProcessGrid
from tests.support.daemons import public_pem
from tests.support.server_homes import enrolled_home, filed, round_line, write_rounds
from tests.support.training_reports import A_ROUND


@pytest.fixture
def home(tmp_path: Path) -> ServerHome:
    return enrolled_home(tmp_path / "server")


def shown(home: ServerHome, *options: str) -> str:
    outcome = CliRunner().invoke(app, ["server", "status", "--home", str(home.folder), *options])
    assert outcome.exit_code == 0, outcome.output
    return outcome.output


class Clock:
    """Both clocks of a presence: one from 0, the other in seconds since 1970."""

    def __init__(self) -> None:
        self.passed = 0.0
        self.began = datetime(2026, 1, 31, 9, tzinfo=UTC).timestamp()

    def presence(self) -> Presence:
        return Presence(now=lambda: self.passed, wall=lambda: self.began + self.passed)


def test_a_merchant_is_connected_from_its_first_request_to_its_last_and_twenty_seconds_more() -> None:
    clock = Clock()
    presence = clock.presence()
    assert presence.of("anna") is None and presence.changes() == ((), ())
    presence.seen("anna")
    presence.seen("bert", round_trip=0.25)
    assert presence.changes() == (("anna", "bert"), ()) and presence.connected() == 2
    clock.passed = AWAY_SECONDS
    presence.seen("bert")
    assert presence.changes() == ((), ())
    clock.passed += 1
    # Who asks before the next look sees it, too.
    assert (found := presence.of("anna")) is not None and not found.connected
    assert presence.changes() == ((), ("anna",))
    assert (found := presence.of("anna")) is not None
    assert (found.since, found.last) == (clock.began + clock.passed, clock.began)
    bert = presence.of("bert")
    assert bert is not None and bert.connected and bert.round_trip == 0.25
    assert (bert.since, bert.last) == (clock.began, clock.began + AWAY_SECONDS)
    presence.seen("bert", leaves=True)
    assert presence.changes() == ((), ("bert",)) and presence.connected() == 0
    presence.seen("anna")
    assert presence.changes() == (("anna",), ())


def test_when_a_merchant_was_last_seen_outlives_the_servers_process() -> None:
    clock = Clock()
    presence = clock.presence()
    presence.restore({"anna": clock.began - 3600, "bert": clock.began + 60})
    anna, bert = presence.of("anna"), presence.of("bert")
    assert anna is not None and not anna.connected and anna.since is None
    # A moment to come, after a clock that was set back, is now.
    assert bert is not None and (anna.last, bert.last) == (clock.began - 3600, clock.began)
    assert presence.changes() == ((), ())
    presence.seen("anna")
    presence.restore({"anna": clock.began - 9999})
    assert (anna := presence.of("anna")) is not None and anna.connected and anna.last == clock.began


def test_the_guard_tells_of_admitted_requests_to_fleet_alone() -> None:
    seen: list[FleetRequest] = []

    async def nothing(scope: object, receive: object, send: object) -> None:
        pass

    guard = Guard(nothing, admitted=admitted, on_refusal=lambda *told: None, on_seen=seen.append)
    Call().to(guard)
    Call().to(guard, DEACTIVATE)
    Call(headers=()).to(guard)
    Call().to(guard, "/health")
    Call().to(guard, "/v1/control/list-runs")
    Call().to(guard, f"{MODELS}0001/manifest")
    assert seen == [FleetRequest(public_pem(KEY), False, None), FleetRequest(public_pem(KEY), True, None)]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how long a packet takes")
def test_the_limits_read_a_connections_round_trip_from_the_system() -> None:
    connections = ConnectionLimits()
    listening = socket.create_server(("127.0.0.1", 0))
    with listening, socket.create_connection(listening.getsockname()) as client:
        connection, address = listening.accept()
        with connection:
            client.sendall(b"x")
            connection.recv(1)
            connection.sendall(b"y")
            client.recv(1)
            assert connections.round_trip(address) is None
            assert connections.arrive(connection, address)
            found = connections.round_trip(address)
            # Over loopback: more than nothing, and far less than a value that is read at the wrong place.
            assert found is not None and 0 < found < 1
        assert connections.round_trip(address) is None


def test_replies_are_waited_for_by_name_until_each_has_come() -> None:
    """Held against the grid's own list of what it hasn't answered, while another thread looks."""
    cohort_names = {1: "anna", 2: "bert", 3: "cleo"}
    board = ReplyBoard(lambda: cohort_names)
    looked: list[tuple[str, tuple[str, ...]]] = []

    class OneByOne(InProcessGrid):
        """Brings a reply each time that it is asked."""

        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            awaited = board.awaited()
            assert awaited is not None
            looked.append((awaited.what, awaited.merchants))
            wanted = list(message_ids)
            return super().pull_messages(wanted[:1])

    def answer(message: Message, context: Context) -> Message:
        return Message(pack(JoinReply(merchant="m0")), reply_to=message)

    grid = OneByOne(cast(ClientApp, answer), 3)
    settings = ExchangeSettings(
        message_type="train", reply_type=JoinReply, max_blob_bytes=0, timeout=5.0, group_id="4", board=board
    )
    requests = {node: pack(CloseRequest(training_id="a" * 64)) for node in grid.get_node_ids()}
    assert len(ask(grid, requests, settings).replies) == 3
    everyone = ("anna", "bert", "cleo")
    assert [names for _, names in looked] == [everyone, everyone[1:], everyone[2:]]
    assert {what for what, _ in looked} == {"uploads of round 4"}
    assert board.awaited() is None and set(board.seconds()) == set(everyone)
    assert all(0 <= seconds < 5 for seconds in board.seconds().values())


def test_failures_are_logged_under_the_merchants_names(caplog: pytest.LogCaptureFixture) -> None:
    def malformed(message: Message, context: Context) -> Message:
        return Message(RecordDict(), reply_to=message)

    def gone(message: Message, context: Context) -> Message:
        return error_reply(message, code=NODE_GONE, reason="Error: a heartbeat is missing")

    grid = InProcessGrid(cast(ClientApp, malformed), 2)
    nodes = list(grid.get_node_ids())
    settings = ExchangeSettings(
        message_type="query.join",
        reply_type=JoinReply,
        max_blob_bytes=0,
        timeout=5.0,
        group_id="join",
        board=ReplyBoard(lambda: {nodes[0]: "anna"}),
    )
    with caplog.at_level(logging.INFO, logger="fedrec"):
        for app in (malformed, gone):
            grid.app = cast(ClientApp, app)
            ask(grid, {node: pack(CloseRequest(training_id="a" * 64)) for node in nodes}, settings)
    first, second = [record.getMessage() for record in caplog.records]
    # A number is left where the roster knows nobody.
    assert first.startswith(f"answers to the plan: none from anna, node {nodes[1]} (")
    assert second == f"answers to the plan: none from anna, node {nodes[1]} (no longer connected)"


def live(**changes: Any) -> LiveState:
    now = datetime.now(UTC)
    seen = Connection(
        connected=True,
        since=now - timedelta(seconds=90),
        last_seen=now,
        round_trip_seconds=0.0123,
        reply_seconds=0.5,
    )
    gone = Connection(since=now - timedelta(seconds=200), last_seen=now - timedelta(seconds=221))
    awaited = {"what": "uploads of round 5", "merchants": ["bert"], "since": now - timedelta(seconds=65)}
    given = {
        "time": now,
        "started": now - timedelta(hours=2),
        "connections": {"anna": seen, "bert": gone},
        "training": "0002",
        "in_flight": 5,
        "awaited": awaited,
        "noted": {"bert": "late 2 times in a row"},
        "turned_away": 3,
    }
    return LiveState.model_validate(given | changes)


def test_a_terminal_shows_who_is_there_whom_it_waits_for_time_accuracy_and_earlier_trainings(
    home: ServerHome,
) -> None:
    first, second = filed(home), filed(home, rounds=9)
    write_rounds(
        first, *(round_line(number, contributors=3, accuracy=0.1 * number) for number in (1, 2, 3, 4, 5))
    )
    first.set_status("done")
    second.set_status("running")
    curve = {1: 0.31, 2: 0.62, 3: 0.58, 4: 0.6}
    write_rounds(second, *(round_line(at, contributors=2, accuracy=value) for at, value in curve.items()))
    live().write(home.folder)
    text = shown(home)
    assert "runs since" in text and "1 of 3 merchants connected" in text
    (anna,) = [line for line in text.splitlines() if line.startswith("  anna ")]
    assert "connected since" in anna and "12.3 ms there and back" in anna and "last reply took 0.5 s" in anna
    (bert,) = [line for line in text.splitlines() if line.startswith("  bert ")]
    assert re.search("away; last seen 3 min 4[1-9] s ago", bert) and bert.endswith("late 2 times in a row")
    assert any(line.split() == ["cleo", "away;", "never", "seen"] for line in text.splitlines())
    assert re.search("waits for uploads of round 5: bert, since .* UTC, for [67][0-9] s", text)
    # Five rounds are left, of 3 s each.
    assert "left      about 15 s" in text
    assert "round 1: 31.0%, round 2: 62.0%, round 3: 58.0%, round 4: 60.0%; at best 62.0% in round 2" in text
    assert "training    0001 done" in text and "5 of 5 rounds of cnn, accuracy 50.0% at best" in text
    assert "against whoever breaks the encryption" in text
    document = json.loads(shown(home, "--json"))
    assert document["running"] and document["waiting_for"]["merchants"] == ["bert"]
    assert [found["connected"] for found in document["merchants"]] == [True, False, False]
    assert [found["rounds_contributed"] for found in document["merchants"]] == [4, 4, 0]
    assert document["training"]["seconds_left"] == 15.0
    assert [found["number"] for found in document["trainings"]] == ["0001", "0002"]


def test_a_server_that_has_stopped_or_died_connects_nobody(home: ServerHome) -> None:
    assert "server      doesn't run\n" in shown(home)
    old = datetime.now(UTC) - timedelta(minutes=5)
    for state in (live(running=False), live(time=old)):
        state.write(home.folder)
        text, document = shown(home), json.loads(shown(home, "--json"))
        assert "doesn't run; it last did" in text and "connected" not in text and "waits for" not in text
        assert document["running"] is False and document["started"] is None
        assert {found["connected"] for found in document["merchants"]} == {None}
    for rubbish in (b"", b"{", b"[]", b'{"schema": 1}', bytes(100)):
        (home.folder / LIVE_FILE).write_bytes(rubbish)
        assert read_live(home.folder) is None and "server      doesn't run\n" in shown(home)


@pytest.mark.parametrize(
    ("status", "reason", "connected", "waiting"),
    [
        ("filed", "", (), None),
        ("done", "no model bundle was made", (), None),
        (
            "filed",
            "waits for merchants: 2 of 3 joined",
            ("anna", "cleo"),
            ("merchants to connect", ("bert",)),
        ),
        (
            "filed",
            "waits for merchants: 2 of 3 joined (bert: policy 'schemes')",
            ("anna", "bert", "cleo"),
            ("merchants to accept the plan", ("bert",)),
        ),
    ],
)
def test_a_training_says_what_it_waits_for_and_since_when(
    home: ServerHome,
    status: Any,
    reason: str,
    connected: tuple[str, ...],
    waiting: tuple[str, tuple[str, ...]] | None,
) -> None:
    training = filed(home)
    training.keep_refusals({"bert": "policy 'schemes'", "round 1, cleo": "too late"})
    training.set_status(status, reason)
    began = training.since()
    connections = {name: Connection(connected=True) for name in connected}
    state = live(training=None, awaited=None, connections=connections)
    found = server_status(home, state).waiting_for
    if waiting is None:
        assert found is None
        return
    assert began is not None and found is not None and found.since == began.isoformat(timespec="seconds")
    assert (found.what, found.merchants) == waiting
    # Words that change don't begin the wait anew; an end of it does.
    body = json.loads((training.folder / "state.json").read_text())
    body["since"] = "2026-01-31T09:00:00+00:00"
    (training.folder / "state.json").write_text(json.dumps(body))
    training.set_status(status, reason + ", still")
    assert training.since() == datetime(2026, 1, 31, 9, tzinfo=UTC)
    training.set_status("running")
    assert training.since() != datetime(2026, 1, 31, 9, tzinfo=UTC)


@pytest.mark.parametrize("finished", [0, 2])
def test_a_round_that_was_interrupted_is_not_taken_for_one_that_never_began_or_is_under_way(
    home: ServerHome, finished: int
) -> None:
    training = filed(home, rounds=25)
    write_rounds(training, *(round_line(number + 1, contributors=3) for number in range(finished)))
    begun = finished + 1
    checkpoint = Checkpoint(training.folder / "server", training_id=training.plan().training_id)
    checkpoint.reserve(begun)

    def told(state: LiveState | None) -> str:
        status = server_status(home, state)
        page = str(status_blocks(status))
        lines = "\n".join(status_lines(status, fingerprint=None, folder=home.trainings))
        text = f"round {begun} was interrupted, and may be charged"
        assert (text in lines) == (text in page)
        assert "round     none of 25" in lines if not finished else f"round     {finished} of 25" in lines
        return f"{text in lines} {f'round {begun} under way' in page}"

    training.set_status("running")
    runs = live(training=training.number, in_flight=begun, awaited=None)
    assert told(runs) == "False True"
    # The server has ended, or was started again and waits.
    assert told(None) == "True False"
    training.set_status("running", "waits for merchants: 1 of 3")
    assert told(runs) == "True False"
    # The next one is under way, and this one has no record.
    training.set_status("running")
    checkpoint.reserve(begun + 1)
    assert told(runs.model_copy(update={"in_flight": begun + 1})).startswith("True")


def test_of_a_large_cohort_only_those_who_are_away_are_listed(tmp_path: Path) -> None:
    names = tuple(f"shop-{number:03d}" for number in range(60))
    home = enrolled_home(tmp_path / "server", names=names)
    connections = {name: Connection(connected=True, since=datetime.now(UTC)) for name in names[2:]}
    document = server_status(home, live(training=None, connections=connections))
    lines = [
        line
        for line in status_lines(document, fingerprint=None, folder=tmp_path)
        if line.startswith("  shop")
    ]
    assert [line.split()[0] for line in lines] == ["shop-000", "shop-001"]


def test_the_observer_writes_when_something_changes_and_takes_over_who_was_seen(home: ServerHome) -> None:
    presence = Presence()
    observer = ServerObserver(home, presence)
    presence.seen("anna", round_trip=0.01)
    observer.publish()
    path = home.folder / LIVE_FILE
    assert path.stat().st_mode & 0o777 == 0o600
    written = path.read_bytes()
    presence.seen("anna", round_trip=0.02)
    observer.publish()
    assert path.read_bytes() == written, "a newer time alone isn't worth a write"
    presence.seen("bert")
    observer.publish()
    found = read_live(home.folder)
    assert found is not None and found.connections["bert"].connected and found.is_fresh
    observer.publish(running=False)
    assert (found := read_live(home.folder)) is not None and not found.is_fresh
    later = ServerObserver(home, Presence()).status().merchants
    assert [(told.connected, told.last_seen is not None) for told in later] == [
        (False, True),
        (False, True),
        (False, False),
    ]


def test_the_time_left_is_the_median_of_recent_rounds_times_those_left() -> None:
    plan = cast(Any, SimpleNamespace(rounds=100, upload_window=None))
    rounds = [
        RoundLine.of(
            A_ROUND.model_copy(update={"round": at, "seconds": 1000.0 if at < 5 else 2.0 + (at == 9) * 500}),
            accuracy=None,
            f1_macro=None,
            epsilon=None,
        )
        for at in range(1, 14)
    ]
    assert seconds_left(plan, rounds) == 2.0 * 87
    assert seconds_left(plan, []) is None


def test_a_damaged_training_is_named_and_hides_no_other(home: ServerHome) -> None:
    trainings = [filed(home) for _ in range(4)]
    for training in trainings[:3]:
        training.set_status("done")
    (trainings[0].folder / "plan.json").write_text("{")
    (trainings[1].folder / "state.json").write_text('{"status": "melted"}')
    write_rounds(trainings[3], round_line(1, contributors=3))
    trainings[3].set_status("running")
    live(training="0004", awaited=None).write(home.folder)
    text, document = shown(home), json.loads(shown(home, "--json"))
    assert [found["number"] for found in document["trainings"]] == ["0003", "0004"]
    assert [found["number"] for found in document["damaged"]] == ["0001", "0002"]
    assert "training    0001 can't be read: " in text and "training    0002 can't be read: " in text
    assert "training    0003 done" in text and "training    0004 running" in text
    assert "Training 0001 can" in str(status_blocks(server_status(home, live(training="0004"))))


def test_a_server_that_is_loading_is_starting_and_forgets_nobody(home: ServerHome) -> None:
    live(running=False).write(home.folder)
    announce_start(home.folder)
    text, document = shown(home), json.loads(shown(home, "--json"))
    assert "server      is starting, since " in text and "doesn't run" not in text
    assert (document["running"], document["starting"]) == (False, True)
    assert "last seen" in next(line for line in text.splitlines() if line.startswith("  bert "))
    announced = read_live(home.folder)
    assert announced is not None
    announced.model_copy(update={"time": datetime.now(UTC) - timedelta(minutes=3)}).write(home.folder)
    assert "doesn't run" in shown(home)
    # The state of a server that runs is its own.
    running = live()
    running.write(home.folder)
    announce_start(home.folder)
    assert read_live(home.folder) == running


def test_a_pause_after_refusals_is_a_wait_for_those_who_refused(home: ServerHome) -> None:
    training = filed(home)
    write_rounds(training, round_line(1, contributors=3), round_line(2, contributors=1, opened=False))
    training.keep_refusals({"round 2, bert": "policy 'max_rounds'", "round 1, cleo": "too late"})
    training.set_status("running")
    ended = threading.Event()
    told: list[Any] = []
    run = TrainingRun(
        home=home, training=training, stop=ended, names=dict, follow=print, timeout=1.0, most_lost=1
    )

    def look() -> None:
        told.append(training.status())
        connected = {name: Connection(connected=True) for name in ("anna", "bert", "cleo")}
        found = server_status(home, live(training="0001", awaited=None, connections=connected))
        assert found.waiting_for is not None
        told.append((found.waiting_for.what, found.waiting_for.merchants))
        ended.set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ended, "wait", lambda seconds: look())
        with pytest.raises(_StoppedError):
            run._before_round(2)
    assert told[0] == ("running", "too many refused; the next round waits 20 s")
    assert told[1] == ("merchants to accept round 3", ("bert",))


def test_a_run_tells_once_that_its_rounds_go_on_after_a_wait(home: ServerHome) -> None:
    training, told = filed(home), []
    run = TrainingRun(
        home=home,
        training=training,
        stop=threading.Event(),
        names=dict,
        follow=print,
        timeout=1.0,
        most_lost=1,
        began=lambda: told.append(training.status()),
    )
    for waits in (True, False, False, True):
        if waits:
            training.set_status("running", "waits for merchants: bert")
        run._before_round(0)
    assert told == [("running", ""), ("running", "")]
