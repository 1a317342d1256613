"""What the primal attack costs against the ring of the key-additive scheme: our own estimate, of it alone.

The uSVP estimate of Alkim, Ducas, Poeppelmann and Schwabe 2016 ("Post-quantum Key Exchange: A New Hope",
section 6.3): BKZ of block size b finds the secret where sigma sqrt(b) <= delta^(2b - d) vol^(1/d), over every
number m of samples. Costs: core-SVP, 2^(0.292 b) (classical) and 2^(0.265 b) (quantum), which count one call
of the oracle; and 2^(0.292 b + 16.4) 8 d, the sieving of Becker, Ducas, Gama and Laarhoven 2016 as the
lattice estimator (Albrecht, Player and Scott 2015) counts it. Dual and hybrid attacks, and the ring's
structure, are not looked at.

Run ``python benchmarks/lattice.py``; it takes a few seconds and no data.
"""

from __future__ import annotations

import math

from fedrec.privacy.aggregation.ring import NOISE_STD

REDUCED_STD = NOISE_STD / 2
"""The width of the problem that Hint-RLWE at the scheme's width reduces to."""

STANDARD = ("the standard's 128-bit line", 2048, 54, math.sqrt(2 / 3), 3.19)
"""HomomorphicEncryption.org 2018: ternary secrets, errors of 8 / sqrt(2 pi)."""


def root_hermite(block: int) -> float:
    """Return delta of BKZ with this block size (Chen 2013)."""
    return float(
        ((math.pi * block) ** (1 / block) * block / (2 * math.pi * math.e)) ** (1 / (2 * (block - 1)))
    )


def solves(block: int, *, degree: int, samples: int, modulus_bits: int, secret: float, error: float) -> bool:
    """Tell whether the estimate has BKZ find the secret from so many samples."""
    dimension = degree + samples + 1
    log_volume = samples * modulus_bits * math.log(2) + degree * math.log(error / secret)
    reach = (2 * block - dimension) * math.log(root_hermite(block)) + log_volume / dimension
    return math.log(error) + math.log(block) / 2 <= reach


def attack(*, degree: int, modulus_bits: int, secret: float, error: float) -> tuple[int, int]:
    """Return the smallest block size that succeeds, and the smallest lattice dimension it succeeds in."""

    def dimensions(block: int) -> list[int]:
        return [
            degree + samples + 1
            for samples in range(degree // 4, 2 * degree, 8)
            if solves(
                block, degree=degree, samples=samples, modulus_bits=modulus_bits, secret=secret, error=error
            )
        ]

    low, high = 60, 2 * degree
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if dimensions(middle) else (middle + 1, high)
    return low, min(dimensions(low))


def main() -> None:
    """Print a row for the standard's own example, and one for each ring."""
    rings = [(2048, bits) for bits in (54, 52, 49, 47, 44)] + [(4096, bits) for bits in (60, 57, 55)]
    cases = [STANDARD] + [(f"{n}, {bits} bits", n, bits, REDUCED_STD, REDUCED_STD) for n, bits in rings]
    print("| ring | block size | core-SVP, classical | core-SVP, quantum | sieving's cost |")
    print("|---|---|---|---|---|")
    for name, degree, bits, secret, error in cases:
        block, dimension = attack(degree=degree, modulus_bits=bits, secret=secret, error=error)
        sieving = 0.292 * block + 16.4 + math.log2(8 * dimension)
        print(f"| {name} | {block} | {0.292 * block:.1f} | {0.265 * block:.1f} | {sieving:.1f} |")


if __name__ == "__main__":
    main()
