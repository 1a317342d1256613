"""Products as the unit of privacy: folders, slots, decisions of a product alone, and the bound."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fedrec.clients.merchant_home import MerchantHome
from fedrec.config import load_config
from fedrec.errors import ConfigError
from fedrec.privacy.accounting.ledger_entries import charges
from fedrec.privacy.accounting.ledger_reader import read_entries
from fedrec.privacy.dp.clipping import RecordClipper
from fedrec.privacy.identity import verify
from fedrec.protocol.enrolment import Enrolment, read_file
from fedrec.protocol.plan import Unit
from fedrec.server.server_home import ServerHome
from fedrec.simulations.harness import simulate
from fedrec.vision import model_registry
from fedrec.vision.datasets import open_folder, resolve_splits
from fedrec.vision.inspection import inspect
from fedrec.vision.model_inputs import InputShape, model_inputs, to_inputs
from fedrec.vision.products import PRODUCT_PHOTOS, ProductSet
from fedrec.vision.synthetic import generate, write
from tests.support.pictures import picture

SHAPE = InputShape(channels=3, size=16)


def products_of(folder: Path, **options: object) -> ProductSet:
    train = open_folder(folder, layout="product", unit="product", **options).train  # type: ignore[arg-type]
    assert isinstance(train, ProductSet)
    return train


def inputs_of(products: ProductSet, *, views: int = PRODUCT_PHOTOS) -> np.ndarray:
    return model_inputs(
        products, model_registry.get("cnn"), SHAPE, views=views, progress=lambda done, total: None
    )


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Three mugs and one hat, with 1, 2, 7 and 3 photos."""
    counts = {"mug/plain": 1, "mug/tall": 2, "mug/wide": 7, "hat/felt": 3}
    shade = iter(range(1, 100))
    for product, count in counts.items():
        for index in range(count):
            picture(tmp_path / "shop" / product / f"{index}.png", next(shade), size=(16, 16))
    return tmp_path / "shop"


def test_a_product_is_a_record_with_a_fixed_number_of_slots(shop: Path) -> None:
    products = products_of(shop)
    assert {record.name: len(m) for record, m in zip(products.records, products.members, strict=True)} == {
        "plain": 1,
        "tall": 2,
        "wide": 7,
        "felt": 3,
    }
    assert [products.classes[label] for label in products.labels] == ["hat", "mug", "mug", "mug"]
    inputs = inputs_of(products)
    assert inputs.shape == (4, PRODUCT_PHOTOS, 16, 16, 3)
    for index, record in enumerate(products.records):
        members = [products.photos.records[position] for position in products.members[index]]
        # In the order of digests, over and over.
        assert [m.digest for m in members] == sorted(m.digest for m in members)
        shades = [int(view[0, 0, 0]) for view in inputs[index]]
        expected = [products.photos.image(p).getpixel((0, 0))[0] for p in products.members[index]]  # type: ignore[index]
        assert shades == [expected[slot % len(expected)] for slot in range(PRODUCT_PHOTOS)], record.name
    assert inputs_of(products, views=1).shape == (4, 1, 16, 16, 3)
    assert inputs_of(products, views=2 * PRODUCT_PHOTOS).shape == (4, 2 * PRODUCT_PHOTOS, 16, 16, 3)


def test_no_other_product_s_inputs_or_place_change_when_one_goes(shop: Path, tmp_path: Path) -> None:
    # A photo of 'wide' stands in 'tall' too; neither may depend on the other.
    shutil.copy(shop / "mug" / "wide" / "0.png", shop / "mug" / "tall" / "same.png")

    def state(folder: Path) -> dict[str, tuple[str, bytes]]:
        splits = resolve_splits(open_folder(folder, layout="product", unit="product"), key=b"k")
        return {
            record.name: (split, row.tobytes())
            for split, images in (("train", splits.train), ("metrics", splits.metrics))
            if isinstance(images, ProductSet)
            for record, row in zip(images.records, inputs_of(images), strict=True)
        }

    for index in range(40):
        picture(shop / "hat" / f"more-{index}" / "a.png", 100 + index, size=(16, 16))
    before = state(shop)
    assert {split for split, _ in before.values()} == {"train", "metrics"}
    for gone in ("wide", "tall", "more-7"):
        smaller = tmp_path / gone
        shutil.copytree(shop, smaller)
        shutil.rmtree(next(smaller.glob(f"*/{gone}")))
        assert state(smaller) == {name: found for name, found in before.items() if name != gone}


def test_a_photo_less_changes_its_own_product_alone(shop: Path) -> None:
    def state() -> dict[str, tuple[bytes, bytes]]:
        products = products_of(shop)
        inputs = inputs_of(products)
        return {r.name: (r.digest, inputs[i].tobytes()) for i, r in enumerate(products.records)}

    before = state()
    (shop / "mug" / "wide" / "3.png").unlink()
    after = state()
    assert {name for name in before if before[name] != after[name]} == {"wide"}


def test_inspecting_counts_products_as_a_training_does(shop: Path) -> None:
    (shop / "mug" / "part").mkdir()
    shutil.copy(shop / "mug" / "wide" / "0.png", shop / "mug" / "part" / "0.png")
    shutil.copytree(shop / "mug" / "tall", shop / "mug" / "twin")
    found = inspect(shop, layout="product")
    assert found.splits[0].products == len(products_of(shop)) == 5 and found.products_dropped == 1
    assert (found.splits[0].photos, found.duplicates_dropped) == (13, 3)
    assert ("mug/part/0.png", "mug/wide/0.png") in found.in_several_products
    assert len(found.in_several_products) == 3


def test_copies_count_once_within_a_product_and_whole_products_once_within_a_merchant(shop: Path) -> None:
    shutil.copy(shop / "mug" / "wide" / "0.png", shop / "mug" / "wide" / "again.png")
    shutil.copytree(shop / "mug" / "tall", shop / "mug" / "twin")
    shutil.copytree(shop / "mug" / "tall", shop / "hat" / "other-label")
    products = products_of(shop)
    assert sorted(record.name for record in products.records) == [
        "felt",
        "other-label",
        "plain",
        "tall",
        "wide",
    ]
    assert products.duplicates_dropped == 1
    assert {len(members) for members in products.members} == {1, 2, 3, 7}


def test_layouts_are_told_apart_and_the_rest_is_named(shop: Path, tmp_path: Path) -> None:
    for name in ("m1", "m2"):
        shutil.copytree(shop, tmp_path / "sellers" / name)
    sellers = products_of(tmp_path / "sellers")
    assert {(record.merchant, len(sellers)) for record in sellers.records} == {("m1", 8), ("m2", 8)}
    picture(shop / "mug" / "stray.png", 99)
    assert [s.reason for s in products_of(shop).skipped] == ["not in a product folder"]
    shutil.copytree(shop, tmp_path / "sellers" / "mug")
    picture(tmp_path / "sellers" / "mug" / "flat" / "x.png", 1)
    mixed = products_of(tmp_path / "sellers")
    assert {record.merchant for record in mixed.records} == {"m1", "m2", "mug"}
    assert [(s.name, s.reason) for s in mixed.skipped if "flat" in s.name] == [
        ("mug/flat/x.png", "not in a product folder, and most photos are in MERCHANT/CLASS/")
    ]
    with pytest.raises(ConfigError, match="no folders of products"):
        open_folder(shop, unit="product")
    # Photos in folders of products can be single records, too.
    photos = open_folder(shop, layout="product").train
    assert len(photos) == 13 and not isinstance(photos, ProductSet) and photos.classes == ("hat", "mug")


def naive_sum(model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor, *, clip: float) -> torch.Tensor:
    """Product by product: the mean gradient over its slots, brought to the bound, and added."""
    total = torch.zeros(sum(p.numel() for p in model.parameters()), dtype=torch.float64)
    for slots, label in zip(inputs, labels, strict=True):
        model.zero_grad()
        loss = nn.functional.cross_entropy(model(slots), label.repeat(len(slots)))
        torch.autograd.backward(loss)
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).double()
        total += gradient * min(1.0, clip / float(gradient.norm()))
    return total


def test_a_product_moves_the_sum_by_at_most_the_clip_however_many_photos_it_has(shop: Path) -> None:
    products = products_of(shop)
    inputs = to_inputs(inputs_of(products), model_registry.get("cnn"))
    labels = torch.from_numpy(products.labels.copy())
    model = model_registry.get("cnn").build(classes=2, channels=3, size=16, seed=1)
    clip = 0.01
    with RecordClipper(model, clip=clip) as clipper:
        whole = clipper.clipped_sum(inputs, labels)
        np.testing.assert_allclose(
            whole, naive_sum(model, inputs, labels, clip=clip).numpy(), rtol=0, atol=clip * 1e-4
        )
        for index in range(len(products)):
            others = [other for other in range(len(products)) if other != index]
            moved = np.linalg.norm(whole - clipper.clipped_sum(inputs[others], labels[others]))
            assert 0.9 * clip < moved <= clip * (1 + 2**-10)


@pytest.fixture(scope="module")
def sellers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Synthetic photos of three merchants, two of a product."""
    folder = tmp_path_factory.mktemp("sellers")
    write(generate(merchants=3, per_merchant=60, size=16, seed=2, validation=10, test=40), folder / "photos")
    for path in sorted((folder / "photos").rglob("*.png")):
        number = int(path.stem)
        product = path.parent / f"p{number // 20}"
        product.mkdir(exist_ok=True)
        path.rename(product / path.name)
    return folder / "photos"


def test_a_simulation_with_products_charges_and_reports_them(sellers: Path, tmp_path: Path) -> None:
    options = {
        "data": sellers,
        "partition": "folder",
        "unit": "product",
        "model": "cnn-tanh",
        "rounds": 2,
        "workers": 1,
    }
    options |= {"device": "cpu", "epsilon": 60, "delta": 1e-3, "sample_rate": 0.5, "out": tmp_path / "run"}
    result = simulate(load_config(None, options))
    report = json.loads((result.folder / "report.json").read_text("utf-8"))
    photos = sum(len(products) for products in (list(sellers.glob("train/*/*/*/*.png")),))
    assert (
        report["privacy"]["unit"] == "product" and "several products" in report["privacy"]["duplicate_policy"]
    )
    assert 0 < report["data"]["records"] < photos
    assert [line["opened"] for line in report["rounds"]] == [True, True]
    assert "product with all its photos" in (result.folder / "report.html").read_text("utf-8")
    home = next((result.folder / "merchants").iterdir())
    identity = MerchantHome(home).identity()
    outcome, entries = read_entries(home / "ledger.sqlite", public=identity.public, verify=verify)
    assert outcome.ok and {entry.charge.unit for entry in charges(entries)} == {"product"}


def test_products_need_folders_of_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs --data DIR with CLASS/PRODUCT"):
        simulate(load_config(None, {"unit": "product", "out": tmp_path / "run"}))


def test_enrolment_states_products_and_a_plan_of_products_needs_them(shop: Path, tmp_path: Path) -> None:
    server = ServerHome.create(tmp_path / "server", address="127.0.0.1:1", listen=None)
    found = inspect(shop, layout="product").splits[0]
    assert (found.photos, found.products) == (13, 4)
    units: tuple[Unit, ...] = ("product", "record")
    for unit, count in zip(units, (4, 13), strict=True):
        home = MerchantHome.create(
            tmp_path / unit, name=unit, data=shop, layout="product", unit=unit, units=count
        )
        assert home.settings().layout == "product" and home.declared_count().unit == unit
        server.enroll(read_file(home.folder / "enrolment.json", Enrolment))
        if unit == "product":
            assert server.sizes("product") == (home.declared_count().size,)
    # An epsilon is of one unit: nobody's ledger is of two.
    for unit, other in zip(units, units[::-1], strict=True):
        with pytest.raises(ConfigError, match=f"the ledger of '{other}' is of the unit '{other}'"):
            server.sizes(unit)


def test_photos_that_look_alike_are_named(shop: Path) -> None:
    groups = inspect(shop, layout="product").near_duplicates
    # Plain colours all look alike; what matters is that every one of them is named, and once.
    assert sorted(name for group in groups for name in group) == sorted(
        path.relative_to(shop).as_posix() for path in shop.rglob("*.png")
    )
