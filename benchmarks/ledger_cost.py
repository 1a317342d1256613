"""What a charge costs a ledger with a long history: 1,000 entries of 40 kinds (rate, noise), reopened.

Run ``python benchmarks/ledger_cost.py [--quick] [--json FILE]``; ``--quick`` takes 100 entries of 10 kinds.
Times are of a process that starts cold, as a daemon does: opening the ledger, a charge that nothing was
prepared for, preparing a training's rounds (at its join, or in its first round after a restart), and
charges then. A wall time holds three fsyncs.
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from measure import finish, parse
from verify_cost import PEERS, charge, plan

from fedrec.clients.noised_count import draw_count
from fedrec.privacy.accounting.entry_contents import Answer, Charge
from fedrec.privacy.accounting.ledger import Ledger
from fedrec.privacy.accounting.ledger_creation import create_ledger
from fedrec.privacy.identity import SigningIdentity, verify
from fedrec.privacy.randomness import Randomness

ROUNDS = 100
_NEW = 10_000


@lru_cache(maxsize=1)
def parties() -> tuple[SigningIdentity, dict[str, SigningIdentity]]:
    """The server and the merchants of every training."""
    return SigningIdentity.generate(), {f"m{number}": SigningIdentity.generate() for number in range(PEERS)}


def kind(number: int, round_number: int) -> Charge:
    """A charge of the kind that stands for one of the trainings of a lifetime."""
    noise = 1.0 + 0.1 * number
    server, peers = parties()
    return replace(
        charge(plan(number, rounds=ROUNDS, server=server, peers=peers), number, round_number),
        sample_rate=0.01 * (1 + number % 8),
        planned_noise_multiplier=noise,
        guaranteed_noise_multiplier=noise,
        broken_noise_multiplier=noise / 3,
    )


def open_ledger(path: Path, private: bytes) -> Ledger:
    """Open the ledger with a cap, as a merchant's is."""
    signer = SigningIdentity.from_private_bytes(private)
    if not path.exists():
        rng = Randomness.from_os()
        count = draw_count(1000, unit="record", delta=1e-5, policy_hash="0" * 64, rng=rng)
        create_ledger(path, signer=signer, count=count, epsilon_lifetime=1e6, delta_lifetime=1e-5)
    return Ledger(path, signer=signer, verify=verify, epsilon_lifetime=1e6, delta_lifetime=1e-5)


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Return wall and CPU seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def measure(path: Path, private: bytes, prepared: bool, answer: Any) -> None:
    """Open the ledger, prepare a training if asked, and charge its rounds."""
    found: dict[str, list[tuple[float, float]]] = {"open": [], "prepare": [], "charge": [], "answer": []}
    opened: list[Ledger] = []
    found["open"].append(timed(lambda: opened.append(open_ledger(path, private))))
    new = replace(kind(3, 1), training_id=f"{_NEW + prepared:064x}", guaranteed_noise_multiplier=2.05)
    with opened[0] as ledger:
        if prepared:
            found["prepare"].append(timed(lambda: ledger.prepare(new)))
        for number in range(1, (ROUNDS if prepared else 3) + 1):
            one = replace(new, round_number=number)
            found["charge"].append(timed(lambda one=one: ledger.charge(one, version="v")))  # type: ignore[misc]
            answer_entry = Answer(new.training_id, number, "0" * 64)
            found["answer"].append(timed(lambda one=answer_entry: ledger.answer(one)))  # type: ignore[misc]
    answer.send(found)


def cold(path: Path, private: bytes, *, prepared: bool) -> dict[str, list[tuple[float, float]]]:
    """Measure in a process of its own, whose caches are empty."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=measure, args=(path, private, prepared, sender))
    child.start()
    sender.close()
    found: dict[str, list[tuple[float, float]]] = receiver.recv()
    child.join()
    return found


def main() -> None:
    """Write a history, and time what comes on top of it."""
    options = parse(__doc__ or "")
    kinds, each = (10, 10) if options.quick else (40, 25)
    private = SigningIdentity.generate().private_bytes()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.sqlite"
        with open_ledger(path, private) as ledger:
            for number in range(kinds):
                ledger.prepare(kind(number, 1))
                for round_number in range(1, each + 1):
                    ledger.charge(kind(number, round_number), version="v")
        charges: dict[bool, float] = {}
        for prepared in (True, False):
            for what, times in cold(path, private, prepared=prepared).items():
                if not times or (what == "open" and not prepared):
                    continue
                walls, cpus = ([one[place] for one in times] for place in (0, 1))
                if what == "charge":
                    charges[prepared] = statistics.median(cpus)
                rows.append(
                    {
                        "what": what
                        + ("" if what != "charge" else ", prepared" if prepared else ", not prepared"),
                        "entries_before": kinds * each,
                        "kinds": kinds,
                        "times": len(times),
                        "wall_median_s": statistics.median(walls),
                        "wall_most_s": max(walls),
                        "cpu_median_s": statistics.median(cpus),
                        "cpu_most_s": max(cpus),
                    }
                )
    finish("ledger", options, rows=rows, ratios={"charge_prepared_vs_not": charges[True] / charges[False]})


if __name__ == "__main__":
    main()
