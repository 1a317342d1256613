"""The one seam of secure aggregation: what a scheme does, and the types that pass through it.

A merchant encrypts a vector of integers and deals shares of its key to a committee; anyone adds
ciphertexts; each member adds the shares that it holds; enough summed shares open the sum, and only the
sum. Who may open what, and who is in the sum, isn't decided here: see ``committee``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import AggregationError
from fedrec.privacy.aggregation.parameters import SchemeParameters
from fedrec.privacy.randomness import Randomness

Int64Array = NDArray[np.int64]


class KeyMaterial:
    """A merchant's key of one round: it can be taken once, then it is wiped.

    It shows nothing of itself when printed, and it can't be pickled or copied.
    """

    __slots__ = ("_polynomial",)

    def __init__(self, polynomial: Int64Array) -> None:
        self._polynomial: Int64Array | None = polynomial

    def take(self) -> Int64Array:
        """Hand the key polynomial over and forget it. Raises ``AggregationError`` on a second use."""
        if self._polynomial is None:
            raise AggregationError("this round's key has already been used; encrypt again for a fresh key")
        polynomial, self._polynomial = self._polynomial, None
        return polynomial

    def erase(self) -> None:
        """Overwrite the key and forget it; doing so twice is harmless."""
        if self._polynomial is not None:
            self._polynomial.fill(0)
            self._polynomial = None

    def __repr__(self) -> str:
        return "KeyMaterial(used)" if self._polynomial is None else "KeyMaterial(unused)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("KeyMaterial can't be pickled or copied")


@dataclass(frozen=True)
class Encrypted:
    """One merchant's upload of a round, and the key that opens it (None where a scheme has no keys)."""

    ciphertext: bytes
    key: KeyMaterial | None


class SumOfCiphertexts(Protocol):
    """A running sum; memory stays that of one ciphertext."""

    @property
    def count(self) -> int:
        """How many ciphertexts have been added."""

    def add(self, blob: bytes) -> None:
        """Add one ciphertext.

        Raises ``AggregationError``, leaving the sum as it was, if the ciphertext is malformed or if
        the sum already holds as many as the parameters' cohort.
        """


class Scheme(Protocol):
    """Additively homomorphic aggregation of integer vectors. See the module's docstring."""

    @property
    def name(self) -> str:
        """The scheme's name in configurations and plans."""

    @property
    def trust_limit(self) -> str:
        """One sentence for people: whom a merchant has to trust, and with what."""

    @property
    def parameters(self) -> SchemeParameters:
        """The public parameters, part of the training plan."""

    def encrypt(
        self, values: Int64Array, *, training_id: str, round_number: int, rng: Randomness
    ) -> Encrypted:
        """Encrypt (d,) int64, of any size, under a fresh key read from ``rng``'s stream.

        ``training_id`` is a SHA-256 in lower-case hex. Raises ``AggregationError`` if the vector's shape or
        type, the training or the round is wrong.
        """

    def key_shares(
        self, key: KeyMaterial | None, *, members: int, threshold: int, rng: Randomness
    ) -> list[bytes]:
        """Consume a key; return its shares for members x = 1..members. Empty for a scheme without keys.

        Raises ``AggregationError`` if the key was used before or unless 1 <= threshold <= members.
        """

    def check_ciphertext(self, blob: bytes) -> None:
        """Raise ``AggregationError`` unless version, parameters, exact length and coefficients are right."""

    def new_sum(self) -> SumOfCiphertexts:
        """Start an empty sum."""

    def check_share(self, blob: bytes) -> int:
        """Return the member number x that a share is for.

        Raises ``AggregationError`` unless it is one well-formed share of a key of these parameters.
        """

    def combine_shares(self, shares: Sequence[bytes]) -> bytes:
        """Add one member's shares of several keys into that member's share of the keys' sum.

        Raises ``AggregationError`` if there are none, or one is malformed or another member's.
        """

    def open(
        self,
        total: SumOfCiphertexts,
        *,
        member_shares: Mapping[int, bytes],
        threshold: int,
        contributors: int,
        training_id: str,
        round_number: int,
    ) -> Int64Array:
        """Open a sum from the members' summed shares, keyed by member number x.

        Returns (d,) int64: the exact sum modulo 2**field_bits, centred. Raises ``AggregationError`` if
        ``contributors`` isn't the number of ciphertexts in the sum, there are fewer than ``threshold``
        shares, shares contradict each other, or keys and ciphertexts don't belong together.
        """
