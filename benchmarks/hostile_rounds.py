"""What one participant can cost the others: rounds lost to a saboteur, seconds to one that is silent.

The first kind runs in this process, with real keys, ciphertexts and ledgers: ten merchants with a dealer of
a wrong key (always, or but for each fifth round) or a lying member of the committee, and three of whom nobody
can be spared, so that the training stops. What the search for a dealer of a wrong key costs in one training
and in the next is counted by the search alone, for every place of the dealer in its turns. The last kind runs
a deployment over TLS on loopback, four daemons, of which one turns silent: it stays connected and answers
nothing. Its slowest round is held against the median of the rounds before.
"""

from __future__ import annotations

import json
import logging
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from end_to_end import serve
from measure import fedrec_here, finish, parse

from fedrec.clients.merchant_home import MerchantHome
from fedrec.config import SimulationConfig
from fedrec.errors import ConnectionLostError, NotAdmittedError, TrainingError
from fedrec.flower.fleet import FleetLink
from fedrec.protocol.training_report.round_line import RoundRecord
from fedrec.server.rotation import Rotation
from fedrec.simulations.federation import Federation
from fedrec.simulations.injected_faults import Saboteur
from fedrec.simulations.run_inputs import prepare_inputs
from fedrec.simulations.run_setup import prepare, simulated_merchants
from fedrec.vision.synthetic import CLASSES, generate, write

SABOTEURS = (
    ("wrong key", 10, Saboteur(merchant=6, lie="key")),
    ("wrong key, honest each fifth round", 10, Saboteur(merchant=3, lie="key", honest_each=5)),
    ("wrong answer as a member", 10, Saboteur(merchant=2, lie="share")),
    ("wrong key", 4, Saboteur(merchant=2, lie="key")),
    ("wrong answer as a member", 4, Saboteur(merchant=2, lie="share")),
    ("wrong key", 3, Saboteur(merchant=1, lie="key")),
    ("wrong answer as a member", 3, Saboteur(merchant=1, lie="share")),
)


def sabotaged(name: str, merchants: int, saboteur: Saboteur, *, rounds: int, folder: Path) -> dict[str, Any]:
    """Run a training with one saboteur; returns how many rounds it cost."""
    photos = generate(merchants=merchants, per_merchant=10, size=16, seed=1, validation=10, test=10)
    write(photos, folder / "photos")
    config = SimulationConfig(
        data=folder / "photos",
        partition="folder",
        rounds=rounds,
        device="cpu",
        seed=1,
        workers=1,
        committee=min(merchants, 4),
        threshold=3,
        min_contributors=max(merchants - 1, 3),
        out=folder / "run",
    )
    run = prepare(config, tell=lambda stage: None)
    inputs = prepare_inputs(run, arrays=folder / "arrays", tell=lambda stage: None)
    records: list[RoundRecord] = []

    merchants_app = replace(simulated_merchants(run, arrays=inputs.arrays), saboteur=saboteur)()
    stopped = None
    try:
        serve(run, merchants_app, on_round=records.append)
    except TrainingError as error:
        stopped = str(error)
    lost = [record.round for record in records if not record.opened]
    return {
        "what": name,
        "merchants": merchants,
        "rounds": len(records),
        "lost": len(lost),
        "last_lost": max(lost, default=0),
        "stopped": stopped,
    }


@contextmanager
def silent(home: MerchantHome) -> Iterator[None]:
    """Be connected as a merchant that takes every message and answers none."""
    over = threading.Event()

    def listen() -> None:
        while not over.wait(0.2):
            # The server may still hold the connection before for alive.
            with (
                suppress(NotAdmittedError, ConnectionLostError),
                FleetLink(address=home.joined().address, ca=home.authority, key=home.node_key()) as link,
            ):
                while not over.wait(0.2):
                    link.receive()

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(20)


def with_a_silent_one(folder: Path, *, rounds: int) -> Mapping[str, Any]:
    """Train with three daemons, and with a fourth merchant that goes silent once it has joined."""
    merchants = 4
    write(
        generate(merchants=merchants, per_merchant=10, size=16, seed=1, validation=10, test=10),
        folder / "photos",
    )
    names = sorted(path.name for path in (folder / "photos" / "train").iterdir())
    federation = Federation(folder, run=fedrec_here)
    federation.enrol({name: folder / "photos" / "train" / name for name in names}, epsilon=1e5, delta=1e-2)
    federation.plan(
        f'[training]\nmodel = "cnn"\nrounds = {rounds}\nimage_size = 8\nsample_rate = 0.1\nepsilon = 64\n'
        f"delta = 1e-3\nmin_contributors = 3\nclasses = {json.dumps(list(CLASSES))}\n"
    )
    lines = federation.training() / "rounds.jsonl"
    try:
        federation.start_server("--gather", 120)
        for name in names:
            federation.start_merchant(name)
        while not (lines.exists() and len(lines.read_bytes().splitlines()) >= rounds // 3):
            time.sleep(0.1)
        # Its daemon goes, and another process takes its connection: alive, and without an answer.
        federation.processes[names[-1]].send_signal(signal.SIGTERM)
        federation.processes[names[-1]].wait(60)
        with silent(MerchantHome.open(federation.home(names[-1]))):
            federation.wait(seconds=60 + 30 * rounds)
    finally:
        federation.stop()
    found = [json.loads(line) for line in lines.read_text().splitlines()]
    whole = [line["seconds"] for line in found if line["contributors"] == merchants]
    without = [line["seconds"] for line in found if line["contributors"] == merchants - 1]
    return {
        "what": "silent",
        "merchants": merchants,
        "rounds": len(found),
        "lost": sum(not line["opened"] for line in found),
        "median_seconds": statistics.median(whole),
        "seconds_without": without,
        "slowest_over_median": max(without) / statistics.median(whole),
    }


def searched(merchants: int, minimum: int, *, rounds: int) -> dict[str, Any]:
    """Count the rounds that the search for a dealer of a wrong key loses, in a training and in the next."""
    names = tuple(f"m{index}" for index in range(merchants))

    def play(rotation: Rotation, saboteur: str) -> int:
        lost = 0
        for _ in range(rounds):
            part = frozenset(names) - rotation.left_out(names, room=merchants - minimum)
            if saboteur in part:
                rotation.lost(part)
                lost += 1
            else:
                rotation.opened(part)
        return lost

    first, second = [], []
    for saboteur in names:
        rotation = Rotation(order=names)
        first.append(play(rotation, saboteur))
        again = Rotation.continued(rotation.evidence(), order=reversed(names), before=names)
        second.append(play(again, saboteur))
    return {
        "what": "search for a wrong key",
        "merchants": merchants,
        "minimum": minimum,
        "rounds": rounds,
        "lost_mean": statistics.mean(first),
        "lost_most": max(first),
        "next_lost_mean": statistics.mean(second),
        "next_lost_most": max(second),
    }


def rounds_rows(*, quick: bool) -> list[Mapping[str, Any]]:
    """Return the rows of this file, for the benchmark of hostile participants."""
    rows: list[Mapping[str, Any]] = [
        searched(merchants, minimum, rounds=40)
        for merchants, minimum in (
            (4, 3),
            (10, 9),
            (10, 8),
            (10, 5),
            (20, 19),
            (20, 10),
            (100, 95),
            (100, 90),
        )
    ]
    for name, merchants, saboteur in SABOTEURS:
        with tempfile.TemporaryDirectory(prefix="fedrec-") as scratch:
            rows.append(
                sabotaged(name, merchants, saboteur, rounds=12 if quick else 40, folder=Path(scratch))
            )
    with tempfile.TemporaryDirectory(prefix="fedrec-") as scratch:
        rows.append(with_a_silent_one(Path(scratch), rounds=12 if quick else 24))
    return rows


def main() -> None:
    """Print the rows."""
    options = parse(__doc__ or "")
    logging.disable(logging.WARNING)
    finish("hostile_rounds", options, rows=rounds_rows(quick=options.quick), ratios={})


if __name__ == "__main__":
    main()
