"""What the search for photos that look alike costs, by number of photos and by how alike they are.

Run ``python benchmarks/look_alikes.py [--quick] [--json FILE]``, on one core. The hashes are drawn: all
different; three photos of each product that differ in 8 bits from a common one; one photo with so little
noise that all copies are connected; and the worst case, codes around one photo that are near each other and
hardly ever linked, where all pairs are compared. Memory is how far the process grows, without the hashes
themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from measure import Options, cpu_seconds, finish, parse, peak_memory_bytes
from numpy.typing import NDArray

from fedrec.vision.near_duplicates import HASH_BYTES, near_duplicates

Codes = NDArray[np.uint8]


def different(count: int, rng: np.random.Generator) -> Codes:
    """Draw hashes of photos that have nothing in common."""
    return rng.integers(0, 256, (count, HASH_BYTES), dtype=np.uint8)


def around(centres: Codes, bits: int, rng: np.random.Generator) -> Codes:
    """Change ``bits`` bits of each hash, some of them twice."""
    rows = np.arange(len(centres))
    changed = centres.copy()
    for places in rng.integers(0, 8 * HASH_BYTES, (bits, len(centres))):
        changed[rows, places >> 3] ^= (1 << (places & 7)).astype(np.uint8)
    return changed


KINDS: dict[str, Callable[[int, np.random.Generator], Codes]] = {
    "all different": different,
    "three of each product": lambda count, rng: around(different(count // 3, rng).repeat(3, axis=0), 8, rng),
    "one photo, many times": lambda count, rng: around(different(1, rng).repeat(count, axis=0), 10, rng),
    "near, and hardly linked": lambda count, rng: around(different(1, rng).repeat(count, axis=0), 22, rng),
}


def main(options: Options) -> None:
    """Measure, and print the figures."""
    rows, seconds = [], {}
    sizes = (5_000, 10_000) if options.quick else (8_000, 25_000, 50_000, 100_000)
    for kind, draw in KINDS.items():
        for count in sizes:
            hashes = [code.tobytes() for code in draw(count, np.random.default_rng(count))]
            groups = near_duplicates(hashes)
            seconds[kind, count] = cpu_seconds(partial(near_duplicates, hashes), repeats=1)
            rows.append(
                {
                    "photos": kind,
                    "count": count,
                    "groups": len(groups),
                    "in groups": sum(map(len, groups)),
                    "CPU s": seconds[kind, count],
                    "MiB": peak_memory_bytes(partial(near_duplicates, hashes)) / 2**20,
                }
            )
    ratios = {
        f"{kind}: time over photos, largest to smallest": (seconds[kind, sizes[-1]] / sizes[-1])
        / (seconds[kind, sizes[0]] / sizes[0])
        for kind in KINDS
    }
    finish("look_alikes", options, rows=rows, ratios=ratios)


if __name__ == "__main__":
    main(parse("measure the search for photos that look alike"))
