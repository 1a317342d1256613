"""Implement ``fedrec witness``, the commands of a committee member without photos."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from fedrec.cli.generated_options import fields_as_options
from fedrec.cli.join_confirmation import confirm_join_file, show_join_file
from fedrec.cli.json_output import tell
from fedrec.cli.lazy_group import PLAIN, LazyGroup
from fedrec.cli.option_values import check_format
from fedrec.cli.party_commands import (
    AllTrainings,
    AnyTraining,
    Json,
    NodeKeyOnly,
    forget_trainings,
    pause_party,
    resume_party,
    rotate_keys,
)
from fedrec.cli.running_options import (
    Fingerprint,
    LogStyle,
    NewServer,
    Observe,
    ObserveToken,
    StepSeconds,
    check_observing,
    keep_flower_files,
    run_until_stopped,
)
from fedrec.cli.status_lines import witness_status_lines
from fedrec.cli.wrapping import say
from fedrec.clients.activity import ActivityLog
from fedrec.clients.party_home import ENROLMENT_FILE
from fedrec.clients.witness.home import WitnessHome
from fedrec.clients.witness.openings import check_not_in_use
from fedrec.clients.witness.status import read_witness_status
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
    say(
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
    say(f"joined {found.address}; next: fedrec witness start --home {shlex.quote(str(home))}")


@app.command()
def rotate(home: Home = _HOME, node_key_only: NodeKeyOnly = False) -> None:
    """Exchange the keys: the identity key (the record of openings goes on) and the node key.

    Stop the daemon first, and between trainings. The old identity key signs the new one. The operator enrols
    the new enrolment file. Merchants approve the new key by hand, and name it in their 'witness_keys'.
    """
    opened = WitnessHome.open(home)
    rotate_keys(opened, node_key_only=node_key_only, goes_on="the record of openings")
    if not node_key_only:
        say(
            "Tell the new key to the merchants by another channel, as the first one: those who name the old "
            "one in their policy's 'witness_keys' put it there."
        )


@app.command()
def pause(home: Home = _HOME) -> None:
    """Open nothing until 'resume'."""
    pause_party(
        WitnessHome.open(home),
        refused="plans and openings",
        note="A training whose sums can't be opened without this witness waits, or loses its rounds.",
    )


@app.command()
def resume(home: Home = _HOME) -> None:
    """Help to open sums again after 'pause'."""
    resume_party(WitnessHome.open(home), answered="plans and openings")


@app.command()
def forget(training: AnyTraining = None, home: Home = _HOME, everything: AllTrainings = False) -> None:
    """End a training on this machine, whatever the server says: its keys are deleted."""
    forget_trainings(WitnessHome.open(home), training, everything=everything)


@app.command()
def status(home: Home = _HOME, as_json: Json = False) -> None:
    """Show the connection, the open training, the sums that were opened, and the last refusals."""
    tell(read_witness_status(WitnessHome.open(home)), witness_status_lines, as_json=as_json)


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
    """Help to open sums as the policy allows, until stopped (Ctrl-C or SIGTERM)."""
    opened, style = WitnessHome.open(given.home), check_format(given.log_format)
    check_observing(given.observe, given.observe_token)
    keep_flower_files(opened.folder)
    # Before another daemon's activity is overwritten.
    check_not_in_use(opened.openings)
    activity = ActivityLog(opened.folder)
    activity.tell("loading")
    typer.echo("loading libraries", err=True)
    # Flower reads its environment at import.
    from fedrec.cli.logs import start_logging
    from fedrec.clients.witness.daemon import WitnessDaemon

    start_logging(opened.folder / "logs", name="witness", style=style)
    daemon = WitnessDaemon(opened, step_seconds=given.step_seconds, activity=activity)
    run_until_stopped(
        daemon, observe=given.observe, token_file=given.observe_token, routes=daemon.observer.routes()
    )
