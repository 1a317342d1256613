"""The page of ``fedrec audit inversion``: photos, and what each party could reconstruct of them."""

from __future__ import annotations

import io
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fedrec.privacy.aggregation import kahe
from fedrec.report.document import (
    Alert,
    Block,
    Cell,
    Column,
    Document,
    Facts,
    Named,
    Paragraph,
    Pictures,
    Section,
    Table,
    Tag,
)
from fedrec.report.html import render_html
from fedrec.simulations.attacks.inversion import (
    MODEL,
    SUCCESS_PSNR,
    BatchResult,
    InversionResult,
    Reconstruction,
)

SHOWN = 8
"""The largest number of a batch's pictures on the page."""

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
    "reconstructions that suits it best. A better attack may come; none can pass the bound that epsilon "
    "sets."
)


def render(result: InversionResult) -> str:
    """Return the page: one HTML file that loads no external resource."""
    return render_html(inversion_document(result))


def inversion_document(result: InversionResult) -> Document:
    """Lay out every batch with its pictures, after the verdict and before the attack's settings."""
    works = result.attack_works and not result.exposed
    return Document(
        title="What an update shows of a photo",
        subtitle=_INTRODUCTION,
        blocks=(
            Alert((verdict(result),), "good" if works else "bad"),
            *map(_batch, result.batches),
            Section("The attack", (Paragraph(_ATTACK, "note"), _settings(result))),
        ),
    )


def verdict(result: InversionResult) -> str:
    """State the result in one or two sentences."""
    if not result.attack_works:
        return (
            f"The attack is broken: it reaches {result.raw_psnr:.1f} dB on an unprotected update, and "
            f"{SUCCESS_PSNR:.0f} are needed. This page says nothing about protection."
        )
    works = f"Unprotected, the photo comes back ({result.raw_psnr:.1f} dB)."
    if result.exposed:
        return f"{works} It shows through where it should not: {'; '.join(result.exposed).replace('_', ' ')}."
    return f"{works} What leaves the merchant shows no more than a plain grey picture does."


def _batch(batch: BatchResult) -> Section:
    count = len(batch.photos)
    title = "One photo in the step" if count == 1 else f"{count} photos in the step"
    shown = (
        f" The {SHOWN} are shown that come out best where nothing should; the figures are of all."
        if count > SHOWN
        else ""
    )
    note = (
        "Mean PSNR in dB (higher is nearer; identical is 100) and SSIM (1 is identical). Plain grey scores "
        f"{batch.grey_psnr:.1f} dB and {batch.grey_ssim:.2f}.{shown}"
    )
    chosen = list(batch.order[:SHOWN])
    name = "The photos" if count > 1 else "The photo"
    photos = Pictures(_files(batch.photos[chosen]), name, large=count == 1)
    rows: list[tuple[Cell, ...]] = [(name, photos, "", "", "")]
    rows += [_view(view, chosen) for view in batch.views]
    columns = (
        Column("Who holds it"),
        Column("Pictures", "verdict"),
        Column("PSNR", "number"),
        Column("SSIM", "number"),
        Column("", "verdict"),
    )
    blocks: tuple[Block, ...] = (Paragraph(note, "note"), Table(columns, tuple(rows), stacks=True))
    return Section(title, blocks)


def _view(view: Reconstruction, chosen: list[int]) -> tuple[Cell, ...]:
    name, holder = _PARTIES[view.name]
    text = f"shows {view.shown} of {len(view.gains)}" if view.shows_something else "shows nothing"
    return (
        Named(name, holder),
        Pictures(_files(view.pictures[chosen]), name, large=len(view.pictures) == 1),
        f"{view.psnr:.1f}",
        f"{view.ssim:.2f}",
        Tag(text, "bad" if view.shows_something else "good"),
    )


def _files(pictures: NDArray[np.float64]) -> tuple[bytes, ...]:
    """Encode pictures, float64 (n, H, W, 1) in 0 to 1, as PNG files."""
    found = []
    for picture in pictures:
        buffer = io.BytesIO()
        pixels = np.round(np.clip(picture[..., 0], 0.0, 1.0) * 255.0).astype(np.uint8)
        Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
        found.append(buffer.getvalue())
    return tuple(found)


def _settings(result: InversionResult) -> Facts:
    defence = result.settings.defence
    return Facts(
        (
            ("Photos", f"{result.photo_source}, grey, {result.settings.size} pixels a side"),
            ("Model", f"{MODEL}, {result.parameters:,} parameters"),
            ("Epsilon of the training", f"{defence.epsilon:g} at delta {defence.delta:.2g}"),
            ("Noise multiplier", f"{result.noise_multiplier:.3f}"),
            ("Clip", f"{defence.clip:g}"),
            ("Merchants", f"{defence.merchants}, of whom {defence.colluders} may side with the server"),
            ("Encryption", kahe.NAME),
            ("Search", f"{result.settings.search_steps} steps, seed {result.settings.seed}"),
        )
    )
