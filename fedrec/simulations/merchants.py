"""The virtual merchants of a simulation, and the recipe by which a worker makes them from their folders."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from flwr.app import Context
from flwr.clientapp import ClientApp

from fedrec._internal.shared_results import SHARED
from fedrec.clients.assembly import merchant_randomness, open_context
from fedrec.clients.client_app import build_client_app
from fedrec.clients.context import LocalResources, MerchantContext
from fedrec.clients.merchant import Merchant
from fedrec.clients.merchant_home import MerchantHome
from fedrec.clients.participant import Participant
from fedrec.clients.plan_resources import build_model
from fedrec.clients.policy import MerchantPolicy
from fedrec.clients.records import TrainingData
from fedrec.clients.witness.assembly import open_witness
from fedrec.clients.witness.home import WitnessHome
from fedrec.clients.witness.policy import WitnessPolicy
from fedrec.clients.witness.witness import Witness
from fedrec.protocol.messages import TrainReply, TrainRequest, UnmaskReply, UnmaskRequest
from fedrec.protocol.transport import Blobs
from fedrec.simulations.data_sources import read_digests
from fedrec.simulations.injected_faults import Crashes, CrashPoint, InjectedCrashError, Lie, Saboteur
from fedrec.simulations.sabotage import under_another_key, wrong_share
from fedrec.vision.model_inputs import to_inputs
from fedrec.vision.model_spec import ModelSpec

COST_FILE = "cost.json"
SHARED_BYTES = 128 * 2**20
"""Limit of the results that a process's merchants share; the checks of 1,000 dealings take 90 MB."""


def add_cost(path: Path, *, train: float, encrypt: float) -> None:
    """Add CPU seconds to the file of a merchant's costs.

    Args:
        path: the file; made if it is missing.
        train: seconds of training.
        encrypt: seconds of encryption.
    """
    cost = json.loads(path.read_text()) if path.exists() else {"seconds_train": 0.0, "seconds_encrypt": 0.0}
    cost = {
        "seconds_train": cost["seconds_train"] + train,
        "seconds_encrypt": cost["seconds_encrypt"] + encrypt,
    }
    scratch = path.with_suffix(".tmp")
    scratch.write_text(json.dumps(cost))
    scratch.replace(path)


@dataclass(frozen=True)
class Misconduct:
    """The injected faults of one merchant.

    Attributes:
        crash_at: returns the point at which it crashes in a round, or None.
        lies: whether it cheats in a given way in a round.
        drop: carries out a crash.
    """

    crash_at: Callable[[int], CrashPoint | None] = lambda round_number: None
    lies: Callable[[Lie, int], bool] = lambda lie, round_number: False
    drop: Callable[[], None] = lambda: None


class VirtualMerchant(Merchant):
    """A merchant with injected crashes and cheating."""

    def __init__(self, context: MerchantContext, misconduct: Misconduct) -> None:
        super().__init__(context)
        self._misconduct = misconduct
        self._point: CrashPoint | None = None

    def train(self, request: TrainRequest, blobs: Blobs) -> tuple[TrainReply, dict[str, bytes]]:
        """Answer as :meth:`Merchant.train` does, unless the merchant crashes or cheats.

        Args:
            request: the server's request.
            blobs: its large parts, by name.

        Returns:
            The reply and its blobs.
        """
        self._point = self._misconduct.crash_at(request.round_number)
        reply = super().train(request, blobs)
        if self._point == "sent":
            self._misconduct.drop()
        if self._misconduct.lies("key", request.round_number):
            return under_another_key(self.context, *reply)
        return reply

    def unmask(self, request: UnmaskRequest, blobs: Blobs) -> tuple[UnmaskReply, dict[str, bytes]]:
        """Answer as :meth:`Merchant.unmask` does, or with a wrong share.

        Args:
            request: the server's request.
            blobs: its large parts, by name.

        Returns:
            The reply and its blobs.
        """
        reply, sent = super().unmask(request, blobs)
        if sent and self._misconduct.lies("share", request.round_number):
            return reply, wrong_share(sent)
        return reply, sent

    def reach(self, event: str) -> None:
        """Crash if ``event`` is the chosen point; nothing of the step happens after it."""
        if event == self._point:
            self._misconduct.drop()
            raise InjectedCrashError(f"injected crash: {event}")


@dataclass(frozen=True)
class SimulatedWitnesses:
    """Make the witnesses of a simulation; picklable.

    Attributes:
        homes: holds a folder per witness.
        names: their names.
        policy: the rules of every witness.
    """

    homes: Path
    names: tuple[str, ...]
    policy: WitnessPolicy

    def witness(self, index: int, *, server_key: str) -> Witness:
        """Make one witness from its folder.

        Args:
            index: its index among the witnesses.
            server_key: public key of the server whose requests it accepts, 64 hexadecimal digits.

        Returns:
            The witness.
        """
        name = self.names[index]
        return open_witness(
            WitnessHome(self.homes / name), name=name, server_key=server_key, policy=self.policy
        )


@dataclass(frozen=True)
class SimulatedMerchants:
    """Make the ClientApp of a worker process; picklable.

    A merchant that crashes is dropped where it stands: its memory is lost, and the next message finds only
    its folder.

    Args:
        homes: holds a folder per merchant.
        arrays: holds the model inputs of each merchant.
        names: the merchants' names; in the order of node ids, and before those of the witnesses.
        server_key: public key of the server whose requests they accept, 64 hexadecimal digits.
        policy: the rules of every merchant.
        model: the model.
        device: where merchants train.
        seed: noise, sampling and keys are drawn from it, which the report states; None for secure randomness.
        keep_open: whether merchants stay in memory. If not, a merchant is made for one message and its files
            are closed after it, so that any process may answer for it next.
        crashes: crashes to inject, if any.
        saboteur: a merchant that cheats, if any.
        witnesses: the simulated witnesses, if any.
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
    witnesses: SimulatedWitnesses | None = None

    def __call__(self) -> ClientApp:
        """Return a ClientApp that answers for every merchant and witness; each is made on first use."""
        alive: dict[int, Merchant | Witness] = {}
        SHARED.share(SHARED_BYTES)

        def drop(index: int) -> None:
            alive.pop(index).close()

        def merchant_of(context: Context) -> Participant:
            index = int(context.node_config["partition-id"])
            if index not in alive:
                alive[index] = self.party(index, drop=lambda: drop(index))
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

    def party(self, index: int, *, drop: Callable[[], None]) -> Merchant | Witness:
        """Make a merchant, or a witness: those come after the merchants.

        Args:
            index: its index among all.
            drop: carries out a crash of a merchant.

        Returns:
            The merchant or witness.
        """
        if index < len(self.names) or self.witnesses is None:
            return self.merchant(index, drop=drop)
        return self.witnesses.witness(index - len(self.names), server_key=self.server_key)

    def merchant(self, index: int, *, drop: Callable[[], None] = lambda: None) -> VirtualMerchant:
        """Make one merchant from its folder.

        Args:
            index: its index.
            drop: carries out a crash of it.

        Returns:
            The merchant.
        """
        name = self.names[index]
        home, cost_file = MerchantHome(self.homes / name), self.homes / name / COST_FILE
        context = open_context(
            home,
            name=name,
            server_key=self.server_key,
            policy=self.policy,
            resources=LocalResources(
                data_for=lambda plan: self._data(name),
                build_model=lambda plan: build_model(plan, self.model),
                randomness_for=lambda plan, number: merchant_randomness(self.seed, name, number),
                device=torch.device(self.device),
            ),
        )
        spent = json.loads(cost_file.read_text()) if cost_file.exists() else {}
        context.seconds_train = spent.get("seconds_train", 0.0)
        context.seconds_encrypt = spent.get("seconds_encrypt", 0.0)
        context.precomputes_costs = self.keep_open
        merchant = VirtualMerchant(context, self._misconduct(index, drop=drop))

        def on_event(event: str) -> None:
            if event == "stored":
                add_cost(cost_file, train=context.seconds_train, encrypt=context.seconds_encrypt)
                context.seconds_train = context.seconds_encrypt = 0.0
            merchant.reach(event)

        context.on_event = on_event
        return merchant

    def _data(self, name: str) -> TrainingData:
        arrays, device = self.arrays / name, torch.device(self.device)
        # Changes would stay in memory; torch takes no array that can't be written to.
        inputs = np.load(arrays / "inputs.npy", mmap_mode="c", allow_pickle=False)
        labels = np.load(arrays / "labels.npy", allow_pickle=False)
        digests = read_digests(arrays)
        return TrainingData(
            inputs=to_inputs(inputs, self.model).to(device),
            labels=torch.from_numpy(labels).to(device),
            digests=digests,
            held=digests,
        )

    def _misconduct(self, index: int, *, drop: Callable[[], None]) -> Misconduct:
        def crash_at(round_number: int) -> CrashPoint | None:
            if self.crashes is None:
                return None
            return self.crashes.point(merchant=index, round_number=round_number)

        def lies(lie: Lie, round_number: int) -> bool:
            saboteur = self.saboteur
            return saboteur is not None and saboteur.lies(lie, merchant=index, round_number=round_number)

        return Misconduct(crash_at=crash_at, lies=lies, drop=drop)
