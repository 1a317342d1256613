"""Implement ``fedrec model export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from fedrec._internal import number_format
from fedrec._internal.text import counted
from fedrec.errors import ConfigError, DataError
from fedrec.recognition.bundle.manifest import Calibration
from fedrec.recognition.bundle.photo_inputs import prepared
from fedrec.recognition.bundle.session import Session
from fedrec.recognition.export.bundles import make_bundle, write_bundle
from fedrec.recognition.export.calibration import fitted
from fedrec.recognition.export.sources import Source, backbone_source, trained_source
from fedrec.vision.decoding import decode
from fedrec.vision.listing.found_encoding import with_found_encoding
from fedrec.vision.listing.photo_places import list_photos


def export(
    run: Annotated[
        Path | None, typer.Argument(help="Run directory, or a training's folder on the server.")
    ] = None,
    out: Annotated[Path, typer.Option(help="New folder of the bundle.")] = Path("model"),
    backbone: Annotated[
        str | None,
        typer.Option(help="Instead of a run: the frozen networks of this model, without any training."),
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(help="Folder of labelled PUBLIC photos, never merchants', for the probabilities."),
    ] = None,
) -> None:
    """Make a bundle: one ONNX graph, what a photo must become for it, and a model card."""
    if (run is None) == (backbone is None):
        raise ConfigError("name a run, or a model with --backbone")
    if out.exists():
        raise ConfigError(f"{out} exists already: name a new folder with --out")
    source = backbone_source(backbone) if run is None and backbone is not None else trained_source(run or out)
    if calibrate is not None and source.network is None:
        raise ConfigError("a backbone alone has no probabilities to calibrate")
    bundle = make_bundle(
        source,
        calibrate=lambda session: (
            Calibration() if calibrate is None else _calibration(source, session, calibrate)
        ),
        step=lambda text: typer.echo(text, err=True),
    )
    write_bundle(bundle, out)
    made = bundle.manifest
    typer.echo(f"{out}: {made.title}, {number_format.size(made.graph.bytes)}")
    if made.classes and made.calibration.photos is None:
        typer.echo("Its probabilities are UNCALIBRATED: --calibrate DIR fits them to public photos.")
    for warning in made.warnings:
        typer.echo(f"warning: {warning}")


def _calibration(source: Source, session: Session, folder: Path) -> Calibration:
    scores, labels, unread = [], [], 0
    for picture in list_photos(with_found_encoding(folder)).pictures:
        if picture.label not in source.classes:
            continue
        try:
            photo = decode(picture.path)
        except DataError:
            unread += 1
            continue
        scores.append(session.run(prepared(session.inputs, [photo])).scores[0])
        labels.append(source.classes.index(picture.label))
    if unread:
        typer.echo(f"{counted(unread, 'photo')} of {folder} can't be read", err=True)
    return fitted(np.array(scores, dtype=np.float32), labels)
