"""The Flower ServerApp, the same in a simulation and in a deployment."""

from __future__ import annotations

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedrec.server.coordinator import Coordinator


def build_server_app(coordinator: Coordinator) -> ServerApp:
    """Return a ServerApp that runs a coordinator's training, over the coordinator's own grid."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        coordinator.run()

    return app
