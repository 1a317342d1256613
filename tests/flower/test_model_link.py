"""A download ends in its time, however little a server sends at once."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from fedrec.flower import model_link


def test_a_body_that_comes_byte_by_byte_is_given_up_in_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = 0
    monkeypatch.setattr("fedrec.flower.model_link.time.monotonic", lambda: 10.0 * sent)

    def dripping() -> Iterator[bytes]:
        nonlocal sent
        while sent < 1000:
            sent += 1
            yield b"x"

    for seconds, most in ((60.0, 7), (600.0, 61)):
        sent = 0
        answer = httpx.Response(200, content=dripping())
        with pytest.raises(ValueError, match="too slow"):
            list(model_link._pieces(answer, 2**20, seconds=seconds))
        assert sent == most
    sent = 0
    whole = httpx.Response(200, content=iter([b"ab", b"c"]))
    assert b"".join(model_link._pieces(whole, 3, seconds=60.0)) == b"abc"
