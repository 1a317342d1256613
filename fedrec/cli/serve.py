"""Implement ``fedrec serve``: a model and a catalogue over HTTP, with a page."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from fedrec._internal.host_names import is_loopback
from fedrec._internal.text import counted
from fedrec.cli.console import progress_bar
from fedrec.errors import ConfigError
from fedrec.observability.endpoint import parse_listen, read_token
from fedrec.recognition.catalogue.catalogue import Catalogue
from fedrec.recognition.catalogue.models import photo_model_of
from fedrec.recognition.drift.reference import REFERENCE, read_reference
from fedrec.recognition.drift.watch import Watch
from fedrec.recognition.extra import require_packages
from fedrec.recognition.model import RecognitionModel, open_model
from fedrec.recognition.zero_training import backbone_bundle


def serve(
    model: Annotated[
        Path | None,
        typer.Argument(help="Folder of a model bundle; without it, the model of the catalogue."),
    ] = None,
    catalogue: Annotated[
        Path | None, typer.Option(help="Catalogue to search; see 'fedrec catalogue import'.")
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            help="File of 'fedrec model reference', for alarms; that of the bundle if there is one."
        ),
    ] = None,
    listen: Annotated[str, typer.Option(help="PORT on this machine alone, or HOST:PORT.")] = "8080",
    token_file: Annotated[
        Path | None,
        typer.Option(help="File with a token that requests must carry; needed when others can reach HOST."),
    ] = None,
) -> None:
    """Serve a page and an API that recognise products, find similar ones and copies, and judge photos."""
    require_packages("fastapi", "uvicorn", purpose="the service")
    from fedrec.recognition.catalogue.opening import open_searcher
    from fedrec.recognition.service.application import make_application
    from fedrec.recognition.service.metrics import Metrics
    from fedrec.recognition.service.observing import Observer
    from fedrec.recognition.service.photo_analyser import PhotoAnalyser
    from fedrec.recognition.service.running import listening, run
    from fedrec.recognition.service.served_catalogue import ServedCatalogue

    host, port = parse_listen(listen, option="--listen")
    token = None if token_file is None else read_token(token_file, option="--token-file")
    if token is None and not is_loopback(host):
        raise ConfigError(f"--listen on {host} needs --token-file: others can reach it")
    with ExitStack() as opened:
        # Before anything that takes long.
        bound = opened.enter_context(listening(host, port))
        stored = None if catalogue is None else opened.enter_context(Catalogue(catalogue))
        loaded = open_model(_bundle(model, stored))
        if stored is not None:
            stored.check_model(
                photo_model_of(loaded, path=None if model is None else str(model)).used, labels=False
            )
        served = None
        if stored is not None:
            with progress_bar(quiet=False) as tell:
                served = ServedCatalogue(stored, open_searcher(stored, tell=tell), loaded)
        metrics = Metrics(loaded.classes)
        observer = Observer(metrics, _watch(loaded, reference))
        analyser = PhotoAnalyser(loaded, served, seen=observer)
        shown = f"[{host}]" if ":" in host else host
        products = "" if served is None else f", {counted(served.products(), 'product')}"
        typer.echo(f"http://{shown}:{bound.getsockname()[1]}/ ({loaded.title}{products})")
        run(make_application(analyser, metrics, host=host, token=token), bound)


def _bundle(model: Path | None, catalogue: Catalogue | None) -> Path:
    """Return the folder of the model to use: the given one, the catalogue's, or the packaged backbone's."""
    if model is not None:
        return model
    remembered = None if catalogue is None else catalogue.model_folder()
    if remembered is not None:
        return remembered
    if catalogue is None:
        typer.echo(
            "neither a model nor a catalogue was named: the packaged network alone is served, which knows no "
            "classes; the first time it is prepared, which takes a minute",
            err=True,
        )
    return backbone_bundle()


def _watch(model: RecognitionModel, given: Path | None) -> Watch | None:
    """Return the watch over the photos; None where there is no reference."""
    path = given or model.folder / REFERENCE
    if given is None and not path.exists():
        return None
    usual = read_reference(path)
    usual.check_model(model.embedding_id, model.classes)
    return Watch(usual)
