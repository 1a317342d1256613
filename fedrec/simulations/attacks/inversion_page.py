"""The page of ``fedrec audit inversion``: photos, and what each party could make of them."""

from __future__ import annotations

import base64
import io
from html import escape
from importlib.resources import files
from string import Template
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fedrec.simulations.attacks.inversion import SUCCESS_PSNR, BatchResult, InversionResult, Reconstruction

SHOWN = 8
"""Pictures of a batch on the page, at most."""

_PARTIES: Final = {
    "raw_update": ("Raw update", "never leaves the merchant's machine"),
    "clipped_update": ("Clipped update", "never leaves the merchant's machine"),
    "noised_update": (
        "Clipped and noised share",
        "never leaves unencrypted; seen if the encryption were broken",
    ),
    "ciphertext": ("Ciphertext", "what the server gets from this merchant"),
    "ciphertext_and_key_share": (
        "Ciphertext and one key share",
        "the server together with one member of the committee",
    ),
    "opened_sum": ("Opened sum of all merchants", "what the server sees in the end"),
    "opened_sum_less_colluders": (
        "Opened sum less the colluders' part",
        "the server together with the merchants assumed to side with it",
    ),
}

_INTRODUCTION: Final = (
    "A merchant's photos go into one training step. Below each row is what one party holds of that step, "
    "turned back into pictures by the same attack. A protected row should look like noise: plain grey "
    "pictures are what anybody can guess without having seen anything."
)
_ATTACK: Final = (
    "Gradient inversion at the model's initial weights. The attacker is given more than any party has: which "
    "photos' labels are in the step and in what order, how many there are, that each of them surely takes "
    "part, grey photos only (with colour there is three times as much to find), and the order of the "
    "reconstructions that suits it best. A better attack may come; what no attack passes is the bound that "
    "epsilon sets."
)


def render(result: InversionResult) -> str:
    """Return the page: one HTML file that loads nothing from anywhere."""
    template = files("fedrec.simulations.attacks").joinpath("inversion.html").read_text(encoding="utf-8")
    return Template(template).substitute(
        introduction=escape(_INTRODUCTION),
        verdict=_verdict(result),
        batches="".join(map(_batch, result.batches)),
        attack=escape(_ATTACK),
        settings=_settings(result),
    )


def verdict(result: InversionResult) -> str:
    """Say in one or two sentences what came out."""
    if not result.attack_works:
        return (
            f"The attack is broken: it reaches {result.raw_psnr:.1f} dB on an unprotected update, and "
            f"{SUCCESS_PSNR:.0f} are needed. This page says nothing about protection."
        )
    works = f"Unprotected, the photo comes back ({result.raw_psnr:.1f} dB)."
    if result.exposed:
        return f"{works} It shows through where it should not: {'; '.join(result.exposed).replace('_', ' ')}."
    return f"{works} What leaves the merchant shows no more than a plain grey picture does."


def _verdict(result: InversionResult) -> str:
    css = "good" if result.attack_works and not result.exposed else "bad"
    return f'<p class="verdict {css}" role="status">{escape(verdict(result))}</p>'


def _batch(batch: BatchResult) -> str:
    count = len(batch.photos)
    title = "One photo in the step" if count == 1 else f"{count} photos in the step"
    shown = (
        f" The {SHOWN} are shown that come out best where nothing should; the figures are of all."
        if count > SHOWN
        else ""
    )
    chosen = list(batch.order[:SHOWN])
    rows = [
        _row("The photos" if count > 1 else "The photo", "", batch.photos[chosen], "", "", ""),
        *(_view(view, chosen) for view in batch.views),
    ]
    return (
        f'<section><h2>{title}</h2><p class="note">Mean PSNR in dB (higher is nearer; identical is 100) and '
        f"SSIM (1 is identical). Plain grey scores {batch.grey_psnr:.1f} dB and {batch.grey_ssim:.2f}."
        f'{shown}</p><table class="{"single" if count == 1 else "several"}"><thead><tr><th>Who holds it</th>'
        '<th>Pictures</th><th class="number">PSNR</th><th class="number">SSIM</th><th></th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></section>"
    )


def _view(view: Reconstruction, chosen: list[int]) -> str:
    name, holder = _PARTIES[view.name]
    text = f"shows {view.shown} of {len(view.gains)}" if view.shows_something else "shows nothing"
    tag = f'<span class="tag {"bad" if view.shows_something else "good"}">{text}</span>'
    return _row(name, holder, view.pictures[chosen], f"{view.psnr:.1f}", f"{view.ssim:.2f}", tag)


def _row(name: str, note: str, pictures: NDArray[np.float64], ratio: str, likeness: str, tag: str) -> str:
    images = "".join(
        f'<img src="{_data_address(picture)}" alt="{escape(name)}, picture {number}">'
        for number, picture in enumerate(pictures, start=1)
    )
    return (
        f'<tr><th scope="row">{escape(name)}<span>{escape(note)}</span></th>'
        f'<td class="pictures">{images}</td>'
        f'<td class="number">{ratio}</td><td class="number">{likeness}</td><td>{tag}</td></tr>'
    )


def _data_address(picture: NDArray[np.float64]) -> str:
    """Write a picture, float64 (H, W, 1) in 0 to 1, as a PNG in a data: address."""
    pixels = np.round(np.clip(picture[..., 0], 0.0, 1.0) * 255.0).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _settings(result: InversionResult) -> str:
    defence = result.settings.defence
    pairs = (
        ("Photos", f"{result.photo_source}, grey, {result.settings.size} pixels a side"),
        ("Model", f"cnn, {result.parameters:,} parameters"),
        ("Epsilon of the training", f"{defence.epsilon:g} at delta {defence.delta:.2g}"),
        ("Noise multiplier", f"{result.noise_multiplier:.3f}"),
        ("Clip", f"{defence.clip:g}"),
        ("Merchants", f"{defence.merchants}, of whom {defence.colluders} may side with the server"),
        ("Encryption", "kahe"),
        ("Search", f"{result.settings.search_steps} steps, seed {result.settings.seed}"),
    )
    return "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in pairs)
