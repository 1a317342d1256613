"""Ray through Flower's own simulation backend."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedrec.errors import MissingExtraError

if TYPE_CHECKING:
    from flwr.server.superlink.fleet.vce.backend.raybackend import RayBackend


def require_ray() -> type[RayBackend]:
    """Return Flower's Ray backend; ``MissingExtraError`` when Ray is not installed."""
    # Ray reads these when it starts: no usage reports, and actors see the GPUs that this process sees.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray  # noqa: F401
        from flwr.server.superlink.fleet.vce.backend.raybackend import RayBackend
    except ImportError:
        raise MissingExtraError(
            "--engine ray needs Ray, which is not installed: pip install 'fedrec[ray]'"
        ) from None
    return RayBackend


class RayActors:
    """A Ray of our own on this machine, with ``workers`` actors of Flower's backend.

    An actor gets its ClientApp from ``make_app`` (picklable) for each message. An actor that dies is
    started again; until it is back, the messages that it is given fail.
    """

    def __init__(self, make_app: Callable[[], ClientApp], *, workers: int) -> None:
        backend_class = require_ray()
        # Failures reach the caller as exceptions; Flower would log each of them with its traceback too.
        self._logger = logging.getLogger("flwr")
        self._level = self._logger.level
        self._logger.setLevel(logging.CRITICAL + 1)
        search_path = os.environ.get("PYTHONPATH")
        try:
            self._backend = backend_class(
                {
                    # A Ray that runs elsewhere can't see the merchants' folders.
                    "init_args": {
                        "address": "local",
                        "num_cpus": workers,
                        "logging_level": logging.ERROR,
                        "log_to_driver": False,
                        "include_dashboard": False,
                    },
                    # Flower hands these to Ray as the actors' options; -1 is any number of restarts.
                    "client_resources": {"num_cpus": 1, "num_gpus": 0.0, "max_restarts": -1},
                }
            )
            self._backend.build(make_app)
        except BaseException:
            self._logger.setLevel(self._level)
            raise
        finally:
            # The backend leaves Python's search path in the environment; only its actors need it.
            os.environ.pop("PYTHONPATH", None)
            if search_path is not None:
                os.environ["PYTHONPATH"] = search_path
        self.workers = self._backend.num_workers

    def handle(self, message: Message, context: Context) -> tuple[Message, Context]:
        """Have an idle actor answer a message; at most ``workers`` calls may be under way at once.

        Returns the reply and the node's context after it. Raises ``RuntimeError`` with the text of the
        ClientApp's exception, or with Ray's when the actor is gone.
        """
        try:
            return self._backend.process_message(message, context)
        except Exception as error:
            # Ray's text is a traceback, in colour; Flower's last line ends with what was raised.
            raise RuntimeError(str(error).rsplit("occurred. Message: ", 1)[-1]) from None

    def kill(self) -> None:
        """Stop the actors, busy ones too: every call of ``handle`` under way raises."""
        import ray

        pool = self._backend.pool
        if pool is None or not ray.is_initialized():
            return
        actors: list[Any] = [*pool.pool, *pool._future_to_actor.values()]
        for actor in actors:
            ray.kill(actor)

    def close(self) -> None:
        """Stop Ray; closing twice is harmless. A call of ``handle`` under way would never return."""
        import ray

        # Flower's own ``terminate`` would start Ray again if it were stopped already.
        if ray.is_initialized():
            self._backend.terminate()
        self._logger.setLevel(self._level)
