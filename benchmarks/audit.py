"""Seconds that `fedrec audit verify` takes, for bundles of made-up but whole ledgers."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

from measure import finish, parse

from fedrec.privacy.accounting.ledger import Charge, Ledger
from fedrec.privacy.audit.bundle import Evidence, MerchantRecord, build
from fedrec.privacy.audit.verify import verify as verify_bundle
from fedrec.privacy.identity import SigningIdentity, verify


def charge(training: int, round_number: int) -> Charge:
    """A charge as a training of the cnn makes them; every training has a rate and a noise of its own."""
    noise = 1.0 + 0.05 * training
    return Charge(
        training_id=f"{training:064x}",
        round_number=round_number,
        model_hash="0" * 64,
        mode="distributed",
        unit="record",
        adjacency="add-or-remove",
        duplicate_policy="",
        sample_rate=0.01 * (1 + training % 5),
        clip=1.0,
        clipping="fixed",
        planned_noise_multiplier=noise,
        guaranteed_noise_multiplier=noise,
        broken_noise_multiplier=noise / 3,
        beta=1e-12,
        scale=2048,
        dimension=538_570,
        sensitivity=2080.0,
        min_contributors=10,
        colluders=1,
        delta=1e-5,
        run="0" * 32,
        model="cnn",
        code="benchmark",
        policy_hash="0" * 64,
        dataset_version="0" * 64,
        size_bucket=1000,
        seeded=False,
    )


def ledger(path: Path, identity: SigningIdentity, *, trainings: int, rounds: int) -> None:
    """Write a whole ledger."""
    with Ledger(path, signer=identity, verify=verify) as opened:
        for training in range(trainings):
            opened.prepare(charge(training, 1), charges=rounds)
            for round_number in range(1, rounds + 1):
                opened.charge(charge(training, round_number))


def main() -> None:
    """Make the bundles and time the checks."""
    options = parse(__doc__ or "")
    sizes = [("10 merchants, 300 rounds", 10, 1, 300)]
    sizes += [] if options.quick else [("one lifetime, 10,000 charges", 1, 20, 500)]
    rows = []
    for name, merchants, trainings, rounds in sizes:
        with tempfile.TemporaryDirectory() as folder:
            records = []
            for number in range(merchants):
                identity = SigningIdentity.generate()
                path = Path(folder) / f"{number}.sqlite"
                ledger(path, identity, trainings=trainings, rounds=rounds)
                records.append(MerchantRecord(name=f"m{number}", public=identity.public, ledger=path))
            bundle = build(Evidence(merchants=tuple(records)), signer=SigningIdentity.generate())
            path = Path(folder) / "audit.json"
            path.write_text(json.dumps(bundle))
            started = time.perf_counter()
            outcome = verify_bundle(path)
            seconds = time.perf_counter() - started
            if not outcome.ok:
                raise RuntimeError(f"the bundle does not hold: {outcome.failures}")
            rows.append({"bundle": name, "seconds": seconds, "megabytes": path.stat().st_size / 1e6})
    finish("audit", options, rows=rows, ratios={})


if __name__ == "__main__":
    main()
