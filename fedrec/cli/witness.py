"""Implement ``fedrec witness``, the commands of a committee member without photos."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from fedrec.cli.generated_options import fields_as_options
from fedrec.cli.join_confirmation import confirm_join_file, show_join_file
from fedrec.cli.lazy_group import PLAIN, LazyGroup
from fedrec.cli.option_values import check_format
from fedrec.cli.running_options import (
    Fingerprint,
    LogStyle,
    NewServer,
    Observe,
    ObserveToken,
    StepSeconds,
    run_until_stopped,
)
from fedrec.clients.party_home import ENROLMENT_FILE
from fedrec.clients.witness.home import WitnessHome
from fedrec.protocol.enrolment import JoinFile, read_file

app = typer.Typer(
    help="Help to open sums as a witness, without photos.", cls=LazyGroup, no_args_is_help=True, **PLAIN
)

Home = Annotated[Path, typer.Option(help="The witness's folder.")]
_HOME = Path("fedrec-witness")


@app.command()
def init(
    name: Annotated[str, typer.Option(help="The witness's name, as merchants will see it.")],
    home: Home = _HOME,
) -> None:
    """Create keys and a policy on this machine, and an enrolment file for the operator."""
    made = WitnessHome.create(home, name=name)
    typer.echo(
        f"Edit {made.folder / 'policy.toml'}: it decides for whom this witness opens sums, and how often.\n"
        f"Give {made.folder / ENROLMENT_FILE} to the operator; it holds your name and two public keys, "
        "signed, and nothing else.\n"
        f"signing key {made.identity().public.hex()}\n"
        "Tell that key to the merchants by another channel: those who name it in their policy's "
        "'witness_keys' rely on you."
    )


@app.command()
def join(
    file: Annotated[Path, typer.Argument(help="The operator's join file.")],
    home: Home = _HOME,
    confirm: Fingerprint = None,
    new_server: NewServer = False,
) -> None:
    """Approve a join file (the server, its keys, the roster and the witnesses), and keep it."""
    opened = WitnessHome.open(home)
    found = read_file(file, JoinFile)
    show_join_file(found)
    confirm_join_file(opened, found, given=confirm, new_server=new_server)
    opened.approve(found)
    typer.echo(f"joined {found.address}; next: fedrec witness start --home {home}")


@dataclass(frozen=True, kw_only=True)
class StartOptions:
    """Options of ``fedrec witness start``; each is described by its help."""

    home: Home = _HOME
    step_seconds: StepSeconds = 600.0
    observe: Observe = None
    observe_token: ObserveToken = None
    log_format: LogStyle = "text"


@app.command()
@fields_as_options(StartOptions)
def start(given: StartOptions) -> None:
    """Help to open sums as the policy allows, until stopped (SIGTERM)."""
    opened = WitnessHome.open(given.home)
    os.environ["FLWR_HOME"] = str((opened.folder / "flower").resolve())
    # Flower reads its environment at import.
    from fedrec.cli.logs import start_logging
    from fedrec.clients.witness.daemon import WitnessDaemon

    start_logging(opened.folder / "logs", name="witness", style=check_format(given.log_format))
    daemon = WitnessDaemon(opened, step_seconds=given.step_seconds)
    run_until_stopped(
        daemon, observe=given.observe, token_file=given.observe_token, routes=daemon.observer.routes()
    )
