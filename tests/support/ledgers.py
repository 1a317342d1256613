"""Ledgers with one charge to repeat, signed by a message authentication code instead of a key pair."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace
from pathlib import Path

from fedrec.privacy.accounting.count_release import COUNT_SIGMA, count_event
from fedrec.privacy.accounting.entry_contents import Charge, Count
from fedrec.privacy.accounting.key_rotation import Signer
from fedrec.privacy.accounting.ledger import Ledger
from fedrec.privacy.accounting.ledger_creation import create_ledger


class MacIdentity:
    """A stand-in with the interface of a signing identity; a MAC serves as the signature."""

    def __init__(self, public: bytes = b"p" * 32) -> None:
        self.public = public

    def sign(self, message: bytes, *, context: bytes) -> bytes:
        return hmac.new(b"secret" + self.public, context + b"|" + message, hashlib.sha512).digest()


def verify_mac(public: bytes, message: bytes, signature: bytes, *, context: bytes) -> bool:
    return hmac.compare_digest(MacIdentity(public).sign(message, context=context), signature)


CHARGE = Charge(
    training_id="ab" * 32, round_number=0, model_hash="cd" * 32, mode="distributed", unit="record",
    adjacency="add-remove", duplicate_policy="drop", sample_rate=0.1, clip=1.0, planned_noise_multiplier=2.0,
    guaranteed_noise_multiplier=2.0, broken_noise_multiplier=0.7, beta=1e-12, scale=2048, dimension=538_570,
    sensitivity=2085.0,
    min_contributors=8, colluders=1, delta=1e-5, clipping="fixed", run="ee" * 16, model="cnn",
    code="fedrec 0", policy_hash="f0" * 32, rounds=100, seeded=False,
)  # fmt: skip

VERSION = "a1" * 32

COUNT = Count(
    number=1, unit="record", size=750, sigma=COUNT_SIGMA, delta=1e-5, code="fedrec 0",
    policy_hash="f0" * 32, seeded=False,
)  # fmt: skip

COUNTED = count_event()


def head_path(path: Path) -> Path:
    return path.with_name(path.name + ".head")


def made_ledger(path: Path, signer: Signer | None = None, *, unit: str = "record") -> Path:
    """A path with a ledger that has no more than its count."""
    if not path.exists() and not head_path(path).exists():
        create_ledger(path, signer=signer or MacIdentity(), count=replace(COUNT, unit=unit))
    return path


def open_ledger(path: Path, epsilon: float | None = None, delta: float | None = None) -> Ledger:
    made_ledger(path)
    return Ledger(
        path, signer=MacIdentity(), verify=verify_mac, epsilon_lifetime=epsilon, delta_lifetime=delta
    )
