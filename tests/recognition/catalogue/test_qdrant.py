"""A catalogue whose vectors are on a Qdrant server, which a small stand-in plays; it may also lie."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedrec.errors import ConfigError, ConnectionLostError, DataError
from fedrec.recognition.catalogue.catalogue import Catalogue
from fedrec.recognition.catalogue.changes import remove_product
from fedrec.recognition.catalogue.filters import parse_filter
from fedrec.recognition.catalogue.opening import INDEX_FILE, open_searcher
from fedrec.recognition.catalogue.qdrant import KEY_VARIABLE, check_address
from fedrec.recognition.catalogue.search import Query
from tests.recognition.catalogue.shop import Told
from tests.recognition.catalogue.test_search import DIMENSION, fill, naive, named, random_vectors


class StandIn(ThreadingHTTPServer):
    """Holds collections, and refuses what Qdrant's description of its REST interface doesn't allow."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.collections: dict[str, dict[int, np.ndarray]] = {}
        self.lie: bytes | None = None
        self.keys_seen: set[str | None] = set()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def answer(self, method: str, path: str, content: Any) -> Any:
        place, _, query = path.partition("?")
        _, collections, name, *rest = place.split("/")
        assert collections == "collections" and name.startswith("fedrec-")
        points = self.collections.get(name)
        if (method, rest) == ("GET", ["exists"]):
            return {"exists": points is not None}
        if (method, rest) == ("PUT", []):
            assert content == {"vectors": {"size": DIMENSION, "distance": "Cosine", "datatype": "float16"}}
            self.collections[name] = {}
            return True
        assert points is not None
        if (method, rest) == ("PUT", ["points"]):
            assert (
                query == "wait=true"
                and set(content) == {"batch"}
                and set(content["batch"]) == {"ids", "vectors"}
            )
            for key, vector in zip(content["batch"]["ids"], content["batch"]["vectors"], strict=True):
                assert isinstance(key, int) and len(vector) == DIMENSION
                points[key] = np.array(vector, dtype=np.float32)
            return {"status": "completed"}
        assert method == "POST"
        if rest == ["points", "delete"]:
            assert query == "wait=true" and set(content) == {"points"}
            for key in content["points"]:
                points.pop(key, None)
            return {"status": "completed"}
        if rest == ["points", "scroll"]:
            assert set(content) <= {"limit", "offset", "with_payload", "with_vector"}
            later = sorted(key for key in points if key >= content.get("offset", 0))
            page = later[:17]
            after = later[17] if len(later) > 17 else None
            return {"points": [{"id": key, "payload": None} for key in page], "next_page_offset": after}
        assert rest == ["points", "query"] and set(content) <= {"query", "limit", "filter"}
        among = set(points)
        if "filter" in content:
            ((condition,),) = (content["filter"]["must"],)
            among &= set(condition["has_id"])
        near = sorted(among, key=lambda key: -float(points[key] @ np.array(content["query"])))
        return {"points": [{"id": key, "version": 1, "score": 0.5} for key in near[: content["limit"]]]}


class Handler(BaseHTTPRequestHandler):
    def handle_any(self) -> None:
        standing = self.server
        assert isinstance(standing, StandIn)
        length = int(self.headers.get("content-length", 0))
        content = json.loads(self.rfile.read(length)) if length else None
        standing.keys_seen.add(self.headers.get("api-key"))
        try:
            body = json.dumps({"result": standing.answer(self.command, self.path, content), "status": "ok"})
            code, data = 200, body.encode() if standing.lie is None else standing.lie
        except (AssertionError, KeyError, ValueError) as error:
            code, data = 400, json.dumps({"status": {"error": f"\x1b[2J {error}"}}).encode()
        self.send_response(code)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_PUT = do_POST = handle_any  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[StandIn]:
    with StandIn() as standing:
        thread = threading.Thread(target=standing.serve_forever, args=(0.01,))
        thread.start()
        yield standing
        standing.shutdown()
        thread.join()


def test_a_search_by_a_server_equals_a_plain_loop(
    tmp_path: Path, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "secret")
    stored = fill(tmp_path / "c", 90)
    query = random_vectors(1, 5)[0]
    with Catalogue(tmp_path / "c", write=True) as catalogue:
        catalogue.server = server.address
        searcher = open_searcher(catalogue, tell=Told())
        assert named(searcher.search(Query(query, top=20))) == naive(stored, query, distinct=True)[:20]
        kept = {name: vector for name, vector in stored.items() if int(name[1:].split("/")[0]) < 9}
        found = searcher.search(Query(query, top=30, filters=[parse_filter("price<9")], all_photos=True))
        assert named(found) == naive(kept, query, distinct=False)[:30]
        gone = searcher.search(Query(query, top=1))[0].product
        with catalogue.transaction() as connection:
            remove_product(connection, gone.key)
        left = {
            name: vector for name, vector in stored.items() if not name.startswith(f"{gone.product.name}/")
        }
        assert named(searcher.search(Query(query, top=5))) == naive(left, query, distinct=True)[:5]
        (points,) = server.collections.values()
        assert len(points) == 87 and server.keys_seen == {"secret"}
        # A server that lost all is filled again.
        points.clear()
        again = open_searcher(catalogue, tell=Told())
        assert named(again.search(Query(query, top=5))) == naive(left, query, distinct=True)[:5]
    assert not (tmp_path / "c" / INDEX_FILE).exists()


def test_a_server_that_lies_adds_nothing_and_brings_nobody_down(tmp_path: Path, server: StandIn) -> None:
    fill(tmp_path / "c", 30)
    query = Query(random_vectors(1, 5)[0], top=5, filters=[parse_filter("price<3")])
    with Catalogue(tmp_path / "c", write=True) as catalogue:
        catalogue.server = server.address
        searcher = open_searcher(catalogue, tell=Told())
        everything = [{"id": key} for key in range(1000)]
        server.lie = json.dumps({"result": {"points": everything}}).encode()
        assert {one.product.product.price for one in searcher.search(query)} <= {0.0, 1.0, 2.0}
        for lie in (
            b"",
            b"x" * 100,
            b'{"result": null}',
            b'{"result": {"points": [{"id": "../../x"}]}}',
            b'{"result": {"points": [{"id": -1}]}}',
            b'{"result": {"points": [{"id": 1e400}]}}',
            b'{"result": {"points": [{"id": 99999999999999999999}]}}',
            b"[" * 100_000,
        ):
            server.lie = lie
            with pytest.raises(DataError, match="answers with something else"):
                searcher.search(query)
        # A list of points that never ends.
        server.lie = b'{"result": {"points": [{"id": 1}], "next_page_offset": 1, "exists": true}}'
        open_searcher(catalogue, tell=Told())
        server.lie = None
        catalogue.server = server.address
        server.collections.clear()
        with pytest.raises(DataError, match=r"refuses \(400\)") as refused:
            searcher.search(query)
        assert str(refused.value).isprintable()
    server.shutdown()
    server.server_close()
    with Catalogue(tmp_path / "c") as catalogue, pytest.raises(ConnectionLostError, match="can't be reached"):
        open_searcher(catalogue, tell=Told())


@pytest.mark.parametrize(
    "address",
    [
        *("", "x", "ftp://127.0.0.1", "file:///etc", "https://a:b@x.example", "https://x.example/path"),
        *("http://vectors.example:6333", "http://10.0.0.5", "http://127.0.0.1.evil.example"),
        *("http://[::1", "https://x:99999"),
    ],
)
def test_vectors_are_sent_nowhere_else(address: str) -> None:
    with pytest.raises(ConfigError, match=r"is no address of a server|would send vectors unencrypted"):
        check_address(address)


def test_these_addresses_are_fine() -> None:
    for address in (
        "http://127.0.0.1:6333",
        "http://localhost:6333",
        "http://[::1]:6333",
        "https://v.example",
    ):
        check_address(address)
