"""Hostile bytes through every parser: nothing but fedrec's own errors, and no memory to speak of."""

from __future__ import annotations

import gc
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from numpy.typing import NDArray

from fedrec.errors import AggregationError, FedrecError, ProtocolError
from fedrec.flower.grid import _MALFORMED
from fedrec.flower.objects import inflate
from fedrec.privacy.aggregation import dealing, scheme_registry
from fedrec.privacy.aggregation.dealing import Published
from fedrec.privacy.aggregation.scheme import CommitteeScheme, Encrypted, HolderScheme, KeyPair
from fedrec.privacy.identity import SealingKey, SigningIdentity, seal
from fedrec.privacy.randomness import Randomness
from fedrec.protocol.enrolment import Enrolment, JoinFile, Statement
from fedrec.protocol.messages import CloseReply, CloseRequest, JoinReply, TrainReply, TrainRequest
from fedrec.protocol.plan import Peer
from fedrec.protocol.schema import Strict
from fedrec.protocol.statements import (
    LEDGER_HEAD_CONTEXT,
    EncryptionKey,
    LedgerHead,
    Receipt,
    RequestStatement,
    SignedEncryptionKey,
    SignedLedgerHead,
    SignedRequest,
)
from fedrec.protocol.transport import pack, unpack
from fedrec.server.receipts import ReceiptBook
from tests.support.sample_messages import BODIES, HASH, PLAN

INPUTS = 120_000
CI_INPUTS = 3_000
# A parser may hold its parameters' worth of memory, here far below this, whatever an input claims.
LARGEST_GROWTH_KIB = 100 * 1024
DIMENSION = 300
MOST_TIMES, SLACK_KIB = 20, 4 * 1024
"""What refusing one input may add to resident memory: so many times its size, and the allocator's pages."""
BLOATS = (b"[],", b"{},", b"1,", b'"":1,', b"[", b'{"":', b"\x0a\x00", b"\x00", b"9")
TOKENS = (b"9" * 8, b'"', b"null", b"[[[[[[[[", b"1e999", b"-1", b"{}")


@dataclass(frozen=True)
class Target:
    """A parser, and a few inputs that it accepts, to be spoilt."""

    name: str
    parse: Callable[[bytes], object]
    valid: tuple[bytes, ...]


def targets() -> list[Target]:
    out = []
    for name in scheme_registry.names():
        out += scheme_targets(name)
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
            lambda b: dealing.decode_share(b, member=1, count=7),
            (dealing.encode_share(1, range(8)),),
        )
    )
    for number, body in enumerate((*BODIES, *more_bodies())):
        name = f"{type(body).__name__} {number}"
        out.append(Target(name, partial(read, kind=type(body)), (body.canonical_bytes(),)))
    return [*out, *ledger_targets(), *flower_targets()]


def scheme_targets(name: str) -> list[Target]:
    """What a scheme reads of others."""
    rng = Randomness.from_os()
    values = np.arange(DIMENSION, dtype=np.int64) - 100
    scheme = scheme_registry.create(
        name, scheme_registry.choose_parameters(name, dimension=DIMENSION, cohort=3, max_abs_sum=1000)
    )
    key = scheme.make_keys() if isinstance(scheme, HolderScheme) else None
    sent = scheme.encrypt(
        values,
        training_id="ab" * 32,
        round_number=1,
        rng=rng,
        public_key=None if key is None else key.public,
    )
    out = [Target(f"{name} ciphertext", lambda b: scheme.new_sum().add(b), (sent.ciphertext,))]
    if isinstance(scheme, CommitteeScheme):
        out += committee_targets(scheme, sent, rng=rng)
    if isinstance(scheme, HolderScheme) and key is not None:
        out += holder_targets(scheme, sent, key, values=values, rng=rng)
    return out


def committee_targets(scheme: CommitteeScheme, sent: Encrypted, *, rng: Randomness) -> list[Target]:
    """Parcels of a key and answers of a committee's members."""
    dealt = scheme.deal(sent.key, members=3, threshold=2, rng=rng)
    total = scheme.new_sum()
    total.add(sent.ciphertext)
    share, *rest = (
        scheme.combine_shares([parcel], member=member) for member, parcel in enumerate(dealt.parcels, start=1)
    )
    others = dict(enumerate(rest, start=2))
    checked = scheme.dealt_sum([dealt.published], threshold=2)

    def refuse(wrong: object) -> None:
        if wrong:
            raise AggregationError("a wrong parcel")

    def accept_parcel(raw: bytes) -> None:
        refuse(scheme.wrong_parcels([raw], [dealt.published], member=1, threshold=2))

    def read_points(raw: bytes) -> None:
        published = Published(tuple(raw.decode("latin-1").split(" ")))
        refuse(scheme.wrong_parcels(dealt.parcels[:1], [published], member=1, threshold=2))

    def open_with(answers: dict[int, bytes]) -> object:
        return scheme.open(
            total, answers=answers, threshold=2, contributors=1, training_id="ab" * 32, round_number=1
        )

    return [
        Target("parcel", accept_parcel, dealt.parcels),
        Target("key commitments", read_points, (" ".join(dealt.published.commitments).encode(),)),
        Target("key shares", lambda b: scheme.combine_shares([b, b], member=1), (share,)),
        Target("kahe answer", lambda b: checked.check(b, member=1), (share,)),
        # Unchecked beside a right one, where the random share alone may be wrong without harm.
        Target("kahe answer, unchecked", lambda b: open_with({1: b, 2: others[2]}), (share,)),
    ]


def holder_targets(
    scheme: HolderScheme, sent: Encrypted, key: KeyPair, *, values: NDArray[np.int64], rng: Randomness
) -> list[Target]:
    """Keys and answers of the one who holds a training's key."""
    total = scheme.new_sum()
    total.add(sent.ciphertext)
    answer = scheme.answer(total, private_key=key.private, contributors=1)

    def open_with(raw: bytes) -> object:
        return scheme.open(
            total, answers={1: raw}, threshold=1, contributors=1, training_id="ab" * 32, round_number=1
        )

    def encrypt_under(raw: bytes) -> object:
        return scheme.encrypt(values, training_id="ab" * 32, round_number=1, rng=rng, public_key=raw)

    return [
        Target("answer", open_with, (answer,)),
        Target("private key", lambda b: scheme.answer(total, private_key=b, contributors=1), (key.private,)),
        Target("public key", encrypt_under, (key.public,)),
    ]


def signed_head() -> tuple[SigningIdentity, SignedLedgerHead]:
    identity = SigningIdentity.generate()
    head = LedgerHead(
        training_id=PLAN.training_id, round_number=1, merchant="m0", moment="charged", head_hash=HASH
    )
    signature = identity.sign(head.canonical_bytes(), context=LEDGER_HEAD_CONTEXT).hex()
    return identity, SignedLedgerHead(statement=head, signature=signature)


def more_bodies() -> tuple[Strict, ...]:
    """The messages, and the parts of messages, that the protocol's own tests have no example of."""
    receipt = Receipt(head=signed_head()[1], server_key=HASH, signature="ab" * 64)
    statement = EncryptionKey(training_id=HASH, merchant="m0", key_hash=HASH)
    key = SignedEncryptionKey(statement=statement, signature="ab" * 64)
    stated = RequestStatement(
        kind="train", training_id=HASH, round_number=1, recipient="m0", counter=1, content_hash=HASH
    )
    peer = Peer(name="m0", signing_key=HASH)
    pem = "-----BEGIN CERTIFICATE-----\nMIIB\n"
    return (
        SignedRequest(statement=stated, signature="ab" * 64),
        JoinFile(address="server.example:8443", authority=pem, server_key=HASH, roster=(peer,)),
        Enrolment(
            statement=Statement(name="m0", signing_key=HASH, node_key=pem, unit="record", size=10),
            signature="ab" * 64,
        ),
        CloseRequest(training_id=HASH),
        CloseRequest(training_id=HASH, receipt=receipt),
        TrainRequest(
            training_id=HASH,
            round_number=1,
            model_hash=HASH,
            sealing_keys=(),
            encryption_key=key,
            receipt=receipt,
        ),
        TrainReply(merchant="m0", head=signed_head()[1]),
        JoinReply(merchant="m0", signature="ab" * 64, encryption_key=key),
    )


def ledger_targets() -> tuple[Target, ...]:
    """Heads as the server countersigns them."""
    identity, head = signed_head()
    plan = PLAN.model_copy(
        update={
            "roster": (
                PLAN.roster[0].model_copy(update={"name": "m0", "signing_key": identity.public.hex()}),
                *PLAN.roster[1:],
            )
        }
    )
    head = head.model_copy(
        update={"statement": head.statement.model_copy(update={"training_id": plan.training_id})}
    )
    signature = identity.sign(head.statement.canonical_bytes(), context=LEDGER_HEAD_CONTEXT).hex()
    head = head.model_copy(update={"signature": signature})
    body = TrainReply(merchant="m0", head=head)
    with TemporaryDirectory() as folder:
        book = ReceiptBook(Path(folder) / "none", identity=SigningIdentity.generate())

    def countersign(raw: bytes) -> Receipt:
        reply, _ = read(raw, kind=TrainReply)
        receipt = book.sign(reply.head, plan=plan, merchant="m0", round_number=1, moment="charged")
        # Spaces and what is beside the head may change; what is countersigned may not.
        assert receipt.head == head
        return receipt

    return (Target("head", countersign, (body.canonical_bytes(),)),)


@contextmanager
def malformed() -> Iterator[None]:
    """What the connection takes for bytes that can't be read, and no other exception."""
    try:
        yield
    except (*_MALFORMED, RuntimeError, OSError) as error:
        raise ProtocolError(str(error)) from None


def flower_targets() -> tuple[Target, ...]:
    """Flower's own encoding of a message's body and of its large blobs, as a server may send them."""
    body = ConfigRecord({"json": CloseReply(merchant="m0").canonical_bytes(), "blob:x": b"123"})
    array = Array(dtype="uint8", shape=(3,), stype="fedrec.bytes/1", data=b"abc")
    chunks = dict(array.children or {})

    def read_body(raw: bytes) -> object:
        with malformed():
            record = inflate(raw, {})
            if not isinstance(record, ConfigRecord):
                raise ValueError("another object")
            content = RecordDict({"body": record})
        return unpack(content, CloseReply, max_blob_bytes=10)

    def read_array(raw: bytes) -> object:
        with malformed():
            found = inflate(raw, chunks)
            if not isinstance(found, Array):
                raise ValueError("another object")
            content = RecordDict({"body": body, "blobs": ArrayRecord({"large/0": found})})
        return unpack(content, CloseReply, max_blob_bytes=10)

    return (
        Target("Flower body", read_body, (body.deflate(),)),
        Target("Flower blob", read_array, (array.deflate(),)),
    )


Body = TypeVar("Body", bound=Strict)


def read(raw: bytes, kind: type[Body]) -> tuple[Body, dict[str, bytes]]:
    content = pack(CloseReply(merchant="m0"))
    content["body"] = ConfigRecord({"json": raw})
    return unpack(content, kind, max_blob_bytes=10)


def spoil(data: bytes, chance: random.Random) -> bytes:
    """Change an accepted input in one of the ways in which bytes go wrong, or are made to."""
    out = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        kind = chance.randrange(8) if chance.random() < 0.1 else chance.randrange(7)
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
        elif kind == 6:
            out[place : place + 8] = chance.choice(TOKENS)
        else:
            out[place:place] = chance.choice(BLOATS) * chance.choice((1_000, 50_000, 300_000))
    return bytes(out)


def fuzz(count: int, seed: int) -> dict[str, int]:
    """Feed every parser in turn; returns how many changed inputs each accepted."""
    chance = random.Random(seed)
    found = targets()
    for target in found:
        target.parse(target.valid[0])
    accepted = {target.name: 0 for target in found}
    assert len(accepted) == len(found)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = resident_kib("VmRSS")
    for number in range(count):
        target = found[number % len(found)]
        data = chance.randbytes(chance.randrange(200))
        if chance.randrange(10):
            data = spoil(chance.choice(target.valid), chance)
        if data in target.valid:
            continue
        peak = resident_kib("VmHWM")
        try:
            target.parse(data)
        except FedrecError:
            grown = resident_kib("VmHWM") - peak
            assert grown <= SLACK_KIB + MOST_TIMES * len(data) // 1024, (target.name, len(data), grown)
            continue
        accepted[target.name] += 1
    growth = resident_kib("VmHWM") - before
    sys.stdout.write(f"{count} inputs to {len(found)} parsers, seed {seed}: {growth / 1024:.1f} MiB more\n")
    assert growth < LARGEST_GROWTH_KIB
    return accepted


def resident_kib(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))


def check(count: int, seed: int) -> None:
    accepted = fuzz(count, seed)
    # What is hashed or sealed takes no change at all; a changed body or ciphertext may still be one.
    assert accepted["parcel"] == accepted["key commitments"] == accepted["sealed box"] == 0
    assert accepted["kahe answer"] == 0
    assert accepted["none ciphertext"] > 0


def test_hostile_bytes_are_refused_or_read() -> None:
    check(CI_INPUTS, seed=1)


@pytest.mark.slow
def test_a_hundred_thousand_hostile_inputs() -> None:
    check(INPUTS, seed=random.SystemRandom().randrange(2**32))
