"""The virtual merchants of a simulation: homes on disk, and the recipe by which a worker brings them up."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from flwr.app import Context
from flwr.clientapp import ClientApp

from fedrec.clients.app import build_client_app
from fedrec.clients.data import build_model
from fedrec.clients.gate import RequestGate
from fedrec.clients.merchant import Blobs, Merchant
from fedrec.clients.policy import MerchantPolicy
from fedrec.clients.records import TrainingData
from fedrec.clients.store import MerchantStore
from fedrec.privacy.accounting.kinds import Count
from fedrec.privacy.accounting.ledger import Ledger, create_ledger
from fedrec.privacy.identity import SigningIdentity, verify
from fedrec.privacy.randomness import Randomness
from fedrec.protocol.messages import TrainReply, TrainRequest, UnmaskReply, UnmaskRequest
from fedrec.protocol.plan import TrainingPlan
from fedrec.simulations.faults import Crashes, CrashPoint, InjectedCrashError, Lie, Saboteur
from fedrec.simulations.sabotage import under_another_key, wrong_share
from fedrec.simulations.sources import read_digests
from fedrec.vision.inputs import to_inputs
from fedrec.vision.models.registry import ModelSpec

KEY_FILE, LEDGER_FILE, STORE_FILE, COST_FILE = "identity.key", "ledger.sqlite", "store.sqlite", "cost.json"
REQUESTS_FILE = "requests.bin"


def create_home(folder: Path, *, identity: SigningIdentity, count: Count) -> None:
    """Make a merchant's folder (mode 0700) with its identity key (0600), and its ledger with its count."""
    folder.mkdir(parents=True, mode=0o700)
    descriptor = os.open(folder / KEY_FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(identity.private_bytes())
    create_ledger(folder / LEDGER_FILE, signer=identity, count=count)


def load_identity(folder: Path) -> SigningIdentity:
    """Read a merchant's identity key."""
    return SigningIdentity.from_private_bytes((folder / KEY_FILE).read_bytes())


def add_cost(path: Path, *, train: float, encrypt: float) -> None:
    """Add CPU seconds to a merchant's own account of its costs."""
    cost = json.loads(path.read_text()) if path.exists() else {"seconds_train": 0.0, "seconds_encrypt": 0.0}
    cost = {
        "seconds_train": cost["seconds_train"] + train,
        "seconds_encrypt": cost["seconds_encrypt"] + encrypt,
    }
    scratch = path.with_suffix(".tmp")
    scratch.write_text(json.dumps(cost))
    scratch.replace(path)


@dataclass
class VirtualMerchant(Merchant):
    """A merchant that crashes, by ``drop``, where ``crash_at`` of the round says so, and lies by ``lies``."""

    lies: Callable[[Lie, int], bool] = lambda lie, round_number: False
    crash_at: Callable[[int], CrashPoint | None] = lambda round_number: None
    drop: Callable[[], None] = lambda: None
    _point: CrashPoint | None = None

    def train(self, request: TrainRequest, blobs: Blobs) -> tuple[TrainReply, dict[str, bytes]]:
        """Answer as :meth:`Merchant.train` does, unless a crash comes first."""
        self._point = self.crash_at(request.round_number)
        reply = super().train(request, blobs)
        if self._point == "sent":
            self.drop()
        if self.lies("key", request.round_number):
            return under_another_key(self, *reply)
        return reply

    def unmask(self, request: UnmaskRequest, blobs: Blobs) -> tuple[UnmaskReply, dict[str, bytes]]:
        """Answer as :meth:`Merchant.unmask` does, or with a wrong share."""
        reply, sent = super().unmask(request, blobs)
        if sent and self.lies("share", request.round_number):
            return reply, wrong_share(sent)
        return reply, sent

    def reach(self, event: str) -> None:
        """Crash if this is the point: nothing of the step happens after it."""
        if event == self._point:
            self.drop()
            raise InjectedCrashError(f"injected crash: {event}")


@dataclass(frozen=True)
class SimulatedMerchants:
    """Makes the ClientApp of a worker process; picklable.

    ``homes`` holds a folder per merchant, ``arrays`` the inputs of its ``model``; ``server_key`` is the key
    (64 hexadecimal digits) of the server whose requests they take. With a ``seed``, noise, sampling and keys
    are drawn from it: a report says so. Without ``keep_open`` a merchant lives for one message, and its files
    are closed after it: any process may answer for it next. One that ``crashes`` is dropped where it stands:
    what it had in memory is gone, and its folder is all that the next message finds.
    """

    homes: Path
    arrays: Path
    names: tuple[str, ...]
    server_key: str
    policy: MerchantPolicy
    model: ModelSpec
    device: str
    seed: int | None
    keep_open: bool = True
    crashes: Crashes | None = None
    saboteur: Saboteur | None = None

    def __call__(self) -> ClientApp:
        """Return a ClientApp that answers for every merchant of the simulation, brought up on first use."""
        alive: dict[int, Merchant] = {}

        def drop(index: int) -> None:
            merchant = alive.pop(index)
            merchant.ledger.close()
            merchant.store.close()

        def merchant_of(context: Context) -> Merchant:
            index = int(context.node_config["partition-id"])
            if index not in alive:
                alive[index] = self.merchant(index, drop=lambda: drop(index))
            return alive[index]

        app = build_client_app(merchant_of)
        if not self.keep_open:

            @app.lifespan()
            def one_message(context: Context) -> Iterator[None]:
                try:
                    yield
                finally:
                    for index in list(alive):
                        drop(index)

        return app

    def merchant(self, index: int, *, drop: Callable[[], None] = lambda: None) -> VirtualMerchant:
        """Bring up one merchant from its folder; ``drop`` is what a crash of it does."""
        name = self.names[index]
        home, arrays = self.homes / name, self.arrays / name
        identity = load_identity(home)

        def data_for(plan: TrainingPlan) -> TrainingData:
            device = torch.device(self.device)
            inputs = np.load(arrays / "inputs.npy", mmap_mode="r", allow_pickle=False)
            labels = np.load(arrays / "labels.npy", allow_pickle=False)
            digests = read_digests(arrays)
            return TrainingData(
                inputs=to_inputs(inputs, self.model).to(device),
                labels=torch.from_numpy(labels).to(device),
                digests=digests,
                held=digests,
            )

        def randomness_for(plan: TrainingPlan, round_number: int) -> Randomness:
            if self.seed is None:
                return Randomness.from_os()
            return Randomness.seeded(self.seed, "merchant", name, round_number)

        cost_file = home / COST_FILE
        spent = json.loads(cost_file.read_text()) if cost_file.exists() else {}

        def crash_at(round_number: int) -> CrashPoint | None:
            if self.crashes is None:
                return None
            return self.crashes.point(merchant=index, round_number=round_number)

        def lies(lie: Lie, round_number: int) -> bool:
            saboteur = self.saboteur
            return saboteur is not None and saboteur.lies(lie, merchant=index, round_number=round_number)

        def on_event(event: str) -> None:
            if event == "stored":
                add_cost(home / COST_FILE, train=merchant.seconds_train, encrypt=merchant.seconds_encrypt)
                merchant.seconds_train = merchant.seconds_encrypt = 0.0
            merchant.reach(event)

        merchant = VirtualMerchant(
            name=name,
            identity=identity,
            ledger=Ledger(
                home / LEDGER_FILE,
                signer=identity,
                verify=verify,
                epsilon_lifetime=self.policy.lifetime_epsilon,
                delta_lifetime=self.policy.lifetime_delta,
            ),
            store=MerchantStore(home / STORE_FILE),
            gate=RequestGate(home / REQUESTS_FILE, merchant=name, server_key=self.server_key),
            policy=self.policy,
            data_for=data_for,
            build_model=lambda plan: build_model(plan, self.model),
            randomness_for=randomness_for,
            device=torch.device(self.device),
            on_event=on_event,
            crash_at=crash_at,
            lies=lies,
            drop=drop,
            works_ahead=self.keep_open,
            seconds_train=spent.get("seconds_train", 0.0),
            seconds_encrypt=spent.get("seconds_encrypt", 0.0),
        )
        return merchant
