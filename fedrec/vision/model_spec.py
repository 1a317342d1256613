"""What others need to know of a model: its specification."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from torch import nn

from fedrec.errors import ConfigError
from fedrec.vision.backbones.backbone import Backbone
from fedrec.vision.backbones.feature_sets import FeatureSet
from fedrec.vision.backbones.frozen_part import FrozenPart
from fedrec.vision.models.layers import seeded_build
from fedrec.vision.pixel_recipes import PixelRecipe
from fedrec.vision.training_recipes import Recipe, TrainingDefaults

Triple = tuple[float, float, float]
Make = Callable[[int, int, int], nn.Module]
_HALF: Final[Triple] = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class ModelSpec:
    """One model by name.

    Attributes:
        name: name on the command line and in a plan.
        make: builds the trainable network from (classes, channels, size).
        defaults: settings for a training, where no recipe chooses them.
        image_size: side in pixels of its pictures; None keeps the data set's own size.
        margin: short side before the centre crop, in crop sides.
        mean, std: public constants per colour for pixels in 0 to 1; never measured on merchants' photos.
        features: the feature set of frozen networks that is the model's input, or None when the model takes
            the (normalised) pictures themselves. Their networks prepare their own pictures.
        recipe: chooses settings from public numbers where the server takes the steps; None for ``defaults``.
        network: the network that the model fine-tunes; None for any other model.
        tokens: its frozen part, whose tokens are the model's input; None where all of it is fine-tuned.
        one_round: name of the model that one round solves from the same networks: its own for such a model,
            None where there is none.
    """

    name: str
    make: Make
    defaults: TrainingDefaults
    image_size: int | None = None
    margin: float = 1.0
    mean: Triple = _HALF
    std: Triple = _HALF
    features: FeatureSet | None = None
    recipe: Recipe | None = None
    network: Backbone | None = None
    tokens: FrozenPart | None = None
    one_round: str | None = None

    @property
    def channels(self) -> int | None:
        """Channels of its pictures: 3 for a frozen network, None for those of the data."""
        return None if self.features is None and self.network is None else 3

    def check(self) -> None:
        """Raise ``MissingExtraError`` or ``ConfigError`` unless what its frozen networks need is here."""
        if self.features is not None:
            self.features.check()
        if self.network is not None:
            self.network.check()

    @property
    def solved(self) -> bool:
        """Whether the model is solved from one sum of statistics, rather than trained by steps."""
        return self.one_round == self.name

    def fewest_steps(self, rounds: int | None) -> tuple[int, float] | None:
        """Return the rounds and the sampling rate that need the least noise of all that may be chosen.

        Args:
            rounds: the user's number of rounds, or None.

        Returns:
            Rounds and sampling rate; None where the recipe doesn't tell.
        """
        if isinstance(self.recipe, PixelRecipe):
            return self.recipe.fewest_steps(rounds)
        return None if self.recipe else (rounds or self.defaults.rounds, self.defaults.sample_rate)

    def build(self, *, classes: int, channels: int, size: int, seed: int) -> nn.Module:
        """Build the trainable network; its initial weights are determined by ``seed`` alone.

        Torch's global generator is left as it was.

        Args:
            classes: k, number of classes.
            channels: 1 (grey) or 3 (colour).
            size: side of the input pictures in pixels.
            seed: seed of the initial weights, 0 to 2**63 - 1.

        Returns:
            A network from pictures (n, channels, size, size) float32, or with a feature set from its
            vectors (n, dimension), or with a frozen part from its tokens (n, count, width), to class
            scores (n, k).

        Raises:
            ConfigError: ``channels`` is neither 1 nor 3, the seed is out of range, the model can't take
                pictures of ``size``, there is no class, or a file that it needs is missing or damaged.
            MissingExtraError: a package that it needs isn't installed.
        """
        if channels not in (1, 3):
            raise ConfigError(f"model {self.name} takes 1 or 3 channels (grey or colour), not {channels}")
        if self.network is not None and (channels, size) != (3, self.image_size):
            raise ConfigError(
                f"model {self.name} takes colour pictures of {self.image_size} pixels a side, not {size} "
                f"pixels of {channels} channels"
            )
        return seeded_build(lambda: self.make(classes, channels, size), seed=seed)

    def on_pictures(self, network: nn.Module) -> nn.Module:
        """Complete a network that :meth:`build` made to one of pictures.

        Args:
            network: the trained network of a model without a feature set.

        Returns:
            A network from normalised pictures (n, channels, size, size) to class scores.

        Raises:
            ConfigError: the file of the frozen part is missing or damaged.
            MissingExtraError: a package that it needs isn't installed.
        """
        return network if self.tokens is None else self.tokens.on_pictures(network)

    def record_shape(self, channels: int, size: int) -> tuple[int, ...]:
        """Return the shape of one record's input.

        Args:
            channels: 1 or 3.
            size: side of the input pictures in pixels.

        Returns:
            (channels, size, size), with a feature set (dimension,), with a frozen part (count, width).
        """
        if self.tokens is not None:
            return self.tokens.shape
        return (channels, size, size) if self.features is None else (self.features.dimension,)
