"""``fedrec client check`` accounts for every entry of a merchant's folder, and for its names."""

from __future__ import annotations

from pathlib import Path

from fedrec.clients.forgetting import forget_photos
from fedrec.clients.merchant_home import MerchantHome
from fedrec.clients.preflight_checks import run_checks
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
    assert "1 unusable: hat/broken.jpg (called a photo, but its content is none)" in found["photos"]
    assert "8 entries in all: 3 photos, 3 folders, 1 skipped, 1 ignored" in found["photos"]
    assert "ignored 1, hidden: .DS_Store" in found["photos"]
    assert "'Hat', 'hat'" in found["names"]


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
