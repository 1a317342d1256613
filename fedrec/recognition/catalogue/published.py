"""The file in which a merchant publishes its catalogue: signed, and read as if anyone had written it.

It begins with a line of magic, the merchant's public key, its signature, and the lengths of two parts. The
first part has lines of JSON: one about the file, then one for each product. The second has the vectors,
float16, in the products' order. The signature covers the SHA-256 of both parts and their lengths.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, BinaryIO, Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from fedrec._internal.files import replacing
from fedrec._internal.text import one_line
from fedrec._internal.validation_messages import first_problem
from fedrec.errors import DataError
from fedrec.recognition.catalogue.products import Product
from fedrec.recognition.catalogue.signing import (
    KEY_BYTES,
    SIGNATURE_BYTES,
    Signer,
    is_signed,
    sign_digest,
)

_MAGIC: Final = b"fedrec published catalogue 1\n"
_LENGTHS: Final = struct.Struct("<QQ")
_HEADER_BYTES: Final = len(_MAGIC) + KEY_BYTES + SIGNATURE_BYTES + _LENGTHS.size
_LONGEST_LINE: Final = 1 << 20
_MOST_LINES: Final = 1 << 30
_MOST_VECTORS: Final = 1 << 33
_BLOCK: Final = 1 << 20
MOST_PHOTOS: Final = 1000
"""Photos of one product."""


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("is not in the years 1 to 9999, UTC") from None


class About(BaseModel):
    """What the file's first line says.

    Attributes:
        created: when it was written.
        embedding_id: the embedding of its vectors.
        dimension: length of a vector.
        products: number of products.
        photos: number of vectors.
        vectors: whether it has vectors.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    created: Annotated[AwareDatetime, AfterValidator(_in_utc)]
    embedding_id: Annotated[str, Field(min_length=1, max_length=200)]
    dimension: Annotated[int, Field(ge=1, le=1 << 16)]
    products: Annotated[int, Field(ge=0, le=10**6)]
    photos: Annotated[int, Field(ge=0, le=10**7)]
    vectors: bool


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    product: Product
    photos: Annotated[int, Field(ge=0, le=MOST_PHOTOS)]


@dataclass(frozen=True)
class PublishedProduct:
    """A product with the vectors of its photos.

    Attributes:
        product: its fields.
        vectors: float16 (photos, dimension), each of length 1.
        digest: SHA-256 of all of this.
    """

    product: Product
    vectors: NDArray[np.float16]
    digest: bytes


class PublishedFile:
    """A published file whose size, signature and first line are checked. Use it as a context manager.

    Args:
        path: the file.

    Attributes:
        public: the key that signed it.
        about: its first line.

    Raises:
        DataError: it is no such file, or isn't whole; the text is one line.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            if not path.is_file():
                raise DataError(f"there is no file {path}")
            self._file = path.open("rb")
        except OSError as error:
            raise DataError(f"{path} can't be read: {error.strerror}") from None
        try:
            self.public, self._lines_bytes = self._check_signature(path.stat().st_size)
            self.about = self._parse(About, self._next_line(self._lines_bytes))
            self._check_counts(path.stat().st_size)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> PublishedFile:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def _check_signature(self, size: int) -> tuple[bytes, int]:
        header = self._file.read(_HEADER_BYTES)
        if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC):
            raise self._wrong("is no published catalogue of a version that this one reads")
        public = header[len(_MAGIC) :][:KEY_BYTES]
        signature = header[len(_MAGIC) + KEY_BYTES :][:SIGNATURE_BYTES]
        lines, vectors = _LENGTHS.unpack(header[-_LENGTHS.size :])
        if lines > _MOST_LINES or vectors > _MOST_VECTORS or size != _HEADER_BYTES + lines + vectors:
            raise self._wrong("isn't whole, or is too large")
        first, second = _Part(self._file), _Part(self._file)
        first.read(lines)
        second.read(vectors)
        if not is_signed(public, _digest_of(first, second), signature):
            raise self._wrong("isn't signed by the key that it names: it was changed or damaged")
        self._file.seek(_HEADER_BYTES)
        return public, lines

    def _check_counts(self, size: int) -> None:
        expected = self.about.photos * self.about.dimension * 2 if self.about.vectors else 0
        if size - _HEADER_BYTES - self._lines_bytes != expected:
            raise self._wrong("has another number of vectors than it says")

    def products(self) -> Iterator[PublishedProduct]:
        """Yield its products, checked.

        Yields:
            Each product.

        Raises:
            DataError: a line or a vector is out of range, or their numbers are others than the first line's.
        """
        self._file.seek(_HEADER_BYTES)
        left, at = self._lines_bytes, _HEADER_BYTES + self._lines_bytes
        left -= len(self._next_line(left))
        products = photos = 0
        while left:
            text = self._next_line(left)
            left -= len(text)
            line = self._parse(_Line, text)
            products, photos = products + 1, photos + line.photos
            if products > self.about.products or photos > self.about.photos:
                raise self._wrong("has more products or photos than it says")
            data = b""
            if self.about.vectors:
                place = self._file.tell()
                self._file.seek(at)
                data = self._file.read(line.photos * self.about.dimension * 2)
                at += len(data)
                self._file.seek(place)
            yield PublishedProduct(line.product, self._vectors(data), hashlib.sha256(text + data).digest())
        if (products, photos) != (self.about.products, self.about.photos):
            raise self._wrong("has fewer products or photos than it says")

    def _vectors(self, data: bytes) -> NDArray[np.float16]:
        found = np.frombuffer(data, dtype="<f2").astype(np.float16).reshape(-1, self.about.dimension)
        # Not-a-number fails this comparison too.
        if not (np.abs(np.linalg.norm(found.astype(np.float32), axis=1) - 1) < 0.01).all():
            raise self._wrong("holds a vector that isn't of length 1")
        return found

    def _next_line(self, left: int) -> bytes:
        text = self._file.readline(min(_LONGEST_LINE, left))
        if not text.endswith(b"\n"):
            raise self._wrong("holds a line that is too long or cut off")
        return text

    def _parse(self, kind: type[_Kind], text: bytes) -> _Kind:
        try:
            return kind.model_validate_json(text)
        except ValidationError as error:
            problem = first_problem(error)
            where = one_line(".".join(problem.where), most=60) or "a line"
            raise self._wrong(f"can't be used: {where} {one_line(problem.text)}") from None

    def _wrong(self, what: str) -> DataError:
        return DataError(f"{self._path} {what}")


_Kind = TypeVar("_Kind", bound=BaseModel)


def write_published(
    path: Path,
    about: About,
    products: Iterator[tuple[Product, int]],
    vectors: Iterator[NDArray[np.float16]],
    *,
    signer: Signer,
) -> None:
    """Write a file (mode 0600) such that a crash leaves the old or the new content.

    Args:
        path: the file.
        about: its first line; the numbers in it are those that follow.
        products: the products, each with its number of photos.
        vectors: blocks of vectors, which is read after ``products``.
        signer: the merchant's key.

    Raises:
        OSError: the disk fails.
    """
    with replacing(path, mode=0o600) as file:
        file.write(bytes(_HEADER_BYTES))
        lines, values = _Part(file), _Part(file)
        lines.write(about.model_dump_json().encode() + b"\n")
        for product, photos in products:
            lines.write(_Line(product=product, photos=photos).model_dump_json().encode() + b"\n")
        for block in vectors:
            values.write(block.astype("<f2").tobytes())
        digest = _digest_of(lines, values)
        file.seek(0)
        file.write(_MAGIC + signer.public + sign_digest(signer, digest))
        file.write(_LENGTHS.pack(lines.length, values.length))


class _Part:
    """A part of a file that is hashed as it is read or written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.hash = hashlib.sha256()
        self.length = 0

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._add(data)

    def read(self, length: int) -> None:
        while self.length < length and (data := self._file.read(min(_BLOCK, length - self.length))):
            self._add(data)

    def _add(self, data: bytes) -> None:
        self.hash.update(data)
        self.length += len(data)


def _digest_of(lines: _Part, vectors: _Part) -> bytes:
    lengths = _LENGTHS.pack(lines.length, vectors.length)
    return hashlib.sha256(lengths + lines.hash.digest() + vectors.hash.digest()).digest()
