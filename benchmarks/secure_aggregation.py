"""Secure aggregation side by side: kahe, CKKS as NVIDIA FLARE ships it, CKKS packed tightly, float32.

Run ``python benchmarks/secure_aggregation.py [--quick] [--json FILE]``. Times are CPU seconds of one process.
A merchant's values are 16-bit integers, and for kahe also as wide as a default run needs. Every row encrypts
for ``clients`` merchants, adds all of their ciphertexts and opens the sum, which must be exact where the
scheme says so. ``encrypt_s`` is the median of the merchants' (ciphertext alone), ``add_s`` is for all of them
together, ``upload_bytes`` counts everything that one sends in a round: ciphertext, sealed key shares, signed
commitment and ledger head. ``peak_over_float32`` is for a whole upload, encrypted and dealt. The last rows
are what the default seats cost, with and without witnesses (``seat_costs.py``). ``round_parts.py`` has every
part of a round, and all together.
"""

from __future__ import annotations

import math
import os
import secrets
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import round_parts
import tenseal
from flare_ckks import VALUE_BITS, flare_context, flare_encrypt
from measure import cpu_seconds, finish, parse, peak_memory_bytes
from numpy.typing import NDArray
from seat_costs import seat_rows

from fedrec.clients.unmasking import right_sum
from fedrec.clients.uploading import RoundSecrets, deal_to_committee
from fedrec.privacy.aggregation import ckks_parameters, ring, scheme_registry
from fedrec.privacy.aggregation.ckks_parameters import CkksParameters
from fedrec.privacy.aggregation.dealing import Published
from fedrec.privacy.aggregation.parameters import FAILURE_BITS, ROUNDS, SchemeParameters
from fedrec.privacy.aggregation.scheme import (
    CommitteeScheme,
    Encrypted,
    HolderScheme,
    Scheme,
)
from fedrec.privacy.aggregation.seats import default_threshold, seat_order
from fedrec.privacy.dp.calibration import NoiseRequest, plan_noise
from fedrec.privacy.identity import SealingKey, SigningIdentity
from fedrec.privacy.randomness import Randomness
from fedrec.protocol.messages import TrainReply
from fedrec.protocol.plan import Peer, TrainingPlan
from fedrec.protocol.schema import sha256_hex
from fedrec.protocol.statements import (
    COMMITMENT_CONTEXT,
    LEDGER_HEAD_CONTEXT,
    Commitment,
    LedgerHead,
    SignedCommitment,
    SignedLedgerHead,
    boxes_hash,
)

Int64Array = NDArray[np.int64]
LARGEST_COMMITTEE = 20
LARGE = 10_000_000
"""From this many parameters on, slow schemes add a few ciphertexts several times instead of one a client."""

TRAINING = "ab" * 32


@dataclass(frozen=True)
class Figures:
    """What one scheme takes, in CPU seconds and bytes; see the module.

    ``error_log2`` bounds the chance of one wrong coefficient in 1,000 rounds, where there is such a bound;
    ``error`` is the largest difference of the opened sum from the true one, in steps of the integers' grid.
    """

    encrypt: float
    add: float
    open: float
    upload: int
    error_log2: float | None
    error: float
    peak: int
    member_seconds: float | None = None
    member_bytes: int | None = None


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Return what some work returns, and its CPU seconds."""
    started = time.process_time()
    found = work()
    return found, time.process_time() - started


def vectors(values: Int64Array, clients: int) -> Iterator[Int64Array]:
    """Yield a vector a client: the same numbers, each time in other places."""
    for client in range(clients):
        yield np.roll(values, 7919 * client)


def exact_sum(values: Int64Array, *, distinct: int, clients: int) -> Int64Array:
    """Return the sum of ``clients`` vectors when the first ``distinct`` come in turn."""
    total = np.zeros_like(values)
    for client, vector in enumerate(vectors(values, distinct)):
        total += vector * np.int64(len(range(client, clients, distinct)))
    return total


def default_sum_bound(*, dimension: int, clients: int) -> int:
    """Bound a coordinate of the sum in a run at the defaults: epsilon 8, q 0.05, 100 rounds."""
    noise = plan_noise(
        NoiseRequest(
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
        record_values=3072,
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
        committee=seat_order(roster)[:members],
        threshold=default_threshold(members=members, corrupt=1),
        min_contributors=clients,
        colluders=1,
        corrupt_members=1,
        seat_risk=0.0,
        scheme=scheme,
        trust=scheme_registry.get(scheme).trust,
    )


def body_bytes(ciphertext: bytes, boxes: list[bytes], published: Published) -> int:
    """The bytes of an upload beside ciphertext and boxes: what a merchant signs, and its ledger's head."""
    identity = SigningIdentity.generate()
    commitment = Commitment(
        training_id=TRAINING,
        round_number=1,
        merchant="merchant-000",
        model_hash="0" * 64,
        ciphertext_hash=sha256_hex(ciphertext),
        boxes_hash=boxes_hash(boxes),
        key_commitments=published.commitments,
    )
    signature = identity.sign(commitment.canonical_bytes(), context=COMMITMENT_CONTEXT)
    head = LedgerHead(
        training_id=TRAINING, round_number=1, merchant="merchant-000", moment="charged", head_hash="0" * 64
    )
    head_signature = identity.sign(head.canonical_bytes(), context=LEDGER_HEAD_CONTEXT)
    reply = TrainReply(
        merchant="merchant-000",
        signed=SignedCommitment(commitment=commitment, signature=signature.hex()),
        head=SignedLedgerHead(statement=head, signature=head_signature.hex()),
    )
    return len(reply.canonical_bytes())


def kahe_error_log2(parameters: SchemeParameters) -> float:
    """Bound, as a power of two, the chance of one wrong coefficient in a run of 1,000 rounds."""
    room = parameters.step / 2 - parameters.cohort - 1
    tail = room**2 / (2 * ring.NOISE_STD**2 * parameters.cohort)
    return (math.log(2.0 * parameters.noisy_coefficients * ROUNDS) - tail) / math.log(2)


def ckks_error_log2(parameters: CkksParameters) -> float:
    """The same for our CKKS: its slot error holds but for that chance, and is below 1/2."""
    if parameters.slot_error() >= 0.5:
        return 0.0
    return -float(FAILURE_BITS)


def measure_kahe(values: Int64Array, *, clients: int, max_abs_sum: int) -> tuple[Figures, Scheme]:
    """Every client encrypts and deals; the committee is everybody, up to twenty; a threshold of it opens."""
    members = min(clients, LARGEST_COMMITTEE)
    plan = plan_for(clients, scheme="kahe", dimension=values.size, members=members)
    parameters = scheme_registry.choose_parameters(
        "kahe", dimension=values.size, cohort=clients, max_abs_sum=max_abs_sum
    )
    scheme = scheme_registry.create("kahe", parameters)
    assert isinstance(scheme, CommitteeScheme) and isinstance(parameters, SchemeParameters)
    rng = Randomness.from_os()
    sealing_keys = {member: SealingKey.generate().public for member in plan.committee}

    def encrypt(vector: Int64Array) -> Encrypted:
        return scheme.encrypt(vector, training_id=TRAINING, round_number=1, rng=rng)

    def upload() -> tuple[bytes, list[bytes], Published]:
        encrypted = encrypt(values)
        boxes, published, _ = deal_to_committee(
            scheme,
            RoundSecrets(encrypted.key),
            plan=plan,
            round_number=1,
            dealer=plan.roster[0].name,
            sealing_keys=sealing_keys,
            rng=rng,
        )
        return encrypted.ciphertext, boxes, published

    ciphertext, boxes, published = upload()
    total = scheme.new_sum()
    encrypts, added, dealings = [], 0.0, []
    for vector in vectors(values, clients):
        encrypted, seconds = timed(lambda: encrypt(vector))  # noqa: B023
        encrypts.append(seconds)
        dealings.append(scheme.deal(encrypted.key, members=members, threshold=plan.threshold, rng=rng))
        added += timed(lambda: total.add(encrypted.ciphertext))[1]  # noqa: B023

    def answer(x: int) -> bytes:
        parcels = [dealing.parcels[x - 1] for dealing in dealings]
        shown = [dealing.published for dealing in dealings]
        answered = right_sum(scheme, parcels, shown, member=x, threshold=plan.threshold)
        if answered is None:
            raise RuntimeError("the sum of the parcels doesn't verify")
        return answered

    answers = {x: answer(x) for x in range(1, plan.threshold + 1)}
    opened, open_seconds = timed(
        lambda: scheme.open(
            total,
            answers=answers,
            threshold=plan.threshold,
            contributors=clients,
            training_id=TRAINING,
            round_number=1,
        )
    )
    figures = Figures(
        encrypt=statistics.median(encrypts),
        add=added,
        open=open_seconds,
        upload=len(ciphertext) + sum(map(len, boxes)) + body_bytes(ciphertext, boxes, published),
        error_log2=kahe_error_log2(parameters),
        error=must_be_exact(opened, exact_sum(values, distinct=clients, clients=clients)),
        peak=peak_memory_bytes(upload, warm=True),
        member_seconds=cpu_seconds(lambda: answer(1), repeats=3),
        member_bytes=len(answers[1]),
    )
    return figures, scheme


def must_be_exact(opened: Int64Array, expected: Int64Array) -> float:
    """Return the largest error, 0; raises ``RuntimeError`` for any other."""
    if not np.array_equal(opened, expected):
        raise RuntimeError("the opened sum is wrong")
    return 0.0


def measure_ckks(values: Int64Array, *, clients: int, max_abs_sum: int) -> Figures:
    """Our ckks: complex slots, degree 4096, one prime of 60 bits, public key."""
    parameters = ckks_parameters.choose_parameters(
        dimension=values.size, cohort=clients, max_abs_sum=max_abs_sum
    )
    scheme = scheme_registry.create("ckks", parameters)
    assert isinstance(scheme, HolderScheme)
    keys = scheme.make_keys()
    rng = Randomness.from_os()

    def encrypt(vector: Int64Array) -> bytes:
        return scheme.encrypt(
            vector, training_id=TRAINING, round_number=1, rng=rng, public_key=keys.public
        ).ciphertext

    ciphertext = encrypt(values)
    total = scheme.new_sum()
    distinct = few(values.size, clients)
    encrypts, added = [], 0.0
    for client, vector in enumerate(vectors(values, distinct)):
        ciphertext, seconds = timed(lambda: encrypt(vector))  # noqa: B023
        encrypts.append(seconds)
        for _ in range(client, clients, distinct):
            added += timed(lambda: total.add(ciphertext))[1]  # noqa: B023

    def open_sum() -> Int64Array:
        answer = scheme.answer(total, private_key=keys.private, contributors=clients)
        return scheme.open(
            total,
            answers={1: answer},
            threshold=1,
            contributors=clients,
            training_id=TRAINING,
            round_number=1,
        )

    opened, open_seconds = timed(open_sum)
    return Figures(
        encrypt=statistics.median(encrypts),
        add=added,
        open=open_seconds,
        upload=len(ciphertext) + body_bytes(ciphertext, [], Published(commitments=())),
        error_log2=ckks_error_log2(parameters),
        error=must_be_exact(opened, exact_sum(values, distinct=distinct, clients=clients)),
        peak=peak_memory_bytes(lambda: encrypt(values), warm=True),
    )


def few(dimension: int, clients: int) -> int:
    """How many ciphertexts of a slow scheme are made: those of ten clients, or of three for a large model."""
    return min(clients, 3 if dimension >= LARGE else 10)


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


def measure_nvflare(values: Int64Array, cohorts: Sequence[int], *, distinct: int) -> dict[int, Figures]:
    """CKKS as NVIDIA FLARE's defaults set it: 8192, [60, 40, 40], scale 2**40, one key for all clients.

    What a client does is the same in every cohort; ``add`` is that of one ciphertext times the cohort.
    """
    context = flare_context()

    def encrypt(vector: Int64Array) -> bytes:
        return flare_encrypt(context, vector)

    found = [timed(lambda: encrypt(vector)) for vector in vectors(values, distinct)]  # noqa: B023
    blobs = [blob for blob, _ in found]
    peak = peak_memory_bytes(lambda: encrypt(values), warm=True)
    # Sums of many are made by doubling: what one ciphertext takes, its bytes read, is measured on the first.
    added = [timed(lambda: tenseal.ckks_vector_from(context, blobs[0]))[0]]
    adds = []
    for blob in blobs[1:]:
        total, seconds = timed(lambda: added[-1] + tenseal.ckks_vector_from(context, blob))  # noqa: B023
        added.append(total)
        adds.append(seconds)
    figures = {}
    for clients in cohorts:
        whole, rest = divmod(clients, distinct)
        parts = ([times(added[-1], whole)] if whole else []) + ([added[rest - 1]] if rest else [])
        total = parts[0] + parts[1] if len(parts) == 2 else parts[0]
        opened, open_seconds = timed(total.decrypt)
        exact = exact_sum(values, distinct=distinct, clients=clients)
        figures[clients] = Figures(
            encrypt=statistics.median(seconds for _, seconds in found),
            add=clients * statistics.median(adds),
            open=open_seconds,
            upload=len(blobs[0]),
            error_log2=None,
            error=float(np.abs(np.array(opened) * 2.0**VALUE_BITS - exact).max()),
            peak=peak,
        )
    return figures


def times(vector: Any, count: int) -> Any:
    """Add a ciphertext to itself until it stands for ``count`` of it, which is at least 1."""
    total, power = None, vector
    while count:
        if count % 2:
            total = power if total is None else total + power
        count //= 2
        if count:
            power = power + power
    return total


def measure_float32(values: Int64Array, *, clients: int) -> Figures:
    """No encryption: float32 on the wire."""
    total = np.zeros(values.size, dtype=np.float32)
    encrypts, added, blob = [], 0.0, b""
    for vector in vectors(values, clients):
        blob, seconds = timed((vector / 2.0**VALUE_BITS).astype(np.float32).tobytes)
        encrypts.append(seconds)

        def add() -> None:
            nonlocal total
            total += np.frombuffer(blob, dtype=np.float32)  # noqa: B023

        added += timed(add)[1]
    exact = exact_sum(values, distinct=clients, clients=clients)
    return Figures(
        encrypt=statistics.median(encrypts),
        add=added,
        open=0.0,
        upload=len(blob),
        error_log2=None,
        error=float(np.abs(total.astype(np.float64) * 2.0**VALUE_BITS - exact).max()),
        peak=peak_memory_bytes(total.tobytes, warm=True),
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
        "largest_error": figures.error,
        "peak_over_float32": figures.peak / (4 * dimension),
        "member_s": figures.member_seconds,
        "member_bytes": figures.member_bytes,
    }


def main() -> None:
    """Measure every size and cohort, and print the ratios that the project promises."""
    options = parse(__doc__ or "")
    cohorts = (5, 100) if options.quick else (5, 10, 100)
    rows: list[dict[str, Any]] = []
    found: dict[tuple[str, int, int], Figures] = {}
    chance = np.random.default_rng(0)

    def note(name: str, values: Int64Array, clients: int, figures: Figures, bits: int | None) -> None:
        found[name, values.size, clients] = figures
        rows.append(row(name, dimension=values.size, clients=clients, figures=figures, bits=bits))

    def measure_ours(values: Int64Array, clients: int) -> None:
        bound = clients * 2 ** (VALUE_BITS - 1)
        wide = default_sum_bound(dimension=values.size, clients=clients)
        each = wide // clients
        own = chance.integers(-each, each + 1, values.size)
        for name, chosen, largest in (("kahe", values, bound), ("kahe, default width", own, wide)):
            figures, scheme = measure_kahe(chosen, clients=clients, max_abs_sum=largest)
            note(name, values, clients, figures, scheme.parameters.field_bits)

    sizes = (12_000, 1_000_000, 12_000_000) if options.quick else (12_000, 100_000, 1_000_000, 12_000_000)
    for dimension in sizes:
        values = chance.integers(-(2 ** (VALUE_BITS - 1)), 2 ** (VALUE_BITS - 1), dimension)
        if options.quick and dimension >= LARGE:
            # What the slow schemes take for this size doesn't go into a minute.
            measure_ours(values, cohorts[0])
            continue
        distinct = few(dimension, 3 if options.quick else max(cohorts))
        flare = quiet(lambda: measure_nvflare(values, cohorts, distinct=distinct))  # noqa: B023
        for clients in cohorts:
            note("float32", values, clients, measure_float32(values, clients=clients), None)
            note("ckks, NVFlare", values, clients, flare[clients], None)
            bound = clients * 2 ** (VALUE_BITS - 1)
            tight = measure_ckks(values, clients=clients, max_abs_sum=bound)
            note("ckks", values, clients, tight, bound.bit_length() + 1)
            measure_ours(values, clients)
    for dimension in (539_000,) if options.quick else (12_000, 539_000, 11_000_000):
        rows += seat_rows(dimension)
    rows += round_parts.rows(options)
    finish("secure_aggregation", options, rows=rows, ratios=ratios(found))


def ratios(found: dict[tuple[str, int, int], Figures]) -> dict[str, float]:
    """Ours against the others in this run; speeds are in parameters a second."""
    million, large = 1_000_000, 12_000_000
    flare, float32 = found["ckks, NVFlare", million, 5], 4 * million
    out: dict[str, float] = {}
    for name, suffix in (("kahe", ""), ("kahe, default width", "_default_width")):
        five, hundred = found[name, million, 5], found[name, million, 100]
        out[f"encrypt_speed_vs_ckks_1m{suffix}"] = flare.encrypt / five.encrypt
        out[f"upload_vs_ckks_1m{suffix}"] = flare.upload / five.upload
        out[f"upload_vs_float32_1m_n5{suffix}"] = five.upload / float32
        out[f"upload_vs_float32_1m_n100{suffix}"] = hundred.upload / float32
        out[f"encrypt_speed_12m_vs_1m{suffix}"] = 12 * five.encrypt / found[name, large, 5].encrypt
    return out


if __name__ == "__main__":
    main()
