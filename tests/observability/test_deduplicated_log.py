"""A repeated message is logged once, again when it changes, and with its count in the end."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
from flwr.app import Context, RecordDict

from fedrec.clients.client_app import build_client_app
from fedrec.errors import RefusedError
from fedrec.flower import new_message, set_task_identity
from fedrec.observability.deduplicated_log import DeduplicatedLog
from fedrec.protocol.messages import JoinRequest
from fedrec.server import service
from fedrec.server.attendance import CohortIncompleteError
from fedrec.server.retries import Retries
from tests.support.cohort import Cohort

LOG = logging.getLogger("fedrec.tests.deduplicated_log")


def test_a_message_is_logged_once_and_again_when_it_changes(caplog: pytest.LogCaptureFixture) -> None:
    log = DeduplicatedLog(LOG)
    for text in ("m1 is away", "m1 is away", "m1 is away", "m2 is away", "m1 is away"):
        log.write("0001", text)
    assert caplog.messages == ["m1 is away", "m1 is away (3 times in all)", "m2 is away", "m1 is away"]


def test_topics_are_separate_and_each_ends_with_its_count(caplog: pytest.LogCaptureFixture) -> None:
    log = DeduplicatedLog(LOG)
    for _ in range(2):
        log.write("0001", "waits", level=logging.ERROR)
        log.write("0002", "waits, too")
    log.end("0002")
    log.end()
    log.end()
    assert [(line.levelname, line.getMessage()) for line in caplog.records] == [
        ("ERROR", "waits"),
        ("WARNING", "waits, too"),
        ("WARNING", "waits, too (2 times in all)"),
        ("ERROR", "waits (2 times in all)"),
    ]


def test_no_more_topics_are_remembered_than_allowed(caplog: pytest.LogCaptureFixture) -> None:
    log = DeduplicatedLog(LOG, most=2)
    for number in range(100):
        log.write(f"refused {number}", f"refused {number}")
    log.write("refused 99", "refused 99")
    log.write("refused 0", "refused 0")
    assert len(caplog.messages) == 101
    assert len(log._topics) == 2


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


def test_a_merchant_logs_a_repeated_refusal_once(caplog: pytest.LogCaptureFixture) -> None:
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


def test_a_merchant_whose_rules_forbid_the_rounds_of_a_training_that_waits_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The server asks it again every few seconds, for as long as its training waits."""
    caplog.set_level(logging.WARNING, "fedrec.clients.context")
    cohort = Cohort(tmp_path)
    merchant, request = cohort.merchants["m0"], JoinRequest(plan=cohort.plan())
    merchant.join(request)
    merchant.suspend("not now")
    for _ in range(3):
        assert merchant.join(request)[0].refused is not None
    merchant.suspend("never")
    merchant.join(request)
    merchant.join(request)
    merchant.use_policy(cohort.policy)
    assert merchant.join(request)[0].refused is None
    ends = ("of its rounds", "(3 times in all)", "of its rounds", "(2 times in all)")
    assert ["never" in line for line in caplog.messages] == [False, False, True, True]
    assert all(line.endswith(end) for line, end in zip(caplog.messages, ends, strict=True))
    # One that was never joined is refused, and the refusal logged, as ever.
    merchant.suspend("not now")
    with pytest.raises(RefusedError, match="not now"):
        merchant.join(JoinRequest(plan=cohort.plan(rounds=3)))
    assert len(caplog.messages) == 4


def test_a_server_logs_what_a_training_waits_for_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "roster_fingerprint", lambda roster, witnesses: "")
    kept: list[str] = []
    training = SimpleNamespace(
        number="0001",
        plan=lambda: SimpleNamespace(roster=(), witnesses=()),
        set_status=lambda status, reason: kept.append(reason),
    )
    server = SimpleNamespace(
        _deduplicated=DeduplicatedLog(LOG),
        _home=SimpleNamespace(fingerprint=lambda: ""),
        _retries=Retries(),
    )
    for missing in (2, 2, 2, 1):
        error = CohortIncompleteError(f"{3 - missing} of 3 merchants joined")
        service.Service._wait(server, training, error, begun=False, there=frozenset())  # type: ignore[arg-type]
    assert caplog.messages == [
        "training 0001 waits for merchants: 1 of 3 merchants joined",
        "training 0001 waits for merchants: 1 of 3 merchants joined (3 times in all)",
        "training 0001 waits for merchants: 2 of 3 merchants joined",
    ]
    # The status says when they are asked again.
    assert ["after 5 s" in kept[0], "after 10 s" in kept[1], len(kept)] == [True, True, 4]
