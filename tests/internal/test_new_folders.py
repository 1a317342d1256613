"""A folder of keys is new: what is there is never overwritten, and the line says what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fedrec.clients.merchant_home import MerchantHome
from fedrec.clients.witness.home import WitnessHome
from fedrec.errors import ConfigError
from fedrec.server.server_home import ServerHome


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: MerchantHome.create(folder, name="a", data=Path("photos"), units=10),
        lambda folder: WitnessHome.create(folder, name="a"),
        lambda folder: ServerHome.create(folder, address="127.0.0.1:8443", listen=None),
    ],
)
def test_keys_are_made_in_no_file_and_no_folder_that_holds_something(
    tmp_path: Path, make: Callable[[Path], object]
) -> None:
    file = tmp_path / "file"
    file.write_text("kept")
    for place, told in ((file, "is a file: choose a new folder"), (tmp_path, "is not empty: choose")):
        with pytest.raises(ConfigError, match=told):
            make(place)
    assert file.read_text() == "kept" and list(tmp_path.iterdir()) == [file]
    (tmp_path / "new").mkdir()
    make(tmp_path / "new")
