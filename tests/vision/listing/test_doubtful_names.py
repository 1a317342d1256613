"""What speaks against the way in which folders are read is told, and changes nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedrec.errors import DataError
from fedrec.vision.inspection import FolderSummary, inspect

_shade = np.random.default_rng(1)


def photos(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(_shade.integers(0, 255, (6, 6, 3), dtype=np.uint8)).save(root / path, "PNG")
    return root


def inspected(root: Path, *, one_merchant: bool = True) -> FolderSummary:
    found = inspect(root, one_merchant=one_merchant)
    assert found.entries == sum(len(folders) + len(files) for _, folders, files in os.walk(root))
    return found


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ("train_0 train_1 test_0 val_12", 2),
        ("img_0001_train img_0002_train img_0003_val", 1),
        ("hat-train-1 hat-validation-1", 1),
        ("test_1 test_2 7", 2),
        ("图_训练 图_测试", 1),
        ("1_TEST 2 3", 1),
        ("test_tube_1 test_tube_2", 0),
        ("training_shoes_1 training_shoes_2", 0),
        ("train_1 train_2", 0),
        ("latest_1 contest_2 valve_3", 0),
    ],
)
def test_photos_that_are_named_like_another_split_are_told(tmp_path: Path, names: str, told: int) -> None:
    for label in ("hat", "mug"):
        photos(tmp_path, *(f"{label}/{name}.jpg" for name in names.split()))
    found = inspected(tmp_path)
    assert found.splits[0].photos == 2 * len(names.split())
    about = [note for note in found.notes if "named like another split" in note]
    assert [int(note.split()[0]) for note in about] == ([2 * told] if told else [])


def test_a_split_s_own_word_in_its_photos_names_is_right(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        photos(tmp_path, *(f"{split}/{label}/x_{split}_{number}.png" for label in "ab" for number in (1, 2)))
    assert not any("named like" in note for note in inspected(tmp_path).notes)


SELDOM = (
    "hat (1),hat - Copy,hat copy 2,hat - Kopie,帽子 - 副本,New folder,Neuer Ordner (2),新建文件夹,未分类,"
    "unsorted,Trash,backup,old,original,cropped,150x150,thumbs,images,照片,Sent,DCIM,100CANON,"
    "WhatsApp Images,2024,2024-05,20240501,Photos from 2023,fold_0,annotations,SegmentationClass,"
    "hat (PC's conflicted copy),#hat,@hat,hats.lrdata,front,back view,detail,主图,详情图,labeled"
)


@pytest.mark.parametrize("name", SELDOM.split(","))
def test_folders_that_are_seldom_classes_are_read_and_told(tmp_path: Path, name: str) -> None:
    found = inspected(photos(tmp_path, f"{name}/1.png", "hat/1.png", "mug/1.png"))
    assert found.splits[0].classes == {name: 1, "hat": 1, "mug": 1}
    assert any("seldom have" in note and name in note for note in found.notes)


@pytest.mark.parametrize(
    "name",
    ["test tubes", "masks", "labels", "other", "2 in 1", "copper", "hat 2", "oldtimer", "tops", "bottoms"],
)
def test_classes_of_usual_names_are_not_told(tmp_path: Path, name: str) -> None:
    assert inspected(photos(tmp_path, f"{name}/1.png", "hat/1.png", "mug/1.png")).notes == ()


def test_a_class_called_train_is_told(tmp_path: Path) -> None:
    found = inspected(photos(tmp_path, "train/1.png", "bus/1.png", "car/1.png"))
    assert found.notes == ("train is read as a class beside bus, car, and not as a split",)


def test_names_that_merchants_seldom_have_are_told(tmp_path: Path) -> None:
    photos(tmp_path, *(f"{top}/{label}/1.png" for top in ("images", "masks") for label in ("hat", "mug")))
    notes = inspected(tmp_path, one_merchant=False).notes
    assert any(note.startswith("names that merchants seldom have") for note in notes)


@pytest.mark.parametrize(
    ("names", "told"),
    [("dog.1 dog.2 cat.1 cat.2", "cat, dog"), ("IMG_1 IMG_2 IMG_3 IMG_4", ""), ("a1 b2 c3 d4", "")],
)
def test_classes_in_the_names_of_photos_are_told_where_folders_are_none(
    tmp_path: Path, names: str, told: str
) -> None:
    photos(tmp_path, *(f"{name}.png" for name in names.split()))
    with pytest.raises(DataError) as caught:
        inspect(tmp_path)
    assert (f"may say what they show ({told})" in str(caught.value)) == bool(told)


def test_folders_that_are_taken_for_merchants_are_told(tmp_path: Path) -> None:
    photos(tmp_path, *(f"{shop}/{label}/1.png" for shop in ("atelier", "bazaar") for label in ("hat", "mug")))
    (note,) = inspected(tmp_path, one_merchant=False).notes
    assert "taken for 2 merchants" in note and "atelier, bazaar" in note and "--layout product" in note


@pytest.mark.parametrize("one_merchant", [True, False])
@pytest.mark.parametrize("flat", ["test/1.png,test/2.png", "test/1.png,unlabeled/1.png,unlabeled/2.png"])
def test_photos_for_test_in_one_folder_are_no_class(tmp_path: Path, flat: str, one_merchant: bool) -> None:
    photos(tmp_path, "train/hat/1.png", "train/mug/1.png", *flat.split(","))
    found = inspected(tmp_path, one_merchant=one_merchant)
    assert found.splits[0].classes == {"hat": 1, "mug": 1} and found.splits[0].photos == 2
    assert len(found.skipped) == len(flat.split(","))


@pytest.mark.parametrize(
    "name",
    [
        "train.txt",
        "test.csv",
        "train_test_split.txt",
        "_annotations.coco.json",
        "labels.csv",
        "meta/val.json",
    ],
)
def test_lists_beside_photos_are_told(tmp_path: Path, name: str) -> None:
    photos(tmp_path, "photos/hat/1.png", "photos/mug/1.png")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("hat/1.png\n")
    assert any(f"{Path(name).name} may say" in note for note in inspected(tmp_path).notes)


def test_a_table_with_splits_beside_photos_is_told_and_others_are_not(tmp_path: Path) -> None:
    photos(tmp_path, "hat/1.jpg", "hat/2.jpg", "mug/1.jpg")
    (tmp_path / "products.csv").write_text("product,photo,category\nfelt,hat/1.jpg,hat\n")
    (tmp_path / "hat" / "1.jpg.supplemental-metadata.json").write_text(json.dumps({"title": "1.jpg"}))
    (tmp_path / "hat" / "2.jpg.xmp").write_text("<x:xmpmeta/>")
    found = inspected(tmp_path)
    assert found.notes == () and found.skipped == () and len(found.ignored) == 3
    (tmp_path / "products.csv").write_text("filename,category,subset\nhat/1.jpg,hat,test\n")
    assert any("products.csv may say" in note for note in inspected(tmp_path).notes)


def test_a_table_that_trains_on_photos_in_test_folders_is_told(tmp_path: Path) -> None:
    photos(tmp_path, "train/1.png", "test/1.png", "test/2.png")
    rows = ["path,label", "train/1.png,hat", "test/1.png,mug", "test/2.png,hat"]
    (tmp_path / "all.csv").write_text("\n".join(rows))
    assert any(
        "2 photos lie in folders named like another split" in n for n in inspect(tmp_path / "all.csv").notes
    )
    rows = ["path,label,split", "train/1.png,hat,", "test/2.png,hat,test"]
    (tmp_path / "all.csv").write_text("\n".join((*rows, "test/1.png,mug,test", "train/2.png,mug,")))
    photos(tmp_path, "train/1.png", "train/2.png")
    assert not any("named like" in note for note in inspect(tmp_path / "all.csv").notes)


def test_packed_records_are_named(tmp_path: Path) -> None:
    photos(tmp_path, "hat/1.png", "mug/1.png")
    (tmp_path / "hat-train.tfrecord-00000-of-00001").write_bytes(b"x")
    found = inspected(tmp_path)
    assert [skip.reason.split(":")[0] for skip in found.skipped] == ["packed records, not a photo"]


@pytest.mark.parametrize(
    ("paths", "says"),
    [
        (["images/1.png", "images/2.png"], "labels.csv can be given in place of the folder"),
        (
            ["hat/felt/photos/1.png", "mug/tall/photos/1.png"],
            "or --layout product",
        ),
        (["train/1.png", "val/1.png"], "give a CSV file with the columns path, label and split"),
    ],
)
def test_folders_without_classes_say_what_to_do(tmp_path: Path, paths: list[str], says: str) -> None:
    photos(tmp_path, *paths)
    (tmp_path / "labels.csv").write_text("id,breed\n1,hat\n")
    with pytest.raises(DataError, match=says) as caught:
        inspect(tmp_path, one_merchant=True)
    assert "\n" not in str(caught.value)
