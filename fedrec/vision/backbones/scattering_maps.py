"""Scattering as a module that torch can export: Fourier transforms as products with real matrices.

The recursion is that of Bruna and Mallat 2013 (section 2) for two scales, as kymatio computes it in the
Fourier domain. Complex numbers are pairs of real tensors, since ONNX's operators have none.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from fedrec.vision.backbones.kronecker_scaling import KroneckerScaling
from fedrec.vision.backbones.traceable import Maps

Complex = tuple[Tensor, Tensor]
"""Real and imaginary part."""


class ScatteringMaps(nn.Module):
    """Scaled coefficients of pictures of one size, as maps.

    Args:
        transform: kymatio's transform, of two scales and two orders, whose filters are used.
        scaling: of the normalised coefficients.
        groups: of the normalisation.
        luminance: weight of each colour.
    """

    def __init__(
        self, transform: Any, scaling: KroneckerScaling, *, groups: int, luminance: NDArray[np.float32]
    ) -> None:
        super().__init__()
        self._groups = groups
        self._pads = [*transform.pad.padding_module.padding]
        side = transform._M_padded
        self._sides = [side, side // 2, side // 4]
        for level, length in enumerate(self._sides):
            angles = 2 * np.pi * np.outer(np.arange(length), np.arange(length)) / length
            self._keep(f"cosine{level}", np.cos(angles))
            self._keep(f"sine{level}", np.sin(angles))
        for level, low in enumerate(transform.phi["levels"]):
            self._keep(f"low{level}", low)
        for scale in (0, 1):
            wavelets = [each["levels"] for each in transform.psi if each["j"] == scale]
            for level in range(len(wavelets[0])):
                self._keep(f"wavelets{scale}{level}", np.stack([each[level] for each in wavelets])[None])
        self._keep("luminance", luminance)
        for name in ("mean", "channels", "positions", "scales"):
            self._keep(f"scaling_{name}", getattr(scaling, name))

    def _keep(self, name: str, values: NDArray[Any]) -> None:
        self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(np.squeeze(values), np.float32)))

    def forward(self, pictures: Tensor) -> Maps:
        """Compute the maps (n, channels, height, width) of uint8 pictures (n, size, size, 3)."""
        grey = (pictures.float() * self._buffer("luminance")).sum(dim=3) / 255.0
        spectrum = self._transformed(F.pad(grey[:, None], self._pads, mode="reflect"), level=0)
        orders: list[list[Tensor]] = [[self._smoothed(spectrum, level=0)], [], []]
        for scale in (0, 1):
            first = self._moduli(spectrum, self._buffer(f"wavelets{scale}0"), level=0, factor=2**scale)
            orders[1].append(self._smoothed(first, level=scale))
            if scale == 0:
                parts = (first[0][:, :, None], first[1][:, :, None])
                second = self._moduli(parts, self._buffer("wavelets10"), level=0, factor=2)
                orders[2].append(self._smoothed(second, level=1).flatten(1, 2))
        maps = torch.cat([part for order in orders for part in order], dim=1)
        return ((self._scaled(F.group_norm(maps, self._groups)),),)

    def _buffer(self, name: str) -> Tensor:
        found: Tensor = getattr(self, name)
        return found

    def _transformed(self, signal: Tensor, *, level: int) -> Complex:
        """Return the discrete Fourier transform of a real signal (..., side, side)."""
        cosine, sine = self._buffer(f"cosine{level}"), self._buffer(f"sine{level}")
        rows, turned = signal @ cosine, signal @ sine
        return cosine @ rows - sine @ turned, -(sine @ rows) - cosine @ turned

    def _inverse(self, spectrum: Complex, *, level: int) -> Complex:
        cosine, sine = self._buffer(f"cosine{level}"), self._buffer(f"sine{level}")
        real, imaginary = spectrum
        rows = (real @ cosine - imaginary @ sine, real @ sine + imaginary @ cosine)
        area = self._sides[level] ** 2
        return (
            (cosine @ rows[0] - sine @ rows[1]) / area,
            (sine @ rows[0] + cosine @ rows[1]) / area,
        )

    def _moduli(self, spectrum: Complex, filters: Tensor, *, level: int, factor: int) -> Complex:
        """Return the spectrum of the modulus of a filtered, subsampled signal."""
        below = level + factor // 2
        real, imaginary = self._inverse(_subsampled(spectrum, filters, factor), level=below)
        return self._transformed(torch.sqrt(real * real + imaginary * imaginary), level=below)

    def _smoothed(self, spectrum: Complex, *, level: int) -> Tensor:
        """Return the signal's average at the coarsest scale, without the border of one position."""
        factor = 2 ** (2 - level)
        real, _ = self._inverse(_subsampled(spectrum, self._buffer(f"low{level}"), factor), level=2)
        return real[..., 1:-1, 1:-1]

    def _scaled(self, maps: Tensor) -> Tensor:
        mean, scales = self._buffer("scaling_mean"), self._buffer("scaling_scales")
        channels, positions = self._buffer("scaling_channels"), self._buffer("scaling_positions")
        turned = channels.T @ (maps.flatten(2) - mean) @ positions
        return (channels @ (turned * scales) @ positions.T).reshape(maps.shape)


def _subsampled(spectrum: Complex, filters: Tensor, factor: int) -> Complex:
    """Filter a spectrum (..., side, side), and fold it as taking every ``factor``-th value folds it."""
    real, imaginary = (_folded(part * filters, factor) for part in spectrum)
    return real, imaginary


def _folded(values: Tensor, factor: int) -> Tensor:
    below = int(values.shape[-1]) // factor
    return values.reshape(*values.shape[:-2], factor, below, factor, below).mean(dim=(-2, -4))
