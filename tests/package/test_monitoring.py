"""``deploy/prometheus`` and ``deploy/grafana``: rules, their tests, and a dashboard over what is exported."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from flwr.app import Message
from prometheus_client.parser import text_string_to_metric_families

from fedrec.clients.merchant_observer import MerchantObserver
from fedrec.flower import new_message, set_task_identity
from fedrec.privacy.accounting.ledger import Ledger
from fedrec.privacy.accounting.ledger_creation import create_ledger
from fedrec.privacy.identity import SigningIdentity, verify
from fedrec.protocol.messages import JoinReply
from fedrec.protocol.transport import pack
from fedrec.server.presence import Presence
from fedrec.server.reply_board import ReplyBoard
from fedrec.server.status_endpoint import ServerObserver
from fedrec.server.training_runner import TrainingRunner
from tests.support.layout import DOCS, ROOT
from tests.support.ledgers import COUNT
from tests.support.server_homes import enrolled_home, filed, round_line, write_rounds

PROMETHEUS = ROOT / "deploy" / "prometheus"
RULES, RULE_TESTS = PROMETHEUS / "fedrec-rules.yml", PROMETHEUS / "fedrec-rules-test.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "fedrec-server.json"
ADDED = {"job", "instance"}
"""The labels that Prometheus itself adds to every series."""
METRIC = re.compile(r"\bfedrec_[a-z_]+")
SELECTOR = re.compile(r"\b(fedrec_[a-z_]+)\{([^}]*)\}")
VALUES = {"$__rate_interval": "5m", "$instance": ".*"}
Exported = dict[str, set[str]]


def parsed(text: str) -> Exported:
    """Return the labels of every sample of an exposition, by name."""
    found: Exported = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Exported, Exported]:
    """What a server in a training exports, and a merchant's daemon, by their own endpoints' routes."""
    home = enrolled_home(tmp_path_factory.mktemp("monitoring") / "server")
    training = filed(home)
    training.set_status("running")
    write_rounds(training, round_line(1, contributors=3))
    presence = Presence()
    presence.seen("anna", round_trip=0.01)
    board = ReplyBoard(lambda: {1: "anna", 2: "bert"})
    board.came(1, seconds=0.5)
    head = SimpleNamespace(statement=SimpleNamespace(round_number=4, head_hash="ab" * 32))
    runner = SimpleNamespace(
        checkpoint=SimpleNamespace(last_reserved=lambda: 2),
        refusals={},
        notes=dict,
        board=board,
        receipts=SimpleNamespace(last=lambda name: SimpleNamespace(head=head)),
    )
    observer = ServerObserver(home, presence)
    observer.follow(training, cast(TrainingRunner, runner))
    with board.waiting("train", "2", lambda: [2]):
        server = observer.routes()["/metrics"].answer().body.decode()
    signer, path = SigningIdentity.generate(), tmp_path_factory.mktemp("ledger") / "ledger.sqlite"
    create_ledger(path, signer=signer, count=COUNT)
    with Ledger(path, signer=signer, verify=verify, epsilon_lifetime=10.0, delta_lifetime=1e-5) as ledger:
        merchant_observer = MerchantObserver(ledger)
        set_task_identity(run_id=1, node_id=7)
        asked = new_message(
            pack(JoinReply(merchant="anna")), message_type="query.join", node_id=7, group_id="3", ttl=60
        )
        merchant_observer.answered(
            asked, Message(pack(JoinReply(merchant="anna")), reply_to=asked), seconds=1.0
        )
        merchant = merchant_observer.routes()["/metrics"].answer().body.decode()
    return parsed(server), parsed(merchant)


def rules() -> list[dict[str, Any]]:
    yaml = pytest.importorskip("yaml", reason="PyYAML isn't installed: the rules aren't read")
    document = yaml.safe_load(RULES.read_text("utf-8"))
    return [rule for group in document["groups"] for rule in group["rules"]]


def panels() -> Iterator[tuple[str, str]]:
    """Yield every query of the dashboard, with its panel's title."""
    for panel in json.loads(DASHBOARD.read_text("utf-8"))["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


def promtool(*arguments: object) -> str:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed: it comes with Prometheus (apt-get install prometheus)")
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def check_names(query: str, known: Exported) -> None:
    """Every metric is exported, and every label that is selected by is one that it has."""
    for name in METRIC.findall(query):
        assert name in known, f"{name} in '{query}' is exported by nobody"
    for name, selector in SELECTOR.findall(query):
        for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector):
            assert label in known[name] | ADDED, f"{name} has no label {label}"


def test_rules_ask_only_for_metrics_and_labels_that_are_exported(exported: tuple[Exported, Exported]) -> None:
    server, merchant = exported
    both = {name: server.get(name, set()) | merchant.get(name, set()) for name in server | merchant}
    for rule in rules():
        check_names(rule["expr"], both)
        # What an alert says of its series must be there, too.
        said = " ".join(rule["annotations"].values())
        asked = {label for name in METRIC.findall(rule["expr"]) for label in both[name]} | ADDED
        assert set(re.findall(r"\$labels\.(\w+)", said)) <= asked
        assert {"summary", "description"} == set(rule["annotations"])
        assert rule["labels"]["severity"] in ("critical", "warning", "info")


def test_the_dashboard_asks_only_for_metrics_and_labels_that_a_server_exports(
    exported: tuple[Exported, Exported],
) -> None:
    queries = list(panels())
    assert len(queries) > 20
    for _, query in queries:
        check_names(query, exported[0])
    variables = {found["name"] for found in json.loads(DASHBOARD.read_text("utf-8"))["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", DASHBOARD.read_text("utf-8"))) - {"__rate_interval", "__all"}
    assert used == variables


def test_every_metric_that_is_exported_is_in_the_table(exported: tuple[Exported, Exported]) -> None:
    table = (DOCS / "operations.md").read_text("utf-8")
    for name in exported[0] | exported[1]:
        assert name in table, f"docs/operations.md doesn't describe {name}"
    for name in METRIC.findall(table):
        assert name in exported[0] | exported[1] or name.startswith("fedrec_service"), name


def test_a_query_for_what_nobody_exports_is_found(exported: tuple[Exported, Exported]) -> None:
    with pytest.raises(AssertionError, match="exported by nobody"):
        check_names("rate(fedrec_rounds[5m])", exported[0])
    with pytest.raises(AssertionError, match="no label"):
        check_names('fedrec_training_state{status="failed"}', exported[0])


def test_promtool_accepts_rules_and_configuration() -> None:
    assert f"{len(rules())} rules found" in promtool("check", "rules", RULES)
    promtool("check", "config", "--syntax-only", PROMETHEUS / "prometheus.yml")


def test_promtool_accepts_the_dashboards_queries(tmp_path: Path) -> None:
    """As recording rules, with values for Grafana's variables."""
    recorded = []
    for number, (_, query) in enumerate(panels()):
        for name, value in VALUES.items():
            query = query.replace(name, value)
        recorded.append({"record": f"panel:{number}", "expr": query})
    path = tmp_path / "panels.json"
    path.write_text(json.dumps({"groups": [{"name": "panels", "rules": recorded}]}))
    promtool("check", "rules", path)


def test_each_alert_fires_when_it_should_and_is_silent_when_all_is_well() -> None:
    assert "SUCCESS" in promtool("test", "rules", RULE_TESTS)
    text = RULE_TESTS.read_text("utf-8")
    for rule in rules():
        fired = re.findall(rf'labels: \'ALERTS{{alertname="{rule["alert"]}"', text)
        assert fired, f"no test makes {rule['alert']} fire"


def test_promtool_notices_an_alert_that_never_fires(tmp_path: Path) -> None:
    """The tests of the rules can fail: with a rule that asks too much, they do."""
    broken = RULES.read_text("utf-8").replace(
        "== 1\n        labels: {severity: critical}", "== 2\n        labels: {severity: critical}"
    )
    assert broken != RULES.read_text("utf-8")
    (tmp_path / RULES.name).write_text(broken)
    shutil.copy(RULE_TESTS, tmp_path)
    with pytest.raises(AssertionError, match="FedrecTrainingFailed"):
        promtool("test", "rules", tmp_path / RULE_TESTS.name)
