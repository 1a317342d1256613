"""Add one page for each command of ``fedrec``, made of what its ``--help`` prints."""

from __future__ import annotations

from collections.abc import Iterator

import click
import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from fedrec.cli.app import app

FOLDER = "reference/commands"
WIDTH = 78


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each command.

    Args:
        files: the site's files.
        config: of the site.

    Returns:
        The files with the pages.

    """
    for name, text in command_pages().items():
        files.append(File.generated(config, f"{FOLDER}/{name}.md", content=text))
    return files


def command_pages() -> dict[str, str]:
    """Return the page of each command, by its name; a group's page holds all commands of the group."""
    root = typer.main.get_command(app)
    if not isinstance(root, click.Group):
        raise TypeError("fedrec has one command alone")
    with root.make_context("fedrec", [], resilient_parsing=True) as context:
        found = {name: root.get_command(context, name) for name in root.list_commands(context)}
        return {
            name: "\n\n".join(_sections(command, context, name))
            for name, command in found.items()
            if command is not None and not command.hidden
        }


def _sections(command: click.Command, parent: click.Context, name: str, level: int = 1) -> Iterator[str]:
    """Yield heading and help of a command, and of the commands below it."""
    context = click.Context(command, parent=parent, info_name=name, max_content_width=WIDTH)
    context.terminal_width = WIDTH
    yield f"{'#' * level} fedrec {context.command_path.partition(' ')[2]}"
    yield f"```text\n{command.get_help(context)}\n```"
    if isinstance(command, click.Group):
        for below in command.list_commands(context):
            found = command.get_command(context, below)
            if found is not None and not found.hidden:
                yield from _sections(found, context, below, level + 1)
