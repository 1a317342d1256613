"""Implement ``fedrec model compress``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from fedrec._internal import number_format
from fedrec.errors import ConfigError
from fedrec.recognition.bundle.manifest import GRAPH, CompressionRow
from fedrec.recognition.compression.compressing import compressed
from fedrec.recognition.compression.methods import METHODS
from fedrec.recognition.compression.photos import folder_photos, synthetic_photos
from fedrec.recognition.export.bundles import write_bundle
from fedrec.recognition.model import open_model


def compress(
    model: Annotated[Path, typer.Argument(help="Folder of a model bundle.")],
    out: Annotated[Path, typer.Option(help="New folder of the smaller bundle.")] = Path("model-small"),
    calibrate: Annotated[
        Path | None,
        typer.Option(
            help="Folder of PUBLIC photos, never merchants', to calibrate and measure on; labelled ones give "
            "the accuracy too. Default: synthetic photos."
        ),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help=f"Candidates to try, joined by commas: {', '.join(METHODS)}. Default: all that work for it."
        ),
    ] = None,
) -> None:
    """Make a smaller and faster bundle that agrees with the original, or none."""
    if out.exists():
        raise ConfigError(f"{out} exists already: name a new folder with --out")
    manifest = open_model(model).manifest
    photos = synthetic_photos() if calibrate is None else folder_photos(calibrate, manifest.classes)
    made = compressed(
        manifest,
        (model / GRAPH).read_bytes(),
        photos=photos,
        methods=None if methods is None else methods.split(","),
        step=lambda text: typer.echo(text, err=True),
    )
    typer.echo("\n".join(_table(made.rows)))
    typer.echo(f"made with {photos.kind}; agreement on {photos.tested.text}")
    if made.bundle is None:
        raise ConfigError("none of the smaller models is worth keeping: nothing was written")
    write_bundle(made.bundle, out)
    typer.echo(f"{out}: {made.bundle.manifest.title}, {number_format.size(made.bundle.manifest.graph.bytes)}")


def _table(rows: Sequence[CompressionRow]) -> list[str]:
    cells = [("graph", "MB", "ms", "agreement", "accuracy", "")]
    for row in rows:
        accuracy = "-" if row.accuracy is None else f"{row.accuracy:.1%}"
        size, time = f"{row.bytes / 1e6:.1f}", f"{row.milliseconds:.1f}"
        cells.append((row.method, size, time, f"{row.agreement:.1%}", accuracy, row.verdict))
    widths = [max(len(line[column]) for line in cells) for column in range(5)]
    return [
        f"{line[0]:<{widths[0]}}  "
        + "  ".join(f"{line[column]:>{widths[column]}}" for column in range(1, 5))
        + f"  {line[5]}".rstrip()
        for line in cells
    ]
