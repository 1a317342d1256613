"""Make what each party sees of a step, with the training's own code: updates, ciphertexts, shares, sums."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from fedrec.errors import AggregationError
from fedrec.privacy.aggregation import kahe, packing, ring, wire
from fedrec.privacy.aggregation.seats import choose_seats
from fedrec.privacy.dp.calibration import NoisePlan, NoiseRequest, plan_noise
from fedrec.privacy.dp.clipping import clipped_sum
from fedrec.privacy.dp.step import DpSgdSettings, contribute
from fedrec.privacy.randomness import Randomness
from fedrec.protocol import modes

_UNCLIPPED = 1e12
"""A clipping bound that no gradient reaches."""
_ROUND = 1
_TRAINING_ID = hashlib.sha256(b"fedrec/inversion/1").hexdigest()
_TARGET = 0
"""The index of the attacked merchant."""
_MEMBER = 2
"""The number of the committee member that helps the attacker."""


@dataclass(frozen=True)
class Photos:
    """One merchant's model inputs, float32 (n, 1, C, H, W), and labels, int64 (n,)."""

    inputs: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Defence:
    """The settings of the training under attack."""

    epsilon: float
    delta: float
    clip: float
    sample_rate: float
    steps: int
    merchants: int
    colluders: int


@dataclass(frozen=True)
class View:
    """What one party sees.

    Attributes:
        name: of the view.
        update: float64 (d,), read as a gradient.
        protected: whether the design says that it reveals no photo.
    """

    name: str
    update: NDArray[np.float64]
    protected: bool


def noise_of_training(defence: Defence, *, dimension: int, records: int) -> NoisePlan:
    """Plan the noise of the whole training.

    Args:
        defence: the training's settings.
        dimension: number of parameters.
        records: number of records of each merchant.

    Returns:
        The noise plan.

    Raises:
        ConfigError: the settings don't go together.
    """
    return plan_noise(
        NoiseRequest(
            mode=modes.DISTRIBUTED.name,
            epsilon=defence.epsilon,
            noise_multiplier=None,
            delta=defence.delta,
            sample_rate=defence.sample_rate,
            steps=defence.steps,
            dimension=dimension,
            clip=defence.clip,
            cohort=defence.merchants,
            min_contributors=defence.merchants,
            colluders=defence.colluders,
            records_per_merchant=records,
        )
    )


def noise_of_attacked_step(defence: Defence, training: NoisePlan, *, records: int) -> NoisePlan:
    """Plan the attacked step: the training's noise, but with every record in it, which favours the attacker.

    Args:
        defence: the training's settings.
        training: from :func:`noise_of_training`.
        records: number of records of each merchant in the step.

    Returns:
        The noise plan.
    """
    return plan_noise(
        NoiseRequest(
            mode=modes.DISTRIBUTED.name,
            epsilon=None,
            noise_multiplier=training.noise_multiplier,
            delta=defence.delta,
            sample_rate=1.0,
            steps=defence.steps,
            dimension=training.dimension,
            clip=defence.clip,
            cohort=defence.merchants,
            min_contributors=defence.merchants,
            colluders=defence.colluders,
            records_per_merchant=records,
        )
    )


def observe(
    model: nn.Module, cohort: Sequence[Photos], defence: Defence, *, step: NoisePlan, rng: Randomness
) -> list[View]:
    """Return every party's view of one step of merchant 0.

    The views in order:

    - the raw and the clipped sum, which only the merchant's own machine ever holds;
    - its noised share, which would be seen if the encryption were broken;
    - its ciphertext, which the server has;
    - that with one member's key share, which the server and a committee member have together;
    - the opened sum;
    - the opened sum less what the colluders sent: they know that, so only the other merchants' noise is left.

    Args:
        model: the network, at the step's parameters.
        cohort: the photos of all merchants.
        defence: the training's settings.
        step: from :func:`noise_of_attacked_step`.
        rng: randomness of the merchants.

    Returns:
        The views.

    Raises:
        ConfigError: ``step`` doesn't fit the model.
        AggregationError: no encryption parameters fit.
    """
    target = cohort[_TARGET]
    exact = [
        clipped_sum(model, target.inputs, target.labels, clip=bound) for bound in (_UNCLIPPED, defence.clip)
    ]
    shares = [
        contribute(
            model,
            photos.inputs,
            photos.labels,
            settings=DpSgdSettings(clip=defence.clip, sample_rate=step.sample_rate),
            plan=step,
            rng=rng.child("merchant", index),
        )
        for index, photos in enumerate(cohort)
    ]
    known = np.sum(shares[len(shares) - defence.colluders :], axis=0, dtype=np.int64)
    sealed = Exchange.run(shares, defence, step=step, rng=rng.child("encryption"))

    def in_gradient_units(values: NDArray[np.int64]) -> NDArray[np.float64]:
        return values.astype(np.float64) * (defence.clip / step.scale)

    return [
        View("raw_update", exact[0], protected=False),
        View("clipped_update", exact[1], protected=False),
        View("noised_update", in_gradient_units(shares[_TARGET]), protected=True),
        View("ciphertext", in_gradient_units(sealed.read(None)), protected=True),
        View("ciphertext_and_key_share", in_gradient_units(sealed.read_with_one_share()), protected=True),
        View("opened_sum", in_gradient_units(sealed.opened), protected=True),
        View("opened_sum_less_colluders", in_gradient_units(sealed.opened - known), protected=True),
    ]


@dataclass(frozen=True)
class Exchange:
    """One round of secure aggregation: the target's ciphertext, one share of its key, and the opened sum."""

    scheme: kahe.KaheScheme
    ciphertext: bytes
    share: bytes
    opened: NDArray[np.int64]

    @classmethod
    def run(
        cls, values: Sequence[NDArray[np.int64]], defence: Defence, *, step: NoisePlan, rng: Randomness
    ) -> Exchange:
        """Encrypt, deal, add and open as a cohort does.

        Args:
            values: int64 (d,), each merchant's noised update.
            defence: the training's settings.
            step: its noise plan.
            rng: randomness of keys and shares.

        Returns:
            The round.
        """
        scheme = kahe.KaheScheme(
            kahe.choose_parameters(dimension=step.dimension, cohort=len(values), max_abs_sum=step.max_abs_sum)
        )
        seats = choose_seats(cohort=len(values), colluders=defence.colluders)
        members, threshold = seats.members, seats.threshold
        total = scheme.new_sum()
        ciphertexts: list[bytes] = []
        held: list[list[bytes]] = [[] for _ in range(members)]
        for index, own in enumerate(values):
            stream = rng.child("merchant", index)
            encrypted = scheme.encrypt(own, training_id=_TRAINING_ID, round_number=_ROUND, rng=stream)
            dealing = scheme.deal(encrypted.key, members=members, threshold=threshold, rng=stream)
            total.add(encrypted.ciphertext)
            ciphertexts.append(encrypted.ciphertext)
            for own_parcels, parcel in zip(held, dealing.parcels, strict=True):
                own_parcels.append(parcel)
        opened = scheme.open(
            total,
            answers={x: scheme.combine_shares(held[x - 1], member=x) for x in range(1, threshold + 1)},
            threshold=threshold,
            contributors=len(values),
            training_id=_TRAINING_ID,
            round_number=_ROUND,
        )
        return cls(scheme, ciphertexts[_TARGET], held[_MEMBER - 1][_TARGET], opened)

    def read_with_one_share(self) -> NDArray[np.int64]:
        """Use one member's key share as the key. Opening refuses that, so its checks are left out here."""
        return self.read(self.scheme.read_share(self.share, member=_MEMBER))

    def read(self, key: NDArray[np.int64] | None) -> NDArray[np.int64]:
        """Decrypt the ciphertext with a key, int64 (degree,), or with None as if the mask were zero.

        Returns:
            The values, int64 (d,).

        Raises:
            AggregationError: the scheme has no ring.
        """
        p = self.scheme.parameters
        if p.modulus is None:
            raise AggregationError("the scheme's parameters have no ring")
        coefficients = wire.decode(self.ciphertext, p)
        modulus = np.uint64(p.modulus)
        if key is not None:
            masks = ring.Masks(
                key,
                training_id=_TRAINING_ID,
                round_number=_ROUND,
                degree=p.ring_degree,
                modulus=p.modulus,
            )
            coefficients = (coefficients + (modulus - masks.part(0, p.coefficients))) % modulus
        step = np.uint64(p.step)
        quotient = (coefficients + step // np.uint64(2)) // step
        packed = (quotient & np.uint64((1 << p.plaintext_bits) - 1)).view(np.int64)
        return packing.unpack(
            packed, dimension=p.dimension, fields=p.values_per_coefficient, field_bits=p.field_bits
        )
