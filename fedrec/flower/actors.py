"""Run ClientApps on Ray through Flower's simulation backend."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedrec._internal.pip_command import pip_command
from fedrec.errors import MissingExtraError

if TYPE_CHECKING:
    from flwr.server.superlink.fleet.vce.backend.raybackend import RayBackend


def require_ray() -> type[RayBackend]:
    """Return Flower's Ray backend; ``MissingExtraError`` if Ray is not installed."""
    # Ray reads these when it starts: no usage reports, and actors see the GPUs that this process sees.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray  # noqa: F401 (whether it is installed)
        from flwr.server.superlink.fleet.vce.backend.raybackend import RayBackend
    except ImportError:
        raise MissingExtraError(
            f"--engine ray needs Ray, which is not installed: {pip_command('fedrec[ray]')}"
        ) from None
    return RayBackend


class RayActors:
    """Run actors of Flower's backend on a Ray instance of this process's own, on this machine.

    An actor that dies is restarted; until then, the messages given to it fail.

    Args:
        make_app: makes the ClientApp of an actor, for each message; must be picklable.
        workers: number of actors.

    Raises:
        MissingExtraError: Ray is not installed.
    """

    def __init__(self, make_app: Callable[[], ClientApp], *, workers: int) -> None:
        backend_class = require_ray()
        # Failures reach the caller as exceptions; Flower would also log each with its traceback.
        self._logger = logging.getLogger("flwr")
        self._level = self._logger.level
        self._logger.setLevel(logging.CRITICAL + 1)
        search_path = os.environ.get("PYTHONPATH")
        try:
            self._backend = backend_class(
                {
                    # A Ray cluster on another machine can't read the merchants' folders.
                    "init_args": {
                        "address": "local",
                        "num_cpus": workers,
                        "logging_level": logging.ERROR,
                        "log_to_driver": False,
                        "include_dashboard": False,
                    },
                    # Flower passes these to Ray as options of the actors; -1 allows any number of restarts.
                    "client_resources": {"num_cpus": 1, "num_gpus": 0.0, "max_restarts": -1},
                }
            )
            self._backend.build(make_app)
        except BaseException:
            self._logger.setLevel(self._level)
            raise
        finally:
            # The backend writes Python's search path to the environment; only its actors need it.
            os.environ.pop("PYTHONPATH", None)
            if search_path is not None:
                os.environ["PYTHONPATH"] = search_path
        self.workers = self._backend.num_workers

    def handle(self, message: Message, context: Context) -> tuple[Message, Context]:
        """Let an idle actor answer a message; at most ``workers`` calls may run at once.

        Args:
            message: the request.
            context: the node's context before it.

        Returns:
            The reply, and the node's context after it.

        Raises:
            RuntimeError: the ClientApp raised an exception, or the actor is gone; with the text of the
                ClientApp's or Ray's exception.
        """
        try:
            return self._backend.process_message(message, context)
        except Exception as error:
            # Ray's text is a coloured traceback; Flower's last line ends with the original exception.
            raise RuntimeError(str(error).rsplit("occurred. Message: ", 1)[-1]) from None

    def kill(self) -> None:
        """Kill all actors, also busy ones; every running call of ``handle`` raises."""
        import ray

        pool = self._backend.pool
        if pool is None or not ray.is_initialized():
            return
        actors: list[Any] = [*pool.pool, *pool._future_to_actor.values()]
        for actor in actors:
            ray.kill(actor)

    def close(self) -> None:
        """Stop Ray; a second call does nothing. A running call of ``handle`` would never return."""
        import ray

        # Flower's ``terminate`` would restart Ray if it had already been stopped.
        if ray.is_initialized():
            self._backend.terminate()
        self._logger.setLevel(self._level)
