"""Implement ``fedrec catalogue copies``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedrec._internal.files import replacing
from fedrec._internal.text import counted
from fedrec.cli.console import progress_bar
from fedrec.cli.generated_options import fields_as_options
from fedrec.cli.photo_lines import file_name
from fedrec.errors import DataError
from fedrec.observability.progress import Stage, Tell
from fedrec.recognition.extra import require_packages

if TYPE_CHECKING:
    from fedrec.cli.copies_places import Place
    from fedrec.recognition.copies.finder import Finder, Found

Pair = tuple[int, "Found"]


@dataclass(frozen=True)
class CopiesOptions:
    """Options of the command."""

    place: Annotated[Path, typer.Argument(help="A folder of photos, one photo, or a catalogue.")]
    against: Annotated[
        Path | None,
        typer.Option(
            help="Photos or a catalogue to compare with; without it, the photos of PLACE with each other."
        ),
    ] = None
    model: Annotated[
        Path | None,
        typer.Option(help="Folder of a model bundle: more copies are found. A catalogue has its own model."),
    ] = None
    pictures: Annotated[
        Path | None, typer.Option(help="Folder for a picture of each pair: both, and one laid on the other.")
    ] = None
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a pair, one a line.")] = False


@fields_as_options(CopiesOptions)
def copies(given: CopiesOptions) -> None:
    """Find photos that were made from each other: cropped, mirrored, framed, marked, in a collage."""
    require_packages("cv2", "pdqhash", purpose="finding copies")
    from fedrec.cli.copies_places import opened_place
    from fedrec.recognition.copies.finder import Finder

    with ExitStack() as stack:
        tell = stack.enter_context(progress_bar(quiet=given.as_json))
        model = given.model if given.against is None else None
        asked = stack.enter_context(opened_place(given.place, model=model, tell=tell))
        stored = asked
        if given.against is not None:
            stored = stack.enter_context(opened_place(given.against, model=given.model, tell=tell))
        show = _Output(asked, stored, pictures=given.pictures, as_json=given.as_json)
        finder = Finder(
            stored.photos, embedder=stored.embedder, search=stored.search, kept=stored.kept, tell=tell
        )
        unread: dict[str, str] = {}
        pairs = finder.pairs(tell) if stored is asked else _each(finder, asked, unread, tell=tell)
        compared: set[tuple[str, ...]] = set()
        for number, found in pairs:
            files = asked.files[number], stored.files[found.number]
            both = tuple(sorted(file for file in files if file is not None))
            # Where the places overlap, a file is no copy of itself, and two are one pair.
            if len(both) < 2 or (both[0] != both[1] and both not in compared):
                compared.add(both)
                show.pair(number, found)
        unread |= {stored.names[number]: reason for number, reason in finder.unread.items()}
    show.end(unread)


def _each(finder: Finder, asked: Place, unread: dict[str, str], *, tell: Tell) -> Iterator[Pair]:
    for number, name in enumerate(asked.names):
        try:
            matches = finder.find(asked.photos.photo(number))
        except DataError as error:
            unread[name] = str(error)
            continue
        yield from ((number, found) for found in matches)
        tell(Stage("compare photos", number + 1, len(asked.names)))


class _Output:
    def __init__(self, asked: Place, stored: Place, *, pictures: Path | None, as_json: bool) -> None:
        self._asked, self._stored, self._pictures, self._as_json = asked, stored, pictures, as_json
        self._pairs = 0
        self._photos: set[str] = set()
        if pictures is not None:
            pictures.mkdir(parents=True, exist_ok=True)

    def pair(self, number: int, found: Found) -> None:
        """Show a pair, and draw its picture."""
        names = self._asked.names[number], self._stored.names[found.number]
        changes = found.transformation.words()
        self._pairs += 1
        self._photos.update(names)
        picture = None if self._pictures is None else self._pictures / f"pair-{self._pairs:04}.jpg"
        if picture is not None:
            try:
                self._draw(picture, number, found)
            except DataError as error:
                typer.echo(f"{picture.name} can't be drawn: {error}", err=True)
                picture = None
        if self._as_json:
            shown = {
                "photo": names[0],
                "other": names[1],
                "score": round(found.match.score, 4),
                "test": found.match.test,
                "changes": changes,
                "negative": found.transformation.negative,
                "mirrored": found.transformation.mirrored,
                "degrees": round(found.transformation.degrees, 1),
                "scale": round(found.transformation.scale, 4),
                "share_of_photo": round(found.match.of_first, 4),
                "share_of_other": round(found.match.of_second, 4),
                "picture": None if picture is None else str(picture),
            }
            typer.echo(json.dumps(shown))
        else:
            what = ", ".join(changes) or "the whole photo"
            pair = f"{file_name(names[0])} and {file_name(names[1])}"
            typer.echo(f"{pair}: {what} ({found.match.test}, {found.match.score:.2f})")

    def _draw(self, picture: Path, number: int, found: Found) -> None:
        from fedrec.recognition.copies.pictures import comparison

        photo, other = self._asked.photos.photo(number), self._stored.photos.photo(found.number)
        with replacing(picture) as file:
            comparison(photo, other, found.match.matrix).save(file, format="JPEG", quality=90)

    def end(self, unread: dict[str, str]) -> None:
        """Show what couldn't be read, and the count; raise ``DataError`` if nothing could be."""
        photos = {*self._asked.names, *self._stored.names}
        for name, reason in unread.items():
            typer.echo(f"{file_name(name)}: can't be read: {reason}", err=self._as_json)
        if not photos - set(unread):
            raise DataError(f"none of {counted(len(unread), 'file')} could be read as a photo")
        if not self._as_json:
            typer.echo(
                f"{counted(self._pairs, 'pair')} among {counted(len(photos) - len(unread), 'photo')}"
                + (f"; {counted(len(self._photos), 'photo')} involved" if self._pairs else "")
            )
