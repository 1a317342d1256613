"""What a merchant publishes is found on the platform under its name; whatever else is offered is refused."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedrec.errors import ConfigError, DataError, FedrecError
from fedrec.privacy.identity import SigningIdentity
from fedrec.recognition.catalogue.catalogue import Catalogue
from fedrec.recognition.catalogue.contents import find_product, products
from fedrec.recognition.catalogue.opening import open_searcher
from fedrec.recognition.catalogue.publishing import Merged, merge, publish
from fedrec.recognition.catalogue.search import Query
from fedrec.recognition.catalogue.signing import CatalogueKey, Signer, sign_digest
from tests.recognition.catalogue.shop import Told, import_shop, write_shop
from tests.support.colour_embedder import ColourEmbedder, colour_model, save_photo

MAGIC = b"fedrec published catalogue 1\n"
Change = Callable[[dict[str, Any], list[dict[str, Any]]], object]


def published(folder: Path, *, vectors: bool = True, signer: Signer | None = None) -> tuple[Path, Signer]:
    """A shop's published file, and its key."""
    import_shop(folder / "c", write_shop(folder))
    used = signer or CatalogueKey(folder / "c" / "catalogue.key")
    with Catalogue(folder / "c", write=True) as catalogue:
        publish(catalogue, folder / "out", signer=used, vectors=vectors)
    return folder / "out", used


def at(moment: datetime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the clock of what publishes and merges."""
    clock = SimpleNamespace(now=lambda zone: moment)
    monkeypatch.setattr("fedrec.recognition.catalogue.publishing.datetime", clock)


def platform(folder: Path) -> Path:
    Catalogue.create(folder, colour_model().used)
    return folder


def merge_into(folder: Path, file: Path, **keys: bytes) -> Merged:
    with Catalogue(folder, write=True) as catalogue:
        return merge(catalogue, file, keys=keys, tell=Told())


def forged(file: Path, signer: Signer, change: Change, *, vectors: Callable[[bytes], bytes] = bytes) -> Path:
    """The same file with other content, signed by a key that the platform trusts."""
    data = file.read_bytes()
    start = len(MAGIC) + 96
    length = struct.unpack_from("<Q", data, start)[0]
    lines = [json.loads(line) for line in data[start + 16 : start + 16 + length].splitlines()]
    change(lines[0], lines)
    text = b"".join(
        line if isinstance(line, bytes) else json.dumps(line, allow_nan=True).encode() + b"\n"
        for line in lines
    )
    values = vectors(data[start + 16 + length :])
    lengths = struct.pack("<QQ", len(text), len(values))
    digest = hashlib.sha256(
        lengths + hashlib.sha256(text).digest() + hashlib.sha256(values).digest()
    ).digest()
    made = file.with_name("forged")
    made.write_bytes(MAGIC + signer.public + sign_digest(signer, digest) + lengths + text + values)
    return made


def test_what_merchants_publish_is_found_under_their_names(tmp_path: Path) -> None:
    first, key = published(tmp_path / "a")
    second, other = published(tmp_path / "b", signer=SigningIdentity.generate())
    folder = platform(tmp_path / "p")
    assert first.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "a/c/catalogue.key").stat().st_mode & 0o777 == 0o600
    assert merge_into(folder, first, Anna=key.public) == Merged("Anna", 6, 0, 0)
    assert merge_into(folder, second, Ben=other.public) == Merged("Ben", 6, 0, 0)
    assert merge_into(folder, first) == Merged("Anna", 0, 6, 0)
    query = ColourEmbedder().embed([Image.open(tmp_path / "a/photos/3-1.png")])[0]
    with Catalogue(folder) as catalogue:
        found = open_searcher(catalogue, tell=Told()).search(Query(query, top=2))
        assert [(result.product.merchant, result.product.product.name) for result in found] == [
            ("Anna", "p3"),
            ("Ben", "p3"),
        ]
        with Catalogue(tmp_path / "a/c") as own:
            expected = find_product(own, "p3")
        assert expected is not None and found[0].product.product == expected.product
        assert found[0].product.photos[0].path is None


def test_a_new_file_replaces_the_merchants_products_and_an_older_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, key = published(tmp_path / "a")
    folder = platform(tmp_path / "p")
    merge_into(folder, old, Anna=key.public)
    save_photo(tmp_path / "a/photos/1-0.png", 77)
    csv = tmp_path / "a/shop.csv"
    csv.write_text("\n".join(csv.read_text().splitlines()[:9]) + "\n")
    import_shop(tmp_path / "a/c", csv)
    new = tmp_path / "a/new"
    later = datetime.now(UTC) + timedelta(hours=1)
    at(later, monkeypatch)
    with Catalogue(tmp_path / "a/c", write=True) as catalogue:
        with catalogue.transaction() as connection:
            connection.execute("DELETE FROM product WHERE name IN ('p4', 'p5')")
        publish(catalogue, new, signer=key)
    assert merge_into(folder, new) == Merged("Anna", 1, 3, 2)
    with pytest.raises(DataError, match="is older than what Anna published last"):
        merge_into(folder, old)
    at(later - timedelta(days=3), monkeypatch)
    with pytest.raises(DataError, match="in the future"):
        merge_into(folder, new)


def test_of_two_files_of_one_second_the_older_is_refused_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It could bring back what the merchant has just withdrawn."""
    second = datetime(2026, 3, 4, 12, tzinfo=UTC)
    at(second + timedelta(milliseconds=1), monkeypatch)
    old, key = published(tmp_path / "a")
    folder, new = platform(tmp_path / "p"), tmp_path / "new"
    at(second + timedelta(milliseconds=2), monkeypatch)
    with Catalogue(tmp_path / "a/c", write=True) as catalogue:
        with catalogue.transaction() as connection:
            connection.execute("DELETE FROM product WHERE name = 'p5'")
        publish(catalogue, new, signer=key)
    assert merge_into(folder, new, Anna=key.public).written == 5
    with pytest.raises(DataError, match="is older than what Anna published last"):
        merge_into(folder, old)
    # The same file once more changes nothing.
    assert merge_into(folder, new) == Merged("Anna", 0, 5, 0)


def test_a_file_without_vectors_reveals_none_and_withdraws_those_of_before(tmp_path: Path) -> None:
    whole, key = published(tmp_path / "a")
    folder = platform(tmp_path / "p")
    merge_into(folder, whole, Anna=key.public)
    bare, _ = published(tmp_path / "a", vectors=False)
    assert bare.stat().st_size < 6 * 400
    text = bare.read_bytes().partition(b"{")[2]
    assert b"photos/" not in text and b'"photos":0' in text
    assert merge_into(folder, bare).written == 6
    query = ColourEmbedder().embed([Image.open(tmp_path / "a/photos/3-1.png")])[0]
    stored = query.astype("<f2").tobytes()
    with Catalogue(tmp_path / "a/c") as own:
        assert [row for row in own.rows("SELECT vector FROM vector") if bytes(row[0]) == stored]
    with Catalogue(folder) as catalogue:
        assert open_searcher(catalogue, tell=Told()).search(Query(query, top=20, all_photos=True)) == []
        assert len(list(catalogue.rows("SELECT 1 FROM product"))) == 6
    assert all(stored not in file.read_bytes() for file in folder.iterdir())
    assert merge_into(folder, bare).written == 0


def test_a_key_that_nobody_confirmed_and_anothers_name_are_refused(tmp_path: Path) -> None:
    first, key = published(tmp_path / "a")
    second, other = published(tmp_path / "b")
    folder = platform(tmp_path / "p")
    with pytest.raises(ConfigError, match=f"signed by {key.public.hex()}, which is no merchant's key"):
        merge_into(folder, first)
    merge_into(folder, first, Anna=key.public)
    for keys in ({"Anna": other.public}, {"Ben": key.public}):
        with pytest.raises(ConfigError, match="--key"):
            merge_into(folder, second, **keys)
    Catalogue.create(tmp_path / "q", colour_model(power=1.0).used)
    with pytest.raises(ConfigError, match="of another model"):
        merge_into(tmp_path / "q", first, Anna=key.public)


def test_no_changed_or_cut_byte_is_accepted(tmp_path: Path) -> None:
    file, key = published(tmp_path / "a")
    folder = platform(tmp_path / "p")
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    hurt = [
        b"",
        MAGIC,
        whole[:-1],
        whole + b"x",
        whole[:200],
        bytes(len(whole)),
        b"PK\3\4" + whole,
        b"\x80\x04." * 99,
    ]
    for position in [*range(len(MAGIC), len(MAGIC) + 112, 5), *rng.integers(0, len(whole), 40)]:
        changed = bytearray(whole)
        changed[position] ^= 1 << int(rng.integers(8))
        hurt.append(bytes(changed))
    for content in hurt:
        file.write_bytes(content)
        with pytest.raises(FedrecError) as refused:
            merge_into(folder, file, Anna=key.public)
        assert str(refused.value).isprintable() and len(str(refused.value)) < 500
    with Catalogue(folder) as catalogue:
        assert list(products(catalogue)) == [] == catalogue.rows("SELECT * FROM merchant")


def in_product(**fields: Any) -> Change:
    return lambda about, lines: lines[2]["product"].update(fields)


def in_about(**fields: Any) -> Change:
    return lambda about, lines: about.update(fields)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (in_product(link="javascript:alert(1)"), "link must be a web address"),
        (in_product(link="file:///etc/passwd"), "link must be a web address"),
        (in_product(price=-1), "price must be 0 or more"),
        (in_product(price=float("nan")), "price|JSON"),
        (in_product(price="12"), "price must be a number"),
        (in_product(price=True), "price must be a number"),
        (in_product(title="a\x1b[2Jb"), "U\\+001B"),
        (in_product(title="x" * 2001), "more than 2,000"),
        (in_product(title=None), "title must be text"),
        (in_product(name=""), "name is empty"),
        (in_product(attributes={f"a{n}": 1 for n in range(65)}), "attributes"),
        (in_product(attributes={"a": [1]}), "attributes"),
        (in_product(attributes={"a<b": 1}), "stand between"),
        (in_product(path="/etc/passwd"), "path"),
        (in_product(name="p0"), "twice"),
        (in_about(created="yesterday"), "created"),
        (in_about(created="2001-01-01T00:00:00"), "created"),
        (in_about(created="0001-01-01T00:00:00+14:00"), "created .*years 1 to 9999"),
        (in_about(created="9999-12-31T23:59:59-14:00"), "created .*years 1 to 9999"),
        (in_about(dimension=0), "dimension"),
        (in_about(dimension=32), "another number of vectors"),
        (in_about(dimension=10**9), "dimension"),
        (in_about(products=10**9), "products"),
        (in_about(products=5), "more products or photos"),
        (in_about(products=7), "fewer products or photos"),
        (in_about(photos=11), "another number of vectors"),
        (in_about(photos=10**12), "photos"),
        (in_about(vectors=False), "another number of vectors"),
        (in_about(embedding_id="x"), "of another model"),
        (in_about(extra=1), "extra"),
        (lambda about, lines: lines[2].update(photos=3), "more products or photos"),
        (lambda about, lines: lines[2].update(photos=-1), "photos"),
        (lambda about, lines: lines[2].update(photos=1), "fewer products or photos"),
        (lambda about, lines: lines.append(b"[" * 100_000 + b"\n"), "JSON|can't be used"),
        (lambda about, lines: lines.append(b'{"product":' * 5000 + b"\n"), "can't be used"),
        (lambda about, lines: lines.append(b"x" * 2_000_000 + b"\n"), "too long"),
        (lambda about, lines: lines.append(b'{"product":{"name":"\\ud800"},"photos":0}\n'), "can't be used"),
        (lambda about, lines: lines.append(b"\n"), "can't be used"),
        (lambda about, lines: lines.append(b"{}"), "cut off"),
        (lambda about, lines: lines.clear(), "too long or cut off"),
    ],
)
def test_a_hostile_file_of_a_known_merchant_is_refused_in_one_line(
    tmp_path: Path, change: Change, says: str
) -> None:
    file, key = published(tmp_path / "a")
    folder = platform(tmp_path / "p")
    with pytest.raises(FedrecError, match=says) as refused:
        merge_into(folder, forged(file, key, change), Anna=key.public)
    assert str(refused.value).isprintable() and len(str(refused.value)) < 600
    with Catalogue(folder) as catalogue:
        assert list(products(catalogue)) == []


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, 1.0, 60000.0])
def test_vectors_that_are_none_are_refused(tmp_path: Path, value: float) -> None:
    file, key = published(tmp_path / "a")
    folder = platform(tmp_path / "p")

    def spoilt(data: bytes) -> bytes:
        found = np.frombuffer(data, "<f2").copy()
        found[64:128] = value
        return found.tobytes()

    whole = forged(file, key, lambda about, lines: None)
    made = forged(file, key, lambda about, lines: None, vectors=spoilt)
    with pytest.raises(DataError, match="length 1"):
        merge_into(folder, made, Anna=key.public)
    forged(file, key, lambda about, lines: None)
    assert merge_into(folder, whole, Anna=key.public).written == 6
