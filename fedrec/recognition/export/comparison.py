"""Compare a graph with the network that it was made from, by another path, before it is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.special import softmax

from fedrec.errors import ConfigError
from fedrec.recognition.bundle.photo_inputs import PhotoInput, prepared
from fedrec.recognition.bundle.session import Session
from fedrec.recognition.export.as_trained import tokens_as_trained, vectors_as_trained
from fedrec.recognition.export.sources import Source
from fedrec.vision.model_inputs import InputShape
from fedrec.vision.model_spec import ModelSpec
from fedrec.vision.normalisation import normalise
from fedrec.vision.synthetic import merchant_style, photo
from fedrec.vision.transforms import to_model_input

PHOTOS: Final = 24
LARGEST_DIFFERENCE: Final = 1e-4
_SIDES: Final = (96, 192)
_CLASSES: Final = 10


class Comparison(NamedTuple):
    """How much a graph differs from its network.

    Attributes:
        largest_difference: of a probability; of a coordinate of the embedding for a backbone alone.
        same_class: share of photos with the same most probable class; 1 for a backbone alone.
    """

    largest_difference: float
    same_class: float


def public_photos(count: int = PHOTOS) -> list[Image.Image]:
    """Make photos that nobody owns, to compare with: synthetic products, some of them out of proportion."""
    rng = np.random.Generator(np.random.PCG64(0))
    made = []
    for number in range(count):
        style = merchant_style(0, number % 4)
        pixels = photo(number % _CLASSES, style, size=_SIDES[number % len(_SIDES)], rng=rng)
        picture = Image.fromarray(pixels)
        made.append(picture if number % 3 else picture.resize((picture.width * 2, picture.height)))
    return made


def compared(source: Source, session: Session, photos: Sequence[Image.Image]) -> Comparison:
    """Compare a graph with the network on photos.

    The network takes the path of a training: features or tokens by the extractors, in float32, or pictures.

    Args:
        source: the network.
        session: the graph.
        photos: the photos.

    Returns:
        The differences.

    Raises:
        ConfigError: they differ by more than is allowed.
    """
    wanted = _as_trained(source, photos)
    session_inputs: Sequence[PhotoInput] = session.inputs
    outputs = [session.run(prepared(session_inputs, [each])) for each in photos]
    if source.network is None:
        found = np.concatenate([each.embedding for each in outputs])
        same = 1.0
    else:
        found = np.concatenate([each.probabilities for each in outputs])
        same = float(np.mean(found.argmax(axis=1) == wanted.argmax(axis=1)))
    difference = float(np.abs(found - wanted).max())
    if not difference <= LARGEST_DIFFERENCE:
        raise ConfigError(
            f"the graph doesn't compute what {source.spec.name} computes: its outputs differ by "
            f"{difference:.2g}, and {LARGEST_DIFFERENCE:g} is allowed; nothing was written"
        )
    return Comparison(difference, same)


def _as_trained(source: Source, photos: Sequence[Image.Image]) -> NDArray[np.float32]:
    """Compute probabilities at temperature 1, or vectors of a backbone alone."""
    if source.spec.tokens is not None:
        inputs = torch.from_numpy(tokens_as_trained(source.spec.tokens, photos))
    elif source.spec.features is None:
        inputs = _pictures(source.spec, source.shape, photos)
    else:
        vectors = vectors_as_trained(source.spec.features, photos)
        if source.network is None:
            return vectors
        inputs = torch.from_numpy(vectors)
    if source.network is None:
        raise ConfigError(f"model {source.spec.name} has no frozen networks")
    run: Callable[[torch.Tensor], torch.Tensor] = source.network
    with torch.inference_mode():
        scores = torch.cat([run(inputs[i : i + 1]) for i in range(len(inputs))])
        probabilities: NDArray[np.float32] = torch.softmax(scores.float(), dim=1).numpy()
    return probabilities


def _pictures(spec: ModelSpec, shape: InputShape, photos: Sequence[Image.Image]) -> torch.Tensor:
    rows = [
        to_model_input(each, size=shape.size, channels=shape.channels, margin=spec.margin) for each in photos
    ]
    return normalise(torch.from_numpy(np.stack(rows)), mean=spec.mean, std=spec.std)


def check_temperature(
    plain: Session, changed: Session, photos: Sequence[Image.Image], *, temperature: float
) -> None:
    """Compare a graph of another temperature with the one that was compared with the network.

    Args:
        plain: the graph of temperature 1.
        changed: the graph of the other temperature.
        photos: the photos.
        temperature: which one.

    Raises:
        ConfigError: scores differ, or probabilities aren't those of the scores at the temperature.
    """
    pairs = [
        (plain.run(prepared(plain.inputs, [each])), changed.run(prepared(changed.inputs, [each])))
        for each in photos
    ]
    first = np.concatenate([one.scores for one, _ in pairs])
    second = np.concatenate([other.scores for _, other in pairs])
    found = np.concatenate([other.probabilities for _, other in pairs])
    wanted = softmax(first.astype(np.float64) / temperature, axis=1)
    largest = float(np.abs(first).max()) or 1.0
    differs = np.abs(first - second).max() > LARGEST_DIFFERENCE * largest
    if differs or not np.abs(found - wanted).max() <= LARGEST_DIFFERENCE:
        raise ConfigError(
            f"the graph of temperature {temperature:.3g} doesn't compute what that of temperature 1 does: "
            "nothing was written"
        )
