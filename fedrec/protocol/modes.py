"""Define the privacy modes of a training: who adds how much noise, and what the server sees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

Mode = Literal["distributed", "local", "off"]


@dataclass(frozen=True, kw_only=True)
class ModeSpec:
    """One privacy mode.

    Attributes:
        name: the name on the command line, in plans, policies and ledgers.
        private: whether merchants add noise.
        shares_noise: whether each merchant adds only a share, so that only a sum carries the full noise.
        several_steps: whether a merchant may take several noisy steps in a round.
        sends_moves: whether an upload is the change of the model's parameters even after a single step.
        least_merchants: the smallest number of merchants of a training.
        sum_in_words: description of the sum of an opened round.
        update_in_words: description of the noise in a single update.
    """

    name: Mode
    private: bool
    shares_noise: bool
    several_steps: bool
    sends_moves: bool
    least_merchants: int
    sum_in_words: str
    update_in_words: str


DISTRIBUTED: Final = ModeSpec(
    name="distributed",
    private=True,
    shares_noise=True,
    several_steps=False,
    sends_moves=False,
    least_merchants=3,
    sum_in_words="the sum of the updates of each opened round, with the noise that epsilon counts",
    update_in_words="with only its merchant's own share of the noise",
)
LOCAL: Final = ModeSpec(
    name="local",
    private=True,
    shares_noise=False,
    several_steps=True,
    sends_moves=True,
    least_merchants=1,
    sum_in_words="the sum of the updates of each opened round, each with the full noise of its merchant",
    update_in_words="with the full noise of its merchant",
)
OFF: Final = ModeSpec(
    name="off",
    private=False,
    shares_noise=False,
    several_steps=True,
    sends_moves=False,
    least_merchants=1,
    sum_in_words="the exact sum of the updates of each opened round, without noise",
    update_in_words="without noise",
)
_MODES: Final[Mapping[str, ModeSpec]] = {mode.name: mode for mode in (DISTRIBUTED, LOCAL, OFF)}
if set(_MODES) != set(get_args(Mode)):
    raise RuntimeError("every privacy mode has one specification")


def get(name: Mode) -> ModeSpec:
    """Return a mode's specification."""
    return _MODES[name]


def find(name: Any) -> ModeSpec | None:
    """Return the specification of the mode that a report names; None if it is not a mode's name."""
    return _MODES.get(name) if isinstance(name, str) else None
