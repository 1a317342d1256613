"""A table of a data set or a shop's export becomes one that is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedrec.errors import ConfigError, DataError
from fedrec.vision.inspection import inspect
from fedrec.vision.listing.made_tables import MadeTable, make_table
from tests.support.pictures import picture


def shop(folder: Path, *photos: str) -> Path:
    for number, name in enumerate(photos):
        picture(folder / name, 20 * number)
    return folder


def made(folder: Path, text: str, name: str = "source.csv", **columns: str) -> MadeTable:
    (folder / name).write_text(text)
    return make_table(folder / name, folder / "made.csv", columns=columns)


def test_numbers_of_photos_in_a_folder_are_found_and_missing_ones_named(tmp_path: Path) -> None:
    shop(tmp_path, "images/1163.jpg", "images/1164.jpg", "images/7.jpg", "others/7.png")
    (tmp_path / "images" / "1163.txt").write_text("0 0 0 1 1")
    text = 'id,articleType,usage,name\n1163,Tshirts,Sports,"a\nb"\n1164,Heels,Casual,c\n'
    text += "9,Heels,Casual,d\n7,Heels,,e\n"
    found = made(tmp_path, text, path="id", label="articleType", split="")
    assert found.written == 2
    assert [(line, reason.split(":")[0]) for line, reason in found.left_out] == [
        (5, "'9'"),
        (6, "several files are called '7'"),
    ]
    assert inspect(tmp_path / "made.csv").splits[0].classes == {"Heels": 1, "Tshirts": 1}


def test_downloaded_photos_of_a_shops_addresses_are_found_for_each_product(tmp_path: Path) -> None:
    shop(tmp_path, "files/a.jpg", "files/b.jpg", "files/c d.jpg")
    rows = [
        "Handle,Type,Image Src",
        '"felt",Hats,"https://cdn.x/s/a.jpg?v=1"',
        '"felt",,"https://cdn.x/s/b.jpg?v=1"',
        '"tall",Mugs,"https://cdn.x/c%20d.jpg, https://cdn.x/gone.jpg"',
    ]
    found = made(tmp_path, "\n".join(rows), path="Image Src", label="Type", product="Handle")
    assert (found.written, [line for line, _ in found.left_out]) == (3, [4])
    summary = inspect(tmp_path / "made.csv", layout="product", one_merchant=True).splits[0]
    assert summary.classes == {"Hats": 2, "Mugs": 1} and summary.products == 2


def test_json_lines_and_usual_names_need_no_options(tmp_path: Path) -> None:
    shop(tmp_path, "0.png", "1.png")
    lines = [json.dumps({"file_name": f"{n}.png", "label": n, "box": [1]}) for n in range(2)]
    assert made(tmp_path, "\n".join(lines), name="metadata.jsonl").columns == {
        "path": "file_name",
        "label": "label",
    }
    assert inspect(tmp_path / "made.csv").splits[0].classes == {"0": 1, "1": 1}


def test_names_in_another_encoding_stay_as_they_are(tmp_path: Path) -> None:
    shop(tmp_path, "1.jpg")
    (tmp_path / "s.csv").write_bytes("id,kind\n1,帽子\n".encode("gbk"))
    make_table(tmp_path / "s.csv", tmp_path / "made.csv", columns={"path": "id", "label": "kind"})
    assert "帽子".encode("gbk") in (tmp_path / "made.csv").read_bytes()


def test_what_can_not_be_made_says_why(tmp_path: Path) -> None:
    shop(tmp_path, "1.jpg")
    with pytest.raises(ConfigError, match="--label which column holds the class: id, kind"):
        made(tmp_path, "id,kind\n1,hat\n", path="id")
    with pytest.raises(ConfigError, match="no column 'ids'"):
        made(tmp_path, "id,kind\n1,hat\n", path="ids", label="kind")
    with pytest.raises(DataError, match="no such file"):
        made(tmp_path, "id,kind\n../../etc/passwd,hat\n", path="id", label="kind")
    assert not (tmp_path / "made.csv").exists()
    (tmp_path / "made.csv").touch()
    with pytest.raises(ConfigError, match="exists already"):
        made(tmp_path, "id,kind\n1,hat\n", path="id", label="kind")
