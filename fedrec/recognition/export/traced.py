"""Trace a model's module to ONNX: the outputs of a bundle's graph, in float32."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedrec._internal.text import one_line
from fedrec.errors import ConfigError
from fedrec.observability.quiet_loggers import errors_only
from fedrec.recognition.bundle.graph_outputs import EMBEDDING, EVIDENCE, OFFSET, PROBABILITIES, SCORES
from fedrec.recognition.bundle.photo_inputs import PhotoInput
from fedrec.recognition.export.feature_graph import Outputs

if TYPE_CHECKING:
    from onnx import ModelProto
    from onnx_ir import Model

_LOGGERS: Final = ("torch.onnx", "onnxscript", "onnx_ir")
OPSET: Final = 18
_LARGEST_CONSTANT: Final = 1 << 26
"""Values that one step of the graph may have and still be computed at export."""
CLASS_PART: Final = 0.5
"""Length of the square roots of the probabilities beside the vector of length 1, in the embedding of a model
with classes. With models of epsilon 1, 4 and 8, neighbours among clothing photos were of the query's class in
83, 85 and 87% of the cases, and by the vector alone in 79%."""


class BundleGraph(nn.Module):
    """A model with the outputs of a bundle's graph.

    Args:
        model: computes scores, vectors and evidence.
        temperature: divides the scores before they become probabilities.
    """

    def __init__(self, model: nn.Module, *, temperature: float) -> None:
        super().__init__()
        self.model = model
        self._temperature = temperature

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        """Return what :func:`output_names` names; for a model without classes its vectors alone."""
        outputs: Outputs = self.model(*given)
        if not outputs.scores.shape[1]:
            return (outputs.vectors,)
        probabilities = torch.softmax(outputs.scores / self._temperature, dim=1)
        embedding = F.normalize(torch.cat((outputs.vectors, CLASS_PART * probabilities.sqrt()), dim=1), dim=1)
        evidence = () if outputs.offset is None else (outputs.offset, *outputs.evidence)
        return (outputs.scores, probabilities, embedding, *evidence)


def output_names(outputs: Sequence[Tensor], inputs: Sequence[PhotoInput]) -> list[str]:
    """Name the outputs of a :class:`BundleGraph`.

    Args:
        outputs: what it gives.
        inputs: the photo's pictures.

    Returns:
        A name for each.
    """
    if len(outputs) == 1:
        return [EMBEDDING]
    names = [SCORES, PROBABILITIES, EMBEDDING]
    return (
        names if len(outputs) == len(names) else [*names, OFFSET, *(EVIDENCE + each.name for each in inputs)]
    )


def traced(
    graph: BundleGraph,
    examples: Sequence[Tensor],
    *,
    names: Sequence[str],
    outputs: Sequence[str],
    opset: int,
) -> ModelProto:
    """Trace a graph.

    Args:
        graph: the graph; its parameters become constants.
        examples: inputs of n records; of any number where they are uint8 pictures alone.
        names: of the inputs.
        outputs: names of the outputs.
        opset: version of ONNX's operators.

    Returns:
        The graph as ONNX.

    Raises:
        ConfigError: torch can't export it.
        KeyboardInterrupt: a person or SIGTERM stopped it.
    """
    graph.eval().requires_grad_(False)
    pictures = all(example.dtype == torch.uint8 for example in examples)
    count = torch.export.Dim("n", min=1, max=1 << 16)
    shapes = (tuple({0: count} for _ in examples),) if pictures else None
    with _quiet(), torch.no_grad():
        try:
            program = torch.onnx.export(
                graph,
                tuple(examples),
                dynamo=True,
                opset_version=opset,
                dynamic_shapes=shapes,
                input_names=list(names),
                output_names=list(outputs),
                verbose=False,
            )
        # A user's own network can fail in any way while it is traced.
        except Exception as error:
            if _was_interrupted(error):
                raise KeyboardInterrupt from None
            raise ConfigError(f"torch can't export the network: {one_line(error)}") from None
    if program is None:
        raise ConfigError("torch can't export the network")
    _compute_constants(program.model)
    return program.model_proto


def _compute_constants(model: Model) -> None:
    """Compute what depends on weights alone, such as standardised ones: no session does it while it loads.

    The exporter itself leaves larger weights as they are.
    """
    from onnxscript import optimizer

    with _quiet():
        optimizer.fold_constants(
            model, input_size_limit=_LARGEST_CONSTANT, output_size_limit=_LARGEST_CONSTANT
        )
        optimizer.remove_unused_nodes(model)


def _was_interrupted(error: BaseException | None) -> bool:
    """Whether a person or SIGTERM stopped what failed: torch raises an error of its own then."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's notes on its own work out of warnings and logs."""
    with errors_only(_LOGGERS), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
