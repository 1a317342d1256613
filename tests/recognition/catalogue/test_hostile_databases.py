"""A catalogue's file that another program wrote: one line, at once, whatever its tables and values are."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from fedrec.errors import DataError
from fedrec.recognition.catalogue.catalogue import Catalogue, UsedModel
from fedrec.recognition.catalogue.opening import open_searcher
from fedrec.recognition.catalogue.places import DATABASE

_MODEL = UsedModel(embedding_id="e" * 64, dimension=4, path=None, labels_of=None, description="d")
_ENDLESS = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT"


def spoilt(folder: Path, *statements: str) -> Path:
    """A catalogue of two photos, changed by these statements."""
    Catalogue.create(folder, _MODEL)
    with closing(sqlite3.connect(folder / DATABASE, isolation_level=None)) as db:
        for key in (1, 2):
            db.execute(
                "INSERT INTO product (id, merchant, name, title) VALUES (?, '', ?, 't')", (key, f"p{key}")
            )
            db.execute("INSERT INTO photo (id, product_id, name) VALUES (?, ?, 'x.png')", (key, key))
            row = (key, _MODEL.embedding_id, np.ones(4, "<f2").tobytes())
            db.execute("INSERT INTO vector (photo_id, embedding_id, vector) VALUES (?, ?, ?)", row)
        for statement in statements:
            db.execute(statement)
    return folder


@pytest.mark.parametrize(
    "statements",
    [
        ("DROP TABLE setting", f"CREATE VIEW setting AS {_ENDLESS} 'x' || n AS name, 'v' AS value FROM r"),
        ("DROP TABLE vector", f"CREATE VIEW vector AS {_ENDLESS} n AS photo_id, 'e' AS embedding_id FROM r"),
        ("CREATE TRIGGER t AFTER INSERT ON setting BEGIN DELETE FROM product; END",),
        ("DROP TABLE vector", "CREATE TABLE vector (photo_id, embedding_id, vector)"),
        ("CREATE TABLE sqlitex (a)",),
        ("DROP INDEX attribute_by_name",),
    ],
)
def test_a_file_with_other_tables_is_refused_before_one_is_read(
    tmp_path: Path, statements: tuple[str, ...]
) -> None:
    folder = spoilt(tmp_path / "shop", *statements)
    with pytest.raises(DataError, match=r"holds other tables than a catalogue's"):
        Catalogue(folder)


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE vector SET vector = 'abcdefgh' WHERE photo_id = 2", "a vector of the catalogue is damaged"),
        ("UPDATE vector SET vector = 5 WHERE photo_id = 2", "a vector of the catalogue is damaged"),
        ("UPDATE vector SET vector = zeroblob(17 << 20)", r"can't be used \(.*too big"),
        ("UPDATE vector SET photo_id = 'x' WHERE photo_id = 2", "a vector of the catalogue is damaged"),
        ("UPDATE setting SET value = '-4' WHERE name = 'dimension'", "settings are damaged"),
    ],
)
def test_a_value_of_another_type_or_size_is_named(tmp_path: Path, statement: str, said: str) -> None:
    folder = spoilt(tmp_path / "shop", "PRAGMA foreign_keys = OFF", statement)
    with Catalogue(folder) as catalogue, pytest.raises(DataError, match=said):
        open_searcher(catalogue, tell=lambda stage: None)


def test_a_catalogue_that_was_analysed_and_vacuumed_is_one(tmp_path: Path) -> None:
    folder = spoilt(tmp_path / "shop", "ANALYZE", "VACUUM")
    with Catalogue(folder) as catalogue:
        open_searcher(catalogue, tell=lambda stage: None)
