"""A plan that names a head on an added backbone: allowed by hash, refused in a fixed code without it."""

from __future__ import annotations

import logging
from pathlib import Path

import platformdirs
import pytest

from fedrec.clients import plan_resources
from fedrec.clients.merchant_home import MerchantHome
from fedrec.clients.policy import MerchantPolicy
from fedrec.clients.preflight_checks import run_checks
from fedrec.errors import RefusedError
from fedrec.protocol.messages import JoinReply, JoinRequest
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.refusals import CATALOGUE, Refusal
from fedrec.protocol.transport import unpack
from fedrec.vision.backbones import adding, backbone_files
from fedrec.vision.backbones.adding import add_backbone
from fedrec.vision.backbones.backbone_files import Preparation
from fedrec.vision.backbones.trial import try_here
from tests.support.cohort import Cohort, InProcessGrid, change_means
from tests.support.networks import ADD_OPTIONS, SIDE, WIDTH, vision_transformer, written

CLASSES = 3


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Preparation:
    monkeypatch.setattr(platformdirs, "user_data_path", lambda name: tmp_path / "data" / name)
    monkeypatch.setattr(adding, "try_network", try_here)
    return added(tmp_path)


def added(folder: Path, *, seed: int = 0) -> Preparation:
    file = written(folder / "vit.onnx", vision_transformer(seed=seed))
    pictures = backbone_files.pictures_of(name="tiny", **ADD_OPTIONS)
    return add_backbone(file, pictures, layers=["features"])


def plan_of(cohort: Cohort, made: Preparation) -> TrainingPlan:
    return cohort.plan(
        model=made.model,
        model_code=made.code,
        channels=3,
        image_size=SIDE,
        dimension=WIDTH * (CLASSES + 1),
        record_values=WIDTH,
    )


def allowing(*codes: str) -> MerchantPolicy:
    return MerchantPolicy.without_limits(modes={"distributed"}, schemes={"kahe"}, model_code=codes)


def test_a_merchant_with_the_backbone_builds_its_head(made: Preparation, tmp_path: Path) -> None:
    plan = plan_of(Cohort(tmp_path / "cohort", policy=allowing(made.code)), made)
    head = plan_resources.build_model(plan)
    assert sum(parameter.numel() for parameter in head.parameters()) == plan.dimension
    plan_resources.check_plan_model(plan)


def test_a_merchant_allows_it_by_hash(made: Preparation, tmp_path: Path) -> None:
    cohort = Cohort(tmp_path / "cohort")
    with pytest.raises(
        RefusedError, match=f"policy 'model_code': model 'tiny-head' with the code {made.code}"
    ):
        cohort.policy.check(plan_of(cohort, made))
    allowing(made.code).check(plan_of(cohort, made))
    home = MerchantHome.create(tmp_path / "home", name="m0", data=tmp_path, units=10)
    told = next(finding.text for finding in run_checks(home, offline=True) if finding.what == "models")
    assert f"tiny-head {made.code} (not allowed by policy 'model_code')" in told


def joined(cohort: Cohort, plan: TrainingPlan) -> JoinReply:
    """What merchant m0 answers to a plan by way of its ClientApp."""
    grid = InProcessGrid(cohort.app(), cohort.size)
    message = grid.create_message(cohort.signed(JoinRequest(plan=plan)), "query.join", 1, "1")
    (reply,) = grid.send_and_receive([message])
    return unpack(reply.content, JoinReply, max_blob_bytes=0)[0]


ADD = "'fedrec backbone add FILE --name tiny --code {code} ...'"


@pytest.mark.parametrize(
    ("what", "advice"),
    [
        ("missing", f"get the network's file from the training's operator, and run {ADD}"),
        ("other", f"and run 'fedrec backbone remove tiny' and {ADD}"),
        (
            "damaged",
            "network.onnx is missing or damaged: run 'fedrec backbone remove tiny', and add it again",
        ),
    ],
)
def test_the_server_is_told_a_fixed_code_and_the_log_what_to_do(
    made: Preparation, tmp_path: Path, what: str, advice: str, caplog: pytest.LogCaptureFixture
) -> None:
    cohort = Cohort(tmp_path / "cohort", policy=allowing(made.code))
    change_means(cohort.merchants["m0"], build_model=plan_resources.build_model)
    plan = plan_of(cohort, made)
    if what == "damaged":
        backbone_files.network_file(made).write_bytes(b"")
    else:
        backbone_files.remove("tiny")
    if what == "other":
        assert added(tmp_path, seed=1).code != made.code
    with caplog.at_level(logging.WARNING):
        reply = joined(cohort, plan)
    assert reply.refused == Refusal(code="model") and str(reply.refused) == CATALOGUE["model"]
    assert advice.format(code=made.code) in caplog.text
    assert cohort.merchants["m0"].store.open_trainings() == []


def test_with_the_backbone_the_merchant_joins(made: Preparation, tmp_path: Path) -> None:
    cohort = Cohort(tmp_path / "cohort", policy=allowing(made.code))
    change_means(cohort.merchants["m0"], build_model=plan_resources.build_model)
    assert joined(cohort, plan_of(cohort, made)).refused is None
