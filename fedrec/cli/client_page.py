"""Implement ``fedrec client page``: a merchant's own page, on its own machine."""

from __future__ import annotations

import functools
import logging
import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from fedrec.cli.client_home import DEFAULT_HOME, Home
from fedrec.cli.running_options import keep_flower_files
from fedrec.clients.merchant_home import MerchantHome
from fedrec.clients.page.running import TOKEN_FILE, serve_page

PAGE_PORT: Final = 8766


def page(
    home: Home = DEFAULT_HOME,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port on this machine; 0 for any free one.")
    ] = PAGE_PORT,
    until_input_ends: Annotated[
        bool, typer.Option("--until-input-ends", hidden=True, help="End with the standard input.")
    ] = False,
) -> None:
    """Serve the merchant's page on this machine alone, whether the daemon runs or not."""
    opened = MerchantHome.open(home)
    # That a request was cut off when the page ended is no news.
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
    keep_flower_files(opened.folder)
    announce = functools.partial(print_address, token_file=opened.folder / TOKEN_FILE)
    serve_page(opened, port=port, announce=announce, until=sys.stdin.buffer if until_input_ends else None)


def print_address(address: str, *, token_file: Path) -> None:
    """Print the page's address, with its token on a terminal alone.

    Args:
        address: the address, with the token behind "#".
        token_file: the file that holds the token.
    """
    # What isn't printed on a terminal is kept somewhere, where a token has no place.
    if not sys.stdout.isatty():
        address = f"{address.partition('#')[0]} (its token is in {token_file})"
    typer.echo(f"page {address}")
    sys.stdout.flush()
