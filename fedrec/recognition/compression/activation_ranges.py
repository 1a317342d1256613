"""Find the ranges of a graph's activations on photos, within the memory that any stranger's graph gets."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from fedrec.recognition.bundle.photo_inputs import PhotoInput, prepared
from fedrec.vision.backbones.onnx_files.network import open_session
from fedrec.vision.backbones.onnx_files.shared_pool import run_in_pool

if TYPE_CHECKING:
    from onnx import ModelProto
    from onnxruntime.quantization import TensorsData


def activation_ranges(
    model: ModelProto,
    *,
    operators: Sequence[str],
    inputs: Sequence[PhotoInput],
    photos: Iterable[Image.Image],
) -> TensorsData:
    """Find the least and the largest value of each tensor that some operators take or give.

    Args:
        model: the graph.
        operators: the operators.
        inputs: the pictures that the graph takes.
        photos: the photos, at least one.

    Returns:
        The ranges, as onnxruntime's quantiser takes them.

    Raises:
        ConfigError: the graph can't be computed, or takes too much memory.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, MinMaxCalibrater

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # a class without stubs
        """Gives the pictures of one photo after another."""

        def __init__(self) -> None:
            self._left = iter(photos)

        def get_next(self) -> Any:
            """Return the next photo's pictures."""
            photo = next(self._left, None)
            return None if photo is None else dict(prepared(inputs, [photo]))

    class BoundedCalibrater(MinMaxCalibrater):  # type: ignore[misc]  # a class without stubs
        """Computes the graph as a stranger's: onnxruntime's own session has no bound."""

        def create_inference_session(self) -> None:
            """Open the graph whose outputs are the ranges."""
            self.infer_session = _PooledSession(Path(self.augmented_model_path).read_bytes())

    with tempfile.TemporaryDirectory(prefix="fedrec-ranges-") as folder:
        path = Path(folder) / "model.onnx"
        onnx.save_model(model, path)
        calibrater = BoundedCalibrater(path, operators, str(Path(folder) / "ranges.onnx"))
        calibrater.augment_graph()
        calibrater.create_inference_session()
        calibrater.collect_data(Reader())
        return calibrater.compute_data()


class _PooledSession:
    """What the calibrater uses of a session, in the pool of bounded ones.

    Args:
        graph: the graph's file.
    """

    def __init__(self, graph: bytes) -> None:
        self._session = open_session(graph, gpu=False, bounded=True)

    def get_outputs(self) -> Any:
        """Return the descriptions of the outputs."""
        return self._session.get_outputs()

    def run(self, outputs: Sequence[str] | None, inputs: dict[str, Any]) -> list[Any]:
        """Compute outputs, all of them by default."""
        names = outputs or [each.name for each in self._session.get_outputs()]
        return run_in_pool(self._session, names, inputs, keep=list)
