"""Every option of a training either changes its plan, in a field that the method reads, or is refused."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import ValidationError

from fedrec.config import LearningOptions, TrainingOptions
from fedrec.errors import ConfigError
from fedrec.privacy.identity import SigningIdentity
from fedrec.protocol.plan import Peer
from fedrec.server.planning import Enrolled, Task, plan_training
from fedrec.vision import model_registry
from fedrec.vision.model_inputs import InputShape
from fedrec.vision.training_recipes import FINE_TUNING, fine_tuning_recipe

CHOICES: Mapping[str, Any] = {
    "unit": "product",
    "rounds": 7,
    "patience": 3,
    "target": "macro-f1",
    "learning_rate": 0.125,
    "optimizer": "sgd:momentum=0.3",
    "schedule": "cosine",
    "server_learning_rate": 0.5,
    "averaging": 0.3,
    "weight_decay": 0.001,
    "l1": 0.001,
    "loss": "hinge",
    "label_smoothing": 0.1,
    "class_prior": "one=2,two=1,three=1",
    "local_steps": 2,
    "augment": True,
    "privacy": "off",
    "epsilon": 3.0,
    "delta": 1e-6,
    "sample_rate": 0.4,
    "site_figures": 0.1,
    "clip": 0.5,
    "clipping": "automatic",
    "secure_aggregation": "none",
    "committee": 4,
    "threshold": 6,
    "corrupt_members": 2,
    "corrupt_witnesses": 1,
    "min_contributors": 5,
    "colluders": 2,
    "drop": 0.2,
}
"""Another value than the default of each option."""
BESIDE: Mapping[str, Mapping[str, Any]] = {"target": {"patience": 3}}
"""Options that another one needs."""
HEAD = model_registry.get("effnet-lite0-head")
METHODS = {
    "cnn": model_registry.get("cnn"),
    "head": HEAD,
    "fine-tuning": dataclasses.replace(HEAD, defaults=FINE_TUNING, recipe=fine_tuning_recipe),
    "one-round": model_registry.get("effnet-lite0-discriminant"),
}
IGNORED_IN_ONE_ROUND = frozenset(
    {
        *("rounds", "local_steps", "local_learning_rate", "early_stopping", "server_update"),
        *("sample_rate", "clip", "clipping", "objective"),
    }
)
"""Fields of a plan that say how steps are taken. Statistics are scaled to whatever the clip is."""
ENROLLED = Enrolled(
    server_key="ab" * 32,
    roster=tuple(
        Peer(name=f"shop-{number}", signing_key=SigningIdentity.generate().public.hex())
        for number in range(7)
    ),
    sizes=(300,) * 7,
)


@functools.cache
def planned(method: str, given: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    task = Task(METHODS[method], ("one", "two", "three"), InputShape(channels=3, size=28))
    plan = plan_training(TrainingOptions(model=task.spec.name, **dict(given)), task, ENROLLED).plan
    return plan.model_dump(exclude={"nonce", "initial_model_hash"})


def changed_fields(method: str, option: str) -> set[str]:
    beside = tuple(BESIDE.get(option, {}).items())
    before, after = planned(method, beside), planned(method, (*beside, (option, CHOICES[option])))
    return {name for name in before if before[name] != after[name]}


def test_the_table_has_every_option() -> None:
    assert set(CHOICES) == set(TrainingOptions.model_fields) - {"model", "method"}
    assert all(TrainingOptions.model_fields[name].default != value for name, value in CHOICES.items())


@pytest.mark.parametrize("option", CHOICES)
@pytest.mark.parametrize("method", METHODS)
def test_an_option_changes_what_the_method_reads_or_is_refused_in_one_line(method: str, option: str) -> None:
    try:
        changed = changed_fields(method, option)
    except (ConfigError, ValidationError) as error:
        text = str(error) if isinstance(error, ConfigError) else error.errors()[0]["msg"]
        names = (option, *BESIDE.get(option, {}))
        assert any(name.replace("_", "-") in text.replace(" ", "-") for name in names)
        assert "\n" not in text
        return
    assert changed - IGNORED_IN_ONE_ROUND if method == "one-round" else changed


def test_one_round_takes_none_of_the_options_of_steps() -> None:
    taken = set()
    for option in LearningOptions.model_fields.keys() - {"model", "method"}:
        try:
            changed_fields("one-round", option)
        except (ConfigError, ValidationError):
            continue
        taken.add(option)
    assert taken == {"unit", "augment"}
