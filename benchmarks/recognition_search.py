"""How well and how fast a catalogue's vectors are searched, beside numpy's exact search of all of them.

Run ``python benchmarks/recognition_search.py [--quick] [--json FILE]``, on one core. The vectors are drawn:
20,000 products with 5 photos each, 1,280 values a vector, as unevenly spread as a network's features are; the
queries are further photos of the products. A search is the catalogue's whole one: an index proposes, SQLite
gives exact scores and products. numpy's is a product with a float32 matrix and the ten largest. ``--quick``
draws a tenth of it.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from measure import Options, finish, parse
from numpy.typing import NDArray

from fedrec.recognition.catalogue.catalogue import OWN, Catalogue, UsedModel
from fedrec.recognition.catalogue.changes import PhotoFile, Vector, put_photo, put_product, remove_product
from fedrec.recognition.catalogue.opening import INDEX_FILE, open_searcher
from fedrec.recognition.catalogue.products import Product
from fedrec.recognition.catalogue.search import Query, Searcher
from fedrec.recognition.catalogue.vector_index import VectorIndex

DIMENSION = 1280
PHOTOS = 5
FALL = 0.95
"""Their covariance's n-th largest value is n to the power of -0.95: the participation ratio is then about 50,
as that of 400 photos of clothing-small by the packaged backbone."""
TOP = 10
_BESIDE = 10
"""Searches for each one by numpy between them: a machine with other work is not equally fast all the time."""
QUERIES = 500
MODEL = UsedModel("drawn", DIMENSION, None, None, "drawn vectors")
Vectors = NDArray[np.float32]


def drawn(products: int, seed: int = 0) -> tuple[Vectors, Vectors]:
    """Draw photos' vectors of products, and queries."""
    rng = np.random.default_rng(seed)
    centres = directions(products, rng)
    owners = np.repeat(np.arange(products), PHOTOS)
    return near(centres, owners, rng), near(centres, rng.integers(0, products, QUERIES), rng)


def directions(count: int, rng: np.random.Generator) -> Vectors:
    """Draw vectors whose principal values fall as a network's features do."""
    spread = np.arange(1, DIMENSION + 1, dtype=np.float32) ** (-FALL / 2)
    return spread * rng.standard_normal((count, DIMENSION), dtype=np.float32)


def near(centres: Vectors, owners: NDArray[np.int64], rng: np.random.Generator) -> Vectors:
    """Draw a photo of each named product."""
    found = 0.7 * directions(len(owners), rng)
    found += centres[owners]
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found


def fill(folder: Path, vectors: Vectors) -> float:
    """Write a catalogue; returns the CPU seconds."""
    started = time.process_time()
    Catalogue.create(folder, MODEL)
    with Catalogue(folder, write=True) as catalogue:
        for start in range(0, len(vectors), 1000):
            with catalogue.transaction() as connection:
                for number in range(start, start + 1000):
                    name, photo = f"p{number // PHOTOS}", f"{number % PHOTOS}.jpg"
                    product = Product(name=name, title=name, price=1.0, link=f"https://shop.example/{name}")
                    key = put_product(connection, product, merchant=OWN)
                    vector = Vector("drawn", vectors[number].astype(np.float16))
                    put_photo(connection, key, PhotoFile(photo, photo, photo.encode()), vector)
    return time.process_time() - started


def by_numpy(vectors: Vectors, query: Vectors) -> list[int]:
    """Find the nearest of all vectors."""
    scores = vectors @ query
    nearest = np.argpartition(-scores, TOP)[:TOP]
    return [int(number) for number in nearest[np.argsort(-scores[nearest])]]


def by_catalogue(searcher: Searcher, query: Vectors) -> list[int]:
    """Find the nearest by the catalogue."""
    found = searcher.search(Query(query, top=TOP, all_photos=True))
    return [PHOTOS * int(one.product.product.name[1:]) + int(one.photo.name[0]) for one in found]


def by_index(index: VectorIndex, query: Vectors) -> list[int]:
    """Take the first proposals of an index; photos are numbered in the order of the vectors."""
    proposed = index.propose(query, math.ceil((TOP + 1) * index.margin), among=None)
    return [int(key) - 1 for key in proposed[:TOP]]


def timed(
    search: Callable[[Vectors], list[int]],
    queries: Sequence[Vectors],
    *,
    beside: Callable[[Vectors], list[int]],
) -> tuple[float, float, list[list[int]]]:
    """Return the median CPU milliseconds of a search and of another one in turn, and what the first found."""
    times, others, found = [], [], []
    for number, query in enumerate(queries):
        if number % _BESIDE == 0:
            others.append(_cpu_ms(beside, query)[0])
        taken, one = _cpu_ms(search, query)
        times.append(taken)
        found.append(one)
    return float(np.median(times)), float(np.median(others)), found


def _cpu_ms(search: Callable[[Vectors], list[int]], query: Vectors) -> tuple[float, list[int]]:
    started = time.process_time()
    found = search(query)
    return 1000 * (time.process_time() - started), found


def recall(found: list[list[int]], expected: list[list[int]]) -> float:
    """Return the share of the nearest that were found."""
    return float(np.mean([len(set(a) & set(b)) / TOP for a, b in zip(found, expected, strict=True)]))


def opened(catalogue: Catalogue, *, graph: bool) -> Searcher:
    """Open a catalogue's index of one kind, whatever the number of its vectors."""
    return open_searcher(catalogue, tell=lambda stage: None, scanned_up_to=0 if graph else 10**9)


def after_removal(catalogue: Catalogue, searcher: Searcher, query: Vectors) -> float:
    """Remove the nearest product; return the CPU seconds of the next search, which must not find it."""
    gone = searcher.search(Query(query, top=1))[0].product
    with catalogue.transaction() as connection:
        remove_product(connection, gone.key)
    started = time.process_time()
    found = searcher.search(Query(query, top=100))
    taken = time.process_time() - started
    if gone.key in {one.product.key for one in found}:
        raise RuntimeError("a removed product was found")
    return taken


def main() -> None:
    """Measure, and print a table."""
    options: Options = parse(__doc__ or "")
    vectors, queries = drawn(2_000 if options.quick else 20_000)
    numpys = partial(by_numpy, vectors)
    exact_ms, _, expected = timed(numpys, list(queries), beside=numpys)
    rows: list[dict[str, object]] = [
        {
            "search": "numpy, float32",
            "ms": exact_ms,
            "recall@10": 1.0,
            "made_s": None,
            "mib": _mib(vectors.nbytes),
        }
    ]
    ratios: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "catalogue"
        ratios["SQLite: written, CPU s"] = fill(folder, vectors)
        ratios["SQLite: MiB"] = _mib((folder / "catalogue.sqlite").stat().st_size)
        with Catalogue(folder, write=True) as catalogue:
            searchers = {}
            for name, graph in (("scan", False), ("graph", True)):
                started = time.process_time()
                opened(catalogue, graph=graph)
                made = time.process_time() - started
                started = time.process_time()
                searchers[name] = searcher = opened(catalogue, graph=graph)
                ratios[f"{name}: opened, CPU s"] = time.process_time() - started
                whole = partial(by_catalogue, searcher)
                each, beside, found = timed(whole, list(queries), beside=numpys)
                ratios |= {f"{name}: time beside numpy": each / beside}
                size = _mib((folder / INDEX_FILE).stat().st_size)
                got = recall(found, expected)
                proposing = partial(by_index, searcher.index)
                alone, beside, proposed = timed(proposing, list(queries), beside=numpys)
                ratios |= {f"{name}: the index's time beside numpy": alone / beside}
                near = recall(proposed, expected)
                index_row: dict[str, object] = {"search": f"{name}, the index alone", "ms": alone}
                whole_row: dict[str, object] = {"search": f"{name}, with SQLite", "ms": each}
                rows.append(index_row | {"recall@10": near, "made_s": made, "mib": size})
                rows.append(whole_row | {"recall@10": got, "made_s": None, "mib": None})
                ratios |= {f"{name}: recall@10": got}
            for name, searcher in searchers.items():
                taken = after_removal(catalogue, searcher, queries[0])
                ratios[f"{name}: search after a removal, CPU s"] = taken
    finish("recognition_search", options, rows=rows, ratios=ratios)


def _mib(size: int) -> float:
    return size / 2**20


if __name__ == "__main__":
    main()
