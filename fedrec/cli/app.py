"""Assemble the command line from one module per command or group, and run it."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Mapping
from importlib import metadata
from typing import Annotated, ClassVar, Final

import click
import typer

from fedrec._internal.suggestions import did_you_mean
from fedrec._internal.systems import require_system_for
from fedrec.cli.console import run_reporting_errors, sigterm_interrupts
from fedrec.cli.lazy_group import PLAIN, LazyGroup
from fedrec.cli.streams import accept_any_text, replace_closed_streams
from fedrec.errors import ConfigError


class _Commands(LazyGroup):
    lazily: ClassVar[Mapping[str, tuple[str, str]]] = {
        "simulate": (
            "fedrec.cli.simulate:simulate",
            "Run a whole federated training on this machine.",
        ),
        "compare": ("fedrec.cli.compare:compare", "Compare finished runs in one table and one page."),
        "server": ("fedrec.cli.server:app", "Run the server of a federation."),
        "client": ("fedrec.cli.client:app", "Take part in a federation as a merchant."),
        "witness": ("fedrec.cli.witness:app", "Help to open sums as a witness, without photos."),
        "data": (
            "fedrec.cli.data:app",
            "Inspect a folder of photos, generate synthetic ones, or download a public data set.",
        ),
        "model": (
            "fedrec.cli.model:app",
            "Make bundles of trained models, and work with them.",
        ),
        "predict": (
            "fedrec.cli.predict:predict",
            "Name the most probable classes of photos, and show why.",
        ),
        "serve": (
            "fedrec.cli.serve:serve",
            "Serve a page and an API for a model and a catalogue.",
        ),
        "catalogue": (
            "fedrec.cli.catalogue:app",
            "Keep a catalogue of products, search it by photos, and check its photos.",
        ),
        "backbone": (
            "fedrec.cli.backbone:app",
            "Add networks from files, on which models are trained.",
        ),
        "audit": (
            "fedrec.cli.audit:app",
            "Make audit bundles that outsiders can verify, verify them, and attack our own protection.",
        ),
    }


_PROGRAM: Final = "fedrec"
_COMPLETING: Final = "_FEDREC_COMPLETE"

app = typer.Typer(
    name=_PROGRAM,
    cls=_Commands,
    help="Federated product recognition with record-level privacy under encrypted aggregation.",
    no_args_is_help=True,
    **{**PLAIN, "add_completion": True},
)


# The error's message is the help text; Click before 8.2 has no such error and prints the help itself.
_NO_ARGUMENTS = getattr(click.exceptions, "NoArgsIsHelpError", ())


def _version(show: bool) -> None:
    if show:
        typer.echo(f"fedrec {metadata.version('fedrec')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and stop.")
    ] = False,
) -> None:
    """Federated product recognition with record-level privacy under encrypted aggregation."""


def main() -> None:
    """Run the command line and exit with its exit code."""
    replace_closed_streams()
    accept_any_text()
    with sigterm_interrupts():
        code = run_reporting_errors(_run)
    # The interpreter's end would search torch's objects for cycles, for a second, before memory is freed.
    gc.freeze()
    sys.exit(code)


def _reason(error: click.ClickException) -> str:
    if isinstance(error, click.NoSuchOption) and error.ctx is not None:
        known = [name for option in error.ctx.command.params for name in option.opts if name.startswith("--")]
        return f"there is no option '{error.option_name}'{did_you_mean(error.option_name, known)}"
    return error.format_message().rstrip(".")


def _run() -> int:
    require_system_for(next((word for word in sys.argv[1:] if not word.startswith("-")), ""))
    command = typer.main.get_command(app)
    if _COMPLETING in os.environ:
        # A shell asks for what may come next: Typer answers and ends the program.
        command.main(prog_name=_PROGRAM)
    try:
        # The command isn't called directly: Click would give a broken pipe and Ctrl-C its own exit codes.
        with command.make_context(_PROGRAM, sys.argv[1:]) as invoked:
            command.invoke(invoked)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.exceptions.Abort:
        raise KeyboardInterrupt from None
    except click.ClickException as error:
        if isinstance(error, _NO_ARGUMENTS):
            sys.stderr.write(f"{error.format_message()}\n")
            return ConfigError.exit_code
        context = error.ctx if isinstance(error, click.UsageError) else None
        path = _PROGRAM if context is None else context.command_path
        raise ConfigError(f"{_reason(error)} (see '{path} --help')") from None
    return 0
