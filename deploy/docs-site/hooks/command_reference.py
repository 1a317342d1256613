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
    for name in command_names():
        files.append(File.generated(config, f"{FOLDER}/{name}.md", content=command_page(name)))
    return files


def command_names() -> list[str]:
    """Return the names of all commands and groups below ``fedrec``."""
    root, context = _root()
    return root.list_commands(context)


def command_page(name: str) -> str:
    """Return the page of a command; a group's page holds all commands of the group.

    Args:
        name: of a command or group below ``fedrec``.

    Returns:
        The page in Markdown.

    Raises:
        LookupError: there is no such command.
    """
    root, context = _root()
    command = root.get_command(context, name)
    if command is None:
        raise LookupError(name)
    return "\n\n".join(_sections(command, context, name))


def _root() -> tuple[click.Group, click.Context]:
    root = typer.main.get_command(app)
    if not isinstance(root, click.Group):
        raise TypeError("fedrec has one command alone")
    return root, root.make_context("fedrec", [], resilient_parsing=True)


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
