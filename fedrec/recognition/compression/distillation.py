"""Fit a smaller student to what a model answers about public photos (Hinton, Vinyals and Dean 2015).

The student is a linear head on smaller frozen networks, fitted to the model's probabilities: one convex
problem, whose solution depends on the photos alone. It is post-processing of the model: it costs no budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

from fedrec.errors import ConfigError, MissingExtraError
from fedrec.recognition.bundle.manifest import Manifest
from fedrec.recognition.bundle.photo_inputs import prepared
from fedrec.recognition.bundle.session import session_of
from fedrec.recognition.export.as_trained import vectors_as_trained
from fedrec.recognition.export.bundles import Bundle, make_bundle
from fedrec.recognition.export.sources import Source
from fedrec.vision import model_registry
from fedrec.vision.model_inputs import InputShape
from fedrec.vision.model_spec import ModelSpec
from fedrec.vision.models.centred_head import CentredHead

STUDENTS: Final = {
    "effnet-lite0-head": 13_400_000,
    "lite0-small-head": 13_400_000,
    "scattering-head": 340_000,
}
"""Models on frozen networks that are packaged, the slowest first, with the bytes of their networks."""
WEIGHT_DECAY: Final = 1e-5
_STEPS: Final = 200


def student_of(manifest: Manifest) -> ModelSpec:
    """Choose a student.

    Args:
        manifest: the bundle's manifest.

    Returns:
        The largest packaged model below the bundle's own.

    Raises:
        ConfigError: there is none, or what it needs isn't installed.
    """
    names = list(STUDENTS)
    if manifest.model in STUDENTS:
        smaller = names[names.index(manifest.model) + 1 :]
    else:
        smaller = [name for name in names if STUDENTS[name] < manifest.graph.bytes]
    for name in smaller:
        spec = model_registry.get(name)
        try:
            spec.check()
        except MissingExtraError:
            continue
        return spec
    raise ConfigError(f"no packaged model is smaller than {manifest.model}, or none is installed")


def distilled(manifest: Manifest, graph: bytes, photos: Sequence[Image.Image]) -> Bundle:
    """Fit a student to a bundle's answers, and export it.

    Args:
        manifest: the bundle's manifest.
        graph: its graph.
        photos: public photos.

    Returns:
        The student's bundle; its probabilities count as uncalibrated.

    Raises:
        ConfigError: there is no smaller model, or it can't be exported.
        DataError: the graph isn't the manifest's, or it isn't usable.
        MissingExtraError: onnx or onnxruntime isn't installed.
    """
    spec = student_of(manifest)
    if spec.features is None or spec.image_size is None:
        raise ConfigError(f"{spec.name} has no frozen networks: it can't be a student")
    teacher = session_of(manifest, graph, where="the model")
    targets = np.concatenate([teacher.run(prepared(teacher.inputs, [each])).probabilities for each in photos])
    vectors = vectors_as_trained(spec.features, photos)
    source = Source(
        spec=spec,
        shape=InputShape(3, spec.image_size),
        network=fitted_head(vectors, targets).eval(),
        code=model_registry.code_of(spec.name),
        classes=manifest.classes,
        training=manifest.training,
        privacy=manifest.privacy,
        measured=manifest.measured,
        warnings=manifest.warnings,
    )
    return make_bundle(source)


def fitted_head(
    vectors: NDArray[np.float32], targets: NDArray[np.float32], *, weight_decay: float = WEIGHT_DECAY
) -> CentredHead:
    """Fit a linear head to probabilities: the least mean cross-entropy plus the weights' squared norm.

    Args:
        vectors: float32 (n, d), features.
        targets: float32 (n, k), probabilities.
        weight_decay: factor of the squared norm.

    Returns:
        The head.
    """
    head = CentredHead(classes=targets.shape[1], dimension=vectors.shape[1])
    given, wanted = torch.from_numpy(vectors), torch.from_numpy(targets)
    with torch.no_grad():
        head.centring.mean.copy_(given.mean(dim=0))
    weights = head.scores.weight
    optimizer = torch.optim.LBFGS(
        [weights], max_iter=_STEPS, tolerance_grad=1e-6, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        value = F.cross_entropy(head(given), wanted) + weight_decay * weights.square().sum()
        (weights.grad,) = torch.autograd.grad(value, weights)
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]  # torch declares no types
    return head
