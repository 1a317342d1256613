"""The Flower ServerApp: the same in a simulation and in a deployment."""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedrec.server.coordinator import Coordinator


def build_server_app(make_coordinator: Callable[[Grid, Context], Coordinator]) -> ServerApp:
    """Return a ServerApp that runs the training of the coordinator made for its grid and context."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        make_coordinator(grid, context).run()

    return app
