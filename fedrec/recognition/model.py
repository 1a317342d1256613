"""A trained model at work: classes and embeddings of photos, from a bundle; without torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fedrec._internal.files import open_regular, read_regular
from fedrec.errors import DataError
from fedrec.recognition.bundle.manifest import GRAPH, LARGEST_MANIFEST, MANIFEST, Manifest, read_manifest
from fedrec.recognition.bundle.photo_inputs import prepared
from fedrec.recognition.bundle.places import bundle_folder
from fedrec.recognition.bundle.session import Outputs, Session, session_of

_TOGETHER: Final = 4
"""Photos a call: more bring nothing on a processor, and each takes memory."""


@dataclass(frozen=True)
class Recognition:
    """What a model says of one photo.

    Attributes:
        probabilities: float32 (classes,); empty for a backbone alone.
        embedding: float32 (length,), of length 1.
    """

    probabilities: NDArray[np.float32]
    embedding: NDArray[np.float32]

    @property
    def label(self) -> int:
        """The number of the most probable class."""
        return int(self.probabilities.argmax())

    def top(self, count: int) -> list[tuple[int, float]]:
        """Return the most probable classes' numbers and probabilities, best first."""
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(int(label), float(self.probabilities[label])) for label in order]


class RecognitionModel:
    """A bundle that is loaded; it fulfils :class:`fedrec.recognition.embedding.Embedder`.

    Args:
        folder: the bundle's folder.
        manifest: the bundle's manifest.
        session: its graph.
    """

    def __init__(self, folder: Path, manifest: Manifest, session: Session) -> None:
        self.folder = folder
        self.manifest = manifest
        self._session = session

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; empty for a backbone alone."""
        return self.manifest.classes

    @property
    def embedding_id(self) -> str:
        """Hash of all that determines a photo's vector."""
        return self.manifest.embedding_id

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self.manifest.embedding

    @property
    def title(self) -> str:
        """What is in use, in a few words."""
        return self.manifest.title

    def recognise(self, photos: Sequence[Image.Image]) -> list[Recognition]:
        """Recognise photos.

        Args:
            photos: decoded photos of any size.

        Returns:
            What the model says of each.

        Raises:
            DataError: the model fails.
        """
        found: list[Recognition] = []
        for outputs in self._outputs(photos):
            for row, embedding in enumerate(outputs.embedding):
                probabilities = outputs.probabilities[row] if self.classes else np.zeros(0, np.float32)
                found.append(Recognition(probabilities, embedding))
        return found

    def embed(self, photos: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Compute the photos' vectors, float32 (n, dimension), each of length 1; raises ``DataError``."""
        found = [outputs.embedding for outputs in self._outputs(photos)]
        return np.concatenate(found) if found else np.zeros((0, self.dimension), np.float32)

    def outputs(self, photo: Image.Image) -> Outputs:
        """Compute all outputs of one photo, evidence included; raises ``DataError``."""
        return self._session.run(prepared(self.manifest.inputs, [photo]), evidence=True)

    def _outputs(self, photos: Sequence[Image.Image]) -> Iterator[Outputs]:
        together = 1 if self.manifest.graph.one_photo else _TOGETHER
        for start in range(0, len(photos), together):
            yield self._session.run(prepared(self.manifest.inputs, photos[start : start + together]))


def open_model(place: Path) -> RecognitionModel:
    """Load a bundle.

    Args:
        place: the bundle's folder, or that of a finished run, whose bundle is made there on first use.

    Returns:
        The model.

    Raises:
        ConfigError: the run isn't finished, or its model can't be exported.
        DataError: the folder is no bundle, or its files don't fit each other.
        MissingExtraError: onnx or onnxruntime isn't installed.
    """
    folder = bundle_folder(place)
    try:
        content = read_regular(folder / MANIFEST, most=LARGEST_MANIFEST + 1)
        manifest = read_manifest(content, where=f"{folder}/{MANIFEST}")
        path = folder / GRAPH
        with open_regular(path) as file:
            if path.stat().st_size != manifest.graph.bytes:
                raise DataError(f"{path} hasn't the size that {MANIFEST} names: export the model again")
            graph = file.read()
    except FileNotFoundError as error:
        what = f"has no {Path(error.filename).name}" if folder.is_dir() else "doesn't exist"
        raise DataError(
            f"{folder} is no model bundle: it {what}; 'fedrec model export RUN --out NEW' makes one of a run"
        ) from None
    except OSError as error:
        raise DataError(f"{folder} is no model bundle ({error.strerror}): {error.filename}") from None
    return RecognitionModel(folder, manifest, session_of(manifest, graph, where=str(folder)))
