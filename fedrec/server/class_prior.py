"""Read the public shares of the classes that an operator states, and settle what merchants minimise."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from fedrec._internal.text import listed
from fedrec.config import LearningOptions
from fedrec.errors import ConfigError
from fedrec.privacy.dp.losses import check_objective
from fedrec.protocol.plan import LEAST_CLASS_SHARE, Objective


def read_weights(text: str) -> dict[str, float]:
    """Read ``CLASS=WEIGHT,...``.

    Args:
        text: what the operator wrote; weights are shares, or counts.

    Returns:
        The weights by class.

    Raises:
        ConfigError: a part is no class with a number above 0, or a class stands twice.
    """
    found: dict[str, float] = {}
    for part in text.split(","):
        name, equals, value = part.rpartition("=")
        try:
            weight = float(value)
        except ValueError:
            weight = math.nan
        if not equals or not 0 < weight < math.inf or name in found or re.search(r"=[^=;]*;", name):
            raise ConfigError(
                f"--class-prior: '{part}' is no class with a number above 0 that stands once: write "
                "CLASS=WEIGHT,CLASS=WEIGHT,... with commas between them"
            )
        found[name] = weight
    return found


def class_shares(text: str, classes: Sequence[str]) -> tuple[float, ...]:
    """Return the share of each class.

    Args:
        text: as for :func:`read_weights`.
        classes: the k names of the training's classes.

    Returns:
        k numbers above 0 whose sum is 1.

    Raises:
        ConfigError: the text can't be read, or doesn't name exactly these classes.
    """
    weights = read_weights(text)
    wrong = sorted(weights.keys() ^ set(classes))
    if wrong:
        missing = [name for name in wrong if name in classes]
        said = f"lacks {listed(missing)}" if missing else f"names {listed(wrong)}, which the data has not"
        raise ConfigError(f"--class-prior {said}: give each of the {len(classes)} classes a weight")
    total = math.fsum(weights.values())
    shares = tuple(weights[name] / total for name in classes)
    if min(shares) < LEAST_CLASS_SHARE:
        raise ConfigError(f"--class-prior gives a class less than {LEAST_CLASS_SHARE:g} of all records")
    return shares


def settle_objective(options: LearningOptions, classes: Sequence[str] | None) -> Objective:
    """Settle what merchants minimise.

    Args:
        options: the operator's options.
        classes: names of the classes; None where they aren't known yet.

    Returns:
        The objective, without a prior where the classes aren't known.

    Raises:
        ConfigError: an option can't be read, or the options can't go together.
    """
    prior: tuple[float, ...] = ()
    if options.class_prior is not None:
        named = list(read_weights(options.class_prior)) if classes is None else classes
        prior = class_shares(options.class_prior, named)
    objective = Objective(loss=options.loss, label_smoothing=options.label_smoothing, class_prior=prior)
    check_objective(objective)
    return objective
