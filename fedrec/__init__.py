"""fedrec: federated product recognition with record-level privacy under encrypted aggregation.

    result = fedrec.simulate(model=lambda: MyNet(), merchants=[(x, y), ...], test=(x, y), epsilon=8)
    result.accuracy, result.f1, result.epsilon, result.rounds, result.folder

:func:`simulate` trains with simulated merchants, :func:`compare` compares runs, :func:`load_model` loads
the model of a run, and :func:`export_model` makes a bundle of it. :func:`epsilon` and :func:`noise_for`
compute what a training costs, :func:`add_optimizer` registers your own server optimizer, and :func:`verify`
rechecks an audit bundle. Each name is imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedrec.api.accounting import epsilon, noise_for
    from fedrec.api.auditing import verify
    from fedrec.api.comparing import compare
    from fedrec.api.exporting import export_model
    from fedrec.api.optimizers import add_optimizer
    from fedrec.api.results import Progress, Result, Round
    from fedrec.api.simulation import simulate
    from fedrec.api.simulation_options import SimulationOptions
    from fedrec.api.trained_model import TrainedModel, load_model
    from fedrec.errors import FedrecError
    from fedrec.server.optimizers.interface import OptimizerSpec, Setting
    from fedrec.simulations.comparison.rows import Comparison

__version__ = "0.1.0"
__all__ = [
    "Comparison",
    "FedrecError",
    "OptimizerSpec",
    "Progress",
    "Result",
    "Round",
    "Setting",
    "SimulationOptions",
    "TrainedModel",
    "add_optimizer",
    "compare",
    "epsilon",
    "export_model",
    "load_model",
    "noise_for",
    "simulate",
    "verify",
]

_HOMES = {
    "Comparison": "fedrec.simulations.comparison.rows",
    "FedrecError": "fedrec.errors",
    "OptimizerSpec": "fedrec.server.optimizers.interface",
    "Progress": "fedrec.api.results",
    "Result": "fedrec.api.results",
    "Round": "fedrec.api.results",
    "Setting": "fedrec.server.optimizers.interface",
    "SimulationOptions": "fedrec.api.simulation_options",
    "TrainedModel": "fedrec.api.trained_model",
    "add_optimizer": "fedrec.api.optimizers",
    "compare": "fedrec.api.comparing",
    "epsilon": "fedrec.api.accounting",
    "export_model": "fedrec.api.exporting",
    "load_model": "fedrec.api.trained_model",
    "noise_for": "fedrec.api.accounting",
    "simulate": "fedrec.api.simulation",
    "verify": "fedrec.api.auditing",
}


def __getattr__(name: str) -> object:
    """Import a name on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List all names, imported or not."""
    return sorted({*globals(), *__all__})
