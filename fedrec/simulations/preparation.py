"""Everything of a run that is settled before its first round: data, merchants' homes, plan, evaluation."""

from __future__ import annotations

import os
import secrets
import tempfile
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from flwr.serverapp import Grid
from numpy.typing import NDArray
from torch import nn

from fedrec._internal.files import write_atomically, write_secret
from fedrec.clients.counting import count_chance, draw_count
from fedrec.clients.policy import MerchantPolicy
from fedrec.config import SimulationConfig
from fedrec.errors import ConfigError
from fedrec.flower import require_ray
from fedrec.observability.progress import Stage, Tell
from fedrec.privacy.accounting.kinds import Count
from fedrec.privacy.derive import Derived, derive
from fedrec.privacy.dp.vectors import parameter_vector
from fedrec.privacy.identity import SigningIdentity
from fedrec.protocol.plan import TrainingPlan
from fedrec.server.evaluation import EvaluationData
from fedrec.server.optimizers.registry import start_weights
from fedrec.server.planning import LARGEST_DEFAULT_DELTA, check_model_size, make_plan, settle
from fedrec.server.requests import RequestSigner
from fedrec.server.trainings import Settings
from fedrec.server.weights import Weights
from fedrec.simulations.faults import Crashes
from fedrec.simulations.merchants import SimulatedMerchants, create_home
from fedrec.simulations.planning import check_classes, check_options, derived_options, make_roster
from fedrec.simulations.report import write_own_reports
from fedrec.simulations.sources import Source, open_source, write_arrays
from fedrec.vision.devices import pick_device
from fedrec.vision.imageset import ImageSet
from fedrec.vision.inputs import input_shape, model_inputs, to_inputs
from fedrec.vision.models import registry

VALIDATION_RECORDS = 500
"""The accuracy of each round is measured on at most this many validation records."""


@dataclass(frozen=True)
class Prepared:
    """A run that is ready for its first round."""

    run_id: str
    folder: Path
    homes: Path
    server: SigningIdentity
    device: torch.device
    source: Source
    settings: Settings
    plan: TrainingPlan
    derived: Derived
    model: nn.Module
    initial: NDArray[np.float64]

    def start_weights(self) -> Weights:
        """Return the server's global model at the initial parameters."""
        return start_weights(self.plan.server_update, self.initial)


@dataclass(frozen=True)
class Inputs:
    """Model inputs: the merchants' in a folder of arrays, and what the server evaluates on.

    ``validation`` is None where no record fell into it.
    """

    arrays: Path
    metrics: EvaluationData
    validation: EvaluationData | None


def prepare(config: SimulationConfig, *, tell: Tell) -> Prepared:
    """Load the data, make the run directory and the merchants' homes, and write the plan.

    Raises a ``FedrecError`` with one clear line for anything that the options or the data get wrong;
    options that can be judged without the data are judged first.
    """
    spec = registry.get(config.model)
    device = pick_device(config.device)
    check_options(config, spec)
    check_run_folder(config.out)
    if config.engine == "ray":
        require_ray()
    tell(Stage("reading the data", 0, 1))
    source = open_source(config)
    tell(Stage("reading the data", 1, 1))
    check_classes(source.classes)
    settings = settle(config, spec, merchants=len(source.shares))
    shape = input_shape(source.splits.train, spec)
    check_model_size(spec, classes=len(source.classes), shape=shape)
    model = spec.build(
        classes=len(source.classes), channels=shape.channels, size=shape.size, seed=config.seed or 0
    ).to(device)
    # The model travels as float32: the server starts from what the merchants will read.
    initial = parameter_vector(model).astype(np.float32).astype(np.float64)
    run_id = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ") + "-" + secrets.token_hex(3)
    identities = {share.name: SigningIdentity.generate() for share in source.shares}
    server = SigningIdentity.generate()
    counts = _draw_counts(config, source)
    plan = make_plan(
        config,
        settings,
        server_key=server.public.hex(),
        roster=make_roster(identities),
        sizes=[count.size for count in counts.values()],
        classes=source.classes,
        spec=spec,
        shape=shape,
        initial=initial,
    )
    derived = derive(plan)
    # Nothing is left behind by options that don't work, so that --out can be given again.
    folder = make_run_folder(config.out, run_id)
    options = config.to_toml(derived=derived_options(config, plan, settings))
    write_atomically(folder / "config.toml", options.encode())
    (folder / "server").mkdir()
    write_secret(folder / "server" / "identity.key", server.private_bytes())
    write_atomically(folder / "policy.json", merchant_policy(config).rules.encode())
    homes = folder / "merchants"
    homes.mkdir()
    for name, identity in identities.items():
        create_home(homes / name, identity=identity, count=replace(counts[name], delta=plan.delta))
    # The sizes are in it: they are charged first.
    write_atomically(folder / "plan.json", plan.canonical_bytes())
    write_own_reports(source, homes)
    return Prepared(
        run_id=run_id,
        folder=folder,
        homes=homes,
        server=server,
        device=device,
        source=source,
        settings=settings,
        plan=plan,
        derived=derived,
        model=model,
        initial=initial,
    )


def _draw_counts(config: SimulationConfig, source: Source) -> dict[str, Count]:
    """Draw what each merchant declares of its number of units, from the seed if there is one."""
    return {
        share.name: draw_count(
            len(share.indices),
            unit=config.unit,
            delta=LARGEST_DEFAULT_DELTA,
            policy_hash=merchant_policy(config).hash,
            rng=count_chance(config.seed, share.name),
        )
        for share in source.shares
    }


def prepare_inputs(run: Prepared, config: SimulationConfig, *, arrays: Path, tell: Tell) -> Inputs:
    """Turn photos into model inputs, the merchants' written below ``arrays``."""
    spec, splits = registry.get(config.model), run.source.splits
    shape = input_shape(splits.train, spec)

    def features(images: ImageSet, name: str, *, views: int) -> NDArray[np.uint8] | NDArray[np.float32]:
        return model_inputs(
            images,
            spec,
            shape,
            views=views,
            progress=lambda done, total: tell(Stage(name, done, total)),
        )

    def evaluation(images: ImageSet, name: str) -> EvaluationData:
        inputs = to_inputs(features(images, name, views=1), spec.name)
        return EvaluationData(inputs=inputs[:, 0], labels=images.labels)

    train = features(splits.train, "preparing photos", views=run.plan.views)
    for share in run.source.shares:
        mine = splits.train.subset(share.indices)
        write_arrays(
            arrays / share.name,
            train[share.indices],
            mine.labels,
            digests=[record.digest for record in mine.records],
        )
    metrics = evaluation(splits.metrics, "preparing evaluation")
    validation: EvaluationData | None = None
    if splits.validation is splits.metrics:
        validation = metrics
    elif splits.validation is not None:
        validation = evaluation(splits.validation, "preparing validation")
    thinned = None if validation is None else validation.thinned(VALIDATION_RECORDS)
    return Inputs(arrays=arrays, metrics=metrics, validation=thinned)


def scratch_folder() -> Path:
    """Make a private folder (mode 0700) for the merchants' model inputs."""
    return Path(tempfile.mkdtemp(prefix="fedrec-"))


def simulated_merchants(run: Prepared, config: SimulationConfig, *, arrays: Path) -> SimulatedMerchants:
    """Return the recipe by which workers bring the merchants up."""
    return SimulatedMerchants(
        homes=run.homes.resolve(),
        arrays=arrays,
        names=tuple(share.name for share in run.source.shares),
        server_key=run.server.public.hex(),
        policy=merchant_policy(config),
        device=str(run.device),
        seed=config.seed,
        keep_open=config.engine == "local",
        crashes=Crashes(config.crash, config.seed or 0) if config.crash else None,
    )


def request_signer(run: Prepared, grid: Grid) -> RequestSigner:
    """Return the signer of the server's requests, for a grid whose nodes are the merchants in their order."""
    names = dict(zip(grid.get_node_ids(), (share.name for share in run.source.shares), strict=True))
    return RequestSigner(run.folder / "server" / "requests.json", identity=run.server, names=lambda: names)


def merchant_policy(config: SimulationConfig) -> MerchantPolicy:
    """Return the rules of every simulated merchant: what the options ask for, and no cap nor limit."""
    return MerchantPolicy.without_limits(modes={config.privacy}, schemes={config.secure_aggregation})


def worker_count(config: SimulationConfig, *, merchants: int) -> int:
    """Return how many worker processes to use: as many as asked for, else one per core."""
    return min(config.workers or os.cpu_count() or 1, merchants)


def check_run_folder(out: Path | None) -> None:
    """Raise ``ConfigError`` when ``--out`` is no folder, holds something already, or can't be written to."""
    folder = Path("runs") if out is None else out
    try:
        if out is not None and out.exists() and any(out.iterdir()):
            raise ConfigError(f"--out {out} is not empty: choose another folder, nothing is ever overwritten")
        made = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        # Permissions don't tell of disks that are full, or mounted to be read.
        with tempfile.TemporaryFile(dir=made) as probe:
            probe.write(b"0")
            probe.flush()
    except OSError as error:
        raise ConfigError(f"--out {folder} can't be used: {error.strerror}") from None


def make_run_folder(out: Path | None, run_id: str) -> Path:
    """Make the run directory; ``ConfigError`` when it can't be made or holds something already."""
    folder = out if out is not None else Path("runs") / run_id
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ConfigError(f"--out {folder} is not empty: choose another folder, nothing is overwritten")
    except OSError as error:
        raise ConfigError(f"--out {folder} can't be made: {error.strerror}") from None
    return folder
