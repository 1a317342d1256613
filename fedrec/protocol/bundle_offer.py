"""Define how a merchant fetches the model bundle of a finished training: paths, and what the server signs."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from fedrec.protocol.schema import Hash, Signature, Strict

BUNDLE_CONTEXT: Final = b"fedrec/model-bundle/1"
MODELS: Final = "/v1/fedrec/model/"
"""Where the server answers, followed by the training's id and a part."""
MOST_OFFER_BYTES: Final = 4096
_MOST_BYTES: Final = (1 << 31) - 1

Part = Literal["offer", "manifest", "graph"]


class OfferedFile(Strict):
    """A file of a bundle: its SHA-256 and its size."""

    sha256: Hash
    bytes: Annotated[int, Field(ge=1, le=_MOST_BYTES)]


class BundleOffer(Strict):
    """What the server has of a training: manifest and graph, by hash. The card follows from the manifest."""

    training_id: Hash
    manifest: OfferedFile
    graph: OfferedFile


class SignedBundleOffer(Strict):
    """A :class:`BundleOffer` and the server's Ed25519 signature over its canonical bytes."""

    statement: BundleOffer
    signature: Signature


def part_path(training_id: str, part: Part) -> str:
    """Return the path of one part.

    Args:
        training_id: the training, 64 hexadecimal digits.
        part: the signed offer, or one of its files.

    Returns:
        The path.
    """
    return f"{MODELS}{training_id}/{part}"
