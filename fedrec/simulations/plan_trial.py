"""Try a plan on this machine: its first rounds among made-up merchants, to count bytes and measure time.

The merchants have the plan's names, fresh keys and made-up records. They answer by the same code as a
daemon's, one after another, in a folder that is deleted afterwards: nothing is filed, and nobody is asked.
"""

from __future__ import annotations

import math
import secrets
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import torch
from flwr.app import Context, Message, RecordDict

from fedrec._internal.files import write_secret
from fedrec.clients import training_set
from fedrec.clients.assembly import merchant_randomness, open_context
from fedrec.clients.client_app import build_client_app
from fedrec.clients.context import LocalResources
from fedrec.clients.merchant import Merchant
from fedrec.clients.merchant_home import MerchantHome
from fedrec.clients.plan_resources import build_model
from fedrec.clients.policy import MerchantPolicy
from fedrec.clients.records import TrainingData
from fedrec.errors import TrainingError
from fedrec.flower import set_task_identity
from fedrec.observability.quiet_loggers import errors_only
from fedrec.privacy.accounting.code_hash import code_name
from fedrec.privacy.accounting.count_release import COUNT_SIGMA
from fedrec.privacy.accounting.entry_contents import Count
from fedrec.privacy.aggregation.seats import seat_order
from fedrec.privacy.derived_parameters import derive
from fedrec.privacy.identity import SigningIdentity
from fedrec.protocol.plan import Peer, TrainingPlan
from fedrec.protocol.transport import content_bytes
from fedrec.server.planning import Task
from fedrec.server.server_home import ServerHome
from fedrec.server.session import RoundOutcome, Session
from fedrec.server.training_file import write_plan
from fedrec.server.trainings import Training
from fedrec.simulations.forecast import estimated_bytes, measured_step
from fedrec.simulations.virtual_grid import RUN_ID, VirtualGrid, node_context

MOST_MERCHANTS: Final = 40
MOST_PARAMETERS: Final = 50_000_000
"""A trial makes the uploads of all merchants on one machine: of no more merchants, and parameters in all."""
_OPEN_PARAMETERS: Final = 20_000_000
"""Up to so many parameters in all, merchants stay in memory as daemons do."""
_ROUNDS: Final = 2
"""The first opens with what follows from the join alone; the second is like all others."""
_MEASURED_RECORDS: Final = 128

Moved = dict[tuple[str, str, int], int]
"""Bytes by kind of message, group and merchant."""


@dataclass(frozen=True)
class Trial:
    """What a round costs each party, on this machine.

    Attributes:
        counted: whether the bytes were counted; otherwise they are estimated.
        up: bytes that a merchant sends in a round.
        down: bytes that it receives.
        member_up: bytes that a member of the committee sends beside these.
        member_down: bytes that it receives beside these.
        once_up: bytes that a merchant sends at the join and at the end.
        once_down: bytes that it receives then.
        seconds_step: how long the largest merchant computes for its upload.
        seconds_answer: how long a member computes for its answer.
        seconds_server: how long the server computes.
    """

    counted: bool
    up: float
    down: float
    member_up: float
    member_down: float
    once_up: float
    once_down: float
    seconds_step: float
    seconds_answer: float
    seconds_server: float

    @property
    def seconds_round(self) -> float:
        """How long a round takes where each merchant has a machine like this one, without the network."""
        return self.seconds_step + self.seconds_answer + self.seconds_server


def cost_of_rounds(plan: TrainingPlan, task: Task) -> Trial:
    """Return what a round costs: by a trial, or by an estimate where that would take long.

    Args:
        plan: the plan.
        task: what is learnt.

    Returns:
        The cost.
    """
    few = plan.cohort <= MOST_MERCHANTS and plan.cohort * plan.dimension <= MOST_PARAMETERS
    # Witnesses are no merchants, and answer by other code.
    return try_plan(plan, task) if few and not plan.witnesses else _estimated(plan, task)


def _estimated(plan: TrainingPlan, task: Task) -> Trial:
    derived = derive(plan)
    moved = estimated_bytes(plan, derived)
    fixed, each = measured_step(plan, task, derived, device=torch.device("cpu"))
    records = plan.sample_rate * plan.records_largest
    return Trial(
        counted=False,
        up=moved.up,
        down=moved.down,
        member_up=moved.member_up,
        member_down=moved.member_down,
        once_up=0.0,
        once_down=float(len(plan.canonical_bytes())),
        seconds_step=fixed + each * records * plan.local_steps,
        seconds_answer=0.0,
        seconds_server=0.0,
    )


@dataclass
class _Meter:
    """What the messages of a trial moved, and how long each merchant computed."""

    down: Moved = field(default_factory=lambda: defaultdict(int))
    up: Moved = field(default_factory=lambda: defaultdict(int))
    seconds: dict[tuple[str, str, int], float] = field(default_factory=dict)


class _InlineGrid(VirtualGrid):
    """Answers every message at once in this process, and notes what it moved."""

    def __init__(self, merchants: Sequence[_Party], meter: _Meter) -> None:
        super().__init__(merchants=len(merchants), dropouts=None)
        self._parties, self._meter = merchants, meter

    def submit(self, message: Message, index: int) -> Future[Message]:
        """Have a merchant answer a message.

        Args:
            message: the request.
            index: index of the merchant.

        Returns:
            The reply, which has come.
        """
        key = (message.metadata.message_type, message.metadata.group_id, index)
        self._meter.down[key] += content_bytes(message.content)
        set_task_identity(run_id=RUN_ID, node_id=message.metadata.dst_node_id)
        began = time.perf_counter()
        reply = self._parties[index].answer(message)
        self._meter.seconds[key] = time.perf_counter() - began
        if reply.has_content():
            self._meter.up[key] += content_bytes(reply.content)
        future: Future[Message] = Future()
        future.set_result(reply)
        return future

    def close(self) -> None:
        """Close the merchants' files."""
        for party in self._parties:
            party.close()


@dataclass
class _Party:
    """A made-up merchant: its folder, its records, and how it answers."""

    index: int
    home: MerchantHome
    name: str
    server_key: str
    policy: MerchantPolicy
    data: TrainingData
    task: Task
    stays: bool
    _open: Merchant | None = None

    def answer(self, message: Message) -> Message:
        merchant = self._merchant()
        reply = build_client_app(lambda context: merchant)(message, node_context(self.index))
        if not self.stays:
            self.close()
        return reply

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None

    def _merchant(self) -> Merchant:
        if self._open is None:
            self._open = Merchant(
                open_context(
                    self.home,
                    name=self.name,
                    server_key=self.server_key,
                    policy=self.policy,
                    resources=LocalResources(
                        data_for=lambda plan: self.data,
                        build_model=lambda plan: build_model(plan, self.task.spec),
                        randomness_for=lambda plan, number: merchant_randomness(None, self.name, number),
                        device=torch.device("cpu"),
                    ),
                )
            )
        return self._open


def try_plan(plan: TrainingPlan, task: Task) -> Trial:
    """Run the first rounds of a plan among made-up merchants.

    Args:
        plan: the plan, without witnesses.
        task: what is learnt.

    Returns:
        What was counted and measured.

    Raises:
        TrainingError: not one round was opened.
    """
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory(prefix="fedrec-trial-") as scratch:
        try:
            # All merchants but one have no record, and would warn that they send noise alone.
            with errors_only([training_set.__name__]):
                return _tried(plan, task, Path(scratch))
        finally:
            torch.set_num_threads(threads)


def _tried(plan: TrainingPlan, task: Task, scratch: Path) -> Trial:
    identities = {peer.name: SigningIdentity.generate() for peer in plan.roster}
    server = SigningIdentity.generate()
    own = _with_keys(plan, identities, server_key=server.public.hex())
    home = ServerHome(scratch / "server")
    home.folder.mkdir()
    write_secret(home.identity_file, server.private_bytes())
    training = Training(scratch / "0001")
    training.folder.mkdir()
    write_plan(
        training, own, seed=task.seed, start=task.start, start_from=None if task.start is None else "1"
    )
    code = () if plan.model_code is None else (plan.model_code,)
    policy = MerchantPolicy.without_limits(modes={plan.mode}, schemes={plan.scheme}, model_code=code)
    largest = min(plan.records_largest, math.ceil(_MEASURED_RECORDS / plan.sample_rate))
    parties = [
        _Party(
            index=index,
            home=MerchantHome.create_keys_and_ledger(
                scratch / "merchants" / f"{index:04d}", identity=identity, count=_count(plan), policy=policy
            ),
            name=name,
            server_key=own.server_key,
            policy=policy,
            data=_records(plan, task, count=largest if index == 0 else 0),
            task=task,
            stays=plan.cohort * plan.dimension <= _OPEN_PARAMETERS,
        )
        for index, (name, identity) in enumerate(identities.items())
    ]
    meter = _Meter()
    grid = _InlineGrid(parties, meter)
    lines: list[RoundOutcome] = []

    def stop(outcome: RoundOutcome) -> None:
        lines.append(outcome)
        if len(lines) == _ROUNDS:
            outcome.stop()

    try:
        session = Session(home=home, training=training, model=task.starting_model(), callbacks=(stop,))
        names = dict(zip(grid.get_node_ids(), identities, strict=True))
        context = Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config={})
        session.run(session.runner(grid, names=lambda: names), context)
    finally:
        grid.close()
    records = [outcome.line for outcome in lines]
    if not records or not records[-1].opened:
        reason = "there was no round" if not records else records[-1].reason
        raise TrainingError(f"the trial of this plan on this machine opened no sum: {reason}")
    scale = plan.records_largest / largest
    return _measured(own, meter, group=str(records[-1].round), seconds=records[-1].seconds, scale=scale)


def _with_keys(
    plan: TrainingPlan, identities: dict[str, SigningIdentity], *, server_key: str
) -> TrainingPlan:
    """Return the same plan under the keys of the trial, which decide who sits on the committee."""
    roster = tuple(Peer(name=name, signing_key=key.public.hex()) for name, key in identities.items())
    changed = {
        "server_key": server_key,
        "nonce": secrets.token_hex(16),
        "roster": roster,
        "committee": seat_order(roster)[: len(plan.committee)],
        "upload_window": None,
    }
    return TrainingPlan.model_validate(plan.model_dump() | changed)


def _count(plan: TrainingPlan) -> Count:
    return Count(
        number=1,
        unit=plan.unit,
        size=plan.records_largest,
        sigma=COUNT_SIGMA,
        delta=plan.delta,
        code=code_name(),
        policy_hash="0" * 64,
        seeded=False,
    )


def _records(plan: TrainingPlan, task: Task, *, count: int) -> TrainingData:
    """Make up records: all are one picture, which takes the memory of one."""
    shape = task.spec.record_shape(plan.channels, plan.image_size)
    picture = torch.linspace(0, 1, math.prod(shape)).reshape(1, 1, *shape)
    digests = tuple(index.to_bytes(32, "big") for index in range(count))
    return TrainingData(
        inputs=picture.expand(count, plan.views, *shape),
        labels=torch.zeros(count, dtype=torch.int64),
        digests=digests,
        held=digests,
    )


def _measured(plan: TrainingPlan, meter: _Meter, *, group: str, seconds: float, scale: float) -> Trial:
    """Sum up one round, by the parties' parts in it.

    Args:
        plan: the trial's plan.
        meter: what was noted.
        group: Flower's group id of the round.
        seconds: how long the whole round took.
        scale: the records of the largest merchant over those that were measured.

    Returns:
        The trial.
    """
    cohort = range(plan.cohort)
    train = {index: meter.seconds["train", group, index] for index in cohort}
    answers = [
        time for (kind, at, _), time in meter.seconds.items() if kind == "query.unmask" and at == group
    ]
    # All others compute without records: noise and encryption.
    noise = statistics.median([time for index, time in train.items() if index] or [0.0])
    step = noise + max(0.0, train[0] - noise) * scale
    return Trial(
        counted=True,
        up=_each(meter.up, "train", group, plan.cohort),
        down=_each(meter.down, "train", group, plan.cohort),
        member_up=_each(meter.up, "query.unmask", group, len(answers)),
        member_down=_each(meter.down, "query.unmask", group, len(answers)),
        once_up=_each(meter.up, "query.join", "join", plan.cohort)
        + _each(meter.up, "query.close", "close", plan.cohort),
        once_down=_each(meter.down, "query.join", "join", plan.cohort)
        + _each(meter.down, "query.close", "close", plan.cohort),
        seconds_step=step,
        seconds_answer=max(answers, default=0.0),
        seconds_server=max(0.0, seconds - sum(train.values()) - sum(answers)),
    )


def _each(moved: Moved, kind: str, group: str, parties: int) -> float:
    """Return the bytes of one kind of message in a group, on average over those that take part."""
    total = sum(count for (found, at, _), count in moved.items() if (found, at) == (kind, group))
    return total / parties if parties else 0.0
