"""Import commands only when they are used, since training code takes seconds to import."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import import_module
from typing import Any, ClassVar, Final

import click
import typer
from typer.core import TyperArgument, TyperGroup
from typer.models import ArgumentInfo
from typer.utils import get_params_from_function

from fedrec._internal.suggestions import did_you_mean
from fedrec.cli.grouped_help import GroupedCommand

PLAIN: Mapping[str, Any] = {
    "add_completion": False,
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,
}
"""Settings of all Typer applications: plain lines without boxes."""

_SECTION: Final = re.compile(r"^(?:Args|Returns|Yields|Raises|Attributes):\s*$", re.MULTILINE)


def without_sections(help_text: str | None) -> str | None:
    """Return a docstring up to its sections for programmers: what a person reads as help.

    Args:
        help_text: the docstring, or None.

    Returns:
        The text before its first section.
    """
    return None if help_text is None else _SECTION.split(help_text, maxsplit=1)[0].rstrip()


def _restore_arguments_help(command: click.Command) -> None:
    """Give a command's arguments the help that they were declared with: newer Clicks take Typer's away."""
    arguments = [found for found in command.params if isinstance(found, TyperArgument) and found.help is None]
    if not arguments or command.callback is None:
        return
    declared = get_params_from_function(command.callback)
    for argument in arguments:
        info = declared[argument.name].default if argument.name in declared else None
        if isinstance(info, ArgumentInfo):
            argument.help = info.help
    # Clicks that keep the help of arguments list them, too; Typer and GroupedCommand have done so already.
    vars(command)["format_arguments"] = _write_nothing


def _write_nothing(ctx: click.Context, formatter: click.HelpFormatter) -> None:
    """Write no further section to the help."""


class LazyGroup(TyperGroup):
    """A group with further commands that are imported on use.

    Attributes:
        lazily: for each such command its ``module:attribute`` and one line of help. The attribute is a Typer
            application or the function of one command.
    """

    lazily: ClassVar[Mapping[str, tuple[str, str]]] = {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, the lazy ones last."""
        return [*super().list_commands(ctx), *self.lazily]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command and import it if it is lazy.

        Args:
            ctx: Click's context.
            cmd_name: name of the command.

        Returns:
            The command; None if there is none of this name.
        """
        command = self._imported(ctx, cmd_name)
        if command is not None:
            command.help = without_sections(command.help)
            _restore_arguments_help(command)
        return command

    def _imported(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.lazily:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = self.lazily[cmd_name][0].partition(":")
        found = getattr(import_module(module), attribute)
        if isinstance(found, typer.Typer):
            return typer.main.get_group(found)
        alone = typer.Typer(**PLAIN)
        alone.command(cmd_name, cls=GroupedCommand)(found)
        return typer.main.get_command(alone)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the arguments start with.

        Args:
            ctx: Click's context.
            args: the arguments.

        Returns:
            Name of the command, the command, and the other arguments.

        Raises:
            click.UsageError: there is no such command; the message suggests similar names.
        """
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            hint = did_you_mean(args[0], self.list_commands(ctx))
            raise click.UsageError(f"there is no command '{args[0]}'{hint}", ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands to the help without importing them.

        Args:
            ctx: Click's context.
            formatter: the help to write to.
        """
        rows = []
        for name in self.list_commands(ctx):
            if name in self.lazily:
                rows.append((name, self.lazily[name][1]))
            elif (command := super().get_command(ctx, name)) is not None:
                # The whole first paragraph: Click's own short help is truncated.
                summary = command.short_help or (command.help or "").partition("\n\n")[0]
                rows.append((name, " ".join(summary.split())))
        with formatter.section("Commands"):
            formatter.write_dl(rows)
