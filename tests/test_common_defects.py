"""Defects found in common practice of private training: each is impossible here, one test a defect."""

from __future__ import annotations

import ast
import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from dp_accounting.pld import privacy_loss_distribution
from PIL import Image
from pydantic import ValidationError
from torch import nn

from fedrec.clients.plan_resources import load_photos
from fedrec.errors import ConfigError
from fedrec.privacy.accounting.events import Event
from fedrec.privacy.accounting.ledger import Ledger
from fedrec.privacy.accounting.ledger_entries import charges
from fedrec.privacy.accounting.noise_multiplier import noise_multiplier_for
from fedrec.privacy.accounting.pld import epsilon_pld
from fedrec.privacy.derived_parameters import derive
from fedrec.privacy.dp.book_keeping import covers
from fedrec.privacy.dp.calibration import NoisePlan, NoiseRequest, plan_noise
from fedrec.privacy.dp.clipping import RecordClipper, clipped_sum
from fedrec.privacy.dp.sampling import poisson_sample
from fedrec.privacy.dp.step import DpSgdSettings, contribute
from fedrec.privacy.dp.vectors import parameter_count
from fedrec.privacy.randomness import Randomness
from fedrec.protocol.messages import JoinRequest, TrainRequest
from fedrec.protocol.modes import Mode
from fedrec.protocol.plan import TrainingPlan
from fedrec.vision import model_registry
from tests.cohort import Cohort, InProcessGrid
from tests.test_ledger import CHARGE, VERSION, _Identity, _made, _verify

PACKAGE = Path(__file__).parents[1] / "fedrec"
SOURCES = list(PACKAGE.rglob("*.py"))


def _open(path: Path) -> Ledger:
    return Ledger(_made(path), signer=_Identity(), verify=_verify)


def _plan(dimension: int, mode: Mode = "off") -> NoisePlan:
    return plan_noise(NoiseRequest(
        mode=mode, epsilon=None, noise_multiplier=None if mode == "off" else 1.0, delta=1e-5,
        sample_rate=0.5, steps=1, dimension=dimension, clip=1.0, cohort=4, min_contributors=4, colluders=1,
        records_per_merchant=20, local_steps=1,))  # fmt: skip


def test_opacus_1_physical_batches_never_merge_logical_ones() -> None:
    """BatchMemoryManager left early merges logical batches; here a record counts once, however batched."""
    model = nn.Linear(5, 3)
    inputs, labels = torch.randn(37, 1, 5), torch.randint(0, 3, (37,))
    whole = clipped_sum(model, inputs, labels, clip=0.3, physical_batch=64)
    for physical in (1, 7, 36):
        np.testing.assert_allclose(
            clipped_sum(model, inputs, labels, clip=0.3, physical_batch=physical), whole, rtol=1e-5, atol=1e-6
        )

    # A pass that breaks off, of the second batch, leaves nothing behind for the next of the same clipper.
    class Breaks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.passes, self.breaks_at = nn.Linear(5, 3), 0, 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.inner(x)
            self.passes += 1
            if self.passes == self.breaks_at:
                raise KeyboardInterrupt
            return out

    broken = Breaks()
    broken.inner.load_state_dict(model.state_dict())
    for reference in (False, True):
        with RecordClipper(broken, clip=0.3, physical_batch=16, reference=reference) as clipper:
            broken.breaks_at = broken.passes + 2
            with pytest.raises(KeyboardInterrupt):
                clipper.clipped_sum(inputs, labels)
            np.testing.assert_allclose(clipper.clipped_sum(inputs, labels), whole, rtol=1e-5, atol=1e-6)
    assert covers(broken)


def test_opacus_2_noise_needs_no_torchcsprng_and_not_torchs_generator() -> None:
    """Torch's CPU generator repeats for seeds equal modulo 2**32; neither it nor its seed matters here."""
    model, inputs, labels = nn.Linear(5, 3), torch.randn(8, 1, 5), torch.randint(0, 3, (8,))
    plan = _plan(18, "distributed")

    def noised(rng: Randomness) -> np.ndarray:
        torch.manual_seed(1)
        np.random.seed(1)
        return contribute(
            model, inputs, labels, settings=DpSgdSettings(clip=1.0, sample_rate=0.5), plan=plan, rng=rng
        )

    assert not np.array_equal(noised(Randomness.from_os()), noised(Randomness.from_os()))
    assert not np.array_equal(noised(Randomness.seeded(5)), noised(Randomness.seeded(5 + 2**32)))


_LIVES = """
import os, signal, sys; sys.path.insert(0, {tests!r})
from dataclasses import replace
from pathlib import Path
from test_ledger import CHARGE, VERSION, _open
for number in range(5):
    if os.fork() == 0:
        _open(Path({path!r})).charge(replace(CHARGE, round_number=number), version=VERSION)
        os.kill(os.getpid(), signal.SIGKILL)
    os.wait()
"""


def test_opacus_3_five_rounds_in_five_lives_cost_what_five_rounds_cost(tmp_path: Path) -> None:
    """A new PrivacyEngine per round says 2.86 where five rounds cost 5.16; the ledger remembers."""
    code = _LIVES.format(tests=str(Path(__file__).parent), path=str(tmp_path / "lives"))
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    with _open(tmp_path / "one") as one:
        for number in range(5):
            one.charge(replace(CHARGE, round_number=number), version=VERSION)
        whole = one.reading()
        epsilons = [entry.epsilons for entry in charges(one.entries())]
    with _open(tmp_path / "lives") as lives:
        assert lives.reading() == whole
        assert [entry.epsilons for entry in charges(lives.entries())] == epsilons
    own = epsilons[-1].own_epsilon
    assert own == pytest.approx(epsilon_pld([replace(CHARGE.event(), steps=5)], delta=1e-5), rel=1e-3)
    assert own is not None and own > 1.5 * epsilon_pld([CHARGE.event()], delta=1e-5)


def test_opacus_4_calibration_cannot_pass_the_history_by(tmp_path: Path) -> None:
    """make_private_with_epsilon ignores history; here a plan's noise is its own, and the ledger adds up."""
    sigma = noise_multiplier_for(epsilon=1.0, delta=1e-5, sample_rate=0.1, steps=10)
    with Ledger(
        _made(tmp_path / "l"), signer=_Identity(), verify=_verify, epsilon_lifetime=1.6, delta_lifetime=1e-5
    ) as ledger:
        taken = 0
        with pytest.raises(Exception, match="lifetime"):
            for training in ("aa", "bb", "cc"):
                for number in range(10):
                    charge = replace(CHARGE, training_id=training * 32, round_number=number, rounds=10)
                    ledger.charge(replace(charge, guaranteed_noise_multiplier=sigma), version=VERSION)
                    taken += 1
        assert 10 < taken < 30
        assert ledger.reading().spent <= 1.6


def test_opacus_5_what_callers_hold_is_no_part_of_the_ledger(tmp_path: Path) -> None:
    """load_state_dict aliases the caller's list; what the ledger hands out can't be written to."""
    with _open(tmp_path / "l") as ledger:
        ledger.charge(CHARGE, version=VERSION)
        entries, before = ledger.entries(), ledger.reading().renyi
        assert isinstance(entries, tuple)
        with pytest.raises(AttributeError):
            charges(entries)[0].charge.steps = 0  # type: ignore[misc]
        ledger.charge(replace(CHARGE, round_number=1), version=VERSION)
        assert len(entries) == 2
        assert ledger.reading().renyi > before


def test_opacus_6_an_empty_batch_is_a_step_like_any_other() -> None:
    """Empty Poisson batches crash some clippers; here they give noise alone, and are not left out."""
    model, plan = nn.Linear(5, 3), _plan(18, "distributed")
    empty = clipped_sum(model, torch.zeros(0, 1, 5), torch.zeros(0, dtype=torch.int64), clip=1.0)
    np.testing.assert_array_equal(empty, np.zeros(18))
    noised = contribute(
        model, torch.zeros(0, 1, 5), torch.zeros(0, dtype=torch.int64),
        settings=DpSgdSettings(clip=1.0, sample_rate=0.5), plan=plan, rng=Randomness.from_os(),
    )  # fmt: skip
    assert np.abs(noised).max() > 0


def test_opacus_7_residual_networks_are_clipped_as_they_are() -> None:
    """Torchvision's ResNet fails even after a fix; the registry's gives the per-record loop's sum."""
    model = model_registry.get("resnet18").build(classes=3, channels=3, size=32, seed=0)
    inputs, labels = torch.randn(3, 1, 3, 32, 32), torch.tensor([0, 1, 2])
    expected = np.zeros(parameter_count(model))
    for row, label in zip(inputs, labels, strict=True):
        model.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(model(row), label[None]))
        gradient = np.concatenate(
            [p.grad.double().flatten().numpy() for p in model.parameters() if p.grad is not None]
        )
        expected += gradient * min(1.0, 0.5 / float(np.linalg.norm(gradient)))
    model.zero_grad(set_to_none=True)
    found = clipped_sum(model, inputs, labels, clip=0.5)
    assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)


def test_opacus_8_sampling_is_poisson_or_there_is_none() -> None:
    """poisson_sampling=False is still accounted as Poisson; here nothing else can be asked for or done."""
    assert not [name for name in TrainingPlan.model_fields if "poisson" in name or "shuffl" in name]
    sizes = [len(poisson_sample(400, rate=0.25, rng=Randomness.seeded(8, "defects", i))) for i in range(300)]
    # A fixed batch would have no variance, a binomial one has 75.
    assert abs(np.mean(sizes) - 100) < 4 * math.sqrt(75 / 300)
    assert 50 < np.var(sizes) < 105
    assert not [file for file in SOURCES if "DataLoader" in file.read_text()]


def test_the_gaussian_dp_accountant_is_not_offered() -> None:
    """GDP under-reports by up to half: 2.21 where 4.46 is true."""
    assert epsilon_pld([Event(0.01, 0.6, 200)], delta=1e-5) > 4.4
    banned = re.compile(r"GaussianAccountant|gdp|PrivacyEngine|BatchMemoryManager", re.IGNORECASE)
    code = [re.sub(r'"""(?s:.*?)"""|#.*', "", file.read_text()) for file in SOURCES]
    assert not [found for text in code if (found := banned.search(text))]


def test_steps_are_counted_that_nothing_was_opened_from(tmp_path: Path) -> None:
    """Rejected or lost updates are not free: every round that was answered stays charged."""
    cohort = Cohort(tmp_path)
    grid = InProcessGrid(cohort.app(), 4, drop=lambda kind, group, index: kind == "query.unmask")
    _, records = cohort.train(cohort.plan(rounds=2), grid)
    assert not any(record.opened for record in records)
    assert [len(cohort.charges(name)) for name in cohort.names] == [2] * 4


def test_no_message_can_state_a_sensitivity_or_a_seed(tmp_path: Path) -> None:
    """What a record moves is derived by every merchant, and chance is its own: no message has either."""
    cohort = Cohort(tmp_path)
    plan = cohort.plan()
    for name, value in {
        "sensitivity": 1.0, "scale": 1, "beta": 0.5, "share_std": 0.0, "seed": 7, "epsilon": 1.0,
        "noise_share": 0.0, "float_slack": 0.0, "clamp_abs": 1, "steps": 1,
    }.items():  # fmt: skip
        stated = json.loads(plan.canonical_bytes()) | {name: value}
        with pytest.raises(ValidationError, match="Extra inputs"):
            TrainingPlan.model_validate_json(json.dumps(stated))
    for kind, message in (
        (JoinRequest, {"plan": json.loads(plan.canonical_bytes())}),
        (
            TrainRequest,
            {"training_id": "0" * 64, "round_number": 1, "model_hash": "0" * 64, "sealing_keys": []},
        ),
    ):
        assert kind.model_validate_json(json.dumps(message))
        with pytest.raises(ValidationError, match="Extra inputs"):
            kind.model_validate_json(json.dumps(message | {"seed": 7}))
    # Grid, noise and what is charged follow from dimension, clip and noise multiplier alone.
    twins = [derive(cohort.plan(nonce=nonce, rounds=2)).noise for nonce in ("aa" * 16, "bb" * 16)]
    assert twins[0] == twins[1]
    model = nn.Linear(5, 3)
    with pytest.raises(ConfigError, match="are not the plan's"):
        contribute(
            model, torch.zeros(1, 1, 5), torch.zeros(1, dtype=torch.int64),
            settings=DpSgdSettings(clip=2.0, sample_rate=0.5), plan=_plan(18), rng=Randomness.from_os(),
        )  # fmt: skip


_TORCH = {
    "rand",
    "randn",
    "randint",
    "randperm",
    "normal",
    "bernoulli",
    "multinomial",
    "poisson",
    "Generator",
}
_TORCH |= {"rand_like", "randn_like", "randint_like", "manual_seed", "seed", "default_generator", "dropout"}
_IN_PLACE = {
    "normal_",
    "uniform_",
    "random_",
    "bernoulli_",
    "exponential_",
    "cauchy_",
    "geometric_",
    "log_normal_",
}
_NUMPY = {"default_rng", "RandomState", "PCG64", "Philox", "SFC64", "MT19937", "SeedSequence"}
_MODULES = {"random", "secrets", "uuid", "numpy.random", "torch.random", "scipy.stats", "torch.distributions"}


def _own_chance(source: str) -> list[str]:
    """Every use of a generator of chance in a module, by its syntax: comments and words don't count."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name in _MODULES]
        elif isinstance(node, ast.ImportFrom):
            names = {alias.name for alias in node.names}
            whole = {f"{node.module}.{name}" for name in names}
            found += sorted(({node.module or ""} | whole) & _MODULES)
            found += sorted(names & (_NUMPY | _IN_PLACE)) + sorted(
                names & _TORCH if node.module == "torch" else ()
            )
            found += ["urandom"] if "urandom" in names else []
        elif isinstance(node, ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else ""
            if (
                node.attr in _NUMPY | _IN_PLACE | {"urandom"}
                or (owner == "torch" and node.attr in _TORCH)
                or (owner in ("np", "numpy", "torch") and node.attr == "random")
            ):
                found.append(f"{owner}.{node.attr}")
    return found


@pytest.mark.parametrize(
    "line",
    [
        "import random", "from random import gauss", "import secrets", "from numpy.random import default_rng",
        "from numpy import random", "x = np.random.normal(3)", "x = numpy.random.default_rng(1)",
        "x = torch.randint(0, 2, (3,))", "x = torch.randperm(5)", "x = torch.randn(3)", "torch.rand_like(y)",
        "x.normal_()", "x = torch.empty(3).uniform_()", "from torch import randn", "x = os.urandom(3)",
        "g = torch.Generator()", "torch.manual_seed(3)", "x = torch.bernoulli(p)",
    ],
)  # fmt: skip
def test_a_draw_from_another_source_is_found_however_it_is_written(line: str) -> None:
    assert _own_chance(line)
    assert not _own_chance(f"# {line}\nx = '{line}'\nrng.uniform(3)\n")


def test_privacy_and_merchant_code_draws_from_one_source_only() -> None:
    """No module that handles a merchant's records draws from numpy's, torch's or Python's own generators."""
    files = [file for folder in ("privacy", "clients") for file in (PACKAGE / folder).rglob("*.py")]
    assert len(files) > 30
    found = {file.relative_to(PACKAGE).as_posix(): _own_chance(file.read_text("utf-8")) for file in files}
    assert {name: drawn for name, drawn in found.items() if drawn} == {
        "privacy/randomness.py": ["os.urandom"],
        # Pictures that try a model on, from a fixed seed: no merchant's record is drawn by them.
        "privacy/dp/record_isolation.py": ["torch.random", "torch.default_generator", "torch.rand"],
    }


def test_copies_of_a_record_multiply_its_loss_and_are_dropped(tmp_path: Path) -> None:
    """Two copies of a photo move a sum by twice its sensitivity; a merchant's folder keeps one."""
    q, noise, steps = 0.05, 1.0, 200
    one = epsilon_pld([Event(q, noise, steps)], delta=1e-5)
    # Two copies, each drawn by a coin of its own, against none: none, one or both are in a step.
    pair = privacy_loss_distribution.from_mixture_gaussian_mechanism(
        noise, [0.0, 1.0, 2.0], [(1 - q) ** 2, 2 * q * (1 - q), q**2], value_discretization_interval=1e-3
    )
    assert pair.self_compose(steps).get_epsilon_for_delta(1e-5) > 2 * one
    model, clip = nn.Linear(4, 3), 0.1
    inputs, labels = torch.randn(1, 1, 4), torch.tensor([1])
    single = clipped_sum(model, inputs, labels, clip=clip)
    double = clipped_sum(model, inputs.repeat(2, 1, 1), labels.repeat(2), clip=clip)
    assert np.linalg.norm(double) == pytest.approx(2 * np.linalg.norm(single), rel=1e-9)
    for label, names in (("hat", ("a", "b", "c")), ("mug", ("a", "other"))):
        (tmp_path / label).mkdir()
        for name in names:
            shade = 90 if name == "other" else 20
            Image.new("RGB", (8, 8), (shade, 10, 200)).save(tmp_path / label / f"{name}.png")
    plan = Cohort(tmp_path / "cohort").plan(model="cnn", classes=("hat", "mug"), image_size=8)
    data = load_photos(plan, tmp_path, layout="class", device=torch.device("cpu"))
    # One hat of three copies; the mug with the same pixels is another record, since its label differs.
    assert data.labels.tolist() == [0, 1, 1]


def test_who_takes_part_or_drops_out_earns_no_amplification(tmp_path: Path) -> None:
    """The server sees who answers: a round costs a merchant the same whoever else is drawn or drops."""
    plan_of = {"rounds": 4}
    whole, thin = Cohort(tmp_path / "whole", size=5), Cohort(tmp_path / "thin", size=5)
    whole.train(whole.plan(**plan_of))
    grid = InProcessGrid(thin.app(), 5, drop=lambda kind, group, index: kind == "train" and index in (3, 4))
    thin.train(thin.plan(**plan_of), grid)
    ledgers = [cohort.merchants["m0"].ledger for cohort in (whole, thin)]
    assert [len(charges(ledger.entries())) for ledger in ledgers] == [4, 4]
    assert ledgers[0].reading() == ledgers[1].reading()
    own = [charges(ledger.entries())[-1].epsilons.own_epsilon for ledger in ledgers]
    exact = epsilon_pld([Event(0.5, 1.0, 4)], delta=1e-4 - 4e-12)
    assert own == [pytest.approx(exact, rel=2e-3)] * 2
    # The rate that is charged is a record's own, in every round: not that times the part of merchants drawn.
    assert {entry.charge.sample_rate for ledger in ledgers for entry in charges(ledger.entries())} == {0.5}
    # A plan for merchants that drop needs more noise of each, never a smaller epsilon.
    noise = [derive(whole.plan(min_contributors=n)).noise for n in (5, 4, 3)]
    assert noise[0].share_std < noise[1].share_std < noise[2].share_std
    assert len({one.noise_multiplier for one in noise}) == 1


def test_a_share_of_noise_is_of_the_fewest_honest_contributors_not_of_the_cohort() -> None:
    """Shares of the cohort would leave less noise than charged as soon as one merchant drops or colludes."""

    def planned(cohort: int, least: int, colluders: int) -> NoisePlan:
        return plan_noise(NoiseRequest(
            mode="distributed", epsilon=None, noise_multiplier=2.0, delta=1e-5, sample_rate=0.1, steps=10,
            dimension=50, clip=1.0, cohort=cohort, min_contributors=least, colluders=colluders,
            records_per_merchant=100,))  # fmt: skip

    for cohort, least, colluders in ((10, 10, 1), (10, 6, 1), (10, 6, 3), (500, 6, 3)):
        plan = planned(cohort, least, colluders)
        # Of the smallest sum that is ever opened, less what the colluders know, what is charged is left.
        left = math.sqrt((least - colluders) * plan.share_std**2 - 9)
        assert left == pytest.approx(2.0 * plan.sensitivity, rel=1e-12)
    # A member knows its own share: nobody may assume that none of them talks.
    with pytest.raises(ConfigError, match="at least 1"):
        planned(10, 10, 0)


def test_a_history_of_many_kinds_is_charged_in_full_and_once(tmp_path: Path) -> None:
    """Mixed histories tempt to charge the last kind alone; a lifetime costs more than any part of it."""
    kinds = [(0.05 + 0.01 * k, 1.5 + 0.25 * k) for k in range(6)]
    with _open(tmp_path / "l") as ledger:
        for number, (rate, noise) in enumerate(kinds):
            for round_number in range(3):
                ledger.charge(
                    replace(
                        CHARGE, training_id=f"{number:02d}" * 32, round_number=round_number, rounds=3,
                        sample_rate=rate, guaranteed_noise_multiplier=noise,
                    ),
                    version=VERSION,
                )  # fmt: skip
        reading = ledger.reading()
    whole = reading.spent - reading.releases
    alone = [epsilon_pld([Event(rate, noise, 3)], delta=1e-5) for rate, noise in kinds]
    together = epsilon_pld([Event(rate, noise, 3) for rate, noise in kinds], delta=1e-5)
    # Never below what composing them gives, which would hold for plans fixed beforehand alone.
    assert max(alone) < together < whole < 2 * sum(alone)
