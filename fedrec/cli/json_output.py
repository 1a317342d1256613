"""Print a command's result as JSON, for programs that read it."""

from __future__ import annotations

import json

import typer


def print_json(document: object) -> None:
    """Print JSON values as one document on standard output; ``ValueError`` for a number that isn't finite."""
    typer.echo(json.dumps(document, indent=2, allow_nan=False))
