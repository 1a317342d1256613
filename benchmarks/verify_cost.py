"""CPU seconds that `fedrec audit verify` takes for whole made-up bundles.

A bundle has all that a real one has: plans, policies, and a receipt for every round. Each merchant
takes part in trainings of its own, so that nothing that was composed for one can be used for another.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from pathlib import Path

from measure import finish, parse

from fedrec.clients.charging import round_charge
from fedrec.clients.noised_count import draw_count
from fedrec.clients.policy import MerchantPolicy
from fedrec.privacy.accounting.entry_contents import Charge
from fedrec.privacy.accounting.ledger import Ledger
from fedrec.privacy.accounting.ledger_creation import create_ledger
from fedrec.privacy.aggregation import scheme_registry as schemes
from fedrec.privacy.aggregation.seats import seat_order
from fedrec.privacy.audit.bundle import Evidence, MerchantRecord, body_of, seal
from fedrec.privacy.audit.verify import verify as verify_bundle
from fedrec.privacy.derived_parameters import derive
from fedrec.privacy.identity import SigningIdentity, verify
from fedrec.privacy.randomness import Randomness
from fedrec.protocol.plan import Peer, TrainingPlan
from fedrec.protocol.statements import RECEIPT_CONTEXT, Receipt

PEERS = 10
POLICY = MerchantPolicy(lifetime_epsilon=1e4, lifetime_delta=1e-5, largest_rounds_per_day=10**6)


def plan(
    number: int, *, rounds: int, server: SigningIdentity, peers: dict[str, SigningIdentity]
) -> TrainingPlan:
    """A training of the cnn; every number has a rate and a noise of its own."""
    roster = tuple(Peer(name=name, signing_key=key.public.hex()) for name, key in peers.items())
    return TrainingPlan(
        server_key=server.public.hex(),
        nonce=f"{number:032x}",
        model="cnn",
        initial_model_hash=model(number, 1),
        classes=("a", "b"),
        channels=3,
        image_size=64,
        record_values=3 * 64**2,
        dimension=539_000,
        views=1,
        mode="distributed",
        rounds=rounds,
        local_steps=1,
        local_learning_rate=1.0,
        sample_rate=0.01 * (1 + number % 5),
        clip=1.0,
        delta=1e-5,
        noise_multiplier=1.0 + 0.05 * number,
        records_total=10_000,
        records_largest=1000,
        roster=roster,
        committee=seat_order(roster),
        threshold=7,
        min_contributors=10,
        colluders=1,
        corrupt_members=1,
        seat_risk=0.0,
        scheme="kahe",
        trust=schemes.get("kahe").trust,
    )


def model(training: int, round_number: int) -> str:
    """A model's hash."""
    return hashlib.sha256(f"{training} {round_number}".encode()).hexdigest()


def charge(planned: TrainingPlan, number: int, round_number: int) -> Charge:
    """What a merchant charges for a round."""
    return round_charge(
        planned,
        derive(planned),
        round_number=round_number,
        model_hash=model(number, round_number),
        policy_hash=POLICY.hash,
        seeded=False,
    )


def main() -> None:
    """Make the bundles and time the checks."""
    options = parse(__doc__ or "")
    sizes = [("10 merchants, 300 rounds", 10, 1, 300)]
    sizes += [] if options.quick else [("one lifetime, 10,000 charges", 1, 20, 500)]
    rows = []
    for name, merchants, trainings, rounds in sizes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "audit.json"
            path.write_text(json.dumps(bundle(Path(folder), merchants, trainings, rounds)))
            wall, started = time.perf_counter(), time.process_time()
            outcome = verify_bundle(path)
            cpu = time.process_time() - started
            if not (outcome.ok and outcome.complete):
                raise RuntimeError(f"the bundle does not hold: {outcome.failures} {outcome.gaps}")
            rows.append(
                {
                    "bundle": name,
                    "cpu_seconds": cpu,
                    "seconds": time.perf_counter() - wall,
                    "megabytes": path.stat().st_size / 1e6,
                }
            )
    finish("audit", options, rows=rows, ratios={})


def bundle(folder: Path, merchants: int, trainings: int, rounds: int) -> dict[str, object]:
    """Write ledgers and receipts, and make a bundle of them."""
    server = SigningIdentity.generate()
    peers = {f"m{number}": SigningIdentity.generate() for number in range(PEERS)}
    records, plans, receipts = [], [], []
    for index, (name, identity) in enumerate(list(peers.items())[:merchants]):
        path = folder / f"{name}.sqlite"
        count = draw_count(1000, unit="record", delta=1e-5, policy_hash=POLICY.hash, rng=Randomness.from_os())
        create_ledger(path, signer=identity, count=count, epsilon_lifetime=1e4, delta_lifetime=1e-5)
        with Ledger(
            path, signer=identity, verify=verify, epsilon_lifetime=1e4, delta_lifetime=1e-5
        ) as ledger:
            for training in range(trainings):
                number = index * trainings + training
                planned = plan(number, rounds=rounds, server=server, peers=peers)
                plans.append(planned)
                ledger.prepare(charge(planned, number, 1))
                for round_number in range(1, rounds + 1):
                    ledger.charge(charge(planned, number, round_number), version="0" * 64)
                    head = ledger.signed_head(
                        training_id=planned.training_id,
                        round_number=round_number,
                        merchant=name,
                        moment="charged",
                    )
                    sealed = server.sign(head.canonical_bytes(), context=RECEIPT_CONTEXT).hex()
                    receipts.append(Receipt(head=head, server_key=server.public.hex(), signature=sealed))
        records.append(MerchantRecord(name, identity.public, path, (POLICY.rules,)))
    evidence = Evidence(
        merchants=tuple(records),
        plans=tuple(plans),
        receipts=tuple(receipts),
        servers=(server.public.hex(),),
    )
    return seal(body_of(evidence), signer=server, pages={})


if __name__ == "__main__":
    main()
