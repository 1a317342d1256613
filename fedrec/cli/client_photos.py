"""Implement ``fedrec client photos``: which photos are used, and why others aren't."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Final

import typer

from fedrec._internal.text import one_line
from fedrec.cli.client_home import DEFAULT_HOME, Home
from fedrec.clients.merchant_home import MerchantHome
from fedrec.clients.page.photo_view import ListedPhoto, view_of
from fedrec.errors import DataError

_WORDS: Final = {
    "used": "used in the open training",
    "ready": "ready for the next training",
    "waiting": "added since: waits for the next training",
    "refused": "added since: left out by the rule 'changed_data'",
    "other_class": "its class isn't in the open training",
    "beyond_share": "left out: the plan is for smaller merchants",
    "forgotten": "forgotten",
    "product_forgotten": "waits: another photo of its product is forgotten",
    "copy": "a copy of another photo",
    "unusable": "can't be used",
}


def photos(
    home: Home = DEFAULT_HOME,
    every: Annotated[bool, typer.Option("--all", help="Name the photos that are used, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a photo, one a line.")] = False,
) -> None:
    """Read the folder, count its photos by what becomes of them, and name those that are left out."""
    view = view_of(MerchantHome.open(home))
    view.refresh(wait=True)
    if view.problem:
        raise DataError(view.problem)
    found = view.listed()
    shown = [photo for photo in found if every or photo.state not in ("used", "ready")]
    for line in _json_lines(shown) if as_json else _lines(found, shown):
        typer.echo(line)


def _lines(found: Sequence[ListedPhoto], shown: Sequence[ListedPhoto]) -> Iterator[str]:
    for state, words in _WORDS.items():
        count = sum(photo.state == state for photo in found)
        if count:
            yield f"{count:7,}  {words}"
    for photo in shown:
        reason = f" ({photo.reason})" if photo.reason else ""
        yield f"{one_line(photo.name)}: {_WORDS[photo.state]}{reason}"


def _json_lines(shown: Sequence[ListedPhoto]) -> Iterator[str]:
    for photo in shown:
        yield json.dumps(photo._asdict())
