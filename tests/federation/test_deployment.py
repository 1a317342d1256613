"""A federation of separate processes over TLS on loopback, set up by the commands that its people use."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from html import unescape
from pathlib import Path

import httpx
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from measure import fedrec_here
from safetensors.numpy import load_file

from fedrec._internal import number_format
from fedrec.clients.merchant_home import MerchantHome
from fedrec.config import load_config
from fedrec.errors import ConnectionLostError, NotAdmittedError
from fedrec.flower.fleet import FleetLink
from fedrec.flower.guard import MAX_REQUEST_BYTES
from fedrec.privacy.accounting.ledger_entries import charges
from fedrec.privacy.accounting.ledger_reader import read_entries
from fedrec.privacy.identity import verify
from fedrec.recognition.model import open_model
from fedrec.server.certificates import make_authority
from fedrec.simulations import local_grid
from fedrec.simulations.federation import Federation, run_command
from fedrec.simulations.harness import simulate
from fedrec.vision.synthetic import generate, write
from tests.support.callers import signed_headers
from tests.support.commands import command_here
from tests.support.daemons import eventually
from tests.support.inline import InlineWorker

MERCHANTS = ("merchant-00", "merchant-01", "merchant-02")
ROUNDS, SEED = 2, 11
PLAN = f"""
[training]
model = "cnn-tanh"
rounds = {ROUNDS}
sample_rate = 0.5
epsilon = 60
delta = 1e-3
initial_seed = {SEED}
classes = ["bottle", "chair", "handbag", "hat", "lamp", "mug", "shoe", "t-shirt", "trousers", "watch"]
eval_data = "EVALUATION"
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "photos"
    write(generate(merchants=3, per_merchant=30, size=16, seed=3, validation=20, test=30), folder)
    return folder


@pytest.fixture(scope="module")
def federation(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """Set up from nothing by the commands, train once, and keep the server up."""
    # In this process, as all commands that end: each new one would import what it needs for seconds.
    made = Federation(tmp_path_factory.mktemp("federation"), run=fedrec_here)
    made.enrol({name: photos / "train" / name for name in MERCHANTS}, epsilon=200.0, delta=1e-2, seed=SEED)
    made.plan(PLAN.replace("EVALUATION", str(photos / "test")))
    try:
        made.start_server("--gather", 60)
        eventually(lambda: "waits up to" in made.log("server"))
        for name in MERCHANTS:
            made.start_merchant(name, "--insecure-seed", SEED)
        made.wait(seconds=150)
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def simulated(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of the same training, simulated."""
    run = tmp_path_factory.mktemp("simulated") / "run"
    options = {
        "data": photos,
        "partition": "folder",
        "model": "cnn-tanh",
        "rounds": ROUNDS,
        "seed": SEED,
        "device": "cpu",
    }
    options |= {"sample_rate": 0.5, "epsilon": 60, "delta": 1e-3, "workers": 1, "out": run}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_grid, "WorkerProcess", InlineWorker)
        return simulate(load_config(None, options)).folder


def test_a_deployment_ends_at_the_simulations_model_bit_for_bit(
    federation: Federation, simulated: Path
) -> None:
    training = federation.training()
    deployed, expected = (load_file(folder / "model.safetensors") for folder in (training, simulated))
    assert deployed.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(deployed[name], tensor)


def shape(value: object) -> object:
    """The keys of a report at every level; lists by their first item."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    return [shape(item) for item in value[:1]] if isinstance(value, list) else None


def test_a_deployment_ends_at_the_simulations_report(federation: Federation, simulated: Path) -> None:
    deployed, expected = (
        json.loads((folder / "report.json").read_text("utf-8"))
        for folder in (federation.training(), simulated)
    )
    for name in ("skipped", "ignored", "notes"):
        expected["data"][name] = deployed["data"][name]
    for report in (deployed, expected):
        report["warnings"], report["refusals"] = [], {}
    assert shape(deployed) == shape(expected)
    assert deployed["metrics"] == expected["metrics"] | {"split": "eval-data"}
    for key, value in expected["privacy"].items():
        if key != "per_merchant":
            assert deployed["privacy"][key] == value, key
    for key in ("scheme", "threshold", "committee", "value_bits", "upload_bytes_per_parameter"):
        assert deployed["secure_aggregation"][key] == expected["secure_aggregation"][key], key
    told = [(line["merchant"], line["rounds_charged"]) for line in deployed["privacy"]["per_merchant"]]
    assert told == [(name, ROUNDS) for name in MERCHANTS]
    for ours, theirs in zip(deployed["rounds"], expected["rounds"], strict=True):
        for key in ("round", "opened", "contributors", "merchants", "epsilon"):
            assert ours[key] == theirs[key], key
    page = (federation.training() / "report.html").read_text("utf-8")
    assert "NOT PRIVATE" in page and "seed" in page  # the merchants' seeds were said at the join


def test_a_merchant_fetches_the_model_that_the_server_exported(federation: Federation) -> None:
    eventually((federation.training() / "bundle").is_dir, seconds=90)
    assert (federation.training() / "state.json").read_text("utf-8").count("no model bundle") == 0
    out = federation.folder / "model"
    fedrec_here("client", "model", "--home", federation.home(MERCHANTS[1]), "--out", out)
    model = open_model(out)
    report = json.loads((federation.training() / "report.json").read_text("utf-8"))
    training, privacy = model.manifest.training, model.manifest.privacy
    assert training is not None and training.deployed and training.merchants == len(MERCHANTS)
    assert privacy is not None and privacy.epsilon == report["privacy"]["epsilon"]
    assert model.manifest.measured[0].value == report["metrics"]["accuracy"]
    assert (out / "model.onnx").read_bytes() == (federation.training() / "bundle/model.onnx").read_bytes()


def test_a_training_names_the_merchants_it_waits_for(federation: Federation) -> None:
    said = federation.log("server")
    assert f"training 0001 waits up to 60 s for its whole cohort; not there: {', '.join(MERCHANTS)}" in said
    assert (federation.training() / "state.json").read_text("utf-8").count("waits") == 0


def test_status_tells_cohort_round_and_epsilon(federation: Federation) -> None:
    shown = run_command("server", "status", "--home", federation.server)
    assert f"round     {ROUNDS} of {ROUNDS}: 3 contributors, 0 rounds lost" in shown
    assert "merchant-00, merchant-01, merchant-02; at least 3 in a sum" in shown
    report = json.loads((federation.training() / "report.json").read_text("utf-8"))
    assert f"epsilon   {number_format.epsilon(report['privacy']['epsilon'])} at delta" in shown


def test_every_merchant_was_charged_once_a_round_and_says_so(federation: Federation) -> None:
    for name in MERCHANTS:
        home = MerchantHome.open(federation.home(name))
        outcome, entries = read_entries(home.ledger, public=home.identity().public, verify=verify)
        assert outcome.ok and [entry.charge.round_number for entry in charges(entries)] == [1, 2]
        shown = command_here("client", "budget", "--home", home.folder)
        assert "2 charges of cnn" in shown and "as the lifetime cap counts it" in shown
        assert "2 of them SEEDED, which guarantee nothing" in shown


def test_a_second_daemon_on_one_home_is_refused_in_one_line(federation: Federation) -> None:
    home = federation.home(MERCHANTS[0])
    said = run_command("client", "start", "--home", home, "--device", "cpu", "--threads", 1, fails=7)
    assert said.strip().count("\n") == 0 and "is in use by another process" in said
    assert federation.processes[MERCHANTS[0]].poll() is None


def test_secrets_are_private_and_in_no_log(federation: Federation) -> None:
    secrets = []
    for name in MERCHANTS:
        for file in ("identity.key", "node.key"):
            path = federation.home(name) / file
            assert path.stat().st_mode & 0o077 == 0
            secrets.append(path.read_bytes())
    assert (federation.server / "server.key").stat().st_mode & 0o077 == 0
    logs = b"".join(path.read_bytes() for path in federation.folder.rglob("*.log"))
    assert b"listening" in logs and b"answering train" in logs and b"INSECURE" in logs
    for secret in secrets:
        assert secret not in logs and secret.hex().encode() not in logs
    assert b".png" not in logs


def authority(federation: Federation) -> Path:
    return federation.server / "authority.pem"


@pytest.mark.parametrize(
    "path", ["/v1/control/list-nodes", "/v1/control/start-run", "/v1/runtime/acquire-task", "/docs", "/"]
)
def test_only_fleet_and_health_answer_on_the_public_port(federation: Federation, path: str) -> None:
    with httpx.Client(verify=str(authority(federation))) as client:
        assert client.post(f"https://{federation.address}{path}").status_code == 403
        assert client.get(f"https://{federation.address}/health").status_code == 200
    assert f"refused {path} from 127.0.0.1" in federation.log("server")


def test_an_oversized_request_is_cut_off(federation: Federation) -> None:
    with httpx.Client(verify=str(authority(federation))) as client:
        url = f"https://{federation.address}/v1/fleet/push-object"
        key = MerchantHome.open(federation.home(MERCHANTS[0])).node_key()
        known = {name.decode(): value.decode() for name, value in signed_headers(key)}
        assert client.post(url, content=b"rubbish").status_code == 401
        assert client.post(url, content=b"rubbish", headers=known).status_code >= 400
        assert client.get(f"https://{federation.address}/health").status_code == 200
        for headers, status in ((known, 413), ({}, 401)):
            # The connection ends with the answer, which the client may not come to read any more.
            with suppress(httpx.TransportError):
                said = client.post(url, content=bytes(MAX_REQUEST_BYTES + 1), headers=headers)
                assert said.status_code == status
    assert "refused /v1/fleet/push-object (too large)" in federation.log("server")


def test_a_looser_plan_is_refused_with_the_rule_and_can_be_cancelled(federation: Federation) -> None:
    federation.plan(PLAN.replace("rounds", 'secure_aggregation = "none"\nrounds').replace("eval_data", "# "))
    deadline = time.monotonic() + 60
    waits = "0002 filed (waits for merchants: 0 of 3 merchants joined"
    while waits not in (shown := command_here("server", "status", "--home", federation.server)):
        assert time.monotonic() < deadline, shown
    assert "policy 'schemes'" in shown
    # It is tried again every few seconds, and stands as waiting all the while.
    until = time.monotonic() + 7
    while time.monotonic() < until:
        assert (federation.training("0002") / "state.json").read_text("utf-8").count("waits") == 1
        time.sleep(0.05)
    assert "it had not begun" in command_here("server", "cancel", "0002", "--home", federation.server)
    again = command_here("server", "cancel", "0002", "--home", federation.server, fails=2)
    assert "nothing to cancel" in again
    assert "0002 cancelled" in command_here("server", "status", "--home", federation.server)
    for name in MERCHANTS:
        assert "policy 'schemes'" in federation.log(name)


def test_a_training_of_a_deployment_is_no_run_to_report_on(federation: Federation) -> None:
    out = federation.folder / "none"
    said = command_here("audit", "report", "--run", federation.training(), "--out", out, fails=2)
    assert f"give --server {federation.server}, and --client" in said and not out.exists()


def test_a_bundle_of_a_deployment_holds_and_says_what_was_refused(federation: Federation) -> None:
    folders = [option for name in MERCHANTS for option in ("--client", federation.home(name))]
    out = federation.folder / "audit"
    command_here("audit", "report", *folders, "--server", federation.server, "--out", out)
    command_here("audit", "verify", out / "audit.json")
    refusals = json.loads((out / "audit.json").read_text("utf-8"))["body"]["refusals"]
    assert set(refusals) == {"server", *MERCHANTS}
    for told in refusals.values():
        assert any("policy 'schemes'" in reason for reason in told.values())
    assert any(where.startswith("training 0002") for where in refusals["server"])
    page = unescape((out / "audit.html").read_text("utf-8"))
    assert "policy 'schemes'" in page and "Not collected" not in page


def test_an_unenrolled_key_is_not_admitted(federation: Federation) -> None:
    stranger = ec.generate_private_key(ec.SECP384R1())
    link = FleetLink(address=federation.address, ca=authority(federation), key=stranger)
    with pytest.raises(NotAdmittedError, match="doesn't admit"), link:
        pass
    log = federation.log("server")
    assert "refused /v1/fleet/activate-node (a key that is not admitted, or a clock" in log
    assert "END PUBLIC KEY" not in log


def test_a_server_of_another_authority_is_not_contacted(federation: Federation, tmp_path: Path) -> None:
    make_authority(certificate=tmp_path / "other.pem", key=tmp_path / "other.key")
    key = MerchantHome.open(federation.home(MERCHANTS[0])).node_key()
    link = FleetLink(address=federation.address, ca=tmp_path / "other.pem", key=key)
    with pytest.raises(ConnectionLostError, match="not from the authority"), link:
        pass


@pytest.mark.slow
def test_a_daemon_that_was_killed_connects_again(federation: Federation) -> None:
    """Slow: for 20 s after a hard stop Flower still holds the last connection."""
    name = MERCHANTS[1]
    before = federation.log(name).count("connected to")
    assert before > 0
    federation.kill(name)
    federation.start_merchant(name)
    deadline = time.monotonic() + 90
    while federation.log(name).count("connected to") == before:
        assert time.monotonic() < deadline, federation.log(name)
        time.sleep(0.5)


def test_a_revoked_merchant_is_locked_out_while_the_server_runs(federation: Federation) -> None:
    """Before the last: it takes a merchant off the roster."""
    command_here("server", "revoke", "merchant-02", "--home", federation.server)
    deadline = time.monotonic() + 30
    while "locked out" not in federation.log("server"):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    while "doesn't admit" not in federation.log("merchant-02") and "status" not in federation.log(
        "merchant-02"
    ):
        assert time.monotonic() < deadline, federation.log("merchant-02")
        time.sleep(0.2)
    changed = command_here("server", "status", "--home", federation.server)
    assert "merchant-02" not in changed.splitlines()[0]
    assert "locked out merchant-02" in federation.log("server")


def test_sigterm_ends_every_process_cleanly(federation: Federation) -> None:
    """Last: it ends them. With exit code 0, so that nobody starts them again as after a failure."""
    for name in (*MERCHANTS, "server"):
        process = federation.processes[name]
        assert process.poll() is None, federation.log(name)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, federation.log(name)
        assert "Traceback" not in federation.log(name)
