"""A user's own model, described from its factory."""

from __future__ import annotations

import hashlib
import io
import re
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import cloudpickle
from torch import nn

from fedrec.errors import ConfigError
from fedrec.vision import model_registry
from fedrec.vision.model_spec import ModelSpec

Factory = Callable[[], nn.Module]
_PREFIX = "own-"
_LIKE = "cnn"
"""The model whose defaults and public normalisation a user's own model gets."""


def user_model_spec(factory: Factory) -> ModelSpec:
    """Describe a user's own model; it is built and checked once classes and pictures are known.

    Its pictures are as the data has them, (n, channels, size, size), float32, from -1 to 1.

    Args:
        factory: builds the network.

    Returns:
        The model's spec, with the defaults of ``cnn``.

    Raises:
        ConfigError: the factory can't be sent to another process.
    """
    like = model_registry.get(_LIKE)
    return ModelSpec(
        name=code_name(factory),
        mean=like.mean,
        std=like.std,
        make=_Make(factory),
        defaults=like.defaults,
    )


@dataclass(frozen=True)
class _Make:
    """Builds the network from the factory, which takes no arguments."""

    factory: Factory

    def __call__(self, classes: int, channels: int, size: int) -> nn.Module:
        network = self.factory()
        if not isinstance(network, nn.Module):
            raise ConfigError(f"the model's factory returns {type(network).__name__}, not a torch.nn.Module")
        return network


def code_name(factory: Factory) -> str:
    """Name a factory by a hash of its pickled code: ``own-`` and 16 hexadecimal digits.

    Code defined in the script or notebook is hashed by what it does, whatever its line numbers; imported
    code by its module's name alone.

    Args:
        factory: builds the network.

    Returns:
        The name.

    Raises:
        ConfigError: the factory can't be pickled.
    """
    data = io.BytesIO()
    try:
        _CodePickler(data).dump(factory)
    # A user's own objects can raise anything.
    except Exception as error:
        raise ConfigError(f"the model can't be sent to the worker processes: {error}") from None
    # A class of the script is given a random name of 32 hexadecimal digits in every process.
    code = re.sub(rb"[0-9a-f]{32}", b"", data.getvalue())
    return f"{_PREFIX}{hashlib.sha256(code).hexdigest()[:16]}"


def is_user_model(name: str) -> bool:
    """Return whether a plan's model is a user's own, as :func:`code_name` names it."""
    return name.startswith(_PREFIX)


def _code_alone(code: types.CodeType) -> tuple[Any, ...]:
    """Reduce a code object to what it does, without its file and line numbers."""
    does = (code.co_code, code.co_consts, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    return tuple, (does,)


class _CodePickler(cloudpickle.Pickler):  # type: ignore[misc]  # a class without stubs
    dispatch_table: ClassVar[Any] = {**cloudpickle.Pickler.dispatch_table, types.CodeType: _code_alone}
