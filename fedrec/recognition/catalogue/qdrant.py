"""Vectors on a Qdrant server, for catalogues that outgrow one machine: by its REST interface."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Final, Generic, TypeVar
from urllib.parse import urlsplit

import httpx
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError

from fedrec._internal.host_names import is_loopback
from fedrec._internal.text import one_line
from fedrec.errors import ConfigError, ConnectionLostError, DataError
from fedrec.recognition.catalogue.vector_index import Keys

KEY_VARIABLE: Final = "FEDREC_QDRANT_KEY"
"""The environment variable with the server's key, if it needs one."""
_ADDED: Final = 256
_PAGE: Final = 10_000
_LARGEST_ANSWER: Final = 1 << 26
_SECONDS: Final = 60.0

_Key = Annotated[int, Field(strict=True, ge=0, lt=1 << 63)]


class _Point(BaseModel):
    id: _Key


class _Points(BaseModel):
    points: list[_Point]
    next_page_offset: _Key | None = None


class _Exists(BaseModel):
    exists: bool


_Kind = TypeVar("_Kind", bound=BaseModel)


class _Result(BaseModel, Generic[_Kind]):
    result: _Kind


def check_address(address: str) -> None:
    """Check the address of a server; raise ``ConfigError`` if vectors may not be sent there."""
    shown = one_line(address, most=100)
    wrong = ConfigError(f"{shown!r} is no address of a server, such as https://vectors.example:6333")
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise wrong from None
    if not host or parts.scheme not in {"http", "https"} or parts.username or parts.path not in {"", "/"}:
        raise wrong
    if parts.scheme == "http" and not is_loopback(host):
        raise ConfigError(
            f"{shown} would send vectors unencrypted, and they tell nearly as much as the photos: give an "
            "https address"
        )


class QdrantIndex:
    """The vectors of one catalogue and one embedding, in a collection of their own.

    The server sees vectors, which are as telling as the photos, and numbers; no product, link or price.
    What it answers is checked, and names nothing that the catalogue doesn't hold.

    Args:
        address: such as ``https://vectors.example:6333``; without TLS only on this machine.
        catalogue: the catalogue's random name.
        embedding_id: the embedding of its vectors.
        dimension: length of a vector.
        key: the server's key; None if it needs none.

    Attributes:
        margin: proposals for each result that is wanted.

    Raises:
        ConfigError: the address can't be used.
        ConnectionLostError: the server can't be reached.
        DataError: it answers with something else.
    """

    margin = 2.0

    def __init__(
        self, address: str, *, catalogue: str, embedding_id: str, dimension: int, key: str | None
    ) -> None:
        check_address(address)
        name = f"fedrec-{catalogue}-{hashlib.sha256(embedding_id.encode()).hexdigest()[:16]}"
        self._path = f"/collections/{name}"
        self._address = address
        # No proxy that the environment names: it would see what is sent unencrypted to this machine.
        self._client = httpx.Client(
            base_url=address,
            timeout=_SECONDS,
            headers={} if key is None else {"api-key": key},
            trust_env=False,
        )
        if not self._parse(_Exists, self._ask("GET", "/exists")).exists:
            vectors = {"size": dimension, "distance": "Cosine", "datatype": "float16"}
            self._ask("PUT", "", {"vectors": vectors})

    def keys(self) -> Keys:
        """Return the photos that it holds, ascending."""
        found: list[int] = []
        wanted: dict[str, Any] = {"limit": _PAGE, "with_payload": False, "with_vector": False}
        while True:
            page = self._parse(_Points, self._ask("POST", "/points/scroll", wanted))
            found += [point.id for point in page.points]
            after = page.next_page_offset
            # A server that never ends, or goes back, would be asked forever.
            if after is None or not page.points or after <= wanted.get("offset", -1):
                return np.unique(np.array(found, dtype=np.int64))
            wanted["offset"] = after

    def add(self, keys: Keys, vectors: NDArray[np.float16]) -> None:
        """Add photos.

        Args:
            keys: the photos, none of which it holds.
            vectors: float16 (n, dimension), each of length 1.
        """
        for start in range(0, len(keys), _ADDED):
            part = slice(start, start + _ADDED)
            batch = {"ids": keys[part].tolist(), "vectors": vectors[part].astype(np.float32).tolist()}
            self._ask("PUT", "/points?wait=true", {"batch": batch})

    def remove(self, keys: Keys) -> None:
        """Remove photos that it holds."""
        for start in range(0, len(keys), _PAGE):
            self._ask("POST", "/points/delete?wait=true", {"points": keys[start : start + _PAGE].tolist()})

    def propose(self, query: NDArray[np.float32], count: int, *, among: Keys | None) -> Keys:
        """Find the photos that are nearest.

        Args:
            query: float32 (dimension,), of length 1.
            count: how many.
            among: the only ones to consider, ascending; None for all.

        Returns:
            At most ``count`` photos, the nearest first.
        """
        wanted: dict[str, Any] = {"query": query.tolist(), "limit": count}
        if among is not None:
            wanted["filter"] = {"must": [{"has_id": among.tolist()}]}
        page = self._parse(_Points, self._ask("POST", "/points/query", wanted))
        return np.array([point.id for point in page.points[:count]], dtype=np.int64)

    def _ask(self, method: str, path: str, content: dict[str, Any] | None = None) -> bytes:
        try:
            with self._client.stream(method, self._path + path, json=content) as answer:
                data = bytearray()
                for block in answer.iter_bytes():
                    data += block
                    if len(data) > _LARGEST_ANSWER:
                        raise DataError(f"{self._address} answers with more than {_LARGEST_ANSWER:,} bytes")
        except httpx.HTTPError as error:
            reason = one_line(error) or type(error).__name__
            raise ConnectionLostError(
                f"the vector server {self._address} can't be reached ({reason})"
            ) from None
        if answer.status_code != httpx.codes.OK:
            text = one_line(data.decode("utf-8", "replace"))
            raise DataError(f"the vector server {self._address} refuses ({answer.status_code}): {text}")
        return bytes(data)

    def _parse(self, kind: type[_Kind], data: bytes) -> _Kind:
        try:
            return _Result[kind].model_validate_json(data).result  # type: ignore[valid-type]
        except ValidationError:
            raise DataError(f"the vector server {self._address} answers with something else") from None
