"""Implement ``fedrec server``, the operator's commands."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedrec._internal.text import counted, listed
from fedrec.cli.generated_options import fields_as_options
from fedrec.cli.json_output import print_json
from fedrec.cli.lazy_group import PLAIN, LazyGroup
from fedrec.cli.option_values import check_format
from fedrec.cli.running_options import (
    LogStyle,
    ObserveToken,
    check_observing,
    keep_flower_files,
    run_until_stopped,
)
from fedrec.cli.wrapping import say
from fedrec.config import MOST_LOST_ROUNDS, PATIENCE
from fedrec.errors import ConfigError
from fedrec.protocol.enrolment import Enrolment, JoinFile, grouped, read_file
from fedrec.protocol.plan import MAX_WINDOW
from fedrec.protocol.roster_statements import SignedVouch
from fedrec.protocol.tls import Certificates
from fedrec.server.live_state import announce_start, read_live
from fedrec.server.round_records import any_opened
from fedrec.server.server_home import JOIN_FILE, ServerHome
from fedrec.server.trainings import Training, find_training, readable_trainings
from fedrec.server.window.campaign_files import delete_cancelled

if TYPE_CHECKING:
    from fedrec.server.training_file import TrainingFile

app = typer.Typer(help="Run the server of a federation.", cls=LazyGroup, no_args_is_help=True, **PLAIN)

Home = Annotated[Path, typer.Option(help="The server's folder.")]
_HOME = Path("fedrec-server")


@app.command()
def init(
    address: Annotated[str, typer.Option(help="HOST:PORT at which merchants reach this server.")],
    home: Home = _HOME,
    listen: Annotated[str | None, typer.Option(help="Address to listen on (the host's own).")] = None,
    authority: Annotated[Path | None, typer.Option(help="Certificate of your own authority (PEM).")] = None,
    certificate: Annotated[
        Path | None, typer.Option(help="The server's certificate from that authority (PEM).")
    ] = None,
    key: Annotated[Path | None, typer.Option(help="The server's private key (PEM).")] = None,
) -> None:
    """Create the server's folder, with its own certificate authority unless one is given."""
    given = [path for path in (authority, certificate, key) if path is not None]
    if len(given) not in (0, 3):
        raise ConfigError("--authority, --certificate and --key go together: give all three, or none")
    own = None
    if authority is not None and certificate is not None and key is not None:
        own = Certificates(authority=authority, certificate=certificate, key=key)
    ServerHome.create(home, address=address, listen=listen, certificates=own)
    say(f"{home} is ready; enrol merchants with: fedrec server enroll FILE --home {shlex.quote(str(home))}")


@app.command()
def renew(home: Home = _HOME) -> None:
    """Issue a new server certificate from the server's own authority; restart the server to use it."""
    opened = ServerHome.open(home)
    opened.renew()
    say(f"{opened.certificate} is renewed; merchants need no change, since the authority is the same.")


@app.command()
def enroll(
    file: Annotated[Path, typer.Argument(help="The enrolment file of a merchant or witness.")],
    home: Home = _HOME,
    new_key: Annotated[
        bool,
        typer.Option(
            "--new-key", help="Confirm that its owner itself said that it exchanged its identity key."
        ),
    ] = False,
) -> None:
    """Add a merchant or a witness to the roster, or renew its keys, and rewrite the join file."""
    opened, enrolment = ServerHome.open(home), read_file(file, Enrolment)
    name = enrolment.statement.name
    opened.enroll(enrolment, new_key=new_key)
    say(f"enrolled    {name}; fingerprint of its file: {grouped(enrolment.fingerprint)}")
    _print_roster(opened)


@app.command()
def vouch(
    file: Annotated[Path, typer.Argument(help="The file that a merchant's 'fedrec client vouch' wrote.")],
    home: Home = _HOME,
) -> None:
    """Add a merchant's word for another one to the roster, so that others may accept that one by it."""
    opened, signed = ServerHome.open(home), read_file(file, SignedVouch)
    opened.vouch(signed)
    peer, update = signed.statement.peer, opened.update()
    vouchers = [
        other.statement.voucher
        for other in (() if update is None else update.vouches)
        if other.statement.peer == peer
    ]
    say(
        f"{peer.name} is vouched for by {listed(vouchers)}; the last day of this vouch is "
        f"{signed.statement.last_day}"
    )
    _print_roster(opened)


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="The name of the merchant or witness.")], home: Home = _HOME
) -> None:
    """Remove a merchant or a witness from the roster; a running server locks it out within a second."""
    opened = ServerHome.open(home)
    opened.revoke(name)
    _print_roster(opened)


def _print_roster(home: ServerHome) -> None:
    names = ", ".join(peer.name for peer in home.roster())
    say(f"roster      {names or 'nobody'}")
    if home.witnesses():
        say(f"witnesses   {', '.join(peer.name for peer in home.witnesses())}")
    if names:
        say(
            f"fingerprint {_join_fingerprint(home)}\n"
            f"Give {home.folder / JOIN_FILE} to every merchant on it, and the fingerprint by another "
            "channel.\nA merchant that accepts this roster by itself needs neither, and the next training "
            "brings it: where others vouch (policy 'least_vouchers'), where a merchant's approved key signed "
            "its new one, or where a merchant left. Any other change, such as one of the witnesses, is "
            "approved by hand."
        )
    outdated = [
        training.number
        for training, status, plan in readable_trainings(home.trainings)
        if status not in ("done", "cancelled")
        and (plan.roster, plan.witnesses) != (home.roster(), home.witnesses())
    ]
    if outdated:
        say(
            f"Planned with another roster: training {listed(outdated)}. Merchants that approve this one "
            "refuse it: cancel it ('fedrec server cancel') and plan it anew, or let it end first."
        )


def _join_fingerprint(home: ServerHome) -> str:
    """Return the fingerprint of the join file, which merchants compare (not that of the roster)."""
    return grouped(read_file(home.folder / JOIN_FILE, JoinFile).fingerprint)


@app.command()
def plan(
    file: Annotated[Path, typer.Argument(help="TOML file with a [training] table.")],
    home: Home = _HOME,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain", help="File nothing: predict epsilon, time, bytes, refusals and spare merchants."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --explain: print it as JSON.")] = False,
) -> None:
    """Plan a training for the enrolled merchants and file it to be run."""
    from fedrec.cli.plan_summary import plan_lines
    from fedrec.server.class_check import class_warnings
    from fedrec.server.package_check import package_warnings
    from fedrec.server.training_file import add_training, read_training_file

    if as_json and not explain:
        raise ConfigError("--json goes with --explain")
    opened = ServerHome.open(home)
    options = read_training_file(file)
    if explain:
        _explain(options, opened, as_json=as_json)
        return
    training = add_training(
        opened.trainings,
        options,
        server_key=opened.identity().public.hex(),
        roster=opened.roster(),
        sizes=opened.sizes(options.unit),
        witnesses=opened.witnesses(),
    )
    say("\n".join(plan_lines(training, fingerprint=_join_fingerprint(opened))))
    for line in (
        *class_warnings(options.classes, options.eval_data),
        *package_warnings(training.plan().model),
    ):
        say(f"warning     {line}")
    for line in _queue(training, opened):
        say(f"note        {line}")


def _queue(training: Training, opened: ServerHome) -> Iterator[str]:
    """Say which other trainings are filed or run: each of them charges the merchants."""
    waiting = [
        other.number
        for other, status, _ in readable_trainings(opened.trainings)
        if other.number != training.number and status in ("filed", "running")
    ]
    if waiting:
        yield (
            f"training {listed(waiting)} isn't over either, and each one is charged to the merchants; to "
            f"take this one back: fedrec server cancel {training.number} "
            f"--home {shlex.quote(str(opened.folder))}"
        )


def _explain(options: TrainingFile, opened: ServerHome, *, as_json: bool) -> None:
    """Print what a plan would cost and what could stop it; nothing is filed."""
    from fedrec.cli.plan_explanation import explain, explanation_lines
    from fedrec.cli.plan_summary import describe_plan
    from fedrec.server.class_check import class_warnings
    from fedrec.server.planning import Enrolled
    from fedrec.server.training_file import make_plan

    enrolled = Enrolled(
        opened.identity().public.hex(), opened.roster(), opened.sizes(options.unit), opened.witnesses()
    )
    made, task = make_plan(opened.trainings, options, enrolled)
    told = explain(made, task, opened)
    if as_json:
        print_json(asdict(told))
        return
    lines = [*describe_plan(made, start_from=options.start_from), *explanation_lines(told)]
    lines += [f"warning     {line}" for line in class_warnings(options.classes, options.eval_data)]
    say("\n".join(lines))


@dataclass(frozen=True, kw_only=True)
class StartOptions:
    """Options of ``fedrec server start``; each is described by its help."""

    home: Home = _HOME
    once: Annotated[bool, typer.Option("--once", help="Stop when no training is left to run.")] = False
    timeout: Annotated[
        float, typer.Option(min=1, help="Seconds that a phase waits for the replies that it needs.")
    ] = 3600.0
    gather: Annotated[
        float, typer.Option(min=0, help="Seconds to wait for the whole cohort before the first round.")
    ] = 120.0
    most_lost: Annotated[
        int, typer.Option(min=1, help="Lost rounds, beyond one in eleven, that stop a training.")
    ] = MOST_LOST_ROUNDS
    patience: Annotated[
        float,
        typer.Option(
            min=1, help="Length of a phase with enough replies, in multiples of the median reply time."
        ),
    ] = PATIENCE
    observe: Annotated[
        str | None,
        typer.Option(help="Serve page, health and metrics at [HOST:]PORT; without a token on loopback only."),
    ] = None
    observe_token: ObserveToken = None
    log_format: LogStyle = "text"


@app.command()
@fields_as_options(StartOptions)
def start(given: StartOptions) -> None:
    """Run the server and its filed trainings, one after another."""
    opened, style = ServerHome.open(given.home), check_format(given.log_format)
    check_observing(given.observe, given.observe_token)
    for option, seconds in (("--timeout", given.timeout), ("--gather", given.gather)):
        if not seconds <= MAX_WINDOW:
            raise ConfigError(f"{option} {seconds} must be a number of seconds, {MAX_WINDOW:,} at most")
    if not math.isfinite(given.patience):
        raise ConfigError(f"--patience {given.patience} must be a finite number")
    keep_flower_files(opened.folder)
    # What follows loads for seconds.
    announce_start(opened.folder)
    typer.echo("loading libraries", err=True)
    # Flower reads its environment at import.
    from fedrec.cli.logs import start_logging
    from fedrec.server.service import Service

    start_logging(opened.folder / "logs", name="server", style=style)
    service = Service(
        opened,
        once=given.once,
        timeout=given.timeout,
        gather_seconds=given.gather,
        most_lost=given.most_lost,
        patience=given.patience,
    )
    run_until_stopped(
        service, observe=given.observe, token_file=given.observe_token, routes=service.observer.routes()
    )


@app.command()
def status(
    home: Home = _HOME,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole status as JSON.")] = False,
) -> None:
    """Show who is connected, what is waited for, and all trainings: rounds, accuracy, epsilon, time left."""
    from fedrec.cli.server_status import status_lines
    from fedrec.server.status_document import server_status

    opened = ServerHome.open(home)
    found = server_status(opened, read_live(opened.folder))
    fingerprint = read_file(opened.folder / JOIN_FILE, JoinFile).fingerprint if found.enrolled else None
    if as_json:
        print_json(asdict(found) | {"fingerprint": fingerprint})
        return
    say("\n".join(status_lines(found, fingerprint=fingerprint, folder=opened.trainings)))


@app.command()
def resume(
    number: Annotated[str, typer.Argument(help="The training's number, as in 'status'.")],
    home: Home = _HOME,
) -> None:
    """File a failed training again; it continues from its last round."""
    training = find_training(ServerHome.open(home).trainings, number)
    if training.status()[0] != "failed":
        raise ConfigError(f"training {number} has not failed: there is nothing to resume")
    if training.last_begun() >= training.plan().rounds and not any_opened(training.rounds()):
        raise ConfigError(f"training {number} has no round left, and no model: plan another training")
    training.set_status("filed")
    say(f"training {training.number} continues with round {training.last_begun() + 1}")


@app.command()
def cancel(
    number: Annotated[str, typer.Argument(help="The training's number, as in 'status'.")],
    home: Home = _HOME,
) -> None:
    """End a training permanently after its current round; charges stay in the ledgers."""
    training = find_training(ServerHome.open(home).trainings, number)
    state, rounds = training.status()[0], len(training.rounds())
    if state in ("done", "cancelled"):
        raise ConfigError(f"training {number} is {state}: there is nothing to cancel")
    training.set_status("cancelled", "by the operator")
    if state != "running":
        # Otherwise the server that runs it still uses the files, and deletes them.
        delete_cancelled([training])
    consequence = "it had not begun"
    if state == "running" or rounds:
        when = "at once" if training.plan().upload_window else "after the current round"
        consequence = f"it ends {when} ({counted(rounds, 'round')} recorded)"
    say(f"training {training.number} is cancelled: {consequence}")
