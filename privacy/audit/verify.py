"""Recheck an audit bundle. Stands alone: it imports nothing of fedrec, and can be copied and run elsewhere.

    python verify.py audit.json

It needs two packages: ``cryptography`` for Ed25519, and Google's ``dp_accounting`` (which brings numpy and
scipy). For every merchant in the bundle it checks

- the chain: entry n's hash is SHA-256 of a prefix, entry n-1's hash and entry n's payload, and is signed by
  the merchant's key; numbers have no gap, no (training, round, step) comes twice, and time never runs back;
- the receipts: heads that the merchant signed and the server countersigned all stand in the chain, so that
  neither a ledger put back to an older state nor entries cut from the end go unnoticed;
- the plans in the bundle: a charge has its training's rate, clip, delta and so on;
- the policies in the bundle: no charge breaks a rule of its time;
- every epsilon, before and after each charge, by PLD and by integer-order RDP, from the raw history
  (sampling rate, noise multiplier, steps, beta, delta) alone;
- the summary: its figures are those of the history.

PLD is composed anew at every charge of short histories, and at closely spaced ones of long ones (``KNOTS``);
the charges between are held against an interpolation. RDP is recomputed at every charge.

What it can't show: that a merchant ran what it wrote down, or that the photos were what it said.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
import sys
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.pld import privacy_loss_distribution as pld
from dp_accounting.rdp import RdpAccountant

SCHEMA = "fedrec.audit/1"
MAX_BYTES = 2**30
ORDERS = (*range(2, 257), 320, 384, 512, 768, 1024)
TOLERANCE = 1e-3
"""How far a recorded epsilon may lie below the recomputed one, relative; and above it, for RDP."""
EXCESS = 1e-2
"""How far a recorded PLD epsilon, an upper bound on a grid, may lie above the recomputed one."""
KNOTS = 8
"""So many charges of one kind in a row are all recomposed, then one in each further 8%."""

_NUMBER = (int, float)
CHARGE: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(
        ("training_id", "model_hash", "mode", "unit", "adjacency", "duplicate_policy", "clipping", "run"),
        (str,),
    ),
    **dict.fromkeys(("model", "code", "policy_hash", "dataset_version"), (str,)),
    **dict.fromkeys(
        ("round_number", "scale", "min_contributors", "colluders", "size_bucket", "step", "steps"), (int,)
    ),
    "dimension": (int,),
    **dict.fromkeys(("sample_rate", "clip", "planned_noise_multiplier", "sensitivity", "delta"), _NUMBER),
    **dict.fromkeys(("guaranteed_noise_multiplier", "broken_noise_multiplier", "beta"), _NUMBER),
    "seeded": (bool,),
}
EPSILONS = ("pld_before", "pld_after", "rdp_before", "rdp_after")


class CheckError(Exception):
    """The first thing that doesn't hold; ``entry`` is its number, counted from 1, if it is an entry."""

    def __init__(self, reason: str, *, entry: int | None = None) -> None:
        super().__init__(reason)
        self.entry = entry


@dataclass
class Outcome:
    """What came of a bundle: a line per merchant, and the failures by merchant ("" for the bundle's own)."""

    lines: list[str] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether everything held."""
        return not self.failures


def canonical(value: Any) -> bytes:
    """The one encoding that hashes and signatures are over."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def signed(public: bytes, message: bytes, signature: str, *, context: bytes) -> bool:
    """Whether an Ed25519 signature of 128 hexadecimal digits holds for a message in a context."""
    whole = b"fedrec/sign/1" + b"".join(struct.pack("<Q", len(part)) + part for part in (context, message))
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(bytes.fromhex(signature), whole)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def verify(path: Path) -> Outcome:
    """Check a bundle; whatever is wrong with it is in the outcome."""
    outcome = Outcome()
    try:
        bundle = _read(path)
        outcome.lines.append(f"bundle: signed by {bundle['signer'][:16]}..., {bundle['body']['created_at']}")
        body = bundle["body"]
        plans = _plans(body)
        server_key = body["server_key"]
        if not body["merchants"]:
            raise CheckError("the bundle holds no merchant")
        for merchant in body["merchants"]:
            name = str(merchant["merchant"])
            try:
                outcome.lines.append(f"{name}: {_merchant(merchant, plans=plans, server_key=server_key)}")
            except CheckError as failure:
                where = "" if failure.entry is None else f"entry {failure.entry}: "
                outcome.failures[name] = f"{where}{failure}"
    except CheckError as failure:
        outcome.failures[""] = str(failure)
    # Whatever else a stranger's file can make Python raise is a bundle that can't be read.
    except (
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        IndexError,
        OverflowError,
        RecursionError,
    ) as error:
        outcome.failures[""] = f"the bundle can't be read ({type(error).__name__}: {str(error)[:200]})"
    return outcome


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise CheckError(f"the bundle is larger than {MAX_BYTES} bytes")
        bundle = json.loads(path.read_bytes(), parse_constant=_no_constant)
    except OSError as error:
        raise CheckError(f"{path} can't be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise CheckError(f"{path} is not a whole JSON file ({str(error)[:100]})") from None
    if not isinstance(bundle, dict) or set(bundle) != {"schema", "body", "signer", "signature"}:
        raise CheckError(f"{path} is no audit bundle")
    if bundle["schema"] != SCHEMA:
        raise CheckError(f"the bundle's schema is {str(bundle['schema'])[:40]!r}, not {SCHEMA}")
    if not signed(
        bytes.fromhex(bundle["signer"]),
        canonical(bundle["body"]),
        bundle["signature"],
        context=b"fedrec/audit/1",
    ):
        raise CheckError("the bundle's own signature doesn't hold: it was changed after it was made")
    return bundle


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no number")


def _plans(body: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The plans by training: a plan's hash is its training's name, so none can be put in its place."""
    plans = {}
    for text in body["plans"]:
        plans[hashlib.sha256(text.encode()).hexdigest()] = json.loads(text)
    return plans


def _merchant(merchant: Mapping[str, Any], *, plans: Mapping[str, Any], server_key: str | None) -> str:
    """Check one merchant's ledger and return what to say of it."""
    public = bytes.fromhex(merchant["public_key"])
    entries = list(_entries(merchant["entries"], public=public))
    _receipts(
        merchant["receipts"], name=merchant["merchant"], public=public, entries=entries, server=server_key
    )
    checked = sum(
        _follows_plan(entry, plans.get(entry["charge"]["training_id"]), merchant) for entry in entries
    )
    policies = {hashlib.sha256(text.encode()).hexdigest(): json.loads(text) for text in merchant["policies"]}
    conforming = _policies(entries, policies)
    broken = _epsilons(entries)
    _summary(merchant["summary"], entries, broken)
    last = entries[-1]["epsilons"] if entries else None
    spent = (
        "nothing spent"
        if last is None
        else f"epsilon {_shown(last['pld_after'])} by PLD, {_shown(last['rdp_after'])} by RDP"
    )
    notes = [f"{len(entries)} charges hold, {spent}"]
    if checked < len(entries):
        notes.append(f"{len(entries) - checked} of trainings whose plan isn't here")
    if conforming < len(entries):
        notes.append(f"{len(entries) - conforming} under policies that aren't here")
    if not merchant["receipts"]:
        notes.append("no receipts: entries may have been cut from the end")
    return "; ".join(notes)


def _shown(value: float | None) -> str:
    return "without a bound" if value is None else f"{value:.4g}"


def _entries(rows: Sequence[Any], *, public: bytes) -> Iterator[dict[str, Any]]:
    """Yield the parsed entries; raise at the first whose form, place, hash or signature is wrong."""
    previous = hashlib.sha256(b"fedrec/ledger/genesis/1" + public).digest()
    keys: set[tuple[str, int, int]] = set()
    time = unit = ""
    for number, row in enumerate(rows, start=1):
        try:
            payload, digest, signature = row["payload"], bytes.fromhex(row["hash"]), row["signature"]
            entry = json.loads(payload, parse_constant=_no_constant)
            _form(entry)
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise CheckError(f"it can't be read ({str(error)[:100]})", entry=number) from None
        charge = entry["charge"]
        if entry["sequence"] != number:
            raise CheckError(
                f"it is numbered {entry['sequence']}: one is missing, or they were reordered", entry=number
            )
        if hashlib.sha256(b"fedrec/ledger/entry/1" + previous + payload.encode()).digest() != digest:
            raise CheckError("its hash doesn't follow from the entry before it and its content", entry=number)
        if not signed(public, digest, signature, context=b"fedrec/ledger/1"):
            raise CheckError("its signature is not this merchant's", entry=number)
        key = (charge["training_id"], charge["round_number"], charge["step"])
        if key in keys:
            raise CheckError("its training, round and step were charged before", entry=number)
        if entry["created_at"] < time:
            raise CheckError(f"it is dated {entry['created_at']}, before the entry before it", entry=number)
        if unit and charge["unit"] != unit:
            raise CheckError(
                f"it hides a {charge['unit']}, those before it a {unit}: they don't add up", entry=number
            )
        unit = charge["unit"]
        keys.add(key)
        time, previous = entry["created_at"], digest
        yield entry | {"hash": row["hash"]}


def _form(entry: Any) -> None:
    """Raise ``ValueError`` unless an entry has just its fields, of their types and in their ranges."""
    if set(entry) != {"sequence", "created_at", "accountants", "epsilons", "charge"}:
        raise ValueError("it has other fields")
    charge, epsilons = entry["charge"], entry["epsilons"]
    if set(charge) != set(CHARGE) or set(epsilons) != {*EPSILONS, "delta"}:
        raise ValueError("its charge or epsilons have other fields")
    for name, kinds in CHARGE.items():
        if not isinstance(charge[name], kinds) or isinstance(charge[name], bool) != (bool in kinds):
            raise ValueError(f"{name} has a wrong type")
    for name in EPSILONS:
        value = epsilons[name]
        if value is not None and (
            not isinstance(value, _NUMBER) or isinstance(value, bool) or not value >= 0
        ):
            raise ValueError(f"{name} has a wrong type or sign")
    if not isinstance(epsilons["delta"], float) or not 0 < epsilons["delta"] < 1:
        raise ValueError("the delta of its epsilons is outside (0, 1)")
    if datetime.fromisoformat(entry["created_at"]).utcoffset() is None or not entry["created_at"].endswith(
        "+00:00"
    ):
        raise ValueError("its time is not UTC")
    ranges = {
        "sample_rate": 0 < charge["sample_rate"] <= 1,
        "guaranteed_noise_multiplier": 0 <= charge["guaranteed_noise_multiplier"] <= 1e6,
        "broken_noise_multiplier": 0
        <= charge["broken_noise_multiplier"]
        <= charge["guaranteed_noise_multiplier"] * (1 + 1e-9),
        "planned_noise_multiplier": charge["guaranteed_noise_multiplier"]
        <= charge["planned_noise_multiplier"] * (1 + 1e-9),
        "beta": 0 <= charge["beta"] < 1,
        "delta": 0 < charge["delta"] < 1,
        "steps": 1 <= charge["steps"] <= 10**6,
        "step": charge["step"] >= 0,
        "clip": charge["clip"] > 0,
        "round_number": charge["round_number"] >= 1,
    }
    for name, within in ranges.items():
        if not within:
            raise ValueError(f"{name} is out of range")


def _receipts(
    receipts: Sequence[Any], *, name: str, public: bytes, entries: Sequence[Any], server: str | None
) -> None:
    """See that every head that both sides signed stands in the chain."""
    hashes = {entry["hash"]: entry["charge"] for entry in entries}
    for receipt in receipts:
        head, stated = receipt["head"], receipt["head"]["statement"]
        where = f"the receipt of round {stated['round_number']} of training {stated['training_id'][:16]}"
        if stated["merchant"] != name or not signed(
            public, canonical(stated), head["signature"], context=b"fedrec/ledger-head/1"
        ):
            raise CheckError(f"{where} holds a head that this merchant didn't sign")
        if receipt["server_key"] != server or not signed(
            bytes.fromhex(str(server)),
            canonical(head),
            receipt["signature"],
            context=b"fedrec/ledger-receipt/1",
        ):
            raise CheckError(f"{where} is not signed by the server's key")
        charge = hashes.get(stated["head_hash"])
        if charge is None:
            raise CheckError(
                f"the ledger lacks an entry that {where} is for: it was put back to an older state, or cut",
                entry=len(entries) + 1,
            )
        if (charge["training_id"], charge["round_number"]) != (stated["training_id"], stated["round_number"]):
            raise CheckError(f"{where} is for an entry of another round")


def _follows_plan(
    entry: Mapping[str, Any], plan: Mapping[str, Any] | None, merchant: Mapping[str, Any]
) -> bool:
    """Hold a charge against its training's plan; False where there is none."""
    if plan is None:
        return False
    charge, number = entry["charge"], entry["sequence"]
    same = {
        "sample_rate": "sample_rate", "clip": "clip", "clipping": "clipping", "delta": "delta",
        "mode": "mode", "unit": "unit", "model": "model", "run": "nonce",
        "min_contributors": "min_contributors",
        "colluders": "colluders", "steps": "local_steps",
    }  # fmt: skip
    for name, planned in same.items():
        if charge[name] != plan[planned]:
            raise CheckError(f"its {name} is {charge[name]}, the plan's is {plan[planned]}", entry=number)
    noise = plan["noise_multiplier"] or 0.0
    if not math.isclose(charge["planned_noise_multiplier"], noise, rel_tol=1e-9):
        raise CheckError(
            f"its noise multiplier is {charge['planned_noise_multiplier']}, the plan's {noise}", entry=number
        )
    if plan["scheme"] != "kahe" and charge["guaranteed_noise_multiplier"] > charge["broken_noise_multiplier"]:
        raise CheckError(
            f"scheme {plan['scheme']} can't guarantee more than a merchant's own noise", entry=number
        )
    if plan["scheme"] == "kahe" and plan["mode"] == "distributed":
        own = noise / math.sqrt(max(1, plan["min_contributors"] - plan["colluders"]))
        if not math.isclose(charge["broken_noise_multiplier"], own, rel_tol=1e-9):
            raise CheckError("its own share of noise is not the one that follows from the plan", entry=number)
    if charge["round_number"] > plan["rounds"]:
        raise CheckError(
            f"round {charge['round_number']} is beyond the plan's {plan['rounds']}", entry=number
        )
    keys = {peer["name"]: peer["signing_key"] for peer in plan["roster"]}
    if keys.get(merchant["merchant"]) != merchant["public_key"]:
        raise CheckError("the plan's roster has another key for this merchant", entry=number)
    return True


def _policies(entries: Sequence[Any], policies: Mapping[str, Any]) -> int:
    """Hold every charge against the policy that it names; return how many of those are in the bundle."""
    found = 0
    days: Counter[str] = Counter()
    rounds: set[tuple[str, int]] = set()
    for entry in entries:
        charge, number = entry["charge"], entry["sequence"]
        if (key := (charge["training_id"], charge["round_number"])) not in rounds:
            rounds.add(key)
            days[entry["created_at"][:10]] += 1
        rules = policies.get(charge["policy_hash"])
        if rules is None:
            continue
        found += 1
        after, lifetime = entry["epsilons"]["rdp_after"], rules["lifetime_epsilon"]
        distributed = charge["mode"] == "distributed"
        most, utc = rules["largest_rounds_per_day"], rules["clock"] == "utc"
        broken = {
            "modes": charge["mode"] not in rules["modes"],
            "units": charge["unit"] not in rules["units"],
            "models": rules["models"] is not None and charge["model"] not in rules["models"],
            "largest_sample_rate": charge["sample_rate"] > rules["largest_sample_rate"],
            "least_noise_multiplier": charge["guaranteed_noise_multiplier"] < rules["least_noise_multiplier"],
            "least_contributors": charge["min_contributors"] < rules["least_contributors"],
            "least_colluders": distributed and charge["colluders"] < rules["least_colluders"],
            "largest_training_delta": charge["delta"] > (rules["largest_training_delta"] or 1),
            "largest_rounds_per_day": most is not None and utc and days[entry["created_at"][:10]] > most,
            "lifetime_epsilon": lifetime is not None and (after is None or after > lifetime),
            "lifetime_delta": lifetime is not None and entry["epsilons"]["delta"] != rules["lifetime_delta"],
        }
        for rule, breaks in broken.items():
            if breaks:
                raise CheckError(f"it breaks the policy's rule '{rule}'", entry=number)
    return found


# --- epsilons -----------------------------------------------------------------------------------------------

Kind = tuple[float, float]


@lru_cache(maxsize=256)
def _rdp_step(rate: float, noise: float) -> np.ndarray:
    if noise == 0.0:
        return np.full(len(ORDERS), math.inf)
    accountant = RdpAccountant(ORDERS)
    accountant.compose(PoissonSampledDpEvent(rate, GaussianDpEvent(noise)))
    return np.asarray(accountant.rdp)


def rdp_epsilon(rdp: np.ndarray, delta: float) -> float:
    """Epsilon from Renyi divergences at ``ORDERS`` (Canonne, Kamath and Steinke 2020, proposition 12)."""
    if delta < 1e-12:
        return math.inf
    if not np.any(rdp):
        return 0.0
    orders = np.asarray(ORDERS, dtype=np.float64)
    return max(0.0, float(np.min(rdp + np.log1p(-1 / orders) - np.log(delta * orders) / (orders - 1))))


@lru_cache(maxsize=64)
def _pld_step(rate: float, noise: float, interval: float) -> pld.PrivacyLossDistribution:
    return pld.from_gaussian_mechanism(
        noise, sampling_prob=rate, value_discretization_interval=interval, pessimistic_estimate=True
    )


@lru_cache(maxsize=4096)
def _pld_of(history: tuple[tuple[float, float, int], ...], interval: float) -> pld.PrivacyLossDistribution:
    """The composition of (rate, noise, steps); the last kind is composed onto the others', which are kept."""
    if not history:
        return pld.identity(interval)
    rate, noise, steps = history[-1]
    step = _pld_step(rate, noise, interval)
    whole = step.self_compose(steps) if steps > 1 else step
    return whole if len(history) == 1 else _pld_of(history[:-1], interval).compose(whole)


@lru_cache(maxsize=65536)
def pld_epsilon(history: tuple[tuple[float, float, int], ...], delta: float, rough: float) -> float:
    """Epsilon by PLD of (rate, noise, steps) at ``delta``; the RDP figure ``rough`` chooses the grid."""
    if delta < 1e-12 or any(noise < 0.05 for _, noise, _ in history):
        return math.inf
    if not history:
        return 0.0
    # A power of two, so that neighbouring charges share their steps' distributions.
    interval = 2.0 ** math.floor(math.log2(min(max(2e-4 * rough, 1e-6), 0.02)))
    return float(_pld_of(history, interval).get_epsilon_for_delta(delta))


@dataclass
class _Totals:
    steps: dict[Kind, int] = field(default_factory=dict)
    rdp: np.ndarray = field(default_factory=lambda: np.zeros(len(ORDERS)))
    betas: float = 0.0

    def add(self, kind: Kind, steps: int, beta: float) -> None:
        # The kind charged last comes last, so that the composition of the others is kept.
        self.steps[kind] = self.steps.pop(kind, 0) + steps
        self.rdp = self.rdp + _rdp_step(*kind) * steps
        self.betas += beta * steps

    def history(self) -> tuple[tuple[float, float, int], ...]:
        return tuple((rate, noise, steps) for (rate, noise), steps in self.steps.items())


def _epsilons(entries: Sequence[Any]) -> float | None:
    """Recompute every epsilon; return that of the last entry if aggregation were broken."""
    totals, shares = _Totals(), _Totals()
    points: list[tuple[int, str, float, float, tuple[tuple[float, float, int], ...]]] = []
    for entry in entries:
        charge, recorded, number = entry["charge"], entry["epsilons"], entry["sequence"]
        for moment in ("before", "after"):
            if moment == "after":
                kind = (float(charge["sample_rate"]), float(charge["guaranteed_noise_multiplier"]))
                totals.add(kind, charge["steps"], charge["beta"])
                own = (float(charge["sample_rate"]), float(charge["broken_noise_multiplier"]))
                shares.add(own, charge["steps"], charge["beta"])
            delta = recorded["delta"] - totals.betas
            rough = rdp_epsilon(totals.rdp, delta)
            _hold(recorded[f"rdp_{moment}"], rough, excess=TOLERANCE, what=f"RDP, {moment} it", entry=number)
            points.append((number, moment, delta, rough, totals.history()))
    _hold_plds(entries, points)
    if not entries:
        return 0.0
    delta = entries[-1]["epsilons"]["delta"] - shares.betas
    return pld_epsilon(shares.history(), delta, rdp_epsilon(shares.rdp, delta))


def _hold(recorded: float | None, computed: float, *, excess: float, what: str, entry: int | None) -> None:
    """Raise unless a recorded epsilon is the recomputed one, within the tolerances."""
    value = math.inf if recorded is None else recorded
    if math.isinf(value) and math.isinf(computed):
        return
    if not computed * (1 - TOLERANCE) - 1e-6 <= value <= computed * (1 + excess) + 1e-4:
        raise CheckError(
            f"epsilon by {what}, is recorded as {_shown(recorded)}; the history gives {computed:.6g}",
            entry=entry,
        )


def _hold_plds(entries: Sequence[Any], points: Sequence[Any]) -> None:
    """Check the PLD figures: at knots by composing, between them by interpolation in the logarithms."""
    for run in _runs(entries, points):
        chosen = _knots(len(run))
        known = [
            pld_epsilon(history, delta, rough)
            for _, _, delta, rough, history in (run[index] for index in chosen)
        ]
        for index, (number, moment, _, _, history) in enumerate(run):
            right = bisect_left(chosen, index)
            if chosen[right] == index:
                computed = known[right]
            else:
                low, high = known[right - 1], known[right]
                first, last = run[chosen[right - 1]][4][-1][2], run[chosen[right]][4][-1][2]
                if not (0 < low <= high < math.inf):
                    computed = high
                else:
                    part = math.log(history[-1][2] / first) / math.log(last / first)
                    computed = low * (high / low) ** part
            recorded = entries[number - 1]["epsilons"][f"pld_{moment}"]
            _hold(recorded, computed, excess=EXCESS, what=f"PLD, {moment} it", entry=number)


def _runs(entries: Sequence[Any], points: Sequence[Any]) -> Iterator[list[Any]]:
    """Cut the points into runs in which only the number of steps of the last kind grows, at one delta."""
    run: list[Any] = []
    previous: tuple[Any, ...] | None = None
    for point in points:
        number, _, _, _, history = point
        shape = (
            tuple(history[:-1]),
            history[-1][:2] if history else None,
            entries[number - 1]["epsilons"]["delta"],
        )
        if run and shape != previous:
            yield run
            run = []
        run.append(point)
        previous = shape
    if run:
        yield run


def _knots(count: int) -> list[int]:
    chosen = list(range(min(count, 2 * KNOTS)))
    while chosen and chosen[-1] < count - 1:
        chosen.append(min(count - 1, max(chosen[-1] + 1, int(chosen[-1] * 1.08))))
    return chosen


def _summary(summary: Mapping[str, Any], entries: Sequence[Any], broken: float | None) -> None:
    """Hold the figures that people read against the history."""
    last = entries[-1] if entries else None
    noises = [entry["charge"]["guaranteed_noise_multiplier"] for entry in entries]
    exact = {
        "entries": len(entries),
        "head": None if last is None else last["hash"],
        "delta": None if last is None else last["epsilons"]["delta"],
        "epsilon_pld": None if last is None else last["epsilons"]["pld_after"],
        "epsilon_rdp": None if last is None else last["epsilons"]["rdp_after"],
        "least_noise_multiplier": min(noises, default=None),
        "largest_sample_rate": max((entry["charge"]["sample_rate"] for entry in entries), default=None),
        "trainings": len({entry["charge"]["training_id"] for entry in entries}),
    }
    for name, value in exact.items():
        if summary[name] != value:
            raise CheckError(f"the summary's {name} is {summary[name]}, the history's is {value}")
    if set(summary) != {*exact, "epsilon_aggregation_broken"}:
        raise CheckError("the summary has other figures than those that can be checked")
    if last is not None and broken is not None:
        what = "PLD, if aggregation were broken"
        _hold(summary["epsilon_aggregation_broken"], broken, excess=EXCESS, what=what, entry=None)


def main(arguments: Sequence[str]) -> int:
    """Print what came of a bundle; return 0 if all holds, else 1, and 2 for a wrong command line."""
    if len(arguments) != 1:
        print("usage: verify.py AUDIT.json", file=sys.stderr)
        return 2
    outcome = verify(Path(arguments[0]))
    for line in outcome.lines:
        print(f"ok      {line}")
    for name, reason in outcome.failures.items():
        print(f"FAILED  {name or 'bundle'}: {reason}")
    print("The record holds." if outcome.ok else "The record does NOT hold.")
    print("This shows that the record is consistent, not that a merchant ran what it wrote down.")
    return 0 if outcome.ok else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
