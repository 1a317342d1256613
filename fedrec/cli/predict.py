"""Implement ``fedrec predict``: the classes of photos, and why."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Final

import typer
from PIL import Image

from fedrec._internal.files import replacing
from fedrec._internal.text import listed, one_line
from fedrec.cli.console import progress_bar
from fedrec.cli.photo_lines import check_read, file_name
from fedrec.errors import ConfigError, DataError
from fedrec.observability.progress import Stage
from fedrec.recognition.evidence.heat import evidence_of
from fedrec.recognition.evidence.picture import evidence_picture
from fedrec.recognition.model import Recognition, RecognitionModel, open_model
from fedrec.recognition.photo_files import photo_files
from fedrec.vision.decoding import decode

_STDIN: Final = Path("-")
_LARGEST_PHOTO: Final = 64 << 20
"""Bytes that are read from standard input."""


def predict(
    model: Annotated[Path, typer.Argument(help="Folder of a model bundle ('fedrec model export').")],
    photos: Annotated[
        list[Path],
        typer.Argument(help="Photos, folders of photos, catalogues, and - for one photo on standard input."),
    ],
    top: Annotated[int, typer.Option(min=1, help="Classes to show, the most probable ones.")] = 3,
    evidence: Annotated[
        Path | None,
        typer.Option(help="Folder for a picture of each photo: warm where it speaks for the class."),
    ] = None,
    label: Annotated[
        str | None, typer.Option("--class", help="Show the evidence for this class, not for the likeliest.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a photo, one a line.")] = False,
) -> None:
    """Name the most probable classes of photos."""
    loaded = open_model(model)
    if not loaded.classes:
        raise ConfigError(f"{model} is a backbone alone, which knows no classes: export a training's model")
    if label is not None and label not in loaded.classes:
        known = one_line(listed(loaded.classes, most=20), most=400)
        raise ConfigError(f"{model} knows no class {one_line(label)!r}; choose one of {known}")
    if label is not None and evidence is None:
        raise ConfigError("--class chooses what --evidence DIR shows: give both")
    wanted = None if label is None else loaded.classes.index(label)
    places = _places(photos)
    pictures = None if evidence is None else _Pictures(evidence, loaded, wanted)
    unread: dict[Path, str] = {}
    for path, found in _recognised(loaded, places):
        if isinstance(found, str):
            unread[path] = found
            typer.echo(_json(path, error=found) if as_json else f"{file_name(path)}: can't be read: {found}")
            continue
        photo, recognition = found
        drawn = None if pictures is None else pictures.draw(path, photo, recognition)
        chosen = [(loaded.classes[each], probability) for each, probability in recognition.top(top)]
        typer.echo(_json(path, top=chosen, picture=drawn) if as_json else _line(path, chosen))
    check_read(unread, of=len(places), quiet=as_json)
    if not as_json and loaded.manifest.calibration.photos is None:
        typer.echo(
            "Probabilities are uncalibrated: compare them, but don't read them as frequencies.", err=True
        )


def _places(named: Sequence[Path]) -> list[Path]:
    """Return the files, and standard input where it is named, in order."""
    if named.count(_STDIN) > 1:
        raise ConfigError("standard input holds one photo: name - once")
    places: list[Path] = []
    for each in named:
        places += [each] if each == _STDIN else photo_files([each])
    return places


def _recognised(
    model: RecognitionModel, places: Sequence[Path]
) -> Iterator[tuple[Path, tuple[Image.Image, Recognition] | str]]:
    """Yield each photo with what the model says of it, or with the reason why it can't be read."""
    with progress_bar(quiet=len(places) == 1) as tell:
        for number, path in enumerate(places, 1):
            try:
                photo = _standard_input() if path == _STDIN else decode(path)
            except DataError as error:
                yield path, str(error)
            else:
                yield path, (photo, model.recognise([photo])[0])
            tell(Stage("photos", number, len(places)))


def _standard_input() -> Image.Image:
    content = sys.stdin.buffer.read(_LARGEST_PHOTO + 1)
    if len(content) > _LARGEST_PHOTO:
        raise DataError(f"more than {_LARGEST_PHOTO:,} bytes on standard input")
    return decode(io.BytesIO(content))


class _Pictures:
    """Writes evidence pictures to a folder, each under a name of its own."""

    def __init__(self, folder: Path, model: RecognitionModel, label: int | None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._model, self._label = folder, model, label
        self._taken: set[str] = set()

    def draw(self, path: Path, photo: Image.Image, found: Recognition) -> Path:
        label = found.label if self._label is None else self._label
        stem = "photo" if path == _STDIN else path.stem
        name, number = f"{stem}.png", 1
        while name in self._taken:
            number += 1
            name = f"{stem}-{number}.png"
        self._taken.add(name)
        heat = evidence_of(self._model, photo, label)
        with replacing(self._folder / name) as file:
            evidence_picture(photo, heat).save(file, format="PNG")
        return self._folder / name


def _line(path: Path, top: Sequence[tuple[str, float]]) -> str:
    return f"{file_name(path)}: " + ", ".join(
        f"{one_line(name)} {100 * probability:.1f}%" for name, probability in top
    )


def _json(
    path: Path,
    *,
    top: Sequence[tuple[str, float]] | None = None,
    picture: Path | None = None,
    error: str | None = None,
) -> str:
    classes = None if top is None else [{"class": name, "probability": round(p, 6)} for name, p in top]
    return json.dumps(
        {
            "photo": str(path),
            "classes": classes,
            "evidence": None if picture is None else str(picture),
            "error": error,
        }
    )
