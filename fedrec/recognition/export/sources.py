"""What a bundle is made from: a finished run or training, or a backbone alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import nn

from fedrec._internal.files import read_regular
from fedrec._internal.text import one_line
from fedrec._internal.validation_messages import problem_text
from fedrec.errors import ConfigError
from fedrec.protocol.plan import TrainingPlan
from fedrec.recognition.bundle.manifest import Measured, Privacy, Training
from fedrec.vision import model_registry
from fedrec.vision.model_inputs import InputShape
from fedrec.vision.model_spec import ModelSpec
from fedrec.vision.splits import EVALUATION_SPLIT, VALIDATION_SPLIT
from fedrec.vision.stored_parameters import load_network

REPORT = "report.json"
_LONGEST_WARNING = 1000


@dataclass(frozen=True)
class Source:
    """A model, and what is known of it.

    Attributes:
        spec: the model.
        shape: shape of its pictures.
        network: the trained network; None for a backbone alone.
        code: hash of the model's code where it isn't this package's own.
        classes: names, in the order of the scores; empty for a backbone alone.
        training: where it comes from.
        privacy: the guarantee.
        measured: figures of the training's report.
        warnings: of the training's report.
    """

    spec: ModelSpec
    shape: InputShape
    network: nn.Module | None
    code: str | None = None
    classes: tuple[str, ...] = ()
    training: Training | None = None
    privacy: Privacy | None = None
    measured: tuple[Measured, ...] = ()
    warnings: tuple[str, ...] = ()


def trained_source(folder: Path, *, spec: ModelSpec | None = None) -> Source:
    """Read a finished run, or a finished training of the server.

    Args:
        folder: the run directory, or the training's folder on the server.
        spec: the model, where it is the user's own; None to look it up.

    Returns:
        The source.

    Raises:
        ConfigError: the folder holds no finished training, or its model isn't here as it was trained.
    """
    try:
        plan = TrainingPlan.model_validate_json(read_regular(folder / "plan.json"))
        report = json.loads(read_regular(folder / REPORT))
    except OSError as error:
        raise ConfigError(
            f"{folder} holds no finished training: {error.filename or folder}: {error.strerror}"
        ) from None
    except ValidationError as error:
        raise ConfigError(f"{folder}/plan.json is no plan: {problem_text(error)}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{folder}/{REPORT} is damaged: {one_line(error)}") from None
    made = spec or model_registry.get_exact(plan.model, plan.model_code)
    shape = InputShape(plan.channels, plan.image_size)
    network = load_network(made, folder, classes=len(plan.classes), shape=shape)
    try:
        return Source(
            spec=made,
            shape=shape,
            network=network,
            code=plan.model_code,
            classes=plan.classes,
            training=_training(plan, report),
            privacy=_privacy(report),
            measured=_measured(report, chosen=plan.early_stopping is not None),
            warnings=tuple(one_line(text, most=_LONGEST_WARNING) for text in report["warnings"]),
        )
    # A report of another version lacks fields or has others in their place.
    except (KeyError, TypeError, ValidationError) as error:
        raise ConfigError(f"{folder}/{REPORT} is no report of this version: {problem_text(error)}") from None


def backbone_source(model: str) -> Source:
    """Return the frozen networks of a model, without any training.

    Args:
        model: name of a model on frozen networks.

    Returns:
        The source.

    Raises:
        ConfigError: there is no such model, or it has no frozen networks.
        MissingExtraError: a package that it needs isn't installed.
    """
    spec = model_registry.get(model)
    if spec.features is None or spec.image_size is None:
        raise ConfigError(f"model {model} has no frozen networks: it can't be used without a training")
    spec.check()
    return Source(
        spec=spec,
        shape=InputShape(3, spec.image_size),
        network=None,
        code=model_registry.code_of(model),
    )


def _training(plan: TrainingPlan, report: Mapping[str, Any]) -> Training:
    run = report["run"]
    return Training(
        training_id=plan.training_id,
        run=run["id"],
        deployed=run.get("dataset") is None,
        rounds=sum(1 for line in report["rounds"] if line["opened"]),
        merchants=len(plan.roster),
        records=plan.records_total,
    )


def _privacy(report: Mapping[str, Any]) -> Privacy:
    told = report["privacy"]
    private = told["epsilon"] is not None
    return Privacy(
        mode=told["mode"],
        unit=told["unit"],
        scheme=report["secure_aggregation"]["scheme"],
        epsilon=told["epsilon"],
        epsilon_aggregation_broken=told["epsilon_aggregation_broken"],
        delta=told["delta"] if private else None,
        seeded=bool(told["seeded"]),
    )


def _measured(report: Mapping[str, Any], *, chosen: bool) -> tuple[Measured, ...]:
    told = report["metrics"]
    if told["accuracy"] is None:
        return ()
    public = told["split"] == EVALUATION_SPLIT
    photos = (
        "public photos of the operator (--eval-data)"
        if public
        else f"the {told['split']} split of the simulation's photos, of which no gradient was taken"
    )
    if chosen and told["split"] in (EVALUATION_SPLIT, VALIDATION_SPLIT):
        photos += "; the best round was chosen by them, so that the figure is too high"
    interval = told.get("accuracy_interval")
    return (
        Measured(
            name="accuracy",
            value=told["accuracy"],
            interval=None if interval is None else (interval[0], interval[1]),
            photos=photos,
            covered=None if public else False,
        ),
        Measured(name="macro F1", value=told["f1_macro"], photos=photos, covered=None if public else False),
    )
