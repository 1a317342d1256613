"""What it costs a merchant to refuse plans that ask for gigabytes or days: seconds, and peak memory.

Each plan meets a real merchant, ledger and store on disk, whose photos must never be asked for.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from measure import peak_memory_bytes

from fedrec.clients.assembly import open_context
from fedrec.clients.context import LocalResources
from fedrec.clients.merchant import Merchant
from fedrec.clients.merchant_home import MerchantHome
from fedrec.clients.plan_resources import build_model
from fedrec.clients.policy import MerchantPolicy
from fedrec.errors import RefusedError
from fedrec.privacy.accounting.count_release import COUNT_SIGMA
from fedrec.privacy.accounting.entry_contents import Count
from fedrec.privacy.aggregation import scheme_registry as schemes
from fedrec.privacy.aggregation.seats import seat_order
from fedrec.privacy.identity import SigningIdentity
from fedrec.privacy.randomness import Randomness
from fedrec.protocol.messages import JoinRequest
from fedrec.protocol.plan import MAX_DIMENSION, Peer, TrainingPlan
from fedrec.protocol.schema import MAX_ROUNDS

COUNT = Count(
    number=1,
    unit="record",
    size=100,
    sigma=COUNT_SIGMA,
    delta=1e-5,
    code="fedrec 0",
    policy_hash="f0" * 32,
    seeded=False,
)
_CAP = {"lifetime_epsilon": 10.0, "lifetime_delta": 1e-5}
DEFAULT_POLICY = MerchantPolicy(**_CAP)  # type: ignore[arg-type]
NO_LIMITS = MerchantPolicy(
    **_CAP,  # type: ignore[arg-type]
    largest_steps=None,
    largest_parameters=None,
    largest_image_size=None,
    largest_input_mib=None,
    largest_classes=None,
)
"""Of a merchant that took every limit on sizes away: what a plan says of its model must still be true."""


@dataclass(frozen=True)
class Attack:
    """A plan that differs from a harmless one in ``changes``, and what refuses it."""

    changes: Mapping[str, Any]
    refused_by: str
    policy: MerchantPolicy = DEFAULT_POLICY


_NAMES = tuple(f"{number:05d}".ljust(200, "x") for number in range(10_000))
ATTACKS: Mapping[str, Attack] = {
    "16 views of 1,024 pixels": Attack({"image_size": 1024, "views": 16}, "largest_image_size"),
    "16 views of a million photos": Attack({"views": 16, "records_largest": 10**6}, "largest_input_mib"),
    "a cnn of 1,024 pixels": Attack({"image_size": 1024, "dimension": MAX_DIMENSION}, "largest_parameters"),
    "a cnn of 1,024 pixels, called small": Attack({"image_size": 1024}, "largest_image_size"),
    "the same without limits": Attack({"image_size": 1024}, "parameters, not", NO_LIMITS),
    "pictures of 1,024 pixels, said to be small": Attack(
        {"image_size": 1024, "record_values": 8, "records_largest": 10**6}, "numbers of a record", NO_LIMITS
    ),
    "200 million parameters": Attack({"dimension": MAX_DIMENSION}, "largest_parameters"),
    "the same without limits, for a small model": Attack(
        {"dimension": MAX_DIMENSION}, "parameters, not", NO_LIMITS
    ),
    "a million rounds": Attack({"rounds": MAX_ROUNDS}, "largest_steps"),
    "a thousand steps in each round": Attack(
        {"mode": "local", "rounds": 1000, "local_steps": 1000}, "largest_steps"
    ),
    "10,000 classes of 200 letters": Attack({"classes": _NAMES}, "largest_classes"),
    "10,000 classes without limits": Attack({"classes": _NAMES}, "parameters, not", NO_LIMITS),
    "a million photos in each step": Attack(
        {"records_largest": 10**9, "image_size": 8, "channels": 1}, "largest_input_mib"
    ),
    "a committee of the server's choice": Attack({"committee": None}, "fingerprint draws"),
}


def rows() -> list[dict[str, Any]]:
    """Return a row for each plan: CPU time and peak bytes that its refusal takes, and the refusal."""
    with tempfile.TemporaryDirectory() as folder:
        return [_row(Path(folder) / str(n), name) for n, name in enumerate(ATTACKS)]


def _row(folder: Path, name: str) -> dict[str, Any]:
    attack = ATTACKS[name]
    folder.mkdir()
    identity = SigningIdentity.generate()
    request = JoinRequest(plan=_plan(identity, attack.changes))
    merchant = _merchant(folder, identity, attack.policy)
    with closing(merchant.ledger), closing(merchant.store):
        started = time.process_time()
        refusal = refusal_of(merchant, request)
        seconds = time.process_time() - started
        peak = peak_memory_bytes(lambda: refusal_of(merchant, request), warm=True)
    return {
        "plan": name,
        "milliseconds": 1000 * seconds,
        "peak_megabytes": peak / 1e6,
        "refused_by": attack.refused_by,
        "refusal": refusal,
    }


def refusal_of(merchant: Merchant, request: JoinRequest) -> str:
    """Return why the merchant doesn't join; empty where it does."""
    try:
        merchant.join(request)
    except RefusedError as error:
        return str(error)
    return ""


def _merchant(folder: Path, identity: SigningIdentity, policy: MerchantPolicy) -> Merchant:
    def photos(plan: TrainingPlan) -> NoReturn:
        raise AssertionError("the photos were read for a plan that must be refused")

    home = MerchantHome.create_keys_and_ledger(folder, identity=identity, count=COUNT, policy=policy)
    resources = LocalResources(
        data_for=photos,
        build_model=build_model,
        randomness_for=lambda plan, round_number: Randomness.from_os(),
        device=torch.device("cpu"),
    )
    return Merchant(open_context(home, name="m0", server_key="00" * 32, policy=policy, resources=resources))


def _plan(identity: SigningIdentity, changes: Mapping[str, Any]) -> TrainingPlan:
    keys = [identity, *(SigningIdentity.generate() for _ in range(3))]
    roster = tuple(Peer(name=f"m{i}", signing_key=key.public.hex()) for i, key in enumerate(keys))
    drawn = seat_order(roster)
    values: dict[str, Any] = {
        "server_key": "0" * 64,
        "nonce": "0" * 32,
        "model": "cnn",
        "initial_model_hash": "0" * 64,
        "classes": ("a", "b"),
        "channels": 3,
        "image_size": 32,
        "dimension": 544_258,
        "views": 1,
        "mode": "distributed",
        "rounds": 100,
        "local_steps": 1,
        "local_learning_rate": 1.0,
        "sample_rate": 0.05,
        "clip": 1.0,
        "delta": 1e-5,
        "noise_multiplier": 1.0,
        "records_total": 1000,
        "records_largest": 250,
        "roster": roster,
        "committee": drawn,
        "threshold": 3,
        "min_contributors": 3,
        "colluders": 1,
        "corrupt_members": 1,
        "seat_risk": 0.0,
        "scheme": "kahe",
        "trust": schemes.get("kahe").trust,
    }
    values |= changes
    values.setdefault("record_values", values["channels"] * values["image_size"] ** 2)
    if values["committee"] is None:
        values["committee"] = drawn[::-1]
    return TrainingPlan(**values)


if __name__ == "__main__":
    for row in rows():
        cost = f"{row['milliseconds']:9.2f} ms {row['peak_megabytes']:8.2f} MB"
        print(f"{row['plan']:<44} {cost}  {row['refusal'][:70]}")
