"""The header of a safetensors file: what it may say, found before memory is taken for a tensor."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.errors import ConfigError
from fedrec.vision.backbones.weights_files import header
from fedrec.vision.backbones.weights_files.header import StoredTensor, read_header

VALID = safetensors.numpy.save(
    {"a": np.ones((2, 3), dtype=np.float32), "b": np.ones(4, dtype=np.float16)}, {"format": "pt"}
)


def file(entries: Any, body: bytes = b"") -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + body


def tensor(shape: Any, begin: Any, end: Any, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_names_types_and_shapes_are_read() -> None:
    assert read_header(VALID) == {"a": StoredTensor("F32", (2, 3)), "b": StoredTensor("F16", (4,))}
    assert read_header(file({"scalar": tensor([], 0, 4)}, b"1234")) == {"scalar": StoredTensor("F32", ())}


REFUSED = {
    "empty": (b"", "no safetensors file, or it is cut off"),
    "header longer than the file": ((2**63).to_bytes(8, "little"), "cut off"),
    "no JSON": (file(b"\x80\x04pickle"), "no safetensors file, or it is damaged"),
    "no object": (file([]), "no JSON object"),
    "no tensor": (file({"__metadata__": {}}), "0 tensors"),
    "name twice": (file(b'{"a": 1, "a": 2}'), "a name comes twice"),
    "deep": (file(b"[" * 100_000), "damaged"),
    "long number": (file(b'{"a": ' + b"9" * 5000 + b"}"), "damaged"),
    "unknown type": (file({"a": tensor([1], 0, 4, "F8_E4M3")}, b"1234"), "'F8_E4M3', which isn't allowed"),
    "type is a list": (file({"a": tensor([1], 0, 4, [])}, b"1234"), "which isn't allowed"),
    "more fields": (file({"a": {**tensor([1], 0, 4), "code": 1}}, b"1234"), "isn't described by"),
    "negative side": (file({"a": tensor([-1, -1], 0, 4)}, b"1234"), "shape or a place"),
    "bool side": (file({"a": tensor([True], 0, 4)}, b"1234"), "shape or a place"),
    "fraction": (file({"a": tensor([1.0], 0, 4)}, b"1234"), "shape or a place"),
    "huge side": (file({"a": tensor([2**41], 0, 4)}, b"1234"), "shape or a place"),
    "rank": (file({"a": tensor([1] * 9, 0, 4)}, b"1234"), "shape or a place"),
    "more than its bytes": (file({"a": tensor([2**40], 0, 4)}, b"1234"), "another number of bytes"),
    "ends before it begins": (file({"a": tensor([1], 4, 0)}, b"1234"), "another number of bytes"),
    "overlap": (file({"a": tensor([1], 0, 4), "b": tensor([1], 0, 4)}, b"1234"), "overlap"),
    "gap": (file({"a": tensor([1], 4, 8)}, b"12345678"), "leave a part of the file unused"),
    "longer": (file({"a": tensor([1], 0, 4)}, b"12345"), "is longer than its tensors"),
    "shorter": (VALID[:-1], "cut off"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_other_headers_are_refused_in_one_line(what: str) -> None:
    data, message = REFUSED[what]
    with pytest.raises(ConfigError, match=message) as caught:
        read_header(data)
    assert "\n" not in str(caught.value)


def test_long_headers_and_many_tensors_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header, "MOST_TENSORS", 1)
    with pytest.raises(ConfigError, match="it has 2 tensors"):
        read_header(VALID)
    monkeypatch.setattr(header, "LARGEST_HEADER", 20)
    with pytest.raises(ConfigError, match=r"its header has .* bytes"):
        read_header(VALID)


@settings(max_examples=200, deadline=None)
@given(place=st.integers(0, len(VALID) - 1), byte=st.integers(0, 255), cut=st.booleans())
def test_whatever_is_accepted_is_read_alike_by_safetensors(place: int, byte: int, cut: bool) -> None:
    data = VALID[:place] if cut else VALID[:place] + bytes([byte]) + VALID[place + 1 :]
    try:
        found = read_header(data)
    except ConfigError:
        return
    loaded = safetensors.numpy.load(data)
    assert {name: one.shape for name, one in found.items()} == {
        name: one.shape for name, one in loaded.items()
    }
