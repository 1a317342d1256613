"""Check a simulation's options before any data is read, and resolve them once the plan is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import ValidationError

from fedrec._internal.look_alikes import look_alikes, shown
from fedrec._internal.party_names import RULE, name_problem
from fedrec.config import DEFAULT_EPSILON, SimulationConfig
from fedrec.errors import ConfigError, DataError
from fedrec.privacy.accounting.budget_rating import check_budget
from fedrec.privacy.accounting.privacy_spend import delta_left, least_multiplier
from fedrec.privacy.aggregation import scheme_registry as schemes
from fedrec.privacy.dp.calibration import BETA
from fedrec.privacy.identity import SigningIdentity
from fedrec.protocol import modes
from fedrec.protocol.plan import Peer, TrainingPlan, has_control_signs
from fedrec.protocol.schema import MAX_CLASS_NAME, MAX_CLASSES
from fedrec.server.class_prior import settle_objective
from fedrec.server.optimizers.optimizer_registry import write_choice
from fedrec.server.settled_options import LARGEST_DEFAULT_DELTA, check_solved, settle
from fedrec.server.trainings import Settings
from fedrec.simulations.data_sources import DEFAULT_MERCHANTS, chosen_dataset
from fedrec.vision.listing.legacy_text import checked_encoding
from fedrec.vision.listing.photo_places import is_place
from fedrec.vision.model_spec import ModelSpec
from fedrec.vision.partition import parse_partition


def check_options(config: SimulationConfig, spec: ModelSpec) -> None:
    """Check everything that needs no data, before any is read or generated.

    Args:
        config: the options.
        spec: the model.

    Raises:
        ConfigError: the options can't go together.
        UnreachableBudgetError: no noise reaches the budget.
        DataError: ``--eval-data`` is no folder and no CSV file.
        MissingExtraError: the model needs a package that is not installed.
    """
    check_solved(config, spec)
    settle_objective(config, None)
    spec.check()
    if spec.features is not None:
        spec.features.extractors()
    if spec.tokens is not None:
        spec.tokens.extractor()
    by_folder = parse_partition(config.partition).follows_folders
    if not by_folder or chosen_dataset(config)[0].any_cohort:
        settle(
            config,
            spec.defaults,
            merchants=config.merchants or DEFAULT_MERCHANTS,
            witnesses=config.witnesses,
        )
    check_witnesses(config)
    if config.eval_data is not None and not is_place(config.eval_data):
        raise DataError(f"--eval-data {config.eval_data} is no folder of class folders and no CSV file")
    if config.names_encoding is not None:
        checked_encoding(config.names_encoding)
        if config.data is None and config.eval_data is None:
            raise ConfigError("--names-encoding is about the folders of --data or --eval-data: give one")
    if not modes.get(config.privacy).private:
        return
    check_budget(
        epsilon=config.epsilon or DEFAULT_EPSILON,
        delta=LARGEST_DEFAULT_DELTA if config.delta is None else config.delta,
    )
    fewest = spec.fewest_steps(config.rounds)
    if config.delta is None or fewest is None:
        return
    rounds, least_rate = fewest
    steps = rounds * config.local_steps
    if delta_left(delta=config.delta, beta=BETA, steps=steps) > 0:
        # The result is cached by its arguments; the plan mostly needs the same.
        least_multiplier(
            config.epsilon or DEFAULT_EPSILON,
            delta=config.delta,
            sample_rate=config.sample_rate or least_rate,
            steps=steps,
            beta=BETA,
        )


def derived_options(
    config: SimulationConfig, plan: TrainingPlan, settings: Settings, *, solved: bool
) -> dict[str, object]:
    """Return the options that were not set, with the values that model, data and cohort gave them.

    Args:
        config: the options as they were set.
        plan: the training's plan.
        settings: the settled options.
        solved: whether the model is solved from one sum, so that no optimizer takes steps.

    Returns:
        Values, by the option's name.
    """
    found: dict[str, object] = {
        "merchants": plan.cohort,
        "rounds": plan.rounds,
        "sample_rate": plan.sample_rate,
        "clip": plan.clip,
        "min_contributors": plan.min_contributors,
        "colluders": plan.colluders,
    }
    if not solved:
        found |= {
            "learning_rate": settings.learning_rate,
            "optimizer": write_choice(settings.update),
            "averaging": settings.update.averaging,
        }
    if plan.sends_moves and not solved:
        found["server_learning_rate"] = settings.update.learning_rate
    if plan.privacy_mode.private:
        found |= {"epsilon": config.epsilon or DEFAULT_EPSILON, "delta": plan.delta}
    if plan.trust.opened_by == "committee":
        found |= {
            "committee": len(plan.committee),
            "threshold": plan.threshold,
            "corrupt_members": plan.corrupt_members,
        }
    if plan.seated_witnesses:
        found["corrupt_witnesses"] = plan.corrupt_witnesses
    return {name: value for name, value in found.items() if getattr(config, name) is None}


def check_witnesses(config: SimulationConfig) -> None:
    """Raise ``ConfigError`` for witnesses where no committee opens sums."""
    opened_by = schemes.get(config.secure_aggregation).trust.opened_by
    if config.witnesses and opened_by != "committee":
        raise ConfigError(
            f"--witnesses sit on a committee, and --secure-aggregation {config.secure_aggregation} has none"
        )


def check_classes(classes: Sequence[str]) -> None:
    """Raise ``DataError`` if no plan can hold these classes: too many, look-alikes, a long or unseen name."""
    if len(classes) > MAX_CLASSES:
        raise DataError(f"{len(classes)} classes are more than the {MAX_CLASSES} that a model can tell apart")
    for alike in look_alikes(classes):
        raise DataError(
            f"classes {', '.join(map(shown, alike))} look alike, and would be taken for each other: rename "
            "their folders, or put them together"
        )
    unseen = [name for name in classes if has_control_signs(name)]
    if unseen:
        raise DataError(
            f"class folder {shown(unseen[0])} has signs in its name that can't be seen, and end a line or "
            "turn the writing: rename the folder"
        )
    longest = max(classes, key=len)
    if len(longest) > MAX_CLASS_NAME:
        raise DataError(
            f"class folder '{longest[:40]}...' has a name of {len(longest)} characters; at most "
            f"{MAX_CLASS_NAME} can be used: rename the folder"
        )


def make_roster(identities: Mapping[str, SigningIdentity]) -> tuple[Peer, ...]:
    """Return the plan's roster; raise ``DataError`` for folders whose names no plan can hold."""
    peers = []
    for alike in look_alikes(identities):
        raise DataError(f"merchants {', '.join(map(shown, alike))} look alike: rename their folders")
    for name, identity in identities.items():
        try:
            peers.append(Peer(name=name, signing_key=identity.public.hex()))
        except ValidationError:
            raise DataError(
                f"merchant folder {shown(name)} {name_problem(name)}: {RULE}; rename the folder"
            ) from None
    return tuple(peers)
