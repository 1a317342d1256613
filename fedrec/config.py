"""Options of a training and of a simulation: one schema for flags, the TOML file, and the resolved copy."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fedrec._internal.suggestions import did_you_mean
from fedrec._internal.toml_files import read_toml
from fedrec._internal.validation_messages import first_problem
from fedrec.errors import ConfigError
from fedrec.protocol import modes
from fedrec.protocol.modes import Mode
from fedrec.protocol.plan import (
    MAX_CLIP,
    MAX_LEARNING_RATE,
    MIN_CLIP,
    Clipping,
    LossName,
    Method,
    Target,
    Unit,
)
from fedrec.protocol.schema import MAX_COMMITTEE, MAX_PEERS

if TYPE_CHECKING:
    from fedrec.vision.dataset_registry import DatasetSpec

DEFAULT_EPSILON = 8.0
DEFAULT_SCHEME = "kahe"
_ASKED, _DERIVED = "simulate", "derived"
_PATHS = ("data", "data_root", "eval_data")
_SOURCE = frozenset({"data", "dataset", "data_root", "partition"})
_COHORT = _SOURCE | {"merchants"}
_SEATS = _COHORT | {"witnesses", "corrupt_witnesses", "secure_aggregation", "colluders"}
_MODEL = frozenset({"model", "method"})
_STEPS = _MODEL | {"optimizer", "privacy", "local_steps"}
_BUDGET = _COHORT | {"epsilon", "delta", "unit", "site_figures"}
_FOLLOWS: Mapping[str, frozenset[str]] = {
    "merchants": _SOURCE,
    "rounds": _MODEL | _BUDGET | {"sample_rate"},
    "learning_rate": _STEPS | _BUDGET | {"rounds", "sample_rate", "clip"},
    "optimizer": _STEPS - {"optimizer"},
    "server_learning_rate": _STEPS,
    "averaging": _MODEL,
    "sample_rate": _MODEL | _BUDGET | {"rounds"},
    "clip": _MODEL,
    "epsilon": frozenset({"privacy"}),
    "delta": _COHORT | {"privacy", "unit", "eval_data"},
    "colluders": _COHORT,
    "min_contributors": _COHORT | {"drop", "crash", "colluders"},
    "committee": _SEATS | {"corrupt_members"},
    "corrupt_members": _SEATS | {"committee", "threshold"},
    "corrupt_witnesses": frozenset({"witnesses", "secure_aggregation"}),
    "threshold": _SEATS | {"committee", "corrupt_members"},
}
"""Options that can be derived, and the options that each follows from."""
AUGMENTED_VIEWS = 4
MOST_LOST_ROUNDS = 5
"""Lost rounds, beyond one in eleven, after which a deployed training stops: each is charged."""
PATIENCE = 2.5
"""Default length of a phase, in multiples of the median time until most merchants had replied."""


class DataOptions(BaseModel):
    """Options of a simulation that choose the photos and their merchants."""

    heading: ClassVar[str] = "Photos and merchants"
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    data: Path | None = Field(
        default=None, description="Class folders, or merchant folders with class folders; or a CSV file."
    )
    names_encoding: str | None = Field(default=None, description="Encoding of names not in UTF-8 (found).")
    dataset: str = Field(
        default="synthetic", description="synthetic (default), fashion-mnist or cifar10, or an installed one."
    )
    data_root: Path | None = Field(default=None, description="Where the named data set is kept.")
    eval_data: Path | None = Field(default=None, description="Public photos to evaluate on instead.")
    merchants: Annotated[int, Field(ge=1, le=MAX_PEERS)] | None = Field(
        default=None, description="Virtual merchants (8, or the folders there are)."
    )
    partition: str = Field(default="iid", description="iid, dirichlet:ALPHA, classes:K or folder.")


class LearningOptions(BaseModel):
    """What is learnt, and by which steps; None leaves the choice to the model."""

    heading: ClassVar[str] = "Model and steps"
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model: str = Field(
        default="cnn",
        description="A model by name (docs/models.md lists them); best takes the best packaged one.",
    )
    method: Method = Field(
        default="steps", description="steps (default), or one-round: a discriminant from one upload each."
    )
    unit: Unit = Field(
        default="record", description="What is hidden: record (default), or product, a folder in a class."
    )
    rounds: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        default=None, description="Rounds (the model's default)."
    )
    patience: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        default=None, description="End after so many rounds without a better model on evaluation data."
    )
    target: Target = Field(
        default="accuracy", description="What --patience compares: accuracy (default) or macro-f1."
    )
    learning_rate: Annotated[float, Field(gt=0, le=MAX_LEARNING_RATE)] | None = Field(
        default=None, description="Step size (the model's default)."
    )
    optimizer: str | None = Field(
        default=None, description="sgd (default), adam, adamw or yogi, and settings: sgd:momentum=0.9,..."
    )
    schedule: str = Field(
        default="constant",
        description="constant (default), cosine, linear or step, and settings: cosine:warmup=5,...",
    )
    server_learning_rate: Annotated[float, Field(gt=0, le=MAX_LEARNING_RATE)] | None = Field(
        default=None, description="Step size of the server, where merchants take their own (1)."
    )
    averaging: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        default=None, description="Decay of the parameters' moving average (the model's); 0 for none."
    )
    weight_decay: Annotated[float, Field(ge=0, le=1e6)] = Field(
        default=0.0, description="Share of the parameters that a step of learning rate 1 takes away (L2)."
    )
    l1: Annotated[float, Field(ge=0, le=1e6)] = Field(
        default=0.0, description="What such a step takes from each parameter's size, down to zero (L1)."
    )
    loss: LossName = Field(
        default="cross-entropy", description="cross-entropy (default), or hinge: a support vector machine."
    )
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="Share of a label that is spread over all classes."
    )
    class_prior: str | None = Field(
        default=None,
        description="Public shares of the classes, CLASS=WEIGHT,...: the loss is adjusted for them.",
    )
    local_steps: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=1, description="Noised steps a round, with --privacy local or off."
    )
    augment: bool = Field(default=False, description="Average augmented views of a record.")

    @model_validator(mode="before")
    @classmethod
    def _one_round_has_a_model(cls, values: Any) -> Any:
        """Take the best model for the method ``one-round``: the default is trained by steps."""
        if isinstance(values, Mapping) and values.get("method") == "one-round":
            return {"model": "best", **values}
        return values

    @model_validator(mode="after")
    def _target_has_patience(self) -> Self:
        if self.patience is None and self.target != type(self).model_fields["target"].default:
            raise ValueError("--target says what --patience compares: give that too")
        return self


class TrainingOptions(LearningOptions):
    """Options of any training, simulated or deployed; None leaves the choice to the model or the cohort."""

    heading: ClassVar[str] = "Privacy and encryption"
    privacy: Mode = Field(default=modes.DISTRIBUTED.name, description="distributed (default), local or off.")
    epsilon: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="Privacy budget of the run (8)."
    )
    delta: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None, description="1 / (10 x all records), and 1e-5 at most, unless given."
    )
    sample_rate: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, description="Poisson sampling rate of a round."
    )
    site_figures: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None, description="Share of epsilon for figures on merchants' own data by class (none)."
    )
    clip: Annotated[float, Field(ge=MIN_CLIP, le=MAX_CLIP)] | None = Field(
        default=None, description="Largest L2 norm of one record's gradient."
    )
    clipping: Clipping = Field(
        default="fixed", description="fixed (default), or automatic (AUTO-S): every norm is brought to C."
    )
    secure_aggregation: str = Field(default=DEFAULT_SCHEME, description="kahe (default), ckks or none.")
    committee: Annotated[int, Field(ge=1, le=MAX_COMMITTEE)] | None = Field(
        default=None, description="Merchants and witnesses that hold key shares."
    )
    threshold: Annotated[int, Field(ge=1, le=MAX_COMMITTEE)] | None = Field(
        default=None, description="Committee members needed to open a sum."
    )
    corrupt_members: Annotated[int, Field(ge=1, le=MAX_COMMITTEE)] | None = Field(
        default=None, description="Committee members, at most, that are withstood if corrupt."
    )
    corrupt_witnesses: Annotated[int, Field(ge=1, le=MAX_COMMITTEE)] | None = Field(
        default=None, description="Witnesses among them (half of all, at least 1)."
    )
    min_contributors: Annotated[int, Field(ge=1, le=MAX_PEERS)] | None = Field(
        default=None, description="Fewest merchants in an opened sum."
    )
    colluders: Annotated[int, Field(ge=0, le=MAX_PEERS)] | None = Field(
        default=None, description="Merchants assumed to side with the server (5%, at least 1)."
    )
    drop: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="Chance that a merchant drops out of a round."
    )

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        mode = modes.get(self.privacy)
        if self.local_steps > 1 and not mode.several_steps:
            raise ValueError(
                f"--local-steps above 1 needs --privacy local or off: '{mode.name}' takes one step a round"
            )
        if not mode.private and (self.epsilon is not None or self.delta is not None):
            raise ValueError(f"--epsilon and --delta have no meaning with --privacy {mode.name}")
        if mode.shares_noise and self.colluders == 0:
            raise ValueError(
                f"--colluders must be at least 1 in '{mode.name}' mode: a member knows its own noise"
            )
        if self.server_learning_rate is not None and not self.sends_moves:
            raise ValueError(
                "--server-learning-rate needs --privacy local, or --local-steps above 1: the server takes "
                "its steps of --learning-rate where merchants take none of their own"
            )
        return self

    @property
    def sends_moves(self) -> bool:
        """Whether merchants take local steps of their own; the same as :attr:`TrainingPlan.sends_moves`."""
        return modes.get(self.privacy).sends_moves or self.local_steps > 1

    @property
    def planned_dropouts(self) -> Fraction:
        """The expected share of a cohort whose uploads are missing in a round, at most 1."""
        return _exact(self.drop)


class SimulationConfig(TrainingOptions, DataOptions):
    """Every option of ``fedrec simulate``; None leaves the choice to the model, the data or the cohort."""

    heading: ClassVar[str] = "This run"
    witnesses: Annotated[int, Field(ge=0, le=MAX_COMMITTEE)] = Field(
        default=0, description="Committee members without photos, beside the merchants."
    )
    crash: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="Chance that a merchant crashes in its step of a round."
    )
    engine: Literal["local", "ray"] = Field(default="local", description="local (default) or ray.")
    workers: Annotated[int, Field(ge=1, le=256)] | None = Field(
        default=None, description="Worker processes (one per core)."
    )
    device: str = Field(default="auto", description="auto (default), cpu or cuda[:i].")
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] | None = Field(
        default=None, description="Make the run repeatable; its noise is then no secret."
    )
    out: Path | None = Field(default=None, description="Run directory (runs/TIME).")

    @model_validator(mode="after")
    def _combine(self) -> Self:
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise ValueError(f"--device '{self.device}' is unknown: give auto, cpu or cuda[:i]")
        if self.data is not None and "dataset" in self.model_fields_set:
            raise ValueError("--data and --dataset both name the photos: give one of them")
        root = _dataset(self.dataset).root
        if root == "unused" and self.data_root is not None:
            raise ValueError(
                "--data-root is where --dataset fashion-mnist or cifar10 is kept: name the data set too"
            )
        if self.data is None and root == "required" and self.data_root is None:
            raise ValueError(f"--dataset {self.dataset} needs --data-root, the folder it is kept in")
        return self

    @property
    def planned_dropouts(self) -> Fraction:
        """The expected share of the cohort that drops out or crashes in a round, at most 1."""
        return min(_exact(self.drop) + _exact(self.crash), Fraction(1))

    def to_toml(self, *, derived: Mapping[str, Any]) -> str:
        """Return a TOML text that ``--config`` reads from any folder, with the set and the derived options.

        Derived values stand in a table of their own: flags that change what a value follows from replace it.
        ``out`` is left out, since a second run needs a folder of its own.

        Args:
            derived: values of the options that were not set, as model, data and cohort determined them.

        Returns:
            The text.
        """
        left_out = {"out"} if self.data is None else {"out", "dataset"}
        values = self.model_dump(mode="json", exclude_none=True, exclude=left_out)
        paths: dict[str, Path | None] = {name: getattr(self, name) for name in _PATHS}
        values |= {name: str(path.absolute()) for name, path in paths.items() if path is not None}
        return tomli_w.dumps({_ASKED: values, _DERIVED: dict(derived)})


def _dataset(name: str) -> DatasetSpec:
    """Look a data set up; ``ConfigError`` for an unknown one."""
    # Imported here: commands that read no photos need none of the imaging libraries.
    from fedrec.vision.dataset_registry import REGISTRY

    return REGISTRY.get(name)


def _exact(share: float) -> Fraction:
    """Return the decimal that the user wrote: 0.07 of 100 is 7, not the 7.000000000000001 of floats."""
    return Fraction(repr(share))


def load_config(path: Path | None, flags: Mapping[str, Any]) -> SimulationConfig:
    """Read a TOML file (table ``[simulate]``), if given, and override it with the flags that were set.

    A run's own file also has a table ``[derived]``, for options that nobody set, unless a flag changes what
    they follow from. A flag also removes the options of ``[simulate]`` that have no meaning beside it.

    Args:
        path: the TOML file; None for flags alone.
        flags: options by name; None for those that were not set.

    Returns:
        The checked options.

    Raises:
        ConfigError: the file can't be read, or an option is wrong; one line names the option.
    """
    values, derived = dict[str, Any](), dict[str, Any]()
    if path is not None:
        values, derived = _tables(read_toml(path), path)
    overrides = {name: value for name, value in flags.items() if value is not None}
    for name in _meaningless(overrides, scheme=values.get("secure_aggregation", DEFAULT_SCHEME)):
        values.pop(name, None)
        derived.pop(name, None)
    for name, value in derived.items():
        if not overrides.keys() & _FOLLOWS[name]:
            values.setdefault(name, value)
    try:
        return SimulationConfig.model_validate(values | overrides)
    except ValidationError as error:
        raise ConfigError(_first_line(error, path, overrides)) from None


def _meaningless(flags: Mapping[str, Any], *, scheme: Any) -> set[str]:
    """Return the options of a file that have no meaning beside these flags.

    Options of the committee go when ``scheme``, the file's, is replaced: they were chosen for it.
    """
    found: set[str] = set()
    if "data" in flags:
        found |= {"dataset", "data_root"}
    if "dataset" in flags:
        found |= {"data"} | ({"data_root"} if _dataset(flags["dataset"]).root == "unused" else set())
    mode = modes.find(flags.get("privacy"))
    if mode is not None and not mode.private:
        found |= {"epsilon", "delta"}
    if mode is not None and not mode.several_steps:
        found |= {"local_steps", "server_learning_rate"}
    if flags.get("secure_aggregation", scheme) != scheme:
        found |= {"committee", "threshold", "corrupt_members"}
    return found - flags.keys()


def _tables(tables: dict[str, Any], path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the tables of options and of derived values; ``ConfigError`` for anything beside them."""
    # A key outside the tables, such as a privacy budget, would be ignored silently.
    stray = sorted(set(tables) - {_ASKED, _DERIVED})
    asked, derived = tables.get(_ASKED, {}), tables.get(_DERIVED, {})
    if stray or not isinstance(asked, dict):
        what = f"holds '{stray[0]}'" if stray else f"sets '{_ASKED}' to a value"
        raise ConfigError(f"{path} {what}: all options stand below the line [{_ASKED}]")
    if not isinstance(derived, dict) or not set(derived) <= set(_FOLLOWS):
        told = f"has a table [{_DERIVED}] that no run wrote: options stand below the line [{_ASKED}]"
        raise ConfigError(f"{path} {told}")
    return dict(asked), dict(derived)


def _first_line(error: ValidationError, path: Path | None, flags: Mapping[str, Any]) -> str:
    """Describe the first wrong option, and name the file if the option stands there."""
    problem = first_problem(error)
    if not problem.where:
        return problem.text
    name = problem.where[0]
    if problem.kind == "extra_forbidden":
        hint = did_you_mean(name, SimulationConfig.model_fields)
        return f"{path or 'the configuration'} sets '{name}', which is not an option of fedrec simulate{hint}"
    where = "" if path is None or name in flags else f"{path}: "
    return f"{where}--{name.replace('_', '-')} {problem.value!r} {problem.text}"
