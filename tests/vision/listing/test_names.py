"""Folder names are identities: decoded without loss, in any encoding of the machines that made them."""

from __future__ import annotations

import os
import random
import unicodedata
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedrec._internal.look_alikes import easily_confused, look_alikes, shown
from fedrec.cli import client
from fedrec.cli.data import inspect as inspect_command
from fedrec.errors import ConfigError
from fedrec.vision.datasets import open_folder
from fedrec.vision.inspection import inspect
from fedrec.vision.listing.folder_names import FolderNames, as_utf8
from fedrec.vision.listing.found_encoding import encoding_advice, with_found_encoding
from fedrec.vision.listing.legacy_text import checked_encoding, decode_all, meant_by
from fedrec.vision.listing.photo_places import PhotoPlace
from tests.support.pictures import picture

MADE_BY = {
    "gbk": "杯子 裤子 帽子 鞋子 裙子 袜子 手表 外套 T恤 POLO衫 童装 女士连衣裙 男士衬衫2024 瑜伽裤 耳环",
    "shift_jis": "帽子 靴 財布 時計 カップ シャツ スカート かばん T-シャツ 眼鏡 靴下 食器",
    "latin-1": "Hüte Größe Gürtel Schuhe-für-Kinder Übergrößen MÜTZEN Ärmel",
    "cp1252": "café écharpe vêtements_d’été sacs_à_main niño ÉTÉ été pâté–terrine",
    "cp850": "Hüte Gürtel Mäntel Röcke",
    "big5": "帽子 杯子 褲子 鞋子 手錶 裙子",
    "euc_kr": "모자 바지 신발 치마 시계 가방 양말",
    "cp1251": "Шапка Обувь Сумки Куртка ПЛАТЬЯ обувь Платья_для_девочек",
    "cp866": "Шапка Обувь Сумки Куртка ПЛАТЬЯ обувь Платья_для_девочек",
    "koi8_r": "Шапка Обувь Сумки Куртка ПЛАТЬЯ обувь Платья_для_девочек",
}


def encoded(names: str, encoding: str) -> dict[bytes, str]:
    found = {name.encode(encoding): name for name in (word.replace("_", " ") for word in names.split())}
    return {raw: name for raw, name in found.items() if max(raw) >= 128}


@pytest.mark.parametrize("encoding", MADE_BY)
def test_names_of_one_machine_are_read_as_they_were_written(encoding: str) -> None:
    names = encoded(MADE_BY[encoding], encoding)
    assert decode_all(names).texts == names


@pytest.mark.parametrize("encoding", ["gbk", "shift_jis", "cp1252"])
def test_most_names_are_read_rightly_alone(encoding: str) -> None:
    """A merchant may have one class; its name must be that of the others."""
    names = encoded(MADE_BY[encoding], encoding)
    wrong = [name for raw, name in names.items() if decode_all([raw]).texts[raw] != name]
    assert wrong in ([], ["POLO衫"])


@pytest.mark.parametrize("many", [1, 2, 3])
@pytest.mark.parametrize(
    ("encoding", "words"),
    [
        (
            "euc_kr",
            "모자 가방 신발 바지 치마 셔츠 양말 시계 반지 목걸이"
            " 장갑 안경 우산 원피스 코트 청바지 운동화 구두 의자 책상",
        ),
        (
            "gbk",
            "帽子 背包 耳环 手表 衣服 裤子 外套 裙子"
            " 衬衫 袜子 戒指 项链 手套 眼镜 雨伞 大衣 牛仔裤 运动鞋 杯子 椅子 连衣裙",
        ),
        (
            "cp866",
            "шапка обувь сумки куртка платье рубашка брюки юбка часы кольцо"
            " носки Очки Зонт джинсы ботинки кружка",
        ),
    ],
)
def test_a_few_names_are_told_by_how_frequent_their_signs_are(encoding: str, words: str, many: int) -> None:
    """The bytes of Korean names are Chinese characters, too, but rare ones; and the other way round."""
    given = words.split()
    groups = [given[start : start + many] for start in range(0, len(given), many)]
    read = [tuple(decode_all([name.encode(encoding) for name in group]).texts.values()) for group in groups]
    assert [set(group) for group in read] == [set(group) for group in groups]


def test_names_of_two_machines_lie_next_to_each_other() -> None:
    names = encoded("杯子 POLO衫", "gbk") | encoded("Hüte", "cp1252")
    assert decode_all(names).texts == names


def test_any_bytes_stay_apart_and_can_be_shown() -> None:
    rng = random.Random(5)
    names = {bytes(rng.randrange(128, 256) for _ in range(rng.randrange(1, 5))) for _ in range(3000)}
    found = decode_all(names)
    assert len(set(found.texts.values())) == len(names)
    assert all(text.isprintable() and text.encode("utf-8") for text in found.texts.values())
    assert decode_all(sorted(names, reverse=True)) == found


def folder(root: Path, *names: bytes) -> Path:
    for number, name in enumerate(names):
        made = Path(os.fsdecode(os.fsencode(root) + b"/" + name))
        for shade in range(2):
            picture(made / f"{shade}.png", 20 * number + shade)
    return root


def test_classes_in_gbk_stay_as_many_and_the_guess_is_said(tmp_path: Path) -> None:
    names = ["杯子", "裤子", "帽子", "鞋子"]
    root = folder(tmp_path, *(name.encode("gbk") for name in names))
    place = with_found_encoding(root)
    assert place.names_encoding == "gbk"
    found = inspect(place)
    assert found.splits[0].classes == dict.fromkeys(sorted(names), 2)
    assert any("GBK" in note and "--names-encoding" in note for note in found.notes)
    assert {skip.name for skip in open_folder(place).train.records} == {
        f"{n}/{i}.png" for n in names for i in (0, 1)
    }
    # The same name in UTF-8 is the same class.
    picture(root / "杯子" / "third.png", 200)
    assert inspect(place).splits[0].classes == dict.fromkeys(sorted(names), 2) | {"杯子": 3}


@pytest.mark.parametrize("encoding", [None, "gbk", "euc_kr"])
def test_one_product_more_or_less_changes_no_other_ones_name(tmp_path: Path, encoding: str | None) -> None:
    """Read with any setting: a product's label and name are the same whatever lies beside it."""
    places = {
        "가방/p1": "euc_kr",
        "가방/사진하나사": "euc_kr",
        "모자/p3": "euc_kr",
        "杯子/瓷": "gbk",
        "x/é": "cp1252",
    }
    made = [tmp_path / "shop" / os.fsdecode(name.encode(code)) for name, code in places.items()]
    for shade, product in enumerate(made):
        picture(product / "x.png", 20 * shade)

    def units() -> dict[bytes, tuple[str, str]]:
        place = PhotoPlace(tmp_path / "shop", encoding)
        train = open_folder(place, layout="product", unit="product", one_merchant=True).train
        return {unit.digest: (train.classes[unit.label], unit.name) for unit in train.records}

    whole = units()
    assert len(whole) == len(made)
    for product in made:
        product.rename(tmp_path / "away")
        left = units()
        assert len(left) == len(made) - 1 and left.items() <= whole.items()
        (tmp_path / "away").rename(product)


def test_names_stay_apart_in_any_encoding_and_with_none() -> None:
    rng = random.Random(7)
    raws = {bytes(rng.randrange(32, 256) for _ in range(rng.randrange(1, 5))) for _ in range(3000)}
    raws |= {b"\\xb0", b"\xb0", b"\\xb0\xb0", b"\xb0\\xb0", b"\\x5cxb0", b"\xed\x40", b"\xfa\x5c"}
    for encoding in (None, "ascii", *MADE_BY, "cp932", "gb18030"):
        meant: dict[str, set[str]] = {}
        for raw in raws:
            name = raw.decode("utf-8", "surrogateescape")
            text = FolderNames(encoding).text(name)
            # What Python itself makes of the name, or else its bytes.
            own = next(filter(None, (_python(raw, known) for known in ("utf-8", encoding or "utf-8"))), None)
            meant.setdefault(text, set()).add(repr(raw) if own is None else unicodedata.normalize("NFC", own))
            assert (text.encode("utf-8") and text.isprintable()) or own is not None
        assert all(len(names) == 1 for names in meant.values())


def _python(raw: bytes, encoding: str) -> str | None:
    """Return a text that has these bytes and no others, and shows."""
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError:
        return None
    controls = any(unicodedata.category(sign) == "Cc" for sign in text)
    return text if text.encode(encoding) == raw and (encoding == "utf-8" or not controls) else None


@pytest.mark.parametrize("wrong", ["cp437", "latin-1"])
def test_names_that_another_program_garbled_stay_apart_and_are_told(tmp_path: Path, wrong: str) -> None:
    names = ["杯子", "裤子", "帽子", "鞋子"]
    root = folder(tmp_path, *(name.encode("gbk").decode(wrong).encode("utf-8") for name in names))
    found = inspect(root)
    assert len(found.splits[0].classes) == 4
    assert any("look garbled" in note and "may be 杯子" in note for note in found.notes)
    assert [meant_by(name) for name in ("Größe", "ÄÖÜ", "été", "São Paulo", "杯子", "hat")] == [None] * 6


def test_a_given_encoding_decides_and_a_wrong_one_is_told(tmp_path: Path) -> None:
    names = encoded(MADE_BY["euc_kr"], "euc_kr")
    root = folder(tmp_path, *names)
    assert set(open_folder(PhotoPlace(root, "euc_kr")).train.classes) == set(names.values())
    place = PhotoPlace(root, "ascii")
    numbers = {"".join(f"\\x{byte:02x}" for byte in raw) for raw in names}
    assert set(open_folder(place).train.classes) == numbers
    assert any("neither in UTF-8 nor in ascii" in note for note in inspect(place).notes)
    advice = encoding_advice(place)
    assert advice is not None and 'names_encoding = "euc_kr"' in advice and "ascii" in advice
    assert encoding_advice(PhotoPlace(root, "euc_kr")) is None
    assert checked_encoding("EUC-KR") == "euc_kr" and checked_encoding("Shift-JIS") == "shift_jis"
    for wrong in ("klingon", "base64", "rot13", "", "utf-16", "utf-7", "cp037"):
        with pytest.raises(ConfigError, match="give one such as gbk"):
            checked_encoding(wrong)


ALIKE = ["Hat", "HAT", "hat ", " hat", "hat\u00a0", "hat\u3000", "h\u200bat", "ｈａｔ", "hat\u00ad", "hаt"]


@pytest.mark.parametrize("other", [*ALIKE, "hat\ufe0f", "hat."])
def test_names_that_look_alike_are_told(other: str) -> None:
    assert look_alikes(["mug", other, "hat", "cap"]) == [tuple(sorted((other, "hat")))]
    if other.strip() != other or not other.isprintable():
        assert shown(other) != f"'{other}'" or other.strip(" ") != other


@pytest.mark.parametrize(
    "pair",
    [
        *(
            "һat hat",
            "ѕһоe shoe",
            "тie tie",
            "кids kids",
            "ωool wool",
            "пet net",
            "Ьag bag",
            "ɡold gold",
            "հat hat",
        ),
        *(
            "НОСКИ носки",
            "ТОРТ торт",
            "ΝΥΦΗ νυφη",
            "ΜΆΣ μάς",
            "İstanbul istanbul",
            "IŞIK ışık",
            "STRAẞE strasse",
        ),
        *(
            "œuf oeuf",
            "ﬁsh fish",
            "力ード カード",
            "エ場 工場",
            "ーツ 一ツ",
            "کتاب كتاب",
            "٣ ۳",
            "كـتاب كتاب",
            "❤\ufe0f ❤",
        ),
    ],
)
def test_letters_that_are_drawn_alike_and_other_cases_are_told(pair: str) -> None:
    one, other = pair.split(" ")
    assert len(look_alikes([one, other, "mug"])) == 1


def test_words_of_two_alphabets_and_names_that_windows_lacks_are_told(tmp_path: Path) -> None:
    names = ["һat", "iPhone-чехол", "T恤", "POLO衫", "CON", "nul.jpg", "hat.", "a:b", "console", "Größe"]
    for number, name in enumerate(names):
        picture(tmp_path / name / "0.png", 20 * number)
    notes = inspect(tmp_path).notes
    assert len(notes) == 2
    assert notes[0].endswith("'һat' (cyrillic small shha)")
    assert notes[1].endswith("'CON', 'a:b', 'hat.', 'nul.jpg'")


def test_a_name_as_long_as_a_file_system_takes_is_a_class(tmp_path: Path) -> None:
    longest = "帽" * 85
    for number, name in enumerate((longest, "mug")):
        picture(tmp_path / name / "0.png", 20 * number)
    assert len(os.fsencode(longest)) == 255
    assert inspect(tmp_path).splits[0].classes == {longest: 1, "mug": 1}


@pytest.mark.parametrize(
    ("encoding", "words"),
    [
        ("koi8_r", "шапка куртка кольцо очки мебель игрушки Кошки Прочее СУМКИ перчатки холодильник пеленки"),
        ("cp1251", "шапка куртка кольцо очки мебель игрушки Кошки Прочее СУМКИ перчатки холодильник пеленки"),
        ("gbk", "碗 书 睡衣 小码 首饰 苏绣 苹果 叶子 土豆 图书 药品 宠物 彩妆 幼儿"),
    ],
)
def test_one_name_alone_is_told_by_its_letters(encoding: str, words: str) -> None:
    names = encoded(words, encoding)
    assert {raw: decode_all([raw]).texts[raw] for raw in names} == names


def test_names_that_differ_are_left_alone() -> None:
    different = "hat hats h_a_t cat été ete T-Shirt T-Shirts 1 2 10 杯子 杯 帽子 か が шапка"
    assert look_alikes(different.replace("_", "\t").split(" ")) == []
    assert look_alikes(["t-shirt", "t–shirt", "o’hat", "o'hat"]) == [
        ("o'hat", "o’hat"),
        ("t-shirt", "t–shirt"),
    ]


def test_look_alikes_are_warned_of(tmp_path: Path) -> None:
    root = folder(tmp_path, b"Hat", b"hat", b"hat ", b"mug")
    found = inspect(root)
    assert len(found.splits[0].classes) == 4
    assert found.look_alikes == (("Hat", "hat", "hat "),)


def test_names_that_move_a_cursor_are_shown_as_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = folder(tmp_path, b"hat\x1b[2J", b"[/mug]", b"a\nb")
    picture(root / "stray\n\x1b[2J.png", 5)
    inspect_command(root)
    shown = capsys.readouterr().out
    assert (
        "\x1b" not in shown and "[/mug]" in shown and "skipped stray\\n\\x1b[2J.png: not in a class" in shown
    )


@pytest.mark.parametrize("encoding", ["ascii", "iso8859-1", "utf-8"])
def test_a_process_with_another_encoding_of_files_reads_the_same_names(
    monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    """A service without a locale takes names for ASCII; its classes must be those of all others."""
    monkeypatch.setattr("sys.getfilesystemencoding", lambda: encoding)
    monkeypatch.setattr(os, "fsencode", lambda name: name.encode(encoding, "surrogateescape"))
    for text in ("杯子", "Hüte", "hat"):
        name = text.encode("utf-8").decode(encoding, "surrogateescape")
        assert as_utf8(name) == text
    raw = "杯子".encode("gbk")
    assert as_utf8(raw.decode(encoding, "surrogateescape")) == raw.decode("utf-8", "surrogateescape")


def test_names_with_signs_that_nobody_sees_are_told(tmp_path: Path) -> None:
    for number, name in enumerate(["mug\u200f", "\u202ecoat", "cap\xa0", " hat", "a\nb", "👒 fine", "tee"]):
        picture(tmp_path / name / "0.png", 20 * number)
    (note,) = inspect(tmp_path).notes
    assert note.startswith("names hold spaces at an end or signs that can't be seen") and "fine" not in note
    for told in (r"'mug\u200f'", r"'\u202ecoat'", r"'cap\xa0'", "' hat'", r"'a\nb'"):
        assert told in note
    home = tmp_path.parent / f"{tmp_path.name}-home"
    shown = CliRunner().invoke(
        client.app, ["init", "--name", "s", "--data", str(tmp_path), "--home", str(home)]
    )
    assert shown.exit_code == 0, shown.exception
    shown = CliRunner().invoke(client.app, ["check", "--offline", "--home", str(home)])
    assert "\u202e" not in shown.output and r"'a\nb' 1" in shown.output, "no name can steer a terminal"


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ("B10 BIO mug", [("B10", "BIO")]),
        ("7 007 70", [("007", "7")]),
        ("O-ring 0-ring", [("0-ring", "O-ring")]),
        ("Bill Bi11 bi11", [("Bi11", "Bill")]),
        ("Hat hat HAT", []),
        ("A10 A11 A12 A20 A21", []),
    ],
)
def test_codes_that_differ_in_a_stroke_are_told(names: str, told: list[tuple[str, ...]]) -> None:
    assert easily_confused(names.split()) == told
