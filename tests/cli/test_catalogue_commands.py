"""The commands of ``fedrec catalogue``, on a small shop and with a model of colours."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedrec.cli.app import app
from fedrec.errors import FedrecError
from fedrec.recognition.catalogue.photo_model import PhotoModel
from tests.recognition.catalogue.shop import csv_of, write_shop
from tests.support.colour_embedder import colour_model, save_photo


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a shop's CSV file; a model of colours has classes where a folder names it."""

    def opened(folder: Path | None) -> PhotoModel:
        if folder is None:
            return colour_model()
        return colour_model(power=1.0, classes=True, path=str(folder.resolve()))

    monkeypatch.setattr("fedrec.recognition.catalogue.models.open_photo_model", opened)
    monkeypatch.chdir(tmp_path)
    write_shop(tmp_path)
    return tmp_path


def run(*arguments: object) -> str:
    """Run ``fedrec catalogue``; returns what it prints on standard output."""
    done = CliRunner().invoke(app, ["catalogue", *map(str, arguments)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def refused(*arguments: object) -> str:
    with pytest.raises(FedrecError) as error:
        run(*arguments)
    text = str(error.value)
    assert text.isprintable() and len(text) < 500
    return text


def test_a_product_is_found_by_a_photo_and_by_a_stored_one(shop: Path) -> None:
    assert run("import", "c", "shop.csv").splitlines() == [
        "c: 12 photos added, 0 changed, 0 unchanged, 0 rows failed",
        "embedding: colours to the power of 0.5",
    ]
    lines = run("search", "c", "photos/3-1.png", "--top", 2).splitlines()
    assert lines[0] == "1.000  p3  Product 3, 30.50, dress  https://shop.example/3"
    assert len(lines) == 3 and lines[-1] == "embedding: colours to the power of 0.5"
    filters = ("--filter", "price<30", "--filter", "colour=red")
    found = json.loads(run("search", "c", "photos/3-1.png", *filters, "--json"))
    assert {one["product"] for one in found["results"]} == {"p1", "p2"}
    assert found["results"][0].keys() >= {
        "score",
        "title",
        "link",
        "price",
        "category",
        "merchant",
        "attributes",
    }
    assert "p3" not in run("search", "c", "--stored", "p3")
    own = json.loads(run("search", "c", "--stored", "p3/photos/3-1.png", "--all-photos", "--json"))["results"]
    assert len(own) == 10 and ("p3", "photos/3-1.png") not in [
        (o["product"], o["photo"]["name"]) for o in own
    ]
    assert run("search", "c", "photos/3-1.png", "--filter", "price>1000").startswith("nothing was found")
    assert "--at-least 1.1 must be -1 to 1" in refused("search", "c", "photos/3-1.png", "--at-least", "1.1")
    cropped = run("search", "c", "photos/3-1.png", "--crop", "2,2,5,5", "--top", 1)
    assert not cropped.startswith("1.000")


def test_rows_that_fail_are_named_and_the_others_are_there(shop: Path) -> None:
    file = csv_of(shop, ["a,photos/0-0.png,[/red]A,,,,,", "b,none.png,,,,,,", "c,photos/0-1.png,,,x,,,"])
    done = CliRunner().invoke(app, ["catalogue", "import", "c", str(file)])
    assert done.exit_code == 0 and "1 photo added, 0 changed, 0 unchanged, 2 rows failed" in done.stdout
    assert done.stderr.splitlines() == [
        "line 3: photo 'none.png': No such file or directory",
        "line 4: price 'x' is no number such as 12.50",
    ]
    assert "a  [/red]A, 1 photo" in run("list", "c")
    bad = csv_of(shop, ["b,none[/x].png,,,,,,"])
    assert refused("import", "c", bad) == f"none of 1 row of {bad} could be used"


def test_no_catalogue_is_made_of_a_file_or_a_folder_that_isnt_there(shop: Path) -> None:
    file = csv_of(shop, ["a,photos/0-0.png,,,,,,"])
    assert refused("import", "new", "none.csv") == "there is no file none.csv"
    assert refused("import", "new", "photos") == "photos is a folder, where a CSV file is needed"
    assert refused("import", "new", file, "--photos", "none") == "--photos: there is no folder none"
    (shop / "other.csv").write_text("name,file\na,b\n")
    assert "has no column 'product'" in refused("import", "new", "other.csv")
    assert not (shop / "new").exists()


def test_photos_are_added_and_removed(shop: Path) -> None:
    save_photo(shop / "x.png", 5)
    run(
        "add",
        "c",
        "new",
        "x.png",
        "--title",
        "New",
        "--price",
        3,
        "--attribute",
        "size=4",
        "--link",
        "http://a.b/c",
    )
    run("add", "c", "new", "photos/0-0.png", "--category", "cups")
    (line,) = run("list", "c", "--json").splitlines()
    stored = json.loads(line)
    assert stored["attributes"] == {"size": 4.0} and (stored["price"], stored["category"]) == (3.0, "cups")
    assert [photo["name"] for photo in stored["photos"]] == ["x.png", "0-0.png"]
    run("remove", "c", "new", "--photo", "x.png")
    assert "new  New, 3.00, cups, 1 photo" in run("list", "c")
    run("remove", "c", "new")
    assert run("search", "c", "x.png").startswith("nothing was found")
    assert "0 of its own" in run("info", "c")


def test_a_model_that_was_moved_is_named_with_what_to_do(shop: Path) -> None:
    (shop / "m").mkdir()
    run("import", "c", "shop.csv", "--model", "m")
    (shop / "m").rename(shop / "n")
    for arguments in (("search", "c", "photos/0-0.png"), ("import", "c", "shop.csv"), ("copies", "c")):
        assert "reindex c --model FOLDER" in refused(*arguments)
    assert "6 products" in run("list", "c")
    run("reindex", "c", "--model", "n")
    assert "p0" in run("search", "c", "photos/0-0.png")


def test_a_product_is_named_in_any_form_of_its_letters_and_spaces(shop: Path) -> None:
    run("import", "c", csv_of(shop, ["caf\u00e9  au lait,photos/0-0.png,,,,,,", "b,photos/1-0.png,,,,,,"]))
    run("add", "c", "cafe\u0301 au\nlait", "photos/0-1.png", "--price", "1.234,50 \N{EURO SIGN}")
    assert "2 products" in (listed := run("list", "c")) and "1234.50, 2 photos" in listed
    assert run("search", "c", "--stored", "cafe\u0301 au lait").splitlines()[0].split()[1] == "b"
    assert "no number such as" in refused("add", "c", "b", "photos/0-1.png", "--price", "1e3")
    run("remove", "c", "cafe\u0301 au lait")
    assert "1 product\n" in run("list", "c")


def test_the_photos_of_a_catalogue_are_checked_without_naming_them(shop: Path) -> None:
    run("import", "c", "shop.csv")
    judged = [json.loads(line) for line in run("quality", "c", "--json").splitlines()]
    assert {Path(one["photo"]).name for one in judged} == {path.name for path in (shop / "photos").iterdir()}
    run("import", "none", csv_of(shop, []))
    assert "no photo was found in none" in refused("quality", "none")
    assert "none holds no photo" in refused("copies", "none")


def test_a_trained_model_brings_classes_once_the_vectors_are_computed_again(shop: Path) -> None:
    run("import", "c", "shop.csv")
    assert "shows" not in run("list", "c")
    (shop / "m").mkdir()
    assert "embedding: colours to the power of 1.0" in run("import", "c", "shop.csv", "--model", "m")
    assert "shows dark" in run("list", "c") and "shows bright" in run("list", "c", "--filter", "class=bright")
    # The catalogue remembers its model.
    assert "the photo shows: " in run("search", "c", "photos/3-1.png")
    assert "0 changed, 12 unchanged" in run("import", "c", "shop.csv")


def test_what_merchants_publish_is_merged_under_their_names(shop: Path) -> None:
    run("import", "c", "shop.csv")
    said = run("publish", "c", "--out", "c.pub", "--filter", "category=dress")
    assert (
        "3 products, signed by" in said
        and "attributes colour, weight" in said
        and "No epsilon covers" in said
    )
    key = said.partition("signed by ")[2][:64]
    assert f"signed by {key}" in refused("merge", "p", "c.pub")
    assert "NAME=KEY" in refused("merge", "p", "c.pub", "--key", "Anna=xyz")
    assert run("merge", "p", "c.pub", "--key", f"Anna={key}").startswith("Anna: 3 products new or changed")
    assert "Anna: p3  Product 3" in run("search", "p", "photos/3-1.png", "--top", 1)
    assert "3 of merchants" in run("info", "p")
    run("remove", "p", "--merchant", "Anna")
    assert run("search", "p", "photos/3-1.png").startswith("nothing was found")
    assert "holds no vectors" in run("publish", "c", "--out", "c.pub", "--without-vectors")


def test_a_damaged_file_makes_no_catalogue_and_the_model_may_be_named_again(shop: Path) -> None:
    run("import", "c", "shop.csv", "--model", "m")
    key = run("publish", "c", "--out", "c.pub").partition("signed by ")[2][:64]
    whole = (shop / "c.pub").read_bytes()
    given = ("merge", "p", "c.pub", "--key", f"Anna={key}", "--model", "m")
    for damaged in (whole[:-1], whole + b"\0", whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:], b""):
        (shop / "c.pub").write_bytes(damaged)
        assert "c.pub is" in refused(*given)
    assert not (shop / "p").exists()
    (shop / "c.pub").write_bytes(whole)
    assert "signed by" in refused(*given[:3], "--model", "m")
    assert run(*given).startswith("Anna: ")
    run("import", "without", "shop.csv")
    assert "of another model" in refused("merge", "without", *given[2:])


def test_a_merchants_identity_signs(shop: Path) -> None:
    from fedrec.clients.merchant_home import MerchantHome

    MerchantHome.create(shop / "home", name="m0", data=shop, units=10)
    run("import", "c", "shop.csv")
    said = run("publish", "c", "--out", "c.pub", "--home", "home")
    assert MerchantHome.open(shop / "home").identity().public.hex() in said
    assert not (shop / "c" / "catalogue.key").exists()


def test_what_makes_no_sense_is_refused_in_one_line(shop: Path) -> None:
    run("import", "c", "shop.csv")
    assert "holds no catalogue" in refused("search", "none", "photos/0-0.png")
    assert "name a photo" in refused("search", "c")
    assert "name a photo" in refused("search", "c", "photos/0-0.png", "--stored", "p1")
    assert "no product or photo" in refused("search", "c", "--stored", "p1/none")
    assert "must be 1 to 100" in refused("search", "c", "photos/0-0.png", "--top", 101)
    assert "leaves the photo" in refused("search", "c", "photos/0-0.png", "--crop", "0,0,25,25")
    assert "x,y,width,height" in refused("search", "c", "photos/0-0.png", "--crop", "0,0,-1,0")
    assert "not a picture" in refused("search", "c", "shop.csv")
    assert "has no product" in refused("remove", "c", "p0", "none")
    assert "name the products" in refused("remove", "c")
    assert "has no photo" in refused("remove", "c", "p0", "--photo", "none")
    assert "link must be a web address" in refused("add", "c", "p", "photos/0-0.png", "--link", "ftp://x/y")
    assert "isn't NAME=VALUE" in refused("add", "c", "p", "photos/0-0.png", "--attribute", "size")
    Path(os.fsdecode(b"\xff.png")).write_bytes(Path("photos/0-0.png").read_bytes())
    assert "can't be shown" in refused("add", "c", "p", os.fsdecode(b"\xff.png"))
    assert "there is no file" in refused("import", "c", "none.csv")
    assert "6 products" in run("list", "c")
