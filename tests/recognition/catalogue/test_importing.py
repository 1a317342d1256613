"""An import takes what is new, keeps what is there, reads no file outside its folder, and survives kills."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import sqlite3
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedrec.errors import ConfigError, DataError
from fedrec.recognition.catalogue import importing
from fedrec.recognition.catalogue.catalogue import Catalogue
from fedrec.recognition.catalogue.contents import products
from fedrec.recognition.catalogue.importing import Imported, import_file
from fedrec.recognition.catalogue.making import open_or_make
from fedrec.recognition.catalogue.opening import open_searcher
from fedrec.recognition.catalogue.photos import picture_of
from fedrec.recognition.catalogue.reindexing import reindex
from fedrec.recognition.catalogue.search import Query
from tests.recognition.catalogue.shop import HEADER, Told, csv_of, import_shop, write_shop
from tests.support.colour_embedder import ColourEmbedder, colour_model, save_photo

Contents = dict[str, object]


def contents(folder: Path) -> Contents:
    """All that a catalogue holds, without numbers and random keys."""
    with Catalogue(folder) as catalogue:
        assert catalogue.rows("PRAGMA integrity_check") == [("ok",)]
        assert catalogue.rows("PRAGMA foreign_key_check") == []
        vectors = {
            key: (vector, label)
            for key, vector, label in catalogue.rows("SELECT photo_id, vector, label FROM vector")
        }
        return {
            stored.product.name: (
                stored.product.model_dump(),
                {photo.name: (photo.sha256, vectors.get(photo.key)) for photo in stored.photos},
            )
            for stored in products(catalogue)
        }


def test_photos_are_embedded_and_only_their_owner_can_read_them(tmp_path: Path) -> None:
    file, told = write_shop(tmp_path), Told()
    done = import_shop(tmp_path / "c", file, model=colour_model(classes=True), told=told)
    assert done == Imported(added=12) and told.lines == [] and told.steps[-1] == ("photos", 12, 12)
    for path in (tmp_path / "c").iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "c").stat().st_mode & 0o777 == 0o700
    found = contents(tmp_path / "c")
    fields, photos = found["p2"]  # type: ignore[misc]
    assert fields["attributes"] == {"colour": "red", "weight": 2.0} and set(photos) == {  # type: ignore[has-type]
        "photos/2-0.png",
        "photos/2-1.png",
    }
    for name, (_, (vector, label)) in photos.items():  # type: ignore[has-type]
        photo = Image.open(tmp_path / name)
        expected = ColourEmbedder().embed([photo])[0].astype("<f2")
        assert vector == expected.tobytes() and label == (
            "bright" if np.asarray(photo).mean() >= 127.5 else "dark"
        )


def test_a_second_import_takes_only_what_changed(tmp_path: Path) -> None:
    file = write_shop(tmp_path)
    import_shop(tmp_path / "c", file)
    assert import_shop(tmp_path / "c", file) == Imported(unchanged=12)
    text = file.read_text().replace("Product 1,", "Another 1,").replace(",red,4", ",,4")
    file.write_text(text)
    save_photo(tmp_path / "photos/5-1.png", 999)
    assert import_shop(tmp_path / "c", file) == Imported(changed=5, unchanged=7)
    shutil.rmtree(tmp_path / "d", ignore_errors=True)
    import_shop(tmp_path / "d", file)
    assert contents_without_numbers(tmp_path / "c") == contents_without_numbers(tmp_path / "d")


def contents_without_numbers(folder: Path) -> Contents:
    with Catalogue(folder) as catalogue:
        return {
            stored.product.name: (
                stored.product.model_dump(),
                sorted((p.name, p.sha256) for p in stored.photos),
            )
            for stored in products(catalogue)
        }


def test_photos_outside_the_folder_and_broken_ones_are_named_by_line(tmp_path: Path) -> None:
    shop = tmp_path / "shop"
    save_photo(shop / "good.png", 1)
    secret = save_photo(tmp_path / "secret.png", 2)
    (shop / "link.png").symlink_to(secret)
    (shop / "folder.png").mkdir()
    (shop / "text.png").write_text("no photo")
    (shop / "cut.png").write_bytes((shop / "good.png").read_bytes()[:60])
    os.mkfifo(shop / "pipe.png")
    bomb = bytearray((shop / "good.png").read_bytes())
    bomb[16:24] = struct.pack(">II", 90_000, 80_000)
    bomb[29:33] = struct.pack(">I", zlib.crc32(bomb[12:29]))
    (shop / "bomb.png").write_bytes(bomb)
    names = [
        "../secret.png",
        str(secret),
        "link.png",
        "none.png",
        "folder.png",
        "text.png",
        "cut.png",
        "pipe.png",
    ]
    names += ["bomb.png", "x/../../secret.png", "good.png", "~/good.png", "good.png/x"]
    told = Told()
    rows = [f"p{number},{name},,,,,," for number, name in enumerate(names)]
    done = import_shop(tmp_path / "c", csv_of(shop, rows), told=told)
    assert done == Imported(added=1, failed=12)
    reasons = dict(line.removeprefix("line ").split(": ", 1) for line in told.lines)
    assert list(reasons) == ["2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "13", "14"]
    assert all("leaves the folder" in reasons[line] for line in ("2", "3", "4", "11"))
    assert (
        reasons["5"] == "photo 'none.png': No such file or directory"
        and "regular file" in reasons["6"] + reasons["9"]
    )
    assert (
        reasons["7"] == "photo 'text.png': not a picture of a known format"
        and "over the limit" in reasons["10"]
    )
    with Catalogue(tmp_path / "c") as catalogue:
        assert [stored.product.name for stored in products(catalogue)] == ["p10"]


def test_another_models_vectors_are_computed_on_request_alone(tmp_path: Path) -> None:
    file, other = write_shop(tmp_path), colour_model(power=1.0, classes=True)
    import_shop(tmp_path / "c", file)
    with pytest.raises(ConfigError, match="fedrec catalogue reindex"):
        import_shop(tmp_path / "c", file, model=other)
    (tmp_path / "photos/0-0.png").unlink()
    told = Told()
    with Catalogue(tmp_path / "c", write=True) as catalogue:
        done = reindex(catalogue, other, tell=told)
        assert (done.photos, done.lost, done.foreign) == (11, 1, 0) and len(told.lines) == 1
        assert catalogue.model == other.used
        query = ColourEmbedder(power=1.0).embed([Image.open(tmp_path / "photos/3-0.png")])[0]
        (found,) = open_searcher(catalogue, tell=told).search(Query(query, top=1))
        assert found.product.product.name == "p3" and found.score > 0.999 and found.photo.label is not None


def test_a_reindex_that_is_killed_leaves_the_former_model_in_use_and_goes_on(tmp_path: Path) -> None:
    file, other = write_shop(tmp_path, products=40), colour_model(power=1.0)
    import_shop(tmp_path / "c", file)

    def work(kill: Callable[[str], None]) -> None:
        with Catalogue(tmp_path / "c", write=True) as catalogue:
            reindex(catalogue, other, tell=Told(), on_event=kill)

    assert killed(work, at=2)
    with Catalogue(tmp_path / "c", write=True) as catalogue:
        assert catalogue.model == colour_model().used
        told = Told()
        query = ColourEmbedder().embed([Image.open(tmp_path / "photos/3-0.png")])[0]
        (found,) = open_searcher(catalogue, tell=told).search(Query(query, top=1))
        assert found.product.product.name == "p3"
        assert reindex(catalogue, other, tell=told).photos == 80
        # Of 80 photos, 64 were computed before the kill.
        assert [step for step in told.steps if step[0] == "photos"] == [("photos", 16, 16)]


def killed(work: Callable[[Callable[[str], None]], None], *, at: int) -> bool:
    """Do work in a child that kills itself (SIGKILL) at its ``at``-th event; returns whether it got there."""
    child = os.fork()
    if child == 0:
        left = at

        def on_event(event: str) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            work(on_event)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_a_killed_import_loses_nothing_that_was_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "BATCH", 4)
    file = write_shop(tmp_path, products=8)
    import_shop(tmp_path / "whole", file)
    Catalogue.create(tmp_path / "c", colour_model().used)

    def work(on_event: Callable[[str], None]) -> None:
        with Catalogue(tmp_path / "c", write=True) as catalogue:
            import_file(catalogue, colour_model(), file, tell=Told(), on_event=on_event)

    held: Contents = {}
    # A batch has four events; the last comes after its commit.
    for kills, at in enumerate((1, 2, 3, 4, 6, 8, 1, 12)):
        died = killed(work, at=at)
        now = contents(tmp_path / "c")
        assert {name: now[name] for name in held} == held, kills
        assert len(now) >= len(held) + 2 * (at // 4) if died else len(now) == 8
        held = now
    assert len(held) == 8
    assert contents_without_numbers(tmp_path / "c") == contents_without_numbers(tmp_path / "whole")


def change_all(folder: Path, file: Path, told: int) -> None:
    """Remove a product, import a file and write the index; tell each commit of the import."""

    def on_event(event: str) -> None:
        if event == "committed":
            os.write(told, b"batch\n")

    with Catalogue(folder, write=True) as catalogue:
        with catalogue.transaction() as connection:
            connection.execute("DELETE FROM product WHERE name = 'p29'")
        import_file(catalogue, colour_model(), file, tell=Told(), on_event=on_event)
        open_searcher(catalogue, tell=Told())


@pytest.mark.slow
def test_fifty_kills_at_any_moment_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each child imports one more price list, removes a product and writes the index, until it is killed."""
    monkeypatch.setattr(importing, "BATCH", 2)
    file = write_shop(tmp_path, products=30)
    import_shop(tmp_path / "c", file)
    rng, kills, runs = random.Random(0), 0, 0
    photo = picture_of((tmp_path / "photos/29-0.png").read_bytes())
    while kills < 50:
        runs += 1
        priced = tmp_path / "priced.csv"
        lines = file.read_text().splitlines()[1:]
        cells = [line.split(",") for line in lines]
        priced.write_text("\n".join([HEADER, *(",".join([*c[:4], str(runs), *c[5:]]) for c in cells)]) + "\n")
        for number in range(0, 30, 3):
            save_photo(tmp_path / f"photos/{number}-0.png", 10_000 * runs + number)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                change_all(tmp_path / "c", priced, writer)
            finally:
                os._exit(0)
        os.close(writer)
        time.sleep(rng.uniform(0, 0.25))
        os.kill(child, signal.SIGKILL)
        kills += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        with os.fdopen(reader, "rb") as pipe:
            told = pipe.read().split()
        found = contents(tmp_path / "c")
        assert len(found) >= 29
        prices = [value[0]["price"] for value in found.values()]  # type: ignore[index]
        assert sum(price == runs for price in prices) >= told.count(b"batch")
        with Catalogue(tmp_path / "c") as catalogue:
            results = open_searcher(catalogue, tell=Told()).search(
                Query(ColourEmbedder().embed([photo])[0], top=100, all_photos=True)
            )
            names = {result.product.product.name for result in results}
            assert names == set(found)


def test_two_writers_exclude_each_other_and_a_reader_needs_no_lock(tmp_path: Path) -> None:
    file = write_shop(tmp_path)
    import_shop(tmp_path / "c", file)
    with Catalogue(tmp_path / "c", write=True), Catalogue(tmp_path / "c") as reader:
        assert len(list(products(reader))) == 6
        with pytest.raises(ConfigError, match="another process"):
            Catalogue(tmp_path / "c", write=True)
        with pytest.raises(ConfigError, match="reading only"), reader.transaction():
            pass


@pytest.mark.parametrize("there", [False, True])
def test_a_first_change_that_fails_leaves_no_empty_catalogue(tmp_path: Path, there: bool) -> None:
    folder, model = tmp_path / "c", colour_model().used
    if there:
        folder.mkdir()
        (folder / "catalogue.key").write_text("a key that outlived its catalogue")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ZeroDivisionError), open_or_make(folder, model):
        raise ZeroDivisionError
    assert sorted(tmp_path.rglob("*")) == before
    file = write_shop(tmp_path, products=2)
    with pytest.raises(ZeroDivisionError), open_or_make(folder, model) as catalogue:
        import_file(catalogue, colour_model(), file, tell=Told())
        raise ZeroDivisionError
    assert len(contents(folder)) == 2  # what was committed stays
    with Catalogue(folder, write=True) as catalogue, catalogue.transaction() as connection:
        connection.execute("DELETE FROM product")
    with pytest.raises(ZeroDivisionError), open_or_make(folder, model):
        raise ZeroDivisionError
    assert contents(folder) == {}  # and so does a catalogue that was there before


def test_a_full_disk_is_said_to_be_one_and_nothing_of_the_batch_is_kept(tmp_path: Path) -> None:
    import_shop(tmp_path / "c", write_shop(tmp_path, products=2))
    before = contents(tmp_path / "c")
    says = f"No space left on device: '{tmp_path}/c'"
    with (
        Catalogue(tmp_path / "c", write=True) as catalogue,
        pytest.raises(OSError, match=says),
        catalogue.transaction() as connection,
    ):
        connection.execute("PRAGMA max_page_count = 1")  # SQLite's own limit, as if the disk had it
        connection.execute("DELETE FROM photo WHERE id = 1")
        connection.execute("INSERT INTO setting VALUES ('large', ?)", ("x" * 1_000_000,))
    assert contents(tmp_path / "c") == before


def test_a_catalogue_on_a_disk_for_reading_alone_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_shop(tmp_path / "c", write_shop(tmp_path, products=2))
    before = contents(tmp_path / "c")

    def refuse(path: Path, mode: int) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(Path, "chmod", refuse)
    assert contents(tmp_path / "c") == before


def test_what_is_no_catalogue_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no catalogue"):
        Catalogue(tmp_path / "none")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").touch()
    with pytest.raises(ConfigError, match="holds other files"):
        Catalogue.create(tmp_path / "full", colour_model().used)
    folder = tmp_path / "c"
    Catalogue.create(folder, colour_model().used)
    database = folder / "catalogue.sqlite"
    whole = database.read_bytes()
    foreign = tmp_path / "foreign.sqlite"
    sqlite3.connect(foreign).executescript("CREATE TABLE a (b); PRAGMA user_version = 1;")
    for content in (b"", b"text", whole[:100], os.urandom(5000), foreign.read_bytes()):
        database.write_bytes(content)
        with pytest.raises(DataError) as refused, Catalogue(folder) as opened:
            list(products(opened))
        assert "\n" not in str(refused.value)
