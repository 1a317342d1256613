"""The code hash covers what takes part in a merchant's step and in opening, and nothing else."""

from __future__ import annotations

import ast
import inspect
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from PIL import Image

import fedrec
from fedrec.clients.assembly import open_merchant
from fedrec.clients.client_app import build_client_app
from fedrec.clients.merchant_home import MerchantHome
from fedrec.clients.plan_resources import build_model
from fedrec.errors import LedgerError
from fedrec.privacy.accounting.code_hash import code_hash, hash_modules, step_modules
from fedrec.privacy.aggregation.seats import seat_order
from fedrec.privacy.dp.vectors import parameter_vector
from fedrec.protocol.enrolment import JoinFile
from fedrec.protocol.plan import Peer
from fedrec.protocol.schema import sha256_hex
from tests.support.cohort import Cohort, InProcessGrid

PACKAGE = Path(str(fedrec.__file__)).parent
COVERED = step_modules(PACKAGE)
BEFORE = hash_modules(COVERED)
CLASSES = ("hat", "mug")
NAMES = ("m0", "m1", "m2")


class Watch:
    """Notes every file of the package of which a function runs, while it is told to look."""

    def __init__(self) -> None:
        self._names: set[str] = set()

    @property
    def files(self) -> set[Path]:
        return {Path(name) for name in self._names if name.startswith(f"{PACKAGE}/")}

    @contextmanager
    def looking(self) -> Iterator[None]:
        before = sys.getprofile()
        sys.setprofile(self._see)
        threading.setprofile(self._see)
        try:
            yield
        finally:
            sys.setprofile(before)
            threading.setprofile(before)

    def _see(self, frame: FrameType, event: str, argument: Any) -> None:
        # Modules and class bodies run when they are imported, whoever imports them.
        if event == "call" and frame.f_code.co_flags & inspect.CO_OPTIMIZED:
            self._names.add(frame.f_code.co_filename)


def photos(folder: Path, *, seed: int) -> Path:
    """A few pictures of noise in two class folders."""
    rng = np.random.default_rng(seed)
    for label in CLASSES:
        (folder / label).mkdir(parents=True)
        for number in range(4):
            picture = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
            picture.save(folder / label / f"{number}.png")
    return folder


def merchant_homes(folder: Path, *, server_key: str = "ab" * 32) -> list[MerchantHome]:
    homes = [
        MerchantHome.create(
            folder / name, name=name, data=photos(folder / "photos" / name, seed=seed), units=8
        )
        for seed, name in enumerate(NAMES)
    ]
    roster = tuple(
        Peer(name=name, signing_key=home.identity().public.hex())
        for name, home in zip(NAMES, homes, strict=True)
    )
    for home in homes:
        home.approve(
            JoinFile(
                address="server.example:8443",
                authority="-----BEGIN CERTIFICATE-----\n",
                server_key=server_key,
                roster=roster,
            )
        )
    return homes


def test_a_deployed_merchant_runs_covered_modules_alone(tmp_path: Path) -> None:
    """Watch three merchants on disk join, train, open and close: no function of another module runs."""
    watch = Watch()
    cohort = Cohort(tmp_path / "cohort", size=3)
    homes = merchant_homes(tmp_path, server_key=cohort.server.public.hex())
    with watch.looking():
        merchants = [open_merchant(home, device=torch.device("cpu")) for home in homes]
    app = build_client_app(lambda context: merchants[int(context.node_id) - 1])

    class Watched(ClientApp):
        def __call__(self, message: Message, context: Context) -> Message:
            with watch.looking():
                return app(message, context)

    plan = cohort.plan(
        model="cnn", classes=CLASSES, image_size=8, rounds=1, delta=1e-5,
        committee=seat_order(homes[0].joined().roster),
        noise_multiplier=4.0, roster=homes[0].joined().roster,
    )  # fmt: skip
    parameters = parameter_vector(build_model(plan))
    plan = plan.model_copy(
        update={
            "dimension": len(parameters),
            "initial_model_hash": sha256_hex(parameters.astype("<f4").tobytes()),
        }
    )
    _, records = cohort.train(plan, InProcessGrid(Watched(), 3), parameters=parameters)
    assert [record.reason for record in records] == [None]
    # Its count, the round's charge, and the answer.
    assert all(len(merchant.ledger.entries()) == 3 for merchant in merchants)
    assert watch.files <= set(COVERED.values())
    for name in (
        "clients.client_app",
        "clients.unmasking",
        "privacy.dp.step",
        "privacy.aggregation.kahe",
        "vision.decoding",
        "vision.listing.photo_listing",
    ):
        assert COVERED[f"fedrec.{name}"] in watch.files


def test_the_code_is_named_as_it_was_when_the_merchant_was_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upgrade on disk under a running daemon changes no entry: the old code still runs."""
    code_hash.cache_clear()
    merchant = open_merchant(merchant_homes(tmp_path)[0], device=torch.device("cpu"))
    monkeypatch.setattr(Path, "read_bytes", lambda self: b"a newer version")
    assert code_hash() == BEFORE
    merchant.ledger.close()
    merchant.store.close()


def test_what_python_imports_for_a_step_is_covered() -> None:
    """Ask a fresh interpreter, not our reading: today no import waits inside a function of the step."""
    imports = "import fedrec.clients.client_app, fedrec.clients.assembly"
    code = f"{imports}; import json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = {name for name in json.loads(done.stdout) if name.startswith("fedrec.")}
    assert imported == set(COVERED)


def test_the_hash_is_that_of_the_installed_package() -> None:
    assert code_hash() == hash_modules(COVERED)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package and of the docs, to be changed."""
    shutil.copytree(PACKAGE, tmp_path / "fedrec", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(PACKAGE.parent / "docs", tmp_path / "docs")
    return tmp_path / "fedrec"


def touch(file: Path) -> None:
    with file.open("ab") as stream:
        stream.write(b"\n# touched\n")


def test_changing_any_covered_module_changes_the_hash(copy: Path) -> None:
    modules = step_modules(copy)
    assert set(modules) == set(COVERED)
    before = hash_modules(modules)
    for name, file in modules.items():
        source = file.read_bytes()
        touch(file)
        assert hash_modules(modules) != before, name
        file.write_bytes(source)
    assert hash_modules(modules) == before == code_hash()


def test_changing_modules_that_are_not_covered_leaves_the_hash_alone(copy: Path) -> None:
    covered = set(step_modules(copy).values())
    others = [file for file in copy.parent.rglob("*") if file.is_file() and file not in covered]
    for wanted in (
        "docs/ledger.md",
        "fedrec/__init__.py",
        "fedrec/report/pdf.py",
        "fedrec/report/templates/document.html",
        "fedrec/server/status_page.py",
    ):
        assert copy.parent / wanted in others
    for file in others:
        touch(file)
    assert hash_modules(step_modules(copy)) == code_hash()


@pytest.mark.parametrize(
    ("name", "covered"),
    [
        ("protocol.plan", True),
        ("protocol.transport", True),
        ("clients.assembly", True),
        ("clients.unmasking", True),
        ("errors", True),
        ("vision.transforms", True),
        ("privacy.accounting.code_hash", True),
        ("report.pdf", False),
        ("server.sum_opening", False),
        ("clients.merchant_observer", False),
        ("clients.daemon", False),
        ("simulations.merchants", False),
        ("cli.simulate", False),
        ("config", False),
    ],
)
def test_what_is_covered(name: str, covered: bool) -> None:
    assert (f"fedrec.{name}" in COVERED) is covered
    assert (PACKAGE / f"{name.replace('.', '/')}.py").is_file()


def test_a_module_that_a_covered_one_begins_to_import_is_covered(copy: Path) -> None:
    before = hash_modules(step_modules(copy))
    with (copy / "privacy" / "dp" / "step.py").open("a") as stream:
        stream.write("\n\ndef later():\n    from fedrec.report.pdf import render\n")
    modules = step_modules(copy)
    assert {"fedrec.report", "fedrec.report.pdf"} <= set(modules)
    assert hash_modules(modules) != before


@pytest.fixture
def small(tmp_path: Path) -> Callable[..., Path]:
    """Makes a package of a few files around the two roots."""

    def make(files: dict[str, str]) -> Path:
        whole = {"__init__.py": "from fedrec import roof", "roof.py": "", "clients/__init__.py": ""}
        whole |= {"clients/client_app.py": "", "clients/assembly.py": ""} | files
        for name, source in whole.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(source)
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import fedrec.other", ["fedrec.other"]),
        ("import os, fedrec.other as o", ["fedrec.other"]),
        ("from fedrec import other", ["fedrec.other"]),
        ("from fedrec.other import name", ["fedrec.other"]),
        ("from fedrec.room import inner", ["fedrec.room", "fedrec.room.inner", "fedrec.other"]),
        ("import fedrec.room.inner", ["fedrec.room", "fedrec.room.inner", "fedrec.other"]),
        ("from .near import name", ["fedrec.clients.near"]),
        ("from . import near", ["fedrec.clients.near"]),
        ("from .. import other", ["fedrec.other"]),
        ("def late():\n    from fedrec.other import *", ["fedrec.other"]),
        ("try:\n    import fedrec.other\nexcept ImportError:\n    pass", ["fedrec.other"]),
        ("if TYPE_CHECKING:\n    import fedrec.other\nelse:\n    import fedrec.roof", ["fedrec.roof"]),
        ("import fedrec.both", ["fedrec.both", "fedrec.other"]),
        ("import fedrec", []),
        ("from fedrec import name", []),
        ("# import fedrec.other\nx = 'import fedrec.other'", []),
        ("import fedrecs.other\nimport other", []),
    ],
)  # fmt: skip
def test_imports_are_followed_as_python_follows_them(
    small: Callable[..., Path], source: str, found: list[str]
) -> None:
    package = small(
        {
            "clients/client_app.py": source,
            "clients/near.py": "",
            "other.py": "",
            "both.py": "",
            "both/__init__.py": "import fedrec.other",
            "room/__init__.py": "from fedrec.other import x",
            "room/inner.py": "",
        }
    )
    always = ["fedrec.clients", "fedrec.clients.assembly", "fedrec.clients.client_app"]
    assert sorted(step_modules(package)) == sorted(always + found)


@pytest.mark.parametrize("name", ["clients.assembly", "clients.far", "room.inner", "room"])
def test_an_imported_module_without_its_source_is_refused(small: Callable[..., Path], name: str) -> None:
    """Python would run a compiled file in its place, which nothing would name."""
    imports = "from fedrec.clients.far import name\nimport fedrec.room.inner\n"
    files = {
        "clients/client_app.py": imports,
        "clients/far.py": "",
        "room/__init__.py": "",
        "room/inner.py": "",
    }
    package = small(files)
    step_modules(package)
    path = package.joinpath(*name.split("."))
    (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).unlink()
    with pytest.raises(LedgerError, match=rf"fedrec\.{name} is not installed"):
        step_modules(package)


def test_a_source_that_is_no_python_is_refused(small: Callable[..., Path]) -> None:
    for source in ("import =", "from .... import x", "a = '\0'"):
        with pytest.raises(LedgerError, match=r"app\.py is not valid Python"):
            step_modules(small({"clients/client_app.py": source}))


def test_a_line_moved_to_the_next_file_changes_the_hash(small: Callable[..., Path]) -> None:
    package = small({"clients/client_app.py": "a = 1\nb = 2\n", "clients/assembly.py": ""})
    before = hash_modules(step_modules(package))
    small({"clients/client_app.py": "a = 1\n", "clients/assembly.py": "b = 2\n"})
    assert hash_modules(step_modules(package)) != before


def test_the_hash_depends_on_no_order() -> None:
    """The walk over sets finds the modules in another order in every process."""
    assert hash_modules(COVERED) == hash_modules(dict(reversed(COVERED.items())))
    assert list(COVERED) != sorted(COVERED)


def dynamic_imports(source: str) -> list[str]:
    """Find what imports past an import statement, but for another package's module by its own name."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
            found.append(f"from {node.module} import *")
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func).rpartition(".")[2]
        named = ast.unparse(node.args[0]) if node.args else ""
        foreign = re.fullmatch(r"'(?!fedrec\b)\w+(\.\w+)*'", named)
        if called == "import_module" and not foreign:
            found.append(f"import_module({named})")
        if isinstance(node.func, ast.Name) and called in {"__import__", "exec", "eval"}:
            found.append(f"{called}({named})")
    return found


def test_no_covered_module_imports_past_an_import_statement() -> None:
    found = {name: dynamic_imports(file.read_text("utf-8")) for name, file in COVERED.items()}
    assert {name: imported for name, imported in found.items() if imported} == {}
    for line in ("import_module('fedrec.x')", "importlib.import_module(name)", "__import__('x')", "exec(x)"):
        assert dynamic_imports(line) == [line.removeprefix("importlib.")]
    assert dynamic_imports("from fedrec.x import *") == ["from fedrec.x import *"]
    assert dynamic_imports("importlib.import_module('torchvision.datasets')\nmodel.eval()") == []


def test_a_module_s_name_is_part_of_the_hash(tmp_path: Path) -> None:
    (file := tmp_path / "file.py").write_text("a = 1\n")
    assert hash_modules({"fedrec.one": file}) != hash_modules({"fedrec.two": file})
