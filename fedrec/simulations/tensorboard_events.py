"""Write TensorBoard events of a run, if TensorBoard is installed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from fedrec.protocol.training_report.round_line import RoundLine

FOLDER = "tensorboard"


class EventWriter:
    """Write one point per round: accuracy, epsilon, contributors, dropouts and seconds."""

    def __init__(self, folder: Path) -> None:
        self._writer = None
        if find_spec("tensorboard") is not None:
            # Its import takes seconds.
            from torch.utils.tensorboard.writer import SummaryWriter

            self._writer = SummaryWriter(folder / FOLDER)

    def write(self, line: RoundLine) -> None:
        """Add a round; values that it doesn't have are left out."""
        if self._writer is None:
            return
        points = {
            "accuracy": line.accuracy,
            "f1_macro": line.f1_macro,
            "epsilon": line.epsilon,
            "contributors": line.contributors,
            "dropouts": line.dropouts,
            "seconds": line.seconds,
        }
        for name, value in points.items():
            if value is not None:
                self._writer.add_scalar(f"round/{name}", value, global_step=line.round)

    def close(self) -> None:
        """Flush what was written."""
        if self._writer is not None:
            self._writer.close()
