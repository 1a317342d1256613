"""Run the training that an empirical audit attacks: canaries at one merchant, the product everywhere else."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from flwr.app import Context, Message, RecordDict
from numpy.typing import NDArray

from fedrec._internal.files import write_secret
from fedrec.clients.assembly import open_context
from fedrec.clients.client_app import build_client_app
from fedrec.clients.context import LocalResources
from fedrec.clients.merchant import Merchant
from fedrec.clients.merchant_home import MerchantHome
from fedrec.clients.noise_layers import add_kept_layers
from fedrec.clients.noised_count import draw_count
from fedrec.clients.policy import MerchantPolicy
from fedrec.config import DEFAULT_SCHEME, TrainingOptions
from fedrec.errors import AuditError, ConfigError
from fedrec.flower import set_task_identity
from fedrec.privacy.derived_parameters import derive
from fedrec.privacy.dp.step import DpSgdSettings, contribute
from fedrec.privacy.identity import SigningIdentity
from fedrec.privacy.randomness import Randomness
from fedrec.protocol.plan import Peer, TrainingPlan
from fedrec.server.optimizers.interface import State, Vector
from fedrec.server.planning import Enrolled, Task, plan_training
from fedrec.server.server_home import ServerHome
from fedrec.server.session import Session
from fedrec.server.training_file import write_plan
from fedrec.server.trainings import Training
from fedrec.server.weights import Weights
from fedrec.simulations.attacks.canary_model import CanaryModel, canary_data, canary_task
from fedrec.simulations.virtual_grid import VirtualGrid

FEWEST_CANARIES, MOST_CANARIES = 100, 20_000
"""One-hot records take 2 * canaries^2 bytes, so that the maximum takes 0.8 GB."""

RandomnessFor = Callable[[str, TrainingPlan, int], Randomness]
"""Returns the randomness of a merchant, by name, for a round of a plan."""


@dataclass(frozen=True)
class AuditOptions:
    """The audited training and the audit.

    Attributes:
        epsilon: what the training claims.
        delta: of the claim.
        canaries: how many there are.
        rounds: of the training, one step each.
        sample_rate: of the training.
        contributors: the size of the cohort, all of which are in every sum.
        min_contributors: the fewest merchants that a sum may hold; None for all. Where it is less than all,
            merchants add more noise than the sums need, and layers of it are removed.
        colluders: how many of them side with the server.
        scheme: the aggregation scheme.
        confidence: of the lower bounds.
    """

    epsilon: float = 8.0
    delta: float = 1e-5
    canaries: int = 10_000
    rounds: int = 2
    sample_rate: float = 1.0
    contributors: int = 3
    min_contributors: int | None = None
    colluders: int = 1
    scheme: str = DEFAULT_SCHEME
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if not FEWEST_CANARIES <= self.canaries <= MOST_CANARIES:
            raise ConfigError(f"--canaries {self.canaries} is outside {FEWEST_CANARIES} to {MOST_CANARIES}")
        if not 0.5 < self.confidence < 1.0:
            raise ConfigError(f"--confidence {self.confidence} is outside (0.5, 1)")


@dataclass
class _Recorder:
    """A server optimizer that keeps the opened means, and doesn't change the model."""

    seen: list[Vector] = field(default_factory=list)

    def step(self, parameters: Vector, gradient: Vector) -> None:
        """Keep one opened mean, shape (d,)."""
        self.seen.append(gradient)

    def state(self) -> State:
        """Return nothing: no step depends on the opened means."""
        return {}

    def load(self, state: State) -> None:
        """Do nothing."""


class _InlineGrid(VirtualGrid):
    """A grid whose merchants answer in this process."""

    def __init__(self, merchants: list[Merchant]) -> None:
        super().__init__(merchants=len(merchants), dropouts=None)
        by_node = dict(zip(self.get_node_ids(), merchants, strict=True))
        self._app = build_client_app(lambda context: by_node[context.node_id])

    def submit(self, message: Message, index: int) -> Future[Message]:
        """Answer at once."""
        node = message.metadata.dst_node_id
        set_task_identity(run_id=1, node_id=node)
        context = Context(run_id=1, node_id=node, node_config={}, state=RecordDict(), run_config={})
        answered: Future[Message] = Future()
        answered.set_result(self._app(message, context))
        return answered

    def close(self) -> None:
        """Do nothing: no process runs."""


@dataclass(frozen=True)
class AuditedTraining:
    """A training with canaries, as its auditor sees it.

    Attributes:
        plan: its plan.
        opened: the opened sum of each round, int64 (d,).
        colluded: the colluders' part of each of them, which the auditor knows.
    """

    plan: TrainingPlan
    opened: tuple[NDArray[np.int64], ...]
    colluded: tuple[NDArray[np.int64], ...]


def train_with_canaries(
    options: AuditOptions, coins: NDArray[np.bool_], folder: Path, *, randomness_for: RandomnessFor
) -> AuditedTraining:
    """Run a whole training, in which the first merchant holds canaries and the last ones collude.

    Args:
        options: the training and the audit.
        coins: bool (canaries,), which canaries the merchant holds.
        folder: an empty folder for the server and the merchants; their ledgers stay there.
        randomness_for: returns the honest merchants' randomness.

    Returns:
        The training.

    Raises:
        ConfigError: the options don't make a training.
        AuditError: a round was not opened, so that nothing can be concluded.
    """
    names = [f"merchant-{index:02d}" for index in range(options.contributors)]
    identities = {name: SigningIdentity.generate() for name in names}
    training, home = Training(folder), ServerHome(folder / "server")
    home.folder.mkdir()
    server = SigningIdentity.generate()
    write_secret(home.identity_file, server.private_bytes())
    task = canary_task(options.canaries)
    plan = _plan(options, task, identities, server_key=server.public.hex())
    write_plan(training, plan, seed=task.seed)
    seeds = {
        name: int.from_bytes(Randomness.from_os().bytes(7), "big") for name in names[-options.colluders :]
    }

    def chance(name: str, plan: TrainingPlan, round_number: int) -> Randomness:
        if name in seeds:
            return Randomness.seeded(seeds[name], "colluder", round_number)
        return randomness_for(name, plan, round_number)

    held = {name: np.flatnonzero(coins) if name == names[0] else np.zeros(0, np.int64) for name in names}
    merchants = [
        _merchant(
            folder / name,
            options,
            plan,
            identity=identities[name],
            held=held[name],
            randomness_for=partial(chance, name),
        )
        for name in names
    ]
    recorder = _Recorder()
    weights = Weights.start(np.zeros(plan.dimension), recorder, averaging=0.0)
    session = Session(home=home, training=training, model=task.model(), weights=weights)
    try:
        grid = _InlineGrid(merchants)
        nodes = dict(zip(grid.get_node_ids(), names, strict=True))
        session.runner(grid, names=lambda: nodes).run()
    finally:
        for merchant in merchants:
            merchant.close()
    lost = [line.reason for line in session.lines if not line.opened]
    if lost:
        raise AuditError(f"a round of the audit was not opened, so nothing can be concluded: {lost[0]}")
    back = plan.sample_rate * plan.records_total / derive(plan).unit
    return AuditedTraining(
        plan=plan,
        opened=tuple(np.rint(mean * back).astype(np.int64) for mean in recorder.seen),
        colluded=tuple(
            _colluded(options, plan, seeds, round_number) for round_number in range(1, plan.rounds + 1)
        ),
    )


def _merchant(
    folder: Path,
    options: AuditOptions,
    plan: TrainingPlan,
    *,
    identity: SigningIdentity,
    held: NDArray[np.int64],
    randomness_for: Callable[[TrainingPlan, int], Randomness],
) -> Merchant:
    """Make a merchant, named as its folder, that holds these canaries."""
    # No limit on lost rounds: the model doesn't change here, so that every round looks lost.
    policy = MerchantPolicy.without_limits(modes={plan.mode}, schemes={options.scheme})
    count = draw_count(
        options.canaries,
        unit=plan.unit,
        delta=plan.delta,
        policy_hash=policy.hash,
        rng=Randomness.from_os(),
    )
    resources = LocalResources(
        data_for=partial(canary_data, canaries=options.canaries, chosen=held),
        build_model=lambda plan: canary_task(options.canaries).model(),
        randomness_for=randomness_for,
        device=torch.device("cpu"),
    )
    home = MerchantHome.create_keys_and_ledger(folder, identity=identity, count=count, policy=policy)
    return Merchant(
        open_context(home, name=folder.name, server_key=plan.server_key, policy=policy, resources=resources)
    )


def _plan(
    options: AuditOptions, task: Task, identities: dict[str, SigningIdentity], *, server_key: str
) -> TrainingPlan:
    asked = TrainingOptions(
        epsilon=options.epsilon,
        delta=options.delta,
        rounds=options.rounds,
        sample_rate=options.sample_rate,
        colluders=options.colluders,
        min_contributors=options.min_contributors or options.contributors,
        secure_aggregation=options.scheme,
    )
    roster = tuple(Peer(name=name, signing_key=key.public.hex()) for name, key in identities.items())
    return plan_training(asked, task, Enrolled(server_key, roster, (options.canaries,) * len(roster))).plan


def _colluded(
    options: AuditOptions, plan: TrainingPlan, seeds: dict[str, int], round_number: int
) -> NDArray[np.int64]:
    """Add up what the colluders sent in a round, which they know, without the layers that are removed."""
    model, data = (
        CanaryModel(options.canaries),
        canary_data(plan, canaries=options.canaries, chosen=np.zeros(0, dtype=np.int64)),
    )
    noise = derive(plan).noise
    total = np.zeros(plan.dimension, dtype=np.int64)
    for seed in seeds.values():
        rng = Randomness.seeded(seed, "colluder", round_number)
        total += contribute(
            model,
            data.inputs,
            data.labels,
            settings=DpSgdSettings(clip=plan.clip, sample_rate=plan.sample_rate),
            plan=noise,
            rng=rng,
        )
        add_kept_layers(total, noise=noise, contributors=plan.cohort, rng=rng)
    return total
