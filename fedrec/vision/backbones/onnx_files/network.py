"""Run a checked ONNX file by onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from fedrec._internal.text import one_line
from fedrec.errors import ConfigError
from fedrec.vision.backbones.one_picture import Colours, OnePictureNetwork
from fedrec.vision.backbones.onnx_files.shared_pool import make_pool

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

_ERRORS_ONLY: Final = 3
"""Severity from which onnxruntime writes to stderr."""
_GPU: Final = "CUDAExecutionProvider"
_CPU: Final = "CPUExecutionProvider"


def open_session(data: bytes, *, gpu: bool = True, bounded: bool = False) -> InferenceSession:
    """Load a checked file.

    A session computes with one thread, since features of several photos are computed at the same time. It
    loads no libraries of operators, and neither profiling nor telemetry is on.

    A file of a few hundred bytes can ask for gigabytes: when it is loaded, by values that depend on no photo
    and are computed then, or when it is run. A bounded session computes nothing while it is loaded, and takes
    its memory from the pool of :mod:`.shared_pool`, whose ``run_in_pool`` runs it.

    Args:
        data: the file's content.
        gpu: compute on a GPU where onnxruntime has one, in full float32.
        bounded: bound its memory; for a file that was never tried.

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
    skipped = []
    if bounded:
        make_pool()
        options.add_session_config_entry("session.use_env_allocators", "1")
        skipped.append("ConstantFolding")
    try:
        return onnxruntime.InferenceSession(data, options, providers=providers, disabled_optimizers=skipped)
    # onnxruntime raises different errors for different faults, all of them of its own.
    except Exception as error:
        raise ConfigError(f"onnxruntime can't load it: {one_line(error)}") from None


class OnnxNetwork(OnePictureNetwork):
    """A network from an ONNX file.

    Args:
        session: the loaded network.
        layers: names of the outputs to compute.
        mean: subtracted from each colour of pixels in 0 to 1.
        std: what each colour is divided by afterwards.
    """

    def __init__(
        self, session: InferenceSession, *, layers: Sequence[str], mean: Colours, std: Colours
    ) -> None:
        super().__init__(layers=layers, mean=mean, std=std)
        self._session = session
        self._input = session.get_inputs()[0].name

    def _run(self, batch: NDArray[np.float32]) -> Sequence[NDArray[np.generic]]:
        return [np.asarray(output) for output in self._session.run(self._layers, {self._input: batch})]
