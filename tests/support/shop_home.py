"""A merchant's folder with a history: a training that ended, one that is open, a refusal, and photos."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from fedrec.clients.assembly import open_merchant
from fedrec.clients.merchant_home import JOIN_FILE, MerchantHome
from fedrec.clients.refusals import PAUSED
from fedrec.clients.store import MerchantStore
from fedrec.clients.store_types import CountedSet, TrainingSecrets
from fedrec.clients.training_history import MODELS
from fedrec.privacy.accounting.ledger import Ledger
from fedrec.privacy.identity import verify
from fedrec.protocol.enrolment import JoinFile
from fedrec.protocol.plan import Peer, TrainingPlan
from fedrec.vision.synthetic import generate, write
from tests.support.bundles import write_tiny_bundle
from tests.support.cohort import Cohort
from tests.support.ledgers import CHARGE
from tests.support.pictures import picture

NAME = "atelier"


@dataclass(frozen=True)
class ShopHome:
    """The folder, and what happened in it.

    Attributes:
        home: the merchant's folder.
        photos: its folder of photos.
        ended: plan of the training that ended, whose model was fetched.
        open: plan of the open training.
        refused: plan of a training that the policy refuses.
    """

    home: MerchantHome
    photos: Path
    ended: TrainingPlan
    open: TrainingPlan
    refused: TrainingPlan


def shop_home(folder: Path, *, per_merchant: int = 40, size: int = 16) -> ShopHome:
    """Make it: of its photos one can't be read, one is a copy, one was added, one has another class."""
    write(
        generate(merchants=1, per_merchant=per_merchant, size=size, seed=3, validation=0, test=0),
        folder / "made",
    )
    (photos,) = (folder / "made" / "train").iterdir()
    home = MerchantHome.create(folder / "home", name=NAME, data=photos, units=per_merchant)
    cohort = Cohort(folder / "cohort", size=3)
    roster = (*cohort.roster, Peer(name=NAME, signing_key=home.identity().public.hex()))
    join = JoinFile(
        address="server.example:8443",
        authority="-----BEGIN CERTIFICATE-----\n",
        server_key=cohort.server.public.hex(),
        roster=roster,
    )
    (home.folder / JOIN_FILE).write_bytes(join.canonical_bytes())
    classes = tuple(sorted(each.name for each in photos.iterdir()))
    extra = photos / "zeppelin"
    picture(extra / "0.png", 3)

    def plan(**changes: object) -> TrainingPlan:
        values = {"model": "cnn", "classes": classes, "image_size": 8, "roster": roster, "rounds": 40}
        values |= {"records_largest": 1000, "noise_multiplier": 3.0}
        return cohort.plan(**values | changes)

    ended, still_open, refused = plan(rounds=30), plan(), plan(rounds=4000)
    store = MerchantStore(home.store)
    for each in (ended, still_open):
        store.join(each.training_id, plan=each.canonical_bytes(), seeded=False, make_secrets=TrainingSecrets)
        if each is ended:
            store.finish(each.training_id)
    reason = "policy 'largest_steps': 4000 > 2000"
    with Ledger(home.ledger, signer=home.identity(), verify=verify) as ledger:
        for each, rounds in ((ended, 30), (still_open, 6)):
            for number in range(1, rounds + 1):
                start = hashlib.sha256(b"%d" % (number if number != 9 else 8)).hexdigest()
                ledger.charge(
                    replace(
                        CHARGE,
                        training_id=each.training_id,
                        round_number=number,
                        rounds=each.rounds,
                        model_hash=start,
                        planned_noise_multiplier=3.0,
                        guaranteed_noise_multiplier=3.0,
                    ),
                    version="a1" * 32,
                )
    merchant = open_merchant(home, device=torch.device("cpu"))
    fixed = merchant.context.sets.fix(still_open, policy=merchant.policy)
    merchant.store.put_counted(CountedSet(held=fixed.held, version=fixed.version))
    merchant.ledger.close()
    for each in (ended, still_open):
        for number in range(1, 5):
            text = f"{each.training_id} {number}"
            wanted = hashlib.sha256(text.encode()).hexdigest()
            store.put_upload(each.training_id, number, request_hash=wanted, body=bytes(250_000))
    store.note_refusal(kind="query.join", reason=PAUSED, plan=refused.canonical_bytes())
    for _ in range(3):
        store.note_refusal(kind="query.join", reason=reason, plan=refused.canonical_bytes())
    store.close()
    merchant.store.close()
    one = next(iter(sorted((photos / classes[0]).iterdir())))
    (one.parent / "copy.png").write_bytes(one.read_bytes())
    (one.parent / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno picture")
    picture(photos / classes[1] / "new.png", 200)
    write_tiny_bundle(home.folder / MODELS / ended.training_id[:16])
    home.note_connection(connected=True)
    return ShopHome(home, photos, ended, still_open, refused)
