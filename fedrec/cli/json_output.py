"""Print a command's result: as JSON for programs that read it, or in lines for people."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, TypeVar

import typer

from fedrec.cli.wrapping import say

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Told = TypeVar("Told", bound=DataclassInstance)


def print_json(document: object) -> None:
    """Print JSON values as one document on standard output; ``ValueError`` for a number that isn't finite."""
    typer.echo(json.dumps(document, indent=2, allow_nan=False))


def tell(found: Told, lines: Callable[[Told], Iterable[str]], *, as_json: bool) -> None:
    """Print what a command found out.

    Args:
        found: the dataclass that holds it.
        lines: turns it into lines for people.
        as_json: print its values as JSON instead.
    """
    if as_json:
        print_json(asdict(found))
    else:
        say("\n".join(lines(found)))
