"""``fedrec audit inversion``: reconstruct a merchant's photos from what each party sees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedrec.errors import ConfigError, DataError
from fedrec.privacy.aggregation import kahe
from fedrec.privacy.dp.vectors import parameter_count
from fedrec.privacy.randomness import Randomness
from fedrec.simulations.attacks.image_similarity import grey_like, match_order, psnr, ssim
from fedrec.simulations.attacks.observations import (
    Defence,
    Photos,
    noise_of_attacked_step,
    noise_of_training,
    observe,
)
from fedrec.simulations.attacks.reconstruct import Search, reconstruct
from fedrec.vision import model_registry
from fedrec.vision.datasets import open_folder
from fedrec.vision.imageset import ImageSet
from fedrec.vision.listing.found_encoding import with_found_encoding
from fedrec.vision.model_inputs import to_inputs
from fedrec.vision.synthetic import generate
from fedrec.vision.transforms import to_model_input

SCHEMA = "fedrec.inversion/1"
MODEL = "cnn"
SUCCESS_PSNR = 25.0
"""The attack works if it reaches this PSNR, in dB, on a single photo's raw update."""
GREY_MARGIN = 1.0
"""A view reveals something if the PSNR of any picture is this many dB above that of plain grey."""
LARGEST_BATCH = 64
_COLOURS = 1

Tell = Callable[[str], None]


@dataclass(frozen=True)
class InversionSettings:
    """The attacked training and the attack.

    Attributes:
        defence: the training's settings.
        data: a folder of photos as ``fedrec simulate --data`` takes it; synthetic photos if None.
        batches: numbers of photos of the merchant in the attacked step.
        size: side of the photos in pixels.
        search_steps: steps of the search for pictures.
        seed: of photos, initial weights, search and noise; the noise is then the same in every run.
    """

    defence: Defence
    data: Path | None = None
    batches: tuple[int, ...] = (1, 8, 32)
    size: int = 32
    search_steps: int = 600
    seed: int = 0


@dataclass(frozen=True)
class Reconstruction:
    """The pictures that one view gives, and how similar they are to the photos.

    Attributes:
        name: the view.
        pictures: float64 (n, H, W, 1), in the photos' order.
        protected: whether the design says that the view shows no photo.
        psnr: mean over the pictures, dB.
        ssim: mean over the pictures.
        best_psnr: largest PSNR of a picture, dB.
        gains: by how many dB the PSNR of each picture is above that of plain grey.
    """

    name: str
    pictures: NDArray[np.float64]
    protected: bool
    psnr: float
    ssim: float
    best_psnr: float
    gains: tuple[float, ...]

    @property
    def shown(self) -> int:
        """How many photos the pictures reveal."""
        return sum(gain > GREY_MARGIN for gain in self.gains)

    @property
    def shows_something(self) -> bool:
        """Whether the pictures reveal any photo."""
        return self.shown > 0


@dataclass(frozen=True)
class BatchResult:
    """The photos of one attacked step, the scores of plain grey against them, and every view's pictures."""

    photos: NDArray[np.float64]
    grey_psnr: float
    grey_ssim: float
    views: tuple[Reconstruction, ...]

    @property
    def order(self) -> tuple[int, ...]:
        """The photos' indices, those first that the protected views reconstruct best."""
        best = np.max([view.gains for view in self.views if view.protected], axis=0)
        return tuple(int(number) for number in np.argsort(-best, kind="stable"))


@dataclass(frozen=True)
class InversionResult:
    """The results of all batches, with what a report states of the attacked training."""

    settings: InversionSettings
    parameters: int
    noise_multiplier: float
    photo_source: str
    batches: tuple[BatchResult, ...]

    @property
    def raw_psnr(self) -> float:
        """The PSNR that the attack reaches on the smallest batch's raw update, in dB."""
        return self.batches[0].views[0].psnr

    @property
    def attack_works(self) -> bool:
        """Whether the attack reconstructs a photo from an unprotected update."""
        return self.raw_psnr > SUCCESS_PSNR

    @property
    def exposed(self) -> tuple[str, ...]:
        """The protected views that reveal a photo nevertheless, each with its batch."""
        return tuple(
            f"{view.name} at batch {len(batch.photos)}"
            for batch in self.batches
            for view in batch.views
            if view.protected and view.shows_something
        )

    def report(self) -> dict[str, Any]:
        """Return the JSON form, schema ``fedrec.inversion/1``; PSNR in dB, SSIM from -1 to 1."""
        defence = self.settings.defence
        return {
            "schema": SCHEMA,
            "attack_works": self.attack_works,
            "raw_psnr": self.raw_psnr,
            "success_psnr": SUCCESS_PSNR,
            "grey_margin": GREY_MARGIN,
            "exposed": list(self.exposed),
            "model": MODEL,
            "parameters": self.parameters,
            "photos": self.photo_source,
            "size": self.settings.size,
            "search_steps": self.settings.search_steps,
            "seed": self.settings.seed,
            "epsilon": defence.epsilon,
            "delta": defence.delta,
            "clip": defence.clip,
            "noise_multiplier": self.noise_multiplier,
            "merchants": defence.merchants,
            "colluders": defence.colluders,
            "scheme": kahe.NAME,
            "batches": [
                {
                    "photos": len(batch.photos),
                    "grey_psnr": batch.grey_psnr,
                    "grey_ssim": batch.grey_ssim,
                    "views": [
                        {
                            "view": view.name,
                            "protected": view.protected,
                            "psnr": view.psnr,
                            "ssim": view.ssim,
                            "best_psnr": view.best_psnr,
                            "photos_shown": view.shown,
                            "best_gain": max(view.gains),
                            "shows_something": view.shows_something,
                        }
                        for view in batch.views
                    ],
                }
                for batch in self.batches
            ],
        }


def invert(settings: InversionSettings, *, tell: Tell = lambda line: None) -> InversionResult:
    """Attack one step of merchant 0 at every batch size, from every view.

    The first batch size must be 1: it shows whether the attack works at all.

    Args:
        settings: the attacked training and the attack.
        tell: called with a line of text per result.

    Returns:
        The results of all batches.

    Raises:
        ConfigError: the settings are out of range or don't go together.
        DataError: there are too few photos.
    """
    if not settings.batches or settings.batches[0] != 1 or settings.search_steps < 1:
        raise ConfigError("--batch must be given as 1 first, and --steps be at least 1")
    if max(settings.batches) > LARGEST_BATCH or min(settings.batches) < 1:
        raise ConfigError(f"--batch is from 1 to {LARGEST_BATCH}")
    if settings.defence.merchants < 3:
        raise ConfigError("--merchants must be at least 3: fewer can't hide in a sum")
    images, source = _photos(settings)
    model = model_registry.get(MODEL).build(
        classes=len(images.classes), channels=_COLOURS, size=settings.size, seed=settings.seed
    )
    training = noise_of_training(
        settings.defence, dimension=parameter_count(model), records=max(settings.batches)
    )
    results = []
    for batch in settings.batches:
        step = noise_of_attacked_step(settings.defence, training, records=batch)
        cohort, photos = _cohort(images, settings, batch=batch)
        rng = Randomness.seeded(settings.seed, "inversion", batch)
        views = observe(model, cohort, settings.defence, step=step, rng=rng)
        found = []
        for view in views:
            pictures = reconstruct(
                model,
                view.update,
                cohort[0].labels,
                colours=_COLOURS,
                size=settings.size,
                search=Search(steps=settings.search_steps, seed=settings.seed),
            )
            found.append(_scored(view.name, match_order(pictures, photos), photos, protected=view.protected))
            tell(f"batch {batch}: {view.name.replace('_', ' ')}: {found[-1].psnr:.1f} dB")
        grey = _scored("grey", grey_like(photos), photos, protected=False)
        results.append(BatchResult(photos, grey.psnr, grey.ssim, tuple(found)))
    return InversionResult(
        settings, parameter_count(model), training.noise_multiplier, source, tuple(results)
    )


def _photos(settings: InversionSettings) -> tuple[ImageSet, str]:
    """Return the photos to draw from, and their source."""
    if settings.data is None:
        images = generate(
            merchants=settings.defence.merchants,
            per_merchant=max(settings.batches),
            size=settings.size,
            seed=settings.seed,
            validation=0,
            test=0,
        ).train
        return images, "synthetic"
    images = open_folder(with_found_encoding(settings.data)).train
    if len(images) <= max(settings.batches):
        raise DataError(
            f"{settings.data} holds {len(images)} usable photos: "
            f"a batch of {max(settings.batches)} needs more"
        )
    return images, "folder"


def _cohort(
    images: ImageSet, settings: InversionSettings, *, batch: int
) -> tuple[list[Photos], NDArray[np.float64]]:
    """Give every merchant ``batch`` photos; the first merchant's go to no other. Return its pixels too."""
    order = np.random.default_rng([settings.seed, batch]).permutation(len(images))
    own, rest = order[:batch], order[batch:]
    needed = batch * (settings.defence.merchants - 1)
    others = np.resize(rest, needed).reshape(-1, batch)
    cohort = []
    for chosen in (own, *others):
        pixels = _grey_pixels(images, chosen, size=settings.size)
        labels = torch.tensor([images.records[int(index)].label for index in chosen])
        cohort.append(Photos(to_inputs(pixels[:, None], model_registry.get(MODEL)), labels))
    photos: NDArray[np.float64] = _grey_pixels(images, own, size=settings.size) / 255.0
    return cohort, photos


def _grey_pixels(images: ImageSet, chosen: NDArray[np.int64], *, size: int) -> NDArray[np.uint8]:
    """Return photos in grey, uint8 (n, size, size, 1): with one colour the attacker has the least to find."""
    return np.stack(
        [to_model_input(images.image(int(index)), size=size, channels=_COLOURS) for index in chosen]
    )


def _scored(
    name: str, pictures: NDArray[np.float64], photos: NDArray[np.float64], *, protected: bool
) -> Reconstruction:
    ratios = [psnr(picture, photo) for picture, photo in zip(pictures, photos, strict=True)]
    grey = [psnr(picture, photo) for picture, photo in zip(grey_like(photos), photos, strict=True)]
    likeness = [ssim(picture, photo) for picture, photo in zip(pictures, photos, strict=True)]
    return Reconstruction(
        name=name,
        pictures=pictures,
        protected=protected,
        psnr=float(np.mean(ratios)),
        ssim=float(np.mean(likeness)),
        best_psnr=max(ratios),
        gains=tuple(ratio - plain for ratio, plain in zip(ratios, grey, strict=True)),
    )
