"""The files in ``deploy/``, as far as they can be tried without systemd as init or a container engine."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from fedrec.cli import client, server, witness
from fedrec.cli.app import app
from tests.support.layout import ROOT

DEPLOY = ROOT / "deploy"
SIDES = {"server": server.app, "client": client.app, "witness": witness.app}
HARDENED = {
    "NoNewPrivileges": "yes",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "CapabilityBoundingSet": "",
    "LimitCORE": "0",
    "UMask": "0077",
    "StateDirectoryMode": "0700",
    "Restart": "on-failure",
}


def unit(side: str) -> configparser.SectionProxy:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string((DEPLOY / f"fedrec-{side}.service").read_text("utf-8"))
    return parser["Service"]


def check_command(side: str, arguments: list[str]) -> None:
    """Every option is one that ``start`` has, and none takes a secret on the command line."""
    assert arguments[:2] == [side, "start"]
    group = get_command(SIDES[side])
    command = group.get_command(group.make_context(side, ["start"]), "start")  # type: ignore[attr-defined]
    context = command.make_context("start", arguments[2:], resilient_parsing=True)
    command.parser = command.make_parser(context)
    known = {name for parameter in command.params for name in parameter.opts}
    given = {argument for argument in arguments if argument.startswith("--")}
    assert given <= known
    assert not given & {"--insecure-seed"} and not re.search("token=|key=|password", " ".join(arguments))


@pytest.mark.parametrize("side", SIDES)
def test_a_unit_is_hardened_and_starts_a_command_that_exists(side: str) -> None:
    service = unit(side)
    for key, value in HARDENED.items():
        assert service[key] == value, key
    assert service["User"] == f"fedrec-{side}" == service["StateDirectory"]
    # A broken ledger or configuration isn't started again and again.
    assert service["RestartPreventExitStatus"].split() == ["2", "7"]
    program, *arguments = shlex.split(service["ExecStart"])
    assert program == "/opt/fedrec/bin/fedrec"
    check_command(side, arguments)
    observe = arguments[arguments.index("--observe") + 1]
    assert observe.isdigit(), "a port alone is loopback's"


@pytest.mark.parametrize("side", SIDES)
def test_systemd_accepts_the_unit(side: str, tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    text = (DEPLOY / f"fedrec-{side}.service").read_text("utf-8")
    path = tmp_path / f"fedrec-{side}.service"
    path.write_text(text.replace("/opt/fedrec/bin/fedrec", sys.executable))
    done = subprocess.run([analyze, "verify", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and str(path.name) not in done.stderr, done.stderr


def compose() -> dict[str, Any]:
    yaml = pytest.importorskip("yaml")
    document: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
    return document


def test_the_compose_file_is_a_server_and_three_merchants_with_little_to_lose() -> None:
    document = compose()
    services = dict(document["services"])
    del services["serve"]
    assert set(services) == {"server", "merchant-1", "merchant-2", "merchant-3"}
    assert document["networks"]["federation"]["internal"] is True
    volumes: list[str] = []
    for name, service in services.items():
        side = "server" if name == "server" else "client"
        check_command(side, [str(argument) for argument in service["command"]])
        assert service["read_only"] is True and service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not {"privileged", "network_mode", "pid", "ports", "environment"} & set(service)
        assert service["networks"] == ["federation"]
        assert "/healthz" in service["healthcheck"]["test"][-1]
        port = service["command"][service["command"].index("--observe") + 1]
        assert f"127.0.0.1:{port}/" in service["healthcheck"]["test"][-1]
        own = [mount.split(":")[0] for mount in service["volumes"] if mount.endswith(":/state")]
        assert len(own) == 1
        volumes += own
        for mount in service["volumes"]:
            assert mount.endswith((":/state", ":/photos:ro"))
    assert len(set(volumes)) == 4 and set(volumes) == set(document["volumes"]), (
        "no two share keys or a ledger"
    )


def test_the_page_is_a_service_of_its_own_that_reaches_no_federation_and_needs_a_token() -> None:
    service = compose()["services"]["serve"]
    assert service["profiles"] == ["serve"] and service["networks"] == ["shop"]
    assert service["read_only"] is True and service["cap_drop"] == ["ALL"]
    assert service["ports"] == ["127.0.0.1:8080:8080"]
    command = [str(argument) for argument in service["command"]]
    assert command[0] == "serve" and "--token-file" in command
    shown = CliRunner().invoke(app, ["serve", "--help"]).output
    assert all(option in shown for option in command if option.startswith("--"))


def test_the_compose_file_fits_its_schema() -> None:
    schema = os.environ.get("FEDREC_COMPOSE_SCHEMA")
    if schema is None:
        pytest.skip("FEDREC_COMPOSE_SCHEMA names no copy of the Compose specification's JSON schema")
    jsonschema = pytest.importorskip("jsonschema")
    import json

    jsonschema.validate(compose(), json.loads(Path(schema).read_text("utf-8")))


def test_the_image_runs_as_nobody_special_and_takes_no_secret() -> None:
    text = (DEPLOY / "Dockerfile").read_text("utf-8")
    lines = text.splitlines()
    assert lines.index("USER fedrec") > lines.index("FROM python:3.12-slim")
    assert 'ENTRYPOINT ["fedrec"]' in lines
    assert not re.search(r"^(ARG|ENV).*(KEY|TOKEN|SECRET|PASSWORD)", text, re.MULTILINE)
