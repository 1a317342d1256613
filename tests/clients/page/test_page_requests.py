"""The page's requests, without a browser: what they tell, what they do, and whom they refuse."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import logging
import re
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import get_args

import pytest
from PIL import Image
from starlette.testclient import TestClient
from typer.testing import CliRunner

from fedrec.cli.client import app as client_app
from fedrec.cli.client_page import print_address
from fedrec.clients import model_fetching
from fedrec.clients.merchant_home import MerchantHome
from fedrec.clients.page.application import LARGEST_ACTION, Actions, make_application
from fedrec.clients.page.model_trial import ModelTrial
from fedrec.clients.page.photo_view import MOST_SHOWN, PhotoView
from fedrec.clients.page.running import TOKEN_FILE, new_token, serve_page
from fedrec.clients.page.status_reader import StatusReader
from fedrec.clients.record_tags import RecordTags
from fedrec.clients.status import read_status
from fedrec.clients.status_types import MerchantStatus
from fedrec.clients.store import MerchantStore
from fedrec.errors import ConnectionFault, RefusedError, ServiceError
from fedrec.vision.datasets import decode, digest_of
from tests.support.shop_home import ShopHome

TOKEN = b"t" * 43
HERE = "http://127.0.0.1:8766"
API = ("/status.json", "/photos.json", "/photos/1/0")
ACTIONS = ("/pause", "/resume", "/forget", "/models/fetch", "/models/x/try")
STATIC = ("/", "/base.css", "/base.js", "/page.css", "/page.js", "/texts.js")


@pytest.fixture
def view(made: ShopHome) -> PhotoView:
    view = PhotoView(made.home, unit=lambda: "record", changed_data=lambda: "count_together")
    view.refresh(wait=True)
    return view


@pytest.fixture
def client(made: ShopHome, view: PhotoView) -> TestClient:
    application = make_application(
        StatusReader(made.home),
        view,
        ModelTrial(made.home),
        Actions(pause=made.home.pause, resume=made.home.resume),
        host="127.0.0.1",
        token=TOKEN,
    )
    headers = {"Authorization": f"Bearer {TOKEN.decode()}"}
    return TestClient(application, base_url=HERE, headers=headers)


def test_nothing_is_told_or_done_without_the_token(client: TestClient, made: ShopHome) -> None:
    for headers in (
        {"Authorization": ""},
        {"Authorization": "Bearer wrong"},
        {"Authorization": TOKEN.decode()},
    ):
        for path in (*API, "/nothing"):
            assert client.get(path, headers=headers).status_code == 401
        for path in ACTIONS:
            assert client.post(path, json={}, headers=headers).status_code == 401
    # A cookie or an address can be sent by any site: neither counts.
    cookie = {"Authorization": "", "Cookie": f"token={TOKEN.decode()}"}
    assert client.post(f"/pause?token={TOKEN.decode()}", headers=cookie).status_code == 401
    assert not (made.home.folder / "paused").exists()
    for path in STATIC:
        assert client.get(path, headers={"Authorization": ""}).status_code == 200


def test_another_site_in_the_same_browser_is_refused_even_with_the_token(
    client: TestClient, made: ShopHome
) -> None:
    rebound = {"Host": "evil.example:8766"}
    assert client.get("/", headers=rebound).status_code == 400
    assert client.get("/status.json", headers=rebound).status_code == 400
    for origin in ("http://evil.example", "null", "http://127.0.0.1:9999", "https://127.0.0.1:8766"):
        assert client.post("/pause", headers={"Origin": origin}).status_code == 403
    for site in ("cross-site", "same-site"):
        told = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors"}
        assert client.get("/status.json", headers=told).status_code == 403
        assert client.post("/pause", headers=told).status_code == 403
        # A link from elsewhere opens the page, which holds nothing; it never acts.
        navigated = told | {"Sec-Fetch-Mode": "navigate"}
        assert client.get("/", headers=navigated).status_code == 200
        assert client.post("/pause", headers=navigated).status_code == 403
    assert not (made.home.folder / "paused").exists()
    assert client.post("/pause", headers={"Origin": HERE, "Sec-Fetch-Site": "same-origin"}).status_code == 200
    assert (made.home.folder / "paused").exists()
    assert client.post("/resume").status_code == 200
    assert not (made.home.folder / "paused").exists()
    for path in ACTIONS:
        assert client.get(path).status_code == 405


def test_every_answer_keeps_scripts_and_frames_out(client: TestClient) -> None:
    for path in (*STATIC, *API, "/nothing"):
        headers = client.get(path).headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "script-src 'self'" in policy
        assert "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert headers["X-Content-Type-Options"] == "nosniff" and headers["Cache-Control"] == "no-store"
        assert "Access-Control-Allow-Origin" not in headers and "Set-Cookie" not in headers
    page = client.get("/").text
    assert "style=" not in page and "onclick" not in page and page.count("<script") == 1


def test_status_is_what_the_terminal_says_and_reading_writes_nothing(
    client: TestClient, made: ShopHome
) -> None:
    def everything() -> dict[str, tuple[int, str]]:
        return {
            str(path): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
            for root in (made.home.folder, made.photos)
            for path in root.rglob("*")
            if path.is_file()
        }

    before = everything()
    told = client.get("/status.json").json()
    expected = json.loads(json.dumps(asdict(read_status(made.home))))
    assert {name: told[name] for name in expected} == expected
    assert [(each["charged"], each["lost"], each["open"]) for each in told["history"]] == [
        (6, 0, True),
        (30, 1, False),
    ]
    assert [each["bytes_sent"] for each in told["history"]] == [1_000_000, 1_000_000]
    assert [each["standing"] for each in told["refusals"]] == [False, True]
    assert [(each["cause"], each["rule"]) for each in told["refusals"]] == [
        ("pause", None),
        ("rule", "largest_steps"),
    ]
    client.get("/photos.json")
    client.get("/photos/1/0")
    assert everything() == before


def test_the_page_has_words_for_each_fault_of_a_connection_in_both_languages(client: TestClient) -> None:
    texts = client.get("/texts.js").text
    for fault in get_args(ConnectionFault):
        assert len(re.findall(rf"^ +{fault}: ", texts, re.MULTILINE)) == 2, fault


def test_the_status_follows_a_change_at_once(client: TestClient, made: ShopHome) -> None:
    made.home.pause()
    assert client.get("/status.json").json()["paused"]
    made.home.resume()
    assert not client.get("/status.json").json()["paused"]
    policy = made.home.folder / "policy.toml"
    kept = policy.read_text()
    policy.write_text("= =")
    assert "policy.toml" in client.get("/status.json").json()["policy_problem"]
    policy.write_text(kept)
    assert client.get("/status.json").json()["policy_problem"] is None


def test_each_photo_has_its_state_and_reason(
    client: TestClient, made: ShopHome, view: PhotoView, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = client.get("/photos.json").json()
    assert found["counts"] == {"used": 40, "waiting": 1, "other_class": 1, "copy": 1, "unusable": 1}
    assert found["total"] == 44 and len(found["photos"]) == MOST_SHOWN and not found["problem"]
    rest = client.get(f"/photos.json?start={MOST_SHOWN}").json()["photos"]
    names = [each["name"] for each in found["photos"] + rest]
    on_disk = {str(path.relative_to(made.photos)) for path in made.photos.rglob("*.png")}
    assert len(names) == 44 and set(names) == on_disk
    (waiting,) = client.get("/photos.json?state=waiting").json()["photos"]
    assert waiting["name"].endswith("/new.png")
    (broken,) = client.get("/photos.json?state=unusable").json()["photos"]
    assert broken["name"].endswith("broken.png") and broken["reason"]
    assert client.get("/photos.json?state=nonsense").status_code == 422
    for start in ("-1", "1e9", "٣", "9" * 400):
        assert client.get("/photos.json", params={"start": start}).status_code == 422
    monkeypatch.setattr(view, "_changed_data", lambda: "refuse")
    assert client.get("/photos.json?state=refused").json()["total"] == 1


def test_a_thumbnail_is_a_small_picture_of_that_photo(client: TestClient, made: ShopHome) -> None:
    found = client.get("/photos.json").json()
    scan, first = found["scan"], found["photos"][0]
    answer = client.get(f"/photos/{scan}/{first['number']}")
    assert answer.headers["Content-Type"] == "image/jpeg"
    shown = Image.open(io.BytesIO(answer.content)).convert("RGB")
    original = decode(made.photos / first["name"])
    assert shown.size == original.size and max(shown.size) <= 240
    pairs = zip(shown.tobytes(), original.tobytes(), strict=True)
    assert sum(abs(a - b) for a, b in pairs) / len(original.tobytes()) < 25
    (broken,) = client.get("/photos.json?state=unusable").json()["photos"]
    for place in (f"{scan + 1}/0", f"{scan}/999", f"{scan}/{broken['number']}"):
        assert client.get(f"/photos/{place}").status_code == 404
    for place in ("1/-1", "1/x", "1/..%2f..%2fidentity.key"):
        assert client.get(f"/photos/{place}").status_code == 404


def test_a_photo_is_forgotten_by_its_number_and_nothing_else_is(
    client: TestClient, made: ShopHome, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    found = client.get("/photos.json?state=used").json()
    photo = found["photos"][5]
    assert (
        client.post("/forget", json={"scan": found["scan"] + 1, "number": photo["number"]}).status_code == 404
    )
    assert client.post("/forget", json={"scan": found["scan"], "number": 10**9}).status_code == 404
    done = client.post("/forget", json={"scan": found["scan"], "number": photo["number"]})
    assert done.status_code == 200 and done.json() == {"name": photo["name"]}
    digest = digest_of(decode(made.photos / photo["name"]), photo["class"])
    store = MerchantStore(made.home.store)
    try:
        assert store.forgotten() == {RecordTags(made.home.identity()).tag(digest)}
    finally:
        store.close()
    assert (made.photos / photo["name"]).exists()
    counts = client.get("/photos.json").json()["counts"]
    assert (counts["used"], counts["forgotten"]) == (39, 1)
    assert photo["name"] not in caplog.text and Path(photo["name"]).name not in caplog.text


def test_a_photo_that_changed_since_it_was_read_is_not_forgotten(client: TestClient, made: ShopHome) -> None:
    before = client.get("/photos.json").json()["counts"]
    found = client.get("/photos.json?state=used").json()
    photo = found["photos"][-1]
    path = made.photos / photo["name"]
    kept = path.read_bytes()
    Image.new("RGB", (16, 16), (1, 2, 3)).save(path)
    asked = {"scan": found["scan"], "number": photo["number"]}
    assert client.post("/forget", json=asked).status_code == 404
    path.write_bytes(kept)
    assert client.get("/photos.json").json()["counts"] == before


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"{}", "text/plain", 415),
        (b"scan=1&number=1", "application/x-www-form-urlencoded", 415),
        (b"{}", "application/json", 422),
        (b'{"scan": true, "number": 1}', "application/json", 422),
        (b'{"scan": 1, "number": 1.5}', "application/json", 422),
        (b'{"scan": 1, "number": 1, "more": 1}', "application/json", 422),
        (b"[" * 2000, "application/json", 422),
        (b"\xff", "application/json", 422),
        (b" " * (LARGEST_ACTION + 1), "application/json", 413),
    ],
)
def test_an_action_is_small_json_of_the_right_form(
    client: TestClient, body: bytes, kind: str, status: int
) -> None:
    assert client.post("/forget", content=body, headers={"Content-Type": kind}).status_code == status


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_model_is_fetched_in_the_background_and_a_failure_is_told(
    client: TestClient, made: ShopHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Path, str | None]] = []

    def fetch(
        home: MerchantHome, out: Path, *, training: str | None = None, step: Callable[[str], None]
    ) -> None:
        asked.append((out, training))
        step("fetching 1.0 MB")
        raise RefusedError("the model has 900 MB, and 268 are allowed")

    monkeypatch.setattr(model_fetching, "fetch_model", fetch)
    for wrong in ("x", "../../etc", made.refused.training_id):
        assert client.post("/models/fetch", json={"training": wrong}).status_code == 422
    assert not asked
    name = made.open.training_id
    assert client.post("/models/fetch", json={"training": name}).status_code == 200
    eventually(lambda: client.get("/status.json").json()["fetching"]["state"] == "failed")
    assert asked == [(made.home.folder / "models" / name[:16], name)]
    told = client.get("/status.json").json()["fetching"]
    assert told["training"] == name and "900 MB" in told["detail"]


def test_the_fetched_model_is_tried_on_a_photo(client: TestClient, made: ShopHome) -> None:
    red = io.BytesIO()
    Image.new("RGB", (60, 40), (250, 10, 5)).save(red, "PNG")
    place, kind = f"/models/{made.ended.training_id}/try", {"Content-Type": "image/png"}
    found = client.post(place, content=red.getvalue(), headers=kind).json()["classes"]
    assert found[0]["name"] == "red" and found[0]["probability"] > found[1]["probability"]
    assert client.post(place, content=b"no photo", headers=kind).status_code == 422
    assert (
        client.post(place, content=red.getvalue(), headers={"Content-Type": "text/plain"}).status_code == 415
    )
    huge = kind | {"Content-Length": str(10**9)}
    assert client.post(place, content=b"x", headers=huge).status_code == 413
    other = client.post(f"/models/{made.open.training_id}/try", content=red.getvalue(), headers=kind)
    assert other.status_code == 409 and "not fetched" in other.json()["detail"]


def test_the_status_is_never_read_in_the_event_loop(
    client: TestClient, made: ShopHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached: list[bool] = []

    def status(reader: StatusReader) -> MerchantStatus:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            reached.append(False)
        else:
            reached.append(True)
        return read_status(made.home)

    monkeypatch.setattr(StatusReader, "status", status)
    assert client.get("/status.json").status_code == 200
    assert client.post("/models/fetch", json={"training": "none"}).status_code == 422
    assert client.post("/models/none/try").status_code == 422
    assert reached == [False] * 3


def test_a_missing_extra_is_said_in_the_status(made: ShopHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedrec.clients.page.model_trial.find_spec", lambda name: None)
    assert ModelTrial(made.home).missing == "onnx, onnxruntime"


def test_an_unexpected_failure_says_nothing_of_itself(
    client: TestClient, view: PhotoView, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(**wanted: object) -> dict[str, object]:
        raise RuntimeError("/home/shop/photos/secret.jpg")

    monkeypatch.setattr(view, "page", fail)
    answer = client.get("/photos.json")
    assert answer.status_code == 500 and "secret" not in answer.text and "secret" not in caplog.text
    assert "RuntimeError" in caplog.text


def test_each_start_has_a_token_of_its_own_in_a_file_for_its_owner_alone(made: ShopHome) -> None:
    path = made.home.folder / TOKEN_FILE
    path.write_bytes(TOKEN)
    path.chmod(0o644)
    tokens = set()
    for _ in range(3):
        token = new_token(made.home)
        assert len(token) >= 43 and path.read_bytes() == token
        assert path.stat().st_mode & 0o077 == 0
        tokens.add(token)
    assert len(tokens) == 3 and TOKEN not in tokens
    assert [each.name for each in path.parent.glob(f"{TOKEN_FILE}*")] == [TOKEN_FILE]


def test_a_start_that_fails_leaves_the_token_of_the_page_that_runs(made: ShopHome) -> None:
    token = new_token(made.home)
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ServiceError, match="can't listen"):
        serve_page(made.home, port=taken.getsockname()[1], announce=lambda address: None)
    assert (made.home.folder / TOKEN_FILE).read_bytes() == token


def test_the_server_proves_that_it_knows_the_token_to_who_does_not_send_it(client: TestClient) -> None:
    def ask(query: str) -> tuple[int, object]:
        answer = client.get(f"/proof{query}", headers={"Authorization": ""})
        assert TOKEN.decode() not in answer.text
        return answer.status_code, answer.json().get("proof")

    nonces = [letter * 64 for letter in "0af"]
    for nonce in nonces:
        # RFC 2104, written out.
        key = TOKEN.ljust(64, b"\0")
        inner = hashlib.sha256(bytes(each ^ 0x36 for each in key) + b"fedrec page\n" + nonce.encode())
        outer = hashlib.sha256(bytes(each ^ 0x5C for each in key) + inner.digest())
        assert ask(f"?nonce={nonce}") == (200, outer.hexdigest())
    for wrong in ("", "?nonce=", f"?nonce={'0' * 63}", f"?nonce={'0' * 65}", f"?nonce={'A' * 64}"):
        assert ask(wrong) == (422, None)
    assert ask("?nonce=" + "%D9%A3" * 64) == (422, None)
    told = {"Authorization": "", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}
    assert client.get(f"/proof?nonce={nonces[0]}", headers=told).status_code == 403


@pytest.mark.parametrize("terminal", [True, False])
def test_the_token_is_printed_on_a_terminal_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, terminal: bool
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    # The terminal of a desktop that systemd started has it, too.
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")
    print_address(f"{HERE}/#token={TOKEN.decode()}", token_file=Path("/shop") / TOKEN_FILE)
    told = capsys.readouterr().out
    assert told.startswith(f"page {HERE}/")
    assert (TOKEN.decode() in told) is terminal and (f"/shop/{TOKEN_FILE}" in told) is not terminal


def test_a_folder_that_is_gone_is_said_and_found_again(made: ShopHome) -> None:
    view = PhotoView(made.home, unit=lambda: "record", changed_data=lambda: "refuse")
    away = made.photos.rename(made.photos.with_name("away"))
    view.refresh(wait=True)
    found = view.page(state=None, start=0)
    assert found["photos"] == [] and "does not exist" in str(found["problem"])
    away.rename(made.photos)
    view.refresh(wait=True)
    assert view.page(state=None, start=0)["total"] == 44


def test_the_terminal_names_what_is_left_out_and_why(made: ShopHome) -> None:
    shown = CliRunner().invoke(client_app, ["photos", "--home", str(made.home.folder)])
    assert shown.exit_code == 0, shown.exception
    listed = [line for line in shown.output.splitlines() if ".png: " in line]
    told = {line.partition(": ")[0]: line.partition(": ")[2] for line in listed}
    names = {Path(name).name: text for name, text in told.items()}
    assert names["new.png"].startswith("added since") and "can't be used (" in names["broken.png"]
    assert names["copy.png"] == "a copy of another photo" and names["0.png"].startswith("its class")
    as_json = CliRunner().invoke(client_app, ["photos", "--all", "--json", "--home", str(made.home.folder)])
    assert {json.loads(line)["name"] for line in as_json.output.splitlines()} == {
        str(path.relative_to(made.photos)) for path in made.photos.rglob("*.png")
    }


def test_products_are_used_or_not_as_a_whole(tmp_path: Path) -> None:
    """A photo's state is its product's: by the digests of products that a training would compute."""
    from tests.support.pictures import picture

    photos = tmp_path / "photos"
    for name, seeds in {"hat/a": (1, 2), "hat/b": (3,), "mug/c": (4,), "mug/d": (4,)}.items():
        for seed in seeds:
            picture(photos / name / f"{seed}.png", 20 * seed)
    home = MerchantHome.create(
        tmp_path / "home", name="atelier", data=photos, layout="product", unit="product", units=4
    )
    view = PhotoView(home, unit=lambda: "product", changed_data=lambda: "refuse")
    view.refresh(wait=True)
    assert view.page(state=None, start=0)["counts"] == {"ready": 4, "copy": 1}
    assert replace(read_status(home), running=False).forgotten == 0
