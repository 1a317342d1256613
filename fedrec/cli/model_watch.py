"""Implement ``fedrec model reference`` and ``fedrec model watch``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from fedrec._internal.text import counted
from fedrec.cli.console import progress_bar
from fedrec.cli.generated_options import fields_as_options
from fedrec.cli.photo_lines import file_name
from fedrec.errors import DataError
from fedrec.observability.progress import Stage
from fedrec.recognition.drift.photo_statistics import PhotoStatistics, photo_statistics
from fedrec.recognition.drift.reference import REFERENCE, make_reference, read_reference, write_reference
from fedrec.recognition.drift.thresholds import Photos
from fedrec.recognition.drift.watch import Alarm, Watch
from fedrec.recognition.model import Recognition, RecognitionModel, open_model
from fedrec.recognition.photo_files import photo_files
from fedrec.vision.decoding import decode

Bundle = Annotated[Path, typer.Argument(help="Folder of a model bundle ('fedrec model export').")]


@dataclass(frozen=True, kw_only=True)
class ReferenceOptions:
    """Options of ``fedrec model reference``."""

    model: Bundle
    photos: Annotated[
        list[Path],
        typer.Argument(help="Public or synthetic photos, or folders of them: never merchants' or shoppers'."),
    ]
    out: Annotated[
        Path | None, typer.Option(help=f"File for the reference ({REFERENCE} in the model's folder).")
    ] = None


@dataclass(frozen=True, kw_only=True)
class WatchOptions:
    """Options of ``fedrec model watch``."""

    model: Bundle
    photos: Annotated[
        list[Path], typer.Argument(help="Photos that the model is asked, or folders of them, in order.")
    ]
    reference: Annotated[
        Path | None,
        typer.Option(help=f"File of 'fedrec model reference' ({REFERENCE} in the model's folder)."),
    ] = None
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object an alarm, one a line, and one at the end.")
    ] = False


@fields_as_options(ReferenceOptions)
def reference(given: ReferenceOptions) -> None:
    """Note what photos usually look like to a model, for 'fedrec model watch'."""
    model = open_model(given.model)
    seen = [(recognition, look) for _, recognition, look in _seen(model, photo_files(given.photos))]
    if not seen:
        raise DataError("none of the files could be read as a photo")
    made = make_reference(
        Photos(
            embeddings=np.stack([recognition.embedding for recognition, _ in seen]),
            probabilities=np.stack([recognition.probabilities for recognition, _ in seen]),
            looks=[look for _, look in seen],
        ),
        embedding_id=model.embedding_id,
        classes=model.classes,
    )
    path = given.out or model.folder / REFERENCE
    write_reference(path, made)
    typer.echo(f"{path}: what {counted(len(seen), 'photo')} look like, and how far windows of them differ")


@fields_as_options(WatchOptions)
def watch(given: WatchOptions) -> None:
    """Raise an alarm when photos are blurred, dark, of one class or foreign."""
    model = open_model(given.model)
    usual = read_reference(given.reference or model.folder / REFERENCE)
    usual.check_model(model.embedding_id, model.classes)
    watched, count, alarms = Watch(usual), 0, 0
    for path, recognition, look in _seen(model, photo_files(given.photos)):
        count += 1
        for alarm in watched.add(recognition.embedding, recognition.probabilities, look):
            alarms += 1
            _show(alarm, path, count, as_json=given.as_json)
    standing = watched.standing
    if given.as_json:
        summary = {
            "photos": count,
            "alarms": alarms,
            "windows": standing.windows,
            "windows_with_alarms": standing.alarmed,
            "latest": standing.values,
            "limits": standing.limits,
        }
        typer.echo(json.dumps(summary))
    elif not standing.values:
        typer.echo(f"{counted(count, 'photo')}: too few to tell, at least {min(usual.limits)} are needed")
    else:
        windows = counted(standing.windows, "window")
        typer.echo(f"{counted(count, 'photo')}, {windows} of {max(usual.limits)}: {counted(alarms, 'alarm')}")


def _seen(
    model: RecognitionModel, paths: Sequence[Path]
) -> Iterator[tuple[Path, Recognition, PhotoStatistics]]:
    """Yield what the model and a look say of each photo that can be read; tell of the others on stderr."""
    with progress_bar(quiet=False) as tell:
        for number, path in enumerate(paths, 1):
            try:
                photo = decode(path)
            except DataError as error:
                typer.echo(f"{file_name(path)}: can't be read: {error}", err=True)
            else:
                yield path, model.recognise([photo])[0], photo_statistics(photo)
            tell(Stage("photos", number, len(paths)))


def _show(alarm: Alarm, path: Path, number: int, *, as_json: bool) -> None:
    if as_json:
        shown = {
            "alarm": alarm.measure,
            "after": number,
            "photo": str(path),
            "text": alarm.text,
            "value": round(alarm.value, 5),
            "limit": round(alarm.limit, 5),
            "window": alarm.photos,
            "class": alarm.label,
        }
        typer.echo(json.dumps(shown))
    else:
        typer.echo(
            f"ALARM {alarm.measure} after {counted(number, 'photo')}: {alarm.text}"
            f" ({alarm.value:.3g}, limit {alarm.limit:.3g})"
        )
