"""CSV files as shops, spreadsheets and attackers write them: each row is taken, or named with its line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fedrec.errors import DataError
from fedrec.recognition.catalogue.csv_file import BadRow, Row, read_rows
from tests.recognition.catalogue.shop import HEADER


def rows_of(folder: Path, data: bytes) -> list[Row | BadRow]:
    file = folder / "f.csv"
    file.write_bytes(data)
    return list(read_rows(file))


def only(rows: list[Row | BadRow]) -> Row:
    (row,) = rows
    assert isinstance(row, Row), row
    return row


def test_a_row_becomes_a_product_with_attributes(tmp_path: Path) -> None:
    text = (
        f'{HEADER},ean\r\nmug, a/b.jpg ,"A mug,\nblue",https://x.example/m?a=b,12.50,cups,=1+1,0.5,0012\r\n'
    )
    row = only(rows_of(tmp_path, text.encode()))
    assert (row.line, row.photo, row.product.name) == (2, "a/b.jpg", "mug")
    assert (row.product.title, row.product.price, row.product.category) == ("A mug, blue", 12.5, "cups")
    assert row.product.link == "https://x.example/m?a=b"
    assert dict(row.product.attributes) == {"colour": "=1+1", "weight": 0.5, "ean": "0012"}


@pytest.mark.parametrize(
    "data",
    [
        "\ufeffproduct,photo\nmüg,a.jpg\n".encode(),
        "Product;PHOTO\nmüg;a.jpg".encode(),
        "photo\tproduct\r\na.jpg\tmüg\r\n".encode(),
        "product,photo\n\n,\n  \nmu\u0308g,./x/../a.jpg\n".encode(),
        "Product\tPhoto\r\nmüg\ta.jpg\r\n".encode("utf-16"),
        "sep=;\r\nproduct;photo;\r\nmüg;a.jpg;;\r\n".encode(),
        "product|photo\nmüg|a.jpg\n".encode(),
    ],
)
def test_what_spreadsheets_write_is_read(tmp_path: Path, data: bytes) -> None:
    row = only(rows_of(tmp_path, data))
    assert (row.product.name, row.photo, row.product.title) == ("müg", "a.jpg", "müg")


def test_rows_of_one_product_repeat_its_fields_or_leave_them_empty(tmp_path: Path) -> None:
    lines = [
        "product,photo,title,price",
        "m,1.jpg,Mug,5",
        "m,2.jpg,,",
        "m,3.jpg,Mug,5",
        "m,4.jpg,Cup,5",
        "m,1.jpg,,",
    ]
    found = rows_of(tmp_path, "\n".join(lines).encode())
    assert [type(row).__name__ for row in found] == ["Row", "Row", "Row", "BadRow", "BadRow"]
    assert {row.product.title for row in found if isinstance(row, Row)} == {"Mug"}
    reasons = [row.reason for row in found if isinstance(row, BadRow)]
    assert reasons == [
        "has title 'Cup', and line 2 of the same product 'Mug'",
        "repeats product and photo of line 2",
    ]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (b"m,a.jpg", "has 2 columns, and the header 8"),
        (b"m,a.jpg,t,,,,,,x,", "columns"),
        (b",a.jpg,t,,,,,", "product is empty"),
        (b"m,,t,,,,,", "names no photo"),
        (b"m,a.jpg,\xff\xfet,,,,,", "not in UTF-8"),
        (b"m,a.jpg,M\xfcg,,,,,", "not in UTF-8"),
        (b"m,a.jpg,a\0b,,,,,", "U\\+0000"),
        (b"m,a\0.jpg,t,,,,,", "photo holds the character U\\+0000"),
        ("m,a.jpg,a\u202eb,,,,,".encode(), "U\\+202E"),
        (b"m,a.jpg,t,javascript:alert(1),,,,", "link must be a web address"),
        (b"m,a.jpg,t,//x.example,,,,", "link must be a web address"),
        (b"m,a.jpg,t,https://paypal.com@x.example,,,,", "link must be a web address"),
        (b"m,a.jpg,t,https://x.example/a b,,,,", "can't hold"),
        (b"m,a.jpg,t,http://[::1,,,,", "link"),
        (b"m,a.jpg,t,,=1+1,,,", "price '=1\\+1' is no number"),
        (b"m,a.jpg,t,,nan,,,", "is no number"),
        (b"m,a.jpg,t,,-1,,,", "price must be 0 or more"),
        (b"m,a.jpg,t,,9999999999999,,,", "price must be"),
        (b'm,a.jpg,"t"x,,,,,', "no row of a CSV file"),
        (b"m,a.jpg," + b"t" * 3000 + b",,,,,", "longer than 2,000"),
        (b"m,a.jpg," + b"t" * 200_000 + b",,,,,", "far too long"),
        (b"m," + b"t," * 2_000_000, "columns|far too long"),
        (b"m" * 300 + b",a.jpg,t,,,,,", "product has more than 200 characters"),
    ],
)
def test_a_row_that_cant_be_used_is_named_and_the_next_is_read(tmp_path: Path, row: bytes, says: str) -> None:
    before, bad, after = rows_of(tmp_path, f"{HEADER}\np,1.jpg,,,,,,\n".encode() + row + b"\nq,2.jpg,,,,,,\n")
    assert isinstance(before, Row) and isinstance(after, Row)
    assert isinstance(bad, BadRow) and bad.line == 3 and after.line == 4
    assert re.search(says, bad.reason) and "\n" not in bad.reason and len(bad.reason) < 300, bad.reason


@pytest.mark.parametrize(
    ("written", "price"),
    [
        ("12,50", 12.5),
        ("0,5", 0.5),
        ("12.5", 12.5),
        ("1,234.50", 1234.5),
        ("1.234,50", 1234.5),
        ("1,234,567", 1234567),
        ("1.234.567,8", 1234567.8),
        ("12 345", 12345),
        ("1\u202f234,50", 1234.5),
        ("1'234.50", 1234.5),
        ("€12.50", 12.5),
        ("12,50 €", 12.5),
        ("EUR 12", 12),
        ("US$1,234.50", 1234.5),
        ("￥100", 100),
        ("99元", 99),
    ],
)
def test_a_price_is_read_as_shops_write_it(tmp_path: Path, written: str, price: float) -> None:
    row = only(rows_of(tmp_path, f"product;photo;price\na;1.jpg;{written}".encode()))
    assert row.product.price == price


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("1,234", r"may be 1234 or 1\.234: write 1234\.00"),
        ("€ 1,234", "may be 1234"),
        ("12.50.00", "no number"),
        ("12,34,56", "no number"),
        ("1,23.45", "no number"),
        ("free", "no number"),
        ("€", "no number"),
        ("$12 EUR", "no number"),
        ("12-15", "no number"),
        ("1e5", "no number"),
        ("1" * 30, "no number"),
        ("1" + ",000" * 400, "no number"),
    ],
)
def test_a_price_that_can_be_read_in_two_ways_or_none_is_refused(
    tmp_path: Path, written: str, says: str
) -> None:
    (row,) = rows_of(tmp_path, f"product;photo;price\na;1.jpg;{written}".encode())
    assert isinstance(row, BadRow) and re.search(f"price .* {says}", row.reason), row


def test_the_prices_of_a_file_have_one_currency(tmp_path: Path) -> None:
    rows = ["a;1.jpg;5", "b;2.jpg;€ 5", "c;3.jpg;6 €", "d;4.jpg;$7", "e;5.jpg;8"]
    found = rows_of(tmp_path, "\n".join(["product;photo;price", *rows]).encode())
    assert [row.product.price for row in found if isinstance(row, Row)] == [5, 5, 6, 8]
    assert [row.reason for row in found if isinstance(row, BadRow)] == [
        "price '$7' is in $, and line 3 has €: use one"
    ]


def test_a_quotation_mark_that_is_never_closed_hides_no_other_row(tmp_path: Path) -> None:
    found = rows_of(tmp_path, b'product,photo\na,1.jpg\nb,"2.jpg\nc,3.jpg\n')
    assert [row.line for row in found] == [2, 3] and isinstance(found[1], BadRow)
    assert "never closed" in found[1].reason


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "no column 'product'"),
        (b"\n\n", "no column 'product'"),
        (b"a,b\n1,2\n", "no column 'product'; its header names a, b"),
        (b"product,title\n", "no column 'photo'"),
        (b"product,photo,size,size\n", "'size' stands twice"),
        (b"product,photo,,size\n", "column 3"),
        (b"product,photo,a<b\n", "stand between"),
        (b"product,photo,class\n", "a name that filters use"),
        (b"product,photo,a\0\n", "U\\+0000"),
        (b"product,photo,caf\xe9\n", "header"),
        (b'product,"photo\n', "never closed"),
        ("product,photo\na,b".encode("utf-32"), "UTF-32"),
        (b"PK\3\4" + bytes(26) + b"[Content_Types].xml", "spreadsheet"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "header|no column"),
        (b"x" * 3_000_000, "header|no column"),
        (b"product,photo," + ",".join(f"c{n}".encode().decode() for n in range(80)).encode(), "at most 64"),
    ],
)
def test_a_header_that_cant_be_used_is_refused_in_one_line(tmp_path: Path, data: bytes, says: str) -> None:
    with pytest.raises(DataError, match=says) as refused:
        rows_of(tmp_path, data)
    assert len(str(refused.value)) < 500 and str(refused.value).isprintable()


def test_a_file_that_isnt_there_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(DataError, match=r"there is no file|is a folder"):
            list(read_rows(path))
