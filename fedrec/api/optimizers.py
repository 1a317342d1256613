"""A server optimizer of the user's own, for simulations of this process."""

from __future__ import annotations

from fedrec.server.optimizers.interface import OptimizerSpec
from fedrec.server.optimizers.optimizer_registry import REGISTRY


def add_optimizer(spec: OptimizerSpec) -> None:
    """Add a server optimizer, so that ``optimizer="NAME"`` or ``"NAME:SETTING=VALUE,..."`` takes it.

    It lives in this process alone. A package adds one for every program by an entry point of the group
    ``fedrec.optimizers``.

    Args:
        spec: its name, its settings, and how it is made; one added before under the same name gives way.

    Raises:
        ConfigError: the name is that of another optimizer, or the object is no ``OptimizerSpec``.

    """
    REGISTRY.add(spec)
