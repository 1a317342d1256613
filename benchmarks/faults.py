"""A federation under fire: processes killed at random, and worse, until a training is done.

Five merchants and a server, each a process with a folder of its own, over TLS on loopback. First, one after
another: a merchant that stops for two rounds, a server that is restarted, a merchant whose disk is full, one
whose clock is off by an hour. Then ``--kills`` kills (-9) of any of them at random moments; one strike in
five is a SIGTERM and some seconds away instead, and not counted. All are started again. The full disk needs
the right to mount a tmpfs, the clock libfaketime; without, the fault is skipped, and the results say so. Then
the records must fit each other:

- the training ended, no round number was used twice, and every round was opened or says why not;
- the model is the one that the recorded contributors of the opened rounds give, bit for bit: the merchants'
  noise comes from seeds of theirs, and the sums are computed again, in clear;
- every ledger verifies, with at most one charge a round, and so does the audit bundle of all of them;
- whoever was struck came back: every merchant contributed again after the last strike;
- every upload that the server took has a receipt, and the entry that it names is in its merchant's ledger;
- no merchant signed two heads, and so no two uploads, for one round: with every upload comes a fresh key.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import Options, fedrec_here, finish
from numpy.typing import NDArray
from safetensors.numpy import load_file

from fedrec.clients.merchant_home import MerchantHome
from fedrec.clients.noise_layers import add_kept_layers
from fedrec.clients.plan_resources import build_model, load_photos
from fedrec.privacy.accounting.ledger_entries import AnswerEntry, ChargeEntry, Entry
from fedrec.privacy.accounting.ledger_entries import charges as charges_of
from fedrec.privacy.accounting.ledger_reader import read_entries
from fedrec.privacy.derived_parameters import derive
from fedrec.privacy.dp.step import DpSgdSettings, contribute
from fedrec.privacy.dp.vectors import load_parameter_vector
from fedrec.privacy.identity import verify
from fedrec.privacy.randomness import Randomness
from fedrec.protocol.statements import LedgerHead
from fedrec.server.optimizers.optimizer_registry import start_weights
from fedrec.server.planning import Task, starting_parameters
from fedrec.server.receipts import read_receipts
from fedrec.server.trainings import Training
from fedrec.simulations.federation import Federation
from fedrec.vision import model_registry
from fedrec.vision.synthetic import CLASSES, generate, write

MERCHANTS = 5
LONGEST_AWAY = 8.0
SEED = 5
DISK_BYTES = 8 * 2**20
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")


def plan(rounds: int) -> str:
    """A training of many quick rounds that can spare two merchants."""
    return (
        f'[training]\nmodel = "cnn"\nrounds = {rounds}\nimage_size = 8\nsample_rate = 0.1\nepsilon = 64\n'
        f"delta = 1e-3\nmin_contributors = 3\nclasses = {json.dumps(list(CLASSES))}\n"
    )


@dataclass
class Fire:
    """The federation, and the faults that were put upon it."""

    federation: Federation
    names: list[str]
    chance: random.Random
    faults: Counter[str]

    def start(self, name: str) -> None:
        """Start the server or a merchant again."""
        if name == "server":
            self.federation.start_server("--gather", 5, "--timeout", 15, "--most-lost", 1000)
        else:
            self.federation.start_merchant(name, "--insecure-seed", SEED)

    def stop(self, name: str) -> None:
        """End a process as an operator would."""
        process = self.federation.processes[name]
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            self.federation.kill(name)

    def done(self) -> bool:
        """Whether the training has ended well; raises when it failed."""
        shown = (self.federation.training() / "state.json").read_text("utf-8")
        if '"failed"' in shown:
            raise RuntimeError(shown)
        return '"done"' in shown

    def reached(self) -> int:
        """The last round that is on record."""
        lines = Training(self.federation.training()).rounds()
        return lines[-1].round if lines else 0

    def pass_rounds(self, count: int, *, seconds: float = 180.0) -> None:
        """Wait until so many more rounds are on record."""
        until, deadline = self.reached() + count, time.monotonic() + seconds
        while self.reached() < until and not self.done():
            if time.monotonic() > deadline:
                raise RuntimeError(
                    f"{count} rounds took more than {seconds:.0f} s; {self.federation.log('server')[-800:]}"
                )
            time.sleep(0.2)

    def strike(self) -> bool:
        """Take one process away at random and bring it back; returns whether it was killed."""
        name = self.chance.choice(["server", *self.names])
        killed = self.chance.random() < 0.8
        if killed:
            self.federation.kill(name)
            what, away = "kill -9", self.chance.uniform(0.0, 1.0)
        else:
            self.stop(name)
            what, away = "SIGTERM", self.chance.uniform(0.0, LONGEST_AWAY)
        time.sleep(away)
        self.start(name)
        self.faults[f"{what} {'server' if name == 'server' else 'merchant'}"] += 1
        return killed

    def stay_away_for_two_rounds(self) -> None:
        """A merchant stops, and comes back after two rounds without it."""
        self.stop(self.names[0])
        self.pass_rounds(3)
        self.start(self.names[0])
        self.faults["away for two rounds"] += 1
        self.pass_rounds(2)

    def restart_the_server(self) -> None:
        """The server ends after its round, and starts again."""
        self.stop("server")
        self.start("server")
        self.faults["server restarted"] += 1
        self.pass_rounds(2)

    def fill_the_disk(self) -> None:
        """A merchant's disk is full for two rounds, then has room again."""
        home = self.federation.home(self.names[1])
        if not os.path.ismount(home):
            self.faults["full disk: skipped, no tmpfs may be mounted"] += 1
            return
        filler = home / "filler"
        handle = os.open(filler, os.O_WRONLY | os.O_CREAT)
        with contextlib.suppress(OSError):
            while os.write(handle, bytes(4096)):
                pass
        os.close(handle)
        self.pass_rounds(2)
        filler.unlink()
        self.faults["full disk"] += 1
        self.pass_rounds(2)

    def set_a_clock_off(self) -> None:
        """A merchant's clock is an hour ahead for two rounds."""
        name = self.names[2]
        if not FAKETIME.exists():
            self.faults["clock: skipped, no libfaketime"] += 1
            return
        self.stop(name)
        os.environ |= {"LD_PRELOAD": str(FAKETIME), "FAKETIME": "+1h", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        try:
            self.start(name)
        finally:
            for variable in ("LD_PRELOAD", "FAKETIME", "FAKETIME_DONT_FAKE_MONOTONIC"):
                del os.environ[variable]
        self.pass_rounds(3)
        self.stop(name)
        self.start(name)
        self.faults["clock an hour ahead"] += 1
        self.pass_rounds(2)


def replayed(federation: Federation) -> NDArray[np.float32]:
    """Compute the model again from the rounds that were opened and their contributors, in clear."""
    training = Training(federation.training())
    made = training.plan()
    derived = derive(made)
    model = Task.of_plan(made, model_registry.get(made.model), seed=training.initial_seed()).model()
    weights = start_weights(made.server_update, starting_parameters(model), rounds=made.rounds)
    data = {}
    for peer in made.roster:
        held = MerchantHome.open(federation.home(peer.name)).settings()
        data[peer.name] = load_photos(made, held.data, layout=held.layout, device=torch.device("cpu"))
    work = build_model(made)
    for line in training.rounds():
        if not line.opened:
            continue
        load_parameter_vector(work, weights.parameters.astype("<f4").astype(np.float64))
        total = np.zeros(made.dimension, dtype=np.int64)
        for name in line.merchants:
            rng = Randomness.seeded(SEED, "merchant", name, line.round)
            total += contribute(
                work,
                data[name].inputs,
                data[name].labels,
                settings=DpSgdSettings.of_plan(made),
                plan=derived.noise,
                rng=rng,
            )
            add_kept_layers(total, noise=derived.noise, contributors=line.contributors, rng=rng)
        weights.step(total.astype(np.float64) * (derived.unit / (made.sample_rate * made.records_total)))
    return weights.reported.astype(np.float32)


def check(federation: Federation, names: list[str], *, struck_until: int) -> dict[str, Any]:
    """Hold all records against each other; raises ``RuntimeError`` at the first that doesn't fit.

    ``struck_until`` is the last round on record when the last process was struck.
    """
    training = Training(federation.training())
    rounds = training.rounds()
    numbers = [line.round for line in rounds]
    if numbers != sorted(set(numbers)):
        raise RuntimeError(f"round numbers were used twice or ran back: {numbers}")
    stored = load_file(training.folder / "model.safetensors")
    flat = np.concatenate([tensor.reshape(-1) for tensor in _in_order(training, stored)])
    if not np.array_equal(flat, replayed(federation)):
        raise RuntimeError("the model is not the one that the recorded contributors give")
    receipts = list(read_receipts(federation.server / "receipts.sqlite"))
    stated = [receipt.head.statement for receipt in receipts]
    every = Counter((head.merchant, head.moment, head.round_number) for head in stated)
    if max(every.values()) > 1:
        raise RuntimeError("a merchant signed two heads for one moment of a round")
    heads = {(head.merchant, head.round_number) for head in stated if head.moment == "charged"}
    charges = 0
    for name in names:
        home = MerchantHome.open(federation.home(name))
        outcome, entries = read_entries(home.ledger, public=home.identity().public, verify=verify)
        if not outcome.ok:
            raise RuntimeError(f"the ledger of {name} does not verify: {outcome.reason}")
        charged = Counter(entry.charge.round_number for entry in charges_of(entries))
        if max(charged.values(), default=0) > 1:
            raise RuntimeError(f"{name} was charged twice for a round")
        answered = Counter(e.answer.round_number for e in entries if isinstance(e, AnswerEntry))
        if max(answered.values(), default=0) > 1:
            raise RuntimeError(f"{name} answered twice in a round")
        hashes = {entry.hash.hex(): entry for entry in entries}
        for head in stated:
            if head.merchant == name and not _fits(hashes.get(head.head_hash), head):
                raise RuntimeError(f"{name} signed a head of round {head.round_number} without its entry")
        charges += sum(charged.values())
    for line in rounds:
        missing = [name for name in line.merchants if (name, line.round) not in heads]
        if missing:
            raise RuntimeError(f"round {line.round} took uploads without receipts: {missing}")
    calm = [line.merchants for line in rounds if line.round > struck_until]
    lost = [name for name in names if not any(name in merchants for merchants in calm)]
    if lost:
        raise RuntimeError(f"in the {len(calm)} rounds after the last strike, nothing came from {lost}")
    homes = [option for name in names for option in ("--client", federation.home(name))]
    out = federation.server.parent / "audit"
    federation.run("audit", "report", "--server", federation.server, *homes, "--out", out)
    federation.run("audit", "verify", out / "audit.json", "--allow-missing")
    return {
        "rounds": len(rounds),
        "rounds_opened": sum(line.opened for line in rounds),
        "rounds_never_finished": numbers[-1] - len(numbers),
        "uploads_taken": sum(line.contributors for line in rounds),
        "receipts": len(receipts),
        "charges": charges,
        "charged_without_upload": charges - len(heads),
    }


def _fits(entry: Entry | None, head: LedgerHead) -> bool:
    """Whether a head is of the entry that its moment asks for."""
    if head.moment == "joined":
        return entry is not None
    if head.moment == "charged":
        return isinstance(entry, ChargeEntry) and entry.charge.round_number == head.round_number
    return isinstance(entry, AnswerEntry) and entry.answer.round_number == head.round_number


def _in_order(training: Training, stored: dict[str, NDArray[Any]]) -> Iterator[NDArray[Any]]:
    for name, parameter in build_model(training.plan()).named_parameters():
        if parameter.requires_grad:
            yield stored[name]


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Give a merchant's folder a disk of its own, where this may be done."""
    kept = folder.with_name(folder.name + ".kept")
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=0700", "tmpfs", str(folder)]
    folder.rename(kept)
    folder.mkdir(mode=0o700)
    mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    subprocess.run(["cp", "-a", f"{kept}/.", str(folder)], check=True)
    try:
        yield
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


def main() -> None:
    """Set up, strike, wait, and check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--rounds", type=int, help="of the training; as many as the kills need, unless given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="three kills, and none of the other faults")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    kills = 3 if options.quick else options.kills
    rounds = options.rounds or (40 if options.quick else 60 + 5 * kills)
    with tempfile.TemporaryDirectory(prefix="fedrec-faults-") as scratch, contextlib.ExitStack() as stack:
        folder = Path(scratch)
        write(
            generate(merchants=MERCHANTS, per_merchant=10, size=16, seed=1, validation=10, test=10),
            folder / "photos",
        )
        names = sorted(path.name for path in (folder / "photos" / "train").iterdir())
        federation = Federation(folder, run=fedrec_here)
        federation.enrol(
            {name: folder / "photos" / "train" / name for name in names}, epsilon=1e6, delta=1e-2
        )
        federation.plan(plan(rounds))
        if not options.quick:
            stack.enter_context(small_disk(federation.home(names[1])))
        fire = Fire(federation, names, random.Random(options.seed), Counter())
        started = time.monotonic()
        try:
            for name in ("server", *names):
                fire.start(name)
            fire.pass_rounds(2)
            if not options.quick:
                fire.stay_away_for_two_rounds()
                fire.restart_the_server()
                fire.fill_the_disk()
                fire.set_a_clock_off()
            killed = 0
            while killed < kills:
                if fire.done():
                    raise RuntimeError(f"the training was over after {killed} kills: give it more --rounds")
                time.sleep(fire.chance.uniform(0.5, 6.0))
                killed += fire.strike()
            struck_until = fire.reached()
            while not fire.done():
                time.sleep(1)
                for name, process in federation.processes.items():
                    if process.poll() is not None:
                        raise RuntimeError(f"{name} ended by itself: {federation.log(name)[-500:]}")
        finally:
            federation.stop()
        row = {"seconds": round(time.monotonic() - started)} | check(
            federation, names, struck_until=struck_until
        )
    print(json.dumps(dict(fire.faults), indent=2))
    rows = [row | {"faults": dict(fire.faults)}]
    finish("faults", Options(quick=options.quick, json=options.json), rows=rows, ratios={})


if __name__ == "__main__":
    main()
