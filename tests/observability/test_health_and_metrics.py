"""Health, metrics and the status page: what they say, whom they answer, and what they never hold."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import httpx
import pytest
from flwr.app import Message
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from fedrec._internal import number_format
from fedrec.cli.plan_summary import plan_lines
from fedrec.cli.server_status import status_lines
from fedrec.clients.merchant_observer import MerchantObserver
from fedrec.clients.status import summarise_plan
from fedrec.errors import ConfigError, ServiceError
from fedrec.flower import APP_FAILED, error_reply, new_message, set_task_identity
from fedrec.observability import endpoint as endpoint_module
from fedrec.observability import prometheus
from fedrec.observability.endpoint import Answer, Endpoint, Route, observing, parse_listen, read_token
from fedrec.privacy.accounting.count_release import count_event
from fedrec.privacy.accounting.events import Event
from fedrec.privacy.accounting.ledger import Ledger
from fedrec.privacy.accounting.ledger_creation import create_ledger
from fedrec.privacy.accounting.pld import epsilon_pld
from fedrec.privacy.derived_parameters import derive
from fedrec.privacy.identity import SigningIdentity, verify
from fedrec.protocol.messages import JoinReply, TrainReply
from fedrec.protocol.refusals import Refusal
from fedrec.protocol.transport import pack
from fedrec.server.reply_board import ReplyBoard
from fedrec.server.server_home import ServerHome
from fedrec.server.status_endpoint import ServerObserver
from fedrec.server.status_types import RefusalNote
from fedrec.server.training_runner import TrainingRunner
from fedrec.server.trainings import Training
from tests.support.ledgers import COUNT
from tests.support.pages import Outline
from tests.support.server_homes import NAMES, enrolled_home, filed, round_line, write_rounds

TOKEN = b"t" * 32
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@contextmanager
def served(routes: dict[str, Route], *, token: bytes | None = None) -> Iterator[httpx.Client]:
    endpoint = Endpoint(host="127.0.0.1", port=0, token=token, routes=routes)
    endpoint.start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{endpoint.port}", trust_env=False) as client:
            yield client
    finally:
        endpoint.stop()


def parsed(text: str) -> Samples:
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, f"{key} stands there twice"
            found[key] = sample.value
    return found


def at(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


SAID = {"/open": Route(lambda: Answer(b"hello", "text/plain"), open=True)}
SAID["/closed"] = Route(lambda: Answer(b"figures", "text/plain"))


def test_a_token_is_asked_for_and_nothing_less_will_do() -> None:
    with served(SAID, token=TOKEN) as client:
        assert client.get("/open").text == "hello"
        for given_header in ("", "Bearer", f"Bearer {'t' * 31}", f"Bearer {'t' * 33}", "t" * 32):
            refused = client.get("/closed", headers={"Authorization": given_header} if given_header else {})
            assert refused.status_code == 401 and "figures" not in refused.text
        assert client.get("/elsewhere").status_code == 401, "without a token nobody learns which paths exist"
        assert client.get(f"/closed?token={'t' * 32}").status_code == 401, "addresses end up in logs"
        right = {"Authorization": f"Bearer {TOKEN.decode()}"}
        assert client.get("/closed", headers=right).text == "figures"
        assert client.get("/elsewhere", headers=right).status_code == 404
        assert client.post("/closed", headers=right).status_code == 405
        assert client.post("/closed").status_code == 401


def test_another_host_name_for_this_machine_is_refused() -> None:
    """DNS rebinding: a web page whose own name resolves to 127.0.0.1 gets its own name into Host."""
    with served(SAID) as client:
        assert client.get("/closed").text == "figures"
        for host in ("evil.example", "127.0.0.1.evil.example", "evil.example:9464", ""):
            refused = client.get("/closed", headers={"Host": host})
            assert refused.status_code == 400 and "figures" not in refused.text
        assert client.get("/closed", headers={"Host": "localhost:1"}).status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_only_loopback_does_without_a_token(host: str) -> None:
    with pytest.raises(ConfigError, match="needs --observe-token"):
        Endpoint(host=host, port=0, token=None, routes=SAID)


def test_a_failing_metric_is_an_error_without_details() -> None:
    def fail() -> Answer:
        raise ValueError("a secret")

    with served({"/": Route(fail)}) as client:
        assert client.get("/").status_code == 500
        assert "secret" not in client.get("/").text


def test_every_answer_forbids_caching_and_sniffing(home: ServerHome) -> None:
    with served(dict(ServerObserver(home).routes()), token=TOKEN) as client:
        for path, status in (("/healthz", 200), ("/", 200), ("/metrics", 401), ("/nowhere", 401)):
            answer = client.get(path)
            assert answer.status_code == status
            assert answer.headers["Cache-Control"] == "no-store"
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Connection"] == "close" and "Server" not in answer.headers


def test_a_connection_without_a_request_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_module, "_REQUEST_SECONDS", 0.2)
    endpoint = Endpoint(host="127.0.0.1", port=0, token=None, routes=SAID)
    endpoint.start()
    try:
        with socket.create_connection(("127.0.0.1", endpoint.port), timeout=20) as waiting:
            waiting.sendall(b"GET /open HTTP/1.1\r\nHost: localhost\r\n")
            assert waiting.recv(1) == b""
    finally:
        endpoint.stop()


def test_loopback_of_ipv6_is_served_too() -> None:
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    try:
        endpoint = Endpoint(host="::1", port=0, token=None, routes=SAID)
    except ServiceError:
        pytest.skip("this machine has no IPv6 loopback")
    endpoint.start()
    try:
        with httpx.Client(base_url=f"http://[::1]:{endpoint.port}", trust_env=False) as client:
            assert client.get("/open").text == "hello"
            assert client.get("/open", headers={"Host": "evil.example"}).status_code == 400
    finally:
        endpoint.stop()


def test_a_taken_port_is_one_line() -> None:
    endpoint = Endpoint(host="127.0.0.1", port=0, token=None, routes=SAID)
    try:
        with pytest.raises(ServiceError, match="can't listen") as raised:
            Endpoint(host="127.0.0.1", port=endpoint.port, token=None, routes=SAID)
        told = str(raised.value)
        assert told.count(str(endpoint.port)) == 1 and "choose another port" in told
    finally:
        endpoint.start()
        endpoint.stop()


def test_a_token_file_is_private_and_long_enough(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_bytes(TOKEN + b"\n")
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_token(path)
    path.chmod(0o600)
    assert read_token(path) == TOKEN
    path.write_bytes(b"short")
    with pytest.raises(ConfigError, match="32 to"):
        read_token(path)
    with (
        pytest.raises(ConfigError, match="needs --observe"),
        observing(None, token_file=path, routes={}),
    ):
        pass


@pytest.mark.parametrize(
    ("text", "listen"),
    [
        ("9464", ("127.0.0.1", 9464)),
        ("localhost:1", ("localhost", 1)),
        ("[::1]:80", ("::1", 80)),
        ("0.0.0.0:0", ("0.0.0.0", 0)),
    ],
)
def test_listen_addresses_are_parsed(text: str, listen: tuple[str, int]) -> None:
    assert parse_listen(text) == listen


@given(st.text(max_size=20))
def test_any_other_text_is_refused_in_one_line(text: str) -> None:
    try:
        host, port = parse_listen(text)
    except ConfigError:
        return
    assert host and 0 <= port <= 65535


# The server's side.


@pytest.fixture
def home(tmp_path: Path) -> ServerHome:
    return enrolled_home(tmp_path / "server")


@pytest.fixture
def training(home: ServerHome) -> Training:
    made = filed(home, epsilon=8.0)
    made.set_status("running")
    lost = round_line(2, contributors=2, opened=False)
    write_rounds(made, round_line(1, contributors=3), lost, round_line(4, contributors=3))
    return made


def test_the_servers_figures_are_those_of_its_files(home: ServerHome, training: Training) -> None:
    observer = ServerObserver(home)
    observer.turned_away("192.0.2.7", "/v1/control/start-run")
    with served(dict(observer.routes())) as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        samples = parsed(client.get("/metrics").text)
        status = client.get("/status.json").json()
        shown = Outline(client.get("/status.html").text)
    number = training.number
    assert at(samples, "fedrec_merchants_enrolled") == 3
    assert at(samples, "fedrec_round", training=number) == 4
    assert at(samples, "fedrec_rounds_planned", training=number) == 5
    assert at(samples, "fedrec_rounds_total", training=number, outcome="opened") == 2
    assert at(samples, "fedrec_rounds_total", training=number, outcome="lost") == 2  # one was interrupted
    assert at(samples, "fedrec_round_contributors", training=number) == 3
    assert at(samples, "fedrec_phase_seconds_total", training=number, phase="train") == 4.5
    assert at(samples, "fedrec_bytes_total", training=number, direction="up") == 3000
    assert at(samples, "fedrec_refusals_total", where="listener") == 1
    assert at(samples, "fedrec_training_state", training=number, state="running") == 1
    assert at(samples, "fedrec_training_state", training=number, state="done") == 0
    # Lost rounds are charged: after round 4, four steps are spent, and the count that was declared before.
    plan = training.plan()
    noise = derive(plan).noise
    multiplier = derive(plan).spend.multiplier
    for steps, told in ((4, status["training"]["epsilon"]), (5, status["training"]["epsilon_planned"])):
        event = Event(plan.sample_rate, multiplier, steps)
        left = plan.delta - steps * noise.beta
        assert told == pytest.approx(epsilon_pld([event, count_event()], delta=left), rel=1e-4)
    broken = Event(plan.sample_rate, derive(plan).spend.broken_multiplier, 4)
    assert at(samples, "fedrec_epsilon_aggregation_broken", training=number) == pytest.approx(
        epsilon_pld([broken, count_event()], delta=plan.delta - 4 * noise.beta), rel=1e-4
    )
    spent, left = (at(samples, f"fedrec_epsilon_{what}", training=number) for what in ("spent", "left"))
    assert spent == status["training"]["epsilon"]
    assert spent + left == pytest.approx(status["training"]["epsilon_planned"])
    assert status["turned_away"]["last"][0]["path"] == "/v1/control/start-run"
    (newest, *_) = [row for row in shown.rows if row[:2] == ["4", "opened"]]
    assert newest[2:] == ["3", "0", "1.50", "0.50", "1.0 kB", "10 B", number_format.epsilon(spent), "50.0%"]
    assert any(row[:1] == ["2"] and row[1] == "losttoo few" for row in shown.rows)
    assert "/v1/control/start-run from 192.0.2.7" in shown.text


def test_a_training_whose_updates_lie_open_is_alarmed_on_every_status(home: ServerHome) -> None:
    made = filed(home, privacy="local", secure_aggregation="none")
    made.set_status("running")
    observer = ServerObserver(home)
    with served(dict(observer.routes())) as client:
        page = client.get("/status.html").text
    status = observer.status()
    assert status.training is not None
    (alarm,) = status.training.alarms
    assert "not encrypted" in alarm and "NOT PRIVATE" in page and alarm in Outline(page).text
    lines = status_lines(status, fingerprint=None, folder=home.trainings)
    assert any(f"NOT PRIVATE: {alarm}" in told for told in lines)
    warned = [told for told in plan_lines(made, fingerprint="f") if told.startswith("warning")]
    assert any("NOT ENCRYPTED" in told for told in warned)
    seen = summarise_plan(made.plan(), (), lifetime_delta=1e-5)
    assert seen.alarms == (alarm,)


def test_figures_that_no_file_has_come_from_the_running_process(home: ServerHome, training: Training) -> None:
    identity = SigningIdentity.generate()
    head = SimpleNamespace(statement=SimpleNamespace(round_number=4, head_hash="ab" * 32))
    running = SimpleNamespace(
        checkpoint=SimpleNamespace(last_reserved=lambda: 5),
        refusals={},
        notes=lambda: {"bert": "late 2 times in a row"},
        board=ReplyBoard(),
        receipts=SimpleNamespace(last=lambda name: SimpleNamespace(head=head) if name == "anna" else None),
    )
    observer = ServerObserver(home)
    observer.follow(training, cast(TrainingRunner, running))
    running.refusals["round 2, bert"] = '<script>alert("no")</script>'
    status = observer.status().training
    assert status is not None and status.in_flight == 5 and status.noted == {"bert": "late 2 times in a row"}
    assert status.refusals == (RefusalNote("round 2, bert", '<script>alert("no")</script>'),)
    with served(dict(observer.routes())) as client:
        text = client.get("/metrics").text
        shown = Outline(client.get("/status.html").text)
    assert ["round 2, bert", '<script>alert("no")</script>'] in shown.rows
    (anna,) = [row for row in shown.rows if row[:1] == ["annaon the committee"]]
    assert anna[-2:] == ["ab" * prometheus.HEAD_BYTES + " (round 4)", ""]
    assert "script" not in shown.tags and "round 5 under way" in shown.text
    samples = parsed(text)
    assert at(samples, "fedrec_refusals_total", where="training") == 1
    assert at(samples, "fedrec_ledger_head", merchant="anna", head="ab" * prometheus.HEAD_BYTES) == 4
    assert "script" not in text and "ab" * 9 not in text and identity.public.hex() not in text


def test_refusals_are_counted_since_the_start_and_never_fall(home: ServerHome, training: Training) -> None:
    """Prometheus takes a counter that falls for one that began anew, and its whole value for new refusals."""
    running = SimpleNamespace(
        checkpoint=SimpleNamespace(last_reserved=lambda: 5),
        refusals={"anna": "before the start"},
        notes=dict,
        board=ReplyBoard(),
        receipts=SimpleNamespace(last=lambda name: None),
    )
    observer = ServerObserver(home)
    counts = []
    with served(dict(observer.routes())) as client:

        def count() -> None:
            samples = parsed(client.get("/metrics").text)
            counts.append(at(samples, "fedrec_refusals_total", where="training"))

        count()
        observer.follow(training, cast(TrainingRunner, running))
        count()
        for refusals in ({"anna": "before the start", "bert": "a rule"}, {}, {"bert": "a rule"}):
            running.refusals = refusals
            count()
        observer.follow(training, cast(TrainingRunner, running))
        running.refusals = {"bert": "a rule", "round 5, cleo": "another rule"}
        count()
    assert counts == [0, 0, 1, 1, 1, 2]


def test_a_failed_training_stays_in_the_metrics_while_the_next_one_runs(tmp_path: Path) -> None:
    home = enrolled_home(tmp_path / "server")
    filed(home).set_status("failed", "too many rounds are lost")
    later = filed(home)
    later.set_status("running")
    with served(dict(ServerObserver(home).routes())) as client:
        samples = parsed(client.get("/metrics").text)
    states = {
        dict(labels)["training"]: dict(labels)["state"]
        for (name, labels), value in samples.items()
        if name == "fedrec_training_state" and value == 1
    }
    assert states == {"0001": "failed", later.number: "running"}
    needed = {name: at(samples, "fedrec_merchant_in_training", merchant=name) for name in NAMES}
    assert set(needed.values()) == {1.0}


def test_a_server_without_trainings_has_a_status(home: ServerHome) -> None:
    observer = ServerObserver(home)
    assert observer.status().training is None
    with served(dict(observer.routes())) as client:
        assert at(parsed(client.get("/metrics").text), "fedrec_merchants_enrolled") == 3
        assert "nothing has been run yet" in client.get("/status.html").text


def test_the_page_needs_nothing_from_elsewhere_and_runs_no_foreign_script(home: ServerHome) -> None:
    with served(dict(ServerObserver(home).routes()), token=TOKEN) as client:
        first, second = client.get("/"), client.get("/")
        for path in ("/status.json", "/status.html", "/metrics"):
            assert client.get(path).status_code == 401
    policy = first.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "connect-src 'self'" in policy and "unsafe" not in policy
    nonce = re.search(r"script-src 'nonce-([^']+)'", policy)
    assert nonce is not None and f'<script nonce="{nonce[1]}">' in first.text and "{{" not in first.text
    assert nonce[1] not in second.text
    assert not re.search(
        r"(src|href)=\"(?!data:)|innerHTML|insertAdjacentHTML|document\.write|eval\(", first.text
    )
    assert set(re.findall(r"https?://[^\s\"']+", first.text)) <= {"http://www.w3.org/2000/svg"}
    assert not any(name in first.text for name in NAMES), "the page itself is open: it may hold no figure"


# The merchant's side.


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    signer, path = SigningIdentity.generate(), tmp_path / "ledger.sqlite"
    create_ledger(path, signer=signer, count=COUNT)
    with Ledger(path, signer=signer, verify=verify, epsilon_lifetime=10.0, delta_lifetime=1e-5) as opened:
        yield opened


def message(kind: str, *, group: str = "3") -> Message:
    set_task_identity(run_id=1, node_id=7)
    content = pack(JoinReply(merchant="anna"), {"model": b"m" * 100})
    return new_message(content, message_type=kind, node_id=7, group_id=group, ttl=60)


def test_a_merchants_figures_are_those_of_its_messages_and_ledger(ledger: Ledger) -> None:
    observer = MerchantObserver(ledger)
    asked = message("train")
    refusal = TrainReply(merchant="anna", refused=Refusal(code="policy", detail="img_0815.png"))
    observer.answered(asked, Message(pack(refusal), reply_to=asked), seconds=2.0)
    observer.answered(asked, error_reply(asked, code=APP_FAILED, reason="x"), seconds=1.0)
    joined = message("query.join", group="join")
    observer.answered(joined, Message(pack(JoinReply(merchant="anna")), reply_to=joined), seconds=0.5)
    with served(dict(observer.routes())) as client:
        assert client.get("/healthz").status_code == 503
        observer.connection(up=True)
        assert client.get("/healthz").status_code == 200
        text = client.get("/metrics").text
        ledger.set_cap(epsilon_lifetime=5.0, delta_lifetime=1e-9)
        changed = parsed(client.get("/metrics").text)
        ledger.close()
        assert client.get("/healthz").json() == {"status": "the ledger can't be used"}
        assert client.get("/healthz").status_code == 503
    samples = parsed(text)
    assert at(samples, "fedrec_connected") == 1
    assert at(samples, "fedrec_messages_total", kind="train", outcome="refused") == 1
    assert at(samples, "fedrec_messages_total", kind="train", outcome="failed") == 1
    assert at(samples, "fedrec_messages_total", kind="query.join", outcome="answered") == 1
    assert at(samples, "fedrec_refusals_total") == 1
    assert at(samples, "fedrec_phase_seconds_total", phase="train") == 3.0
    assert at(samples, "fedrec_bytes_total", direction="down") > 300
    assert at(samples, "fedrec_round") == 3
    spent, left = at(samples, "fedrec_epsilon_spent"), at(samples, "fedrec_epsilon_left")
    assert spent == pytest.approx(epsilon_pld([count_event()], delta=1e-5 / 32))
    assert left == pytest.approx(10 - spent)
    # Another cap and delta of the merchant's own count at once, whatever the entries were written under.
    assert (at(changed, "fedrec_epsilon_spent"), at(changed, "fedrec_epsilon_left")) == pytest.approx(
        (stricter := epsilon_pld([count_event()], delta=1e-9 / 32), 5 - stricter)
    )
    count, digest = ledger.head()
    assert at(samples, "fedrec_ledger_entries") == count == 1
    assert at(samples, "fedrec_ledger_head", head=digest[:8].hex()) == 1
    assert "img_0815" not in text


@pytest.mark.parametrize("group", ["", "join", "-1", "٣", "9" * 30, 'x"} 1\nfedrec_round 9'])
def test_the_servers_text_is_never_a_label_nor_a_round(ledger: Ledger, group: str) -> None:
    observer = MerchantObserver(ledger)
    asked = message("query.anything_at_all", group=group)
    observer.answered(asked, Message(pack(JoinReply(merchant="anna")), reply_to=asked), seconds=0.0)
    with served(dict(observer.routes())) as client:
        text = client.get("/metrics").text
    assert at(parsed(text), "fedrec_round") == 0
    assert at(parsed(text), "fedrec_messages_total", kind="other", outcome="answered") == 1
    assert "anything" not in text


def test_only_our_own_figures_are_shown(ledger: Ledger) -> None:
    """The library's default registry would add the process's and Python's."""
    with served(dict(MerchantObserver(ledger).routes())) as client:
        names = {name for name, _ in parsed(client.get("/metrics").text)}
    assert all(name.startswith("fedrec_") for name in names)
