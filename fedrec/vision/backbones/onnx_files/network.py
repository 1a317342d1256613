"""Run a checked network from a file by onnxruntime, one picture a call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from fedrec._internal.text import one_line
from fedrec.errors import ConfigError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Colours = tuple[float, float, float]
_ERRORS_ONLY: Final = 3
"""Severity from which onnxruntime writes to stderr."""
_GPU: Final = "CUDAExecutionProvider"
_CPU: Final = "CPUExecutionProvider"


def open_session(data: bytes, *, gpu: bool = True) -> InferenceSession:
    """Load a checked file.

    A session computes with one thread, since features of several photos are computed at the same time. It
    loads no libraries of operators, and neither profiling nor telemetry is on.

    Args:
        data: the file's content.
        gpu: compute on a GPU where onnxruntime has one, in full float32.

    Returns:
        The session.

    Raises:
        ConfigError: onnxruntime can't load it.
    """
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_profiling = False
    options.log_severity_level = _ERRORS_ONLY + 1
    found = gpu and _GPU in onnxruntime.get_available_providers()
    providers = [(_GPU, {"use_tf32": "0"}), _CPU] if found else [_CPU]
    try:
        return onnxruntime.InferenceSession(data, options, providers=providers)
    # onnxruntime raises different errors for different faults, all of them of its own.
    except Exception as error:
        raise ConfigError(f"onnxruntime can't load it: {one_line(error)}") from None


class OnnxNetwork:
    """A network from a file, from uint8 pictures to pooled outputs.

    Each picture is a call of its own. Whatever the graph does with its batch, such as taking a mean over it,
    a picture's features therefore depend on that picture alone, which clipping per record relies on.

    Args:
        session: the loaded network.
        layers: names of the outputs to compute.
        mean: subtracted from each colour of pixels in 0 to 1.
        std: what each colour is divided by afterwards.
    """

    def __init__(
        self, session: InferenceSession, *, layers: Sequence[str], mean: Colours, std: Colours
    ) -> None:
        self._session = session
        self._input = session.get_inputs()[0].name
        self._layers = list(layers)
        self._scale = (1 / (255 * np.asarray(std, dtype=np.float64))).astype(np.float32)
        self._shift = (np.asarray(mean, dtype=np.float64) / np.asarray(std)).astype(np.float32)

    @property
    def batch(self) -> int:
        """Pictures that are put together before a call: more would gain nothing."""
        return 1

    def __call__(self, images: NDArray[np.uint8]) -> Mapping[str, NDArray[np.float32]]:
        """Compute each layer's features of pictures.

        A picture for which the network gives NaN or infinity in a layer has zeros there.

        Args:
            images: uint8 (n, size, size, 3).

        Returns:
            float32 (n, length) by the layer's name.

        Raises:
            ConfigError: onnxruntime fails, or an output has another shape than (1, length), tokens (1, count,
                length) or a map (1, length, height, width).
        """
        rows = [self._features(image) for image in images]
        return {name: np.stack([row[i] for row in rows]) for i, name in enumerate(self._layers)}

    def outputs(self, image: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """Compute the layers of one picture (size, size, 3), as :meth:`__call__` without its care for NaN."""
        pixels = image.astype(np.float32) * self._scale - self._shift
        batch = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])
        try:
            found = self._session.run(self._layers, {self._input: batch})
        # onnxruntime raises different errors for different faults, all of them of its own.
        except Exception as error:
            raise ConfigError(f"the network can't be computed: {one_line(error)}") from None
        return [_pooled(np.asarray(output), name) for name, output in zip(self._layers, found, strict=True)]

    def _features(self, image: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        return [
            vector if np.isfinite(vector).all() else np.zeros_like(vector) for vector in self.outputs(image)
        ]


def _pooled(output: NDArray[np.generic], name: str) -> NDArray[np.float32]:
    """Return a vector as it is, the mean of tokens over their number, the mean of a map over positions."""
    if output.ndim not in (2, 3, 4) or output.shape[0] != 1 or not output.size:
        raise ConfigError(
            f"the output {one_line(name, most=60)!r} has the shape {output.shape} for one picture, not "
            "(1, length), (1, tokens, length) or (1, length, height, width)"
        )
    vectors: NDArray[np.float32] = output[0].astype(np.float32)
    if output.ndim == 2:
        return vectors
    return np.asarray(vectors.mean(axis=0 if output.ndim == 3 else (1, 2)), dtype=np.float32)
