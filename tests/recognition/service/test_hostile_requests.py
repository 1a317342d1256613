"""Whatever is sent, the service answers with a reason, keeps nothing, and goes on."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.requests import Request
from starlette.types import Message

from fedrec.recognition.model import open_model
from fedrec.recognition.service.photo_analyser import PhotoAnalyser
from fedrec.recognition.service.refusals import RequestError
from fedrec.recognition.service.uploads import Receiver
from tests.recognition.service.conftest import JPEG, LIMITS, Service, client_of, encoded
from tests.support.bundles import write_tiny_bundle

TOKEN = b"t" * 40


def png(width: int, height: int, pixels: bytes = b"") -> bytes:
    """A PNG file of this size whose data unpacks to ``pixels``."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def hostile() -> Iterator[tuple[bytes, int, str]]:
    good = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)))
    yield b"", 422, "not-a-photo"
    yield good[: len(good) // 2], 422, "not-a-photo"
    yield png(60_000, 60_000, b"\0" * 1000), 422, "not-a-photo"
    yield png(1200, 1000, bytes(1000 * 3601)), 422, "not-a-photo"
    yield png(10, 10), 422, "not-a-photo"
    yield b"GIF89a" + b"\xff" * 50, 422, "not-a-photo"
    yield b"<svg xmlns='http://www.w3.org/2000/svg'/>", 422, "not-a-photo"
    yield b"%!PS-Adobe-3.0 EPSF-3.0\n", 422, "not-a-photo"
    yield b"x" * (LIMITS.body_bytes + 1), 413, "too-large"
    yield np.random.default_rng(1).bytes(5000), 422, "not-a-photo"


@pytest.mark.parametrize("number", range(10))
def test_what_is_no_photo_is_refused_with_a_reason(service: Service, number: int) -> None:
    content, status, error = list(hostile())[number]
    for path in ("/predict", "/look", "/quality", "/search", "/copies"):
        answer = service.client.post(path, content=content, headers=JPEG)
        assert (answer.status_code, answer.json()["error"]) == (status, error)
    assert service.client.get("/health").json() == {"status": "ok"}


@pytest.mark.parametrize("size", [(1, 1), (10_000, 1), (1, 9_000), (2, 3_000)])
def test_a_photo_that_is_a_mere_line_is_answered(service: Service, size: tuple[int, int]) -> None:
    content = encoded(Image.new("RGB", size, (200, 10, 10)))
    for path in ("/predict", "/evidence", "/quality", "/search", "/copies", "/look"):
        assert service.client.post(path, content=content, headers=JPEG).status_code == 200, path


def segment(body: bytes, marker: int) -> bytes:
    """A segment of a JPEG file."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


@pytest.mark.filterwarnings("ignore:Truncated File Read")
@pytest.mark.parametrize(
    "extra",
    [
        segment(b"\0" * 60_000, 0xFE) * 12,
        segment(b"ICC_PROFILE\0\x01\xff" + b"\xff" * 50_000, 0xE2) * 3,
        segment(
            b"http://ns.adobe.com/xap/1.0/\0<!DOCTYPE x [<!ENTITY a SYSTEM 'file:///etc/passwd'>]>&a;", 0xE1
        ),
        # A folder of EXIF that refers to itself, with more values than any file has.
        segment(
            b"Exif\0\0II*\0\x08\0\0\0\xf4\x01" + struct.pack("<HHII", 0x8769, 4, 0xFFFFFFFF, 8) * 500, 0xE1
        ),
    ],
    ids=["comments", "profile", "XMP", "EXIF"],
)
def test_what_stands_beside_the_pixels_changes_no_answer(service: Service, extra: bytes) -> None:
    good = encoded(Image.fromarray(np.random.default_rng(2).integers(0, 256, (64, 64, 3), dtype=np.uint8)))
    wanted = service.client.post("/predict", content=good, headers=JPEG).json()
    for content in (good[:2] + extra + good[2:], good + b"PK\x03\x04<script>alert(1)</script>"):
        assert service.client.post("/predict", content=content, headers=JPEG).json() == wanted


def test_an_error_that_nobody_foresaw_has_a_name_and_reveals_nothing(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise ZeroDivisionError("/home/seller/secret.jpg")

    monkeypatch.setattr("fedrec.recognition.service.photo_analyser.judge", fails)
    answer = service.client.post("/quality", content=encoded(Image.new("RGB", (40, 40))), headers=JPEG)
    assert (answer.status_code, answer.json()["error"]) == (500, "failed")
    assert "secret" not in answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_another_method_or_path_is_told_as_json(service: Service) -> None:
    answer = service.client.put("/look", content=b"x", headers=JPEG)
    assert (answer.status_code, answer.json()["error"]) == (405, "wrong-method")
    assert answer.headers["allow"] == "POST"
    assert service.client.get("/nothing").json()["error"] == "no-such-path"
    assert service.client.head("/health").status_code == service.client.head("/").status_code == 200


def test_a_body_that_hides_its_size_is_cut_off(service: Service) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(1000):
            sent += 1 << 16
            yield b"x" * (1 << 16)

    answer = service.client.post("/predict", content=endless(), headers=JPEG)
    assert answer.status_code == 413


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "image/svg+xml", ""]
)
def test_another_type_is_refused(service: Service, kind: str) -> None:
    answer = service.client.post("/predict", content=b"x", headers={"Content-Type": kind})
    assert (answer.status_code, answer.json()["error"]) == (415, "wrong-type")


@pytest.mark.parametrize(
    "query",
    [
        "top=0",
        "top=101",
        "top=x",
        "only=price",
        "only=nothing=1",
        "only=price<x",
        "at_least=nan",
        "crop=1",
        "crop=0,0,2,1",
        "crop=nan,0,1,1",
        "crop=-1,0,1,1",
        "crop=0,0,0,1",
        f"only={'a' * 3000}",
    ],
)
def test_an_option_that_cannot_be_used_is_named(service: Service, query: str) -> None:
    answer = service.client.post(f"/search?{query}", content=encoded(Image.new("RGB", (9, 9))), headers=JPEG)
    assert (answer.status_code, answer.json()["error"]) == (422, "wrong-value")
    assert len(answer.json()["detail"]) < 400 and "Input should" not in answer.json()["detail"]


@pytest.mark.parametrize(
    "path", ["/photos/999999", "/photos/-1", "/photos/..%2F..%2Fetc%2Fpasswd", "/photos/x"]
)
def test_only_stored_photos_have_pictures(service: Service, path: str) -> None:
    answer = service.client.get(path)
    assert answer.status_code in (404, 422) and b"root:" not in answer.content


@pytest.mark.parametrize(
    "path", ["/page.js/..%2F..%2Frunning.py", "/../page/page.js", "/running.py", "/docs", "/redoc"]
)
def test_nothing_but_the_page_is_served(service: Service, path: str) -> None:
    assert service.client.get(path).status_code == 404


def test_every_answer_forbids_foreign_content_and_storing(service: Service) -> None:
    for answer in (
        service.client.get("/"),
        service.client.get("/nothing"),
        service.client.post("/predict", content=b"x", headers=JPEG),
    ):
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
    page = service.client.get("/").text
    assert "<style" not in page and "onclick" not in page and "http://" not in page and "https://" not in page


def test_a_foreign_name_for_this_machine_is_refused(service: Service) -> None:
    assert service.client.get("/model", headers={"Host": "evil.example"}).status_code == 400


def test_with_a_token_nothing_but_page_and_health_is_open(tmp_path: Path) -> None:
    client = client_of(PhotoAnalyser(open_model(write_tiny_bundle(tmp_path / "m"))), token=TOKEN)
    for path in ("/", "/page.js", "/page.css", "/texts.js", "/health"):
        assert client.get(path).status_code == 200
    content = encoded(Image.new("RGB", (20, 20)))
    for path in ("/model", "/metrics", "/openapi.json", "/photos/1", "/nothing"):
        assert client.get(path).status_code == 401
    assert client.post("/predict", content=content, headers=JPEG).status_code == 401
    wrong = {"Authorization": f"Bearer {'u' * 40}"}
    right = {"Authorization": f"Bearer {TOKEN.decode()}"}
    assert client.post("/predict", content=content, headers=JPEG | wrong).status_code == 401
    assert client.post("/predict", content=content, headers=JPEG | right).status_code == 200
    # The page's script holds a proof against the token before it sends the token.
    nonce = "0a" * 32
    proof = hmac.new(TOKEN, b"fedrec page\n" + nonce.encode(), hashlib.sha256).hexdigest()
    assert client.get(f"/proof?nonce={nonce}").json() == {"proof": proof}
    for bad in ("", "0" * 63, "A" * 64, f"{nonce}%0a"):
        assert client.get(f"/proof?nonce={bad}").status_code == 422
    open_to_all = client_of(PhotoAnalyser(open_model(tmp_path / "m")), token=None)
    assert open_to_all.get(f"/proof?nonce={nonce}").status_code == 404


def test_no_photo_is_written_anywhere(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = {path: path.stat().st_mtime_ns for path in service.catalogue.folder.rglob("*")}
    for path in ("/look", "/evidence", "/copies"):
        content = encoded(Image.effect_noise((200, 200), 80).convert("RGB"))
        assert service.client.post(path, content=content, headers=JPEG).status_code == 200
    assert not list(tmp_path.iterdir())
    assert {path: path.stat().st_mtime_ns for path in service.catalogue.folder.rglob("*")} == before


def request_of(parts: Iterator[bytes], *, pause: float = 0.0) -> Request:
    """A request whose body arrives in parts."""

    async def receive() -> Message:
        await asyncio.sleep(pause)
        part = next(parts, None)
        return {"type": "http.request", "body": part or b"", "more_body": part is not None}

    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", b"image/jpeg")]}
    return Request(scope, receive)


async def received(receiver: Receiver, request: Request) -> bytes:
    async with receiver.received(request) as content:
        return content


def test_a_slow_client_is_ended_and_keeps_nobody_waiting() -> None:
    def begun(seconds: float) -> tuple[Receiver, list[asyncio.Task[bytes]]]:
        receiver = Receiver(replace(LIMITS, seconds=seconds))
        requests = (request_of(iter([b"x"] * 1000), pause=0.05) for _ in range(300))
        return receiver, [asyncio.create_task(received(receiver, request)) for request in requests]

    async def ended() -> set[str]:
        errors = await asyncio.gather(*begun(0.2)[1], return_exceptions=True)
        return {str(getattr(error, "error", error)) for error in errors}

    async def beside() -> bytes:
        receiver, slow = begun(3600.0)
        await asyncio.sleep(0.1)
        quick = await received(receiver, request_of(iter([b"photo"])))
        assert not any(task.done() for task in slow)
        return quick

    assert asyncio.run(ended()) == {"too-slow"}
    # What is still sent as the loop ends is cancelled.
    assert asyncio.run(beside()) == b"photo"


def test_more_than_fits_in_memory_is_refused_and_what_has_ended_makes_room() -> None:
    receiver = Receiver(replace(LIMITS, memory=2500))

    async def several() -> list[str]:
        answers = []
        async with receiver.received(request_of(iter([b"x" * 1000]))):
            async with receiver.received(request_of(iter([b"x" * 1000]))):
                for _ in range(2):
                    try:
                        await received(receiver, request_of(iter([b"x" * 1000])))
                    except RequestError as error:
                        answers.append(error.error)
            await received(receiver, request_of(iter([b"x" * 1000])))
        await received(receiver, request_of(iter([b"x" * 2000])))
        return answers

    assert asyncio.run(several()) == ["busy", "busy"]
