"""A CSV file says where the photos are, and what they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedrec.errors import DataError
from fedrec.protocol.plan import Unit
from fedrec.vision.datasets import open_folder
from fedrec.vision.folders import Layout
from fedrec.vision.inspection import inspect
from fedrec.vision.listing.found_encoding import with_found_encoding
from fedrec.vision.listing.photo_places import PhotoPlace
from fedrec.vision.products import ProductSet
from tests.support.pictures import picture


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number in range(8):
        picture(tmp_path / "pics" / f"{number}.png", 20 * number)
    return tmp_path


def table(folder: Path, *lines: str, encoding: str = "utf-8", name: str = "photos.csv") -> Path:
    (folder / name).write_bytes("\r\n".join(lines).encode(encoding))
    return folder / name


def test_rows_are_photos_with_class_product_and_split(photos: Path) -> None:
    made = table(
        photos,
        "path;label;product;split;price",
        "pics/0.png;hat;felt;train;1",
        r"pics\1.png;hat;felt;Train;2",
        "./pics/2.png;mug;tall;;3",
        "pics/3.png;mug;wide;val;4",
        "pics/4.png;hat;wool;Testing;5",
        encoding="utf-8-sig",
    )
    splits = open_folder(made, layout="product")
    assert [record.name for record in splits.train.records] == [f"pics/{n}.png" for n in range(3)]
    assert [(splits.train.classes[r.label], r.product) for r in splits.train.records] == [
        ("hat", "felt"),
        ("hat", "felt"),
        ("mug", "tall"),
    ]
    assert splits.validation is not None and splits.validation.records[0].name == "pics/3.png"
    assert splits.test is not None and splits.test.records[0].name == "pics/4.png"
    assert any("price" in note for note in splits.account.notes)
    units = open_folder(made, layout="product", unit="product").train
    assert isinstance(units, ProductSet) and len(units) == 2


@pytest.mark.parametrize(
    "header",
    [
        "path,label,划分",
        "filename,category,subset",
        "Image Path,Class Name,data_split",
        "datei,klasse,Aufteilung",
        "画像,ラベル,分割",
        "파일,라벨,분할",
        "img,target,train/test",
    ],
)
def test_columns_are_told_by_any_usual_name(photos: Path, header: str) -> None:
    made = table(photos, header, "pics/0.png,hat,train", "pics/1.png,mug,TRAIN", "pics/2.png,hat,test")
    splits = open_folder(made)
    assert [record.name for record in splits.train.records] == ["pics/0.png", "pics/1.png"]
    assert splits.test is not None and [record.name for record in splits.test.records] == ["pics/2.png"]


@pytest.mark.parametrize(
    "column", ["is_test", "train", "isTrain", "for validation", "hold-out", "split_2", "тест"]
)
def test_a_column_that_seems_to_tell_test_rows_apart_is_never_ignored(photos: Path, column: str) -> None:
    made = table(photos, f"path,label,{column}", "pics/0.png,hat,0", "pics/1.png,mug,0", "pics/2.png,hat,1")
    with pytest.raises(DataError, match="seems to say which rows are not to be trained on"):
        open_folder(made)
    made = table(photos, f"path,label,{column},split", "pics/0.png,hat,0,train", "pics/1.png,mug,0,")
    assert len(open_folder(made).train) == 2


def test_absolute_paths_in_the_table_s_folder_and_spaces_after_commas_are_read(photos: Path) -> None:
    made = table(
        photos,
        "path,label",
        f"{photos}/pics/0.png,hat",
        f'{photos}/pics/../pics/1.png, "mug, red"  ',
        "pics/2.png, hat ",
    )
    train = open_folder(made).train
    assert [record.name for record in train.records] == [f"pics/{number}.png" for number in range(3)]
    assert train.classes == ("hat", "mug, red")
    made = table(photos, "path,label", f"{photos}/../other/0.png,hat", "pics/1.png,mug", "pics/2.png,hat")
    with pytest.raises(DataError, match="leads out of the table's folder"):
        open_folder(made)


def test_every_row_is_accounted_for(photos: Path) -> None:
    (photos / "pics" / "text.png").write_text("hello")
    rows = {
        "pics/0.png,hat,": None,
        "pics/1.png,mug,": None,
        "pics/1.png,mug,train": "repeats line 3",
        "pics/2.png,hat,": "other rows give it another class or split",
        "pics/2.png,mug,": "other rows give it another class or split",
        "pics/none.png,hat,": "there is no such file",
        "pics/text.png,hat,": "called a photo, but its content is none",
        "pics,hat,": "not a regular file",
        "pics/3.png,,": "names no class",
        "pics/0.png,,train": "names no class",
        ",hat,": "names no photo",
        "pics/4.png,hat,sometime": "its split 'sometime' is not understood",
        "pics/5.png,hat": "has 2 columns, and the header 3",
    }
    found = inspect(table(photos, "path,label,split", *rows, ""))
    assert found.splits[0].classes == {"hat": 1, "mug": 1}
    expected = sorted(reason for reason in rows.values() if reason is not None)
    assert sorted(skip.reason for skip in found.skipped) == expected
    assert found.entries == len(rows)


ELSEWHERE = ["../x.png", "/etc/passwd", "pics/../../x.png", r"..\x.png", r"C:\x.png", "c:/x.png", "~/x.png"]


@pytest.mark.parametrize("path", [*ELSEWHERE, r"\\host\share\x.png"])
def test_paths_that_lead_elsewhere_are_refused_in_one_line(photos: Path, path: str) -> None:
    picture(photos.parent / "x.png", 99)
    made = table(photos, "path,label", "pics/0.png,hat", "pics/1.png,mug", f"{path},mug")
    with pytest.raises(DataError, match=r"photos.csv line 4: .*leads out of the table's folder") as caught:
        inspect(made)
    assert "\n" not in str(caught.value)
    # A daemon that is at work leaves out the row alone.
    train = open_folder(made, may_be_empty=True, one_merchant=True).train
    assert len(train) == 2 and len(train.skipped) == 1


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["photo,name", "pics/0.png,hat"], "no column 'label'"),
        (["pics/0.png,hat"], "no column 'path'"),
        ([""], "no column 'path'"),
        (["path,label,class", "a,b,c"], "two columns for 'label'"),
        (["path,label"], "holds no pictures"),
    ],
)
def test_tables_that_are_none_say_what_is_missing(photos: Path, lines: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        open_folder(table(photos, *lines))
    assert "\n" not in str(caught.value)


def test_a_table_in_gbk_names_classes_and_files_in_utf8(photos: Path) -> None:
    picture(photos / "杯子" / "蓝色.png", 3)
    made = table(photos, "path,label", r"杯子\蓝色.png,杯子", "pics/1.png,帽子", encoding="gbk")
    splits = open_folder(with_found_encoding(made))
    assert splits.train.classes == ("帽子", "杯子") and len(splits.train) == 2
    assert any("GBK" in note for note in splits.account.notes)


ROWS = [
    *(
        "pics/0.png,가방,p1,train",
        "pics/1.png,모자,p1,",
        "pics/2.png,모자,사진하나사,",
        "pics/3.png,가방,p2,train",
    ),
    *(
        '"pics/4.png,가방,p3,',
        'pics/4.png,"가방,p3,',
        'pics/4.png,가방,"p3\n,"',
        'pics/4.png,가방,p3,"',
        'pics/4.png,"가',
    ),
    *(
        "pics/0.png,모자,p4,",
        "pics/3.png,가방,p5,test",
        "pics/6.png,모자,p6,sometime",
        "../x,모자,p7,",
        ",,,",
    ),
    *('pics/5.png,"가""방",p8,train', "\r\n", "\x00,모자,p9,", "x" * 200_000 + ",모자,p10,"),
]


@pytest.mark.parametrize("encoding", [None, "euc_kr", "gbk"])
@pytest.mark.parametrize("layout", ["class", "product"])
def test_one_row_decides_about_no_other(photos: Path, layout: Layout, encoding: str | None) -> None:
    """Whichever row is taken away, each other one means what it meant, quotation marks or not."""

    def units(rows: list[str]) -> dict[tuple[str, bytes], str]:
        made = table(photos, "path,label,product,split", *rows, encoding="euc_kr")
        unit: Unit = "product" if layout == "product" else "record"
        place = PhotoPlace(made, encoding)
        train = open_folder(place, layout=layout, unit=unit, may_be_empty=True, one_merchant=True).train
        return {(train.classes[r.label], r.digest): r.name for r in train.records}

    whole = units(ROWS)
    assert len(whole) == (6 if layout == "product" else 3)
    for number, row in enumerate(ROWS):
        left = units(ROWS[:number] + ROWS[number + 1 :])
        # Of the same photo at most: rows about it are held against each other.
        assert len(left.keys() ^ whole.keys()) <= 1, row


def test_a_quotation_mark_that_is_never_closed_is_its_own_lines_fault(photos: Path) -> None:
    made = table(
        photos, "path,label", "pics/0.png,hat", '"pics/1.png,hat', "pics/2.png,mug", 'pics/3.png,"mug'
    )
    found = inspect(made)
    assert found.splits[0].classes == {"hat": 1, "mug": 1}
    assert [(skip.name, skip.reason) for skip in found.skipped] == [
        (
            f"photos.csv line {line}",
            "a quotation mark is never closed (each line is one row: save the table without line ends in its "
            "cells)",
        )
        for line in (3, 5)
    ]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("excel.csv", "路径;类别\r\npics/0.png;帽子\r\npics/1.png;杯子\r\n".encode("utf-16")),
        ("excel.txt", "路径\t类别\r\npics/0.png\t帽子\r\npics/1.png\t杯子".encode("utf-16")),
        ("bom.TAB", b"\xfe\xff" + "path\tlabel\npics/0.png\t帽子\npics/1.png\t杯子\n".encode("utf-16-be")),
        ("plain16.csv", "path,label\npics/0.png,帽子\npics/1.png,杯子\n".encode("utf-16-le")),
        ("odd.csv", "path,label\npics/0.png,帽子\npics/1.png,杯子\nĊ,\u0a0a".encode("utf-16") + b"x"),
        ("china.csv", "路径,类别\r\npics/0.png,帽子\r\npics/1.png,杯子\r\n".encode("gbk")),
        ("japan.csv", "画像,クラス\r\npics/0.png,帽子\r\npics/1.png,杯子\r\n".encode("cp932")),
        ("pipe.psv", "path|label\npics/0.png|帽子\npics/1.png|杯子\n".encode()),
        ("sep.csv", "sep=;\r\npath;label\r\npics/0.png;帽子\r\npics/1.png;杯子\r\n".encode()),
        ("sep16.csv", '"sep=,"\r\npath,label\r\npics/0.png,帽子\r\npics/1.png,杯子\r\n'.encode("utf-16")),
        ("wide.csv", "\r\n,,\r\npath,label,,\r\npics/0.png,帽子\r\npics/1.png,杯子,,,,\r\n,,,\r\n".encode()),
        ("price.csv", "path;label;price\npics/0.png;帽子;12,50\npics/1.png;杯子;9,99\n".encode("utf-8-sig")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_spreadsheets_write_is_read(photos: Path, name: str, data: bytes) -> None:
    (photos / name).write_bytes(data)
    train = open_folder(with_found_encoding(photos / name)).train
    assert [(r.name, train.classes[r.label]) for r in train.records] == [
        ("pics/0.png", "帽子"),
        ("pics/1.png", "杯子"),
    ]


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("a.xlsx", b"PK\3\4", "spreadsheet: save its table as 'CSV UTF-8'"),
        ("renamed.csv", b"PK\3\4" + bytes(26) + b"[Content_Types].xml", "spreadsheet: save"),
        ("old.csv", b"\xd0\xcf\x11\xe0\xa1\xb1", "spreadsheet: save"),
        ("zipped.csv", b"PK\3\4" + bytes(26) + b"pics/0.png", "archive: unpack it"),
        ("rows.jsonl", b'{"path": "a"}', "JSON: write a CSV file with the columns path and label"),
        ("rows.csv", b'[{"path": "a"}]', "JSON: write a CSV file"),
        ("signed-out.csv", b"<!DOCTYPE html><html>", "a web page"),
        ("wide.csv", "path,label".encode("utf-32"), "in UTF-32"),
        ("x.parquet", b"PAR1", "packed records"),
    ],
)
def test_what_is_given_in_place_of_a_csv_file_is_named(
    photos: Path, name: str, data: bytes, says: str
) -> None:
    (photos / name).write_bytes(data)
    with pytest.raises(DataError, match=says) as caught:
        inspect(photos / name)
    assert "\n" not in str(caught.value)


def test_addresses_of_files_are_paths_and_addresses_on_the_internet_are_named(photos: Path) -> None:
    for number, name in enumerate(("a b.png", "50%25.png", "50%.png")):
        picture(photos / "pics" / name, 170 + 20 * number)
    picture(photos.parent / "x.png", 99)
    rows = {
        f"file://{photos}/pics/0.png,hat": None,
        "pics/a%20b.png,mug": None,
        "pics/50%25.png,hat": None,
        "pics/50%2525.png,hat": "repeats line 4",
        "pics/a b.png,hat": "other rows give it another class or split",
        "file:pics/1.png,mug": None,
        "pics/%2e%2e/%2e%2e/x.png,hat": "there is no such file",
        "https://shop.example/s/2.png?v=1,hat": "on the internet",
        "s3://bucket/2.png,hat": "on the internet",
        "pics/2,hat": "there is no such file, but one with another ending",
        "PICS/2.png,hat": "there is no such file",
        "pics/2.PNG,hat": "there is no such file, but one in other capitals",
        "pics/3.png,h\0at": "its class or product has a control character",
    }
    found = inspect(table(photos, "path,label", *rows))
    assert found.splits[0].classes == {"hat": 2, "mug": 1}
    # The row that calls it a mug goes with the one that calls it a hat.
    assert len(found.skipped) == len([reason for reason in rows.values() if reason]) + 1
    reasons = [skip.reason for skip in found.skipped]
    assert all(any(reason in given for given in reasons) for reason in rows.values() if reason)
    for way_out in (f"file://{photos.parent}/x.png", "file:///etc/passwd", "file://host/share/x.png"):
        with pytest.raises(DataError, match="leads out"):
            inspect(table(photos, "path,label", "pics/0.png,hat", f"{way_out},mug"))


def test_merchants_of_a_table_and_products_without_a_column(photos: Path) -> None:
    made = table(
        photos, "Image Path\tClass\tSeller", *(f"pics/{n}.png\t{n % 2}\tm{n // 4}" for n in range(8))
    )
    assert {record.merchant for record in open_folder(made).train.records} == {"m0", "m1"}
    alone = open_folder(made, one_merchant=True)
    assert {record.merchant for record in alone.train.records} == {None}
    assert any("merchants" in note for note in alone.account.notes)
    with pytest.raises(DataError, match="no column 'product'"):
        open_folder(made, layout="product", unit="product")
