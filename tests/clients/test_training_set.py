"""What of a merchant's photos a training uses, and that nothing but a noised upload depends on them."""

from __future__ import annotations

import copy
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from flwr.app import Message
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from fedrec.cli import client, client_start
from fedrec.clients import assembly
from fedrec.clients.assembly import open_merchant
from fedrec.clients.client_app import build_client_app
from fedrec.clients.contribution import compute_contribution
from fedrec.clients.daemon import Daemon, DaemonOptions
from fedrec.clients.merchant import Merchant
from fedrec.clients.merchant_home import MerchantHome
from fedrec.clients.photo_counts import photo_text
from fedrec.clients.plan_resources import build_model, load_photos
from fedrec.clients.policy import MerchantPolicy
from fedrec.clients.preflight_checks import run_checks
from fedrec.clients.record_tags import RecordTags, used_share
from fedrec.clients.records import Records, TrainingData
from fedrec.clients.store import MerchantStore
from fedrec.clients.store_types import CountedSet, FixedSet, TrainingSecrets
from fedrec.clients.store_view import read_store
from fedrec.clients.training_set import TrainingSets
from fedrec.errors import ConfigError, DataError, RefusedError
from fedrec.privacy.derived_parameters import derive
from fedrec.privacy.dp import step
from fedrec.privacy.dp.vectors import parameter_count
from fedrec.privacy.identity import SealingKey, SigningIdentity
from fedrec.privacy.randomness import Randomness
from fedrec.protocol.enrolment import JoinFile
from fedrec.protocol.messages import CloseRequest, JoinRequest, TrainRequest, UnmaskRequest
from fedrec.protocol.plan import Peer, TrainingPlan, Unit
from fedrec.protocol.schema import Strict
from fedrec.protocol.transport import pack
from fedrec.vision.folders import Layout
from fedrec.vision.imageset import ImageSet
from tests.support.cohort import (
    CLASSES,
    DIMENSION,
    FEATURES,
    Cohort,
    InProcessGrid,
    change_means,
    linear_model,
    record_digests,
)
from tests.support.pictures import picture

CPU = torch.device("cpu")


def a_shop(folder: Path, *, layout: Layout = "class") -> Path:
    """A hat, two mugs and a sock; in folders of products the mugs are one product of two photos."""
    for label, number in (("hat", 0), ("mug", 0), ("mug", 1), ("sock", 0)):
        product = f"{label}-a" if layout == "product" else ""
        picture(folder / label / product / f"{number}.png", 16 * len(label) + number)
    return folder


Change = Callable[[Path, str], object]
CHANGES: dict[str, Change] = {
    "a photo more": lambda folder, product: picture(folder / "mug" / f"mug{product}" / "9.png", 200),
    "a photo less": lambda folder, product: next(iter(sorted((folder / "mug").rglob("1.png")))).unlink(),
    "a class more": lambda folder, product: picture(folder / "ring" / f"ring{product}" / "0.png", 77),
    "a class less": lambda folder, product: shutil.rmtree(folder / "hat"),
    "a product more": lambda folder, product: picture(folder / "mug" / f"mug-z{product}" / "0.png", 5),
    "a photo that can't be read": lambda folder, product: (folder / "mug" / "x.png").write_bytes(
        b"no picture"
    ),
    "no photo at all": lambda folder, product: _emptied(folder),
    "no folder": lambda folder, product: shutil.rmtree(folder),
}


def _emptied(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def _unchanged(folder: Path, product: str) -> None:
    """Change nothing."""


@pytest.fixture(scope="module")
def shops(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, Layout], Path]:
    """A shop by layout, and the same after each of the changes."""
    made: dict[tuple[str, Layout], Path] = {}
    layouts: tuple[Layout, ...] = ("class", "product")
    for layout in layouts:
        for name, change in {"": _unchanged, **CHANGES}.items():
            folder = a_shop(tmp_path_factory.mktemp("shop") / "photos", layout=layout)
            if layout == "class" and name == "a product more":
                continue
            if layout == "product" or not name:
                change(folder, "-b" if layout == "product" else "")
            else:
                _flat(change, folder)
            made[name, layout] = folder
    return made


def _flat(change: Change, folder: Path) -> None:
    """Apply a change where no folder stands between class and photo."""
    before = {path for path in folder.rglob("*") if path.is_dir()}
    change(folder, "")
    for path in [path for path in folder.rglob("*.png") if path.parent.parent != folder]:
        target = path.parent.parent / f"moved-{path.name}"
        shutil.move(path, target)
        if path.parent not in before:
            path.parent.rmdir()


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cohort]:
    made = Cohort(tmp_path_factory.mktemp("cohort"), size=3)
    yield made
    for merchant in made.merchants.values():
        merchant.ledger.close()
        merchant.store.close()


PLANS = st.fixed_dictionaries(
    {
        "classes": st.sampled_from([("hat", "mug"), ("ring", "zzz"), ("hat", "mug", "ring", "sock")]),
        "unit": st.sampled_from(["record", "product"]),
        "views": st.sampled_from([1, 2, 4]),
        "image_size": st.sampled_from([8, 16]),
        "records_largest": st.sampled_from([1, 3, 1000]),
        "records_total": st.sampled_from([3, 3000]),
        "sample_rate": st.sampled_from([0.01, 0.5, 1.0]),
        "mode": st.sampled_from(["distributed", "local"]),
        "rounds": st.integers(1, 3),
        "delta": st.sampled_from([1e-5, 0.3]),
        "noise_multiplier": st.sampled_from([0.01, 2.0]),
    }
)
RING: dict[str, object] = {"classes": ("ring", "zzz"), "unit": "record", "image_size": 8}


@settings(
    max_examples=5,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(changes=PLANS, layout=st.sampled_from(["class", "product"]), fits=st.sampled_from([True, True, False]))
@example(changes=RING, layout="class", fits=True)
@example(changes=RING | {"unit": "product"}, layout="product", fits=True)
@example(changes=RING | {"unit": "product", "views": 2}, layout="product", fits=True)
@example(changes=RING | {"classes": ("hat", "mug"), "unit": "product"}, layout="class", fits=True)
def test_nothing_but_an_upload_depends_on_the_photos(
    cohort: Cohort,
    shops: dict[tuple[str, Layout], Path],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, object],
    layout: Layout,
    fits: bool,
) -> None:
    """Merchants with the same keys, policy and ledger, whose folders differ, say the very same."""
    plan = cohort.plan(model="cnn", committee=tuple(cohort.names), threshold=3, **changes)
    if fits:
        model = build_model(plan.model_copy(update={"views": 1}))
        plan = plan.model_copy(update={"dimension": parameter_count(model)})
    # A training's sealing key is drawn afresh, which has nothing to do with photos.
    fixed = SealingKey.from_private_bytes(SealingKey.generate().private_bytes())
    monkeypatch.setattr(SealingKey, "generate", lambda *rng: fixed)
    said = {}
    for name in ("", *CHANGES):
        if (name, layout) not in shops:
            continue
        merchant = _merchant(cohort, tmp_path_factory.mktemp("home"), shops[name, layout], layout=layout)
        said[name] = _everything(merchant, plan)
        merchant.ledger.close()
        merchant.store.close()
    assert len(said) >= len(CHANGES) and all(found == said[""] for found in said.values())


def _merchant(cohort: Cohort, home: Path, folder: Path, *, layout: Layout) -> Merchant:
    """Merchant m0 on a home of its own, with the same ledger, a folder of photos and an unseeded stream."""
    another = copy.copy(cohort)
    another.folder, another.seed = home, None
    (home / "m0").mkdir()
    for file in ("identity.key", "ledger.sqlite", "ledger.sqlite.head"):
        shutil.copy(cohort.folder / "m0" / file, home / "m0" / file)
    made = another.start("m0")
    change_means(
        made,
        build_model=build_model,
        data_for=lambda plan: load_photos(plan, folder, layout=layout, device=CPU),
    )
    return made


def _everything(merchant: Merchant, plan: TrainingPlan) -> list[bytes]:
    """Every byte that a merchant sends around a round but the upload: join, refusals, unmask and close."""
    grid = InProcessGrid(build_client_app(lambda context: merchant), 1)
    bodies: list[tuple[str, Strict]] = [
        ("query.join", JoinRequest(plan=plan)),
        ("train", _train(plan, plan.rounds + 1)),
        ("query.join", JoinRequest(plan=plan)),
        ("query.unmask", UnmaskRequest(training_id=plan.training_id, round_number=1, survivors=())),
        ("train", _train(plan, 1)),
        ("query.close", CloseRequest(training_id=plan.training_id)),
        ("train", _train(plan, 1)),
    ]
    sent = []
    for kind, body in bodies:
        grid.push_messages([grid.create_message(pack(body), kind, 1, "1")])
        sent.append(_bytes_of(grid.replies[-1]))
        merchant.fix_records()
    return sent


def _train(plan: TrainingPlan, round_number: int) -> TrainRequest:
    return TrainRequest(
        training_id=plan.training_id,
        round_number=round_number,
        model_hash=plan.initial_model_hash,
        sealing_keys=(),
    )


def _bytes_of(reply: Message) -> bytes:
    if reply.has_error():
        return f"error {reply.error.code} {reply.error.reason}".encode()
    return b"".join(
        name.encode() + value
        for record in reply.content.config_records.values()
        for name, value in record.items()
        if isinstance(value, bytes)
    )


def test_a_join_reads_no_photo(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    merchant = cohort.merchants["m0"]
    looked: list[str] = []
    read = merchant.context.resources.data_for

    def data_for(plan: TrainingPlan) -> TrainingData:
        looked.append(plan.training_id)
        return read(plan)

    change_means(merchant, data_for=data_for)
    plan = cohort.plan()
    merchant.join(JoinRequest(plan=plan))
    assert not looked
    merchant.fix_records()
    merchant.fix_records()
    assert looked == [plan.training_id]


def test_a_merchant_without_a_usable_photo_sends_noise_and_the_round_opens(tmp_path: Path) -> None:
    """The sum of four merchants is that of three, and the noise that the fourth's own stream gives."""
    kinds = {"distributed": {"scheme": "none", "committee": (), "threshold": 0}}
    sums: list[NDArray[np.float64]] = []
    for unreadable in (True, False):
        cohort = Cohort(tmp_path / str(unreadable))
        merchant = cohort.merchants["m3"]
        if unreadable:
            change_means(merchant, data_for=lambda plan: (_ for _ in ()).throw(FileNotFoundError("Rome")))
        else:
            empty = Records.none(CPU)
            none = TrainingData(inputs=empty.inputs, labels=empty.labels, digests=(), held=())
            change_means(merchant, data_for=lambda plan, none=none: none)
        plan = cohort.plan(rounds=1, **kinds["distributed"])
        parameters, records = cohort.train(plan)
        assert [(record.opened, record.contributors) for record in records] == [(True, 4)]
        assert len(cohort.charges("m3")) == 1
        sums.append(parameters)
    assert np.abs(sums[0]).max() > 0
    np.testing.assert_array_equal(sums[0], sums[1])


def test_a_step_that_fails_on_its_records_is_repeated_without_records(tmp_path: Path) -> None:
    plan = Cohort(tmp_path).plan(sample_rate=1.0)
    noise = derive(plan).noise
    parameters = np.zeros(DIMENSION, dtype=np.float32)
    broken = Records(torch.zeros(4, 1, FEATURES), torch.full((4,), CLASSES + 5))

    def made(records: Records) -> NDArray[np.int64]:
        return compute_contribution(
            linear_model(), parameters, records, plan=plan, noise=noise, rng=Randomness.seeded(3, "step")
        )

    np.testing.assert_array_equal(made(broken), made(Records.none(CPU)))
    sound = Records(torch.ones(4, 1, FEATURES), torch.zeros(4, dtype=torch.int64))
    assert np.abs(made(sound) - made(Records.none(CPU))).max() > 0


def used_classes(records: Records, plan: TrainingPlan) -> list[str]:
    own = records.labels if records.places is None else records.labels[records.places]
    return sorted(plan.classes[label] for label in own.tolist())


class Shop:
    """The training sets of one merchant over a folder of photos."""

    def __init__(self, home: Path, folder: Path, **policy: object) -> None:
        self.folder, self.identity = folder, SigningIdentity.from_private_bytes(bytes(range(32)))
        self.policy = MerchantPolicy(**policy)  # type: ignore[arg-type]
        self.declared: int | None = None
        self.loaded: list[TrainingData] = []
        home.mkdir(parents=True, exist_ok=True)
        self.store = MerchantStore(home / "store.sqlite")
        self.reopen()

    def reopen(self) -> None:
        """Forget what is in memory, as a restarted daemon would."""
        self.sets = TrainingSets(
            store=self.store,
            identity=self.identity,
            data_for=self.load,
            declared=lambda unit: self.declared,
            device=CPU,
        )

    def load(self, plan: TrainingPlan) -> TrainingData:
        self.loaded.append(load_photos(plan, self.folder, layout="class", device=CPU))
        return self.loaded[-1]

    def fix(self, plan: TrainingPlan) -> FixedSet:
        return self.sets.fix(plan, policy=self.policy)

    def labels(self, plan: TrainingPlan) -> list[str]:
        """The classes of the records that the next step would use."""
        records = self.sets.records(plan, self.fix(plan))
        assert len(records.inputs) == len(records.labels)
        # Taking a record out copies nothing.
        assert not len(records) or records.inputs is self.loaded[-1].inputs
        return used_classes(records, plan)


@pytest.fixture
def shop_plan(cohort: Cohort) -> Callable[[], TrainingPlan]:
    return lambda: cohort.plan(model="cnn", classes=("hat", "mug", "sock"), image_size=8, records_largest=40)


@pytest.mark.parametrize("restart", [False, True])
def test_a_photo_that_is_gone_drops_out_and_a_new_one_waits(
    tmp_path: Path, shop_plan: Callable[[], TrainingPlan], restart: bool
) -> None:
    folder = a_shop(tmp_path / "photos")
    shop, plan = Shop(tmp_path / "home", folder, changed_data="count_together"), shop_plan()

    def used() -> list[str]:
        if restart:
            shop.reopen()
        return shop.labels(plan)

    assert used() == ["hat", "mug", "mug", "sock"]
    kept = (folder / "mug" / "0.png").read_bytes()
    (folder / "mug" / "0.png").unlink()
    assert used() == ["hat", "mug", "sock"]
    picture(folder / "sock" / "0.png", 99)
    assert used() == ["hat", "mug"]
    (folder / "mug" / "1.png").write_bytes(b"no picture")
    assert used() == ["hat"]
    picture(folder / "hat" / "1.png", 123)
    picture(folder / "mug" / "2.png", 124)
    assert used() == ["hat"]
    # The next training finds what is there now, and one that came back as it was is used again at once.
    assert shop.labels(shop_plan()) == ["hat", "hat", "mug", "sock"]
    shop.reopen()
    (folder / "mug" / "0.png").write_bytes(kept)
    assert used() == ["hat", "mug"]
    # Touched, renamed over or copied back, a photo of the same content is the same.
    hat = folder / "hat" / "0.png"
    shutil.copy(hat, tmp_path / "copy.png")
    (tmp_path / "copy.png").replace(hat)
    assert used() == ["hat", "mug"]


def test_new_photos_may_be_left_out_by_a_rule_and_they_alone_are(
    tmp_path: Path, shop_plan: Callable[[], TrainingPlan]
) -> None:
    folder = a_shop(tmp_path / "photos")
    shop = Shop(tmp_path / "home", folder, changed_data="refuse")

    def charged() -> FixedSet:
        fixed = shop.fix(shop_plan())
        shop.store.put_counted(fixed)  # type: ignore[arg-type]
        return fixed

    first = charged()
    assert len(first.tags) == 4 and first.version
    (folder / "mug" / "1.png").unlink()
    fewer = charged()
    # A removal is no change, and neither is putting the photo back.
    assert fewer.version == first.version and fewer.held == first.held and len(fewer.tags) == 3
    picture(folder / "mug" / "1.png", 49)
    assert charged().version == first.version
    picture(folder / "mug" / "new.png", 200)
    without = charged()
    assert (without.tags, without.version) == (
        first.tags,
        first.version,
    ) and "changed_data" in without.photo_summary
    assert len(shop.sets.records(shop_plan(), without)) == 4
    # Once all are counted together, the new one is as good as the others.
    shop.policy = MerchantPolicy(changed_data="count_together")
    counted = charged()
    assert len(counted.tags) == 5 and counted.version != first.version and counted.held > first.held
    shop.policy = MerchantPolicy(changed_data="refuse")
    assert len(charged().tags) == 5


Days = Callable[[Path], object]
DAYS: dict[str, tuple[Days, list[str], list[str]]] = {
    # What happens to a folder of a hat, two mugs and a sock overnight; what the training that runs uses
    # then, and what the next one uses.
    "nothing": (lambda folder: None, ["hat", "mug", "mug", "sock"], ["hat", "mug", "mug", "sock"]),
    "a photo is added": (
        lambda folder: picture(folder / "mug" / "9.png", 200),
        ["hat", "mug", "mug", "sock"],
        ["hat", "mug", "mug", "mug", "sock"],
    ),
    "a photo is removed": (
        lambda folder: (folder / "mug" / "1.png").unlink(),
        ["hat", "mug", "sock"],
        ["hat", "mug", "sock"],
    ),
    "a photo is edited": (
        lambda folder: picture(folder / "mug" / "1.png", 201),
        ["hat", "mug", "sock"],
        ["hat", "mug", "mug", "sock"],
    ),
    "a photo is renamed": (
        lambda folder: (folder / "mug" / "1.png").rename(folder / "mug" / "best.png"),
        ["hat", "mug", "mug", "sock"],
        ["hat", "mug", "mug", "sock"],
    ),
    "a photo is moved to another class": (
        lambda folder: (folder / "mug" / "1.png").rename(folder / "hat" / "1.png"),
        ["hat", "mug", "sock"],
        ["hat", "hat", "mug", "sock"],
    ),
    "a folder is renamed": (
        lambda folder: (folder / "mug").rename(folder / "cup"),
        ["hat", "sock"],
        ["hat", "sock"],
    ),
    "a class is added": (
        lambda folder: picture(folder / "ring" / "0.png", 77),
        ["hat", "mug", "mug", "sock"],
        ["hat", "mug", "mug", "sock"],
    ),
    "a copy is added": (
        lambda folder: shutil.copy(folder / "mug" / "1.png", folder / "mug" / "0-copy.png"),
        ["hat", "mug", "mug", "sock"],
        ["hat", "mug", "mug", "sock"],
    ),
    "the folder is gone": (shutil.rmtree, [], []),
}


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("day", DAYS)
def test_a_training_goes_on_with_its_set_and_the_next_one_has_the_new_one(
    tmp_path: Path, shop_plan: Callable[[], TrainingPlan], day: str, restart: bool
) -> None:
    """By the default policy, whatever a shop does to its folder while a training runs."""
    change, now, later = DAYS[day]
    shop, plan = Shop(tmp_path / "home", a_shop(tmp_path / "photos")), shop_plan()
    first = shop.fix(plan)
    assert shop.labels(plan) == ["hat", "mug", "mug", "sock"]
    shop.store.put_counted(CountedSet(held=first.held, version=first.version))
    change(shop.folder)
    if restart:
        shop.reopen()
    # A file under another name is looked for when the folder is read again.
    moved = day == "a photo is renamed" and not restart
    assert shop.labels(plan) == (["hat", "mug", "sock"] if moved else now)
    # The set and its version, which the ledger commits to, are the same for every charge of the training.
    assert shop.fix(plan) == first
    assert shop.labels(shop_plan()) == later


def test_a_changed_set_is_explained_once(
    tmp_path: Path, shop_plan: Callable[[], TrainingPlan], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "fedrec.clients.training_set")
    shop, plan = Shop(tmp_path / "home", a_shop(tmp_path / "photos")), shop_plan()
    first = shop.fix(plan)
    shop.store.put_counted(CountedSet(held=first.held, version=first.version))
    assert caplog.messages == []

    def told(plan: TrainingPlan) -> str:
        counts = shop.store.photo_counts(plan.training_id)
        assert counts is not None
        return photo_text(counts, changed_data=shop.policy.changed_data)

    picture(shop.folder / "mug" / "8.png", 200)
    picture(shop.folder / "mug" / "9.png", 201)
    (shop.folder / "hat" / "0.png").unlink()
    shop.reopen()
    for _ in range(3):
        shop.labels(plan)
    (line,) = caplog.messages
    assert "goes on with its own" in line and "are in no step of it" in line and "9.png" not in line
    assert told(plan).startswith("3 of 5 records are used; 1 of the set was deleted")
    assert told(plan).endswith("2 were added since the set was fixed, and wait for the next training")
    following = shop_plan()
    for _ in range(3):
        shop.labels(following)
    (line,) = caplog.messages[1:]
    assert "the ledger counts all records together" in line and "nothing more is charged" in line
    assert told(following).startswith("5 of 5 records are used; 2 of the set are new since the last charge")


def test_a_folder_that_is_away_for_a_while_is_said_once_and_used_when_it_is_back(
    tmp_path: Path, shop_plan: Callable[[], TrainingPlan], caplog: pytest.LogCaptureFixture
) -> None:
    shop, plan = Shop(tmp_path / "home", a_shop(tmp_path / "photos")), shop_plan()
    shop.fix(plan)
    shop.folder.rename(tmp_path / "elsewhere")
    shop.reopen()
    assert [shop.labels(plan) for _ in range(3)] == [[], [], []]
    assert len(caplog.messages) == 1 and "noise alone is sent" in caplog.messages[0]
    counts = shop.store.photo_counts(plan.training_id)
    assert counts is not None and "does not exist" in counts.problem and counts.used == 0
    (tmp_path / "elsewhere").rename(shop.folder)
    assert shop.labels(plan) == ["hat", "mug", "mug", "sock"]
    counts = shop.store.photo_counts(plan.training_id)
    assert counts is not None and (counts.problem, counts.used) == ("", 4)


@pytest.mark.parametrize("mount_point", [False, True])
def test_a_folder_that_is_away_at_the_join_is_used_once_it_is_back_and_fixed_then(
    mount_point: bool, tmp_path: Path, shop_plan: Callable[[], TrainingPlan]
) -> None:
    """Otherwise a whole training would be charged for noise alone, for want of a disk mounted late."""
    shop, plan = Shop(tmp_path / "home", tmp_path / "photos"), shop_plan()
    if mount_point:
        (shop.folder / ".Trash-1000").mkdir(parents=True)
    assert [shop.labels(plan) for _ in range(2)] == [[], []] and shop.fix(plan).version == ""
    a_shop(shop.folder)
    shop.reopen()
    assert shop.labels(plan) == ["hat", "mug", "mug", "sock"]
    fixed = shop.fix(plan)
    picture(shop.folder / "mug" / "9.png", 200)
    shop.reopen()
    assert shop.labels(plan) == ["hat", "mug", "mug", "sock"] and shop.fix(plan) == fixed
    # By a policy that refuses changes, an auditor would take it for one.
    strict = Shop(tmp_path / "strict", tmp_path / "away", changed_data="refuse")
    assert strict.fix(plan).version == ""
    a_shop(strict.folder)
    assert strict.labels(plan) == []


def test_a_training_that_no_photo_takes_part_in_is_warned_of_once(
    tmp_path: Path, cohort: Cohort, caplog: pytest.LogCaptureFixture
) -> None:
    """By no class of the training, from the join on; by photos that all went, in the midst of it."""
    wrong = cohort.plan(model="cnn", classes=("dress", "skirt"), image_size=8, records_largest=40)
    shop = Shop(tmp_path / "home", a_shop(tmp_path / "photos"))
    assert [shop.labels(wrong) for _ in range(3)] == [[], [], []]
    (line,) = caplog.messages
    assert "noise alone is sent" in line and "costs budget" in line and "fedrec client pause" in line
    right = cohort.plan(model="cnn", classes=("hat", "mug"), image_size=8, records_largest=40)
    assert shop.labels(right) == ["hat", "mug", "mug"] and len(caplog.messages) == 1
    for photo in shop.folder.rglob("*.png"):
        photo.unlink()
    assert [shop.labels(right) for _ in range(3)] == [[], [], []]
    assert len(caplog.messages) == 2 and right.training_id[:16] in caplog.messages[1]


@pytest.mark.parametrize("away", ["missing", "empty"])
def test_a_daemon_is_not_started_without_its_disk_unless_a_training_is_open(
    away: str, home: MerchantHome, shop_plan: Callable[[], TrainingPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = home.settings().data
    assert "wants libraries" in start_of(home, monkeypatch)
    shutil.rmtree(photos)
    if away == "empty":
        photos.mkdir()
    said = start_of(home, monkeypatch)
    assert "is its disk connected?" in said and "Nothing was started" in said
    plan, store = shop_plan(), MerchantStore(home.store)
    store.join(plan.training_id, plan=plan.canonical_bytes(), seeded=False, make_secrets=TrainingSecrets)
    store.close()
    said = start_of(home, monkeypatch)
    assert said.startswith("WARNING: ") and "wants libraries" in said


def start_of(home: MerchantHome, monkeypatch: pytest.MonkeyPatch) -> str:
    """What ``fedrec client start`` says until it would import the libraries."""

    def run(*arguments: object, **options: object) -> None:
        raise DataError("wants libraries")

    monkeypatch.setattr(client_start, "_run", run)
    done = CliRunner().invoke(client.app, ["start", "--home", str(home.folder)])
    return f"{done.stderr}{done.exception}"


def test_a_restarted_daemon_loads_its_open_training_s_own_records_before_it_connects(
    home: MerchantHome, shop_plan: Callable[[], TrainingPlan]
) -> None:
    """The photos of the day are neither decoded to inputs nor waited for."""
    plan = shop_plan()
    merchant = open_merchant(home, device=CPU)
    merchant.store.join(
        plan.training_id, plan=plan.canonical_bytes(), seeded=False, make_secrets=TrainingSecrets
    )
    merchant.context.sets.fix(plan, policy=merchant.policy)
    merchant.ledger.close()
    merchant.store.close()
    for number in range(3):
        picture(home.settings().data / "mug" / f"new-{number}.png", 200 + number)
    told: list[tuple[str, int, int]] = []
    merchant = open_merchant(
        home, device=CPU, tell=lambda doing, done=0, total=0: told.append((doing, done, total))
    )
    try:
        merchant.load_records()
        assert told[0] == ("photos", 0, 0) and told[-1] == ("photos", 4, 4)
        told.clear()
        records = merchant.context.sets.records(plan, merchant.context.sets.fix(plan, policy=merchant.policy))
        assert len(records) == 4 and not told
    finally:
        merchant.ledger.close()
        merchant.store.close()


def test_only_a_model_on_frozen_networks_extracts_features(
    home: MerchantHome, shop_plan: Callable[[], TrainingPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    merchant = open_merchant(home, device=CPU, tell=lambda doing, done=0, total=0: told.append(doing))
    monkeypatch.setattr(assembly, "load_photos", lambda *args, progress, **named: progress(1, 1))
    try:
        for model in ("cnn", "resnet18", "scattering-head"):
            merchant.context.resources.data_for(shop_plan().model_copy(update={"model": model}))
    finally:
        merchant.close()
    assert told == ["photos"] * 5 + ["features"]


@settings(max_examples=60, deadline=None)
@given(
    days=st.lists(
        st.tuples(st.sets(st.integers(0, 6)), st.booleans(), st.sampled_from(["refuse", "count_together"])),
        min_size=1,
        max_size=5,
    ),
    data=st.data(),
)
def test_a_record_that_comes_or_goes_between_trainings_changes_its_own_use_alone(
    cohort: Cohort,
    tmp_path_factory: pytest.TempPathFactory,
    days: list[tuple[set[int], bool, Literal["refuse", "count_together"]]],
    data: st.DataObject,
) -> None:
    """Over any history of a folder and its rule, with the record there on any of the days, or never."""
    present = data.draw(st.lists(st.booleans(), min_size=len(days), max_size=len(days)))
    extra = hashlib.sha256(b"the record").digest()
    used: dict[bool, list[frozenset[bytes]]] = {}
    for there in (False, True):
        shop = Shop(tmp_path_factory.mktemp("home"), Path())
        used[there] = []
        for (numbers, charged, rule), comes in zip(days, present, strict=True):
            found = [hashlib.sha256(b"%d" % number).digest() for number in sorted(numbers)]
            digests = tuple(found + [extra] * (there and comes))
            records = TrainingData(
                inputs=torch.zeros(len(digests), 1, 1),
                labels=torch.zeros(len(digests), dtype=torch.int64),
                digests=digests,
                held=digests,
            )
            shop.sets._data_for = lambda plan, records=records: records  # type: ignore[misc]
            shop.policy = MerchantPolicy(changed_data=rule)
            fixed = shop.fix(cohort.plan())
            used[there].append(fixed.tags)
            if charged:
                shop.store.put_counted(CountedSet(held=fixed.held, version=fixed.version))
        shop.store.close()
    own = RecordTags(SigningIdentity.from_private_bytes(bytes(range(32)))).tag(extra)
    assert [tags - {own} for tags in used[True]] == used[False]


@pytest.mark.parametrize("layout", ["class", "product"])
def test_a_misplaced_picture_does_not_exclude_the_others(
    tmp_path: Path, shop_plan: Callable[[], TrainingPlan], layout: Layout
) -> None:
    """Were it to make the folder unusable, its presence would move a sum by all the others."""
    folder = a_shop(tmp_path / "photos", layout=layout)
    unit: Unit = "product" if layout == "product" else "record"
    plan = shop_plan().model_copy(update={"unit": unit})

    def held() -> tuple[bytes, ...]:
        return load_photos(plan, folder, layout=layout, device=CPU).digests

    before = held()
    assert len(before) == (3 if layout == "product" else 4)
    picture(folder / "mug" / "deeper" / "still" / "9.png", 200)
    picture(folder / "loose.png", 201)
    (folder / "sock" / "gone.png").symlink_to(folder / "nowhere")
    assert held() == before
    (folder / "mug" / "broken.png").write_bytes(b"no picture")
    assert held() == before


def test_an_unreadable_class_folder_does_not_exclude_the_others(
    tmp_path: Path, shop_plan: Callable[[], TrainingPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, scandir = a_shop(tmp_path / "photos"), os.scandir

    def scan(path: Path) -> object:
        if Path(path).name == "mug":
            raise PermissionError(13, "no")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    assert len(load_photos(shop_plan(), folder, layout="class", device=CPU).digests) == 2


@pytest.mark.parametrize("error", [DataError, ConfigError, MemoryError, ValueError])
@pytest.mark.parametrize("layout", ["class", "product"])
def test_a_photo_that_is_listed_and_fails_as_an_input_does_not_exclude_the_others(
    tmp_path: Path,
    shop_plan: Callable[[], TrainingPlan],
    monkeypatch: pytest.MonkeyPatch,
    layout: Layout,
    error: type[Exception],
) -> None:
    """Such as one on which a backbone from a file fails, or that another decoder takes differently."""
    folder = a_shop(tmp_path / "photos", layout=layout)
    plan = shop_plan().model_copy(update={"unit": "product" if layout == "product" else "record"})
    before = load_photos(plan, folder, layout=layout, device=CPU)
    picture(folder / "hat" / ("hat-b" if layout == "product" else "") / "9.png", 200)
    image = ImageSet.image

    def fails(images: ImageSet, index: int) -> Image.Image:
        picture = image(images, index)
        if picture.getpixel((0, 0)) == spoilt:
            raise error("no input")
        return picture

    with Image.open(next(folder.rglob("9.png"))) as opened:
        spoilt = opened.convert("RGB").getpixel((0, 0))
    monkeypatch.setattr(ImageSet, "image", fails)
    after = load_photos(plan, folder, layout=layout, device=CPU)
    assert after.digests == before.digests and len(after.held) == len(before.held) + 1
    assert torch.equal(after.inputs, before.inputs) and torch.equal(after.labels, before.labels)
    monkeypatch.setattr(ImageSet, "image", lambda images, index: (_ for _ in ()).throw(error("none")))
    with pytest.raises(error, match="none"):
        load_photos(plan, folder, layout=layout, device=CPU)


def test_a_folder_that_can_not_be_read_counts_as_no_change(
    tmp_path: Path, shop_plan: Callable[[], TrainingPlan]
) -> None:
    shop = Shop(tmp_path / "home", tmp_path / "photos")
    fixed = shop.fix(shop_plan())
    assert (fixed.tags, fixed.version) == (frozenset(), "") and "does not exist" in fixed.photo_summary
    a_shop(shop.folder)
    assert len(shop.fix(shop_plan()).tags) == 4


@settings(max_examples=25, deadline=None)
@given(
    numbers=st.sets(st.integers(0, 10**6), min_size=1, max_size=60),
    extra=st.integers(10**6 + 1, 2 * 10**6),
    largest=st.integers(1, 80),
    declared=st.integers(1, 200),
)
def test_another_record_changes_what_is_kept_by_itself_alone(
    cohort: Cohort, numbers: set[int], extra: int, largest: int, declared: int
) -> None:
    """A fixed number of the smallest hashes would change by two records: one in, another out."""
    plan = cohort.plan(records_largest=largest)
    tags = RecordTags(SigningIdentity.from_private_bytes(bytes(range(32))))
    share = used_share(plan, declared=declared)
    digests = [hashlib.sha256(b"%d" % number).digest() for number in sorted(numbers)]

    def kept(found: list[bytes]) -> set[bytes]:
        return {d for d in found if tags.selection_value(d, training_id=plan.training_id) < share}

    more = hashlib.sha256(b"%d" % extra).digest()
    assert kept([*digests, more]) - {more} == kept(digests)
    assert share == min(1.0, largest / declared)
    if largest >= declared:
        assert kept(digests) == set(digests)


def test_a_merchant_larger_than_the_plan_uses_a_share_of_its_records(tmp_path: Path, cohort: Cohort) -> None:
    digests = record_digests("large", 4000)
    data = TrainingData(
        inputs=torch.zeros(4000, 1, 1),
        labels=torch.zeros(4000, dtype=torch.int64),
        digests=digests,
        held=digests,
    )
    kept: list[FixedSet] = []
    plans = [cohort.plan(records_largest=401) for _ in range(2)]
    for name in ("a", "b"):
        shop = Shop(tmp_path / name, tmp_path)
        shop.declared = 4010
        shop.sets._data_for = lambda plan: data
        kept += [shop.fix(plan) for plan in plans]
    # A tenth of them, by chance: five standard deviations are 95.
    assert all(305 < len(fixed.tags) < 495 for fixed in kept)
    # The same tenth after a restart, and another one in another training.
    assert kept[0].tags == kept[2].tags
    assert len(kept[0].tags & kept[1].tags) < 100 and "smaller merchants" in kept[0].photo_summary


def test_a_sample_larger_than_a_sum_allows_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Cohort(tmp_path).plan(sample_rate=1.0)
    noise = replace(derive(plan).noise, clamp_abs=10**9)
    inputs = torch.randn(9, 1, FEATURES, generator=torch.Generator().manual_seed(1))
    labels = torch.zeros(9, dtype=torch.int64)

    def made(count: int) -> NDArray[np.int64]:
        return step.contribute(
            linear_model(),
            inputs[:count],
            labels[:count],
            settings=step.DpSgdSettings(clip=plan.clip, sample_rate=1.0),
            plan=noise,
            rng=Randomness.seeded(1, "cut"),
        )

    whole, few = made(9), made(4)
    monkeypatch.setattr(step, "MAX_RECORDS", 4)
    np.testing.assert_array_equal(made(9), few)
    assert np.abs(whole - few).max() > 0


@pytest.fixture
def home(tmp_path: Path) -> MerchantHome:
    home = MerchantHome.create(
        tmp_path / "home",
        name="anna",
        data=a_shop(tmp_path / "photos"),
        units=4,
        # It declares 4, so that a plan of 40 keeps every photo; of more it would keep some by chance.
        rng=Randomness.seeded(3, "count"),
    )
    assert home.declared_count().size == 4
    home.approve(
        JoinFile(
            address="127.0.0.1:1",
            authority="-----BEGIN CERTIFICATE-----\n",
            server_key="ab" * 32,
            roster=(Peer(name="anna", signing_key=home.identity().public.hex()),),
        )
    )
    return home


def run(home: MerchantHome, command: str, *arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(client.app, [command, *arguments, "--home", str(home.folder)])
    assert result.exit_code == code or (code and result.exception), result.output
    return result.output + (str(result.exception) if result.exception else "")


def test_a_forgotten_photo_is_used_in_no_step_to_come(
    home: MerchantHome, tmp_path: Path, shop_plan: Callable[[], TrainingPlan]
) -> None:
    photos = tmp_path / "photos"
    shutil.copy(photos / "mug" / "0.png", photos / "mug" / "copy.png")
    merchant, plan = open_merchant(home, device=CPU), shop_plan()
    try:

        def used() -> list[str]:
            fixed = merchant.context.sets.fix(plan, policy=merchant.policy)
            records = merchant.context.sets.records(plan, fixed)
            return used_classes(records, plan)

        assert used() == ["hat", "mug", "mug", "sock"]
        said = run(home, "forget", "--photo", str(photos / "mug" / "0.png"))
        assert "mug/0.png" in said and "1 copy" in said and "can't be undone" in said
        photos_checked = next(
            found.text for found in run_checks(home, offline=True) if found.what == "photos"
        )
        assert "; 1 forgotten: used in no step" in photos_checked
        # The daemon that runs finds it before its next charge, and so does the next training.
        assert used() == ["hat", "mug", "sock"]
        plan = shop_plan()
        assert used() == ["hat", "mug", "sock"] and (photos / "mug" / "0.png").exists()
    finally:
        merchant.ledger.close()
        merchant.store.close()
    assert "no readable photo" in run(home, "forget", "--photo", str(tmp_path / "x.png"), code=2)
    assert "or give --all or --photo" in run(home, "forget", code=2)


def test_a_plan_for_smaller_merchants_has_a_larger_one_read_no_more_than_it_uses(
    home: MerchantHome, shop_plan: Callable[[], TrainingPlan]
) -> None:
    """Its sizes are judged by the largest merchant that it names: of one photo, in sixteen large views."""
    tags, merchant = RecordTags(home.identity()), open_merchant(home, device=CPU)
    try:
        everything = merchant.context.resources.data_for(shop_plan())
        assert len(everything.digests) == len(everything.held) == 4
        plans = [shop_plan().model_copy(update={"records_largest": 1, "views": 2}) for _ in range(12)]
        found = [merchant.context.resources.data_for(plan) for plan in plans]
        # It declared 4, so that each photo is used in one such training of four.
        assert [set(data.digests) for data in found] == [
            {d for d in everything.digests if tags.selection_value(d, training_id=plan.training_id) < 0.25}
            for plan in plans
        ]
        assert 0 < sum(len(data.inputs) for data in found) < 12 * 4
        assert all(len(data.inputs) == len(data.digests) and data.held == everything.held for data in found)
        used = [merchant.context.sets.fix(plan, policy=merchant.policy).tags for plan in plans]
        assert used == [frozenset(map(tags.tag, data.digests)) for data in found]
    finally:
        merchant.ledger.close()
        merchant.store.close()


def test_a_pause_ends_rounds_and_survives_a_restart(home: MerchantHome, cohort: Cohort) -> None:
    daemon = Daemon(home, DaemonOptions(device=CPU))
    request = JoinRequest(plan=cohort.plan())
    try:
        assert "can't be undone" in run(home, "pause")
        daemon._follow_rules()
        with pytest.raises(RefusedError, match="paused") as caught:
            daemon._merchant.join(request)
        assert caught.value.code == "paused"
        assert "paused" in run(home, "status")
        run(home, "resume")
        daemon._follow_rules()
        with pytest.raises(RefusedError, match="server key is not that of the merchant's join file"):
            daemon._merchant.join(request)
        run(home, "pause")
    finally:
        daemon._merchant.ledger.close()
        daemon._merchant.store.close()
    merchant = open_merchant(home, device=CPU)
    try:
        with pytest.raises(RefusedError, match="paused"):
            merchant.join(request)
    finally:
        merchant.ledger.close()
        merchant.store.close()
    assert read_store(home.store).open_plan is None


def test_a_shop_that_grows_and_restarts_every_round_takes_part_in_every_round(tmp_path: Path) -> None:
    """By the default policy, in one training and the next: no round waits for it or goes without it."""
    size = [20]
    used: list[int] = []

    def data_for(plan: TrainingPlan) -> TrainingData:
        digests = record_digests("m0", size[0])
        values = torch.ones(size[0], 1, FEATURES)
        return TrainingData(values, torch.zeros(size[0], dtype=torch.int64), digests=digests, held=digests)

    def grow(name: str, event: str) -> None:
        if (name, event) != ("m3", "stored"):
            return
        merchant = group.merchants["m0"]
        counts = merchant.store.photo_counts(merchant.store.open_trainings()[-1])
        used.append(0 if counts is None else counts.used)
        size[0] += 5
        group.restart("m0")
        change_means(group.merchants["m0"], data_for=data_for)
        group.merchants["m0"].load_records()

    group = Cohort(tmp_path, on_event=grow)
    change_means(group.merchants["m0"], data_for=data_for)
    versions = []
    for _ in range(2):
        _, records = group.train(group.plan(rounds=3, records_largest=1000))
        assert [(record.opened, record.contributors) for record in records] == [(True, 4)] * 3
        counted = group.merchants["m0"].store.counted()
        assert counted is not None
        versions.append((len(counted.held), counted.version))
    # Each training keeps the set that it began with; the second one has what was added during the first.
    assert used == [20, 20, 20, 35, 35, 35]
    assert [held for held, _ in versions] == [20, 35] and versions[0][1] != versions[1][1]
    assert len(group.charges("m0")) == 6
