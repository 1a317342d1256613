"""Implement ``fedrec client model``: the model of a training, for a merchant that took part in it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedrec._internal import number_format
from fedrec.cli.client_home import DEFAULT_HOME, Home
from fedrec.clients.merchant_home import MerchantHome
from fedrec.clients.model_fetching import MOST_BYTES, fetch_model


def model(
    home: Home = DEFAULT_HOME,
    out: Annotated[Path, typer.Option(help="New folder of the bundle.")] = Path("model"),
    training: Annotated[
        str | None, typer.Option(help="A training's id, or its beginning; by default the last one.")
    ] = None,
    most_mb: Annotated[int, typer.Option(min=1, help="Largest bundle to fetch, in megabytes.")] = (
        MOST_BYTES >> 20
    ),
) -> None:
    """Fetch the model bundle of a finished training from the server, checked by hash and signature."""
    manifest = fetch_model(
        MerchantHome.open(home),
        out,
        training=training,
        most_bytes=most_mb << 20,
        step=lambda text: typer.echo(text, err=True),
    )
    typer.echo(f"{out}: {manifest.title}, {number_format.size(manifest.graph.bytes)}")
    for warning in manifest.warnings:
        typer.echo(f"warning: {warning}")
