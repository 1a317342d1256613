"""A search finds what a plain loop over all photos finds, whatever was added, changed and removed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedrec.errors import ConfigError
from fedrec.recognition.catalogue.catalogue import OWN, Catalogue, UsedModel
from fedrec.recognition.catalogue.changes import PhotoFile, Vector, put_photo, put_product, remove_product
from fedrec.recognition.catalogue.filters import parse_filter
from fedrec.recognition.catalogue.graph_index import GraphIndex
from fedrec.recognition.catalogue.opening import INDEX_FILE, open_searcher
from fedrec.recognition.catalogue.products import Product
from fedrec.recognition.catalogue.scan_index import ScanIndex
from fedrec.recognition.catalogue.search import Query, Result, Searcher
from fedrec.recognition.catalogue.shortening import MOST_DIRECTIONS, Shortening
from tests.recognition.catalogue.shop import Told

DIMENSION = 24
MODEL = UsedModel("e1", DIMENSION, None, None, "test")


def random_vectors(count: int, seed: int) -> NDArray[np.float32]:
    found = np.random.default_rng(seed).standard_normal((count, DIMENSION)).astype(np.float32)
    lengths: NDArray[np.float32] = np.linalg.norm(found, axis=1, keepdims=True)
    return found / lengths


def fill(folder: Path, count: int, *, seed: int = 0, photos: int = 3) -> dict[str, NDArray[np.float32]]:
    """Make a catalogue of random vectors; returns them by product and photo, rounded as they are stored."""
    Catalogue.create(folder, MODEL)
    stored = {}
    with Catalogue(folder, write=True) as catalogue, catalogue.transaction() as connection:
        for number, values in enumerate(random_vectors(count, seed).astype(np.float16)):
            name, photo = f"p{number // photos}", f"{number % photos}.jpg"
            product = Product(
                name=name,
                title=name,
                price=float(number // photos),
                category="even" if number // photos % 2 == 0 else "odd",
                attributes={"size": float(number // photos % 5)}
                if number // photos % 3
                else {"size": "wide"},
            )
            key = put_product(connection, product, merchant=OWN)
            put_photo(connection, key, PhotoFile(photo, photo, photo.encode()), Vector("e1", values))
            stored[f"{name}/{photo}"] = values.astype(np.float32)
    return stored


def searcher_of(catalogue: Catalogue, *, graph: bool = False) -> Searcher:
    return open_searcher(catalogue, tell=Told(), scanned_up_to=0 if graph else 10**6)


def named(results: list[Result]) -> list[str]:
    return [f"{result.product.product.name}/{result.photo.name}" for result in results]


def naive(stored: dict[str, NDArray[np.float32]], query: NDArray[np.float32], *, distinct: bool) -> list[str]:
    ranked = sorted(stored, key=lambda name: -float(stored[name] @ query))
    if not distinct:
        return ranked
    best: dict[str, str] = {}
    for name in ranked:
        best.setdefault(name.split("/")[0], name)
    return list(best.values())


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 120),
    top=st.integers(1, 30),
    distinct=st.booleans(),
    graph=st.booleans(),
)
def test_a_search_equals_a_plain_loop(
    tmp_path_factory: pytest.TempPathFactory, seed: int, count: int, top: int, distinct: bool, graph: bool
) -> None:
    folder = tmp_path_factory.mktemp("catalogue")
    stored = fill(folder, count, seed=seed)
    query = random_vectors(1, seed + 1)[0]
    with Catalogue(folder) as catalogue:
        found = searcher_of(catalogue, graph=graph).search(Query(query, top=top, all_photos=not distinct))
    assert named(found) == naive(stored, query, distinct=distinct)[:top]
    for result, name in zip(found, named(found), strict=True):
        assert result.score == pytest.approx(float(stored[name] @ query), abs=1e-6)


@pytest.mark.parametrize("graph", [False, True])
def test_filters_and_thresholds_equal_a_plain_loop(tmp_path: Path, graph: bool) -> None:
    stored = fill(tmp_path / "c", 300)
    query = random_vectors(1, 7)[0]

    def number(name: str) -> int:
        return int(name[1:].split("/")[0])

    cases: dict[tuple[str, ...], Callable[[int], object]] = {
        ("price<50",): lambda p: p < 50,
        ("price>=20", "price<=40.5"): lambda p: 20 <= p <= 40.5,
        ("category=odd",): lambda p: p % 2 == 1,
        ("category != odd", "price > 90"): lambda p: p % 2 == 0 and p > 90,
        ("size=wide",): lambda p: p % 3 == 0,
        ("size<2",): lambda p: p % 3 and p % 5 < 2,
        ("size!=3",): lambda p: not (p % 3 and p % 5 == 3),
        ("size=3",): lambda p: p % 3 and p % 5 == 3,
        ("product=p17",): lambda p: p == 17,
        ("price>1000",): lambda p: False,
    }
    with Catalogue(tmp_path / "c") as catalogue:
        searcher = searcher_of(catalogue, graph=graph)
        for texts, fulfils in cases.items():
            asked = Query(query, top=20, filters=[parse_filter(text) for text in texts])
            kept = {name: vector for name, vector in stored.items() if fulfils(number(name))}
            assert named(searcher.search(asked)) == naive(kept, query, distinct=True)[:20], texts
            all_photos = replace(asked, all_photos=True, at_least=0.2)
            near = [name for name in naive(kept, query, distinct=False) if stored[name] @ query >= 0.2]
            assert named(searcher.search(all_photos)) == near[:20], texts


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("price", "no condition"),
        ("price<cheap", "compared with a number"),
        ("category<dress", "compared by = or !="),
        ("colour=red", "no product has 'colour'; there are price, probability, product"),
        ("size<wide", "compares with a number"),
        ("=3", "no condition"),
        ("price<", "lacks a name or a value"),
        ("price<nan", "compared with a number"),
        ("x'); DROP TABLE photo; --=1", "no product has"),
    ],
)
def test_a_filter_that_means_nothing_is_refused(tmp_path: Path, text: str, says: str) -> None:
    fill(tmp_path / "c", 6)
    with Catalogue(tmp_path / "c") as catalogue, pytest.raises(ConfigError, match=says):
        searcher_of(catalogue).search(Query(random_vectors(1, 0)[0], filters=[parse_filter(text)]))


@pytest.mark.parametrize("graph", [False, True])
def test_what_is_deleted_is_never_found_even_by_an_index_that_still_holds_it(
    tmp_path: Path, graph: bool
) -> None:
    stored = fill(tmp_path / "c", 60)
    with Catalogue(tmp_path / "c", write=True) as catalogue:
        searcher = searcher_of(catalogue, graph=graph)
        index = GraphIndex if graph else ScanIndex  # the class, for what a crash leaves behind
        assert isinstance(searcher.index, index)
        victim = naive(stored, stored["p3/1.jpg"], distinct=True)[0].split("/")[0]
        with catalogue.transaction() as connection:
            remove_product(
                connection, catalogue.rows("SELECT id FROM product WHERE name = ?", (victim,))[0][0]
            )
        left = {name: vector for name, vector in stored.items() if not name.startswith(f"{victim}/")}
        # The searcher brings its index up to date; one that can't still finds nothing that is gone.
        stuck = Searcher(catalogue, searcher.index, content=catalogue.content_key, tell=Told())
        for one in (stuck, searcher, searcher_of(catalogue, graph=graph)):
            found = one.search(Query(stored["p3/1.jpg"], top=100, all_photos=True))
            assert named(found) == naive(left, stored["p3/1.jpg"], distinct=False)


def test_a_graph_of_few_directions_finds_what_is_nearest_by_all_values() -> None:
    rng = np.random.default_rng(0)
    dimension = 3 * MOST_DIRECTIONS
    spread = np.arange(1, dimension + 1) ** -0.5  # as unevenly spread as a network's features are
    vectors = (rng.standard_normal((3000, dimension)) * spread).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    shortening = Shortening.of(vectors[::3])
    directions = shortening.directions
    assert directions.shape == (dimension, MOST_DIRECTIONS)
    assert np.allclose(directions.T @ directions, np.eye(MOST_DIRECTIONS), atol=1e-4)
    index = GraphIndex(shortening)
    for start in range(0, 3000, 1000):
        index.add(np.arange(start, start + 1000), vectors[start : start + 1000].astype(np.float16))
    _, keys, rows, graph = index.content
    again = GraphIndex(shortening, rows=ScanIndex(keys, rows), graph=graph)
    found = []
    for query in vectors[::60]:
        expected = np.argsort(-(vectors @ query))[:10]
        proposed = index.propose(query, 20, among=None)
        assert proposed.tolist() == again.propose(query, 20, among=None).tolist()
        assert np.all(np.diff(vectors[proposed] @ query) < 0.01)  # in order, but for rounding
        found.append(np.isin(expected, proposed).mean())
    assert np.mean(found) > 0.95
    # A loaded graph is changed like any other, also after a search.
    for query in vectors[:20]:
        nearest = again.propose(query, 1, among=None)
        again.remove(nearest)
        assert nearest[0] not in again.propose(query, 20, among=None)
        again.add(nearest + 10_000, vectors[nearest].astype(np.float16))
        assert again.propose(query, 1, among=None).tolist() == (nearest + 10_000).tolist()
    third = GraphIndex(shortening, rows=ScanIndex(*again.content[1:3]), graph=again.content[3])
    assert (
        third.propose(vectors[7], 20, among=None).tolist()
        == again.propose(vectors[7], 20, among=None).tolist()
    )


def test_distances_of_short_vectors_are_those_of_their_principal_values() -> None:
    rng = np.random.default_rng(0)
    # A network's features share a large part, of which rounding would leave the differences few steps.
    vectors = (1 + 0.2 * rng.standard_normal((500, 64))).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    made = Shortening.of(vectors)
    shortening = Shortening.from_parts(made.parts)
    short = shortening.shorten(vectors).astype(np.float64)
    assert np.abs(short).max() <= 127
    values = np.linalg.svd(vectors, full_matrices=False)[2] @ vectors.T
    expected = np.linalg.norm(values[:, :250] - values[:, 250:], axis=0)
    assert np.linalg.norm(short[:250] - short[250:], axis=1) / shortening.scale == pytest.approx(
        expected, rel=0.03
    )


def test_a_search_sees_what_another_process_changed(tmp_path: Path) -> None:
    stored = fill(tmp_path / "c", 30)
    with Catalogue(tmp_path / "c") as catalogue:
        searcher = searcher_of(catalogue)
        more = fill(tmp_path / "c", 60)
        assert named(searcher.search(Query(more["p17/0.jpg"], top=1))) == ["p17/0.jpg"]
        assert len(stored) == 30


def test_a_damaged_foreign_or_old_index_is_made_again(tmp_path: Path) -> None:
    stored = fill(tmp_path / "c", 200)
    file = tmp_path / "c" / INDEX_FILE
    query = random_vectors(1, 3)[0]
    expected = naive(stored, query, distinct=True)[:10]
    rng = np.random.default_rng(0)
    with Catalogue(tmp_path / "c") as catalogue:
        for graph in (False, True):
            searcher_of(catalogue, graph=graph)
            whole = file.read_bytes()
            assert file.stat().st_mode & 0o777 == 0o600
            hurt = [b"", b"x", whole[:-1], whole + b"x", bytes(len(whole)), whole[:40]]
            for position in rng.integers(0, len(whole), 40):
                flipped = bytearray(whole)
                flipped[position] ^= 1 << int(rng.integers(8))
                hurt.append(bytes(flipped))
            for content in hurt:
                file.write_bytes(content)
                found = searcher_of(catalogue, graph=graph).search(Query(query))
                assert named(found) == expected
            file.unlink()
            assert named(searcher_of(catalogue, graph=graph).search(Query(query))) == expected
            assert file.read_bytes()[:16] == whole[:16]


def test_another_catalogues_index_is_not_used(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 2)):
        stored = fill(tmp_path / name, 30, seed=seed)
        with Catalogue(tmp_path / name) as catalogue:
            searcher_of(catalogue)
    (tmp_path / "b" / INDEX_FILE).write_bytes((tmp_path / "a" / INDEX_FILE).read_bytes())
    with Catalogue(tmp_path / "b") as catalogue:
        found = searcher_of(catalogue).search(Query(stored["p4/0.jpg"], top=5))
    assert named(found) == naive(stored, stored["p4/0.jpg"], distinct=True)[:5]


def test_numbers_that_no_search_can_have_are_refused(tmp_path: Path) -> None:
    stored = fill(tmp_path, 30, seed=1)
    with Catalogue(tmp_path) as catalogue:
        searcher = searcher_of(catalogue)
        asked = Query(stored["p4/0.jpg"])
        for query in (replace(asked, at_least=bad) for bad in (float("nan"), float("inf"), 1.1, -2.0)):
            with pytest.raises(ConfigError, match="--at-least"):
                searcher.search(query)
        for top in (0, -1, 101):
            with pytest.raises(ConfigError, match="--top"):
                searcher.search(replace(asked, top=top))
        assert named(searcher.search(replace(asked, at_least=0.999))) == ["p4/0.jpg"]


def test_the_search_loads_onnx_runtime_first_which_crashes_otherwise() -> None:
    code = "import fedrec.recognition.catalogue.opening, onnxruntime"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
