"""A federation of separate processes over TLS on loopback, set up by the commands that its people use."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from safetensors.numpy import load_file

from fedrec.clients.home import MerchantHome
from fedrec.config import load_config
from fedrec.errors import ConnectionLostError, NotAdmittedError
from fedrec.flower.fleet import FleetLink
from fedrec.privacy.accounting.reading import read_entries
from fedrec.privacy.identity import verify
from fedrec.server.certificates import make_authority
from fedrec.simulations.harness import simulate
from fedrec.vision.synthetic import generate, write

MERCHANTS = ("merchant-00", "merchant-01", "merchant-02")
ROUNDS, SEED = 2, 11
PLAN = f"""
[training]
model = "cnn"
rounds = {ROUNDS}
sample_rate = 0.5
epsilon = 60
delta = 1e-3
initial_seed = {SEED}
classes = ["bottle", "chair", "handbag", "hat", "lamp", "mug", "shoe", "t-shirt", "trousers", "watch"]
eval_data = "EVALUATION"
"""
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def fedrec(*arguments: object, fails: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "fedrec.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env=ENVIRONMENT,
        check=False,
    )
    assert done.returncode == fails, done.stderr
    return done.stdout + done.stderr


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Federation:
    folder: Path
    port: int
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def server(self) -> Path:
        return self.folder / "server"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def home(self, name: str) -> Path:
        return self.folder / "homes" / name

    def spawn(self, *arguments: object) -> subprocess.Popen[bytes]:
        log = (self.folder / f"{len(self.running)}.log").open("wb")
        process = subprocess.Popen(
            [sys.executable, "-m", "fedrec.cli", *map(str, arguments)],
            stdout=log,
            stderr=log,
            env=ENVIRONMENT,
        )
        self.running.append(process)
        return process

    def stop(self) -> None:
        for process in self.running:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.running:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def log(self, number: int) -> str:
        return (self.folder / f"{number}.log").read_text("utf-8")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "photos"
    write(generate(merchants=3, per_merchant=30, size=16, seed=3, validation=20, test=30), folder)
    return folder


@pytest.fixture(scope="module")
def federation(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """Set up from nothing by the commands, train once, and keep the server up."""
    folder = tmp_path_factory.mktemp("federation")
    made = Federation(folder, free_port())
    fedrec("server", "init", "--address", made.address, "--home", made.server)
    for name in MERCHANTS:
        home = made.home(name)
        fedrec("client", "init", "--name", name, "--data", photos / "train" / name, "--home", home)
        told = fedrec("server", "enroll", home / "enrolment.json", "--home", made.server)
    found = re.search(r"fingerprint ([0-9a-f ]+)", told)
    assert found is not None
    for name in MERCHANTS:
        home = made.home(name)
        fedrec("client", "join", made.server / "join.json", "--home", home, "--fingerprint", found[1])
        policy = (home / "policy.toml").read_text("utf-8")
        policy = policy.replace("lifetime_epsilon = 10.0", "lifetime_epsilon = 200.0")
        (home / "policy.toml").write_text(policy.replace("lifetime_delta = 1e-5", "lifetime_delta = 1e-2"))
    (folder / "plan.toml").write_text(PLAN.replace("EVALUATION", str(photos / "test")))
    fedrec("server", "plan", folder / "plan.toml", "--home", made.server)
    try:
        made.spawn("server", "start", "--home", made.server, "--gather", 60)
        for name in MERCHANTS:
            options = ("--device", "cpu", "--threads", 1, "--insecure-seed", SEED)
            made.spawn("client", "start", "--home", made.home(name), *options)
        deadline = time.monotonic() + 150
        while "0001 done" not in (shown := fedrec("server", "status", "--home", made.server)):
            assert time.monotonic() < deadline and "failed" not in shown, shown + made.log(0) + made.log(1)
            time.sleep(1)
        yield made
    finally:
        made.stop()


def test_a_deployment_ends_at_the_simulations_model_bit_for_bit(
    federation: Federation, photos: Path, tmp_path: Path
) -> None:
    options = {"data": photos, "partition": "folder", "rounds": ROUNDS, "seed": SEED, "device": "cpu"}
    options |= {"sample_rate": 0.5, "epsilon": 60, "delta": 1e-3, "workers": 1, "out": tmp_path / "run"}
    simulated = simulate(load_config(None, options)).folder
    training = federation.server / "trainings" / "0001"
    deployed, expected = (load_file(folder / "model.safetensors") for folder in (training, simulated))
    assert deployed.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(deployed[name], tensor)
    rounds = json.loads((training / "report.json").read_text("utf-8"))["rounds"]
    assert [line["opened"] for line in rounds] == [True] * ROUNDS
    assert all(0 <= line["accuracy"] <= 1 for line in rounds)


def test_every_merchant_was_charged_once_a_round_and_says_so(federation: Federation) -> None:
    for name in MERCHANTS:
        home = MerchantHome.open(federation.home(name))
        outcome, entries = read_entries(home.ledger, public=home.identity().public, verify=verify)
        assert outcome.ok and [entry.charge.round_number for entry in entries] == [1, 2]
        shown = fedrec("client", "budget", "--home", home.folder)
        assert "2 charges of cnn" in shown and "proved by RDP" in shown


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
def test_only_fleet_and_health_answer_the_outside(federation: Federation, path: str) -> None:
    with httpx.Client(verify=str(authority(federation))) as client:
        assert client.post(f"https://{federation.address}{path}").status_code == 403
        assert client.get(f"https://{federation.address}/health").status_code == 200
    assert f"refused {path} from 127.0.0.1" in federation.log(0)


def test_an_unenrolled_key_is_not_admitted(federation: Federation) -> None:
    stranger = ec.generate_private_key(ec.SECP384R1())
    link = FleetLink(address=federation.address, ca=authority(federation), key=stranger)
    with pytest.raises(NotAdmittedError, match="doesn't admit"), link:
        pass


def test_a_server_of_another_authority_is_not_spoken_to(federation: Federation, tmp_path: Path) -> None:
    make_authority(certificate=tmp_path / "other.pem", key=tmp_path / "other.key")
    key = MerchantHome.open(federation.home(MERCHANTS[0])).node_key()
    link = FleetLink(address=federation.address, ca=tmp_path / "other.pem", key=key)
    with pytest.raises(ConnectionLostError, match="not from the authority"), link:
        pass


def test_a_revoked_merchant_is_locked_out_while_the_server_runs(federation: Federation) -> None:
    """Last: it takes a merchant off the roster."""
    fedrec("server", "revoke", "merchant-02", "--home", federation.server)
    deadline = time.monotonic() + 30
    while "locked out" not in federation.log(0):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    while "doesn't admit" not in federation.log(3) and "status" not in federation.log(3):
        assert time.monotonic() < deadline, federation.log(3)
        time.sleep(0.2)
    changed = fedrec("server", "status", "--home", federation.server)
    assert "merchant-02" not in changed
