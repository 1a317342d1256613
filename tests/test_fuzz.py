"""Hostile bytes through every parser: nothing but fedrec's own errors, and no memory to speak of."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
from flwr.app import ConfigRecord

from fedrec.errors import FedrecError
from fedrec.privacy.aggregation import dealing, registry, shamir
from fedrec.privacy.aggregation.dealing import Published
from fedrec.privacy.aggregation.scheme import CommitteeScheme, HolderScheme
from fedrec.privacy.identity import SealingKey, seal
from fedrec.privacy.randomness import Randomness
from fedrec.protocol import CloseReply, pack, unpack
from tests.test_protocol import BODIES

INPUTS = 120_000
CI_INPUTS = 3_000
# A parser may hold its parameters' worth of memory, here far below this, whatever an input claims.
LARGEST_MEMORY = 16 * 2**20
DIMENSION = 300
TOKENS = (b"9" * 8, b'"', b"null", b"[[[[[[[[", b"1e999", b"-1", b"{}")


@dataclass(frozen=True)
class Target:
    """A parser, and a few inputs that it accepts, to be spoilt."""

    name: str
    parse: Callable[[bytes], object]
    valid: tuple[bytes, ...]


def targets() -> list[Target]:
    rng = Randomness.from_os()
    values = np.arange(DIMENSION, dtype=np.int64) - 100
    out = []
    for name in registry.names():
        scheme = registry.create(
            name, registry.choose_parameters(name, dimension=DIMENSION, cohort=3, max_abs_sum=1000)
        )
        key = scheme.make_keys() if isinstance(scheme, HolderScheme) else None
        sent = scheme.encrypt(
            values,
            training_id="ab" * 32,
            round_number=1,
            rng=rng,
            public_key=None if key is None else key.public,
        )
        out.append(Target(f"{name} ciphertext", lambda b, s=scheme: s.new_sum().add(b), (sent.ciphertext,)))
        if isinstance(scheme, CommitteeScheme):
            dealt = scheme.deal(sent.key, members=3, threshold=2, statement=b"s", rng=rng)
            total = scheme.new_sum()
            total.add(sent.ciphertext)
            share = dealing.accept(
                dealt.parcels[0],
                dealt.published,
                member=1,
                count=scheme.parameters.ring_degree,
                threshold=2,
                statement=b"s",
            )
            out.append(
                Target(
                    "parcel",
                    lambda b, s=scheme, d=dealt: s.accept(
                        b, d.published, member=1, threshold=2, statement=b"s"
                    ),
                    dealt.parcels,
                )
            )
            out.append(
                Target(
                    "degree proof",
                    lambda b, s=scheme, d=dealt: s.accept(
                        d.parcels[0],
                        Published(d.published.commitments, b.decode("latin-1")),
                        member=1,
                        threshold=2,
                        statement=b"s",
                    ),
                    (dealt.published.proof.encode(),),
                )
            )
            out.append(Target("key shares", lambda b, s=scheme: s.combine_shares([b, b]), (share,)))
        if isinstance(scheme, HolderScheme) and key is not None:
            total = scheme.new_sum()
            total.add(sent.ciphertext)
            answer = scheme.answer(total, private_key=key.private, contributors=1)
            where = {"threshold": 1, "contributors": 1, "training_id": "ab" * 32, "round_number": 1}
            out.append(
                Target(
                    "answer",
                    lambda b, s=scheme, t=total, w=where: s.open(t, answers={1: b}, **w),
                    (answer,),
                )
            )
            out.append(
                Target(
                    "public key",
                    lambda b, s=scheme: s.encrypt(
                        values, training_id="ab" * 32, round_number=1, rng=rng, public_key=b
                    ),
                    (key.public,),
                )
            )
    sealing = SealingKey.generate()
    out.append(
        Target(
            "sealed box",
            lambda b: sealing.open(b, binding=b"x"),
            (seal(sealing.public, b"12345678", binding=b"x"),),
        )
    )
    out.append(
        Target(
            "bare share",
            lambda b: shamir.decode_share(b, count=8),
            (shamir.encode_share(1, np.arange(8, dtype=np.uint64)),),
        )
    )
    for body in BODIES:
        out.append(Target(type(body).__name__, partial(read, kind=type(body)), (body.canonical_bytes(),)))
    return out


def read(raw: bytes, kind: type) -> object:
    content = pack(CloseReply(merchant="m0"))
    content["body"] = ConfigRecord({"json": raw})
    return unpack(content, kind, max_blob_bytes=10)


def spoil(data: bytes, chance: random.Random) -> bytes:
    """Change an accepted input in one of the ways in which bytes go wrong, or are made to."""
    out = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        kind = chance.randrange(7)
        place = chance.randrange(len(out)) if out else 0
        if kind == 0 and out:
            out[place] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del out[place:]
        elif kind == 2:
            out += chance.randbytes(chance.choice((1, 4, 64)))
        elif kind == 3:
            width = chance.choice((1, 2, 4, 8))
            extreme = chance.choice((0, 1, 2 ** (8 * width) - 1, 2 ** (8 * width - 1)))
            out[place : place + width] = extreme.to_bytes(width, "little")
        elif kind == 4:
            del out[place : place + chance.choice((1, 4, 16))]
        elif kind == 5:
            out[place:place] = out[place : place + chance.choice((1, 8, 32))]
        else:
            out[place : place + 8] = chance.choice(TOKENS)
    return bytes(out)


def fuzz(count: int, seed: int) -> dict[str, int]:
    """Feed every parser in turn; returns how many changed inputs each accepted."""
    chance = random.Random(seed)
    found = targets()
    for target in found:
        target.parse(target.valid[0])
    accepted = {target.name: 0 for target in found}
    tracemalloc.start()
    try:
        for number in range(count):
            target = found[number % len(found)]
            data = chance.randbytes(chance.randrange(200))
            if number % 10:
                data = spoil(chance.choice(target.valid), chance)
            if data in target.valid:
                continue
            try:
                target.parse(data)
            except FedrecError:
                continue
            accepted[target.name] += 1
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < LARGEST_MEMORY
    return accepted


def check(count: int, seed: int) -> None:
    accepted = fuzz(count, seed)
    # What is hashed or sealed takes no change at all; a changed body or ciphertext may still be one.
    assert accepted["parcel"] == accepted["sealed box"] == 0
    assert accepted["none ciphertext"] > 0


def test_hostile_bytes_are_refused_or_read() -> None:
    check(CI_INPUTS, seed=1)


@pytest.mark.slow
def test_a_hundred_thousand_hostile_inputs() -> None:
    check(INPUTS, seed=random.SystemRandom().randrange(2**32))
