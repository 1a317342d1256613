"""Implement scheme ``kahe``: key-additive encryption from ring learning with errors, opened by a committee.

Block j of a merchant's packed integers m is encrypted as c_j = a_j * k + e_j + step * m_j in Z_q[x]/(x^N +
1). The polynomials a_j are public and derived from the training and the round. The key k and the errors e_j
are fresh discrete Gaussians. A sum of ciphertexts opens under the sum K of the keys, so that only K is ever
reconstructed: each k is Shamir-shared to the committee, and the members first add their shares. Commitments
let every share and every sum of shares be checked. Bell et al. 2022 (ACORN), Li et al. 2023 (LERNA) and
Bell-Clark et al. 2024 (Willow) build on the same idea. The opener learns K and the sum of the errors. This is
ring learning with errors with hints, which Kim et al. 2023 reduce to the problem without hints; see
:data:`fedrec.privacy.aggregation.ring.NOISE_STD`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import AggregationError
from fedrec.privacy.aggregation import dealing, packing, ring, scalar_sharing, wire
from fedrec.privacy.aggregation.parameters import (
    PublicParameters,
    SchemeParameters,
    choose_ring,
    noise_bound,
)
from fedrec.privacy.aggregation.scheme import Encrypted, KeyMaterial, SumOfCiphertexts
from fedrec.privacy.aggregation.spec import SchemeSpec
from fedrec.privacy.randomness import Randomness
from fedrec.protocol.trust import TrustModel

NAME = "kahe"

_PART = 1 << 15
"""Coefficients per step, a multiple of every ring degree; 256 KiB fit into caches."""

Int64Array = NDArray[np.int64]
UInt64Array = NDArray[np.uint64]


def choose_parameters(*, dimension: int, cohort: int, max_abs_sum: int) -> SchemeParameters:
    """Choose the parameters with :func:`fedrec.privacy.aggregation.parameters.choose_ring`.

    Args:
        dimension: integers per merchant.
        cohort: most merchants in one sum.
        max_abs_sum: bound on the absolute value of every coordinate of a sum.

    Returns:
        The parameters.

    Raises:
        AggregationError: the arguments are out of range, or no ring fits.
    """
    return choose_ring(name=NAME, dimension=dimension, cohort=cohort, max_abs_sum=max_abs_sum)


class KaheSum:
    """A running sum of ciphertexts modulo q."""

    def __init__(self, parameters: SchemeParameters, modulus: int) -> None:
        self._parameters = parameters
        self._modulus = modulus
        self._count = 0
        self.coefficients: UInt64Array = np.zeros(parameters.coefficients, dtype=np.uint64)

    @property
    def count(self) -> int:
        """How many ciphertexts have been added."""
        return self._count

    def add(self, blob: bytes) -> None:
        """Add one ciphertext.

        Raises:
            AggregationError: the ciphertext is malformed, or the sum already holds a cohort; the sum is
                unchanged.
        """
        if self._count >= self._parameters.cohort:
            raise AggregationError(f"the sum already holds a cohort of {self._parameters.cohort} ciphertexts")
        added = wire.decode(blob, self._parameters)
        self.coefficients = ring.add_modulo(self.coefficients, added, self._modulus)
        self._count += 1


class KaheScheme:
    """Scheme ``kahe``; implements :class:`fedrec.privacy.aggregation.scheme.CommitteeScheme`.

    Raises:
        AggregationError: the parameters are of another scheme.
    """

    name = NAME

    def __init__(self, parameters: PublicParameters) -> None:
        if (
            not isinstance(parameters, SchemeParameters)
            or parameters.name != NAME
            or parameters.modulus is None
        ):
            raise AggregationError(
                f"these parameters are of scheme {parameters.name}, not {NAME} with its ring"
            )
        self.parameters = parameters
        self._modulus: int = parameters.modulus
        self._packing = parameters.key_packing

    def _masks(self, key: Int64Array, *, training_id: str, round_number: int) -> ring.Masks:
        return ring.Masks(
            key,
            training_id=training_id,
            round_number=round_number,
            degree=self.parameters.ring_degree,
            modulus=self._modulus,
        )

    def _parts(self) -> Iterator[slice]:
        """Split the coefficients into parts that are processed one after another, to limit memory."""
        for start in range(0, self.parameters.coefficients, _PART):
            yield slice(start, min(start + _PART, self.parameters.coefficients))

    @property
    def answer_bytes(self) -> int:
        """Length of an answer in bytes: a member's share of a summed key."""
        return dealing.share_bytes(self._packing.scalars)

    @property
    def parcel_bytes(self) -> int:
        """Length of a member's parcel for one key in bytes."""
        return dealing.share_bytes(self._packing.scalars)

    def encrypt(
        self,
        values: Int64Array,
        *,
        training_id: str,
        round_number: int,
        rng: Randomness,
        public_key: bytes | None = None,
    ) -> Encrypted:
        """Encrypt values under a fresh key.

        Args:
            values: (d,) int64, of any size.
            training_id: SHA-256 of the plan, 64 lower-case hexadecimal digits.
            round_number: the round, from 0 to 2**64 - 1.
            rng: randomness; the key and the errors are read from its stream.
            public_key: must be None.

        Returns:
            The ciphertext and its key.

        Raises:
            AggregationError: shape, type, training or round is wrong, or there is a public key.
        """
        if public_key is not None:
            raise AggregationError(f"scheme {NAME} has no public key, but one was given")
        p = self.parameters
        if values.shape != (p.dimension,) or values.dtype != np.int64:
            raise AggregationError(
                f"a merchant's values must be int64 of shape ({p.dimension},), "
                f"not {values.dtype} of {values.shape}"
            )
        # The key is read from the stream, not from a child generator. A child depends on its label only: two
        # encryptions with one generator would use the same key, and the difference of the ciphertexts would
        # reveal the difference of the values.
        key = ring.small(p.ring_degree, rng)
        masks = self._masks(key, training_id=training_id, round_number=round_number)
        ciphertext = np.empty(p.coefficients, dtype=np.uint64)
        for part in self._parts():
            noisy = packing.pack_part(
                values,
                fields=p.values_per_coefficient,
                field_bits=p.field_bits,
                start=part.start,
                stop=part.stop,
            )
            noisy *= np.int64(p.step)  # |m * step| <= (q - 1) / 2
            noisy += ring.small(noisy.size, rng)
            ciphertext[part] = ring.add_modulo(
                ring.lift(noisy, self._modulus), masks.part(part.start, part.stop), self._modulus
            )
        return Encrypted(ciphertext=wire.encode(ciphertext, p), key=KeyMaterial(key))

    def deal(
        self, key: KeyMaterial | None, *, members: int, threshold: int, rng: Randomness
    ) -> dealing.Dealing:
        """Deal a key to members 1..members, and wipe it.

        Args:
            key: the key of one ciphertext.
            members: number of members.
            threshold: shares that reconstruct the key.
            rng: randomness of shares and commitments.

        Returns:
            The parcels and the public part.

        Raises:
            AggregationError: there is no key, it was used before, or not 1 <= threshold <= members.
        """
        if key is None:
            raise AggregationError(f"scheme {NAME} has a key for every ciphertext; none was given")
        polynomial = key.take()
        try:
            return dealing.deal(self._packing.pack(polynomial), members=members, threshold=threshold, rng=rng)
        finally:
            polynomial.fill(0)

    def wrong_parcels(
        self,
        parcels: Sequence[bytes],
        published: Sequence[dealing.Published],
        *,
        member: int,
        threshold: int,
    ) -> list[int]:
        """Check parcels with :func:`fedrec.privacy.aggregation.dealing.wrong_parcels`.

        Args:
            parcels: one member's opened parcels.
            published: the public part of each dealing.
            member: number of this member, from 1.
            threshold: shares that reconstruct a key.

        Returns:
            The positions of the parcels whose dealers are at fault.
        """
        return dealing.wrong_parcels(
            parcels, published, member=member, count=self._packing.scalars, threshold=threshold
        )

    def dealt_sum(self, published: Sequence[dealing.Published], *, threshold: int) -> dealing.DealtSum:
        """Add the commitments of several dealings.

        Args:
            published: the public part of each dealing.
            threshold: shares that reconstruct a key.

        Returns:
            What answers about the sum of these keys are checked against.

        Raises:
            AggregationError: a dealing is malformed.
        """
        return dealing.DealtSum(published, count=self._packing.scalars, threshold=threshold)

    def read_share(self, parcel: bytes, *, member: int) -> Int64Array:
        """Read one member's share as if it were a key, as an attacker might; it is as good as random.

        Args:
            parcel: the share, encoded.
            member: number of the member.

        Returns:
            The low bits of the share's scalars as coefficients, int64 (ring_degree,).

        Raises:
            AggregationError: the share is malformed, or another member's.
        """
        count = self._packing.scalars
        share = dealing.decode_share(parcel, member=member, count=count)
        return self._packing.low_digits(share[:count])

    def new_sum(self) -> KaheSum:
        """Start an empty sum."""
        return KaheSum(self.parameters, self._modulus)

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
        return dealing.add_shares(parcels, member=member, count=self._packing.scalars)

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
        """Open a sum; detect keys that don't belong to the ciphertexts by the remaining noise.

        Args:
            total: the sum.
            answers: the members' shares of the summed key, by member number; checked before, each against
                the commitments.
            threshold: shares that reconstruct the key.
            contributors: number of ciphertexts that must be in the sum.
            training_id: SHA-256 of the plan, 64 lower-case hexadecimal digits.
            round_number: the round.

        Returns:
            The sum, (d,) int64 modulo 2**field_bits, centred.

        Raises:
            AggregationError: the sum has another number of ciphertexts, there are too few answers, or the
                dealt keys don't belong to the ciphertexts, which is a dealer's fault.
        """
        p = self.parameters
        if not isinstance(total, KaheSum) or total.coefficients.size != p.coefficients:
            raise AggregationError("the sum is of another scheme or of other parameters")
        if contributors < 1 or total.count != contributors:
            raise AggregationError(f"the sum holds {total.count} ciphertexts, not the {contributors} stated")
        key = self._summed_key(answers, threshold=threshold)
        if int(np.abs(key).max()) > noise_bound(coefficients=p.noisy_coefficients, cohort=contributors):
            raise AggregationError(
                "the opened key is too large to be a sum of merchants' keys: a merchant dealt a wrong one"
            )
        masks = self._masks(key, training_id=training_id, round_number=round_number)
        packed = np.empty(p.coefficients, dtype=np.int64)
        step, largest, squares = np.uint64(p.step), 0, 0.0
        for part in self._parts():
            # Subtract the mask by adding q - mask, which is in [1, q].
            added = total.coefficients[part] + (np.uint64(self._modulus) - masks.part(part.start, part.stop))
            noisy = np.minimum(added, added - np.uint64(self._modulus))
            quotient = (noisy + step // np.uint64(2)) // step
            residues = noisy.astype(np.int64) - (quotient * step).astype(np.int64)
            largest = max(largest, int(np.abs(residues).max()))
            squares += float(np.square(residues.astype(np.float64)).sum())
            packed[part] = (quotient & np.uint64((1 << p.plaintext_bits) - 1)).view(np.int64)
        self._check_residues(largest, math.sqrt(squares / p.coefficients), contributors)
        return packing.unpack(
            packed, dimension=p.dimension, fields=p.values_per_coefficient, field_bits=p.field_bits
        )

    def _summed_key(self, answers: Mapping[int, bytes], *, threshold: int) -> Int64Array:
        """Reconstruct the sum of the keys from as many answers as the threshold; the others add nothing."""
        if not 1 <= threshold <= len(answers):
            raise AggregationError(f"{len(answers)} key shares are too few: the threshold is {threshold}")
        count = self._packing.scalars
        chosen = sorted(answers)[:threshold]
        shares = {x: dealing.decode_share(answers[x], member=x, count=count)[:count] for x in chosen}
        return self._packing.unpack(scalar_sharing.interpolate(shares))

    def _check_residues(self, largest: int, root_mean_square: float, contributors: int) -> None:
        """Check that the residues of an opened sum are the merchants' noise.

        A residue is the summed error minus the number of times that the packed sum wrapped around, which is
        at most contributors / 2. The errors are sub-Gaussian with proxy 49 n, so that the moment generating
        function of their squares is at most that of a chi-square variable. By Chernoff's bound the mean
        square of m errors exceeds twice 49 n with probability below exp(-m (1 - ln 2) / 2) = exp(-0.153 m),
        which is below 2**-56 because m is at least ``packing.GROUP``. Under a wrong key residues are uniform
        over a step; their root mean square is more than 1.5 times the limit in every cohort.

        Raises:
            AggregationError: the residues are too large.
        """
        wraps = contributors / 2 + 1
        bound = self.parameters.noise_bound + wraps
        expected = ring.NOISE_STD * math.sqrt(2 * contributors) + wraps
        if largest > bound or root_mean_square > expected:
            raise AggregationError(
                "the sum doesn't open under the dealt keys: a merchant encrypted under another key than it "
                "dealt, or a ciphertext is of another round"
            )


SPEC = SchemeSpec(
    name=NAME,
    trust=TrustModel(opened_by="committee", reads_single_updates="nobody_below_threshold", epsilon_of="sum"),
    trust_limit=(
        "Nobody sees one merchant's update unless a threshold of the committee works together against it; "
        "this rests on ring learning with errors, at parameters that nobody else has reviewed yet."
    ),
    create=KaheScheme,
    choose_parameters=choose_parameters,
)
