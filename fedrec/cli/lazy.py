"""Commands that are imported when they are asked for: training code takes seconds to import."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import Any, ClassVar

import click
import typer
from typer.core import TyperGroup

PLAIN: Mapping[str, Any] = {
    "add_completion": False,
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,
}
"""How every Typer application of ours shows itself: plain lines, no boxes."""


class LazyGroup(TyperGroup):
    """A group whose ``lazily`` names further commands, each by ``module:attribute`` and its line of help.

    The attribute is a Typer application, or the function of one command.
    """

    lazily: ClassVar[Mapping[str, tuple[str, str]]] = {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return [*super().list_commands(ctx), *self.lazily]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, imported now."""
        if cmd_name not in self.lazily:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = self.lazily[cmd_name][0].partition(":")
        found = getattr(import_module(module), attribute)
        if isinstance(found, typer.Typer):
            return typer.main.get_group(found)
        alone = typer.Typer(**PLAIN)
        alone.command(cmd_name)(found)
        return typer.main.get_command(alone)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the arguments begin with; an error names those that are spelt alike."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            alike = " or ".join(map(repr, get_close_matches(args[0], self.list_commands(ctx))))
            hint = f": did you mean {alike}?" if alike else ""
            raise click.UsageError(f"there is no command '{args[0]}'{hint}", ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        rows = []
        for name in self.list_commands(ctx):
            if name in self.lazily:
                rows.append((name, self.lazily[name][1]))
            elif (command := super().get_command(ctx, name)) is not None:
                # All of its first paragraph: Click's own short help is cut off with dots.
                told = command.short_help or (command.help or "").partition("\n\n")[0]
                rows.append((name, " ".join(told.split())))
        with formatter.section("Commands"):
            formatter.write_dl(rows)
