"""``fedrec.simulate``: a whole federated training on this machine, from objects or from names and paths."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Unpack

from torch import nn

from fedrec.api.results import Callback, Progress, Result, Round
from fedrec.api.simulation_options import SimulationOptions
from fedrec.api.trained_model import as_trained_model
from fedrec.api.user_data import Labelled, Merchants, read_data
from fedrec.api.user_model import user_model_spec
from fedrec.config import load_config
from fedrec.errors import ConfigError
from fedrec.observability.progress import Stage
from fedrec.server.session import RoundCallback, RoundOutcome
from fedrec.server.trainings import Training
from fedrec.simulations import harness
from fedrec.simulations.run_setup import Materials
from fedrec.vision import model_registry
from fedrec.vision.dataset_registry import GIVEN
from fedrec.vision.model_spec import ModelSpec


def simulate(
    model: str | Callable[[], nn.Module] | None = None,
    merchants: int | Merchants | None = None,
    *,
    test: Labelled | None = None,
    classes: Sequence[str] | None = None,
    callbacks: Sequence[Callback] = (),
    **options: Unpack[SimulationOptions],
) -> Result:
    """Train a model with simulated merchants: real noise, real encryption, real ledgers.

    Works from a plain script and from a notebook; models and data sets may be defined there. A model of your
    own is sent to worker processes of this machine by cloudpickle, and nowhere else; the report names it by
    a hash of its code.

    Args:
        model: a model's name, or a factory of your own: it takes nothing and returns a ``torch.nn.Module``
            that maps pictures (n, channels, size, size), float32 from -1 to 1, to scores (n, classes). It is
            refused at the start if it mixes the records of a batch or can't be clipped record by record.
        merchants: number of merchants that share the data named by the options; or the photos of each, in
            order or by name: ``(pictures, labels)`` as arrays, a map-style data set, or a folder with a
            folder per class.
        test: photos to measure on, in the same forms, where merchants' are given; without them, a share of
            every merchant's photos is held out of the training.
        classes: names of the labels 0, 1, ..., where they are numbers.
        callbacks: called after every round; each may record, evaluate the current model, or stop.
        options: every option of ``fedrec simulate``, by the same name.

    Returns:
        Metrics, rounds, and the run's folder.

    Raises:
        ConfigError: an option or the model is wrong or doesn't fit the others; the message is one line.
        DataError: photos can't be read, or don't fit.
        FedrecError: anything else that stops the run.
    """
    flags: dict[str, object] = dict(options)
    tell = _show if flags.pop("progress", False) else _ignore
    factory = model if callable(model) else None
    spec = None if factory is None else user_model_spec(factory)
    if spec is None:
        flags["model"] = model
    data = None
    if isinstance(merchants, int) or merchants is None:
        if test is not None or classes is not None:
            raise ConfigError("test and classes go with merchants' own photos; eval_data names a folder")
        flags["merchants"] = merchants
    else:
        _check_alone(flags)
        data = read_data(merchants, test=test, classes=classes)
    materials = Materials(model=spec, data=data)
    watchers = [_watcher(callback, spec) for callback in callbacks]
    given = {name: value for name, value in flags.items() if value is not None}
    if "resume" in given:
        folder = Path(str(given.pop("resume")))
        _check_same(folder, spec)
        done = harness.resume(folder, changed=given, tell=tell, callbacks=watchers, materials=materials)
    else:
        config = given.pop("config", None)
        given |= {} if spec is None else {"model": spec.name}
        given |= {} if data is None else {"dataset": GIVEN.name, "partition": "folder"}
        made = load_config(None if config is None else Path(str(config)), given)
        done = harness.simulate(made, tell=tell, callbacks=watchers, materials=materials)
    rounds = tuple(Round.of(line) for line in done.report.rounds)
    return Result(folder=done.folder, report=done.report, rounds=rounds, factory=factory)


def _check_alone(options: Mapping[str, object]) -> None:
    """Raise ``ConfigError`` for an option that names data, where data is given as objects."""
    named = sorted(
        options.keys() & {"data", "names_encoding", "dataset", "data_root", "partition", "eval_data"}
    )
    if named:
        raise ConfigError(f"{named[0]} has no meaning where merchants' own photos are given")


def _check_same(folder: Path, spec: ModelSpec | None) -> None:
    """Raise ``ConfigError`` where the run to resume was begun with another model of the user's own."""
    if spec is not None and (name := Training(folder).plan().model) != spec.name:
        raise ConfigError(f"resume: {folder} was begun with the model {name}; the one given is {spec.name}")


def _watcher(callback: Callback, spec: ModelSpec | None) -> RoundCallback:
    """Convert a callback of the API into one of the server's session."""

    def watch(outcome: RoundOutcome) -> None:
        plan = outcome.plan
        found = model_registry.get(plan.model) if spec is None else spec
        callback(
            Progress(
                round=Round.of(outcome.line),
                rounds=plan.rounds,
                model=as_trained_model(outcome.model, plan, found),
                stop=outcome.stop,
            )
        )

    return watch


def _ignore(stage: Stage) -> None:
    """Show no progress."""


def _show(stage: Stage) -> None:
    """Write a stage's line, if it has one, on stderr."""
    if stage.plain:
        sys.stderr.write(f"{stage.plain}\n")
