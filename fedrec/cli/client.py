"""``fedrec client``: the merchant's side."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from fedrec._internal.text import counted
from fedrec.cli.lazy import PLAIN, LazyGroup
from fedrec.cli.options import check_format, check_layout, check_unit
from fedrec.cli.standing import budget_lines, status_lines
from fedrec.clients.merchant_home import ENROLMENT_FILE, MerchantHome
from fedrec.clients.noised_count import count_randomness
from fedrec.clients.policy import MerchantPolicy
from fedrec.clients.status import read_budget, read_status
from fedrec.clients.store import MerchantStore
from fedrec.errors import ConfigError
from fedrec.privacy.accounting.entry_contents import Count
from fedrec.protocol.enrolment import JoinFile, grouped, read_file
from fedrec.protocol.plan import Unit, roster_fingerprint
from fedrec.vision.folders import Layout

app = typer.Typer(
    help="Take part in a federation as a merchant.", cls=LazyGroup, no_args_is_help=True, **PLAIN
)

Home = Annotated[Path, typer.Option(help="The merchant's folder.")]
_HOME = Path("fedrec-client")
Json = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]


@app.command()
def init(
    name: Annotated[str, typer.Option(help="The merchant's name on the roster.")],
    data: Annotated[Path, typer.Option(help="Folder of class folders with photos.")],
    home: Home = _HOME,
    layout: Annotated[
        str, typer.Option(help="class, or product: class folders that hold a folder per product.")
    ] = "class",
    unit: Annotated[
        str | None,
        typer.Option(
            help="What the ledger hides for good: record, a photo, or product, all photos of one; the "
            "layout's if not given."
        ),
    ] = None,
    insecure_seed: Annotated[
        int | None,
        typer.Option(
            help="FOR TESTS: the count's noise from a seed hides nothing from whoever knows it; the ledger "
            "says so for good."
        ),
    ] = None,
) -> None:
    """Make keys, a policy and the ledger on this machine, and an enrolment file for the operator."""
    chosen = check_layout(layout)
    hidden = check_unit(unit, layout=chosen)
    units = _counted(data, layout=chosen, unit=hidden)
    rng = None
    if insecure_seed is not None:
        typer.echo("INSECURE: the noise of the count comes from a seed; it hides nothing", err=True)
        rng = count_randomness(insecure_seed, name)
    made = MerchantHome.create(home, name=name, data=data, layout=chosen, unit=hidden, units=units, rng=rng)
    typer.echo(
        f"{_told(units, made.declared_count())}\n"
        f"Edit {made.folder / 'policy.toml'}: it says what may be done."
    )
    typer.echo(
        f"Give {made.folder / ENROLMENT_FILE} to the operator; it holds your name, two public keys, that "
        "noised count and its unit, signed, and nothing else."
    )


def _counted(data: Path, *, layout: Layout, unit: Unit) -> int:
    """Count the distinct units below a folder, exactly."""
    from fedrec.vision.inspection import inspect

    found = inspect(data, layout=layout, one_merchant=True).splits[0]
    return found.products if unit == "product" else found.photos


def _told(units: int, count: Count) -> str:
    """Say what was counted, what was charged for, and what the operator will read."""
    what = "products" if count.unit == "product" else "photos"
    return (
        f"{units} {what}, copies left out; the operator will be told about {count.size}: a count with noise "
        f"of standard deviation {count.sigma:g}, drawn once and charged to the ledger."
    )


@app.command()
def recount(home: Home = _HOME) -> None:
    """Declare a new noised count of photos or products, charged to the ledger again; stop the daemon first.

    Without this command the first count holds, whatever happens to the photos: a new one at each change would
    tell that there was a change.
    """
    opened = MerchantHome.open(home)
    settings, before = opened.settings(), opened.declared_count()
    unit = check_unit(before.unit, layout=settings.layout)
    units = _counted(settings.data, layout=settings.layout, unit=unit)
    typer.echo(_told(units, opened.recount(units)))
    typer.echo(f"Send {opened.folder / ENROLMENT_FILE} to the operator, who enrols it as the first one.")


@app.command()
def rotate(home: Home = _HOME) -> None:
    """Make a new node key and a new enrolment file; the old key serves until the operator has enrolled it."""
    opened = MerchantHome.open(home)
    waiting = opened.next_node_key() is not None
    opened.rotate()
    if waiting:
        typer.echo(
            "The file made before is void: the operator must enrol this one, also if it enrolled that."
        )
    typer.echo(f"Send {opened.folder / ENROLMENT_FILE} to the operator, who enrols it as the first one.")
    typer.echo("The daemon goes over to the new key by itself, once the server has admitted it.")


@app.command()
def join(
    file: Annotated[Path, typer.Argument(help="The operator's join file.")],
    home: Home = _HOME,
    confirm: Annotated[
        str | None, typer.Option("--fingerprint", help="The join file's fingerprint, from another source.")
    ] = None,
    new_server: Annotated[
        bool, typer.Option("--new-server", help="Confirm that the server's authority or key is another now.")
    ] = False,
) -> None:
    """Approve a join file (the server, its keys and the roster), and keep it."""
    opened = MerchantHome.open(home)
    found = read_file(file, JoinFile)
    typer.echo(
        f"server      {found.address}\n"
        f"roster      {', '.join(peer.name for peer in found.roster)}\n"
        f"fingerprint {grouped(found.fingerprint)}\n"
        f"roster_fingerprint for policy.toml, of the roster alone: {roster_fingerprint(found.roster)}"
    )
    if confirm is None:
        _confirm("Did you get this fingerprint from somebody you trust, by another way?")
    elif confirm.replace(" ", "").lower() != found.fingerprint:
        raise ConfigError("--fingerprint is not that of the join file: don't join, ask the operator")
    changed = opened.changed_server_identity(found)
    if changed:
        typer.echo(
            f"WARNING: {' and '.join(changed)}: not as this merchant joined before. Unless the operator has "
            "told you so, by another way, somebody may be taking its place.",
            err=True,
        )
        if not new_server:
            _confirm("Did the operator tell you about that change?")
    opened.approve(found)
    typer.echo(f"joined {found.address}; next: fedrec client check --home {home}")


def _confirm(question: str) -> None:
    """Ask a person; ``ConfigError`` unless the answer is yes."""
    try:
        confirmed = typer.confirm(question)
    except typer.Abort as abort:
        if isinstance(abort.__context__, KeyboardInterrupt):
            raise
        # Nobody is there to answer.
        confirmed = False
    if not confirmed:
        raise ConfigError(
            "not confirmed, so nothing was joined: get the fingerprint from the operator by another way, and "
            "run the command again (or give it by --fingerprint)"
        )


@app.command()
def check(
    home: Home = _HOME,
    offline: Annotated[bool, typer.Option("--offline", help="Leave the server out.")] = False,
) -> None:
    """Tell everything that would go wrong, before anything is sent. Start the server first."""
    opened = MerchantHome.open(home)
    os.environ["FLWR_HOME"] = str((opened.folder / "flower").resolve())
    # Flower reads its environment at import.
    from fedrec.clients.preflight_checks import run_checks

    problems = 0
    for finding in run_checks(opened, offline=offline):
        problems += finding.ok is False
        mark = {True: "ok", False: "WRONG", None: "-"}[finding.ok]
        typer.echo(f"{mark:5} {finding.what}: {finding.text}")
    if problems:
        raise ConfigError(f"{counted(problems, 'thing')} would go wrong for '{opened.settings().name}'")


@app.command()
def start(
    home: Home = _HOME,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda[:i].")] = "auto",
    threads: Annotated[int, typer.Option(help="Processor threads; 0 takes them all.")] = 0,
    insecure_seed: Annotated[
        int | None,
        typer.Option(
            help="FOR TESTS: noise and keys from a seed protect nothing; the same rounds of every training "
            "have the same noise."
        ),
    ] = None,
    step_seconds: Annotated[
        float, typer.Option(min=1.0, help="Seconds that one message may take before the process ends itself.")
    ] = 3600.0,
    observe: Annotated[
        str | None, typer.Option(help="Health and metrics: [HOST:]PORT; loopback unless with a token.")
    ] = None,
    observe_token: Annotated[
        Path | None, typer.Option(help="File with the token to ask for; readable by this user alone.")
    ] = None,
    log_format: Annotated[str, typer.Option(help="text or json.")] = "text",
) -> None:
    """Take part until stopped (SIGTERM): answer the server as the policy allows."""
    opened = MerchantHome.open(home)
    os.environ["FLWR_HOME"] = str((opened.folder / "flower").resolve())
    # Flower reads its environment at import.
    import torch

    from fedrec.cli.logs import start_logging
    from fedrec.clients.daemon import Daemon, DaemonOptions
    from fedrec.observability.endpoint import observing
    from fedrec.vision.devices import pick_device

    start_logging(opened.folder / "logs", name="client", style=check_format(log_format))
    if threads:
        torch.set_num_threads(threads)
    if insecure_seed is not None:
        typer.echo("INSECURE: noise, sampling and keys come from a seed; nothing is protected", err=True)
    options = DaemonOptions(device=pick_device(device), seed=insecure_seed, step_seconds=step_seconds)
    daemon = Daemon(opened, options)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: daemon.stop())
    with observing(observe, token_file=observe_token, routes=daemon.observer.routes()):
        daemon.run()


@app.command()
def pause(home: Home = _HOME) -> None:
    """Take part in no new round until 'resume'. An upload that was charged already may still go out."""
    MerchantHome.open(home).pause()
    typer.echo(
        "paused: no plan and no new round is taken from now on, also after a restart.\n"
        "What can't be undone: a round charged before may still be sent and opened, and keeps its charge."
    )


@app.command()
def resume(home: Home = _HOME) -> None:
    """Take part again after 'pause'."""
    MerchantHome.open(home).resume()
    typer.echo("resumed: plans and rounds are answered again, as the policy allows")


@app.command()
def forget(
    training: Annotated[str | None, typer.Argument(help="A training's id, or how it begins.")] = None,
    home: Home = _HOME,
    everything: Annotated[bool, typer.Option("--all", help="Every training that is open.")] = False,
    photo: Annotated[
        list[Path] | None, typer.Option("--photo", help="A photo that is used no more; may be given again.")
    ] = None,
) -> None:
    """Finish a training here, whatever the server says, or leave a photo out of every step to come."""
    opened = MerchantHome.open(home)
    if (training is not None) + everything + bool(photo) != 1:
        raise ConfigError("name a training, or give --all or --photo")
    if photo:
        _forget_photos(opened, photo)
    else:
        _forget_trainings(opened, training)


def _forget_photos(opened: MerchantHome, paths: list[Path]) -> None:
    from fedrec.clients.forgetting import forget_photos

    for name, copies in forget_photos(opened, paths):
        also = f", nor is any of its {counted(copies, 'copy', plural='copies')}" if copies else ""
        typer.echo(f"{name} is used in no step from the next round on{also}; the file stays where it is")
    typer.echo(
        "What can't be undone: a round charged before may still be sent, what earlier rounds learnt stays in "
        "the model, and the ledger keeps every charge."
    )


def _forget_trainings(opened: MerchantHome, training: str | None) -> None:
    """Finish one training, by its id or how that begins, or all if None."""
    if not opened.store.exists():
        raise ConfigError(f"--home {opened.folder}: this merchant has joined no training")
    store = MerchantStore(opened.store)
    try:
        still_open = store.open_trainings()
        found = [name for name in still_open if training is None or name.startswith(training)]
        if training is not None and len(found) != 1:
            shown = ", ".join(name[:16] for name in still_open) or "none"
            raise ConfigError(f"'{training}' is not the beginning of one open training; open are: {shown}")
        if not found:
            typer.echo("no training is open here: there is nothing to forget")
        for name in found:
            store.finish(name)
            typer.echo(f"training {name[:16]} is finished: its keys are deleted, it answers nothing more")
    finally:
        store.close()


@app.command()
def status(home: Home = _HOME, as_json: Json = False) -> None:
    """Show the connection, the open training, the budget, and what was refused last and would have cost."""
    standing = read_status(MerchantHome.open(home))
    typer.echo(json.dumps(asdict(standing), indent=2) if as_json else "\n".join(status_lines(standing)))


@app.command()
def budget(home: Home = _HOME, as_json: Json = False) -> None:
    """Show what was spent of the lifetime budget, by training."""
    opened = MerchantHome.open(home)
    found, _ = read_budget(opened, MerchantPolicy.load(opened.folder / "policy.toml"))
    typer.echo(json.dumps(asdict(found), indent=2) if as_json else "\n".join(budget_lines(found)))
