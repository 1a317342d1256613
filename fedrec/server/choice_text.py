"""Read a choice by name with its numeric settings: ``NAME`` or ``NAME:SETTING=VALUE,...``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeVar

from fedrec._internal.registry import Named, Registry
from fedrec.errors import ConfigError
from fedrec.protocol.plan import ServerSetting
from fedrec.server.optimizers.interface import Setting


class Adjustable(Named, Protocol):
    """A specification with settings."""

    @property
    def settings(self) -> Mapping[str, Setting]:
        """What can be set, by name."""
        ...


Choice = TypeVar("Choice", bound=Adjustable)


def read_named(text: str, registry: Registry[Choice], *, option: str) -> tuple[Choice, Mapping[str, float]]:
    """Read ``NAME`` or ``NAME:SETTING=VALUE,...``.

    Args:
        text: what the user wrote.
        registry: where the name is looked up.
        option: the option that it was written for, such as ``--optimizer``.

    Returns:
        The choice, and the settings that the text gives.

    Raises:
        ConfigError: the name or a setting is unknown, or a value is no number in its range.
    """
    name, colon, rest = text.partition(":")
    spec = registry.get(name)
    if colon and not rest:
        raise ConfigError(f"{option} {text} names no setting: write {name}, or {name}:SETTING=VALUE,...")
    given: dict[str, float] = {}
    for part in filter(None, rest.split(",")):
        key, _, value = part.partition("=")
        if key not in spec.settings or key in given:
            known = ", ".join(spec.settings) or "none at all"
            raise ConfigError(f"{option} {text}: {name} takes these settings, each once: {known}")
        given[key] = _in_range(value, spec.settings[key], where=f"{option} {text}: {key}")
    return spec, given


def all_settings(spec: Adjustable, given: Mapping[str, float]) -> tuple[ServerSetting, ...]:
    """Return every setting of a choice, those that were not given with their defaults.

    Args:
        spec: the choice.
        given: values by name.

    Returns:
        The settings, as a plan holds them.
    """
    return tuple(
        ServerSetting(name=name, value=given.get(name, setting.default))
        for name, setting in spec.settings.items()
    )


def _in_range(text: str, setting: Setting, *, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not setting.least <= value < setting.limit:
        raise ConfigError(f"{where} is a number from {setting.least:g} to below {setting.limit:g}")
    return value
