"""Open the model that a catalogue uses: a bundle, or the packaged backbone for whoever has trained none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from fedrec.recognition.catalogue.catalogue import UsedModel
from fedrec.recognition.catalogue.photo_model import ModelOutput, PhotoModel
from fedrec.recognition.catalogue.photos import stored_text
from fedrec.recognition.model import RecognitionModel, open_model
from fedrec.recognition.zero_training import backbone_bundle


def open_photo_model(folder: Path | None) -> PhotoModel:
    """Open a model.

    Args:
        folder: the bundle's folder; None for the packaged backbone, whose bundle is made on first use.

    Returns:
        The model.

    Raises:
        DataError: the folder is no bundle.
        MissingExtraError: a package that it needs isn't installed.
    """
    model = open_model(backbone_bundle() if folder is None else folder)
    return photo_model_of(model, path=None if folder is None else stored_text(folder.resolve()))


def photo_model_of(model: RecognitionModel, *, path: str | None) -> PhotoModel:
    """Use an opened bundle on photos of a catalogue.

    Args:
        model: the bundle's model.
        path: its folder; None for the packaged backbone.

    Returns:
        The model.
    """

    def run(photos: Sequence[Image.Image]) -> list[ModelOutput]:
        outputs = []
        for found in model.recognise(photos):
            label, probability = found.top(1)[0] if model.classes else (0, None)
            name = model.classes[label] if model.classes else None
            outputs.append(ModelOutput(found.embedding, name, probability))
        return outputs

    used = UsedModel(
        embedding_id=model.embedding_id,
        dimension=model.dimension,
        path=path,
        labels_of=model.manifest.graph.sha256 if model.classes else None,
        description=model.title,
    )
    return PhotoModel(used, run)
