"""Registration of a user's own server optimizer, for simulations in this process."""

from __future__ import annotations

from fedrec.server.optimizers.interface import OptimizerSpec
from fedrec.server.optimizers.optimizer_registry import REGISTRY


def add_optimizer(spec: OptimizerSpec) -> None:
    """Add a server optimizer, so that ``optimizer="NAME"`` or ``"NAME:SETTING=VALUE,..."`` takes it.

    It is known to this process only. A package adds one for every program by an entry point of the group
    ``fedrec.optimizers``.

    Args:
        spec: its name, its settings, and how it is made; it replaces one added before under the same name.

    Raises:
        ConfigError: the name belongs to another optimizer, or the object is no ``OptimizerSpec``.
    """
    REGISTRY.add(spec)
