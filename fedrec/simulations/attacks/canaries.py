"""Audit the shipped code empirically in one run: canaries with separate gradients, through real rounds.

One merchant holds the canaries. Each is a record whose gradient, before clipping, lies along an axis of its
own and is ten times too long. Everything else is the product as it is: the merchants' code samples, clips,
rounds, adds noise, charges its ledger and encrypts, and the coordinator opens the sum. Beyond what the server
sees, the auditor knows what the threat model grants: the colluders' own noise, which it subtracts.
"""

from __future__ import annotations

import math
import tempfile
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
from fedrec.privacy.accounting.ledger_entries import charges
from fedrec.privacy.accounting.ledger_reader import read_entries
from fedrec.privacy.derived_parameters import derive
from fedrec.privacy.dp.step import DpSgdSettings, contribute
from fedrec.privacy.identity import SigningIdentity, verify
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
from fedrec.simulations.attacks.one_run_bounds import bound_gaussian, bound_steinke, lower_bound
from fedrec.simulations.virtual_grid import VirtualGrid

SCHEMA = "fedrec.empirical/1"
FEWEST_CANARIES, MOST_CANARIES = 100, 20_000
"""One-hot records take 2 * canaries^2 bytes, so that the maximum takes 0.8 GB."""
_SAME_CLAIM = 1e-3
_DEVIATIONS = 6.0
"""Largest shared part of two rounds' noise, in standard deviations for independent rounds."""

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


@dataclass(frozen=True)
class AuditResult:
    """What an audit found.

    Attributes:
        options: what was audited.
        noise_multiplier: of the training.
        epsilon_claimed: the largest epsilon that the merchants' ledgers state for the run.
        bound_steinke: lower bound on epsilon, for any mechanism.
        bound_gaussian: lower bound on epsilon, for Gaussian mechanisms; None with sampling, where the
            trade-off functions aren't Gaussian.
        bound_possible: the bound that only right guesses would have given; no claim above it can be refuted.
        shared_noise: the largest part of the noise that any two rounds have in common, about 0 if none; None
            for a single round.
        violations: what contradicts the claim, a line each.
    """

    options: AuditOptions
    noise_multiplier: float
    epsilon_claimed: float
    bound_steinke: float
    bound_gaussian: float | None
    bound_possible: float
    shared_noise: float | None
    violations: tuple[str, ...]

    @property
    def epsilon_lower_bound(self) -> float:
        """The larger of the two bounds."""
        return max(self.bound_steinke, self.bound_gaussian or 0.0)


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


def audit(
    options: AuditOptions,
    *,
    randomness_for: RandomnessFor = lambda name, plan, round_number: Randomness.from_os(),
) -> AuditResult:
    """Run the audit.

    Args:
        options: what is audited.
        randomness_for: returns the honest merchants' randomness; a daemon's by default. The coins that
            include canaries are always drawn from the operating system.

    Returns:
        The bounds, and what contradicts the claim.

    Raises:
        ConfigError: the options don't make a training.
        AuditError: a round was not opened, so that nothing can be concluded.
    """
    coins = Randomness.from_os().uniform(options.canaries) < 0.5
    with tempfile.TemporaryDirectory(prefix="fedrec-audit-") as scratch:
        plan, opened, own = _train(options, coins, Path(scratch), randomness_for=randomness_for)
        claims = _claims(plan, Path(scratch))
    derived = derive(plan)
    noise = derived.noise
    unit = noise.clip / noise.scale
    remains = [(values - colluded) * unit for values, colluded in zip(opened, own, strict=True)]
    # A canary with label 0 moves its first coordinate down and its second up, by C / sqrt 2 each: their
    # difference shows the canary, and their sum is noise alone.
    halves = [(total[: options.canaries], total[options.canaries :]) for total in remains]
    views = [(up - down) / math.sqrt(2.0) for down, up in halves]
    shared = _shared([up + down for down, up in halves])
    scores = np.sum(views, axis=0)
    known = coins.astype(np.float64)
    error = 1.0 - options.confidence
    steinke = lower_bound(scores, coins, delta=options.delta, error=error, bound=bound_steinke)
    gaussian = None
    possible = lower_bound(known, coins, delta=options.delta, error=error, bound=bound_steinke)
    if options.sample_rate == 1.0:
        gaussian = lower_bound(scores, coins, delta=options.delta, error=error, bound=bound_gaussian)
        possible = lower_bound(known, coins, delta=options.delta, error=error, bound=bound_gaussian)
    claimed = max(claims)
    planned = derived.spend.epsilon()
    violations = []
    if any(not math.isclose(claim, planned, rel_tol=_SAME_CLAIM) for claim in claims):
        violations.append(
            f"the ledgers claim an epsilon of {min(claims):.4g} to {claimed:.4g}, the plan's is {planned:.4g}"
        )
    # Both bounds grow with the same number of right guesses, so the larger fails no more often than either.
    best = max(steinke, gaussian or 0.0)
    if best > claimed:
        violations.append(
            f"epsilon is at least {best:.2f} with {options.confidence:.0%} confidence, "
            f"{claimed:.2f} was claimed"
        )
    if shared is not None and shared > _DEVIATIONS / math.sqrt(options.canaries):
        violations.append(
            f"two rounds share {shared:.0%} of their noise: the difference of their sums has less "
            "noise than it must"
        )
    return AuditResult(
        options=options,
        noise_multiplier=noise.noise_multiplier,
        epsilon_claimed=claimed,
        bound_steinke=steinke,
        bound_gaussian=gaussian,
        bound_possible=possible,
        shared_noise=shared,
        violations=tuple(violations),
    )


def _claims(plan: TrainingPlan, folder: Path) -> list[float]:
    """Return the epsilon that each ledger's last charge states for its training; infinite without one."""
    claims = []
    for peer in plan.roster:
        outcome, entries = read_entries(
            MerchantHome(folder / peer.name).ledger, public=bytes.fromhex(peer.signing_key), verify=verify
        )
        charged = charges(entries)
        if not outcome.ok or len(charged) != plan.rounds:
            raise AuditError(f"the ledger of {peer.name} doesn't hold the audited training: {outcome.reason}")
        claimed = charged[-1].epsilons.own_epsilon
        claims.append(math.inf if claimed is None else claimed)
    return claims


def _shared(noises: list[Vector]) -> float | None:
    """Return the largest part of the noise that any two rounds have in common; shape (m,) each.

    That part is 1 - Var(a - b) / (Var(a) + Var(b)). It is 1 / h if one of h equal shares is the same in both
    rounds, and 0 with a standard deviation of 1 / sqrt(m) if all are independent, whatever the scale of the
    noise.

    Returns:
        The part, or None for fewer than two rounds.
    """
    if len(noises) < 2:
        return None
    covariance = np.cov(np.stack(noises))
    variances = np.diag(covariance)
    parts = 2.0 * covariance / (variances[:, None] + variances[None, :])
    return float(np.max(parts[np.triu_indices(len(noises), k=1)]))


def _train(
    options: AuditOptions, coins: NDArray[np.bool_], folder: Path, *, randomness_for: RandomnessFor
) -> tuple[TrainingPlan, list[NDArray[np.int64]], list[NDArray[np.int64]]]:
    """Run a whole training; return its plan, the opened sums, and the colluders' part of each sum."""
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

    # No limit on lost rounds: the model doesn't change here, so that every round looks lost.
    policy = MerchantPolicy.without_limits(modes={plan.mode}, schemes={options.scheme})
    merchants = []
    for name in names:
        count = draw_count(
            options.canaries,
            unit=plan.unit,
            delta=plan.delta,
            policy_hash=policy.hash,
            rng=Randomness.from_os(),
        )
        chosen = np.flatnonzero(coins) if name == names[0] else np.zeros(0, dtype=np.int64)
        resources = LocalResources(
            data_for=partial(canary_data, canaries=options.canaries, chosen=chosen),
            build_model=lambda plan: task.model(),
            randomness_for=partial(chance, name),
            device=torch.device("cpu"),
        )
        own = MerchantHome.create_keys_and_ledger(
            folder / name, identity=identities[name], count=count, policy=policy
        )
        context = open_context(own, name=name, server_key=plan.server_key, policy=policy, resources=resources)
        merchants.append(Merchant(context))
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
    lost = [line.record.reason for line in session.lines if not line.record.opened]
    if lost:
        raise AuditError(f"a round of the audit was not opened, so nothing can be concluded: {lost[0]}")
    derived = derive(plan)
    back = plan.sample_rate * plan.records_total / derived.unit
    opened = [np.rint(mean * back).astype(np.int64) for mean in recorder.seen]
    known = [_colluded(options, plan, seeds, round_number) for round_number in range(1, plan.rounds + 1)]
    return plan, opened, known


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
