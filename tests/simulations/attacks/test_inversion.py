"""Gradient inversion against every party's view, on the real code path of a training step."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.cli.attacks import inversion
from fedrec.errors import AuditError, ConfigError, DataError
from fedrec.privacy.aggregation import kahe
from fedrec.privacy.aggregation.scheme import KeyMaterial
from fedrec.privacy.dp.clipping import clipped_sum
from fedrec.privacy.dp.step import contribute
from fedrec.privacy.dp.vectors import parameter_count
from fedrec.privacy.randomness import Randomness
from fedrec.simulations.attacks import observations
from fedrec.simulations.attacks.image_similarity import grey_like, match_order, psnr, ssim
from fedrec.simulations.attacks.inversion import BatchResult, InversionSettings, _scored, invert
from fedrec.simulations.attacks.inversion_page import render
from fedrec.simulations.attacks.observations import (
    Defence,
    Exchange,
    Photos,
    noise_of_attacked_step,
    noise_of_training,
    observe,
)
from fedrec.simulations.attacks.reconstruct import Search, reconstruct
from fedrec.vision import model_registry
from fedrec.vision.synthetic import generate, write

DEFENCE = Defence(epsilon=8.0, delta=1e-4, clip=1.0, sample_rate=0.05, steps=20, merchants=3, colluders=1)
VIEWS = [
    "raw_update",
    "clipped_update",
    "noised_update",
    "ciphertext",
    "ciphertext_and_key_share",
    "opened_sum",
    "opened_sum_less_colluders",
]


def test_without_protection_the_photo_comes_back_and_with_it_nothing_does(tmp_path: Path) -> None:
    result = invert(InversionSettings(defence=DEFENCE, batches=(1,), size=16, search_steps=160))
    (batch,) = result.batches
    raw, clipped, *protected = batch.views
    assert [view.name for view in batch.views] == VIEWS
    assert raw.psnr > 25 and clipped.psnr > 25 and raw.ssim > 0.9
    assert all(view.psnr < batch.grey_psnr + 1.0 and view.ssim < 0.3 for view in protected)
    assert result.attack_works and result.exposed == ()

    report = json.loads(json.dumps(result.report(), allow_nan=False))
    assert report["schema"] == "fedrec.inversion/1"
    assert [view["view"] for view in report["batches"][0]["views"]] == VIEWS
    page = render(result)
    assert page.count("<img ") == len(VIEWS) + 1
    assert set(re.findall(r'src="([a-z]+:)', page)) == {"data:"} and "://" not in page
    assert "comes back" in page and page.count("shows nothing") == len(VIEWS) - 2


def test_one_photo_of_many_that_shows_through_is_enough() -> None:
    photos = np.random.default_rng(0).random((8, 16, 16, 1))
    pictures = np.full_like(photos, 0.5) + 0.4 * np.random.default_rng(1).standard_normal(photos.shape)
    hidden = _scored("opened_sum", pictures, photos, protected=True)
    assert not hidden.shows_something
    pictures[5] = photos[5]
    found = _scored("opened_sum", pictures, photos, protected=True)
    assert found.shown == 1 and found.shows_something
    batch = BatchResult(photos=photos, grey_psnr=10.0, grey_ssim=0.0, views=(found,))
    assert batch.order[0] == 5


@pytest.mark.slow
def test_a_batch_of_eight_comes_back_too() -> None:
    result = invert(InversionSettings(defence=DEFENCE, batches=(1, 8), search_steps=400))
    views = result.batches[1].views
    assert views[0].psnr > 25 and views[1].psnr > 25
    assert result.exposed == ()


def test_an_attack_that_finds_nothing_says_that_it_is_broken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(AuditError, match="attack is too weak") as caught:
        run_command(tmp_path / "out", batch=[1], steps=1)
    assert caught.value.exit_code == 15
    assert not json.loads((tmp_path / "out" / "inversion.json").read_text())["attack_works"]
    assert "says nothing about protection" in capsys.readouterr().out
    # It shows the photos.
    assert (tmp_path / "out" / "inversion.html").stat().st_mode & 0o077 == 0
    with pytest.raises(ConfigError, match="exists already"):
        run_command(tmp_path / "out", batch=[1], steps=1)


@pytest.mark.slow
def test_noise_that_is_missing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    # A control: with the noise left out of the merchants' steps, the share shows the photo and is reported.
    def silent(*arguments: Any, **options: Any) -> object:
        options["plan"] = replace(options["plan"], share_std=0.0)
        return contribute(*arguments, **options)

    monkeypatch.setattr(observations, "contribute", silent)
    result = invert(InversionSettings(defence=DEFENCE, batches=(1,), size=16, search_steps=80))
    assert "noised_update at batch 1" in result.exposed
    assert "ciphertext at batch 1" not in result.exposed


def test_a_folder_of_ones_own_photos_can_be_attacked(tmp_path: Path) -> None:
    write(generate(merchants=1, per_merchant=4, size=32, seed=1, validation=0, test=0), tmp_path / "mine")
    result = invert(
        InversionSettings(defence=DEFENCE, data=tmp_path / "mine", batches=(1, 2), size=16, search_steps=2)
    )
    assert result.photo_source == "folder" and len(result.batches[1].photos) == 2
    with pytest.raises(DataError, match="4 usable photos"):
        invert(InversionSettings(defence=DEFENCE, data=tmp_path / "mine", batches=(1, 4), search_steps=2))


def test_settings_out_of_range() -> None:
    for batches in ((), (8,), (1, 0), (1, 65)):
        with pytest.raises(ConfigError, match="--batch"):
            invert(InversionSettings(defence=DEFENCE, batches=batches))
    with pytest.raises(ConfigError, match="at least 3"):
        invert(InversionSettings(defence=replace(DEFENCE, merchants=2), batches=(1,)))


def small_cohort(batch: int = 2) -> tuple[torch.nn.Module, list[Photos]]:
    model = model_registry.get("cnn").build(classes=4, channels=1, size=8, seed=0)
    generator = torch.Generator().manual_seed(0)
    return model, [
        Photos(
            torch.rand(batch, 1, 1, 8, 8, generator=generator) * 2 - 1,
            torch.randint(0, 4, (batch,), generator=generator),
        )
        for _ in range(DEFENCE.merchants)
    ]


def test_views_are_what_each_party_sees() -> None:
    model, cohort = small_cohort()
    training = noise_of_training(DEFENCE, dimension=parameter_count(model), records=2)
    step = noise_of_attacked_step(DEFENCE, training, records=2)
    assert step.noise_multiplier == training.noise_multiplier and step.sample_rate == 1.0
    views = {
        view.name: view
        for view in observe(model, cohort, DEFENCE, step=step, rng=Randomness.seeded(1, "views"))
    }
    # Against autograd: the raw sum, and each record's gradient brought to the bound.
    gradients = []
    for image, label in zip(cohort[0].inputs, cohort[0].labels, strict=True):
        loss = torch.nn.functional.cross_entropy(model(image), label[None])
        parts = torch.autograd.grad(loss, list(model.parameters()))
        gradients.append(torch.cat([part.reshape(-1) for part in parts]).double().numpy())
    np.testing.assert_allclose(views["raw_update"].update, sum(gradients), atol=1e-5)
    bounded = sum(g * min(1.0, DEFENCE.clip / np.linalg.norm(g)) for g in gradients)
    np.testing.assert_allclose(views["clipped_update"].update, bounded, atol=1e-5)
    unit = DEFENCE.clip / step.scale
    own = (views["noised_update"].update - bounded) / unit
    assert own.std() == pytest.approx(step.share_std, rel=0.05)
    others = [clipped_sum(model, p.inputs, p.labels, clip=DEFENCE.clip) for p in cohort]
    rest = (views["opened_sum"].update - sum(others)) / unit
    assert rest.std() == pytest.approx(step.share_std * np.sqrt(DEFENCE.merchants), rel=0.05)
    honest = views["opened_sum_less_colluders"].update - sum(others[: -DEFENCE.colluders])
    # Just the noise that is charged for is left.
    assert (honest / unit).std() == pytest.approx(step.noise_multiplier * step.sensitivity, rel=0.05)
    # A reader without the key gets values that have nothing to do with the share.
    for name in ("ciphertext", "ciphertext_and_key_share"):
        assert abs(np.corrcoef(views[name].update, views["noised_update"].update)[0, 1]) < 0.05


def test_the_reader_of_ciphertexts_is_right_given_the_true_key(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = small_cohort()
    training = noise_of_training(DEFENCE, dimension=parameter_count(model), records=2)
    values = [
        Randomness.seeded(3, index).integers(training.dimension, bound=1000).astype(np.int64) - 500
        for index in range(DEFENCE.merchants)
    ]
    keys = []
    real = kahe.KaheScheme.deal

    def remember(self: kahe.KaheScheme, key: KeyMaterial, **options: Any) -> object:
        assert key._polynomial is not None
        keys.append(key._polynomial.copy())
        return real(self, key, **options)

    monkeypatch.setattr(kahe.KaheScheme, "deal", remember)
    exchange = Exchange.run(values, DEFENCE, step=training, rng=Randomness.seeded(4))
    np.testing.assert_array_equal(exchange.opened, sum(values))
    np.testing.assert_array_equal(exchange.read(keys[0]), values[0])
    assert (exchange.read(None) == values[0]).mean() < 0.01
    assert (exchange.read_with_one_share() == values[0]).mean() < 0.01


def test_inversion_leaves_the_model_as_it_was_and_refuses_what_does_not_fit() -> None:
    model, cohort = small_cohort()
    update = np.zeros(parameter_count(model))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    pictures = reconstruct(model, update, cohort[0].labels, colours=1, size=8, search=Search(steps=2, seed=0))
    assert pictures.shape == (2, 8, 8, 1) and np.isfinite(pictures).all()
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    options = {"colours": 1, "size": 8, "search": Search(steps=1, seed=0)}
    for broken in (update[:-1], update * np.nan):
        with pytest.raises(ConfigError, match="finite values, not shape"):
            reconstruct(model, broken, cohort[0].labels, **options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="model cnn"):
        reconstruct(torch.nn.Linear(2, 2), update, cohort[0].labels, **options)  # type: ignore[arg-type]


def test_psnr_and_matching() -> None:
    zeros = np.zeros((4, 4, 1))
    assert psnr(zeros, zeros) == 100.0
    assert psnr(zeros, zeros + 0.1) == pytest.approx(20.0)
    photos = np.random.default_rng(0).random((5, 12, 12, 1))
    np.testing.assert_array_equal(match_order(photos[[3, 1, 4, 0, 2]], photos), photos)
    assert (grey_like(photos) == 0.5).all()
    with pytest.raises(DataError, match="can't be compared"):
        psnr(zeros, np.zeros((4, 5, 1)))
    with pytest.raises(DataError, match="sides of at least"):
        ssim(zeros, zeros)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(11, 20), st.integers(11, 15))
def test_ssim_is_the_definition_of_it(seed: int, height: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    left = rng.random((height, width, 1))
    right = np.clip(left + rng.normal(0, 0.2, left.shape), 0, 1)
    # Wang et al. 2004, window by window.
    axis = np.exp(-np.square(np.arange(-5, 6)) / (2 * 1.5**2))
    weights = np.outer(axis, axis) / axis.sum() ** 2
    values = []
    for top in range(height - 10):
        for start in range(width - 10):
            a, b = (x[top : top + 11, start : start + 11, 0] for x in (left, right))
            ma, mb = (weights * a).sum(), (weights * b).sum()
            va, vb = (weights * (a - ma) ** 2).sum(), (weights * (b - mb) ** 2).sum()
            cov = (weights * (a - ma) * (b - mb)).sum()
            top_part = (2 * ma * mb + 1e-4) * (2 * cov + 9e-4)
            values.append(top_part / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4)))
    assert ssim(left, right) == pytest.approx(np.mean(values), abs=1e-9)
    assert ssim(left, left) == pytest.approx(1.0)


def run_command(out: Path, **options: object) -> None:
    """Run the command function with Typer's defaults."""
    app = typer.Typer()
    app.command()(inversion)
    command = typer.main.get_command(app)
    arguments = ["--out", str(out)]
    for name, value in options.items():
        for item in value if isinstance(value, list) else [value]:
            arguments += [f"--{name.replace('_', '-')}", str(item)]
    command.main(arguments, standalone_mode=False)
