"""The daemons' logs: every logger arrives in the file, which stays private, and names no photo."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import logging.config
import os
from collections.abc import Iterator
from contextlib import redirect_stderr
from pathlib import Path

import pytest
import uvicorn.config
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from flwr.app import Message, RecordDict

from fedrec._internal.text import listed, one_line
from fedrec.cli import logs
from fedrec.clients.client_app import build_client_app
from fedrec.clients.daemon import Daemon
from fedrec.clients.records import TrainingData
from fedrec.clients.store_view import read_store
from fedrec.errors import DataError
from fedrec.flower import new_message, set_task_identity
from fedrec.observability.deduplicated_log import DeduplicatedLog
from fedrec.observability.named_nodes import NamedNodes, named_nodes
from fedrec.protocol.messages import JoinReply, JoinRequest
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.transport import unpack
from tests.support.cohort import Cohort, InProcessGrid, change_means
from tests.support.daemons import public_pem

LOGGERS = ("fedrec", "flwr", "uvicorn")
PHOTO = "shoe/holiday in Rome.jpg"


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = [(log.handlers, log.propagate, log.level) for log in map(logging.getLogger, LOGGERS)]
    yield
    for log, (handlers, propagate, level) in zip(map(logging.getLogger, LOGGERS), before, strict=True):
        for handler in log.handlers:
            handler.close()
        log.handlers, log.propagate = handlers, propagate
        log.setLevel(level)


def written(folder: Path) -> list[str]:
    return (folder / "client.log").read_text("utf-8").splitlines()


def test_every_logger_arrives_in_the_file_as_text(tmp_path: Path) -> None:
    logs.start_logging(tmp_path, name="client", style="text")
    logging.getLogger("fedrec.a").info("first é")
    logging.getLogger("fedrec.a").debug("never")
    logging.getLogger("flwr.b").error("second")
    logging.getLogger("flwr.b").warning("never")
    logging.getLogger("uvicorn.error").warning("third")
    lines = written(tmp_path)
    assert [line.split(" ", 2)[2] for line in lines] == ["INFO first é", "ERROR second", "WARNING third"]


def test_a_stream_that_was_closed_after_the_start_breaks_no_entry(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the runner of a test leaves one behind: every entry would print a traceback on the real stderr."""
    with io.StringIO() as taken, redirect_stderr(taken):
        logs.start_logging(tmp_path, name="client", style="text")
        logging.getLogger("fedrec.a").info("first")
        assert "first" in taken.getvalue()
    logging.getLogger("fedrec.a").info("second")
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1 and shown.endswith("INFO second\n")


def test_every_line_of_json_is_one_entry(tmp_path: Path) -> None:
    logs.start_logging(tmp_path, name="client", style="json")
    for name in LOGGERS:
        try:
            raise ValueError("reason\nin two lines")
        except ValueError:
            logging.getLogger(name).exception("what\nhappened")
    entries = [json.loads(line) for line in written(tmp_path)]
    assert [(entry["logger"], entry["level"]) for entry in entries] == [(name, "error") for name in LOGGERS]
    assert [entry["message"] for entry in entries] == ["what\nhappened", "what happened", "what\nhappened"]
    assert all("two lines" in entry["error"] for entry in entries)


def test_a_library_that_sets_up_its_own_logger_empties_no_other(tmp_path: Path) -> None:
    logs.start_logging(tmp_path, name="client", style="text")
    logging.config.dictConfig(uvicorn.config.LOGGING_CONFIG)
    logging.getLogger("fedrec").info("still here")
    logging.getLogger("flwr").error("here too")
    assert [line.rsplit(" ", 2)[-2:] for line in written(tmp_path)] == [["still", "here"], ["here", "too"]]


def test_files_stay_private_through_rotation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_BYTES", 200)
    before = os.umask(0)
    try:
        path = tmp_path / "client.log"
        path.write_text("an older version left it open to all\n")
        path.chmod(0o666)
        logs.start_logging(tmp_path, name="client", style="text")
        for number in range(40):
            logging.getLogger("fedrec").info("line %d", number)
    finally:
        os.umask(before)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 6
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


def request(cohort: Cohort) -> Message:
    grid = InProcessGrid(cohort.app(), cohort.size)
    return grid.create_message(cohort.signed(JoinRequest(plan=cohort.plan())), "query.join", 1, "1")


@pytest.mark.parametrize("failure", [DataError(f"{PHOTO} can't be read"), OSError(5, "broken", PHOTO)])
def test_no_line_at_a_normal_level_names_a_photo(tmp_path: Path, failure: Exception) -> None:
    logs.start_logging(tmp_path, name="client", style="text")
    cohort = Cohort(tmp_path / "cohort")

    def unreadable(plan: TrainingPlan) -> TrainingData:
        raise failure

    change_means(cohort.merchants["m0"], data_for=unreadable)
    daemon = object.__new__(Daemon)
    daemon._deduplicated = DeduplicatedLog(logging.getLogger("fedrec.clients.daemon"))
    daemon._app = build_client_app(lambda context: cohort.merchants["m0"])
    reply = daemon._reply(request(cohort), node_id=1)
    assert unpack(reply.content, JoinReply, max_blob_bytes=0)[0].refused is None
    cohort.merchants["m0"].fix_records()
    shown = (tmp_path / "client.log").read_text("utf-8")
    assert type(failure).__name__ in shown and "Rome" not in shown
    # The merchant alone is told.
    told = read_store(tmp_path / "cohort" / "m0" / "store.sqlite").photo_summary
    assert told is not None and told.startswith("noise alone is sent") and "Rome" in told
    logging.getLogger("fedrec").setLevel(logging.DEBUG)
    daemon._reply(request(cohort), node_id=1)
    cohort.merchants["m0"].fix_records()
    assert "Rome" in (tmp_path / "client.log").read_text("utf-8")


def test_a_server_writes_no_line_of_its_own(tmp_path: Path) -> None:
    logs.start_logging(tmp_path, name="client", style="text")
    set_task_identity(run_id=1, node_id=1)
    forged = "1\n2026-01-01 00:00:00,000 INFO stopped\x1b[2J"
    message = new_message(RecordDict(), message_type="query.join", node_id=1, group_id=forged, ttl=60)
    cohort = Cohort(tmp_path / "cohort")
    daemon = object.__new__(Daemon)
    daemon._deduplicated = DeduplicatedLog(logging.getLogger("fedrec.clients.daemon"))
    daemon._app = cohort.app()
    daemon._reply(message, node_id=1)
    lines = written(tmp_path)
    assert not any(line.startswith("2026-01-01 ") or "\x1b" in line for line in lines)
    for logger in LOGGERS:
        logging.getLogger(logger).error("%s%s", forged, "-" * 10_000)
    lines = written(tmp_path)
    assert not any(line.startswith("2026-01-01 ") or "\x1b" in line for line in lines)
    # Flower writes out the whole key that it refuses.
    assert [len(line) < 300 for line in lines[-3:]] == [logger == "flwr" for logger in LOGGERS]
    try:
        raise ValueError(forged)
    except ValueError:
        logging.getLogger("uvicorn").exception("broken")
    assert not any(line.startswith("2026-01-01 ") or "\x1b" in line for line in written(tmp_path))
    # What can't be formatted is a fault of the line, not of whoever logs it.
    logging.getLogger("flwr").error("%d items", "x")
    assert one_line("a\r\n\x85\u2028b" + "c" * 500, most=8) == "a    bcc"


def test_a_long_list_of_names_is_cut_and_counted() -> None:
    names = [f"m{number}" for number in range(12)]
    assert listed(names[:10]) == ", ".join(names[:10]) and listed([]) == ""
    assert listed(names) == ", ".join(names[:10]) + " and 2 more"


@pytest.mark.parametrize("style", ["text", "json"])
def test_no_log_holds_a_key_or_a_certificate_as_text(tmp_path: Path, style: logs.LogFormat) -> None:
    logs.start_logging(tmp_path, name="client", style=style)
    key = ec.generate_private_key(ec.SECP384R1())
    public = public_pem(key).decode("ascii")
    plain, locked = (
        key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, how).decode("ascii")
        for how in (NoEncryption(), BestAvailableEncryption(b"password"))
    )
    whole = (public, plain, locked)
    forms = [
        form
        for pem in whole
        for form in (
            pem,
            repr(pem),
            repr(pem.encode()),
            pem.replace("\n", "\r\n"),
            pem.replace("\n", " "),
            pem * 2,
        )
    ]
    for form in [*forms, public[:90], public[:-30]]:
        for logger in LOGGERS:
            logging.getLogger(logger).error("refused %s, and on", form)
        try:
            raise ValueError(form)
        except ValueError:
            logging.getLogger("fedrec").exception("broken")
    shown = (tmp_path / "client.log").read_text("utf-8")
    assert "-----" not in shown
    bodies = [line for pem in whole for line in pem.splitlines() if len(line) > 20 and line.isascii()]
    assert not any(line in shown for line in bodies if "-----" not in line and ":" not in line)
    # One key is told from another, and the rest of the line is kept.
    digest = hashlib.sha256("".join(public.splitlines()[1:-1]).encode()).hexdigest()
    assert f"refused [public key {digest[:16]}], and on" in shown
    assert "refused [ec private key left out], and on" in shown


def test_flowers_own_lines_name_merchants_while_a_server_runs(caplog: pytest.LogCaptureFixture) -> None:
    log, nodes = (
        # Flower's own logger may have handlers of other tests in this process.
        logging.getLogger("flower-as-a-server-runs"),
        {15_274_918_223_301_122_734: "anna", 4_611_686_018_427_387_904: "bert"},
    )
    log.propagate = True
    with named_nodes(log, lambda: nodes):
        log.error("Invalid source node ID for Message: %s", 15_274_918_223_301_122_734)
        log.error(
            "nodes [4611686018427387904, 4611686018427387905] at 100% of 2026-11-29, object " + "12" * 20
        )
        log.error("Deactivated node_id=4611686018427387904")
    log.error("node 4611686018427387904")
    assert [record.msg for record in caplog.records] == [
        "Invalid source node ID for Message: anna",
        "nodes [bert, 4611686018427387905] at 100% of 2026-11-29, object " + "12" * 20,
        "Deactivated node_id=bert",
        "node 4611686018427387904",
    ]
    # What can't be formatted passes as it is.
    assert NamedNodes(dict).filter(logging.LogRecord("flwr", 40, "", 1, "%d items", ("x",), None))
