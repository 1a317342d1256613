"""Connect binary codes that differ in few bits, without comparing all pairs.

Codes that differ in at most ``bits`` bits are linked, and a component is what links connect. The bits are
divided into so many parts that linked codes differ in at most one bit of some part: without that bit, they
agree in the part, and stand in one run once the codes are sorted by it. Only codes of one run are compared,
and only while they are in different components. Codes that lie close together are connected first, by
comparing neighbours in the sorted order.

Where codes agree in so much that the runs hold a large share of all pairs, all pairs are compared instead, in
blocks. Either way the memory is proportional to the number of codes.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

_BITS: Final = 256
_FEWEST_PARTS: Final = 8
"""A part has at most 32 bits then: it fits into one integer with the position of its code."""
_NEIGHBOURS: Final = 4
_SHORT_RUN: Final = 128
"""Longer runs are compared in blocks."""
_ONE_BY_ONE: Final = 16
"""Time of comparing a pair of a shorter run, over that of a pair in a block."""
_FEW: Final = 1024
"""So few codes are compared in all pairs."""
_BLOCK: Final = 256
_MANY: Final = 0.05
"""Share of a block's pairs that are looked up one by one; with more, all words of all pairs are compared."""
_PAIRS: Final = 1 << 18
"""Pairs whose distances are computed at a time."""
_TOGETHER: Final = 4096
"""Codes whose bits are unpacked at a time."""
_MOST_IN_RUNS: Final = 0.25
"""Share of the time for all pairs that is spent on runs before all pairs are compared instead."""

Positions = NDArray[np.int64]


def hamming_components(codes: NDArray[np.uint8], *, bits: int) -> Positions:
    """Find the connected components of codes that differ in few bits.

    Args:
        codes: uint8 (n, 32): n codes of 256 bits.
        bits: largest Hamming distance of two codes that are linked.

    Returns:
        int64 (n,): the number of each code's component.
    """
    search = _Search(codes, bits)
    if len(codes) <= _FEW or not search.compare_runs():
        search.compare_all(np.arange(len(codes)))
    return search.component


class _Search:
    """The components found so far.

    Attributes:
        component: number of each code's component; every code alone at first.
    """

    def __init__(self, codes: NDArray[np.uint8], bits: int) -> None:
        self._bits = bits
        self.component: Positions = np.arange(len(codes))
        parts = max(_FEWEST_PARTS, bits // 2 + 1)
        self._words: NDArray[np.uint64] = np.zeros((len(codes), _BITS // 64), dtype=np.uint64)
        self._parts: NDArray[np.uint64] = np.zeros((parts, len(codes)), dtype=np.uint64)
        order = _most_even_first(codes)
        for start in range(0, len(codes), _TOGETHER):
            rows = slice(start, start + _TOGETHER)
            unpacked = np.unpackbits(codes[rows], axis=1).take(order, axis=1)
            # The first word tells most pairs apart, and every part has its share of the bits that do.
            self._words[rows] = np.packbits(unpacked, axis=1).view(np.uint64)
            for part in range(parts):
                for bit in unpacked[:, part::parts].T:
                    self._parts[part, rows] = self._parts[part, rows] << np.uint64(1) | bit

    def compare_runs(self) -> bool:
        """Compare the codes of each run.

        Returns:
            False, and some runs are left, where comparing all pairs takes less time.
        """
        for part in self._parts:
            order, _ = _sorted(part)
            for distance in range(1, _NEIGHBOURS + 1):
                self._compare(order[:-distance], order[distance:])
        left = _MOST_IN_RUNS * len(self.component) ** 2 / 2
        for number, part in enumerate(self._parts):
            for bit in range(len(range(number, _BITS, len(self._parts)))):
                order, starts = _sorted(part & ~np.uint64(1 << bit))
                begins, lengths = self._undecided(order, starts)
                long = lengths > _SHORT_RUN
                pairs = lengths.astype(np.float64) ** 2 / 2
                left -= pairs[long].sum() + _ONE_BY_ONE * pairs[~long].sum()
                if left < 0:
                    return False
                for begin, length in zip(begins[long], lengths[long], strict=True):
                    self.compare_all(order[begin : begin + length])
                self._compare_short(order, begins[~long], lengths[~long])
        return True

    def compare_all(self, positions: Positions) -> None:
        """Compare all pairs of these codes that are in different components, in blocks."""
        order = positions[np.argsort(self.component[positions], kind="stable")]
        blocks = [order[start : start + _BLOCK] for start in range(0, len(order), _BLOCK)]
        for number, rows in enumerate(blocks):
            for columns in blocks[number:]:
                found = self.component[np.concatenate((rows, columns))]
                if (found != found[0]).any():
                    first, second = self._near(rows, columns)
                    self._compare(rows[first], columns[second])

    def _near(self, rows: Positions, columns: Positions) -> tuple[Positions, Positions]:
        """Return row and column of each pair that may differ in few enough bits."""
        differing = np.bitwise_count(self._words[rows, None, 0] ^ self._words[None, columns, 0])
        near = differing <= self._bits
        if np.count_nonzero(near) > _MANY * near.size:
            whole = differing.astype(np.uint16)
            for word in range(1, self._words.shape[1]):
                whole += np.bitwise_count(self._words[rows, None, word] ^ self._words[None, columns, word])
            near = whole <= self._bits
        # Positions in the flat array are found in a third of the time.
        first, second = np.divmod(np.flatnonzero(near), len(columns))
        return first, second

    def _undecided(self, order: Positions, starts: Positions) -> tuple[Positions, Positions]:
        """Return beginnings and lengths of the runs whose codes are not all in one component."""
        found = self.component[order]
        mixed = np.minimum.reduceat(found, starts[:-1]) != np.maximum.reduceat(found, starts[:-1])
        return starts[:-1][mixed], np.diff(starts)[mixed]

    def _compare_short(self, order: Positions, begins: Positions, lengths: Positions) -> None:
        """Compare all pairs of each run, one distance in the order after the other."""
        for distance in range(1, _SHORT_RUN):
            begins, lengths = begins[lengths > distance], lengths[lengths > distance]
            if not len(begins):
                return
            ends = np.cumsum(lengths - distance)
            inside = np.arange(ends[-1]) - np.repeat(ends - (lengths - distance), lengths - distance)
            first = np.repeat(begins, lengths - distance) + inside
            self._compare(order[first], order[first + distance])

    def _compare(self, first: Positions, second: Positions) -> None:
        """Connect those of the pairs that differ in few enough bits."""
        apart = self.component[first] != self.component[second]
        first, second = first[apart], second[apart]
        linked = [np.zeros(0, dtype=bool)]
        for start in range(0, len(first), _PAIRS):
            pairs = slice(start, start + _PAIRS)
            differing = np.bitwise_count(self._words[first[pairs]] ^ self._words[second[pairs]])
            linked.append(differing.sum(axis=1, dtype=np.int64) <= self._bits)
        near = np.concatenate(linked)
        if near.any():
            self._connect(self.component[first[near]], self.component[second[near]])

    def _connect(self, first: Positions, second: Positions) -> None:
        """Merge components by number, pair by pair."""
        involved, compact = np.unique(np.concatenate([first, second]), return_inverse=True)
        ends = compact.reshape(2, -1)
        graph = coo_array((np.ones(len(first), dtype=bool), (ends[0], ends[1])), shape=(len(involved),) * 2)
        _, group_of = connected_components(graph, directed=False)
        # The least number of each group stands for it; the numbers ascend.
        _, least = np.unique(group_of, return_index=True)
        replaced = np.arange(len(self.component))
        replaced[involved] = involved[least][group_of]
        self.component = replaced[self.component]


def _most_even_first(codes: NDArray[np.uint8]) -> Positions:
    """Order the bits by how evenly they are distributed, the most even first."""
    ones = np.zeros(_BITS, dtype=np.int64)
    for start in range(0, len(codes), _TOGETHER):
        ones += np.unpackbits(codes[start : start + _TOGETHER], axis=1).sum(axis=0, dtype=np.int64)
    return np.argsort(np.abs(2 * ones - len(codes)), kind="stable")


def _sorted(keys: NDArray[np.uint64]) -> tuple[Positions, Positions]:
    """Sort by keys of at most 32 bits.

    Args:
        keys: one for each code.

    Returns:
        The positions in the order of their keys, and where each run of equal keys starts, with the last one's
        end.
    """
    packed = np.sort(keys << np.uint64(32) | np.arange(len(keys), dtype=np.uint64))
    values = packed >> np.uint64(32)
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1], [True]]))
    return (packed & np.uint64(0xFFFFFFFF)).astype(np.int64), starts
