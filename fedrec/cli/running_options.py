"""Options that the commands of server, merchant and witness share, and how their programs are run."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

if TYPE_CHECKING:
    from fedrec.observability.endpoint import Route

Fingerprint = Annotated[
    str | None, typer.Option("--fingerprint", help="The join file's fingerprint, from another source.")
]
NewServer = Annotated[
    bool, typer.Option("--new-server", help="Confirm that the server's authority or key has changed.")
]
StepSeconds = Annotated[
    float,
    typer.Option(min=1.0, help="Seconds that one message may take; the process ends itself after that."),
]
Observe = Annotated[
    str | None,
    typer.Option(help="Serve health and metrics at [HOST:]PORT; without a token on loopback only."),
]
ObserveToken = Annotated[
    Path | None,
    typer.Option(help="File with the token that requests must carry; readable by this user alone."),
]
LogStyle = Annotated[str, typer.Option(help="text or json.")]


def keep_flower_files(folder: Path) -> None:
    """Have Flower keep its files in a party's folder; it reads its environment when it is imported."""
    os.environ["FLWR_HOME"] = str((folder / "flower").resolve())


def check_observing(observe: str | None, token_file: Path | None) -> None:
    """Check where health and metrics are to be served, before a program loads what takes seconds.

    Args:
        observe: ``PORT`` or ``HOST:PORT``; None to serve nothing.
        token_file: file with the token that requests must carry; None for none.

    Raises:
        ConfigError: the address or the token can't be used, or there is a token and no address.
    """
    if observe is None and token_file is None:
        return
    from fedrec.observability.endpoint import observed

    observed(observe, token_file=token_file)


class Runnable(Protocol):
    """A program that runs until it is stopped."""

    def run(self) -> None:
        """Run until :meth:`stop`."""
        ...

    def stop(self) -> None:
        """End :meth:`run`; called from a signal's handler."""
        ...


def run_until_stopped(
    program: Runnable, *, observe: str | None, token_file: Path | None, routes: Mapping[str, Route]
) -> None:
    """Run a program until SIGTERM or SIGINT, and serve its routes meanwhile.

    Args:
        program: the program.
        observe: ``PORT`` or ``HOST:PORT`` of health and metrics; None to serve nothing.
        token_file: file with the token that requests must carry; None for none.
        routes: what is served.

    Raises:
        ConfigError: the address or the token can't be used, or there is a token and no address.
        ServiceError: the port is in use.
    """
    # Imported here: the help needs no server.
    from fedrec.observability.endpoint import observing

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: program.stop())
    with observing(observe, token_file=token_file, routes=routes):
        program.run()
