"""A plan that names the fine-tuned packaged network: refused where it isn't true; its room is told."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import platformdirs
import pytest
import torch

from fedrec.clients import plan_resources
from fedrec.clients.merchant_home import MerchantHome
from fedrec.clients.plan_resources import load_photos
from fedrec.clients.policy import MerchantPolicy
from fedrec.clients.preflight_checks import Finding, run_checks
from fedrec.clients.store import MerchantStore
from fedrec.clients.store_types import TrainingSecrets
from fedrec.errors import OperatingSystemError, RefusedError
from fedrec.protocol.messages import JoinReply, JoinRequest
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.transport import unpack
from fedrec.vision import feature_cache, features
from tests.support.cohort import Cohort, InProcessGrid, change_means
from tests.support.pictures import picture

pytest.importorskip("efficientnet_lite_pytorch")
NAME = "effnet-lite0-lora"
NUMBERS = 49 * 320
TRUE: dict[str, Any] = {
    "model": NAME,
    "classes": ("a", "b", "c"),
    "channels": 3,
    "image_size": 224,
    "dimension": 1280 + 3 * 1280 + 2 * 1280,
    "record_values": NUMBERS,
}


UNTRUE: tuple[tuple[dict[str, object], str], ...] = (
    ({"model_code": "ab" * 32}, "model"),
    ({"dimension": TRUE["dimension"] + 1280}, "plan"),
    ({"dimension": TRUE["dimension"] - 2 * 1280}, "plan"),
    ({"dimension": 100_000_000}, "plan"),
    ({"record_values": 3 * 224 * 224}, "plan"),
    ({"record_values": 1}, "plan"),
    ({"image_size": 96}, "plan"),
    ({"image_size": 1024}, "plan"),
    ({"channels": 1}, "plan"),
    ({"unit": "product", "views": 3}, "plan"),
)
FORBIDDEN: tuple[dict[str, object], ...] = (
    {"models": frozenset({"cnn"})},
    {"largest_parameters": TRUE["dimension"] - 1},
    {"largest_image_size": 223},
    {"largest_input_mib": 4 * NUMBERS * 2 // 2**20},
)


def test_what_a_plan_says_of_it_must_be_true_and_allowed(tmp_path: Path) -> None:
    rules = MerchantPolicy.without_limits(modes={"distributed"}, schemes={"kahe"}, model_code={"ab" * 32})
    cohort = Cohort(tmp_path, policy=rules)
    # Photos must not be asked for.
    change_means(cohort.merchants["m0"], build_model=plan_resources.build_model, data_for=None)
    grid = InProcessGrid(cohort.app(), cohort.size)

    def refused(plan: TrainingPlan) -> str | None:
        message = grid.create_message(cohort.signed(JoinRequest(plan=plan)), "query.join", 1, "1")
        (reply,) = grid.send_and_receive([message])
        found = unpack(reply.content, JoinReply, max_blob_bytes=0)[0].refused
        return None if found is None else found.code

    for changes, code in UNTRUE:
        assert refused(cohort.plan(**TRUE | changes)) == code, changes
    assert cohort.merchants["m0"].store.open_trainings() == []
    plan = cohort.plan(**TRUE, records_largest=100, records_total=100)
    for rule in FORBIDDEN:
        with pytest.raises(RefusedError, match=f"policy '{next(iter(rule))}'"):
            rules.model_copy(update=rule).check(plan)
    assert refused(plan) is None


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three photos, and an empty cache."""
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda name: tmp_path / "cache" / name)
    for shade, label in enumerate("abc"):
        picture(tmp_path / "photos" / label / "x.png", 40 * shade)
    return tmp_path / "photos"


def test_a_disk_without_room_is_told_at_once_and_nothing_is_computed_twice(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(features, "MAPPED_BYTES", 1)
    plan, computed = Cohort(tmp_path / "cohort").plan(**TRUE), []

    def counted(*given: Any, compute: Callable[..., None] = features._compute, **named: Any) -> None:
        computed.append(len(given[2]))
        compute(*given, **named)

    monkeypatch.setattr(features, "_compute", counted)
    free = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free._replace(free=feature_cache.KEPT_FREE))
    with pytest.raises(OperatingSystemError, match=r"can't be kept in .* less than 256 MiB .* make room"):
        load_photos(plan, photos, layout="class", device=torch.device("cpu"))
    assert computed == [3] and "features can't be kept" in caplog.text
    assert list((tmp_path / "cache" / "fedrec" / "features").iterdir()) == []
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: free._replace(free=feature_cache.KEPT_FREE + 10**6)
    )
    data = load_photos(plan, photos, layout="class", device=torch.device("cpu"))
    assert data.inputs.shape == (3, 1, 49, 320) and computed == [3, 3]


def test_the_check_tells_what_is_kept_of_photos_and_whether_it_fits(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = MerchantHome.create(tmp_path / "home", name="m0", data=photos, units=3)

    def told(plan: TrainingPlan | None, *, free: int) -> Finding:
        if plan is not None:
            store = MerchantStore(home.store)
            store.join(
                plan.training_id, plan=plan.canonical_bytes(), seeded=False, make_secrets=TrainingSecrets
            )
            store.finish_others(plan.training_id)
            store.close()
        usage = SimpleNamespace(free=free)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
        return next(finding for finding in run_checks(home, offline=True) if finding.what == "features")

    cohort, room = Cohort(tmp_path / "cohort"), feature_cache.KEPT_FREE + 3 * (2 * NUMBERS + 32)
    assert told(None, free=0).ok
    plan = cohort.plan(**TRUE)
    fits = told(plan, free=room)
    assert fits.ok and f"31.4 kB of a photo, 94.2 kB in all, are kept in {tmp_path / 'cache'}" in fits.text
    lacks = told(plan, free=room - 1)
    assert lacks.ok is False and "make room there" in lacks.text
    # What the cache has needs no more room; four views need four times as much.
    monkeypatch.undo()
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda name: tmp_path / "cache" / name)
    load_photos(plan, photos, layout="class", device=torch.device("cpu"))
    assert told(plan, free=feature_cache.KEPT_FREE).ok
    varied = told(cohort.plan(**TRUE | {"views": 4}), free=room)
    assert varied.ok is False and "125 kB of a photo" in varied.text
    assert "no features are kept" in told(cohort.plan(model="cnn"), free=0).text


def test_a_write_that_fails_leaves_the_maps_in_memory_for_this_training(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full in the middle of the cache's file, as it isn't before."""

    def full(*given: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    plan = Cohort(tmp_path / "cohort").plan(**TRUE)
    whole = load_photos(plan, photos, layout="class", device=torch.device("cpu")).inputs
    shutil.rmtree(tmp_path / "cache")
    monkeypatch.setattr(os, "fsync", full)
    data = load_photos(plan, photos, layout="class", device=torch.device("cpu"))
    np.testing.assert_array_equal(data.inputs, whole)
    assert list((tmp_path / "cache" / "fedrec" / "features").iterdir()) == []
