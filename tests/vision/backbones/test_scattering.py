"""Scattering coefficients: those of the formula, each picture's own, scaled as public pictures ask."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedrec._internal import extras
from fedrec.errors import ConfigError, MissingExtraError
from fedrec.vision.backbones import scattering
from fedrec.vision.backbones.dead_leaves import dead_leaves
from fedrec.vision.backbones.kronecker_scaling import KroneckerScaling
from fedrec.vision.backbones.scattering import Scattering, ScatteringNetwork

SIDE = 16
PADDED = SIDE + 2 * 4
"""kymatio reflects 2^J pixels at each border."""


@pytest.fixture(scope="module")
def network() -> ScatteringNetwork:
    pytest.importorskip("kymatio")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scattering, "_PUBLIC_PICTURES", 64)
        return Scattering(SIDE).load(size=SIDE, dtype=torch.float32)


def pictures(count: int, *, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)


def gabor(*, sigma: float, angle: float, frequency: float, slant: float) -> np.ndarray:
    """A Gaussian envelope times a plane wave, wrapped around the padded picture."""
    found = np.zeros((PADDED, PADDED), dtype=np.complex128)
    cos, sin = np.cos(angle), np.sin(angle)
    for i in (-2, -1, 0, 1, 2):
        for j in (-2, -1, 0, 1, 2):
            x, y = np.mgrid[i * PADDED : (i + 1) * PADDED, j * PADDED : (j + 1) * PADDED]
            along, across = x * cos + y * sin, y * cos - x * sin
            envelope = np.exp(-(along**2 + slant**2 * across**2) / (2 * sigma**2))
            found += envelope * np.exp(1j * frequency * along)
    scaled: np.ndarray = found * slant / (2 * np.pi * sigma**2)
    return scaled


def wavelet(scale: int, angle: int) -> np.ndarray:
    """A Morlet wavelet: a Gabor function less what makes its mean differ from zero."""
    given = {"sigma": 0.8 * 2**scale, "angle": (3 - angle) * np.pi / 8, "slant": 0.5}
    wave = gabor(frequency=0.75 * np.pi / 2**scale, **given)
    bell = gabor(frequency=0.0, **given)
    zero_mean: np.ndarray = wave - wave.sum() / bell.sum() * bell
    return zero_mean


def by_formula(grey: np.ndarray) -> np.ndarray:
    """S0, S1 and S2 at full resolution, then every fourth pixel; channels (81, 4, 4)."""
    padded = np.pad(grey, 4, mode="reflect")

    def filtered(values: np.ndarray, kernel: np.ndarray) -> np.ndarray:
        return np.fft.ifft2(np.fft.fft2(values) * np.fft.fft2(kernel).real)

    low = gabor(sigma=1.6, angle=0.0, frequency=0.0, slant=1.0)
    fine = [abs(filtered(padded, wavelet(0, angle))) for angle in range(8)]
    coarse = [abs(filtered(padded, wavelet(1, angle))) for angle in range(8)]
    second = [abs(filtered(first, wavelet(1, angle))) for first in fine for angle in range(8)]
    maps = [filtered(values, low)[4:-4:4, 4:-4:4] for values in [padded, *fine, *coarse, *second]]
    return np.real(np.stack(maps))


def test_coefficients_are_those_of_the_formula(network: ScatteringNetwork) -> None:
    grey = pictures(1)[0, ..., 0].astype(np.float32)
    expected = by_formula(grey / 255.0).reshape(27, -1)
    expected = expected - expected.mean(axis=1, keepdims=True)
    expected /= np.sqrt((expected**2).mean(axis=1, keepdims=True) + 1e-5)
    found = network._normalised(grey[None])[0].reshape(27, -1)
    # kymatio subsamples between filters, which aliases a little of the wavelets' tails.
    cosines = (
        (found * expected).sum(axis=1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
    )
    assert cosines.min() > 0.99


def test_a_picture_s_coefficients_are_its_own(network: ScatteringNetwork) -> None:
    images = pictures(5)
    together = network(images)["final"]
    alone = np.concatenate([network(image[None])["final"] for image in images])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-4)
    assert together.shape == (5, Scattering(SIDE).layers["final"]) and together.dtype == np.float32


def test_flat_pictures_give_finite_numbers_and_grey_is_the_luminance(network: ScatteringNetwork) -> None:
    flat = np.stack([np.full((SIDE, SIDE, 3), value, dtype=np.uint8) for value in (0, 255)])
    assert np.isfinite(network(flat)["final"]).all()
    grey = np.repeat(pictures(2)[..., :1], 3, axis=3)
    coloured = grey.copy()
    coloured[..., 2] = 255 - coloured[..., 2]
    assert not np.allclose(network(grey)["final"], network(coloured)["final"], atol=1e-2)


def test_another_size_or_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="28 pixels in float32, not 32"):
        Scattering(28).load(size=32, dtype=torch.float32)
    with pytest.raises(ConfigError, match="not 28 in torch"):
        Scattering(28).load(size=28, dtype=torch.bfloat16)
    assert Scattering(28).layers == {"final": 3969}
    assert Scattering(28).weights_hash() != Scattering(32).weights_hash()
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'fedrec\[pretrained\]'"):
        Scattering(28).check()


def test_scaling_brings_variances_together_and_keeps_its_directions() -> None:
    """Against the full covariance of maps that have a Kronecker-factored one."""
    rng = np.random.default_rng(1)
    channels, positions = rng.normal(size=(6, 6)), rng.normal(size=(4, 4))
    maps = (channels @ rng.normal(size=(20000, 6, 4)) @ positions.T + 3).astype(np.float32)
    scaling = KroneckerScaling.of(maps)
    scaled = scaling(maps).reshape(len(maps), -1)
    before, after = (np.linalg.eigvalsh(np.cov(values.T)) for values in (maps.reshape(len(maps), -1), scaled))
    assert abs(scaled.mean(axis=0)).max() < 1e-3
    expected = np.sort(before / np.sqrt(before + 0.01 * before.mean()))
    np.testing.assert_allclose(after, expected, rtol=0.1)
    # The map is symmetric and positive: it has no rotation, whose signs would be arbitrary.
    basis = np.eye(24, dtype=np.float32).reshape(24, 6, 4)
    matrix = scaling(basis + scaling.mean).reshape(24, 24)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-4)
    assert np.linalg.eigvalsh(matrix)[0] > 0
    np.testing.assert_array_equal(scaling(maps[:1]), KroneckerScaling.of(maps)(maps[:1]))


def test_dead_leaves_are_those_of_their_seed_and_have_long_correlations() -> None:
    found = dead_leaves(200, size=SIDE, seed=3)
    assert found.shape == (200, SIDE, SIDE) and found.dtype == np.uint8
    np.testing.assert_array_equal(found[:7], dead_leaves(7, size=SIDE, seed=3))
    assert (found != dead_leaves(200, size=SIDE, seed=4)).any()
    values = found.astype(np.float64) - found.mean()
    near, far = ((values[:, :, shift:] * values[:, :, :-shift]).mean() for shift in (1, SIDE // 2))
    assert 0 < far < 0.8 * near < values.var()


def test_the_module_that_is_exported_computes_the_same(network: ScatteringNetwork) -> None:
    images = pictures(3)
    images[1, :8] = 0
    with torch.no_grad():
        maps = network.maps()(torch.from_numpy(images))[0][0]
    assert maps.shape == (3, 81, 4, 4)
    assert maps.flatten(1).numpy() == pytest.approx(network(images)["final"], abs=1e-4)
