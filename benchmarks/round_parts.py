"""What every part of a round costs in CPU seconds and bytes, and all together, for each who takes part in it.

    python benchmarks/round_parts.py [--quick] [--json FILE]

Committees are the planner's, with five witnesses, and all merchants come: with 10 (minimum 5) and 100
(minimum 90) all noise layers but the one that stays are opened and removed, the dearest case; with 3 there
are none, since all are needed. Values have 16 bits. The round of site figures is one more round, of 12
numbers and without layers. Times are CPU seconds of one thread. What the cohort's merchants do alike is
measured on three of them, and on one for layers, and multiplied. Not in it: training and the noise that
stays, JSON, disks and the network.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from flare_ckks import VALUE_BITS, flare_context, flare_encrypt
from layer_costs import layer_row
from measure import Options, cpu_seconds, finish, parse
from seat_costs import COHORTS, kahe_parameters, seat_row, seats_of

from fedrec.privacy.aggregation import curve, scheme_registry
from fedrec.privacy.aggregation.scheme import CommitteeScheme, Encrypted
from fedrec.privacy.identity import SigningIdentity, verify
from fedrec.privacy.randomness import Randomness
from fedrec.protocol.messages import TrainReply, UnmaskRequest
from fedrec.protocol.statements import (
    COMMITMENT_CONTEXT,
    LEDGER_HEAD_CONTEXT,
    Commitment,
    LedgerHead,
    SignedCommitment,
    SignedLedgerHead,
)
from fedrec.server.cohort_defaults import default_colluders

DIMENSIONS = (12_000, 539_000, 11_000_000)
WITNESSES = 5
FIGURES = 12
"""Numbers of a round of site figures with ten classes."""
LAYERED = {10: 5, 100: 90}
"""The minimum of contributors by cohort, where noise has layers."""
SAMPLED = 3
MOST_CKKS = 1_100_000
"""Values that CKKS encrypts at most; what more of them take is in proportion."""
TRAINING = "ab" * 32
HASH = "0" * 64


@dataclass(frozen=True)
class Bodies:
    """The bytes of JSON bodies, and what their signatures take."""

    upload: int
    request: int
    sign: float
    verify: float


def bodies(*, clients: int, threshold: int, layers: int, members: int) -> Bodies:
    """Make an upload's body and a member's request, of the sizes that a real round has."""
    identity = SigningIdentity.generate()
    commitment = Commitment(
        training_id=TRAINING,
        round_number=1,
        merchant="merchant-000",
        model_hash=HASH,
        ciphertext_hash=HASH,
        boxes_hash=HASH,
        key_commitments=(curve.encode_point(curve.generator(0)).hex(),) * threshold,
        layer_seed_hashes=(HASH,) * layers,
        layer_part_hashes=(HASH,) * (members if layers else 0),
    )
    signature = identity.sign(commitment.canonical_bytes(), context=COMMITMENT_CONTEXT)
    signed = SignedCommitment(commitment=commitment, signature=signature.hex())
    head = LedgerHead(
        training_id=TRAINING, round_number=1, merchant="merchant-000", moment="charged", head_hash=HASH
    )
    head_signature = identity.sign(head.canonical_bytes(), context=LEDGER_HEAD_CONTEXT)
    reply = TrainReply(
        merchant="merchant-000",
        signed=signed,
        head=SignedLedgerHead(statement=head, signature=head_signature.hex()),
    )
    request = UnmaskRequest(training_id=TRAINING, round_number=1, survivors=(signed,) * clients)

    def sign() -> None:
        identity.sign(commitment.canonical_bytes(), context=COMMITMENT_CONTEXT)

    def check() -> None:
        verify(identity.public, commitment.canonical_bytes(), signature, context=COMMITMENT_CONTEXT)

    return Bodies(
        upload=len(reply.canonical_bytes()),
        request=len(request.canonical_bytes()),
        sign=cpu_seconds(sign, repeats=20),
        verify=cpu_seconds(check, repeats=20),
    )


@dataclass(frozen=True)
class Encryption:
    """Encrypting one vector, adding one ciphertext, and decrypting a sum."""

    encrypt: float
    add: float
    decrypt: float
    ciphertext: int


def encryption(dimension: int, *, clients: int) -> Encryption:
    """Encrypt for three merchants, and open the sum of these three, which takes as long as one of all."""
    parameters = kahe_parameters(dimension, clients)
    scheme, rng = scheme_registry.create("kahe", parameters), Randomness.from_os()
    assert isinstance(scheme, CommitteeScheme)
    chance = np.random.default_rng(0)
    half = 1 << (VALUE_BITS - 1)
    values = [chance.integers(-half, half, dimension) for _ in range(SAMPLED)]
    made: list[Encrypted] = []

    def encrypt() -> None:
        vector = values[len(made) % SAMPLED]
        made.append(scheme.encrypt(vector, training_id=TRAINING, round_number=1, rng=rng))

    encrypt_seconds = cpu_seconds(encrypt, repeats=SAMPLED - 1)
    total = scheme.new_sum()
    waiting = [encrypted.ciphertext for encrypted in made]
    add_seconds = cpu_seconds(lambda: total.add(waiting.pop()), repeats=SAMPLED - 1)
    parcels = [scheme.deal(one.key, members=1, threshold=1, rng=rng).parcels[0] for one in made]
    answer = scheme.combine_shares(parcels, member=1)

    def decrypt() -> None:
        opened = scheme.open(
            total,
            answers={1: answer},
            threshold=1,
            contributors=SAMPLED,
            training_id=TRAINING,
            round_number=1,
        )
        if not np.array_equal(opened, sum(values)):
            raise RuntimeError("the opened sum is wrong")

    return Encryption(
        encrypt=encrypt_seconds,
        add=add_seconds,
        decrypt=cpu_seconds(decrypt, repeats=1),
        ciphertext=len(made[0].ciphertext),
    )


def ckks_seconds(dimension: int) -> float:
    """Return what NVIDIA FLARE's CKKS takes to encrypt so many values."""
    values = np.random.default_rng(0).integers(-(1 << 15), 1 << 15, min(dimension, MOST_CKKS))
    context = flare_context()
    return cpu_seconds(lambda: flare_encrypt(context, values), repeats=1) * dimension / values.size


def round_row(dimension: int, *, clients: int, layered: bool) -> dict[str, Any]:
    """Return every part of one round: CPU seconds end in ``_s``, bytes in ``_bytes``.

    ``merchant_*`` are one merchant's; ``member_*`` one member's, a witness's too, for checking and answering;
    ``server_*`` the server's for the whole cohort and committee.
    """
    seats = seats_of(clients, WITNESSES)
    seat = seat_row(dimension, clients=clients, witnesses=WITNESSES)
    made = encryption(dimension, clients=clients)
    layer = dict.fromkeys(("layers", "part_bytes", "answer_bytes"), 0) | dict.fromkeys(
        ("draw_s", "deal_s", "member_s", "server_check_s", "server_remove_s"), 0.0
    )
    if layered:
        layer = layer_row(
            dimension,
            clients=clients,
            least=LAYERED[clients],
            colluders=default_colluders(clients),
            witnesses=WITNESSES,
        )
    body = bodies(
        clients=clients, threshold=seats.threshold, layers=int(layer["layers"]), members=seats.members
    )
    sealed = seat["box_bytes"] + int(layer["part_bytes"])
    parts: dict[str, Any] = {
        "merchant_encrypt_s": made.encrypt,
        "merchant_share_s": seat["share_s"],
        "merchant_commit_s": seat["commit_s"],
        "merchant_box_s": seat["box_s"],
        "merchant_layer_noise_s": layer["draw_s"],
        "merchant_layer_seeds_s": layer["deal_s"],
        "merchant_sign_s": body.sign,
        "member_key_s": seat["member_s"],
        "member_layers_s": layer["member_s"],
        "member_signatures_s": clients * body.verify,
        "server_add_s": clients * made.add,
        "server_signatures_s": clients * body.verify,
        "server_check_s": seat["server_s"],
        "server_decrypt_s": made.decrypt,
        "server_layer_check_s": layer["server_check_s"],
        "server_layer_remove_s": layer["server_remove_s"],
        "ciphertext_bytes": made.ciphertext,
        "boxes_bytes": seats.members * sealed,
        "body_bytes": body.upload,
        "member_down_bytes": body.request + clients * sealed,
        "member_up_bytes": seat["member_bytes_up"] + int(layer["answer_bytes"]),
    }
    upload = parts["ciphertext_bytes"] + parts["boxes_bytes"] + parts["body_bytes"]
    total = {
        f"{who}_s": sum(value for name, value in parts.items() if name[:6] == who[:6] and name[-2:] == "_s")
        for who in ("merchant", "member", "server")
    }
    return {
        "parameters": dimension,
        "clients": clients,
        "seats": seats.members,
        "threshold": seats.threshold,
        "layers": layer["layers"],
        **parts,
        **total,
        "merchant_bytes": upload,
        "server_in_bytes": clients * upload + seats.members * parts["member_up_bytes"],
        "server_out_bytes": seats.members * parts["member_down_bytes"],
    }


def rows(options: Options) -> Iterator[dict[str, Any]]:
    """Yield a row for every size and cohort, and one for a round of site figures in each cohort."""
    for dimension in DIMENSIONS[:2] if options.quick else DIMENSIONS:
        ckks = ckks_seconds(dimension)
        for clients in COHORTS:
            row = round_row(dimension, clients=clients, layered=clients in LAYERED)
            row["ckks_over_encrypt"] = ckks / row["merchant_encrypt_s"]
            row["upload_over_float32"] = row["merchant_bytes"] / (4 * dimension)
            yield row
    for clients in COHORTS:
        yield round_row(FIGURES, clients=clients, layered=False)


if __name__ == "__main__":
    chosen = parse(__doc__ or "")
    finish("round_parts", chosen, rows=list(rows(chosen)), ratios={})
