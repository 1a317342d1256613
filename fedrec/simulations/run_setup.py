"""Set up a run before its first round: data, merchants' homes, plan, evaluation."""

from __future__ import annotations

import itertools
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from flwr.serverapp import Grid

from fedrec._internal.files import write_atomically, write_secret
from fedrec._internal.look_alikes import look_alikes
from fedrec.clients.merchant_home import MerchantHome
from fedrec.clients.noised_count import count_randomness, draw_count
from fedrec.clients.policy import MerchantPolicy
from fedrec.clients.witness.home import WitnessHome
from fedrec.clients.witness.policy import WitnessPolicy
from fedrec.config import SimulationConfig, load_config
from fedrec.errors import ConfigError
from fedrec.observability.progress import Stage, Tell
from fedrec.privacy.accounting.entry_contents import Count
from fedrec.privacy.dp.model_check import check_foreign_model
from fedrec.privacy.identity import SigningIdentity
from fedrec.protocol.plan import TrainingPlan
from fedrec.server.planning import Enrolled, Task, plan_training
from fedrec.server.server_home import ServerHome
from fedrec.server.session import Session
from fedrec.server.settled_options import LARGEST_DEFAULT_DELTA
from fedrec.server.training_file import write_plan
from fedrec.server.trainings import Training
from fedrec.simulations.data_sources import DataReader, Source, open_source, with_encoding
from fedrec.simulations.engines import ENGINES
from fedrec.simulations.injected_faults import Crashes
from fedrec.simulations.merchants import SimulatedMerchants, SimulatedWitnesses
from fedrec.simulations.option_checks import check_classes, check_options, derived_options, make_roster
from fedrec.simulations.run_folder import check_run_folder, make_run_folder, run_name, was_begun
from fedrec.simulations.simulation_report import write_own_reports
from fedrec.vision import model_registry
from fedrec.vision.devices import pick_device
from fedrec.vision.model_choice import chosen_model
from fedrec.vision.model_inputs import input_shape
from fedrec.vision.model_spec import ModelSpec
from fedrec.vision.splits import DataSplits


@dataclass(frozen=True)
class Materials:
    """A model or data that are given as objects; what is None is found by the options.

    Attributes:
        model: the model, under the name that the options have for it.
        data: the splits; with ``--partition folder`` their records name their merchants.
        reader: loads data that the options name, and may have it from an earlier run.
    """

    model: ModelSpec | None = None
    data: DataSplits | None = None
    reader: DataReader | None = None

    def spec(self, name: str) -> ModelSpec:
        """Return the model of a run, by name unless it was given as an object."""
        return model_registry.get(name) if self.model is None else self.model


BY_NAME = Materials()
"""Nothing is given as an object."""


@dataclass(frozen=True)
class SimulationRun:
    """A run that is ready for its first or next round: a training, and the homes in its folder.

    Attributes:
        config: the options.
        training: the run directory.
        home: the server's folder in it.
        task: what is learnt.
        plan: the training's plan.
        source: the data.
        device: where models are trained and evaluated.
    """

    config: SimulationConfig
    training: Training
    home: ServerHome
    task: Task
    plan: TrainingPlan
    source: Source
    device: torch.device

    @property
    def folder(self) -> Path:
        """The run directory."""
        return self.training.folder

    @property
    def homes(self) -> Path:
        """The folder that holds a folder per merchant."""
        return self.folder / "merchants"

    @property
    def witness_homes(self) -> Path:
        """The folder that holds a folder per witness."""
        return self.folder / "witnesses"

    @property
    def party_names(self) -> tuple[str, ...]:
        """The names of the merchants and then of the witnesses with a seat, in the order of node ids."""
        return (
            *(share.name for share in self.source.shares),
            *(witness.name for witness in self.plan.seated_witnesses),
        )

    def session(self) -> Session:
        """Return the server's session, at the initial weights or where the last session ended."""
        return Session(home=self.home, training=self.training, model=self.task.model().to(self.device))


def prepare(config: SimulationConfig, *, tell: Tell, materials: Materials = BY_NAME) -> SimulationRun:
    """Load the data, make the run directory and the merchants' homes, and write the plan.

    Options that can be checked without the data are checked first.

    Args:
        config: the options.
        tell: called with the progress.
        materials: the model or the data, if given as objects.

    Returns:
        The run, ready for its first round.

    Raises:
        FedrecError: one clear line on anything wrong with the options or the data.
    """
    # Which model is the best depends on the pictures; each of them needs the same packages.
    spec = materials.spec(chosen_model(config.model, method=config.method))
    device = pick_device(config.device)
    check_options(config, spec)
    check_run_folder(config.out)
    ENGINES[config.engine].check()
    config = with_encoding(config)
    source = _read_data(config, materials, tell=tell)
    _check_validation(config, source)
    seed = config.seed or 0
    spec = materials.spec(chosen_model(config.model, source.splits.train, method=config.method))
    task = Task(spec, source.classes, input_shape(source.splits.train, spec), seed)
    if materials.model is not None:
        shape = (task.shape.channels, task.shape.size, task.shape.size)
        check_foreign_model(lambda seed: replace(task, seed=seed).model(), shape, classes=len(task.classes))
    identities = {share.name: SigningIdentity.generate() for share in source.shares}
    witnesses = make_witnesses(config.witnesses, taken=identities)
    server = SigningIdentity.generate()
    counts = _draw_counts(config, source)
    tell(Stage("planning", 0, 1))
    planned = plan_training(
        config,
        task,
        Enrolled(
            server_key=server.public.hex(),
            roster=make_roster(identities),
            sizes=tuple(count.size for count in counts.values()),
            witnesses=make_roster(witnesses),
        ),
    )
    if planned.note is not None:
        tell(Stage("checking the model", 1, 1, plain=planned.note))
    plan = planned.plan
    tell(Stage("planning", 1, 1))
    # The folder is made only after all checks, so that the same --out can be given again after an error.
    run_id = run_name()
    training = Training(make_run_folder(config.out, run_id))
    options = config.to_toml(derived=derived_options(config, plan, planned.settings, solved=spec.solved))
    write_atomically(training.folder / "config.toml", options.encode())
    run = SimulationRun(config, training, _server_home(training), task, plan, source, device)
    run.home.folder.mkdir()
    write_secret(run.home.identity_file, server.private_bytes())
    write_atomically(run.folder / "policy.json", merchant_policy(config).rules.encode())
    run.homes.mkdir()
    for made, (name, identity) in enumerate(identities.items()):
        tell(Stage("merchants' folders", made, len(identities)))
        count = replace(counts[name], delta=plan.delta)
        MerchantHome.create_keys_and_ledger(
            run.homes / name, identity=identity, count=count, policy=merchant_policy(config)
        )
    for name, identity in witnesses.items():
        WitnessHome.create_key(run.witness_homes / name, identity=identity)
    tell(Stage("merchants' folders", len(identities), len(identities)))
    write_own_reports(source, run.homes)
    # The plan holds the declared sizes, which are charged first. The status comes last: a run without it was
    # never begun.
    write_plan(training, plan, seed=seed, run_id=run_id)
    return run


def reopen(
    folder: Path, config: SimulationConfig, *, tell: Tell, materials: Materials = BY_NAME
) -> SimulationRun:
    """Open a run that was stopped, in order to continue it; nothing is drawn or charged anew.

    Args:
        folder: the run directory.
        config: the run's options; see :func:`read_options`.
        tell: called with the progress.
        materials: the same objects that the run was begun with.

    Returns:
        The run, as its files describe it.

    Raises:
        ConfigError: it is no run directory, was never begun, is finished, or its data has other merchants or
            classes now.
        DataError: the data can't be read.
    """
    training = Training(folder)
    status, _ = training.status()
    if status == "done":
        raise ConfigError(f"--resume {folder}: that run is finished; its report is {folder / 'report.html'}")
    plan = training.plan()
    spec = materials.spec(plan.model)
    ENGINES[config.engine].check()
    source = _read_data(config, materials, tell=tell)
    if source.classes != plan.classes:
        raise ConfigError(f"--resume {folder}: the data has other classes than when the run was begun")
    if [share.name for share in source.shares] != [peer.name for peer in plan.roster]:
        raise ConfigError(f"--resume {folder}: the data has other merchants than when the run was begun")
    task = Task.of_plan(plan, spec, seed=training.initial_seed())
    device = pick_device(config.device)
    return SimulationRun(config, training, _server_home(training), task, plan, source, device)


def check_changed(changed: Mapping[str, object]) -> None:
    """Raise ``ConfigError`` for an option that a run which goes on can't change."""
    other = sorted(changed.keys() - {"workers", "device"})
    if other:
        raise ConfigError(
            f"--resume goes on with the run's own options: leave out --{other[0].replace('_', '-')}"
        )


def read_options(folder: Path, changed: Mapping[str, object]) -> SimulationConfig:
    """Return the options of a run, with new values for how it is carried out.

    Args:
        folder: the run directory.
        changed: new values of ``workers`` or ``device``.

    Returns:
        The options.

    Raises:
        ConfigError: there is no such folder, it holds no run that was begun, or other options are changed.
    """
    check_changed(changed)
    if not folder.is_dir():
        raise ConfigError(f"--resume {folder}: there is no such folder; name the run's, such as runs/TIME")
    if not was_begun(folder):
        raise ConfigError(
            f"--resume {folder} holds no run that was begun: its first round never came; start it again"
        )
    return load_config(folder / "config.toml", changed)


def _server_home(training: Training) -> ServerHome:
    return ServerHome(training.folder / "server")


def _read_data(config: SimulationConfig, materials: Materials, *, tell: Tell) -> Source:
    tell(Stage("reading the data", 0, 1))
    source = open_source(config, given=materials.data, reader=materials.reader)
    tell(Stage("reading the data", 1, 1))
    ENGINES[config.engine].warm_up()
    check_classes(source.classes)
    return source


def _check_validation(config: SimulationConfig, source: Source) -> None:
    """Raise ``ConfigError`` where rounds are to be compared, and there is nothing to measure them on."""
    if config.patience is not None and source.splits.validation is None:
        raise ConfigError(
            "--patience compares models on a validation split, and no record fell into that: give more "
            "photos, or a folder validation beside train"
        )


def _draw_counts(config: SimulationConfig, source: Source) -> dict[str, Count]:
    """Draw the noised number of units that each merchant declares, from the seed if there is one."""
    return {
        share.name: draw_count(
            len(share.indices),
            unit=config.unit,
            delta=LARGEST_DEFAULT_DELTA,
            policy_hash=merchant_policy(config).hash,
            rng=count_randomness(config.seed, share.name),
        )
        for share in source.shares
    }


def simulated_merchants(run: SimulationRun, *, arrays: Path) -> SimulatedMerchants:
    """Return the recipe by which workers make the merchants.

    Args:
        run: the run.
        arrays: folder of the merchants' inputs.

    Returns:
        The recipe.
    """
    config = run.config
    return SimulatedMerchants(
        homes=run.homes.resolve(),
        arrays=arrays,
        names=tuple(share.name for share in run.source.shares),
        server_key=run.plan.server_key,
        policy=merchant_policy(config),
        model=run.task.spec,
        device=str(run.device),
        seed=config.seed,
        keep_open=ENGINES[config.engine].keeps_merchants,
        crashes=Crashes(config.crash, config.seed or 0) if config.crash else None,
        witnesses=SimulatedWitnesses(
            homes=run.witness_homes.resolve(),
            names=tuple(witness.name for witness in run.plan.seated_witnesses),
            policy=WitnessPolicy.without_limits(modes={config.privacy}),
        ),
    )


def make_witnesses(count: int, *, taken: Collection[str]) -> dict[str, SigningIdentity]:
    """Make the identities of the simulated witnesses.

    Args:
        count: how many.
        taken: the merchants' names; no witness may have one that is, or looks, the same.

    Returns:
        The identities, by name.
    """
    free = (
        name
        for number in itertools.count(1)
        for name in (f"witness-{number}",)
        if name not in taken and not any(name in alike for alike in look_alikes([name, *taken]))
    )
    return {name: SigningIdentity.generate() for name in itertools.islice(free, count)}


def node_names(run: SimulationRun, grid: Grid) -> dict[int, str]:
    """Return which merchant or witness is at which node.

    Args:
        run: the run.
        grid: a grid whose nodes are the merchants in their order, and then the witnesses.

    Returns:
        Names, by node id.
    """
    return dict(zip(grid.get_node_ids(), run.party_names, strict=True))


def merchant_policy(config: SimulationConfig) -> MerchantPolicy:
    """Return the rules of every simulated merchant: what the options ask for, without cap or limit."""
    code = model_registry.code_of(config.model)
    return MerchantPolicy.without_limits(
        modes={config.privacy},
        schemes={config.secure_aggregation},
        model_code=() if code is None else (code,),
    )


def worker_count(config: SimulationConfig, *, merchants: int) -> int:
    """Return how many worker processes to use: the number in the options, or else one per core.

    Args:
        config: the options.
        merchants: size of the cohort; more workers are never used.

    Returns:
        The number.
    """
    return min(config.workers or os.cpu_count() or 1, merchants)
