"""Phases of a deployment on this machine: a server and merchants over TLS on loopback, and what they take.

The step is trivial (a few synthetic photos), so that a phase is what transport, noise and encryption cost.
Phases are cut into the server's wait for uploads (train) and for the committee (unmask). The server's least
memory after the first round is what a training holds at rest; the ratio is what it grows by beyond that, over
the float32 bytes of every merchant's update. CPU seconds of a round are those of all rounds but the first.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
from pathlib import Path

from measure import (
    Options,
    fedrec_here,
    fedrec_in_processes,
    finish,
    peak_bytes,
    processor_seconds,
    resident_bytes,
)

from fedrec.simulations.federation import Federation
from fedrec.vision.synthetic import CLASSES, generate, write

_LARGE = 10**6
CPU = "cpu_ms_a_merchant_and_round"
HOST = Path(__file__).with_name("host.py")


def plan(*, rounds: int, image_size: int) -> str:
    """A training whose privacy is irrelevant here."""
    classes = json.dumps(list(CLASSES))
    return (
        f'[training]\nmodel = "cnn"\nrounds = {rounds}\nimage_size = {image_size}\nsample_rate = 0.1\n'
        f"epsilon = 64\ndelta = 1e-5\nclasses = {classes}\n"
    )


class Rest(threading.Thread):
    """Watches processes from the end of the first round: the server's least memory, everybody's CPU time."""

    def __init__(self, server: int, others: list[int], rounds: Path) -> None:
        super().__init__(daemon=True)
        self.least = sys.maxsize
        self._server, self._others, self._rounds = server, others, rounds
        self._began: tuple[float, float] | None = None
        self._over = threading.Event()

    def run(self) -> None:
        """Look five times a second, until stopped."""
        while not self._over.wait(0.2):
            if self._rounds.exists() and self._rounds.stat().st_size:
                self._began = self._began or self._seconds()
                self.least = min(self.least, resident_bytes(self._server))

    def stop(self) -> tuple[float, float]:
        """End it; return the CPU seconds of the server and of all the others since the first round."""
        self._over.set()
        self.join()
        before, after = self._began or (0.0, 0.0), self._seconds()
        return after[0] - before[0], after[1] - before[1]

    def _seconds(self) -> tuple[float, float]:
        return processor_seconds(self._server), sum(map(processor_seconds, self._others))


def main() -> None:
    """Set a federation up, train, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--merchants", type=int, default=3)
    parser.add_argument("--processes", type=int, default=0, help="host the merchants in so many processes")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--image-size", type=int, default=8, help="8: 0.05M parameters; 56: 1.6M (5 MB)")
    parser.add_argument("--quick", action="store_true", help="five rounds")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    planned = 5 if options.quick else options.rounds
    with tempfile.TemporaryDirectory(prefix="fedrec-") as scratch:
        folder = Path(scratch)
        photos = generate(
            merchants=options.merchants, per_merchant=10, size=16, seed=1, validation=10, test=10
        )
        write(photos, folder / "photos")
        names = sorted(path.name for path in (folder / "photos" / "train").iterdir())
        federation = Federation(folder, run=fedrec_here, run_all=fedrec_in_processes)
        federation.enrol(
            {name: folder / "photos" / "train" / name for name in names}, epsilon=1e5, delta=1e-2
        )
        federation.plan(plan(rounds=planned, image_size=options.image_size))
        try:
            federation.start_server("--gather", 600)
            if options.processes:
                for number in range(options.processes):
                    homes = [str(federation.home(name)) for name in names[number :: options.processes]]
                    federation.spawn(f"host-{number}", sys.executable, str(HOST), *homes)
            else:
                for name in names:
                    federation.start_merchant(name)
            pids = {name: process.pid for name, process in federation.processes.items()}
            server_pid = pids.pop("server")
            rest = Rest(server_pid, [*pids.values()], federation.training() / "rounds.jsonl")
            rest.start()
            federation.wait(seconds=600 + options.merchants + planned * max(60, options.merchants / 2))
            server_cpu, others_cpu = rest.stop()
            peaks = {name: peak_bytes(process.pid) for name, process in federation.processes.items()}
        finally:
            federation.stop()
        rounds = [
            json.loads(line) for line in (federation.training() / "rounds.jsonl").read_text().splitlines()
        ]
        dimension = json.loads((federation.training() / "plan.json").read_text())["dimension"]
    if not (opened := [line for line in rounds if line["opened"]]):
        raise SystemExit(f"no round was opened: {rounds}")
    server, others = peaks.pop("server"), list(peaks.values())
    figures = {
        "merchants": options.merchants,
        "processes": options.processes or options.merchants,
        "rounds_opened": len(opened),
        "rounds": len(rounds),
        "lost": [f"{line['round']}: {line['reason']}" for line in rounds if not line["opened"]],
        "contributors": statistics.median(line["contributors"] for line in opened),
        "upload_bytes": max(line["upload_bytes"] for line in opened),
        "train_seconds_median": statistics.median(line["seconds_train"] for line in opened),
        "unmask_seconds_median": statistics.median(line["seconds_unmask"] for line in opened),
        "train_seconds_worst": max(line["seconds_train"] for line in opened),
        "unmask_seconds_worst": max(line["seconds_unmask"] for line in opened),
        "server_cpu_seconds_a_round": server_cpu / (len(rounds) - 1),
        "merchants_cpu_seconds_a_round": others_cpu / (len(rounds) - 1),
        CPU: 1000 * (server_cpu + others_cpu) / (len(rounds) - 1) / options.merchants,
        "server_peak_mb": server / 2**20,
        "server_rest_mb": rest.least / 2**20,
        "merchant_process_peak_mb": max(others) / 2**20,
    }
    growth = (server - rest.least) / (4 * dimension * options.merchants)
    finish(
        "deployment",
        Options(quick=options.quick, json=options.json),
        rows=[figures],
        # Of small updates, what the first messages of any size took would be all that is told.
        ratios={"memory_over_updates": growth} if dimension > _LARGE else {},
    )


if __name__ == "__main__":
    main()
