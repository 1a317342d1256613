"""The warning of a budget whose noise leaves too little: against noised sums of classes."""

from __future__ import annotations

import html
import re
from typing import Any

import numpy as np
import pytest

from fedrec.privacy.accounting.privacy_spend import least_multiplier
from fedrec.privacy.derived_parameters import derive, noise_of
from fedrec.privacy.dp.calibration import BETA
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.training_report.report import TrainingReport
from fedrec.server.report.noise_outlook import ON_FEATURES, class_over_noise, noise_outlook
from fedrec.server.report.report_json import build_report
from fedrec.server.report.report_page import render
from fedrec.server.report.training_result import RunFacts, TrainingResult
from tests.support.sample_messages import PLAN
from tests.support.training_reports import NO_PHOTOS

DELTA = 1e-5


def planned(*, records: int, classes: int, epsilon: float, **changes: Any) -> TrainingPlan:
    """A plan's public numbers with the noise that the accountant asks for."""
    rate, rounds = changes.get("sample_rate", 1.0), changes.get("rounds", 1)
    noise = least_multiplier(epsilon, delta=DELTA, sample_rate=rate, steps=rounds, beta=BETA)
    return PLAN.model_copy(
        update={
            "records_total": records, "classes": tuple(f"c{i}" for i in range(classes)), "delta": DELTA,
            "noise_multiplier": noise, "sample_rate": rate, "rounds": rounds, "local_steps": 1,
            "mode": "distributed", "model": "lite0-small-head",
        } | changes
    )  # fmt: skip


def built_report(plan: TrainingPlan) -> TrainingReport:
    """The report of a training that was ended before its first round."""
    made = plan.model_copy(update={"noise_levels": noise_of(plan).levels})
    result = TrainingResult(
        plan=made, derived=derive(made), lines=(), metrics=None, split=None, refusals={}
    )  # fmt: skip
    facts = RunFacts(
        id="r", engine="test", seconds=1.0, peak_memory_bytes=1, interrupted=True, rounds_reserved=0,
        seeded=False,
    )  # fmt: skip
    return build_report(result, facts=facts, data=NO_PHOTOS, per_merchant=[])


@pytest.mark.parametrize("mode", ["distributed", "local"])
def test_a_class_stands_out_as_in_sums_with_that_noise(mode: str) -> None:
    made = planned(records=600, classes=3, epsilon=1, rounds=50, mode=mode)
    assert made.noise_multiplier is not None
    shares = made.cohort if mode == "local" else 1
    random = np.random.default_rng(0)
    # 4,000 trainings: in each of 50 rounds a class's 200 records add up, with the noise of every merchant.
    noise = random.normal(size=(4000, 50, shares)).sum(axis=2) * made.noise_multiplier
    sums = (200 + noise).sum(axis=1)
    assert class_over_noise(made) == pytest.approx(sums.mean() / sums.std(), rel=0.05)


def test_what_is_hopeless_what_is_poor_and_what_is_enough() -> None:
    def told(records: int, classes: int, epsilon: float, **changes: Any) -> str | None:
        made = planned(records=records, classes=classes, epsilon=epsilon, **changes)
        return noise_outlook(made, epsilon=epsilon)

    hopeless, poor = told(1000, 100, 1), told(3000, 100, 2, rounds=11)
    assert hopeless is not None and "10 records a class next to nothing" in hopeless
    assert poor is not None and "a large part of the accuracy" in poor
    assert told(3068, 10, 1) is None
    assert told(60_000, 10, 0.3) is None
    assert told(3000, 100, 16) is None
    assert told(1000, 100, 1, mode="off") is None
    assert noise_outlook(planned(records=1000, classes=100, epsilon=1), epsilon=None) is None


def test_a_network_on_pictures_needs_more_than_a_head() -> None:
    # 500 pictures of ten classes at epsilon 4: there small networks had lost up to half of it.
    made = planned(records=500, classes=10, epsilon=4, sample_rate=0.2, rounds=100)
    assert 30 < class_over_noise(made) < 50
    told = {
        name: noise_outlook(made.model_copy(update={"model": name}), epsilon=4)
        for name in ("cnn", "cnn-tanh", "somebodys-own", "lite2-views-head", "vit-head", "vit-lora")
    }
    assert [name for name, text in told.items() if text is not None] == ["cnn", "cnn-tanh", "somebodys-own"]
    assert told["cnn"] is not None and "pretrained model (best)" in told["cnn"]


@pytest.mark.parametrize("model", ["cnn", "lite0-small-head"])
def test_the_report_holds_the_warning_and_the_figure(model: str) -> None:
    made = planned(records=300, classes=10, epsilon=0.5, rounds=50, model=model)
    found = built_report(made)
    (warned,) = [text for text in found.warnings if "by the noise" in text or "the noise costs" in text]
    assert warned.endswith(".") and warned in html.unescape(render(found))
    assert found.privacy.class_over_noise == pytest.approx(class_over_noise(made))
    quiet = built_report(planned(records=300_000, classes=10, epsilon=4, rounds=50, model=model))
    assert not [text for text in quiet.warnings if "the noise" in text]


@pytest.mark.parametrize(("records", "epsilon"), [(2000, 1.0), (3000, 2.0), (500, 1.0)])
def test_what_it_advises_does(records: int, epsilon: float) -> None:
    made = planned(records=records, classes=100, epsilon=epsilon)
    advice = noise_outlook(made, epsilon=epsilon)
    assert advice is not None
    more = re.search(r"([0-9,]+) records would", advice)
    assert more is not None
    wanted = int(more[1].replace(",", ""))
    assert class_over_noise(planned(records=wanted, classes=100, epsilon=epsilon)) >= ON_FEATURES.enough
    assert class_over_noise(planned(records=wanted - 200, classes=100, epsilon=epsilon)) < ON_FEATURES.enough
    larger = re.search(r"about epsilon ([0-9.]+) or", advice)
    if larger is not None:
        enough = planned(records=records, classes=100, epsilon=float(larger[1]))
        assert class_over_noise(enough) >= ON_FEATURES.enough
    else:
        assert class_over_noise(planned(records=records, classes=100, epsilon=16)) < ON_FEATURES.enough
