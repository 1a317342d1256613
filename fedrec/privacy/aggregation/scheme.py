"""Define the interface of an aggregation scheme and the types that pass through it.

A merchant encrypts a vector of integers. Anyone adds ciphertexts. A party that may open a sum gives an answer
that reveals only that sum; enough answers open it. Schemes differ in who answers: nobody has to, or a
committee that holds shares of every key (``CommitteeScheme``), or one merchant that holds the key
(``HolderScheme``). What may be opened, and who is in the sum, is decided by
:mod:`fedrec.privacy.aggregation.committee`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import AggregationError
from fedrec.privacy.aggregation.dealing import Dealing, DealtSum, Published
from fedrec.privacy.aggregation.parameters import PublicParameters
from fedrec.privacy.randomness import Randomness

Int64Array = NDArray[np.int64]


class KeyMaterial:
    """A merchant's key of one round; it can be taken only once.

    Its text form doesn't reveal the key, and it can't be pickled or copied.
    """

    __slots__ = ("_polynomial",)

    def __init__(self, polynomial: Int64Array) -> None:
        self._polynomial: Int64Array | None = polynomial

    def take(self) -> Int64Array:
        """Return the key polynomial and drop the reference to it; ``AggregationError`` on a second call."""
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
    """One merchant's upload of a round, and the key that opens it (None if the scheme has no such key)."""

    ciphertext: bytes
    key: KeyMaterial | None


@dataclass(frozen=True)
class KeyPair:
    """A training's key pair, encoded; ``private`` stays on the holder's disk and appears in no output."""

    private: bytes = field(repr=False)
    public: bytes


class SumOfCiphertexts(Protocol):
    """A running sum of ciphertexts, in the memory of one ciphertext."""

    @property
    def count(self) -> int:
        """How many ciphertexts have been added."""
        ...

    def add(self, blob: bytes) -> None:
        """Add one ciphertext.

        Raises:
            AggregationError: the ciphertext is malformed, or the sum already holds as many as the parameters'
                cohort; the sum is unchanged.
        """
        ...


class Scheme(Protocol):
    """Additively homomorphic aggregation of integer vectors; see the module's docstring."""

    @property
    def name(self) -> str:
        """The scheme's name in configurations and plans."""
        ...

    @property
    def parameters(self) -> PublicParameters:
        """The public parameters; every party derives the same ones from a training plan."""
        ...

    @property
    def answer_bytes(self) -> int:
        """Length of one answer in bytes; 0 if opening needs no answers."""
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
        """Encrypt a vector of integers.

        Args:
            values: (d,) int64, of any size.
            training_id: SHA-256 of the plan, 64 lower-case hexadecimal digits.
            round_number: the round.
            rng: randomness; a fresh key is read from its stream if the scheme has no public key.
            public_key: the training's public key; None if the scheme has none.

        Returns:
            The ciphertext, and its key if it has one.

        Raises:
            AggregationError: shape or type of the vector, the training, the round or the key is wrong.
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
    ) -> Int64Array:
        """Open a sum.

        Args:
            total: the sum.
            answers: the members' answers, by member number x from 1. If keys are dealt to a committee, they
                have been checked with :meth:`CommitteeScheme.dealt_sum`.
            threshold: answers that open a sum.
            contributors: number of ciphertexts that must be in the sum.
            training_id: SHA-256 of the plan, 64 lower-case hexadecimal digits.
            round_number: the round.

        Returns:
            The exact sum modulo 2**field_bits, centred, int64 (d,).

        Raises:
            AggregationError: the sum has another number of ciphertexts, there are fewer than ``threshold``
                answers, or they don't belong to the ciphertexts.
        """
        ...


@runtime_checkable
class CommitteeScheme(Scheme, Protocol):
    """A scheme with a key per upload, dealt to a committee; a threshold of its members opens a sum."""

    @property
    def parcel_bytes(self) -> int:
        """Length of a member's parcel for one key in bytes, before sealing."""
        ...

    def deal(self, key: KeyMaterial | None, *, members: int, threshold: int, rng: Randomness) -> Dealing:
        """Deal a key to members x = 1..members, and wipe it.

        Args:
            key: the key of one ciphertext.
            members: number of members.
            threshold: shares that reconstruct the key.
            rng: randomness.

        Returns:
            The parcels and the public part.

        Raises:
            AggregationError: the key was used before, or not 1 <= threshold <= members.
        """
        ...

    def wrong_parcels(
        self, parcels: Sequence[bytes], published: Sequence[Published], *, member: int, threshold: int
    ) -> list[int]:
        """Check one member's parcels against the public parts of their dealings.

        Args:
            parcels: the opened parcels.
            published: the public part of each dealing.
            member: number of this member, from 1.
            threshold: shares that reconstruct a key.

        Returns:
            The positions of the parcels whose dealers are at fault.
        """
        ...

    def combine_shares(self, parcels: Sequence[bytes], *, member: int) -> bytes:
        """Add one member's shares of several keys.

        Args:
            parcels: its opened parcels.
            member: number of this member, from 1.

        Returns:
            The member's share of the sum of the keys, encoded: its answer.

        Raises:
            AggregationError: there are no parcels, or one is malformed or another member's.
        """
        ...

    def dealt_sum(self, published: Sequence[Published], *, threshold: int) -> DealtSum:
        """Add the commitments of several dealings.

        Args:
            published: the public part of each dealing.
            threshold: shares that reconstruct a key.

        Returns:
            What answers about the sum of these keys are checked against.

        Raises:
            AggregationError: a dealing is malformed.
        """
        ...


@runtime_checkable
class HolderScheme(Scheme, Protocol):
    """A scheme where one merchant makes a key pair for a training and opens sums with the private key."""

    @property
    def public_key_bytes(self) -> int:
        """Length of a public key in bytes."""
        ...

    def make_keys(self) -> KeyPair:
        """Make a key pair from the operating system's entropy."""
        ...

    def answer(self, total: SumOfCiphertexts, *, private_key: bytes, contributors: int) -> bytes:
        """Decrypt a sum.

        Args:
            total: the sum.
            private_key: the holder's private key, encoded.
            contributors: number of ciphertexts that must be in the sum.

        Returns:
            The integers of the sum, encoded; nothing else that decryption shows.

        Raises:
            AggregationError: the key is malformed, the sum has another number of ciphertexts, or the residue
                beside the integers is not the ciphertexts' noise.
        """
        ...
