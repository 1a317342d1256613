"""A log says a matter once, again when it changes, and in the end how often it was so."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
from flwr.app import Context, RecordDict

from fedrec.clients.client_app import build_client_app
from fedrec.errors import RefusedError
from fedrec.flower import new_message, set_task_identity
from fedrec.observability.repeats import Repeats
from fedrec.server import service
from fedrec.server.attendance import CohortIncompleteError

LOG = logging.getLogger("fedrec.tests.repeats")


def test_a_matter_is_said_once_and_again_when_it_changes(caplog: pytest.LogCaptureFixture) -> None:
    repeats = Repeats(LOG)
    for text in ("m1 is away", "m1 is away", "m1 is away", "m2 is away", "m1 is away"):
        repeats.say("0001", text)
    assert caplog.messages == ["m1 is away", "m1 is away (3 times in all)", "m2 is away", "m1 is away"]


def test_matters_don_t_interrupt_each_other_and_their_ends_are_told(caplog: pytest.LogCaptureFixture) -> None:
    repeats = Repeats(LOG)
    for _ in range(2):
        repeats.say("0001", "waits", level=logging.ERROR)
        repeats.say("0002", "waits, too")
    repeats.end("0002")
    repeats.end()
    repeats.end()
    assert [(line.levelname, line.getMessage()) for line in caplog.records] == [
        ("ERROR", "waits"),
        ("WARNING", "waits, too"),
        ("WARNING", "waits, too (2 times in all)"),
        ("ERROR", "waits (2 times in all)"),
    ]


def test_it_remembers_no_more_matters_than_it_may(caplog: pytest.LogCaptureFixture) -> None:
    repeats = Repeats(LOG, most=2)
    for number in range(100):
        repeats.say(f"refused {number}", f"refused {number}")
    repeats.say("refused 99", "refused 99")
    repeats.say("refused 0", "refused 0")
    assert len(caplog.messages) == 101
    assert len(repeats._said) == 2


class _Refusing:
    """A merchant that refuses whatever comes, for the reason that it has now."""

    name = "m1"

    def __init__(self) -> None:
        self.reason = "policy 'models': no"
        self.gate = self.store = self

    def check(self, content: RecordDict, *, kind: str) -> None:
        raise RefusedError(self.reason)

    def note_refusal(self, **noted: object) -> None:
        """Keep nothing."""


def test_a_merchant_logs_what_it_refuses_again_and_again_once(caplog: pytest.LogCaptureFixture) -> None:
    """Each try of the server had a line of its own, every 6 to 16 seconds."""
    merchant = _Refusing()
    app = build_client_app(lambda context: merchant)  # type: ignore[arg-type, return-value]
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})

    set_task_identity(run_id=1, node_id=1)

    def ask() -> None:
        app(new_message(RecordDict(), message_type="query.join", node_id=1, group_id="0", ttl=60.0), context)

    for _ in range(3):
        ask()
    merchant.reason = "policy 'hours': not now"
    ask()
    assert caplog.messages == [
        "refused: policy 'models': no",
        "refused: policy 'models': no (3 times in all)",
        "refused: policy 'hours': not now",
    ]


def test_a_server_logs_what_a_training_waits_for_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "roster_fingerprint", lambda roster: "")
    kept: list[str] = []
    training = SimpleNamespace(
        number="0001",
        plan=lambda: SimpleNamespace(roster=()),
        set_status=lambda status, reason: kept.append(reason),
    )
    server = SimpleNamespace(_repeats=Repeats(LOG), _home=SimpleNamespace(roster=lambda: ()))
    for missing in (2, 2, 2, 1):
        error = CohortIncompleteError(f"{3 - missing} of 3 merchants joined")
        service.Service._wait(server, training, error, begun=False)  # type: ignore[arg-type]
    assert caplog.messages == [
        "training 0001 waits for merchants: 1 of 3 merchants joined",
        "training 0001 waits for merchants: 1 of 3 merchants joined (3 times in all)",
        "training 0001 waits for merchants: 2 of 3 merchants joined",
    ]
    assert len(kept) == 4
