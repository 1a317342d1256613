"""Make a table that is read from one of another kind: other columns, names without endings, JSON lines.

A person calls this once and looks at the result, so rows may span lines, and photos are found by their names
alone. A training never does either.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from fedrec._internal.csv_lines import CsvLines, csv_reason, open_csv
from fedrec._internal.text import listed, one_line
from fedrec.errors import ConfigError, DataError
from fedrec.vision.listing.folder_tree import looks_like_photo, read_tree
from fedrec.vision.listing.table_columns import COLUMNS, known_column
from fedrec.vision.listing.table_paths import MISSING, is_on_the_internet, leads_out, plain_path

_JSON_NAMES: Final = (".jsonl", ".ndjson")
_NEXT_ADDRESS: Final = re.compile(r"[,;|\s]+(?=https?:)")


@dataclass(frozen=True)
class MadeTable:
    """What became of a table's rows.

    Attributes:
        columns: the column that each known one was read from.
        written: how many rows were written.
        left_out: rows that were not, by their line, with the reason.
    """

    columns: Mapping[str, str]
    written: int
    left_out: tuple[tuple[int, str], ...]


def make_table(
    source: Path, target: Path, *, columns: Mapping[str, str], photos: Path | None = None
) -> MadeTable:
    """Write a table with the columns path, label, product, split and merchant from another one.

    Args:
        source: a CSV file, or JSON lines with an object each.
        target: the new file, in a folder that the photos lie below.
        columns: the source's column for some of the known ones; an empty name for none. The others are found
            by their usual names.
        photos: the folder to look for photos in; None for that of the source.

    Returns:
        What was written. A row that names several addresses becomes several rows.

    Raises:
        ConfigError: a column is missing.
        DataError: a file can't be read or written.
    """
    if target.exists():
        raise ConfigError(f"{target} exists already: give the name of a new file")
    names, rows = _rows(source)
    chosen = _chosen(source, names, columns)
    files = _Photos(source.parent, photos or source.parent, target.parent)
    labels: dict[str, str] = {}
    written: list[list[str]] = []
    left_out: list[tuple[int, str]] = []
    for line, row in rows:
        found = {name: row.get(column, "").strip() for name, column in chosen.items()}
        product = found.get("product", "")
        # Shops' exports name a product's class beside its first photo alone.
        label = found["label"] or labels.get(product, "")
        if product:
            labels.setdefault(product, label)
        if not label or not found["path"]:
            left_out.append((line, "names no photo" if label else "names no class"))
            continue
        for text in _NEXT_ADDRESS.split(found["path"]):
            path, problem = files.find(text)
            cells = [path, label, *(found.get(name, "") for name in chosen if name not in ("path", "label"))]
            if not problem and any(sign in cell for cell in cells for sign in "\r\n"):
                problem = "has a line end in a cell"
            if problem:
                left_out.append((line, problem))
            else:
                written.append(cells)
    if not written:
        example = f" (e.g. line {left_out[0][0]}: {left_out[0][1]})" if left_out else ""
        raise DataError(f"no row of {source} names a photo that is there{example}")
    _write(target, [list(chosen), *written])
    return MadeTable(chosen, len(written), tuple(left_out))


def _chosen(source: Path, names: list[str], columns: Mapping[str, str]) -> dict[str, str]:
    chosen: dict[str, str] = {}
    for name in COLUMNS:
        given = columns.get(name)
        found = next((cell for cell in names if known_column(cell) == name), "") if given is None else given
        if given and given not in names:
            raise ConfigError(f"{source} has no column {given!r}; it has {one_line(listed(names, most=20))}")
        if found:
            chosen[name] = found
    for needed in ("path", "label"):
        if needed not in chosen:
            what = "photo" if needed == "path" else "class"
            shown = one_line(listed(names, most=20))
            raise ConfigError(f"{source}: say with --{needed} which column holds the {what}: {shown}")
    return chosen


def _rows(source: Path) -> tuple[list[str], Iterator[tuple[int, dict[str, str]]]]:
    if source.suffix.lower() in _JSON_NAMES:
        objects = list(_objects(source))
        return list(dict.fromkeys(name for _, row in objects for name in row)), iter(objects)
    with open_csv(source) as file:
        lines = CsvLines(file)
        header = lines.header(source)
        first, text = lines.number, "".join(lines)
    names = [cell.strip() for cell in header.cells]
    return names, _cells(source, names, text, delimiter=header.delimiter, first=first)


def _cells(
    source: Path, names: list[str], text: str, *, delimiter: str, first: int
) -> Iterator[tuple[int, dict[str, str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    start = 1
    try:
        for values in reader:
            if any(value.strip() for value in values):
                yield first + start, dict(zip(names, values, strict=False))
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{source} line {first + start}: {csv_reason(error)}") from None


def _objects(source: Path) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        with source.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                found = json.loads(line) if line.strip() else None
                if isinstance(found, dict):
                    yield (
                        number,
                        {name: str(cell) for name, cell in found.items() if isinstance(cell, str | int)},
                    )
                elif found is not None:
                    raise DataError(f"{source} line {number} is no object in braces")
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{source} can't be read as JSON lines: {one_line(error)}") from None


def _write(target: Path, rows: list[list[str]]) -> None:
    try:
        # Bytes that are not in UTF-8 stay as they are: whoever reads the table decodes them.
        with target.open("x", encoding="utf-8", errors="surrogateescape", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)
    except OSError as error:
        raise DataError(f"{target} can't be written: {error.strerror}") from None


@dataclass
class _Photos:
    table: Path
    folder: Path
    target: Path
    _names: dict[str, list[Path]] = field(default_factory=dict)

    def find(self, text: str) -> tuple[str, str]:
        """Return the path of the photo that a cell means, below the new table, and else why there is none."""
        path = plain_path(text.strip())
        name = path.rsplit("/", 1)[-1]
        if is_on_the_internet(path):
            name = unquote(re.split("[?#]", name)[0])
        elif not leads_out(path):
            for folder in (self.table, self.folder):
                if (folder / path).is_file():
                    return self._below(folder / path)
        found = self._called(name)
        if len(found) > 1:
            shown = listed([one_line(file) for file in found], most=2)
            return "", f"several files are called {one_line(name, most=80)!r}: {shown}"
        return self._below(found[0]) if found else ("", f"{one_line(path, most=80)!r}: {MISSING}")

    def _called(self, name: str) -> list[Path]:
        if not self._names:
            for folder in read_tree(self.folder).root.walk():
                for file in folder.files:
                    for key in {file, Path(file).stem}:
                        self._names.setdefault(plain_path(key), []).append(folder.path / file)
        found = self._names.get(name, [])
        # x.txt beside x.jpg holds its labels or boxes.
        return [file for file in found if looks_like_photo(file.name)] or found

    def _below(self, file: Path) -> tuple[str, str]:
        try:
            return file.resolve().relative_to(self.target.resolve()).as_posix(), ""
        except ValueError:
            return (
                "",
                f"{one_line(file)} isn't below {self.target}: write the table to a folder above the photos",
            )
