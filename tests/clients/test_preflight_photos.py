"""``fedrec client check`` accounts for every entry of a merchant's folder, and for its names."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedrec.cli import client
from fedrec.clients.forgetting import forget_photos
from fedrec.clients.merchant_home import MerchantHome
from fedrec.clients.preflight_checks import run_checks
from fedrec.config import SimulationConfig
from fedrec.errors import ConfigError
from fedrec.simulations.data_sources import with_encoding
from fedrec.vision.datasets import open_folder
from fedrec.vision.listing.found_encoding import folders_advice, with_found_encoding
from fedrec.vision.listing.photo_places import PhotoPlace
from tests.support.pictures import picture


def checked(home: MerchantHome) -> dict[str, str]:
    return {finding.what: finding.text for finding in run_checks(home, offline=True)}


def test_the_check_accounts_for_all_entries_and_names(tmp_path: Path) -> None:
    for shade, name in enumerate(("Hat", "hat", "mug")):
        picture(tmp_path / "shop" / name / "x.jpg", 40 * shade)
    (tmp_path / "shop" / "hat" / "x.jpg").rename(tmp_path / "shop" / "hat" / "x.jpg_640x640q90")
    (tmp_path / "shop" / "hat" / "broken.jpg").write_text("<html>")
    (tmp_path / "shop" / ".DS_Store").touch()
    home = MerchantHome.create(tmp_path / "home", name="m", data=tmp_path / "shop", units=3)
    found = checked(home)
    assert found["photos"].startswith("3 photos, 0 copies,")
    assert (
        "1 unusable: hat/broken.jpg (called a photo, but its content is none: it is a web page"
        in found["photos"]
    )
    assert "8 entries in all: 3 photos, 3 folders, 1 skipped, 1 ignored" in found["photos"]
    assert "ignored 1, hidden: .DS_Store" in found["photos"]
    assert "'Hat', 'hat'" in found["names"]


def test_names_of_classes_move_no_cursor(tmp_path: Path) -> None:
    for shade, name in enumerate(("a\nok", "b\x1b[2K", "mug")):
        picture(tmp_path / "shop" / name / "x.png", 40 * shade)
    home = MerchantHome.create(tmp_path / "home", name="m", data=tmp_path / "shop", units=3)
    found = checked(home)
    assert all(text.isprintable() for text in found.values())
    assert found["classes"] == r"'a\nok' 1, 'b\x1b[2K' 1, mug 1"


def test_a_merchants_photos_may_stand_in_a_table_in_its_own_encoding(tmp_path: Path) -> None:
    for shade in range(4):
        picture(tmp_path / "shop" / "p" / f"{shade}.png", 40 * shade)
    rows = ("path,label", "p/0.png,모자", "p/1.png,모자", "p/2.png,바지", "p/3.png,바지")
    (tmp_path / "shop" / "all.csv").write_bytes("\r\n".join(rows).encode("euc_kr"))
    place = PhotoPlace(tmp_path / "shop" / "all.csv", "euc_kr")
    home = MerchantHome.create(tmp_path / "home", name="m", data=place, units=4)
    assert home.settings().place == PhotoPlace(place.path.resolve(), "euc_kr")
    assert checked(home)["classes"] == "모자 2, 바지 2"
    assert list(forget_photos(home, [tmp_path / "shop" / "p" / ".." / "p" / "1.png"])) == [("p/1.png", 0)]


def test_the_encoding_is_found_once_and_kept_so_that_no_photo_changes_anothers_class(tmp_path: Path) -> None:
    korean, chinese = "가방 모자 신발 양말", "杯子 裤子 帽子 鞋子 裙子 袜子 手表 外套 围巾 耳环"

    def add(names: str, encoding: str) -> None:
        for shade, name in enumerate(names.split()):
            picture(tmp_path / "shop" / os.fsdecode(name.encode(encoding)) / "x.png", 10 * shade + len(names))

    add(korean + " 시계 치마", "euc_kr")
    options = ["--name", "m0", "--data", str(tmp_path / "shop"), "--home", str(tmp_path / "home")]
    shown = CliRunner().invoke(client.app, ["init", *options])
    assert shown.exit_code == 0 and "read as EUC-KR (Korean)" in shown.output
    home = MerchantHome.open(tmp_path / "home")
    place = home.settings().place
    assert place.names_encoding == "euc_kr"

    def labels() -> set[tuple[str, bytes]]:
        train = open_folder(place, one_merchant=True).train
        return {(train.classes[record.label], record.digest) for record in train.records}

    before = labels()
    add(chinese, "gbk")
    # All names together would now be taken for Chinese ones.
    assert with_found_encoding(tmp_path / "shop").names_encoding == "gbk"
    assert before < labels() and {name for name, _ in before} == set(f"{korean} 시계 치마".split())
    (home.folder / "client.toml").write_text(f'name = "m0"\ndata = "{tmp_path / "shop"}"\n')
    assert not {name for name, _ in before} & set(checked(home)["classes"].split())
    assert 'set names_encoding = "gbk" in client.toml: 16 of these names' in checked(home)["names"]
    with (home.folder / "client.toml").open("a") as file:
        file.write('names_encoding = "klingon"\n')
    with pytest.raises(ConfigError, match="names_encoding klingon is no encoding"):
        home.settings()


def test_a_simulations_own_file_has_the_encoding_that_was_found(tmp_path: Path) -> None:
    for shade, name in enumerate(("杯子", "裤子")):
        picture(tmp_path / "data" / os.fsdecode(name.encode("gbk")) / "x.png", shade)
    picture(tmp_path / "ascii" / "hat" / "x.png", 1)
    found = with_encoding(SimulationConfig(data=tmp_path / "ascii", eval_data=tmp_path / "data"))
    assert found.names_encoding == "gbk" and 'names_encoding = "gbk"' in found.to_toml(derived={})
    assert with_encoding(SimulationConfig(data=tmp_path / "ascii")).names_encoding is None
    given = SimulationConfig(data=tmp_path / "data", names_encoding="big5")
    assert with_encoding(given) == given


@pytest.mark.parametrize("above", ["", "shop-2024/", "train/"])
def test_one_product_more_or_less_decides_about_no_other(tmp_path: Path, above: str) -> None:
    """A product with a folder in it makes its class look like a split, and a single class like a wrapper."""
    data = tmp_path / "shop"
    for shade, product in enumerate(("train/p1", "train/p2", "hats/p1", "hats/p2")):
        picture(data / above / product / "x.png", 20 * shade)
    if above == "train/":
        picture(data / "test" / "hats" / "p9" / "x.png", 200)
    options = ["--name", "m0", "--data", str(data), "--home", str(tmp_path / "home"), "--layout", "product"]
    assert CliRunner().invoke(client.app, ["init", *options]).exit_code == 0
    home = MerchantHome.open(tmp_path / "home")

    def units() -> set[tuple[bytes, str, str]]:
        place = home.settings().place
        train = open_folder(
            place, layout="product", may_be_empty=True, unit="product", one_merchant=True
        ).train
        return {(unit.digest, train.classes[unit.label], unit.name) for unit in train.records}

    before = units()
    assert {(label, name) for _, label, name in before} == {
        (c, p) for c in ("hats", "train") for p in ("p1", "p2")
    }
    for product in ("hats/p3", "train/p3"):
        picture(data / above / product / "detail" / "x.png", 230)
        picture(data / above / product / "detail" / "more" / "x.png", 240)
        assert units() == before
    shutil.rmtree(data / above / "train")
    assert units() == {unit for unit in before if unit[1] == "hats"}
    advice = folders_advice(home.settings().place, layout="product")
    assert advice is not None and f'set class_folders = ["{above}hats"] there' in advice
