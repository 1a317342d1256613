"""Run a bundle's graph by onnxruntime, after checking that it is data and takes what the manifest says."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from fedrec._internal.text import counted
from fedrec.errors import ConfigError, DataError
from fedrec.recognition.bundle.graph_outputs import EMBEDDING, EVIDENCE, OFFSET, PROBABILITIES, SCORES
from fedrec.recognition.bundle.manifest import Manifest
from fedrec.recognition.bundle.photo_inputs import PhotoInput
from fedrec.recognition.extra import require_packages
from fedrec.vision.backbones.onnx_files.graph_check import check_model, inputs_of, opset_of
from fedrec.vision.backbones.onnx_files.network import open_session
from fedrec.vision.backbones.onnx_files.shared_pool import MOST_MEMORY, TooLittleMemoryError, run_in_pool

if TYPE_CHECKING:
    from onnx import ValueInfoProto
    from onnxruntime import InferenceSession

_UINT8: Final = 2
_ROUNDING: Final = 0.01
_EMPTY: Final = np.zeros((0, 0), dtype=np.float32)


@dataclass(frozen=True)
class Outputs:
    """What a graph computes of n photos; arrays of a backbone alone have no classes.

    Attributes:
        embedding: float32 (n, length).
        scores: float32 (n, classes).
        probabilities: float32 (n, classes).
        offset: float32 (n, classes); empty without exact evidence.
        evidence: float32 (n, classes, side, side) by the input's name; empty without exact evidence.
    """

    embedding: NDArray[np.float32]
    scores: NDArray[np.float32] = field(default_factory=_EMPTY.copy)
    probabilities: NDArray[np.float32] = field(default_factory=_EMPTY.copy)
    offset: NDArray[np.float32] = field(default_factory=_EMPTY.copy)
    evidence: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)


class Session:
    """A loaded graph.

    Args:
        graph: the file's content.
        inputs: what it takes.
        classes: number of classes; 0 for a backbone alone.
        embedding: length of the embedding; None to accept any.
        name: what messages call the bundle.

    Raises:
        ConfigError: it has operators that aren't allowed, or can't be loaded.
        DataError: it takes or gives something else than the arguments say.
        MissingExtraError: onnx or onnxruntime isn't installed.
    """

    def __init__(
        self,
        graph: bytes,
        *,
        inputs: tuple[PhotoInput, ...],
        classes: int,
        embedding: int | None = None,
        name: str = "the model",
    ) -> None:
        require_packages("onnx", "onnxruntime", purpose="a model bundle")
        self.inputs = inputs
        parsed = check_model(graph)
        takes = {
            each.name: (each.type.tensor_type.elem_type, _sides(each)) for each in inputs_of(parsed.graph)
        }
        if takes != {each.name: (_UINT8, (each.size, each.size, each.channels)) for each in inputs}:
            raise DataError("the graph takes other pictures than the manifest says")
        self._names = [each.name for each in parsed.graph.output]
        known = [SCORES, PROBABILITIES, EMBEDDING] if classes else [EMBEDDING]
        exact = [*known, OFFSET, *(EVIDENCE + each.name for each in inputs)]
        if self._names not in (known, exact):
            raise DataError("the graph gives other outputs than a bundle's")
        for each in parsed.graph.output:
            _check_length(each, classes=classes, embedding=embedding)
        self.has_evidence = OFFSET in self._names
        self.opset = opset_of(parsed)
        self.one_photo = all(_first_side(each) == 1 for each in inputs_of(parsed.graph))
        self._classes, self._length, self._name = classes, embedding, name
        self._too_many: dict[bool, int] = {}
        self._session: InferenceSession = open_session(graph, gpu=False, bounded=True)

    def run(self, pictures: Mapping[str, NDArray[np.uint8]], *, evidence: bool = False) -> Outputs:
        """Compute the outputs of photos.

        Args:
            pictures: uint8 (n, size, size, channels) by the input's name, of the n photos that the graph
                takes at once.
            evidence: compute offset and evidence too, where the graph has them.

        Returns:
            The outputs.

        Raises:
            DataError: the graph fails, or gives numbers that aren't finite, or of another shape.
        """
        wanted = [
            name for name in self._names if evidence or not (name == OFFSET or name.startswith(EVIDENCE))
        ]
        count = len(next(iter(pictures.values())))
        # All sizes in a graph follow from the number of photos: what needed too much alone still does.
        if count >= self._too_many.get(evidence, count + 1):
            raise self._takes_too_much(count)
        try:
            arrays = run_in_pool(
                self._session, wanted, pictures, keep=lambda found: self._checked(wanted, found, count)
            )
        except TooLittleMemoryError:
            self._too_many[evidence] = count
            raise self._takes_too_much(count) from None
        except ConfigError as error:
            raise DataError(f"{self._name} can't be computed: {error}") from None
        maps = {
            each.name: arrays[EVIDENCE + each.name] for each in self.inputs if EVIDENCE + each.name in arrays
        }
        return Outputs(
            embedding=arrays[EMBEDDING],
            scores=arrays.get(SCORES, _EMPTY),
            probabilities=arrays.get(PROBABILITIES, _EMPTY),
            offset=arrays.get(OFFSET, _EMPTY),
            evidence=maps,
        )

    def _takes_too_much(self, count: int) -> DataError:
        memory = f"{MOST_MEMORY >> 30} GiB beside its weights"
        return DataError(f"{self._name} takes more than {memory} for {counted(count, 'photo')}")

    def _checked(
        self, names: list[str], found: list[NDArray[Any]], count: int
    ) -> dict[str, NDArray[np.float32]]:
        """Return the outputs by their names; ``DataError`` if one isn't usable."""
        arrays = dict(zip(names, found, strict=True))
        for name, each in arrays.items():
            if not self._usable(name, each, count):
                raise DataError(f"{self._name} gives no usable numbers as {name}")
        return arrays

    def _usable(self, name: str, values: NDArray[Any], count: int) -> bool:
        """Tell whether an output has its shape, and numbers that can be what its name says."""
        if name.startswith(EVIDENCE):
            # A map is no larger than its picture: it is checked before anything is made of its size.
            side = next(each.size for each in self.inputs if name == EVIDENCE + each.name)
            right = values.ndim == 4 and values.shape[:2] == (count, self._classes)
            right = right and max(values.shape[2:]) <= side
        elif name == EMBEDDING:
            length = self._length or (values.shape[1] if values.ndim == 2 else 0)
            right = values.shape == (count, length)
        else:
            right = values.shape == (count, self._classes)
        if not right or values.dtype != np.float32 or not np.isfinite(values).all():
            return False
        if name == EMBEDDING:
            return bool((np.abs(np.linalg.norm(values, axis=1) - 1) < _ROUNDING).all())
        return name != PROBABILITIES or _sums_to_one(values)


def _sums_to_one(values: NDArray[Any]) -> bool:
    return bool((values >= 0).all() and (np.abs(values.sum(axis=1) - 1) < _ROUNDING).all())


def _check_length(output: ValueInfoProto, *, classes: int, embedding: int | None) -> None:
    """Raise ``DataError`` if an output states another length than that of the classes or the embedding."""
    sides = output.type.tensor_type.shape.dim
    stated = int(sides[1].dim_value) if len(sides) > 1 else 0
    expected = embedding if output.name == EMBEDDING else classes
    if stated and expected is not None and stated != expected:
        what = "values" if output.name == EMBEDDING else "classes"
        raise DataError(
            f"the graph gives {output.name} of {stated} {what}, and the manifest names {expected}"
        )


def _sides(value: ValueInfoProto) -> tuple[int, ...]:
    """Return a tensor's shape after the number of photos."""
    return tuple(side.dim_value for side in value.type.tensor_type.shape.dim[1:])


def _first_side(value: ValueInfoProto) -> int:
    """Return the number of photos that an input takes; 0 for any."""
    return int(value.type.tensor_type.shape.dim[0].dim_value)


def session_of(manifest: Manifest, graph: bytes, *, where: str) -> Session:
    """Load a bundle's graph.

    Args:
        manifest: the bundle's manifest.
        graph: the graph's content.
        where: the bundle's name, for messages.

    Returns:
        The session.

    Raises:
        DataError: the graph isn't the manifest's, or it isn't usable.
        MissingExtraError: onnx or onnxruntime isn't installed.
    """
    if hashlib.sha256(graph).hexdigest() != manifest.graph.sha256:
        raise DataError(f"{where}: the graph isn't the one that the manifest names (its SHA-256 differs)")
    try:
        made = Session(
            graph,
            inputs=manifest.inputs,
            classes=len(manifest.classes),
            embedding=manifest.embedding,
            name=manifest.title,
        )
    except (ConfigError, DataError) as error:
        raise DataError(f"{where}: {error}") from None
    if made.has_evidence != (manifest.evidence == "exact"):
        raise DataError(f"{where}: the graph's evidence isn't what the manifest says")
    if (made.one_photo, made.opset) != (manifest.graph.one_photo, manifest.graph.opset):
        raise DataError(f"{where}: the graph isn't of the kind that the manifest says")
    return made
