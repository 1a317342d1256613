"""A small cohort in one process: real merchants, keys, ledgers and encryption around a linear model."""

from __future__ import annotations

import hashlib
import secrets
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from numpy.typing import NDArray
from torch import nn

from fedrec.clients.assembly import open_context
from fedrec.clients.client_app import build_client_app
from fedrec.clients.context import LocalResources
from fedrec.clients.merchant import Merchant
from fedrec.clients.merchant_home import MerchantHome
from fedrec.clients.policy import MerchantPolicy
from fedrec.clients.records import TrainingData
from fedrec.clients.witness.assembly import open_witness
from fedrec.clients.witness.home import WitnessHome
from fedrec.clients.witness.policy import WitnessPolicy
from fedrec.clients.witness.witness import Witness
from fedrec.errors import ConfigError
from fedrec.flower import NODE_GONE, error_reply, new_message, set_task_identity
from fedrec.privacy.accounting import ledger_history
from fedrec.privacy.accounting.count_release import COUNT_SIGMA
from fedrec.privacy.accounting.entry_contents import Count
from fedrec.privacy.accounting.ledger_entries import ChargeEntry, charges
from fedrec.privacy.aggregation import scheme_registry as schemes
from fedrec.privacy.aggregation.seats import choose_seats, seat_order, seat_risk
from fedrec.privacy.derived_parameters import noise_of
from fedrec.privacy.identity import SigningIdentity
from fedrec.privacy.randomness import Randomness
from fedrec.protocol.messages import CloseRequest, JoinReply, JoinRequest, TrainRequest, UnmaskRequest
from fedrec.protocol.modes import Mode
from fedrec.protocol.plan import Peer, TrainingPlan
from fedrec.protocol.roster_statements import RosterUpdate
from fedrec.protocol.schema import Strict, sha256_hex
from fedrec.protocol.statements import Receipt, RequestKind
from fedrec.protocol.training_report.round_line import RoundRecord
from fedrec.protocol.transport import pack
from fedrec.server.checkpoint import Checkpoint
from fedrec.server.coordinator import Coordinator
from fedrec.server.optimizers.sgd import Sgd
from fedrec.server.receipts import ReceiptBook
from fedrec.server.request_signing import RequestSigner
from fedrec.server.stragglers import GracePeriod
from fedrec.server.weights import Weights

FEATURES, CLASSES, RECORDS = 6, 3, 40
DIMENSION = FEATURES * CLASSES + CLASSES


def linear_model(plan: TrainingPlan | None = None) -> nn.Module:
    model = nn.Linear(FEATURES, CLASSES)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.zero_()
    return model


def record_digests(name: str, count: int = RECORDS) -> tuple[bytes, ...]:
    return tuple(hashlib.sha256(f"{name} {number}".encode()).digest() for number in range(count))


def seated(names: list[str], seats: tuple[str, ...]) -> tuple[dict[str, SigningIdentity], tuple[Peer, ...]]:
    """Keys, and a roster whose draw begins with ``seats``: by trying keys, as whoever enrols could."""
    while True:
        identities = {name: SigningIdentity.generate() for name in names}
        roster = tuple(Peer(name=name, signing_key=identities[name].public.hex()) for name in names)
        if seat_order(roster)[: len(seats)] == seats:
            return identities, roster


def with_levels(plan: TrainingPlan) -> TrainingPlan:
    """The plan with the noise levels that follow from its numbers, if any do."""
    try:
        return plan.model_copy(update={"noise_levels": noise_of(plan).levels})
    except ConfigError:
        return plan


Request = JoinRequest | TrainRequest | UnmaskRequest | CloseRequest
KINDS: dict[type[Strict], RequestKind] = {
    JoinRequest: "query.join",
    TrainRequest: "train",
    UnmaskRequest: "query.unmask",
    CloseRequest: "query.close",
}


def signed_request(
    signer: RequestSigner,
    body: Request,
    blobs: Mapping[str, bytes] | None = None,
    *,
    recipient: str,
) -> RecordDict:
    """A request as a server sends it."""
    training_id, round_number = body.subject
    return signer.sign(
        pack(body, blobs),
        kind=KINDS[type(body)],
        training_id=training_id,
        round_number=round_number,
        recipient=recipient,
    )


def change_means(merchant: Merchant, **changes: Any) -> None:
    """Let a merchant come by its records, models or chance in another way from now on."""
    merchant.context.resources = replace(merchant.context.resources, **changes)


LATER = datetime(2100, 3, 4, 12, tzinfo=UTC)
"""A moment after whatever is in the ledgers of a new cohort, which date no entry before the last one."""


def set_clock(cohort: Cohort, name: str, moment: datetime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a moment be now for a merchant, and for every ledger that is written to."""
    monkeypatch.setattr(ledger_history, "datetime", SimpleNamespace(now=lambda zone: moment))
    cohort.merchants[name].context.now = lambda: moment


@dataclass
class Cohort:
    """Merchants m0, m1, ... on disk below ``folder``, and witnesses w0, w1, ... after them."""

    folder: Path
    size: int = 4
    witnesses: int = 0
    seed: int | None = 7
    seats: tuple[str, ...] = ()
    on_event: Callable[[str, str], None] = lambda name, event: None
    policy: MerchantPolicy = field(
        default_factory=lambda: MerchantPolicy.without_limits(
            modes={"distributed", "local", "off"}, schemes={"kahe", "ckks", "none"}
        )
    )

    count: Count = field(
        default_factory=lambda: Count(
            number=1,
            unit="record",
            size=RECORDS,
            sigma=COUNT_SIGMA,
            delta=1e-4,
            code="fedrec 0",
            policy_hash="f0" * 32,
            seeded=False,
        )
    )

    def __post_init__(self) -> None:
        self.names = [f"m{index}" for index in range(self.size)]
        # Small cohorts sit in the order of their names, so that tests know who has which seat.
        seats = self.seats or (tuple(self.names) if self.size <= 5 else ())
        self.identities, self.roster = seated(self.names, seats)
        self.server = SigningIdentity.generate()
        self.merchants = {name: self.start(name) for name in self.names}
        self.watchers = {f"w{index}": self.start_witness(f"w{index}") for index in range(self.witnesses)}

    @property
    def parties(self) -> list[str]:
        """The names of merchants and witnesses, in the order of node ids from 1."""
        return [*self.names, *self.watchers]

    def start_witness(self, name: str) -> Witness:
        """Bring a witness up from its folder, as a restarted daemon would."""
        home = WitnessHome(self.folder / name)
        if not home.folder.exists():
            WitnessHome.create_key(home.folder, identity=SigningIdentity.generate())
        modes: tuple[Mode, ...] = ("distributed", "local", "off")
        policy = WitnessPolicy.without_limits(modes=modes)
        witness = open_witness(home, name=name, server_key=self.server.public.hex(), policy=policy)
        witness.on_event = lambda event: self.on_event(name, event)
        return witness

    def restart_witness(self, name: str) -> None:
        """Stop a witness and bring it up again from disk."""
        self.watchers[name].close()
        self.watchers[name] = self.start_witness(name)

    def _witnessed(self) -> dict[str, object]:
        """The default numbers of a plan with all witnesses."""
        peers = tuple(
            Peer(name=name, signing_key=witness.identity.public.hex())
            for name, witness in self.watchers.items()
        )
        found = choose_seats(cohort=self.size, colluders=1, witnesses=len(peers))
        return {
            "witnesses": peers,
            "committee": seat_order(self.roster, peers)[: found.members],
            "threshold": found.threshold,
            "corrupt_members": found.corrupt,
            "corrupt_witnesses": found.corrupt_witnesses,
            "seat_risk": found.risk,
        }

    def start(self, name: str) -> Merchant:
        """Bring a merchant up from its folder, as a restarted daemon would."""
        home = MerchantHome(self.folder / name)
        if not home.folder.exists():
            count = replace(self.count, policy_hash=self.policy.hash)
            MerchantHome.create_keys_and_ledger(
                home.folder, identity=self.identities[name], count=count, policy=self.policy
            )
        generator = torch.Generator().manual_seed(self.names.index(name))
        data = TrainingData(
            inputs=torch.randn(RECORDS, 1, FEATURES, generator=generator),
            labels=torch.randint(0, CLASSES, (RECORDS,), generator=generator),
            digests=(digests := record_digests(name)),
            held=digests,
        )

        def randomness_for(plan: TrainingPlan, round_number: int) -> Randomness:
            if self.seed is None:
                return Randomness.from_os()
            return Randomness.seeded(self.seed, name, round_number)

        context = open_context(
            home,
            name=name,
            server_key=self.server.public.hex(),
            policy=self.policy,
            resources=LocalResources(
                data_for=lambda plan: data,
                build_model=linear_model,
                randomness_for=randomness_for,
                device=torch.device("cpu"),
            ),
        )
        context.on_event = lambda event: self.on_event(name, event)
        return Merchant(context)

    def charges(self, name: str) -> list[ChargeEntry]:
        """The rounds that a merchant was charged for, in order."""
        return charges(self.merchants[name].ledger.entries())

    def last_receipt(self, name: str) -> Receipt | None:
        """The newest receipt of a merchant in the server's book."""
        return ReceiptBook(self.folder / "receipts.sqlite", identity=self.server).last(name)

    def first_receipt(self, reply: JoinReply, plan: TrainingPlan) -> Receipt:
        """What the server makes of the head in a join reply, where it has no receipt."""
        book = ReceiptBook(self.folder / "none.sqlite", identity=self.server)
        return book.sign(reply.head, plan=plan, merchant=reply.merchant, round_number=0, moment="joined")

    def restart(self, name: str) -> None:
        """Stop a merchant and bring it up again from disk."""
        self.merchants[name].close()
        self.merchants[name] = self.start(name)

    def plan(self, **changes: object) -> TrainingPlan:
        """A plan for this cohort; keyword arguments replace its fields."""
        members = min(self.size, 10)
        values: dict[str, object] = {
            "server_key": self.server.public.hex(),
            "nonce": secrets.token_hex(16),
            "model": "linear",
            "initial_model_hash": sha256_hex(np.zeros(DIMENSION, "<f4").tobytes()),
            "classes": ("a", "b", "c"),
            "channels": 3,
            "image_size": 32,
            "dimension": DIMENSION,
            "views": 1,
            "mode": "distributed",
            "rounds": 3,
            "local_steps": 1,
            "local_learning_rate": 0.5,
            "sample_rate": 0.5,
            "clip": 1.0,
            "delta": 1e-4,
            "noise_multiplier": 1.0,
            "records_total": RECORDS * self.size,
            "records_largest": RECORDS,
            "roster": self.roster,
            "threshold": (members + 1) // 2 + 1,
            "min_contributors": 3,
            "colluders": 1,
            "corrupt_members": 1,
            "scheme": "kahe",
        }
        if self.watchers:
            values |= self._witnessed()
        values |= changes
        values.setdefault("record_values", values["channels"] * values["image_size"] ** 2)  # type: ignore[operator]
        if values["scheme"] in schemes.names():
            values.setdefault("trust", schemes.get(str(values["scheme"])).trust)
        else:
            values.setdefault("trust", schemes.get("kahe").trust)
        roster: tuple[Peer, ...] = values["roster"]  # type: ignore[assignment]
        values.setdefault("committee", seat_order(roster)[:members])
        if values["scheme"] != "kahe":
            values |= {"corrupt_members": 0} | changes
        if "seat_risk" not in values:
            values["seat_risk"] = values["corrupt_members"] and seat_risk(
                cohort=len(roster),
                colluders=values["colluders"],  # type: ignore[arg-type]
                members=len(values["committee"]),  # type: ignore[arg-type]
                corrupt=values["corrupt_members"],  # type: ignore[arg-type]
            )
        values["seat_risk"] = float(values["seat_risk"])  # type: ignore[arg-type]
        plan = TrainingPlan(**values)  # type: ignore[arg-type]
        return plan if "noise_levels" in changes else with_levels(plan)

    def app(self) -> ClientApp:
        def party(context: Context) -> Merchant | Witness:
            name = self.parties[int(context.node_id) - 1]
            return self.watchers[name] if name in self.watchers else self.merchants[name]

        return build_client_app(party)

    def grid(self, **faults: Any) -> InProcessGrid:
        """A grid of all merchants and witnesses, with injected faults."""
        return InProcessGrid(self.app(), len(self.parties), **faults)

    def signer(self) -> RequestSigner:
        """What signs the server's requests; node 1 is the first merchant's."""
        return RequestSigner(
            self.folder / "requests.json",
            identity=self.server,
            names=lambda: dict(enumerate(self.parties, start=1)),
        )

    def signed(
        self,
        body: Request,
        blobs: Mapping[str, bytes] | None = None,
        *,
        recipient: str = "m0",
    ) -> RecordDict:
        """A request as the server sends it to a merchant."""
        return signed_request(self.signer(), body, blobs, recipient=recipient)

    def coordinator(
        self,
        plan: TrainingPlan,
        grid: Grid | None = None,
        parameters: NDArray[np.float64] | None = None,
        *,
        grace: GracePeriod | None = None,
        roster_update: Callable[[], RosterUpdate | None] = lambda: None,
    ) -> tuple[Coordinator, list[RoundRecord]]:
        records: list[RoundRecord] = []
        coordinator = Coordinator(
            grid=grid or self.grid(),
            plan=plan,
            weights=Weights.start(
                np.zeros(DIMENSION) if parameters is None else parameters,
                Sgd(DIMENSION, learning_rate=1.0 if plan.sends_moves else 0.5),
                averaging=0.0,
            ),
            checkpoint=Checkpoint(self.folder / "server" / plan.training_id, training_id=plan.training_id),
            receipts=ReceiptBook(self.folder / "receipts.sqlite", identity=self.server),
            signer=self.signer(),
            on_round=records.append,
            timeout=20,
            grace=grace,
            roster_update=roster_update,
        )
        return coordinator, records

    def train(
        self, plan: TrainingPlan, grid: Grid | None = None, parameters: NDArray[np.float64] | None = None
    ) -> tuple[NDArray[np.float64], list[RoundRecord]]:
        """Run a whole training; returns the final parameters and what the server recorded."""
        coordinator, records = self.coordinator(plan, grid, parameters)
        coordinator.run()
        return coordinator.weights.parameters, records


class InProcessGrid(Grid):
    """Calls a ClientApp directly; faults are injected by ``drop``, ``lose`` and ``tamper``.

    ``drop(type, round, index)`` keeps a request from its merchant, ``lose`` the reply from the server.
    """

    def __init__(
        self,
        app: ClientApp,
        size: int,
        *,
        drop: Callable[[str, str, int], bool] = lambda kind, group, index: False,
        lose: Callable[[str, str, int], bool] = lambda kind, group, index: False,
        tamper: Callable[[Message, int], Message] = lambda reply, index: reply,
    ) -> None:
        self.app, self.size, self.drop, self.lose, self.tamper = app, size, drop, lose, tamper
        self.requests: list[Message] = []
        self.replies: list[Message] = []
        self._pending: dict[str, Message] = {}

    def set_run(self, run: object) -> None: ...

    @property
    def run(self) -> object:  # type: ignore[override]
        return None

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        set_task_identity(run_id=1, node_id=1)
        return new_message(
            content, message_type=message_type, node_id=dst_node_id, group_id=group_id, ttl=ttl or 60
        )

    def get_node_ids(self) -> Iterable[int]:
        return range(1, self.size + 1)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            node = message.metadata.dst_node_id
            set_task_identity(run_id=1, node_id=node)
            self.requests.append(message)
            context = Context(run_id=1, node_id=node, node_config={}, state=RecordDict(), run_config={})
            fate = message.metadata.message_type, message.metadata.group_id, node - 1
            if self.drop(*fate):
                reply = error_reply(message, code=NODE_GONE, reason="dropped")
            else:
                reply = self.tamper(self.app(message, context), node - 1)
                if self.lose(*fate):
                    reply = error_reply(message, code=NODE_GONE, reason="lost")
            self.replies.append(reply)
            key = message.metadata.message_id or uuid.uuid4().hex
            self._pending[key] = reply
            ids.append(key)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self._pending.pop(key) for key in list(message_ids) if key in self._pending]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        return self.pull_messages(self.push_messages(messages))
