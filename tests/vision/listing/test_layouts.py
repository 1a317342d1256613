"""What the folders of a data set mean: splits, wrappers, classes, merchants."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from fedrec.errors import DataError
from fedrec.vision.datasets import open_folder
from fedrec.vision.inspection import inspect
from fedrec.vision.listing.split_names import split_of, splits_among
from tests.support.pictures import picture

_shade = 0


def classes(folder: Path, *names: str, many: int = 2) -> Path:
    """Make class folders of different photos."""
    global _shade
    for name in names:
        for number in range(many):
            _shade = (_shade + 1) % 255
            picture(folder / name / f"{number}.png", _shade)
    return folder


def counts(root: Path, *, one_merchant: bool = False) -> dict[str, dict[str, int]]:
    found = inspect(root, one_merchant=one_merchant)
    assert found.entries == sum(len(folders) + len(files) for _, folders, files in os.walk(root))
    return {split.name: {k: v for k, v in split.classes.items() if v} for split in found.splits}


@pytest.mark.parametrize(
    ("split", "spellings"),
    [
        ("train", "train Train TRAINING train_set training-data train2017 01_train 训练集"),
        ("validation", "val Valid VALIDATION dev dev_set eval val2017 images_val 验证集"),
        ("test", "test Testing TEST_SET test-images X_test hold-out 测试集 テスト"),
        (None, "hat trainers tester devices valves value fit contest training_shoes"),
    ],
)
def test_splits_are_told_by_any_usual_name(split: str | None, spellings: str) -> None:
    names = spellings.split()
    assert {name: split_of(name) for name in names} == dict.fromkeys(names, split)


SIBLINGS = (
    "hats_train hats_val hats_test,final-train final-val final-test,train_v2 val_v2 test_v2,"
    "train_224 val_224 test_224,trainA valA testA,train.zip val.zip test.zip,train copy val copy test copy,"
    "photos_for_training photos_for_validation photos_for_testing,seg_train seg_val seg_test,tr va te,"
    "Learning Validation Testing"
)
LANGUAGES = (
    "apprentissage validation essai,Trainingsdaten Validierungsdaten Testdaten,lernen validieren prüfen,"
    "entrenamiento validación prueba,treinamento validação teste,addestramento convalida collaudo,"
    "opleiding validatie test,trening walidacja testy,eğitim doğrulama test,huấn luyện xác thực kiểm tra,"
    "обучающая валидационная тестовая,訓練用 検証用 テスト用,학습용 검증용 시험용,训练图片 验证图片 测试图片,"
    "تدريب تحقق اختبار"
)


@pytest.mark.parametrize("names", [*SIBLINGS.split(","), *LANGUAGES.split(",")])
def test_splits_are_told_by_the_names_beside_them_and_in_other_languages(names: str) -> None:
    """What isn't told becomes a merchant, and its test photos are trained on."""
    given = names.split(" ")
    assert splits_among(given) == dict(zip(given, ("train", "validation", "test"), strict=True))


@pytest.mark.parametrize(
    "names",
    [
        "Train,Test Tubes,dev kits", "hats,mugs,train", "TR,DE,FR", "seen,other", "train station,mug",
        "test,va",
    ],
)  # fmt: skip
def test_names_of_other_things_are_no_splits(names: str) -> None:
    given = names.split(",")
    found = splits_among(given)
    assert found == {name: split for name in given if (split := split_of(name)) is not None}
    assert len(set(found.values())) < 2


def test_classes_that_differ_by_a_split_s_word_are_refused(tmp_path: Path) -> None:
    classes(tmp_path, "hats_train", "hats_test", "mugs_train", "mugs_test")
    with pytest.raises(DataError, match="look like splits"):
        open_folder(tmp_path)


def test_decorated_splits_of_one_merchant_and_of_several_are_read(tmp_path: Path) -> None:
    for name in ("train_v2", "test_v2"):
        classes(tmp_path / "one" / name, "hat", "mug")
        for shop in ("a", "b"):
            classes(tmp_path / "more" / shop / name, "hat", "mug")
    both = {"hat": 2, "mug": 2}
    assert counts(tmp_path / "one") == {"train": both, "test": both}
    assert counts(tmp_path / "one", one_merchant=True) == {"train": both, "test": both}
    twice = {"hat": 4, "mug": 4}
    assert counts(tmp_path / "more") == {"train": twice, "test": twice}


@pytest.mark.parametrize("one_merchant", [False, True])
@pytest.mark.parametrize(
    "names",
    ["train valid test", "Train Validation Test", "training dev testing", "TRAIN eval"],
)
def test_no_split_is_dropped_or_becomes_a_merchant(tmp_path: Path, names: str, one_merchant: bool) -> None:
    for name in names.split():
        classes(tmp_path / name, "hat", "mug")
    expected = ("train", "validation", "test")[: len(names.split())]
    assert counts(tmp_path, one_merchant=one_merchant) == {name: {"hat": 2, "mug": 2} for name in expected}
    splits = open_folder(tmp_path, one_merchant=one_merchant)
    assert {record.merchant for record in splits.train.records} == {None}


def test_a_folder_beside_the_splits_is_named_and_never_trained_on(tmp_path: Path) -> None:
    for name in ("train", "tset"):
        classes(tmp_path / name, "hat", "mug")
    assert counts(tmp_path) == {"train": {"hat": 2, "mug": 2}}
    found = inspect(tmp_path)
    assert len(found.skipped) == 4 and all(skip.name.startswith("tset/") for skip in found.skipped)
    assert any("not understood and not used: tset" in note for note in found.notes)


@pytest.mark.parametrize("names", [("test", "trian"), ("val", "test"), ("Test",)])
def test_evaluation_splits_without_a_training_split_are_refused(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    for name in names:
        classes(tmp_path / name, "hat", "mug")
    with pytest.raises(DataError, match="none called train") as caught:
        open_folder(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("one_merchant", [False, True])
def test_a_class_may_be_called_train(tmp_path: Path, one_merchant: bool) -> None:
    classes(tmp_path, "train", "bus", "test")
    classes(tmp_path / "train", "thumbs")
    assert counts(tmp_path, one_merchant=one_merchant) == {"train": {"bus": 2, "test": 2, "train": 2}}
    classes(tmp_path / "train", "from the front")  # a folder in a class makes it no split
    classes(tmp_path / "bus", "from the side")
    assert counts(tmp_path, one_merchant=one_merchant) == {"train": {"bus": 2, "test": 2, "train": 2}}


@pytest.mark.parametrize("one_merchant", [False, True])
def test_an_archives_wrapper_is_no_merchant(tmp_path: Path, one_merchant: bool) -> None:
    classes(tmp_path / "a" / "products", "hat", "mug")
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "README.txt").write_text("photos")
    assert counts(tmp_path, one_merchant=one_merchant) == {"train": {"hat": 2, "mug": 2}}
    assert {r.merchant for r in open_folder(tmp_path, one_merchant=one_merchant).train.records} == {None}


def test_a_wrapper_may_hold_splits_or_merchants(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for merchant in ("m1", "m2"):
            classes(tmp_path / "data" / split / merchant, "hat", "mug")
    splits = open_folder(tmp_path)
    assert splits.validation is not None and len(splits.validation) == 8
    assert {record.merchant for record in splits.train.records} == {"m1", "m2"}


def test_the_only_class_of_a_shop_is_no_wrapper(tmp_path: Path) -> None:
    classes(classes(tmp_path, "hat") / "hat", "old")
    train = open_folder(tmp_path, one_merchant=True, may_be_empty=True).train
    assert train.classes == ("hat",) and len(train) == 2


def test_photos_at_several_depths_end_nothing(tmp_path: Path) -> None:
    for merchant in ("m1", "m2"):
        classes(tmp_path / merchant, "hat", "mug")
    classes(tmp_path, "loose", many=1)
    classes(tmp_path / "m1" / "hat", "deep", many=1)
    splits = open_folder(tmp_path)
    assert {record.merchant for record in splits.train.records} == {"m1", "m2"}
    assert {skip.name: skip.reason for skip in splits.train.skipped} == {
        "loose/0.png": "not in a class folder, and most photos are in MERCHANT/CLASS/",
        "m1/hat/deep/0.png": "deeper than the class folders",
    }


def test_the_layout_follows_from_folders_alone(tmp_path: Path) -> None:
    """A photo more or less in a merchant's folder changes nothing for the other photos."""
    for split in ("train", "test"):
        classes(tmp_path / split, "hat", "mug")
    before = open_folder(tmp_path, one_merchant=True).train.records
    for extra in (tmp_path / "x.png", tmp_path / "train" / "x.png", tmp_path / "test" / "x.png"):
        picture(extra, 250)
        after = open_folder(tmp_path, one_merchant=True).train.records
        assert after == before
    for photo in (tmp_path / "test").rglob("*.png"):
        photo.unlink()
    assert open_folder(tmp_path, one_merchant=True).train.records == before


def test_each_merchant_may_hold_its_own_splits(tmp_path: Path) -> None:
    for merchant in ("m1", "m2", "m3"):
        for split in ("Train", "Val", "test")[: 1 if merchant == "m3" else 3]:
            classes(tmp_path / merchant / split, "hat", "mug")
    picture(tmp_path / "m1" / "loose.png", 3)
    picture(tmp_path / "m2" / "Train" / "loose.png", 4)
    (tmp_path / "m2" / "Train" / "hat" / "note.txt").write_text("nothing")
    classes(tmp_path / "annotations", "x", many=1)
    (tmp_path / "lost+found").mkdir()
    classes(tmp_path, "stray", many=1)
    assert counts(tmp_path) == {
        "train": {"hat": 6, "mug": 6},
        "validation": {"hat": 4, "mug": 4},
        "test": {"hat": 4, "mug": 4},
    }
    splits = open_folder(tmp_path)
    found = {(record.merchant, record.name.split("/")[1]) for record in splits.train.records}
    assert found == {("m1", "Train"), ("m2", "Train"), ("m3", "Train")}
    assert splits.validation is not None and splits.test is not None
    assert {record.merchant for record in splits.test.records} == {"m1", "m2"}
    notes = "; ".join(inspect(tmp_path).notes)
    assert "each of m1, m2, m3 holds splits" in notes and notes.count("Val are read as") == 1


def test_products_may_lie_in_the_splits_of_merchants(tmp_path: Path) -> None:
    for merchant in ("m1", "m2"):
        for split in ("train", "dev"):
            for label in ("hat", "mug"):
                classes(tmp_path / merchant / split / label, f"{label}1", f"{label}2")
    splits = open_folder(tmp_path, layout="product")
    assert {(record.merchant, record.product) for record in splits.train.records} == {
        (merchant, product) for merchant in ("m1", "m2") for product in ("hat1", "hat2", "mug1", "mug2")
    }
    assert splits.validation is not None and len(splits.validation.records) == 16


def test_splits_beside_classes_in_merchants_are_refused_with_the_layout_that_works(tmp_path: Path) -> None:
    for merchant in ("m1", "m2"):
        for split in ("Train", "Val"):
            classes(tmp_path / merchant / split, "hat", "mug")
    classes(tmp_path / "m2", "hat")
    with pytest.raises(DataError, match=r"m2 holds splits and other.*\(Train, Val, hat\).*train/m1/CLASS"):
        open_folder(tmp_path)
    shutil.rmtree(tmp_path / "m2")
    classes(tmp_path / "m3", "hat", "mug")
    with pytest.raises(DataError, match=r"m1 hold splits .* and m3 don't"):
        open_folder(tmp_path)


def test_a_class_called_train_makes_no_splits_of_merchants(tmp_path: Path) -> None:
    for merchant in ("m1", "m2"):
        classes(tmp_path / merchant, "train", "test", "hat")
    assert counts(tmp_path) == {"train": {"train": 4, "test": 4, "hat": 4}}


def test_annotations_beside_the_photos_end_nothing(tmp_path: Path) -> None:
    for split in ("train", "test"):
        classes(tmp_path / "images" / split, "hat", "mug")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "all.json").write_text("{}")
    assert counts(tmp_path) == {"train": {"hat": 2, "mug": 2}, "test": {"hat": 2, "mug": 2}}


def test_a_folder_in_a_split_that_says_no_more_is_passed_and_what_lies_beside_it_counted(
    tmp_path: Path,
) -> None:
    for split in ("train", "val"):
        classes(tmp_path / split / "images", "hat", "mug")
        (tmp_path / split / "labels" / "hat").mkdir(parents=True)
        (tmp_path / split / "labels" / "hat" / "0.txt").write_text("0 0 0 1 1")
    for one_merchant in (False, True):
        found = inspect(tmp_path, one_merchant=one_merchant)
        assert found.entries == sum(len(folders) + len(files) for _, folders, files in os.walk(tmp_path))
        assert found.splits[0].classes == {"hat": 2, "mug": 2} and not found.splits[0].merchants


def test_a_split_in_a_folder_of_its_own_name_is_no_merchant(tmp_path: Path) -> None:
    for split in ("seg_train", "seg_test"):
        classes(tmp_path / split / split, "hat", "mug")
    assert counts(tmp_path) == {"train": {"hat": 2, "mug": 2}, "test": {"hat": 2, "mug": 2}}
    assert not inspect(tmp_path).splits[0].merchants


def test_the_only_merchant_of_a_split_stays_one(tmp_path: Path) -> None:
    classes(tmp_path / "train" / "atelier", "hat", "mug")
    classes(tmp_path / "test" / "atelier", "hat", "mug")
    assert inspect(tmp_path).splits[0].merchants == {"atelier": 4}


def test_a_merchant_of_one_class_is_read_and_asked_whether_it_is_one(tmp_path: Path) -> None:
    classes(tmp_path, "hat", many=3)
    found = inspect(tmp_path, one_merchant=True)
    assert found.splits[0].classes == {"hat": 3} and "one class only (hat)" in "".join(found.notes)
    with pytest.raises(DataError, match=r"one class only \(hat\)"):
        inspect(tmp_path)


def test_empty_folders_and_copies_in_two_splits_are_told(tmp_path: Path) -> None:
    classes(tmp_path / "train", "hat", "mug")
    shutil.copytree(tmp_path / "train", tmp_path / "test")
    (tmp_path / "train" / "boots").mkdir()
    notes = inspect(tmp_path).notes
    assert "1 folder is empty: train/boots" in notes
    assert any(note.startswith("4 photos of the test split are in train, too") for note in notes)
