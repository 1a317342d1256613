"""Implement ``fedrec client start``: the merchant's daemon, and its page beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from fedrec.cli.client_home import DEFAULT_HOME, Home
from fedrec.cli.generated_options import fields_as_options
from fedrec.cli.logs import LogFormat, start_logging
from fedrec.cli.option_values import check_format
from fedrec.cli.running_options import (
    LogStyle,
    Observe,
    ObserveToken,
    StepSeconds,
    check_observing,
    keep_flower_files,
    run_until_stopped,
)
from fedrec.clients.activity import ActivityLog
from fedrec.clients.merchant_home import MerchantHome
from fedrec.clients.page.process import page_beside
from fedrec.clients.store_view import read_store
from fedrec.errors import DataError
from fedrec.privacy.accounting.ledger_reader import check_not_in_use
from fedrec.vision.listing.photo_places import why_away


@dataclass(frozen=True, kw_only=True)
class StartOptions:
    """Options of ``fedrec client start``; each is described by its help."""

    home: Home = DEFAULT_HOME
    device: Annotated[str, typer.Option(help="auto, cpu or cuda[:i].")] = "auto"
    threads: Annotated[int, typer.Option(min=0, help="Processor threads; 0 for all.")] = 0
    insecure_seed: Annotated[
        int | None,
        typer.Option(
            help="FOR TESTS: draw noise and keys from a seed, which protects nothing; equal rounds of all "
            "trainings get equal noise."
        ),
    ] = None
    step_seconds: StepSeconds = 3600.0
    observe: Observe = None
    observe_token: ObserveToken = None
    page: Annotated[
        bool,
        typer.Option(
            "--page", help="Serve the merchant's page on this machine alone; its address is printed."
        ),
    ] = False
    page_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the page; 0 for any free one.")
    ] = 8766
    log_format: LogStyle = "text"


@fields_as_options(StartOptions)
def start(given: StartOptions) -> None:
    """Take part in trainings as the policy allows, until stopped (Ctrl-C or SIGTERM)."""
    opened, style = MerchantHome.open(given.home), check_format(given.log_format)
    check_observing(given.observe, given.observe_token)
    keep_flower_files(opened.folder)
    # Before another daemon's activity is overwritten.
    check_not_in_use(opened.ledger)
    _check_photos_there(opened)
    activity = ActivityLog(opened.folder)
    activity.tell("loading")
    typer.echo("loading libraries", err=True)
    # The page shows how the daemon starts.
    with page_beside(opened.folder, port=given.page_port if given.page else None):
        _run(given, opened, activity, style=style)


def _check_photos_there(opened: MerchantHome) -> None:
    """Refuse to start without photos, unless a training is open that needs this merchant's answers.

    A training that is joined without photos costs its whole budget for noise.

    Raises:
        DataError: the photos are away.
    """
    away = why_away(opened.settings().data)
    if away is None:
        return
    if read_store(opened.store).open_plan is None:
        raise DataError(f"{away} Nothing was started: a training would cost budget for noise alone")
    typer.echo(f"WARNING: {away} The open training gets noise alone, and charges for it", err=True)


def _run(given: StartOptions, opened: MerchantHome, activity: ActivityLog, *, style: LogFormat) -> None:
    # Flower reads its environment at import.
    import torch

    from fedrec.clients.daemon import Daemon, DaemonOptions
    from fedrec.vision.devices import pick_device

    start_logging(opened.folder / "logs", name="client", style=style)
    if given.threads:
        torch.set_num_threads(given.threads)
    if given.insecure_seed is not None:
        typer.echo("INSECURE: noise, sampling and keys come from a seed; nothing is protected", err=True)
    options = DaemonOptions(
        device=pick_device(given.device),
        seed=given.insecure_seed,
        step_seconds=given.step_seconds,
        activity=activity,
    )
    daemon = Daemon(opened, options)
    run_until_stopped(
        daemon, observe=given.observe, token_file=given.observe_token, routes=daemon.observer.routes()
    )
