"""A federation under fire: processes killed at random, stopped and started, until a training is done.

Five merchants and a server, each a process with a folder of its own, over TLS on loopback. Each fault is a
kill -9 of one of them at a random moment, or (one in five) a SIGTERM of the server or a merchant that stays
away for some seconds; all are started again. Afterwards the records must fit each other:

- the training ended, no round number was used twice, and every round was opened or says why not;
- every ledger verifies, with at most one charge a round;
- every upload that the server took has a receipt, and the entry that it names is in its merchant's ledger;
- no merchant signed two heads, and so no two uploads, for one round.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from fedrec.clients.home import MerchantHome
from fedrec.privacy.accounting.reading import read_entries
from fedrec.privacy.identity import verify
from fedrec.server.receipts import read_receipts
from fedrec.simulations.federation import Federation
from fedrec.vision.synthetic import CLASSES, generate, write

MERCHANTS = 5
LONGEST_AWAY = 8.0


def plan(rounds: int) -> str:
    """A training of many quick rounds that can spare two merchants."""
    return (
        f'[training]\nmodel = "cnn"\nrounds = {rounds}\nimage_size = 8\nsample_rate = 0.1\nepsilon = 1000\n'
        f"delta = 1e-3\nmin_contributors = 3\nclasses = {json.dumps(list(CLASSES))}\n"
    )


def start(federation: Federation, name: str) -> None:
    """Start the server or a merchant again."""
    if name == "server":
        federation.start_server("--gather", 5, "--timeout", 15)
    else:
        federation.start_merchant(name)


def done(federation: Federation) -> bool:
    """Whether the training has ended well; raises when it failed."""
    shown = (federation.training() / "state.json").read_text("utf-8")
    if '"failed"' in shown:
        raise RuntimeError(shown)
    return '"done"' in shown


def strike(federation: Federation, name: str, *, chance: random.Random) -> str:
    """Take one process away and bring it back; returns what was done."""
    process = federation.processes[name]
    if chance.random() < 0.8:
        federation.kill(name)
        what, away = "kill -9", chance.uniform(0.0, 1.0)
    else:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            federation.kill(name)
        what, away = "SIGTERM", chance.uniform(0.0, LONGEST_AWAY)
    time.sleep(away)
    start(federation, name)
    return f"{what} {'server' if name == 'server' else 'merchant'}"


def check(federation: Federation, names: list[str]) -> dict[str, Any]:
    """Hold all records against each other; raises ``RuntimeError`` at the first that doesn't fit."""
    rounds = [json.loads(line) for line in (federation.training() / "rounds.jsonl").read_text().splitlines()]
    numbers = [line["round"] for line in rounds]
    if numbers != sorted(set(numbers)):
        raise RuntimeError(f"round numbers were used twice or ran back: {numbers}")
    receipts = read_receipts(federation.server / "receipts.jsonl")
    heads = Counter((r.head.statement.merchant, r.head.statement.round_number) for r in receipts)
    if max(heads.values()) > 1:
        raise RuntimeError("a merchant signed two heads for one round")
    charges = 0
    for name in names:
        home = MerchantHome.open(federation.home(name))
        outcome, entries = read_entries(home.ledger, public=home.identity().public, verify=verify)
        if not outcome.ok:
            raise RuntimeError(f"the ledger of {name} does not verify: {outcome.reason}")
        charged = Counter(entry.charge.round_number for entry in entries)
        if max(charged.values(), default=0) > 1:
            raise RuntimeError(f"{name} was charged twice for a round")
        hashes = {entry.hash.hex(): entry.charge.round_number for entry in entries}
        for receipt in receipts:
            stated = receipt.head.statement
            if stated.merchant == name and hashes.get(stated.head_hash) != stated.round_number:
                raise RuntimeError(f"{name} uploaded in round {stated.round_number} without a charge")
        charges += len(entries)
    taken = sum(line["contributors"] for line in rounds)
    if taken > len(receipts):
        raise RuntimeError(f"{taken} uploads were taken, {len(receipts)} have receipts")
    return {
        "rounds": len(rounds),
        "rounds_opened": sum(line["opened"] for line in rounds),
        "rounds_never_finished": numbers[-1] - len(numbers),
        "uploads_taken": taken,
        "receipts": len(receipts),
        "charges": charges,
        "charged_without_upload": charges - len(receipts),
    }


def main() -> None:
    """Set up, strike, wait, and check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="fedrec-faults-") as scratch:
        folder = Path(scratch)
        write(
            generate(merchants=MERCHANTS, per_merchant=10, size=16, seed=1, validation=10, test=10),
            folder / "photos",
        )
        names = sorted(path.name for path in (folder / "photos" / "train").iterdir())
        federation = Federation(folder)
        federation.enrol(
            {name: folder / "photos" / "train" / name for name in names}, epsilon=1e6, delta=1e-2
        )
        federation.plan(plan(options.rounds))
        faults: Counter[str] = Counter()
        started = time.monotonic()
        try:
            for name in ("server", *names):
                start(federation, name)
            time.sleep(15)
            while sum(faults.values()) < options.kills and not done(federation):
                time.sleep(chance.uniform(0.5, 6.0))
                faults[strike(federation, chance.choice(["server", *names]), chance=chance)] += 1
            while not done(federation):
                time.sleep(1)
                for name, process in federation.processes.items():
                    if process.poll() is not None:
                        raise RuntimeError(f"{name} ended by itself: {federation.log(name)[-500:]}")
        finally:
            federation.stop()
        found = {"seconds": round(time.monotonic() - started), "faults": dict(faults)} | check(
            federation, names
        )
    print(json.dumps(found, indent=2))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
