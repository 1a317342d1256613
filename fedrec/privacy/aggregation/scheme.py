"""The one seam of secure aggregation: what a scheme does, and the types that pass through it.

A merchant encrypts a vector of integers; anyone adds ciphertexts; whoever may open a sum gives an answer
about that sum alone, and enough answers open it. Who answers is what tells schemes apart: nobody has to, or
a committee that holds shares of every key (``CommitteeScheme``), or one merchant that holds the key
(``HolderScheme``). What may be opened, and who is in the sum, isn't decided here: see ``committee``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import AggregationError
from fedrec.privacy.aggregation.dealing import Dealing, Published
from fedrec.privacy.aggregation.parameters import PublicParameters
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

    def __repr__(self) -> str:
        return "KeyMaterial(used)" if self._polynomial is None else "KeyMaterial(unused)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("KeyMaterial can't be pickled or copied")


@dataclass(frozen=True)
class Encrypted:
    """One merchant's upload of a round, and the key that opens it (None where a scheme has no keys)."""

    ciphertext: bytes
    key: KeyMaterial | None


@dataclass(frozen=True)
class KeyPair:
    """A training's key pair, encoded; ``private`` is for the holder's own disk and shows in no output."""

    private: bytes = field(repr=False)
    public: bytes


class SumOfCiphertexts(Protocol):
    """A running sum; memory stays that of one ciphertext."""

    @property
    def count(self) -> int:
        """How many ciphertexts have been added."""
        ...

    def add(self, blob: bytes) -> None:
        """Add one ciphertext.

        Raises ``AggregationError``, leaving the sum as it was, if the ciphertext is malformed or if
        the sum already holds as many as the parameters' cohort.
        """
        ...


@dataclass(frozen=True)
class Opened:
    """An opened sum, (d,) int64, and the members that gave a wrong answer, each with the reason."""

    values: Int64Array
    wrong: Mapping[int, str]


class Scheme(Protocol):
    """Additively homomorphic aggregation of integer vectors. See the module's docstring."""

    @property
    def name(self) -> str:
        """The scheme's name in configurations and plans."""
        ...

    @property
    def parameters(self) -> PublicParameters:
        """The public parameters, the same for whoever derives them from one training plan."""
        ...

    @property
    def answer_bytes(self) -> int:
        """The length of one answer; 0 where nobody is asked."""
        ...

    def encrypt(
        self,
        values: Int64Array,
        *,
        training_id: str,
        round_number: int,
        rng: Randomness,
        public_key: bytes | None = None,
    ) -> Encrypted:
        """Encrypt (d,) int64, of any size: under ``public_key``, or a fresh key read from ``rng``'s stream.

        ``training_id`` is a SHA-256 in lower-case hex. Raises ``AggregationError`` if the vector's shape or
        type, the training, the round or the key is wrong.
        """
        ...

    def new_sum(self) -> SumOfCiphertexts:
        """Start an empty sum."""
        ...

    def open(
        self,
        total: SumOfCiphertexts,
        *,
        answers: Mapping[int, bytes],
        threshold: int,
        contributors: int,
        training_id: str,
        round_number: int,
    ) -> Opened:
        """Open a sum from the members' answers, keyed by member number x.

        The values are the exact sum modulo 2**field_bits, centred. Malformed answers, and wrong ones as far
        as they can be told, are left out and named. Raises ``AggregationError`` if ``contributors`` isn't the
        number of ciphertexts in the sum, fewer than ``threshold`` answers are right, or answers and
        ciphertexts don't belong together.
        """
        ...


@runtime_checkable
class CommitteeScheme(Scheme, Protocol):
    """Every upload has a key of its own, dealt to a committee; a threshold of the members opens a sum."""

    @property
    def parcel_bytes(self) -> int:
        """The length of what one member is dealt of one key, before it is sealed."""
        ...

    def deal(
        self, key: KeyMaterial | None, *, members: int, threshold: int, statement: bytes, rng: Randomness
    ) -> Dealing:
        """Consume a key and deal it to members x = 1..members; ``statement`` names round and dealer.

        Raises ``AggregationError`` if the key was used before or unless 1 <= threshold <= members.
        """
        ...

    def accept(
        self, parcel: bytes, published: Published, *, member: int, threshold: int, statement: bytes
    ) -> bytes:
        """Check a parcel against what its dealer published; return the member's share of the key.

        Raises ``AggregationError`` if the dealer is at fault.
        """
        ...

    def combine_shares(self, shares: Sequence[bytes]) -> bytes:
        """Add one member's shares of several keys into that member's answer: its share of the keys' sum.

        Raises ``AggregationError`` if there are none, or one is malformed or another member's.
        """
        ...


@runtime_checkable
class HolderScheme(Scheme, Protocol):
    """One merchant makes a key pair for a training, publishes one half and opens sums with the other."""

    @property
    def public_key_bytes(self) -> int:
        """The length of a public key."""
        ...

    def make_keys(self) -> KeyPair:
        """Make a key pair from the operating system's entropy."""
        ...

    def answer(self, total: SumOfCiphertexts, *, private_key: bytes, contributors: int) -> bytes:
        """Decrypt a sum and return its integers, encoded, and nothing else that decryption shows.

        Raises ``AggregationError`` if the key is malformed, ``contributors`` isn't the number of ciphertexts
        in the sum, or what is left beside the integers isn't the ciphertexts' noise.
        """
        ...
