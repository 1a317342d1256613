"""Read the limits of each measure, with where they come from."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, model_validator

from fedrec._internal.toml_files import read_toml
from fedrec._internal.validation_messages import problem_text
from fedrec.errors import ConfigError


class Threshold(BaseModel):
    """The limit of one measure: a value below ``least``, or above ``most``, is a flaw.

    Attributes:
        least: the smallest good value; None where only large values are flaws.
        most: the largest good value; None where only small values are flaws.
        origin: where the limit comes from.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    least: float | None = None
    most: float | None = None
    origin: str

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        if (self.least is None) == (self.most is None):
            raise ValueError("give either least or most")
        return self

    @property
    def limit(self) -> float:
        """Return the limit."""
        return self.least if self.least is not None else self.most or 0.0

    def is_passed(self, value: float) -> bool:
        """Return whether a value is beyond the limit."""
        return value < self.limit if self.least is not None else value > self.limit


Thresholds = Mapping[str, Threshold]
"""Limits by the name of the flaw."""

_FORM = TypeAdapter(dict[str, Threshold])


@cache
def default_thresholds() -> Thresholds:
    """Return the packaged limits."""
    text = resources.files("fedrec.recognition.quality").joinpath("thresholds.toml").read_text("utf-8")
    return _FORM.validate_python(tomllib.loads(text))


def read_thresholds(path: Path) -> Thresholds:
    """Read limits from a file; those that it doesn't name are the packaged ones.

    Args:
        path: the TOML file.

    Returns:
        The limits.

    Raises:
        ConfigError: the file can't be read, or names a flaw or a value that isn't known.
    """
    usual = default_thresholds()
    try:
        found = _FORM.validate_python(read_toml(path))
    except ValidationError as error:
        raise ConfigError(f"{path}: {problem_text(error)}") from None
    unknown = sorted(found.keys() - usual.keys())
    if unknown:
        raise ConfigError(f"{path}: there is no flaw {unknown[0]!r}; known are {', '.join(usual)}")
    turned = [name for name, limit in found.items() if (limit.least is None) != (usual[name].least is None)]
    if turned:
        kind = "most" if usual[turned[0]].least is None else "least"
        raise ConfigError(f"{path}: the limit of {turned[0]!r} is given by {kind}")
    return {**usual, **found}
