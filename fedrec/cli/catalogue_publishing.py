"""Implement ``fedrec catalogue publish`` and ``merge``: from a merchant's catalogue to a platform's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import TypeAdapter, ValidationError

from fedrec._internal.text import counted, listed, one_line
from fedrec._internal.validation_messages import first_problem
from fedrec.cli.catalogue_changes import open_catalogues_model
from fedrec.cli.console import progress_bar
from fedrec.errors import ConfigError
from fedrec.recognition.catalogue.catalogue import Catalogue
from fedrec.recognition.catalogue.filters import parse_filter
from fedrec.recognition.catalogue.making import open_or_make
from fedrec.recognition.catalogue.places import is_catalogue
from fedrec.recognition.catalogue.products import Name

if TYPE_CHECKING:
    from fedrec.recognition.catalogue.signing import Signer


def publish(
    catalogue: Annotated[Path, typer.Argument(metavar="CATALOGUE", help="The catalogue's folder.")],
    out: Annotated[Path, typer.Option(help="The file to write.")],
    vectors: Annotated[
        bool, typer.Option("--vectors/--without-vectors", help="Whether photos find the products.")
    ] = True,
    filters: Annotated[
        list[str] | None, typer.Option("--filter", help="Publish only products that fulfil this condition.")
    ] = None,
    home: Annotated[
        Path | None, typer.Option(help="Sign with the identity of this merchant ('fedrec client init').")
    ] = None,
) -> None:
    """Write the catalogue's own products to one signed file for a platform, and say what it reveals."""
    from fedrec.recognition.catalogue import publishing

    signer = _signer(catalogue, home)
    with Catalogue(catalogue, write=True) as opened:
        wanted = [parse_filter(text) for text in filters or []]
        done = publishing.publish(opened, out, signer=signer, vectors=vectors, filters=wanted)
    typer.echo(f"{out}: {counted(done.products, 'product')}, signed by {signer.public.hex()}")
    named = f"; attributes {listed(done.attributes)}" if done.attributes else ""
    typer.echo(
        f"It reveals to whoever reads it: names, titles and categories of all; {done.priced:,} prices; "
        f"{done.linked:,} links{one_line(named)}."
    )
    if vectors:
        typer.echo(
            f"It holds the vectors of {counted(done.photos, 'photo')}, which tell nearly as much as the "
            "photos do: what they show can be recognised. No epsilon covers this."
        )
    else:
        typer.echo("It holds no vectors: the products are listed, and photos don't find them.")


def merge(
    catalogue: Annotated[
        Path, typer.Argument(metavar="CATALOGUE", help="The platform's catalogue, which may be new.")
    ],
    files: Annotated[list[Path], typer.Argument(help="Files of 'fedrec catalogue publish'.")],
    key: Annotated[
        list[str] | None,
        typer.Option(help="NAME=KEY: a merchant's name in results, and its key; needed for its first file."),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="Folder of the model of a new catalogue. Default: the packaged backbone."),
    ] = None,
) -> None:
    """Take merchants' published files into a catalogue, each in place of the merchant's last."""
    from fedrec.recognition.catalogue import publishing
    from fedrec.recognition.catalogue.opening import open_searcher

    keys = dict(_key(text) for text in key or [])
    with _opened(catalogue, model) as opened, progress_bar(quiet=False) as tell:
        for file in files:
            typer.echo(publishing.merge(opened, file, keys=keys, tell=tell))
        open_searcher(opened, tell=tell)
        typer.echo(f"embedding: {opened.model.description}")


@contextmanager
def _opened(folder: Path, model: Path | None) -> Iterator[Catalogue]:
    if is_catalogue(folder) and model is None:
        with Catalogue(folder, write=True) as opened:
            yield opened
        return
    used = open_catalogues_model(folder, model).used
    with open_or_make(folder, used) as opened:
        opened.check_model(used, labels=True)
        yield opened


def _signer(catalogue: Path, home: Path | None) -> Signer:
    if home is not None:
        from fedrec.clients.merchant_home import MerchantHome

        return MerchantHome.open(home).identity()
    from fedrec.recognition.catalogue.signing import CatalogueKey

    with Catalogue(catalogue):
        return CatalogueKey(catalogue / "catalogue.key")


def _key(text: str) -> tuple[str, bytes]:
    name, _, digits = text.rpartition("=")
    if not re.fullmatch("[0-9a-f]{64}", digits):
        raise ConfigError(f"--key {one_line(text, most=100)!r} isn't NAME=KEY with 64 hexadecimal digits")
    try:
        return TypeAdapter(Name).validate_python(name), bytes.fromhex(digits)
    except ValidationError as error:
        raise ConfigError(f"--key: the merchant's name {first_problem(error).text}") from None
