"""What may be registered: a specification that says everything, under a name that nobody else has."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import get_args

import pytest
from pydantic import ValidationError

from fedrec._internal.registry import Registry
from fedrec.errors import ConfigError, RefusedError
from fedrec.privacy.aggregation import ckks, clear, kahe
from fedrec.privacy.aggregation import scheme_registry as schemes
from fedrec.privacy.aggregation.spec import SchemeSpec
from fedrec.privacy.audit import claims
from fedrec.protocol import modes
from fedrec.protocol.messages import JoinRequest
from fedrec.protocol.modes import Mode
from fedrec.protocol.trust import TrustModel
from tests.support.cohort import Cohort
from tests.support.layout import PACKAGE

OPEN = 'TrustModel(opened_by="nobody", reads_single_updates="server", epsilon_of="share")'
ADDED = """
from fedrec.privacy.aggregation.clear import ClearScheme, choose_parameters
from fedrec.privacy.aggregation.spec import SchemeSpec
from fedrec.protocol.trust import TrustModel

REST = dict(trust_limit="The server.", create=ClearScheme, choose_parameters=choose_parameters)
SPEC = {spec}
"""


def registry(folder: Path, monkeypatch: pytest.MonkeyPatch, spec: str, *, name: str) -> Registry[SchemeSpec]:
    """The registry where a package with this specification is installed."""
    module = f"added_{abs(hash((spec, name)))}"
    (folder / f"{module}.py").write_text(ADDED.format(spec=spec))
    about = folder / f"{module}-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1\n")
    (about / "entry_points.txt").write_text(f"[{schemes.GROUP}]\n{name} = {module}:SPEC\n")
    monkeypatch.syspath_prepend(str(folder))
    builtin = (kahe.SPEC, ckks.SPEC, clear.SPEC)
    return Registry(SchemeSpec, what="aggregation scheme", group=schemes.GROUP, builtin=builtin)


def test_an_installed_package_adds_a_scheme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = registry(tmp_path, monkeypatch, f"SchemeSpec(name='plain', trust={OPEN}, **REST)", name="plain")
    assert found.names() == ("kahe", "ckks", "none", "plain")
    assert not found.get("plain").trust.encrypted


@pytest.mark.parametrize(
    ("spec", "missing"),
    [
        ("SchemeSpec(name='quiet', **REST)", "'trust'"),
        ("SchemeSpec(name='quiet', trust=None, **REST)", "who can read a single update"),
        (
            "SchemeSpec(name='quiet', trust=TrustModel(opened_by='nobody', epsilon_of='share'), **REST)",
            "reads_single_updates",
        ),
        (
            "SchemeSpec(name='quiet', trust=TrustModel(opened_by='nobody', reads_single_updates='server'), "
            "**REST)",
            "epsilon_of",
        ),
        (
            "SchemeSpec(name='quiet', trust=TrustModel(opened_by='nobody', reads_single_updates='server', "
            "epsilon_of='sum'), **REST)",
            "epsilon is that of one share",
        ),
        (f"SchemeSpec(name='quiet', trust={OPEN}, **(REST | dict(trust_limit='')))", "trust_limit"),
        (f"SchemeSpec(name='loud', trust={OPEN}, **REST)", "another name"),
        ("'kahe'", "not a SchemeSpec"),
    ],
)
def test_a_scheme_that_leaves_something_out_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, missing: str
) -> None:
    found = registry(tmp_path, monkeypatch, spec, name="quiet")
    with pytest.raises(ConfigError, match="aggregation scheme 'quiet' of package added_") as refused:
        found.get("quiet")
    assert missing in str(refused.value)
    # The others are as they were.
    assert found.get("kahe") is kahe.SPEC


def test_no_package_can_take_the_name_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = registry(tmp_path, monkeypatch, f"SchemeSpec(name='kahe', trust={OPEN}, **REST)", name="kahe")
    for ask in (found.names, lambda: found.get("kahe"), lambda: found.get("none")):
        with pytest.raises(ConfigError, match="registers aggregation scheme 'kahe', a name that is taken"):
            ask()


@pytest.mark.parametrize("opened_by", ["nobody", "holder"])
def test_without_a_committee_somebody_reads_single_updates(opened_by: str) -> None:
    for epsilon_of in ("sum", "share"):
        with pytest.raises(ValidationError, match="only where a committee opens sums"):
            TrustModel.model_validate(
                {
                    "opened_by": opened_by,
                    "reads_single_updates": "nobody_below_threshold",
                    "epsilon_of": epsilon_of,
                }
            )


@pytest.mark.parametrize("scheme", ["kahe", "none"])
def test_a_merchant_refuses_a_plan_that_states_other_than_its_own_scheme(tmp_path: Path, scheme: str) -> None:
    cohort = Cohort(tmp_path)
    other = kahe.SPEC.trust if scheme == "none" else clear.SPEC.trust
    # But for what it states of the scheme, the policy lets the plan in.
    lying = cohort.plan(scheme=scheme, trust=other, corrupt_members=1)
    with pytest.raises(RefusedError, match=f"trust model of scheme '{scheme}' differs from the installed"):
        cohort.merchants["m0"].join(JoinRequest(plan=lying))
    assert cohort.charges("m0") == []


def test_what_does_not_protect_raises_an_alarm() -> None:
    assert claims.alarms(modes.DISTRIBUTED, kahe.SPEC.trust) == ()
    assert claims.exposure_clause(clear.SPEC.trust) is not None
    warning = claims.scheme_warning(clear.SPEC.trust)
    assert warning is not None and warning.startswith("NOT ENCRYPTED")
    (exposed,) = claims.alarms(modes.DISTRIBUTED, clear.SPEC.trust)
    assert "not encrypted" in exposed
    (bare,) = claims.alarms(modes.OFF, kahe.SPEC.trust)
    assert "no noise" in bare
    (seeded,) = claims.alarms(modes.LOCAL, kahe.SPEC.trust, seeded=True)
    assert "seed" in seeded
    one_key = claims.scheme_warning(ckks.SPEC.trust)
    assert one_key is not None and one_key.startswith("ONE KEY")


def test_nothing_outside_a_choice_s_own_file_compares_its_name() -> None:
    """A name in a comparison is a question that a specification doesn't answer."""
    names = {kahe.NAME, ckks.NAME, clear.NAME, *get_args(Mode), "fixed", "automatic"}
    found = []
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if not isinstance(node, ast.Compare):
                continue
            for part in (node.left, *node.comparators):
                said = {leaf.value for leaf in ast.walk(part) if isinstance(leaf, ast.Constant)}
                asked = {leaf.attr for leaf in ast.walk(node) if isinstance(leaf, ast.Attribute)}
                if said & names and not asked & {"engine", "clock"}:
                    found.append(f"{file.relative_to(PACKAGE)}:{node.lineno}: {ast.unparse(node)}")
    assert found == []
