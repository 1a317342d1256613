"""Code that handles records draws from the operating system's generator alone."""

from __future__ import annotations

import ast

import pytest

from tests.support.layout import PACKAGE

_TORCH = {
    "rand",
    "randn",
    "randint",
    "randperm",
    "normal",
    "bernoulli",
    "multinomial",
    "poisson",
    "Generator",
}

_TORCH |= {"rand_like", "randn_like", "randint_like", "manual_seed", "seed", "default_generator", "dropout"}

_IN_PLACE = {
    "normal_",
    "uniform_",
    "random_",
    "bernoulli_",
    "exponential_",
    "cauchy_",
    "geometric_",
    "log_normal_",
}

_NUMPY = {"default_rng", "RandomState", "PCG64", "Philox", "SFC64", "MT19937", "SeedSequence"}

_MODULES = {"random", "secrets", "uuid", "numpy.random", "torch.random", "scipy.stats", "torch.distributions"}


def _own_chance(source: str) -> list[str]:
    """Every use of a generator of chance in a module, by its syntax: comments and words don't count."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name in _MODULES]
        elif isinstance(node, ast.ImportFrom):
            names = {alias.name for alias in node.names}
            whole = {f"{node.module}.{name}" for name in names}
            found += sorted(({node.module or ""} | whole) & _MODULES)
            found += sorted(names & (_NUMPY | _IN_PLACE)) + sorted(
                names & _TORCH if node.module == "torch" else ()
            )
            found += ["urandom"] if "urandom" in names else []
        elif isinstance(node, ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else ""
            if (
                node.attr in _NUMPY | _IN_PLACE | {"urandom"}
                or (owner == "torch" and node.attr in _TORCH)
                or (owner in ("np", "numpy", "torch") and node.attr == "random")
            ):
                found.append(f"{owner}.{node.attr}")
    return found


@pytest.mark.parametrize(
    "line",
    [
        "import random", "from random import gauss", "import secrets", "from numpy.random import default_rng",
        "from numpy import random", "x = np.random.normal(3)", "x = numpy.random.default_rng(1)",
        "x = torch.randint(0, 2, (3,))", "x = torch.randperm(5)", "x = torch.randn(3)", "torch.rand_like(y)",
        "x.normal_()", "x = torch.empty(3).uniform_()", "from torch import randn", "x = os.urandom(3)",
        "g = torch.Generator()", "torch.manual_seed(3)", "x = torch.bernoulli(p)",
    ],
)  # fmt: skip
def test_a_draw_from_another_source_is_found_however_it_is_written(line: str) -> None:
    assert _own_chance(line)
    assert not _own_chance(f"# {line}\nx = '{line}'\nrng.uniform(3)\n")


def test_privacy_and_merchant_code_draws_from_one_source_only() -> None:
    """No module that handles a merchant's records draws from numpy's, torch's or Python's own generators."""
    files = [file for folder in ("privacy", "clients") for file in (PACKAGE / folder).rglob("*.py")]
    assert len(files) > 30
    # Values of a fixed seed in the place of records and parameters: no draw of a record, nor of noise.
    chosen = {"torch.Generator", "torch.randn"}
    found = {file.relative_to(PACKAGE).as_posix(): _own_chance(file.read_text("utf-8")) for file in files}
    assert set(found.pop("privacy/dp/place_check.py")) == chosen
    assert {name: drawn for name, drawn in found.items() if drawn} == {
        "privacy/randomness.py": ["os.urandom"],
        # The token of the merchant's page, from the operating system.
        "clients/page/running.py": ["secrets"],
        # How long a merchant waits before it connects again, from the operating system.
        "clients/daemon_loop.py": ["secrets"],
        # Pictures that try a model on, from a fixed seed: no merchant's record is drawn by them.
        "privacy/dp/record_isolation.py": ["torch.random", "torch.default_generator", "torch.rand"],
    }
