"""Registry of the models that a training can name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from torch import nn

from fedrec._internal.package_hash import package_hash
from fedrec._internal.registry import Registry
from fedrec._internal.suggestions import did_you_mean
from fedrec.errors import ConfigError
from fedrec.vision.backbones import backbone_files, packaged_sets
from fedrec.vision.backbones.backbone_files import Preparation
from fedrec.vision.backbones.efficientnet_lite import COLOUR_MEAN, COLOUR_STD, LITE0, EfficientNetLite
from fedrec.vision.backbones.feature_sets import FeatureSet
from fedrec.vision.backbones.file_backbone import FileBackbone, feature_set, frozen_network
from fedrec.vision.backbones.frozen_tokens import FrozenTokens
from fedrec.vision.backbones.lite_blocks import LAST, FrozenBlocks
from fedrec.vision.model_spec import ModelSpec
from fedrec.vision.models.centred_head import CentredHead
from fedrec.vision.models.cnn import SmallCnn
from fedrec.vision.models.discriminant_head import DiscriminantHead
from fedrec.vision.models.lora import FineTuned
from fedrec.vision.models.lora_convolution import FineTunedConvolution
from fedrec.vision.models.low_rank import RANK
from fedrec.vision.models.resnet import ResNet18
from fedrec.vision.models.tanh_cnn import TanhCnn
from fedrec.vision.pixel_recipes import (
    CNN_DEFAULTS,
    CNN_RECIPE,
    RESNET_DEFAULTS,
    RESNET_RECIPE,
    TANH_DEFAULTS,
    TANH_RECIPE,
)
from fedrec.vision.training_recipes import (
    FINE_TUNING,
    ONE_ROUND,
    TrainingDefaults,
    fine_tuning_recipe,
    head_recipe,
    last_layer_recipe,
)


def _cnn(classes: int, channels: int, size: int) -> nn.Module:
    return SmallCnn(classes=classes, channels=channels, size=size)


def _cnn_ws(classes: int, channels: int, size: int) -> nn.Module:
    return SmallCnn(classes=classes, channels=channels, size=size, standardised=True)


def _cnn_tanh(classes: int, channels: int, size: int) -> nn.Module:
    return TanhCnn(classes=classes, channels=channels, size=size)


def _resnet18(classes: int, channels: int, size: int) -> nn.Module:
    return ResNet18(classes=classes, channels=channels, size=size)


def _head(name: str, features: FeatureSet, *, one_round: str | None = None) -> ModelSpec:
    """Return a linear head on the centred vectors of a feature set."""

    def make(classes: int, channels: int, size: int) -> nn.Module:
        return CentredHead(classes=classes, dimension=features.dimension)

    return ModelSpec(
        name=name,
        make=make,
        defaults=TrainingDefaults(
            rounds=100, sample_rate=0.25, clip=0.3, learning_rate=10.0, momentum=0.9, ema=0.9
        ),
        image_size=features.image_size,
        features=features,
        recipe=head_recipe,
        one_round=one_round,
    )


def _discriminant(name: str, features: FeatureSet) -> ModelSpec:
    """Return a linear discriminant on the public directions of a feature set."""
    chosen = packaged_sets.projected(features)

    def make(classes: int, channels: int, size: int) -> nn.Module:
        return DiscriminantHead(classes=classes, dimension=chosen.dimension)

    return ModelSpec(
        name=name,
        make=make,
        defaults=ONE_ROUND,
        image_size=chosen.image_size,
        features=chosen,
        one_round=name,
    )


def _fine_tuned(name: str, added: Preparation) -> ModelSpec:
    """Return the fine-tuning of an added network by low-rank changes."""

    def make(classes: int, channels: int, size: int) -> nn.Module:
        return FineTuned(
            frozen_network(added),
            classes=classes,
            dimension=added.layers[0].length,
            rank=added.rank or RANK,
            frozen_blocks=added.frozen_blocks,
        )

    return ModelSpec(
        name=name,
        make=make,
        defaults=FINE_TUNING,
        image_size=added.size,
        mean=added.mean,
        std=added.std,
        network=FileBackbone(added),
        tokens=None if added.frozen_blocks is None else FrozenTokens(added),
        recipe=fine_tuning_recipe,
    )


def _fine_tuned_convolution(name: str, whole: EfficientNetLite, *, size: int) -> ModelSpec:
    """Return the fine-tuning of a packaged network's last convolution by a low-rank change."""
    frozen = FrozenBlocks(whole, size)

    def make(classes: int, channels: int, size: int) -> nn.Module:
        return FineTunedConvolution(frozen.last_convolution(), classes=classes, name=LAST)

    return ModelSpec(
        name=name,
        make=make,
        defaults=FINE_TUNING,
        image_size=size,
        mean=COLOUR_MEAN,
        std=COLOUR_STD,
        network=whole,
        tokens=frozen,
        recipe=last_layer_recipe,
    )


REGISTRY: Final = Registry(
    ModelSpec,
    what="model",
    group="fedrec.models",
    builtin=(
        ModelSpec("cnn", _cnn, CNN_DEFAULTS, recipe=CNN_RECIPE),
        ModelSpec("cnn-ws", _cnn_ws, CNN_DEFAULTS, recipe=CNN_RECIPE),
        ModelSpec("cnn-tanh", _cnn_tanh, TANH_DEFAULTS, recipe=TANH_RECIPE),
        ModelSpec("resnet18", _resnet18, RESNET_DEFAULTS, image_size=64, recipe=RESNET_RECIPE),
        _head("effnet-lite0-head", packaged_sets.LITE0_WIDE, one_round="effnet-lite0-discriminant"),
        _head("lite0-views-head", packaged_sets.LITE0_VIEWS, one_round="lite0-views-discriminant"),
        _head("lite2-views-head", packaged_sets.LITE2_VIEWS, one_round="lite2-views-discriminant"),
        _head(
            "lite0-lite2-views-head",
            packaged_sets.LITE0_LITE2_VIEWS,
            one_round="lite0-lite2-views-discriminant",
        ),
        _head("lite0-small-head", packaged_sets.LITE0_SMALL, one_round="lite0-small-discriminant"),
        _head("scattering-head", packaged_sets.SCATTERING),
        _head("scattering-lite0-head", packaged_sets.SCATTERING_LITE0, one_round="lite0-small-discriminant"),
        _fine_tuned_convolution("effnet-lite0-lora", LITE0, size=224),
        _discriminant("effnet-lite0-discriminant", packaged_sets.LITE0_WIDE),
        _discriminant("lite0-views-discriminant", packaged_sets.LITE0_VIEWS),
        _discriminant("lite2-views-discriminant", packaged_sets.LITE2_VIEWS),
        _discriminant("lite0-lite2-views-discriminant", packaged_sets.LITE0_LITE2_VIEWS),
        _discriminant("lite0-small-discriminant", packaged_sets.LITE0_SMALL_LAST),
    ),
)


def names() -> tuple[str, ...]:
    """Return the names of the known models, those on added backbones last."""
    registered = REGISTRY.names()
    return (*registered, *(name for name in _on_backbones() if name not in registered))


def _on_backbones() -> Iterator[str]:
    for backbone in backbone_files.names():
        try:
            made = backbone_files.read(backbone)
        except ConfigError:
            # Whoever names a model on a damaged backbone is told so.
            made = None
        yield from (f"{backbone}{backbone_files.HEAD}",) if made is None else made.models


def get(name: str) -> ModelSpec:
    """Look a model up by name.

    Args:
        name: as on the command line; ``NAME-head`` and ``NAME-lora`` for an added backbone ``NAME``.

    Returns:
        The model.

    Raises:
        ConfigError: there is no such model; the message lists the known ones.
    """
    added = _added(name)
    if added is not None:
        return _on_added(name, added)
    if name not in names():
        there = ("best", *names())
        raise ConfigError(
            f"there is no model {name!r}{did_you_mean(name, there) or ';'} choose one of {', '.join(there)}, "
            "or add a network from a file with 'fedrec backbone add'"
        )
    return REGISTRY.get(name)


_made: Final[dict[str, tuple[Preparation, ModelSpec]]] = {}


def _on_added(name: str, added: Preparation) -> ModelSpec:
    """Return the model on an added backbone, the same each time: runs of a sweep share the inputs of one."""
    if name not in _made or _made[name][0] != added:
        made = _head(name, feature_set(added)) if name == added.model else _fine_tuned(name, added)
        _made[name] = added, made
    return _made[name][1]


def _backbone_of(name: str) -> str | None:
    """Return the backbone's part of a model's name; a registered name comes first."""
    if name in REGISTRY.names():
        return None
    for ending in (backbone_files.HEAD, backbone_files.LORA):
        if name.endswith(ending):
            return name.removesuffix(ending)
    return None


def _added(name: str) -> Preparation | None:
    """Return the preparation of the added backbone that a model of this name is on."""
    backbone = _backbone_of(name)
    made = None if backbone is None else backbone_files.read(backbone)
    return made if made is not None and name in made.models else None


def _own(name: str) -> ModelSpec | None:
    """Return one of this package's own models, None for any other name; no installed code is run."""
    return REGISTRY.get(name) if name in REGISTRY.names() and REGISTRY.entry(name) is None else None


def is_solved(name: str) -> bool:
    """Return whether one of this package's own models is solved from one sum; no installed code is run."""
    return (own := _own(name)) is not None and own.solved


def takes_features(name: str) -> bool:
    """Return whether a model, which needn't be known here, learns from what frozen networks give."""
    own = _own(name)
    frozen = own is not None and (own.features is not None or own.tokens is not None)
    return frozen or _backbone_of(name) is not None


def code_of(name: str) -> str | None:
    """Return the hash of what defines a model that isn't this package's own, without running any of it.

    Args:
        name: the model's name.

    Returns:
        The hash of an installed model's code (:func:`package_hash`), or of an added backbone's file and
        preparation. None for this package's own models, and for an unknown name.
    """
    added = _added(name)
    if added is not None:
        return added.code
    entry = REGISTRY.entry(name)
    return None if entry is None else package_hash(entry)


def get_exact(name: str, code: str | None) -> ModelSpec:
    """Look up the model that a plan means; no code is run of a model whose hash isn't the plan's.

    Args:
        name: the model's name.
        code: hash of its code or backbone in the plan; None for this package's own models.

    Returns:
        The model.

    Raises:
        ConfigError: there is no such model here, or it has another hash.
    """
    found = code_of(name)
    if found != code:
        here = "isn't one of those added or installed" if found is None else f"has the code {found}"
        wanted = "one of fedrec's own" if code is None else f"one with the code {code}"
        raise ConfigError(
            f"model '{name}' {here} on this machine, and the plan means {wanted}{_advice(name, code)}"
        )
    return get(name)


def _advice(name: str, code: str | None) -> str:
    """Return what to do about a model on a backbone that isn't here, or is another one."""
    backbone = _backbone_of(name)
    if code is None or backbone is None:
        return ""
    removed = f"'fedrec backbone remove {backbone}' and " if backbone in backbone_files.names() else ""
    return (
        f": get the network's file from the training's operator, and run {removed}"
        f"'fedrec backbone add FILE --name {backbone} --code {code} ...' with the operator's options"
    )
