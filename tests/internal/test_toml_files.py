"""What is wrong with a TOML file is one line that names the file, the key, and what the key may be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import BaseModel

from fedrec._internal.toml_files import read_settings, read_toml
from fedrec.clients.merchant_files import ClientSettings
from fedrec.clients.policy import MerchantPolicy
from fedrec.clients.witness.home import WitnessSettings
from fedrec.clients.witness.policy import WitnessPolicy
from fedrec.errors import ConfigError
from fedrec.server.server_address import ServerSettings
from fedrec.server.training_file import TrainingFile, read_training_file

SERVER = 'address = "a.example:8443"\nlisten = "a.example"\nport = 8443\n'
CLIENT = 'name = "atelier"\ndata = "/photos"\n'


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a = 1\n" * 300_000, "larger than"),
        ("a = 'ä'".encode("utf-16"), "is text in UTF-16: save it as UTF-8"),
        (b"a = 1\nb = '\xe4'", "is not in UTF-8 (at line 2): save it as UTF-8"),
        (b"a = \n", "is not TOML"),
        (b"a = " + b"9" * 5000, "is not TOML"),
        (b"a = " + b"[" * 5000, "is n"),
        (None, "can't be read: No such file"),
    ],
)
def test_a_file_that_is_no_toml_is_one_line(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "file.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as told:
        read_toml(path)
    assert says in str(told.value) and str(path) in str(told.value) and "\n" not in str(told.value)


def test_marks_line_ends_and_tabs_of_other_editors_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "file.toml"
    path.write_bytes(b"\xef\xbb\xbf[training]\r\nclasses\t=\t['a', 'b']\r\n")
    assert read_toml(path) == {"training": {"classes": ["a", "b"]}}
    assert read_training_file(path).classes == ("a", "b")
    path.write_bytes(b"\xef\xbb\xbflifetime_epsilon = 1.0\r\nlifetime_delta = 1e-5\r\n")
    assert MerchantPolicy.load(path).lifetime_epsilon == 1.0


@pytest.mark.parametrize(
    ("form", "text", "says"),
    [
        (ServerSettings, SERVER.replace("8443\n", "'x'\n"), "'port' must be a whole number"),
        (ServerSettings, SERVER.replace("port = 8443", "port = 70000"), "'port' must be 65535 or less"),
        (ServerSettings, SERVER.replace("port = 8443", ""), "'port' is missing"),
        (ServerSettings, SERVER + "ports = 1", "there is no key 'ports': did you mean 'port'?"),
        (
            ServerSettings,
            SERVER.replace("a.example:8443", "a.example"),
            "'address' a.example is not HOST:PORT",
        ),
        (ServerSettings, SERVER.replace('"a.example"', "5"), "'listen' must be text"),
        (ClientSettings, CLIENT.replace("/photos", "photos"), "'data' must be a whole path"),
        (ClientSettings, CLIENT.replace('"/photos"', "5"), "'data' must be a path"),
        (ClientSettings, CLIENT + "layout = 'prodct'", "'layout' must be 'class' or 'product'"),
        (ClientSettings, CLIENT.replace('"atelier"', "5"), "'name' must be text"),
        (ClientSettings, "", "'name' is missing"),
        (WitnessSettings, "name = '..'", "'name' "),
    ],
)
def test_a_wrong_key_is_named_with_its_file(
    tmp_path: Path, form: type[BaseModel], text: str, says: str
) -> None:
    path = tmp_path / "settings.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as told:
        read_settings(path, form)
    assert f"{path}: {says}" in str(told.value) and "\n" not in str(told.value)


WRONG = ("'x'", "[]", "{}", "-1", "1e400", "nan", "2026-01-01", "true", "[[1]]", "[1, 'a']", '""')


@pytest.mark.parametrize(
    ("form", "read", "head", "needed"),
    [
        (MerchantPolicy, MerchantPolicy.load, "", {"lifetime_epsilon": "1.0", "lifetime_delta": "1e-5"}),
        (WitnessPolicy, WitnessPolicy.load, "", {}),
        (TrainingFile, read_training_file, "[training]\n", {"classes": "['a', 'b']"}),
    ],
)
def test_each_key_of_each_file_is_named_when_its_value_is_wrong(
    tmp_path: Path, form: type[BaseModel], read: Callable[[Path], object], head: str, needed: dict[str, str]
) -> None:
    path = tmp_path / "file.toml"
    for name in form.model_fields:
        refused = 0
        for value in WRONG:
            values = needed | {name: value}
            path.write_text(head + "\n".join(f"{key} = {text}" for key, text in values.items()))
            try:
                read(path)
            except ConfigError as error:
                refused += 1
                assert str(path) in str(error) and "\n" not in str(error), (name, value)
                assert name in str(error) or "type that no rule" in str(error), (name, value, str(error))
        assert refused >= len(WRONG) // 2, name
