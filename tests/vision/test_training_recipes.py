"""Settings from public numbers: what the noise leaves in a score, and what the user's own settings change."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrec.config import TrainingOptions
from fedrec.privacy.accounting.events import Event
from fedrec.privacy.accounting.pld import epsilon_pld
from fedrec.privacy.accounting.privacy_spend import least_multiplier
from fedrec.privacy.dp.calibration import BETA
from fedrec.server.settled_options import settle, training_defaults
from fedrec.vision import model_registry
from fedrec.vision.pixel_recipes import PixelRecipe
from fedrec.vision.training_recipes import (
    PublicNumbers,
    Recipe,
    TrainingDefaults,
    fine_tuning_recipe,
    head_recipe,
    last_layer_recipe,
)


def gaussian(mu: float) -> PublicNumbers:
    """A budget of Gaussian DP with parameter mu, at full batches."""
    return PublicNumbers(records=60_000, noise_multiplier=lambda rate, steps: math.sqrt(steps) / mu)


def noise_in_a_score(settings: TrainingDefaults, *, records: int, sigma: float) -> float:
    """By a loop over the steps: with momentum, a step's noise is added 1 / (1 - m) times in the end."""
    steps = settings.rounds - 1
    variance = 0.0
    for step in range(steps):
        left = steps - step
        ages = left + 1 if settings.nesterov else left
        weight = sum(settings.momentum**age for age in range(ages))
        variance += (weight * settings.learning_rate * settings.clip * sigma / records) ** 2
    return math.sqrt(variance)


@given(st.floats(0.05, 1.6))
def test_all_steps_noise_is_about_one_in_a_score_until_stability_bounds_it(mu: float) -> None:
    numbers = gaussian(mu)
    found = head_recipe(numbers)
    sigma = numbers.noise_multiplier(1.0, found.rounds)
    assert (found.sample_rate, found.ema) == (1.0, 0.0)
    assert 11 <= found.rounds <= 101
    assert 0.6 < noise_in_a_score(found, records=60_000, sigma=sigma) <= 1.0 + 1e-9
    # In units of the clip, and of a step with its momentum: no longer than what is stable.
    step = found.learning_rate * found.clip / (1 - found.momentum)
    assert step <= max(400.0, min(1000.0, mu * 60_000 / 100)) * 1.01


@pytest.mark.parametrize(("recipe", "longest"), [(fine_tuning_recipe, 100.0), (last_layer_recipe, 200.0)])
@given(mu=st.floats(0.05, 1.6))
def test_fine_tuning_takes_more_and_shorter_steps_of_no_more_noise(
    recipe: Recipe, longest: float, mu: float
) -> None:
    numbers = gaussian(mu)
    found, head = recipe(numbers), head_recipe(numbers)
    assert found.clip == head.clip and 11 <= found.rounds <= 51
    step = found.learning_rate * found.clip / (1 - found.momentum)
    assert step <= longest + 1e-9
    sigma = numbers.noise_multiplier(1.0, found.rounds)
    assert noise_in_a_score(found, records=60_000, sigma=sigma) <= 1.0 + 1e-9
    assert recipe(replace(numbers, rounds=4)).rounds == 4


def test_a_training_without_noise_is_bounded_by_stability() -> None:
    found = head_recipe(PublicNumbers(records=3_000, noise_multiplier=lambda rate, steps: 0.0))
    assert found.rounds == 101
    assert found.learning_rate * found.clip / (1 - found.momentum) == pytest.approx(400.0)


def test_what_the_user_sets_stays_and_the_rest_fits_it() -> None:
    numbers = gaussian(0.5)
    found = head_recipe(
        PublicNumbers(
            records=numbers.records,
            noise_multiplier=numbers.noise_multiplier,
            rounds=31,
            clip=1.0,
            momentum=0.5,
        )
    )
    assert (found.rounds, found.clip, found.momentum) == (31, 1.0, 0.5)
    sigma = math.sqrt(31) / 0.5
    assert found.learning_rate * sigma * math.sqrt(30) / 60_000 == pytest.approx(0.5)


@pytest.mark.parametrize("epsilon", [0.5, 4.0])
def test_the_noise_that_a_recipe_counts_on_is_the_accountants(epsilon: float) -> None:
    seen: list[tuple[float, int, float]] = []

    def watch(numbers: PublicNumbers) -> TrainingDefaults:
        for rate, steps in ((1.0, 1), (1.0, 20)):
            seen.append((rate, steps, numbers.noise_multiplier(rate, steps)))
        return head_recipe(numbers)

    spec = replace(model_registry.get("effnet-lite0-head"), recipe=watch)
    options = TrainingOptions(epsilon=epsilon, delta=1e-5)
    found = training_defaults(options, spec, sizes=(2000, 1000))
    for rate, steps, sigma in seen:
        assert epsilon_pld([Event(rate, sigma, steps)], delta=1e-5) == pytest.approx(epsilon, rel=0.01)
    settled = settle(options, found, merchants=3)
    assert settled.update.values["nesterov"] == float(found.nesterov)
    assert settled.rounds == found.rounds


@pytest.mark.parametrize("changes", [{"privacy": "local"}, {"optimizer": "adam"}])
def test_other_rules_of_stepping_keep_the_models_own_settings(changes: dict[str, str]) -> None:
    spec = replace(model_registry.get("effnet-lite0-head"), recipe=head_recipe)
    options = TrainingOptions.model_validate(changes)
    assert training_defaults(options, spec, sizes=(2000, 1000)) == spec.defaults


TANH = model_registry.get("cnn-tanh")
TANH_RECIPE = cast(PixelRecipe, TANH.recipe)


def noise_in_a_parameter(settings: TrainingDefaults, *, records: int, sigma: float) -> float:
    """By a loop over the steps, without momentum."""
    each = settings.learning_rate * settings.clip * sigma / (settings.sample_rate * records)
    return math.sqrt(sum(each**2 for _ in range(settings.rounds)))


@pytest.mark.parametrize(
    ("name", "records", "epsilon"),
    [
        ("cnn-tanh", 60_000, 0.5), ("cnn-tanh", 6_000, 4.0),
        ("cnn-tanh", 600, 1.0), ("cnn", 3_000, 4.0), ("cnn", 600, 1.0), ("cnn-ws", 3_000, 1.0),
    ],
)  # fmt: skip
def test_a_pixel_model_s_step_leaves_the_same_noise_at_every_budget_and_size(
    name: str, records: int, epsilon: float
) -> None:
    options, spec = TrainingOptions(epsilon=epsilon, delta=1e-5), model_registry.get(name)
    found = training_defaults(options, spec, sizes=(records // 2, records // 2))
    sigma = least_multiplier(
        epsilon, delta=1e-5, sample_rate=found.sample_rate, steps=found.rounds, beta=BETA
    )
    assert noise_in_a_parameter(found, records=records, sigma=sigma) == pytest.approx(
        cast(PixelRecipe, spec.recipe).noise
    )
    settled = settle(options, found, merchants=3)
    assert settled.update.learning_rate == found.learning_rate
    assert settled.update.averaging == found.ema > 0


def test_many_records_leave_the_small_network_its_longest_step_and_few_do_not() -> None:
    spec = model_registry.get("cnn")
    options = TrainingOptions(epsilon=1.0, delta=1e-5)
    many, few = (training_defaults(options, spec, sizes=(count,)) for count in (60_000, 3_000))
    assert many == spec.defaults
    assert replace(few, learning_rate=2.0) == many and few.learning_rate < 0.5


def test_a_pixel_model_s_step_is_bounded_by_stability_and_keeps_what_the_user_set() -> None:
    free = TANH_RECIPE(PublicNumbers(records=3_000, noise_multiplier=lambda rate, steps: 0.0))
    longest = free.learning_rate * free.clip / (1 - free.momentum)
    nearly = TANH_RECIPE(PublicNumbers(records=10**9, noise_multiplier=lambda rate, steps: 0.5))
    assert nearly.learning_rate == pytest.approx(free.learning_rate)
    numbers = PublicNumbers(
        records=2_000, noise_multiplier=lambda rate, steps: 2.0 * rate * math.sqrt(steps),
        rounds=40, sample_rate=0.5, clip=1.0, momentum=0.5,
    )  # fmt: skip
    mine = TANH_RECIPE(numbers)
    assert (mine.rounds, mine.sample_rate, mine.clip, mine.momentum) == (40, 0.5, 1.0, 0.5)
    assert mine.nesterov and mine.learning_rate / (1 - 0.5) < longest
    assert mine.learning_rate / (1 - 0.5) * 2.0 * 40 / 2_000 == pytest.approx(TANH_RECIPE.noise)


def reach(options: TrainingOptions, *, records: int, rate: float, rounds: int) -> float:
    """How far all steps move a parameter for noise of 1 in it, by the accountant."""
    assert options.epsilon and options.delta
    sigma = least_multiplier(options.epsilon, delta=options.delta, sample_rate=rate, steps=rounds, beta=BETA)
    return rate * records * math.sqrt(rounds) / sigma


@pytest.mark.parametrize(
    ("name", "records", "epsilon"),
    [
        ("cnn", 200, 8.0),
        ("cnn", 3_000, 8.0),
        ("cnn", 60_000, 4.0),
        ("cnn-tanh", 60_000, 4.0),
        ("resnet18", 3_000, 1.0),
    ],
)
def test_a_pixel_model_takes_no_more_gradients_than_bring_something(
    name: str, records: int, epsilon: float
) -> None:
    options = TrainingOptions(epsilon=epsilon, delta=1e-6)
    recipe = cast(PixelRecipe, model_registry.get(name).recipe)
    found = training_defaults(options, model_registry.get(name), sizes=(records,))
    rate, rounds = found.sample_rate, found.rounds
    allowed = max(recipe.gradients, recipe.passes * records)
    assert recipe.least <= rounds <= recipe.most
    assert recipe.passes * 0.999 <= rate * rounds
    assert rate <= 1.0 and rate * rounds * records <= allowed * 1.001
    # The most computation that is allowed would bring little more, unless the step is as long as it can be.
    most = min(allowed / (records * rounds), 1.0)
    step = found.learning_rate * found.clip / (1 - found.momentum)
    assert step == pytest.approx(recipe.longest) or 0.89 * reach(
        options, records=records, rate=most, rounds=rounds
    ) <= reach(options, records=records, rate=rate, rounds=rounds)
    # And three quarters of its own would not be enough, unless the passes ask for it.
    assert rate * rounds == pytest.approx(recipe.passes) or reach(
        options, records=records, rate=0.75 * rate, rounds=rounds
    ) < 0.9 * reach(options, records=records, rate=most, rounds=rounds)
    # A step less would be too long at the most computation, unless there are the fewest.
    fewer = rounds - 1
    assert (
        rounds == recipe.least
        or recipe.noise
        * reach(options, records=records, rate=min(allowed / (records * fewer), 1.0), rounds=fewer)
        > recipe.longest * fewer
    )


@given(st.integers(10, 10**6), st.floats(0.01, 50.0), st.sampled_from(["cnn", "cnn-tanh", "resnet18"]))
def test_no_choice_needs_less_noise_than_the_one_that_is_checked_before_data_is_read(
    records: int, mu: float, name: str
) -> None:
    spec = model_registry.get(name)
    for rounds in (None, 1, 7, 5_000):
        found = cast(PixelRecipe, spec.recipe)(
            PublicNumbers(
                records=records,
                noise_multiplier=lambda rate, steps: rate * math.sqrt(steps) / mu,
                rounds=rounds,
            )
        )
        fewest = spec.fewest_steps(rounds)
        assert fewest is not None
        assert found.rounds >= fewest[0] and found.sample_rate >= fewest[1]
