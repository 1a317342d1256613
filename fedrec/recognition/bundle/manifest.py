"""What a bundle says of its model: ``model.json``, checked before anything of the bundle is used."""

from __future__ import annotations

import json
from typing import Annotated, Final, Literal, Self

from pydantic import FailFast, Field, StringConstraints, ValidationError, model_validator

from fedrec._internal.text import one_line
from fedrec._internal.validation_messages import first_problem
from fedrec.errors import DataError
from fedrec.protocol.schema import MAX_CLASS_NAME, MAX_CLASSES, Hash, Name, Strict, sha256_hex
from fedrec.recognition.bundle.photo_inputs import PhotoInput

MANIFEST: Final = "model.json"
GRAPH: Final = "model.onnx"
CARD: Final = "README.md"
_VERSION: Final = 1
LARGEST_MANIFEST: Final = 4 << 20
LARGEST_GRAPH: Final = (1 << 31) - 1
MOST_INPUTS: Final = 16

Line = Annotated[str, StringConstraints(max_length=1000)]
Lines = Annotated[tuple[Line, ...], FailFast(), Field(max_length=200)]
ClassName = Annotated[str, StringConstraints(min_length=1, max_length=MAX_CLASS_NAME)]
Precision = Literal["float32", "int8"]
EvidenceMethod = Literal["exact", "occlusion"]
Figure = Annotated[float, Field(ge=0, le=1)]


class GraphFile(Strict):
    """The graph's file.

    Attributes:
        sha256: of the file.
        bytes: its size.
        opset: version of ONNX's operators.
        precision: number format of its weights.
        one_photo: whether it takes one photo a call.
    """

    sha256: Hash
    bytes: Annotated[int, Field(ge=1, le=LARGEST_GRAPH)]
    opset: Annotated[int, Field(ge=1, le=1000)]
    precision: Precision = "float32"
    one_photo: bool = False


class Training(Strict):
    """Where the model comes from.

    Attributes:
        training_id: hash of the training's plan.
        run: identifier of the run.
        deployed: whether real merchants trained it, instead of simulated ones.
        rounds: number of rounds.
        merchants: number of merchants on the roster.
        records: number of their photos, as far as it is public.
    """

    training_id: Hash
    run: Annotated[str, StringConstraints(max_length=100)]
    deployed: bool
    rounds: Annotated[int, Field(ge=0)]
    merchants: Annotated[int, Field(ge=1)]
    records: Annotated[int, Field(ge=0)]


class Privacy(Strict):
    """The guarantee for the photos that the model was trained on, as the training's report states it.

    Attributes:
        mode: of the training.
        unit: whom it protects: one photo, or one product with all its photos.
        scheme: of the aggregation.
        epsilon: in the server's view; None where there is no guarantee.
        epsilon_aggregation_broken: if somebody could read single updates; None without a guarantee.
        delta: of both; None without a guarantee.
        seeded: whether noise came from a seed, which makes the guarantee void.
    """

    mode: Name
    unit: Name
    scheme: Name
    epsilon: Annotated[float, Field(ge=0)] | None
    epsilon_aggregation_broken: Annotated[float, Field(ge=0)] | None
    delta: Annotated[float, Field(gt=0, lt=1)] | None
    seeded: bool


class Measured(Strict):
    """A figure, and the photos on which it was measured.

    Attributes:
        name: of the figure.
        value: between 0 and 1.
        interval: what the number of photos allows, at 95%.
        photos: which ones.
        covered: whether the epsilon covers what the figure tells of those photos; None where they are
            public, so that there is nothing to cover.
    """

    name: Line
    value: Figure
    interval: tuple[Figure, Figure] | None = None
    photos: Line
    covered: bool | None


class Checked(Strict):
    """How the graph was compared with the network that it was made from.

    Attributes:
        photos: how many random and synthetic pictures.
        largest_difference: of a probability, in absolute value.
        same_class: share of pictures with the same most probable class.
    """

    photos: Annotated[int, Field(ge=1)]
    largest_difference: Figure
    same_class: Figure


class Calibration(Strict):
    """The temperature by which scores are divided before they become probabilities (Guo et al. 2017).

    Attributes:
        temperature: above 0.
        photos: number of public photos that it was fitted to; None where it wasn't fitted.
    """

    temperature: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    photos: Annotated[int, Field(ge=1)] | None = None


class CompressionRow(Strict):
    """What was measured of one graph.

    Attributes:
        method: how it was made; the first row is the original.
        bytes: size of its file.
        milliseconds: processor time of one photo on one core of the machine that compressed it.
        agreement: share of the photos to which it gives the original's class.
        accuracy: on labelled public photos; None without any.
        verdict: whether it was kept, or why not.
    """

    method: Line
    bytes: Annotated[int, Field(ge=1, le=LARGEST_GRAPH)]
    milliseconds: Annotated[float, Field(ge=0)]
    agreement: Figure
    accuracy: Figure | None
    verdict: Line


class Compression(Strict):
    """How a graph was made smaller, and what was compared.

    Attributes:
        original: hash of the graph that it was made from.
        calibrated_on: photos that gave the ranges of integers, or that a student was fitted to.
        measured_on: photos that the agreement was measured on.
        counted: number of these that count.
        rows: the original and all candidates.
    """

    original: Hash
    calibrated_on: Line
    measured_on: Line
    counted: Annotated[int, Field(ge=0)]
    rows: Annotated[tuple[CompressionRow, ...], FailFast(), Field(min_length=2, max_length=20)]


class Manifest(Strict):
    """The content of ``model.json``.

    Attributes:
        version: of this format.
        model: name of the trained model, or of the backbone alone.
        model_code: hash of its code or file where it isn't fedrec's own.
        made_by: the version of fedrec.
        classes: names, in the order of the scores; empty for a backbone alone.
        inputs: pictures that the graph takes.
        graph: its file.
        embedding: length of the embedding.
        evidence: how evidence maps are made; None where there are no classes.
        training: where the model comes from; None for a backbone alone.
        privacy: the guarantee; None for a backbone alone.
        calibration: of the probabilities.
        measured: figures.
        checked: the comparison with the network.
        warnings: what limits the model or its guarantee.
        compression: how the graph was made smaller; None for a graph as it was exported.
    """

    version: Literal[1] = 1
    model: Name
    model_code: Hash | None
    made_by: Annotated[str, StringConstraints(max_length=50)]
    classes: Annotated[tuple[ClassName, ...], FailFast(), Field(max_length=MAX_CLASSES)]
    inputs: Annotated[tuple[PhotoInput, ...], FailFast(), Field(min_length=1, max_length=MOST_INPUTS)]
    graph: GraphFile
    embedding: Annotated[int, Field(ge=1, le=1 << 20)]
    evidence: EvidenceMethod | None
    training: Training | None
    privacy: Privacy | None
    calibration: Calibration
    measured: Annotated[tuple[Measured, ...], FailFast(), Field(max_length=100)] = ()
    checked: Checked
    warnings: Lines = ()
    compression: Compression | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len({each.name for each in self.inputs}) != len(self.inputs):
            raise ValueError("two inputs have one name")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("two classes have one name")
        if not (bool(self.classes) == (self.training is not None) == (self.privacy is not None)):
            raise ValueError("a model has classes, a training and a guarantee, a backbone alone none of them")
        if (self.evidence is not None) != bool(self.classes):
            raise ValueError("evidence is given exactly where there are classes")
        return self

    @property
    def embedding_id(self) -> str:
        """Hash of all that determines a photo's embedding: the graph, and how photos are prepared for it."""
        inputs = [each.model_dump(mode="json") for each in self.inputs]
        return sha256_hex(json.dumps([self.graph.sha256, inputs], sort_keys=True).encode())

    @property
    def title(self) -> str:
        """What is in use, in a few words."""
        if self.training is None:
            return f"{self.model} alone, without any training"
        smaller = "" if self.compression is None else ", made smaller"
        return (
            f"{self.model} of training {self.training.training_id[:12]}, {len(self.classes)} classes{smaller}"
        )


def read_manifest(content: bytes, *, where: str) -> Manifest:
    """Check the content of a ``model.json``.

    Args:
        content: the file's content.
        where: its name, for messages.

    Returns:
        The manifest.

    Raises:
        DataError: it is too large, or no manifest of this version.
    """
    if len(content) > LARGEST_MANIFEST:
        raise DataError(f"{where} is larger than {LARGEST_MANIFEST:,} bytes")
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        first = first_problem(error)
        if first.where == ("version",) and isinstance(first.value, int) and first.value > _VERSION:
            raise DataError(f"{where} was written by a newer version of fedrec: update this one") from None
        place = ".".join(first.where[:4]) or ("the file" if first.kind != "value_error" else "")
        raise DataError(
            f"{where} is no manifest of a bundle that this version reads: "
            f"{one_line(f'{place} {first.text}', most=280)}"
        ) from None
