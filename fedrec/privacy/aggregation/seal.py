"""Read and write SEAL's coefficient buffers (``tenseal.sealapi`` 0.3.18, SEAL 4); no other module does.

TenSEAL's documented interface reads coefficients one by one (about 0.1 us each) and writes them only by
loading a serialised stream. A ctypes view of the same buffer is a thousand times faster, but depends on the
memory layout of pybind11 and of SEAL's ``DynArray``. So a self-test at import compares the view with the
documented interface. If they disagree, the documented interface is used.
"""

from __future__ import annotations

import ctypes
import os
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tenseal.sealapi as sealapi
from numpy.typing import NDArray

from fedrec.errors import AggregationError

# SEALHeader (serialization.h): magic, header size, version major and minor, compression, reserved, size.
_HEADER = struct.Struct("<HBBBBHQ")
_HEADER_MAGIC = 0xA15E
_HEADER_BYTES = 16
_SEAL_VERSION = (4, 3)
_NO_COMPRESSION = 0
# Ciphertext: parms_id, NTT flag, number of polynomials, degree, primes, scale, correction factor.
_CIPHERTEXT = struct.Struct("<4QBQQQdQ")
# Plaintext: parms_id (not zero means NTT form), coefficients, scale.
_PLAINTEXT = struct.Struct("<4QQd")
_ARRAY_COUNT = struct.Struct("<Q")
# pybind11's instance keeps the C++ pointer behind ob_refcnt and ob_type; DynArray keeps a pool handle
# (a shared_ptr, two words), then capacity, size and the data pointer.
_INSTANCE_VALUE_OFFSET = 16
_DYN_ARRAY_OFFSET = 16
_DYN_ARRAY = struct.Struct("<QQQ")
_POINTER = struct.Struct("<Q")

UInt64Array = NDArray[np.uint64]


def security_limit_bits(degree: int) -> int:
    """Return SEAL's limit on the modulus bits for 128-bit security in this ring degree; 0 if none."""
    return int(sealapi.CoeffModulus.MaxBitCount(degree, sealapi.SEC_LEVEL_TYPE.TC128))


def _header(body_bytes: int) -> bytes:
    size = _HEADER_BYTES + body_bytes
    return _HEADER.pack(_HEADER_MAGIC, _HEADER_BYTES, *_SEAL_VERSION, _NO_COMPRESSION, 0, size)


def _array_stream(values: UInt64Array) -> bytes:
    """Serialise a DynArray of 64-bit words, uncompressed."""
    data = _ARRAY_COUNT.pack(values.size) + values.astype("<u8", copy=False).tobytes()
    return _header(len(data)) + data


def _load(target: Any, stream: bytes, *before: Any) -> None:
    """Call ``target.load(*before, path)`` on a stream.

    On Linux it is in memory: no key material is written to disk. SEAL can read from a path alone, so that
    elsewhere it is in a temporary file of this user for a moment.
    """
    if not hasattr(os, "memfd_create"):
        _load_from_file(target, stream, *before)
        return
    descriptor = os.memfd_create("fedrec", os.MFD_CLOEXEC)
    try:
        written = 0
        while written < len(stream):
            written += os.write(descriptor, memoryview(stream)[written:])
        target.load(*before, f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _load_from_file(target: Any, stream: bytes, *before: Any) -> None:
    descriptor, name = tempfile.mkstemp(prefix="fedrec-")  # mode 0600, without Windows' change of line ends
    path = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(stream)
        target.load(*before, name)
        with path.open("r+b") as file:
            file.write(bytes(len(stream)))
    finally:
        path.unlink()


def _slow_read(holder: Any) -> UInt64Array:
    array = holder.dyn_array()
    return np.fromiter((array[i] for i in range(array.size())), dtype=np.uint64, count=array.size())


def _slow_write(holder: Any, values: UInt64Array) -> None:
    _load(holder.dyn_array(), _array_stream(values))


def _locate(holder: Any, read: Callable[[int, int], bytes]) -> tuple[int, int]:
    """Return the address and the length in words of the buffer; ``read(address, size)`` reads memory."""
    array = holder.dyn_array()
    (address,) = _POINTER.unpack(read(id(array) + _INSTANCE_VALUE_OFFSET, _POINTER.size))
    capacity, size, data = _DYN_ARRAY.unpack(read(address + _DYN_ARRAY_OFFSET, _DYN_ARRAY.size))
    if size != array.size() or capacity < size or data == 0:
        raise AggregationError("SEAL's buffers have an unknown layout; install tenseal==0.3.18")
    return data, size


def _view(holder: Any) -> UInt64Array:
    """Return a writable view of the buffer, valid until SEAL resizes the holder.

    Call it only if :func:`fast_buffers_work`: with another memory layout the address would be arbitrary.
    """
    data, size = _locate(holder, ctypes.string_at)
    words: Any = (ctypes.c_uint64 * size).from_address(data)
    view: UInt64Array = np.frombuffer(words, dtype=np.uint64)
    return view


def _read_checked(address: int, size: int) -> bytes:
    """Read this process's memory through the kernel.

    Following a wild pointer directly would end the process (SIGSEGV), without an exception that allows the
    slow path.

    Returns:
        The bytes, exactly ``size``.

    Raises:
        OSError: the address is not mapped.
    """
    descriptor = os.open("/proc/self/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = os.pread(descriptor, size, address)
    finally:
        os.close(descriptor)
    if len(found) != size:
        raise OSError("the memory is not mapped to its end")
    return found


def fast_buffers_work() -> bool:
    """Test whether the ctypes view agrees with TenSEAL's documented interface, for reading and writing.

    The view is written to only after 512 known bytes have been read back through checked pointers, which
    shows that the address is the buffer.

    Returns:
        Whether the view can be used.
    """
    try:
        holder = sealapi.Plaintext(64)
        first = np.arange(1, 65, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        _slow_write(holder, first)
        data, size = _locate(holder, _read_checked)
        if size != first.size or _read_checked(data, first.nbytes) != first.tobytes():
            return False
        second = first[::-1].copy()
        _view(holder)[:] = second
        return bool(np.array_equal(_slow_read(holder), second))
    except (AggregationError, ValueError, RuntimeError, AttributeError, OSError, OverflowError, struct.error):
        return False


FAST_BUFFERS = fast_buffers_work()
"""Whether this process uses the fast view."""


def _context(*, degree: int, modulus: int) -> Any:
    """Return a CKKS context with one prime; ``AggregationError`` if SEAL refuses it."""
    try:
        parameters = sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.CKKS)
        parameters.set_poly_modulus_degree(degree)
        parameters.set_coeff_modulus([sealapi.Modulus(modulus)])
        context = sealapi.SEALContext(parameters, True, sealapi.SEC_LEVEL_TYPE.TC128)
        accepted, reason = context.parameters_set(), context.parameters_error_name()
    except (ValueError, RuntimeError, TypeError) as error:
        raise AggregationError(f"SEAL refuses ring degree {degree} with modulus {modulus}") from error
    if not accepted:
        raise AggregationError(f"SEAL refuses ring degree {degree} with modulus {modulus}: {reason}")
    return context


class _Buffers:
    """Convert between coefficients and SEAL's objects in a context with one prime."""

    def __init__(self, *, degree: int, modulus: int, fast: bool | None) -> None:
        self.degree = degree
        self._fast = FAST_BUFFERS if fast is None else fast
        self.context = _context(degree=degree, modulus=modulus)
        self._parms_id = self.context.first_parms_id()

    def _ciphertext_stream(self, values: UInt64Array, *, ntt: bool, scale: float) -> bytes:
        count = values.size // self.degree
        head = _CIPHERTEXT.pack(*self._parms_id, ntt, count, self.degree, 1, scale, 1)
        body = head + _array_stream(values)
        return _header(len(body)) + body

    def ciphertext(self, values: UInt64Array, *, ntt: bool, scale: float = 1.0) -> Any:
        out = sealapi.Ciphertext()
        _load(out, self._ciphertext_stream(values, ntt=ntt, scale=scale), self.context)
        return out

    def public_key(self, values: UInt64Array) -> Any:
        out = sealapi.PublicKey()
        _load(out, self._ciphertext_stream(values, ntt=True, scale=1.0), self.context)
        return out

    def _plaintext_stream(self, values: UInt64Array) -> bytes:
        body = _PLAINTEXT.pack(*self._parms_id, values.size, 1.0) + _array_stream(values)
        return _header(len(body)) + body

    def plaintext(self, values: UInt64Array) -> Any:
        out = sealapi.Plaintext()
        _load(out, self._plaintext_stream(values), self.context)
        return out

    def secret_key(self, values: UInt64Array) -> Any:
        out = sealapi.SecretKey()
        _load(out, self._plaintext_stream(values), self.context)
        return out

    def read(self, holder: Any) -> UInt64Array:
        return _view(holder).copy() if self._fast else _slow_read(holder)

    def write(self, holder: Any, values: UInt64Array) -> None:
        if self._fast:
            _view(holder)[:] = values
        else:
            _slow_write(holder, values)


class RingEngine:
    """Arithmetic in Z_q[x]/(x^N + 1) with SEAL: transforms, and products with one fixed polynomial.

    It uses a CKKS context with the single prime q, because CKKS operations on its ciphertexts are plain ring
    operations: nothing is rounded or relinearised. An engine is not thread-safe.

    Args:
        degree: N, the degree of the ring.
        modulus: the prime q.
        fast: whether to use the fast view of buffers; by default if it works.

    Raises:
        AggregationError: SEAL refuses the parameters, in particular if q has more bits than SEAL's limit for
            128-bit security in that degree.
    """

    BATCH = 8

    def __init__(self, *, degree: int, modulus: int, fast: bool | None = None) -> None:
        self.degree = degree
        self.modulus = modulus
        self._buffers = _Buffers(degree=degree, modulus=modulus, fast=fast)
        self._evaluator = sealapi.Evaluator(self._buffers.context)
        # All-ones: SEAL refuses ciphertexts whose last polynomials are all zero ("transparent").
        ones = np.ones(self.BATCH * degree, dtype=np.uint64)
        self._source = self._buffers.ciphertext(ones, ntt=True)
        self._product = self._buffers.ciphertext(ones, ntt=False)

    def transform(self, polynomial: UInt64Array) -> UInt64Array:
        """Return a polynomial's number-theoretic transform, in SEAL's order; both (N,) uint64 below q."""
        padded = np.concatenate([polynomial, np.ones(self.degree, dtype=np.uint64)])
        work = self._buffers.ciphertext(padded, ntt=False)
        self._evaluator.transform_to_ntt_inplace(work)
        return self._buffers.read(work)[: self.degree]

    def multiplier(self, transformed: UInt64Array) -> Any:
        """Prepare a non-zero polynomial in transformed form, (N,) uint64, for :meth:`products`."""
        return self._buffers.plaintext(transformed)

    def products(self, transformed: UInt64Array, multiplier: Any) -> UInt64Array:
        """Multiply up to ``BATCH`` polynomials by one.

        Args:
            transformed: (b, N) uint64 below q, in transformed form.
            multiplier: result of :meth:`multiplier`.

        Returns:
            The products as plain coefficients, (b, N) uint64 below q.

        Raises:
            AggregationError: the multiplier is degenerate.
        """
        count = len(transformed)
        batch = np.ones((self.BATCH, self.degree), dtype=np.uint64)
        batch[:count] = transformed
        self._buffers.write(self._source, batch.reshape(-1))
        try:
            self._evaluator.multiply_plain(self._source, multiplier, self._product)
            self._evaluator.transform_from_ntt_inplace(self._product)
        except (ValueError, RuntimeError) as error:
            raise AggregationError("SEAL refuses a ring product: the key polynomial is degenerate") from error
        return self._buffers.read(self._product).reshape(self.BATCH, self.degree)[:count]


class CkksEngine:
    """CKKS with SEAL over one prime: keys, encryption under a public key, decryption. Not thread-safe.

    Polynomials are (N,) uint64 below the modulus, in transformed form; a ciphertext is two of them. SEAL uses
    its own randomness, seeded by the operating system.

    Args:
        degree: N, the degree of the ring.
        modulus: the prime.
        fast: whether to use the fast view of buffers; by default if it works.

    Raises:
        AggregationError: SEAL refuses the parameters.
    """

    def __init__(self, *, degree: int, modulus: int, fast: bool | None = None) -> None:
        self._buffers = _Buffers(degree=degree, modulus=modulus, fast=fast)
        self._encoder = sealapi.CKKSEncoder(self._buffers.context)

    def make_keys(self) -> tuple[UInt64Array, UInt64Array]:
        """Return a fresh private key, (N,), and its public key, (2 N,)."""
        maker = sealapi.KeyGenerator(self._buffers.context)
        # Keep references to both keys: their data is a view that doesn't keep them alive.
        secret, public = maker.secret_key(), sealapi.PublicKey()
        maker.create_public_key(public)
        return self._buffers.read(secret.data()), self._buffers.read(public.data())

    def encrypt(self, slots: NDArray[np.complex128], *, scale: float, public_key: UInt64Array) -> UInt64Array:
        """Encrypt complex slots.

        Args:
            slots: (b, N / 2) complex128.
            scale: factor of the values.
            public_key: (2 N,) uint64.

        Returns:
            (b, 2 N) uint64.

        Raises:
            AggregationError: values are too large for the modulus, or SEAL refuses the key.
        """
        try:
            encryptor = sealapi.Encryptor(self._buffers.context, self._buffers.public_key(public_key))
            out = np.empty((len(slots), 2 * self._buffers.degree), dtype=np.uint64)
            plaintext, ciphertext = sealapi.Plaintext(), sealapi.Ciphertext()
            for block, row in zip(out, slots, strict=True):
                self._encoder.encode(row.tolist(), scale, plaintext)
                encryptor.encrypt(plaintext, ciphertext)
                block[:] = self._buffers.read(ciphertext)
        except (ValueError, RuntimeError) as error:
            raise AggregationError(f"SEAL refuses to encrypt: {error}") from error
        return out

    def decrypt(
        self, ciphertexts: UInt64Array, *, scale: float, private_key: UInt64Array
    ) -> NDArray[np.complex128]:
        """Decrypt ciphertexts or sums of ciphertexts.

        The noise in the result reveals the private key (Li and Micciancio 2021), so the holder must round the
        result before it passes it on.

        Args:
            ciphertexts: (b, 2 N) uint64.
            scale: factor of the values.
            private_key: (N,) uint64.

        Returns:
            (b, N / 2) complex128 slots, with noise.

        Raises:
            AggregationError: SEAL refuses a ciphertext or the key.
        """
        try:
            decryptor = sealapi.Decryptor(self._buffers.context, self._buffers.secret_key(private_key))
            plaintext = sealapi.Plaintext()
            rows = []
            for block in ciphertexts:
                decryptor.decrypt(self._buffers.ciphertext(block, ntt=True, scale=scale), plaintext)
                rows.append(self._encoder.decode_complex(plaintext))
        except (ValueError, RuntimeError) as error:
            raise AggregationError(f"SEAL refuses to decrypt: {error}") from error
        return np.array(rows, dtype=np.complex128)
