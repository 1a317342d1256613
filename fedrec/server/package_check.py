"""Say before a training which packages it will miss, on the operator's machine and on the merchants'."""

from __future__ import annotations

from collections.abc import Iterator

from fedrec.errors import MissingExtraError
from fedrec.recognition.extra import require_packages
from fedrec.vision import model_registry


def package_warnings(model: str) -> Iterator[str]:
    """Say what a training of a model will miss on this machine.

    Args:
        model: the model's name.

    Yields:
        One line for each fault.
    """
    try:
        model_registry.get(model).check()
    except MissingExtraError as error:
        yield f"this training can't start: {error}; every merchant needs it, too"
    try:
        require_packages("onnx", "onnxscript", "onnxruntime", purpose="the model bundle that merchants fetch")
    except MissingExtraError as error:
        yield str(error)
