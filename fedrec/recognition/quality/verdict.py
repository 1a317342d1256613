"""Judge a photo: which flaws it has, and what its seller can do about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from PIL import Image

from fedrec.recognition.quality.blocks import block_contrast
from fedrec.recognition.quality.blur import sharpest_blur
from fedrec.recognition.quality.borders import border_share
from fedrec.recognition.quality.clutter import clutter
from fedrec.recognition.quality.exposure import burnt_share, exposure
from fedrec.recognition.quality.luminance import luminance
from fedrec.recognition.quality.overlaid_text import text_characters
from fedrec.recognition.quality.thresholds import Thresholds


@dataclass(frozen=True)
class Flaw:
    """A kind of flaw.

    Attributes:
        problem: what is wrong, for the seller.
        advice: what to do.
        hint: whether it may well be intended, so that it doesn't count against the photo.
    """

    problem: str
    advice: str
    hint: bool = False


FLAWS: Final = {
    "small": Flaw("The photo is small.", "Upload it in its original size."),
    "blurred": Flaw("The photo is blurred.", "Hold the camera still, and focus on the product."),
    "dark": Flaw("The photo is dark.", "Take it in daylight, or with a lamp beside the camera."),
    "washed-out": Flaw(
        "The photo is washed out: nothing in it is dark.",
        "Take it without light shining into the lens, or expose it less.",
    ),
    "overexposed": Flaw(
        "Much of the middle has lost its detail in too much light: the photo is overexposed.",
        "Expose it less, or take it without direct light on the product.",
    ),
    "flat": Flaw("The photo has little contrast.", "Take it in more light, in front of another backdrop."),
    "compressed": Flaw(
        "The photo was compressed so much that it shows squares.", "Upload the original file of the camera."
    ),
    "framed": Flaw("The photo has a frame or bars.", "Upload it without them."),
    "text": Flaw(
        "Something like a line of text is on the photo.", "Upload it without overlaid text.", hint=True
    ),
    "busy": Flaw(
        "There is much around the product.", "Take the photo in front of a plain backdrop.", hint=True
    ),
}
"""Every flaw by its name, which thresholds and output use."""


@dataclass(frozen=True)
class Finding:
    """A flaw that a photo has.

    Attributes:
        flaw: its name, a key of :data:`FLAWS`.
        value: what was measured.
        limit: the threshold.
    """

    flaw: str
    value: float
    limit: float


@dataclass(frozen=True)
class Verdict:
    """What is wrong with a photo.

    Attributes:
        findings: flaws that count, and hints.
    """

    findings: tuple[Finding, ...]

    @property
    def is_good(self) -> bool:
        """Return whether the photo has hints at most."""
        return all(FLAWS[finding.flaw].hint for finding in self.findings)


def measures(photo: Image.Image) -> dict[str, float]:
    """Measure a photo.

    Args:
        photo: as people see it, mode RGB.

    Returns:
        A value for each flaw: the short side in pixels, the blur effect, the brightest and darkest luminance,
        the share of the middle that is burnt out, the luminances' distance, the contrast of 8 x 8 squares,
        the widest bar's share, characters in a line, edges' share in the ring.
    """
    picture = luminance(photo)
    light = exposure(picture)
    return {
        "small": float(min(photo.size)),
        "blurred": sharpest_blur(picture),
        "dark": light.brightest,
        "washed-out": light.darkest,
        "overexposed": burnt_share(photo),
        "flat": light.contrast,
        "compressed": block_contrast(photo),
        "framed": border_share(photo),
        "text": float(text_characters(picture)),
        "busy": clutter(picture),
    }


def judge(photo: Image.Image, thresholds: Thresholds) -> Verdict:
    """Judge a photo by its measures.

    Args:
        photo: as people see it, mode RGB.
        thresholds: a limit for each flaw.

    Returns:
        The verdict.
    """
    return Verdict(
        tuple(
            Finding(flaw=name, value=value, limit=thresholds[name].limit)
            for name, value in measures(photo).items()
            if thresholds[name].is_passed(value)
        )
    )
