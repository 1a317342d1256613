"""A shop of a few products, as a CSV file with photos beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedrec.observability.progress import Stage
from fedrec.recognition.catalogue.catalogue import Catalogue
from fedrec.recognition.catalogue.importing import Imported, import_file
from fedrec.recognition.catalogue.photo_model import PhotoModel
from tests.support.colour_embedder import colour_model, save_photo

HEADER = "product,photo,title,link,price,category,colour,weight"


def write_shop(folder: Path, *, products: int = 6, photos: int = 2) -> Path:
    """Write the CSV file and its photos; returns the file."""
    lines = [HEADER]
    for product in range(products):
        for photo in range(photos):
            name = f"photos/{product}-{photo}.png"
            save_photo(folder / name, 100 * product + photo)
            lines.append(
                f"p{product},{name},Product {product},https://shop.example/{product},{10 * product + 0.5},"
                f"{'dress' if product % 2 else 'shoe'},{'red' if product % 3 else 'blue'},{product}"
            )
    file = folder / "shop.csv"
    file.write_text("\n".join(lines) + "\n")
    return file


class Told:
    """The lines and steps that a job tells."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.steps: list[tuple[str, int, int]] = []

    def __call__(self, stage: Stage) -> None:
        if stage.plain:
            self.lines.append(stage.plain)
        else:
            self.steps.append((stage.name, stage.done, stage.total))


def import_shop(
    folder: Path, file: Path, *, model: PhotoModel | None = None, told: Told | None = None
) -> Imported:
    """Make a catalogue if there is none, and import a file into it."""
    used = model or colour_model()
    Catalogue.create(folder, used.used)
    with Catalogue(folder, write=True) as catalogue:
        return import_file(catalogue, used, file, tell=told or Told())


def csv_of(folder: Path, rows: Sequence[str], *, header: str = HEADER) -> Path:
    """Write a CSV file of these rows."""
    file = folder / "rows.csv"
    file.write_text("\n".join([header, *rows]) + "\n")
    return file
