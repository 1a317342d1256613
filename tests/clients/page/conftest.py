"""A merchant's folder, and a cache of features of its own: to forget a photo looks through all of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.shop_home import ShopHome, shop_home


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShopHome]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield shop_home(tmp_path_factory.mktemp("shop"))
