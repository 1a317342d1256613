"""The Flower ServerApp, the same in a simulation and in a deployment."""

from __future__ import annotations

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedrec.server.training_runner import TrainingRunner


def build_server_app(runner: TrainingRunner) -> ServerApp:
    """Return a ServerApp that runs a training, over the runner's own grid."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        runner.run()

    return app
