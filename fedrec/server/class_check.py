"""Compare a training's classes with the operator's own photos: a misspelt class loses merchants' photos."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

from fedrec._internal.suggestions import alike
from fedrec._internal.text import listed
from fedrec.errors import DataError
from fedrec.vision.listing.photo_places import list_photos

_SHOWN = 5


def class_warnings(classes: Sequence[str], eval_data: Path | None) -> Iterator[str]:
    """Say which classes have no photo in ``eval_data``, and which of its folders are no class.

    Args:
        classes: the training's classes.
        eval_data: the operator's own photos; None if there are none, so that nothing is compared.

    Yields:
        One line for each kind of difference.
    """
    if eval_data is None:
        return
    try:
        found = list_photos(eval_data)
    except DataError:
        # What can't be read is said where the photos are needed.
        return
    wanted = {unicodedata.normalize("NFC", name) for name in classes}
    there = {picture.label for picture in found.pictures}
    missing, more = sorted(wanted - there), sorted(there - wanted)
    if missing:
        named = [_with_suggestion(name, more) for name in missing]
        yield (
            f"eval_data has no photo of {listed(named, most=_SHOWN)}. Merchants' photos are used only where "
            "their folder has a class's exact name: correct classes if a name is misspelt"
        )
    if more:
        yield f"{listed(more, most=_SHOWN)} in eval_data are no classes of this training, and left out"


def _with_suggestion(name: str, others: Sequence[str]) -> str:
    meant = alike(name, others)
    return f"{name}: did you mean {meant}" if meant else name
