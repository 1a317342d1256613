"""List a command's options below headings, in plain lines."""

from __future__ import annotations

import click
from typer.core import TyperCommand

_PLAIN = "Options"


class GroupedCommand(TyperCommand):
    """A command whose help lists options below the headings that they name, in the order of their first use.

    An option names its heading as Typer's ``rich_help_panel``; those without one stand first.
    """

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write arguments and options to the help.

        Args:
            ctx: Click's context.
            formatter: the help to write to.
        """
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], _PLAIN: []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            heading = getattr(parameter, "rich_help_panel", None) or _PLAIN
            section = "Arguments" if parameter.param_type_name == "argument" else heading
            sections.setdefault(section, []).append(record)
        for heading, rows in sections.items():
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)
