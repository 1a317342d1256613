"""Models of installed packages: named by their code, checked before they train, refused where they differ."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fedrec._internal.package_hash import package_hash
from fedrec._internal.registry import Registry
from fedrec.clients.merchant_home import MerchantHome
from fedrec.clients.plan_resources import build_model, check_plan_model
from fedrec.clients.policy import MerchantPolicy
from fedrec.clients.preflight_checks import run_checks
from fedrec.errors import ConfigError, RefusedError
from fedrec.privacy.dp.clipping import clipped_sum
from fedrec.privacy.dp.model_check import check_foreign_model, clipping_note
from fedrec.vision import model_registry
from fedrec.vision.model_spec import ModelSpec
from tests.support.cohort import Cohort

SOURCE = """
from pathlib import Path
from dataclasses import replace
from torch import nn
from fedrec.vision import model_registry
Path(__file__).with_name("ran").touch()

def make(classes, channels, size):
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * size * size, classes))

SPEC = replace(model_registry.get("cnn"), name="acme-net", make=make)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An installed package, as pip leaves it, with a model of that name; returns the package's folder."""
    package, about = tmp_path / "site" / "acme_models", tmp_path / "site" / "acme_models-1.dist-info"
    package.mkdir(parents=True)
    about.mkdir()
    (package / "__init__.py").write_text("")
    (package / "net.py").write_text(SOURCE)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-models\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[fedrec.models]\nacme-net = acme_models.net:SPEC\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    fresh = Registry(ModelSpec, what="model", group="fedrec.models", builtin=(model_registry.get("cnn"),))
    monkeypatch.setattr(model_registry, "REGISTRY", fresh)
    yield package
    for name in [name for name in sys.modules if name.partition(".")[0] == "acme_models"]:
        del sys.modules[name]


def by_hand(folder: Path) -> str:
    digest = hashlib.sha256(b"fedrec/package/1")
    for name in sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()):
        content = (folder / name).read_bytes()
        digest.update(b"\0%s\0%d\0%s" % (name.encode(), len(content), content))
    return digest.hexdigest()


def test_an_installed_model_is_named_by_its_code_and_runs_where_the_plan_means_it(folder: Path) -> None:
    code = model_registry.code_of("acme-net")
    assert code == by_hand(folder) and model_registry.code_of("cnn") is None
    assert not (folder / "ran").exists()
    assert model_registry.get_exact("acme-net", code).name == "acme-net"
    assert (folder / "ran").exists()


@pytest.mark.parametrize(("name", "code"), [("acme-net", "0" * 64), ("acme-net", None), ("cnn", "0" * 64)])
def test_other_code_than_the_plans_is_refused_and_never_runs(
    folder: Path, tmp_path: Path, name: str, code: str | None
) -> None:
    plan = Cohort(tmp_path / "cohort").plan(model=name, model_code=code)
    for look in (build_model, check_plan_model) if code is not None else (build_model,):
        error = RefusedError if look is build_model else ConfigError
        with pytest.raises(error, match=f"model '{name}'.* and the plan means"):
            look(plan)
    assert not (folder / "ran").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "net.py").write_text(SOURCE + "\n"),
        lambda folder: (folder / "weights.bin").write_bytes(b"1"),
        lambda folder: (folder / "net.py").rename(folder / "other.py"),
    ],
)
def test_the_hash_changes_with_every_file(folder: Path, change: Callable[[Path], object]) -> None:
    entry = EntryPoint("acme-net", "acme_models.net:SPEC", "fedrec.models")
    before = package_hash.__wrapped__(entry)
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "net.cpython-311.pyc").write_bytes(b"compiled")
    assert package_hash.__wrapped__(entry) == before
    change(folder)
    assert package_hash.__wrapped__(entry) != before


def test_a_single_module_and_a_part_of_a_namespace_have_hashes_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "acme_alone.py").write_text("A = 1\n")
    (tmp_path / "acme_space" / "part").mkdir(parents=True)
    (tmp_path / "acme_space" / "part" / "__init__.py").write_text("B = 1\n")
    (tmp_path / "acme_space" / "beside.txt").write_text("not of the part")
    for value, folder in (("acme_space.part:B", tmp_path / "acme_space" / "part"), ("acme_alone:A", None)):
        found = package_hash.__wrapped__(EntryPoint("x", value, "fedrec.models"))
        if folder is not None:
            assert found == by_hand(folder)
        else:
            content = b"\0acme_alone.py\0006\0A = 1\n"
            assert found == hashlib.sha256(b"fedrec/package/1" + content).hexdigest()


def test_a_policy_allows_no_installed_model_unless_it_names_its_code(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    plan, code = cohort.plan(model_code="ab" * 32), "ab" * 32
    cohort.policy.check(cohort.plan())
    with pytest.raises(RefusedError, match=f"policy 'model_code': model 'linear' with the code {code}"):
        cohort.policy.check(plan)
    named = MerchantPolicy.without_limits(modes={"distributed"}, schemes={"kahe"}, model_code={code})
    named.check(plan)
    with pytest.raises(RefusedError, match="model_code"):
        named.check(cohort.plan(model_code="cd" * 32))


def test_the_check_shows_the_code_hash_for_the_policy(folder: Path, tmp_path: Path) -> None:
    home = MerchantHome.create(tmp_path / "home", name="m0", data=tmp_path, units=10)
    code = by_hand(folder)

    def told() -> str:
        return next(finding.text for finding in run_checks(home, offline=True) if finding.what == "models")

    assert told() == f"acme-net {code} (not allowed by policy 'model_code')"
    policy = home.folder / "policy.toml"
    policy.write_text(policy.read_text() + f'model_code = ["{code}"]\n')
    assert told() == f"acme-net {code} (allowed by policy 'model_code')"
    assert not (folder / "ran").exists()


class Scaled(nn.Module):
    """A layer that neither the fast clipping nor Opacus has rules for."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([0.5, -2.0, 1.5, 1.0]))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Scale the features."""
        return inputs * self.scale


def unknown(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.RMSNorm(4), Scaled(), nn.Linear(4, 3))


def test_layers_that_the_fast_clipping_does_not_know_are_said_and_clipped_exactly() -> None:
    model = unknown()
    note = clipping_note(model)
    assert note == "exact but slow clipping, by Opacus: no fast rule for RMSNorm, Scaled"
    inputs, labels = torch.randn(5, 1, 3, 2, 2), torch.tensor([0, 1, 2, 1, 0])
    expected = np.zeros(sum(parameter.numel() for parameter in model.parameters()))
    for record, label in zip(inputs, labels, strict=True):
        loss = nn.functional.cross_entropy(model(record), label[None])
        parts = torch.autograd.grad(loss, list(model.parameters()))
        gradient = np.concatenate([part.numpy().ravel() for part in parts])
        expected += gradient * min(1.0, 0.1 / float(np.linalg.norm(gradient)))
    np.testing.assert_allclose(clipped_sum(model, inputs, labels, clip=0.1), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "name", [name for name in model_registry.names() if not model_registry.is_solved(name)]
)
def test_every_model_of_the_package_is_clipped_fast(name: str) -> None:
    size = model_registry.get(name).image_size or 32
    assert clipping_note(model_registry.get(name).build(classes=3, channels=3, size=size, seed=0)) is None


def test_a_layer_without_gradients_per_record_is_refused_at_the_start() -> None:
    with pytest.raises(ConfigError, match="GroupNorm"):
        clipping_note(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2)))


class Centred(nn.Module):
    """Takes the mean over the batch away, which makes records depend on each other."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Centre the batch."""
        return inputs - inputs.mean(dim=0, keepdim=True)


class Twice(nn.Module):
    """Uses one layer twice in a pass."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.last = nn.Linear(12, 12), nn.Linear(12, 3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Apply the layer to its own output."""
        return self.last(self.layer(self.layer(inputs.flatten(1))))  # type: ignore[no-any-return]


def test_an_installed_model_must_keep_records_apart() -> None:
    check_foreign_model(unknown, (3, 2, 2), classes=3)
    with pytest.raises(ConfigError, match="depend on the others"):
        check_foreign_model(lambda seed: nn.Sequential(unknown(seed), Centred()), (3, 2, 2), classes=3)
    with pytest.raises(ConfigError, match="used more than once"):
        check_foreign_model(lambda seed: Twice(), (3, 2, 2), classes=3)
