"""``fedrec client``: the merchant's side."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from fedrec.cli.data import check_layout
from fedrec.cli.server import check_format
from fedrec.clients.home import ENROLMENT_FILE, MerchantHome
from fedrec.clients.policy import MerchantPolicy
from fedrec.enrolment import JoinFile, grouped, read_file
from fedrec.errors import ConfigError, FedrecError
from fedrec.privacy.accounting.entries import Entry
from fedrec.privacy.accounting.reading import read_entries
from fedrec.privacy.derive import rounded_size
from fedrec.privacy.identity import verify
from fedrec.protocol import roster_fingerprint
from fedrec.vision.inspection import inspect

app = typer.Typer(help="Take part in a federation as a merchant.", no_args_is_help=True)

Home = Annotated[Path, typer.Option(help="The merchant's folder.")]
_HOME = Path("fedrec-client")
_LEAST_DISK = 2**30


@app.command()
def init(
    name: Annotated[str, typer.Option(help="The merchant's name on the roster.")],
    data: Annotated[Path, typer.Option(help="Folder of class folders with photos.")],
    home: Home = _HOME,
    layout: Annotated[
        str, typer.Option(help="class, or product: class folders that hold a folder per product.")
    ] = "class",
) -> None:
    """Make keys and a policy on this machine, and an enrolment file for the operator."""
    chosen = check_layout(layout)
    found = inspect(data, layout=chosen).splits[0]
    records = rounded_size(found.photos)
    products = rounded_size(found.products) if found.products else 0
    made = MerchantHome.create(home, name=name, data=data, layout=chosen, records=records, products=products)
    shown = f" and {products} products" if products else ""
    typer.echo(
        f"{found.photos} photos; the operator will be told about {records} photos{shown}.\n"
        f"Edit {made.folder / 'policy.toml'}: it says what may be done with them.\n"
        f"Give {made.folder / ENROLMENT_FILE} to the operator; it holds public keys only."
    )


@app.command()
def join(
    file: Annotated[Path, typer.Argument(help="The operator's join file.")],
    home: Home = _HOME,
    confirm: Annotated[
        str | None, typer.Option("--fingerprint", help="The roster's fingerprint, from another source.")
    ] = None,
) -> None:
    """Approve the roster of a join file, and keep it."""
    opened = MerchantHome.open(home)
    found = read_file(file, JoinFile)
    digest = roster_fingerprint(found.roster)
    typer.echo("roster      " + ", ".join(peer.name for peer in found.roster))
    typer.echo(f"fingerprint {grouped(digest)}")
    if confirm is None:
        typer.confirm("Did you get this fingerprint from somebody you trust, by another way?", abort=True)
    elif confirm.replace(" ", "").lower() != digest:
        raise ConfigError("--fingerprint is not that of the join file's roster: don't join, ask the operator")
    opened.approve(found)
    typer.echo(f"joined {found.address}; next: fedrec client check --home {home}")


@app.command()
def check(
    home: Home = _HOME,
    offline: Annotated[bool, typer.Option("--offline", help="Leave the server out.")] = False,
) -> None:
    """Tell everything that would go wrong, before anything is sent."""
    opened = MerchantHome.open(home)
    settings = opened.settings()
    problems = 0

    def report(what: str, look: Callable[[], str]) -> None:
        nonlocal problems
        try:
            typer.echo(f"ok    {what}: {look()}")
        except (FedrecError, OSError) as error:
            problems += 1
            typer.echo(f"WRONG {what}: {error}")

    def data() -> str:
        found = inspect(settings.data, layout=settings.layout)
        train = found.splits[0]
        return (
            f"{train.photos} photos of {sum(count > 0 for count in train.classes.values())} classes, "
            f"{len(found.skipped)} unusable, {found.duplicates_dropped} copies, "
            f"{sum(map(len, found.near_duplicates))} that look like another"
            + (f", {len(found.in_several_products)} in several products" if train.products else "")
        )

    def disk() -> str:
        free = shutil.disk_usage(opened.folder).free
        if free < _LEAST_DISK:
            raise ConfigError(f"{free / 2**20:.0f} MiB are free; a training needs about 1 GiB")
        return f"{free / 2**30:.0f} GiB free"

    def keys() -> str:
        for file in ("identity.key", "node.key"):
            if (opened.folder / file).stat().st_mode & 0o077:
                raise ConfigError(f"{file} can be read by others: chmod 600 it")
        opened.identity()
        opened.node_key()
        return "readable by this user alone"

    def rules() -> str:
        policy = opened.policy()
        return f"lifetime epsilon {policy.lifetime_epsilon:g}, schemes {', '.join(sorted(policy.schemes))}"

    def ledger() -> str:
        if not opened.ledger.exists():
            return "empty"
        outcome, entries = read_entries(opened.ledger, public=opened.identity().public, verify=verify)
        if not outcome.ok:
            raise ConfigError(f"it does not verify: {outcome.reason}")
        return f"{len(entries)} entries, the chain holds"

    def server() -> str:
        from fedrec.flower.fleet import FleetLink

        joined = opened.joined()
        with FleetLink(address=joined.address, ca=opened.authority, key=opened.node_key()):
            return f"{joined.address} answers and knows this merchant"

    report("photos", data)
    report("disk", disk)
    report("keys", keys)
    report("policy", rules)
    report("ledger", ledger)
    if not offline:
        os.environ["FLWR_HOME"] = str((opened.folder / "flower").resolve())
        report("server", server)
    if problems:
        raise ConfigError(f"{problems} thing(s) would go wrong for '{settings.name}'")


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
    from fedrec.endpoint import observing
    from fedrec.vision.devices import pick_device

    start_logging(opened.folder / "logs", name="client", style=check_format(log_format))
    if threads:
        torch.set_num_threads(threads)
    if insecure_seed is not None:
        typer.echo("INSECURE: noise, sampling and keys come from a seed; nothing is protected", err=True)
    daemon = Daemon(opened, DaemonOptions(device=pick_device(device), seed=insecure_seed))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: daemon.stop())
    with observing(observe, token_file=observe_token, routes=daemon.observer.routes()):
        daemon.run()


@app.command()
def budget(home: Home = _HOME) -> None:
    """Show what was spent of the lifetime budget, by training."""
    opened = MerchantHome.open(home)
    if not opened.ledger.exists():
        typer.echo("nothing was spent: this merchant has taken part in no training")
        return
    outcome, entries = read_entries(opened.ledger, public=opened.identity().public, verify=verify)
    if not outcome.ok:
        raise ConfigError(f"the ledger does not verify: {outcome.reason}")
    _show_budget(opened, entries)


def _show_budget(home: MerchantHome, entries: list[Entry]) -> None:
    trainings: dict[str, list[Entry]] = {}
    for entry in entries:
        trainings.setdefault(entry.charge.training_id, []).append(entry)
    for training_id, charged in trainings.items():
        last = charged[-1]
        seeded = sum(entry.charge.seeded for entry in charged)
        warning = f"; {seeded} of them SEEDED, which guarantee nothing" if seeded else ""
        typer.echo(
            f"training {training_id[:16]}: {len(charged)} charges of {last.charge.model}, "
            f"the last at {last.created_at}; lifetime epsilon then {_figure(last.epsilons.rdp_after)}"
            f"{warning}"
        )
    spent = entries[-1].epsilons if entries else None
    policy = MerchantPolicy.load(home.folder / "policy.toml")
    proved = 0.0 if spent is None else spent.rdp_after
    headline = 0.0 if spent is None else spent.pld_after
    typer.echo(
        f"spent    epsilon {_figure(proved)} proved by RDP (about {_figure(headline)} by PLD) of "
        f"{policy.lifetime_epsilon:g} at delta {policy.lifetime_delta:g}"
    )
    if any(entry.charge.seeded for entry in entries):
        typer.echo(
            "SEEDED   noise of some charges came from a seed: against whoever knows it no epsilon holds"
        )


def _figure(epsilon: float | None) -> str:
    return "without a bound" if epsilon is None else f"{epsilon:.3f}"
