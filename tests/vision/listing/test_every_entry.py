"""Every entry of a folder is used, or left out for a reason; a photo is one by its content."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

import pytest

from fedrec.vision.datasets import open_folder
from fedrec.vision.inspection import FolderSummary, inspect
from fedrec.vision.listing import file_contents, folder_tree
from tests.support.pictures import picture

NOT_READ = {
    "a.tga": b"\0\0\2" + b"\0" * 9,
    "b.ppm": b"P6 1 1 255\nabc",
    "c.x3f": b"FOVb",
    "d.eps": b"%!PS-Adobe",
    "e.tar": b"hat/1.jpg".ljust(257, b"\0") + b"ustar",
    "f.jpg": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
    "g.jpg": b"\0" * 600,
    "h.ts": (b"G" + b"\0" * 187) * 3,
    "i.txt": b"P1 3 bags",
}
CDN_NAMES = (
    "x.jpg_640x640q90",
    "x.jpg_640x640q90.jpg_.webp",
    "photo.jpg?x=1&w=200",
    "O1CN01abcdef",
    "42",
    "x.jpg.download",
    "front.txt",
    "x.JPG!large",
    "a b%20c",
    "-rf.jpg",
)


def named(source: Path, target: Path) -> Path:
    """Put a photo under a name that no program would give it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(source, target)
    return target


def entries(folder: Path) -> int:
    """Count entries without the product's code, links to folders as one each."""
    return sum(len(folders) + len(files) for _, folders, files in os.walk(folder))


def account(found: FolderSummary) -> dict[str, str]:
    assert sum(found.left_out.values()) == len(found.skipped) + len(found.ignored)
    return {entry.name: entry.reason for entry in (*found.skipped, *found.ignored)}


def shop(folder: Path, *classes: str) -> Path:
    for number, name in enumerate(classes or ("hat", "mug")):
        for shade in range(2):
            picture(folder / name / f"{shade}.png", 40 * number + shade)
    return folder


def test_photos_of_any_name_are_used_and_counted(tmp_path: Path) -> None:
    for number, name in enumerate(CDN_NAMES):
        for label in ("hat", "mug"):
            made = picture(tmp_path / "made.png", number)
            named(made, tmp_path / "shop" / label / name)
    found = inspect(tmp_path / "shop")
    assert found.splits[0].classes == {"hat": len(CDN_NAMES), "mug": len(CDN_NAMES)}
    assert not found.left_out and found.entries == entries(tmp_path / "shop")


def test_everything_else_is_left_out_for_a_reason(tmp_path: Path) -> None:
    root = shop(tmp_path / "shop")
    hat = root / "hat"
    for name in (
        ".DS_Store",
        "._0.png",
        "Thumbs.db",
        "desktop.ini",
        "ehthumbs.db",
        "Icon\r",
        "~$prices.xlsx",
    ):
        (hat / name).write_bytes(b"\0\5\x16\7")
    for folder in ("__MACOSX/hat", "lost+found", ".git/objects", "@eaDir", "hat/thumbs", "$RECYCLE.BIN"):
        picture(root / folder / "y.png", 9)
    (hat / "notes.txt").write_text("no photo")
    (hat / ".IMG_1.jpg.icloud").write_bytes(b"bplist00")
    (hat / "page.jpg").write_text("<html>403</html>")
    (hat / "empty.jpg").touch()
    (hat / "empty").touch()
    (hat / "all.zip").write_bytes(b"PK\3\4")
    (hat / "film.mp4").write_bytes(b"\0\0\0\x14ftypisom\0\0\0\0isom")
    picture(root / "stray.png", 7)
    picture(hat / "old" / "z.png", 8)
    os.mkfifo(hat / "pipe")
    os.mkfifo(hat / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(hat / "bound.png"))
        (hat / "dead.png").symlink_to("nowhere")
        (hat / "itself.png").symlink_to("itself.png")
        (root / "mug" / "up").symlink_to("..", target_is_directory=True)
        found = inspect(root, one_merchant=True)
    assert found.entries == entries(root)
    assert found.splits[0].photos == 4
    why = account(found)
    assert {name: why[f"hat/{name}"] for name in (".DS_Store", "Thumbs.db", "~$prices.xlsx")} == {
        ".DS_Store": folder_tree.HIDDEN,
        "Thumbs.db": folder_tree.SYSTEM,
        "~$prices.xlsx": folder_tree.SYSTEM,
    }
    assert why["hat/thumbs"] == folder_tree.THUMBNAILS
    assert why["hat/thumbs/y.png"] == f"in {folder_tree.THUMBNAILS}"
    assert why[".git/objects/y.png"] == "in a folder that is hidden"
    assert why["hat/empty.jpg"] == why["hat/empty"] == file_contents.EMPTY
    assert why["hat/page.jpg"] == file_contents.WEB_PAGE
    assert why["hat/notes.txt"] == file_contents.NOT_A_PHOTO
    assert why["hat/pipe"] == why["hat/pipe.jpg"] == why["hat/bound.png"] == folder_tree.NOT_REGULAR
    assert why["hat/dead.png"] == why["hat/itself.png"] == folder_tree.DEAD_LINK
    assert why["mug/up"] == folder_tree.LOOP
    assert why["stray.png"] == "not in a class folder"
    assert why["hat/old/z.png"] == "deeper than the class folders"
    assert "archive" in why["hat/all.zip"] and "film" in why["hat/film.mp4"]
    # What its owner might miss stands apart from what is no photo.
    missed = {skip.name for skip in found.skipped}
    assert why["hat/.IMG_1.jpg.icloud"] == folder_tree.NOT_HERE and "hat/.IMG_1.jpg.icloud" in missed
    assert {"hat/page.jpg", "hat/empty.jpg", "hat/all.zip", "stray.png", "hat/pipe.jpg"} <= missed
    assert not missed & {"hat/.DS_Store", "hat/notes.txt", "hat/empty", "hat/pipe", ".git/objects/y.png"}


def test_linked_photos_and_folders_are_used_once_a_link(tmp_path: Path) -> None:
    root = shop(tmp_path / "shop")
    elsewhere = shop(tmp_path / "elsewhere", "shoe")
    (root / "shoe").symlink_to(elsewhere / "shoe", target_is_directory=True)
    (root / "shoe again").symlink_to(elsewhere / "shoe", target_is_directory=True)
    (root / "mug" / "linked").symlink_to(picture(elsewhere / "one.png", 77))
    found = inspect(root)
    assert found.splits[0].classes == {"hat": 2, "mug": 3, "shoe": 2}
    assert account(found) == {"shoe again": folder_tree.SECOND_LINK}


def test_products_that_link_to_one_folder_are_each_read(tmp_path: Path) -> None:
    """Whether a product is read must not follow from another one, which also links there."""
    photos = picture(tmp_path / "store" / "x.png", 1).parent
    for shade, label in enumerate(("cap", "hat")):
        picture(tmp_path / "shop" / label / "own" / "x.png", 50 + shade)
        (tmp_path / "shop" / label / "linked").symlink_to(photos, target_is_directory=True)

    def products() -> set[tuple[str, str]]:
        train = open_folder(tmp_path / "shop", layout="product", unit="product", one_merchant=True).train
        return {(train.classes[record.label], record.name) for record in train.records}

    both = {(label, name) for label in ("cap", "hat") for name in ("own", "linked")}
    assert products() == both
    (tmp_path / "shop" / "cap" / "linked").unlink()
    assert products() == both - {("cap", "linked")}


def test_folders_and_files_without_permission_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = shop(tmp_path / "shop")
    (root / "locked").mkdir()
    scandir, opened = os.scandir, os.open

    def scan(path: Path) -> object:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    def no_mug(path: Path, flags: int, mode: int = 0o777) -> int:
        if Path(path) == root / "mug" / "1.png":
            raise PermissionError(13, "Permission denied")
        return opened(path, flags, mode)

    # The tests may run as a user to whom everything is permitted.
    monkeypatch.setattr(os, "scandir", scan)
    monkeypatch.setattr(os, "open", no_mug)
    found = inspect(root)
    assert account(found) == {
        "locked": folder_tree.UNLISTABLE,
        "mug/1.png": "can't be opened (Permission denied)",
    }
    assert found.splits[0].photos == 3 and found.entries == 7


def test_a_file_that_becomes_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.jpg")
    found = file_contents.unread(tmp_path / "x.jpg")
    assert found is not None and found.reason == folder_tree.NOT_REGULAR


def test_links_between_folders_end(tmp_path: Path) -> None:
    """Ten folders that all link to each other have ten factorial paths."""
    for number in range(10):
        picture(tmp_path / f"c{number}" / "x.png", number)
        for other in range(10):
            (tmp_path / f"c{number}" / f"l{other}").symlink_to(f"../c{other}", target_is_directory=True)
    splits = open_folder(tmp_path, one_merchant=True)
    assert len(splits.train) == 10


def test_pictures_films_and_archives_that_are_not_read_are_called_what_they_are(tmp_path: Path) -> None:
    root = shop(tmp_path)
    for name, content in NOT_READ.items():
        (root / "hat" / name).write_bytes(content)
    why = account(inspect(root))
    words = ["TGA", "PNM", "RAW", "PostScript", "archive", "LFS", "zeros", "film"]
    for name, word in zip(sorted(NOT_READ), words, strict=False):
        assert word in why[f"hat/{name}"], name
    assert why["hat/i.txt"] == file_contents.NOT_A_PHOTO


def test_what_is_nested_too_deep_is_counted(tmp_path: Path) -> None:
    root = shop(tmp_path)
    picture(root.joinpath("hat", *["x"] * (folder_tree.MOST_LEVELS + 5), "a.png"), 9)
    assert inspect(root, one_merchant=True).entries == entries(root)
