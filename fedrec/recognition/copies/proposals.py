"""Propose the photos that are worth comparing with a photo: few of many."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fedrec.recognition.copies.collection import Nearest
from fedrec.recognition.copies.feature_index import FeatureIndex
from fedrec.recognition.copies.hashes import LEAST_QUALITY, Hashes
from fedrec.recognition.copies.prints import Print
from fedrec.recognition.copies.seams import Cell, Seams
from fedrec.recognition.embedding import Embedder

MOST_CANDIDATES: Final = 10
_EACH: Final = 5
_LOOK_ALIKE_BITS: Final = 80
_MOST_PARTS: Final = 10
_SAME: Final = 0.8
"""Of what two parts cover together, the share that both cover, from which they are one."""


def parts_of(photo: Image.Image, seams: Seams) -> list[Image.Image]:
    """Cut out what may be a photo of its own.

    Args:
        photo: the photo.
        seams: the straight lines across it.

    Returns:
        The pictures between clear lines; the photo's quarters and halves, too, as other lines may have been
        missed. Nothing for a photo without any line across it.
    """
    if not seams.any:
        return []
    width, height = photo.size
    x, y = max(1, width // 2), max(1, height // 2)
    quarters = [Cell(0, 0, x, y), Cell(width - x, 0, width, y), Cell(0, height - y, x, height)]
    quarters.append(Cell(width - x, height - y, width, height))
    halves = [Cell(0, 0, x, height), Cell(width - x, 0, width, height), Cell(0, 0, width, y)]
    halves.append(Cell(0, height - y, width, height))
    taken: list[Cell] = []
    for cell in (*seams.cells, *quarters, *halves):
        if all(cell.common(other) < _SAME for other in taken):
            taken.append(cell)
    return [photo.crop((one.left, one.top, one.right, one.bottom)) for one in taken[:_MOST_PARTS]]


def by_vectors(
    photo: Image.Image, embedder: Embedder, search: Nearest, *, parts: Sequence[Image.Image]
) -> list[list[int]]:
    """Propose photos whose vectors are near that of a photo, or of a part of it.

    Args:
        photo: the photo.
        embedder: the model.
        search: the vectors of the collection.
        parts: parts of the photo, which propose photos, too.

    Returns:
        Photos near the whole, and photos nearest to a part of it; the best first.
    """
    vectors = embedder.embed([photo, *parts])
    numbers, similarity = search.nearest(vectors, count=_EACH)
    if not numbers.shape[1]:
        return []
    # Of each part its nearest photo alone: another part of a collage has other photos near it.
    order = np.argsort(-similarity[1:, 0], kind="stable")
    return [numbers[0].tolist(), numbers[1:, 0][order].tolist()]


def by_features(printed: Print, index: FeatureIndex) -> list[int]:
    """Propose photos that share local features with a photo, the best first.

    Args:
        printed: the photo's print.
        index: features of the collection.

    Returns:
        The photos' numbers.
    """
    votes = index.votes(printed.features)
    best = np.argsort(-votes, kind="stable")[:MOST_CANDIDATES]
    return [int(number) for number in best if votes[number] > 0]


def by_hashes(asked: Hashes, stored: NDArray[np.uint64]) -> list[int]:
    """Propose photos whose hash is near that of a photo in any symmetry, the best first.

    Args:
        asked: the photo's hashes.
        stored: uint64 (photos, 4).

    Returns:
        The photos' numbers.
    """
    if asked.quality < LEAST_QUALITY or not len(stored):
        return []
    bits = np.full(len(stored), 256, dtype=np.int64)
    for words in asked.words:
        np.minimum(bits, np.bitwise_count(stored ^ words).sum(axis=1, dtype=np.int64), out=bits)
    best = np.argsort(bits, kind="stable")[:_EACH]
    return [int(number) for number in best if bits[number] <= _LOOK_ALIKE_BITS]


def merged(proposals: Iterable[Sequence[int]], *, without: frozenset[int]) -> list[int]:
    """Merge lists of proposals in turn.

    Args:
        proposals: the lists, the best of each first.
        without: numbers to leave out.

    Returns:
        ``MOST_CANDIDATES`` different numbers at most.
    """
    taken: dict[int, None] = {}
    for row in zip_longest(*proposals):
        taken.update((number, None) for number in row if number is not None and number not in without)
    return list(taken)[:MOST_CANDIDATES]
