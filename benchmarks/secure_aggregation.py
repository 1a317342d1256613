"""Secure aggregation side by side: kahe, CKKS as NVIDIA FLARE ships it, CKKS packed tightly, float32.

Run ``python benchmarks/secure_aggregation.py [--quick] [--json FILE]``. Times are CPU seconds of one process,
medians. A merchant's values are 16-bit integers, and for kahe also as wide as a default run needs. ``upload``
counts everything that a merchant sends in a round: ciphertext, sealed key shares and the signed commitment.
"""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tenseal
from measure import cpu_seconds, finish, parse, peak_memory_bytes
from numpy.typing import NDArray

from fedrec.clients.opening import deal_to_committee
from fedrec.privacy.aggregation import ckks, registry, ring
from fedrec.privacy.aggregation.ckks import CkksParameters
from fedrec.privacy.aggregation.committee import default_threshold
from fedrec.privacy.aggregation.parameters import ROUNDS, SchemeParameters
from fedrec.privacy.aggregation.scheme import CommitteeScheme, HolderScheme, Scheme
from fedrec.privacy.dp.calibration import plan_noise
from fedrec.privacy.identity import SealingKey, SigningIdentity
from fedrec.privacy.randomness import Randomness
from fedrec.protocol import (
    COMMITMENT_CONTEXT,
    Commitment,
    Peer,
    SignedCommitment,
    TrainingPlan,
    TrainReply,
    boxes_hash,
    sha256_hex,
)

Int64Array = NDArray[np.int64]
VALUE_BITS = 16
LARGEST_COMMITTEE = 20
TRAINING = "ab" * 32


@dataclass(frozen=True)
class Figures:
    """What one scheme takes for one merchant's vector, in CPU seconds and bytes."""

    encrypt: float
    add: float
    open: float
    upload: int
    error_log2: float | None
    peak: int | None
    member_seconds: float = 0.0
    member_bytes: int = 0


def default_sum_bound(*, dimension: int, clients: int) -> int:
    """Bound a coordinate of the sum in a run at the defaults: epsilon 8, q 0.05, 100 rounds."""
    noise = plan_noise(
        mode="distributed",
        epsilon=8.0,
        noise_multiplier=None,
        delta=1e-5,
        sample_rate=0.05,
        steps=100,
        dimension=dimension,
        clip=1.0,
        cohort=clients,
        min_contributors=clients,
        colluders=1,
        records_per_merchant=750,
    )
    return noise.max_abs_sum


def plan_for(clients: int, *, scheme: str, dimension: int, members: int) -> TrainingPlan:
    """A plan whose roster and committee have these sizes; nothing else of it matters here."""
    roster = tuple(Peer(name=f"merchant-{i:03d}", signing_key=secrets.token_hex(32)) for i in range(clients))
    return TrainingPlan(
        server_key="0" * 64,
        nonce="0" * 32,
        model="cnn",
        initial_model_hash="0" * 64,
        classes=("a", "b"),
        channels=3,
        image_size=32,
        dimension=dimension,
        views=1,
        mode="distributed",
        rounds=100,
        local_steps=1,
        local_learning_rate=1.0,
        sample_rate=0.05,
        clip=1.0,
        delta=1e-5,
        noise_multiplier=1.0,
        records_total=1000,
        records_largest=100,
        roster=roster,
        committee=tuple(peer.name for peer in roster[:members]),
        threshold=default_threshold(members=members, colluders=1),
        min_contributors=clients,
        colluders=1,
        scheme=scheme,
    )


def upload_bytes(plan: TrainingPlan, scheme: CommitteeScheme, values: Int64Array) -> int:
    """The bytes of a whole upload, made as a merchant makes it."""
    rng = Randomness.from_os()
    encrypted = scheme.encrypt(values, training_id=TRAINING, round_number=1, rng=rng)
    boxes, published = deal_to_committee(
        scheme,
        encrypted.key,
        plan=plan,
        round_number=1,
        dealer=plan.roster[0].name,
        sealing_keys={member: SealingKey.generate().public for member in plan.committee},
        rng=rng,
    )
    commitment = Commitment(
        training_id=TRAINING,
        round_number=1,
        merchant=plan.roster[0].name,
        model_hash="0" * 64,
        ciphertext_hash=sha256_hex(encrypted.ciphertext),
        boxes_hash=boxes_hash(boxes),
        parcel_hashes=published.commitments,
        degree_proof=published.proof,
    )
    signature = SigningIdentity.generate().sign(commitment.canonical_bytes(), context=COMMITMENT_CONTEXT)
    signed = SignedCommitment(commitment=commitment, signature=signature.hex())
    body = TrainReply(merchant=plan.roster[0].name, signed=signed).canonical_bytes()
    return len(body) + len(encrypted.ciphertext) + sum(map(len, boxes))


def kahe_error_log2(parameters: SchemeParameters) -> float:
    """Bound, as a power of two, the chance of one wrong coefficient in a run of 1,000 rounds."""
    room = parameters.step / 2 - parameters.cohort - 1
    tail = room**2 / (ring.CBD_ETA * parameters.cohort)
    return (math.log(2.0 * parameters.coefficients * ROUNDS) - tail) / math.log(2)


def ckks_error_log2(parameters: CkksParameters) -> float:
    """The same for our CKKS: its slot error holds but for 2**-40, and is below 1/2."""
    if parameters.slot_error() >= 0.5:
        return 0.0
    return -40.0


def measure_kahe(
    values: Int64Array, *, clients: int, max_abs_sum: int, repeats: int, memory: bool
) -> tuple[Figures, Scheme]:
    """Encrypt, add and open one merchant's vector; the committee is everybody, up to twenty."""
    members = min(clients, LARGEST_COMMITTEE)
    plan = plan_for(clients, scheme="kahe", dimension=values.size, members=members)
    parameters = registry.choose_parameters(
        "kahe", dimension=values.size, cohort=clients, max_abs_sum=max_abs_sum
    )
    scheme = registry.create("kahe", parameters)
    assert isinstance(scheme, CommitteeScheme) and isinstance(parameters, SchemeParameters)
    rng = Randomness.from_os()

    def encrypt() -> Any:
        return scheme.encrypt(values, training_id=TRAINING, round_number=1, rng=rng)

    encrypted = encrypt()
    statement = b"benchmark"
    dealing = scheme.deal(
        encrypted.key, members=members, threshold=plan.threshold, statement=statement, rng=rng
    )
    total = scheme.new_sum()
    total.add(encrypted.ciphertext)

    def accept(x: int) -> bytes:
        return scheme.accept(
            dealing.parcels[x - 1],
            dealing.published,
            member=x,
            threshold=plan.threshold,
            statement=statement,
        )

    answers = {x: scheme.combine_shares([accept(x)]) for x in range(1, members + 1)}

    def add() -> None:
        scheme.new_sum().add(encrypted.ciphertext)

    def open_sum() -> None:
        opened = scheme.open(
            total,
            answers=answers,
            threshold=plan.threshold,
            contributors=1,
            training_id=TRAINING,
            round_number=1,
        )
        if not np.array_equal(opened.values, values):
            raise RuntimeError("the opened sum is wrong")

    figures = Figures(
        encrypt=cpu_seconds(encrypt, repeats=repeats),
        add=cpu_seconds(add, repeats=repeats),
        open=cpu_seconds(open_sum, repeats=repeats),
        upload=upload_bytes(plan, scheme, values),
        error_log2=kahe_error_log2(parameters),
        peak=peak_memory_bytes(encrypt) if memory else None,
        member_seconds=cpu_seconds(
            lambda: scheme.combine_shares([accept(1) for _ in range(clients)]), repeats=repeats
        ),
        member_bytes=len(answers[1]),
    )
    return figures, scheme


def measure_ckks(
    values: Int64Array, *, clients: int, max_abs_sum: int, repeats: int, memory: bool
) -> Figures:
    """Our ckks: complex slots, degree 4096, one prime of 60 bits, public key."""
    parameters = ckks.choose_parameters(dimension=values.size, cohort=clients, max_abs_sum=max_abs_sum)
    scheme = registry.create("ckks", parameters)
    assert isinstance(scheme, HolderScheme)
    keys = scheme.make_keys()
    rng = Randomness.from_os()

    def encrypt() -> Any:
        return scheme.encrypt(values, training_id=TRAINING, round_number=1, rng=rng, public_key=keys.public)

    ciphertext = encrypt().ciphertext
    total = scheme.new_sum()
    total.add(ciphertext)

    def open_sum() -> None:
        answer = scheme.answer(total, private_key=keys.private, contributors=1)
        opened = scheme.open(
            total,
            answers={1: answer},
            threshold=1,
            contributors=1,
            training_id=TRAINING,
            round_number=1,
        )
        if not np.array_equal(opened.values, values):
            raise RuntimeError("the opened sum is wrong")

    return Figures(
        encrypt=cpu_seconds(encrypt, repeats=repeats),
        add=cpu_seconds(lambda: scheme.new_sum().add(ciphertext), repeats=repeats),
        open=cpu_seconds(open_sum, repeats=repeats),
        upload=len(ciphertext),
        error_log2=ckks_error_log2(parameters),
        peak=peak_memory_bytes(encrypt) if memory else None,
    )


def quiet(work: Callable[[], Any]) -> Any:
    """Run with the process's standard output shut: TenSEAL's vectors print a warning about batching."""
    saved, null = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    try:
        return work()
    finally:
        os.dup2(saved, 1)
        os.close(saved)
        os.close(null)


def measure_nvflare(values: Int64Array, *, repeats: int, memory: bool) -> Figures:
    """CKKS as NVIDIA FLARE's defaults set it: 8192, [60, 40, 40], scale 2**40, one key for all clients."""
    context = tenseal.context(
        tenseal.SCHEME_TYPE.CKKS, poly_modulus_degree=8192, coeff_mod_bit_sizes=[60, 40, 40]
    )
    context.global_scale = 2**40
    floats = values / 2.0**VALUE_BITS

    def encrypt() -> Any:
        return tenseal.ckks_vector(context, floats)

    vector = encrypt()
    blob = vector.serialize()
    total = vector.copy()

    def add() -> None:
        nonlocal total
        total += tenseal.ckks_vector_from(context, blob)

    return Figures(
        encrypt=cpu_seconds(lambda: encrypt().serialize(), repeats=repeats),
        add=cpu_seconds(add, repeats=repeats),
        open=cpu_seconds(vector.decrypt, repeats=repeats),
        upload=len(blob),
        error_log2=None,
        peak=peak_memory_bytes(lambda: encrypt().serialize()) if memory else None,
    )


def measure_float32(values: Int64Array, *, repeats: int, memory: bool) -> Figures:
    """No encryption: float32 on the wire."""
    floats = (values / 2.0**VALUE_BITS).astype(np.float32)
    blob = floats.tobytes()
    total = np.zeros(values.size, dtype=np.float32)

    def add() -> None:
        nonlocal total
        total = total + np.frombuffer(blob, dtype=np.float32)

    return Figures(
        encrypt=cpu_seconds(floats.tobytes, repeats=repeats),
        add=cpu_seconds(add, repeats=repeats),
        open=0.0,
        upload=len(blob),
        error_log2=None,
        peak=peak_memory_bytes(floats.tobytes) if memory else None,
    )


def row(scheme: str, *, dimension: int, clients: int, figures: Figures, bits: int | None) -> dict[str, Any]:
    """One line of the table."""
    return {
        "scheme": scheme,
        "parameters": dimension,
        "clients": clients,
        "sum_bits": bits,
        "encrypt_s": figures.encrypt,
        "add_s": figures.add,
        "open_s": figures.open,
        "upload_bytes": figures.upload,
        "bytes_per_parameter": figures.upload / dimension,
        "error_log2": figures.error_log2,
        "peak_over_float32": None if figures.peak is None else figures.peak / (4 * dimension),
        "member_s": figures.member_seconds,
        "member_bytes": figures.member_bytes,
    }


def main() -> None:
    """Measure every size and cohort, and print the ratios that the project promises."""
    options = parse(__doc__ or "")
    sizes = (12_000, 100_000, 1_000_000) if options.quick else (12_000, 100_000, 1_000_000, 12_000_000)
    cohorts = (5, 100) if options.quick else (5, 10, 100)
    repeats = 3 if options.quick else 5
    rows: list[dict[str, Any]] = []
    found: dict[tuple[str, int, int], Figures] = {}
    chance = np.random.default_rng(0)
    for dimension in sizes:
        values = chance.integers(-(2 ** (VALUE_BITS - 1)), 2 ** (VALUE_BITS - 1), dimension)
        memory = dimension >= 1_000_000
        runs = max(3, repeats if dimension < 10_000_000 else 3)
        plain = quiet(lambda: measure_float32(values, repeats=runs, memory=memory))  # noqa: B023
        rows.append(row("float32", dimension=dimension, clients=1, figures=plain, bits=None))
        flare = quiet(lambda: measure_nvflare(values, repeats=runs, memory=memory))  # noqa: B023
        rows.append(row("ckks, NVFlare", dimension=dimension, clients=1, figures=flare, bits=None))
        found["nvflare", dimension, 0] = flare
        for clients in cohorts:
            bound = clients * 2 ** (VALUE_BITS - 1)
            tight = measure_ckks(
                values, clients=clients, max_abs_sum=bound, repeats=runs, memory=memory and clients == 10
            )
            rows.append(
                row("ckks", dimension=dimension, clients=clients, figures=tight, bits=bound.bit_length() + 1)
            )
            wide = default_sum_bound(dimension=dimension, clients=clients)
            for name, largest in (("kahe", bound), ("kahe, default width", wide)):
                figures, scheme = measure_kahe(
                    values, clients=clients, max_abs_sum=largest, repeats=runs, memory=memory
                )
                found[name, dimension, clients] = figures
                rows.append(
                    row(
                        name,
                        dimension=dimension,
                        clients=clients,
                        figures=figures,
                        bits=scheme.parameters.field_bits,
                    )
                )
    finish("secure_aggregation", options, rows=rows, ratios=ratios(found))


def ratios(found: dict[tuple[str, int, int], Figures]) -> dict[str, float]:
    """Ours against the others in this run; speeds are in parameters a second."""
    million, large = 1_000_000, 12_000_000
    flare, float32 = found["nvflare", million, 0], 4 * million
    out: dict[str, float] = {}
    for name, suffix in (("kahe", ""), ("kahe, default width", "_default_width")):
        five, hundred = found[name, million, 5], found[name, million, 100]
        out[f"encrypt_speed_vs_ckks_1m{suffix}"] = flare.encrypt / five.encrypt
        out[f"upload_vs_ckks_1m{suffix}"] = flare.upload / five.upload
        out[f"upload_vs_float32_1m_n5{suffix}"] = five.upload / float32
        out[f"upload_vs_float32_1m_n100{suffix}"] = hundred.upload / float32
        if (name, large, 5) in found:
            out[f"encrypt_speed_12m_vs_1m{suffix}"] = 12 * five.encrypt / found[name, large, 5].encrypt
    return out


if __name__ == "__main__":
    main()
