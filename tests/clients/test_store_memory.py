"""A store holds no upload in memory once it is written: a simulation has a thousand stores open."""

import os
from pathlib import Path

import psutil

from fedrec.clients.store import MerchantStore

BODY_BYTES = 48 * 2**20


def test_a_stored_upload_takes_no_memory(tmp_path: Path) -> None:
    store = MerchantStore(tmp_path / "store.db")
    body = os.urandom(BODY_BYTES)
    before = psutil.Process().memory_info().rss
    store.put_upload("a" * 64, 1, request_hash="b" * 64, body=body)
    grown = psutil.Process().memory_info().rss - before

    assert grown < BODY_BYTES / 4
    assert store.reply("upload", "a" * 64, 1, request_hash="b" * 64) == body
    store.close()
