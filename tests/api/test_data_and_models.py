"""Arrays, data sets, folders and models of a user's own: what they are read as, and what is refused."""

from __future__ import annotations

import runpy
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from fedrec.api.user_data import Labelled, MapDataset, read_data, read_pictures
from fedrec.api.user_model import code_name
from fedrec.errors import ConfigError, DataError
from fedrec.privacy.dp.record_isolation import check_isolation
from fedrec.vision.imageset import ImageSet
from fedrec.vision.synthetic import generate, write

RNG = np.random.default_rng(7)
GREY = RNG.integers(0, 256, (6, 12, 12), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (6, 12, 12, 3), dtype=np.uint8)
LABELS = [0, 1, 2, 0, 1, 2]


class Pairs:
    """A map-style data set."""

    def __init__(
        self, pictures: list[object], labels: list[object], classes: list[str] | None = None
    ) -> None:
        self.pictures, self.labels = pictures, labels
        if classes is not None:
            self.classes = classes

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[object, object]:
        return self.pictures[index], self.labels[index]


def digests(images: ImageSet) -> set[bytes]:
    return {record.digest for record in images.records}


def train_of(*merchants: Labelled, classes: list[str] | None = None) -> ImageSet:
    return read_data(merchants, test=None, classes=classes).train


@pytest.mark.parametrize(
    "given",
    [
        (COLOUR, LABELS),
        (torch.from_numpy(COLOUR).permute(0, 3, 1, 2), torch.tensor(LABELS)),
        (np.moveaxis(COLOUR, 3, 1), np.array(LABELS)),
        (COLOUR / np.float32(255), LABELS),
        (torch.from_numpy(COLOUR).permute(0, 3, 1, 2).float() / 255, torch.tensor(LABELS)),
        Pairs([Image.fromarray(picture) for picture in COLOUR], list(LABELS)),
        Pairs([torch.from_numpy(picture).permute(2, 0, 1) for picture in COLOUR], list(LABELS)),
    ],
    ids=["numpy", "torch", "channels first", "floats", "torch floats", "PIL", "tensors one by one"],
)
def test_every_form_of_the_same_photos_is_read_as_the_same_records(given: Labelled) -> None:
    plain = ImageSet.from_arrays(["0", "1", "2"], COLOUR, LABELS, names=[str(i) for i in range(6)])
    found = train_of(given)
    assert digests(found) == digests(plain)
    assert found.classes == ("0", "1", "2") and found.labels.tolist() == LABELS
    assert {record.merchant for record in found.records} == {"merchant-00"}
    assert found.pixels() is not None


def test_grey_pictures_keep_their_one_channel_and_merchants_keep_their_names() -> None:
    splits = read_data(
        {"anna": (GREY[:3], LABELS[:3]), "bo": (GREY[3:], LABELS[3:])}, test=None, classes=None
    )
    pixels = splits.train.pixels()
    assert pixels is not None and pixels.shape == (6, 12, 12, 1)
    assert [record.merchant for record in splits.train.records] == ["anna"] * 3 + ["bo"] * 3
    assert splits.test is None


def test_a_number_is_named_by_the_classes_and_by_those_of_a_data_set() -> None:
    names = ["shirt", "shoe", "hat"]
    by_option = train_of((COLOUR, LABELS), classes=names)
    by_data_set = train_of(Pairs(list(COLOUR), list(LABELS), names))
    by_name = train_of((COLOUR, [names[label] for label in LABELS]))
    assert by_option.classes == ("shirt", "shoe", "hat")
    assert digests(by_option) == digests(by_data_set) == digests(by_name)
    many = train_of((np.concatenate([COLOUR, COLOUR[:5] // 2]), range(11)))
    assert many.classes == tuple(str(label) for label in range(11))


def test_pictures_of_many_sizes_and_a_folder_are_joined_with_arrays(tmp_path: Path) -> None:
    write(generate(merchants=1, per_merchant=20, size=16, seed=3, validation=10, test=10), tmp_path)
    folder = tmp_path / "train" if (tmp_path / "train").is_dir() else tmp_path
    merchant = next(path for path in sorted(folder.iterdir()) if path.is_dir())
    classes = sorted(path.name for path in merchant.iterdir())
    sizes = Pairs([COLOUR[0], COLOUR[1][:10]], [classes[0], classes[1]])
    found = train_of(sizes, merchant)
    assert found.pixels() is None
    assert [record.merchant for record in found.records][:3] == ["merchant-00"] * 2 + ["merchant-01"]
    assert found.image(1).size == (12, 10)
    assert np.array_equal(np.asarray(found.image(0)), COLOUR[0])
    on_disk = next(merchant.glob(f"{found.classes[found.records[2].label]}/*"))
    assert found.image(2).size == Image.open(on_disk).size
    assert all(found.holds(index) for index in range(len(found)))


def test_copies_within_a_merchant_are_dropped_and_those_of_others_are_kept() -> None:
    twice = np.concatenate([COLOUR, COLOUR[:2]])
    found = train_of((twice, [*LABELS, *LABELS[:2]]), (COLOUR, LABELS))
    assert len(found) == 12 and found.duplicates_dropped == 2


@pytest.mark.parametrize(
    ("merchants", "told"),
    [
        ([], "there are no merchants"),
        ([(COLOUR, LABELS[:5])], "merchant merchant-00: 6 pictures have 5 labels"),
        ([(COLOUR.astype(np.int64), LABELS)], "uint8, or floats from 0 to 1, not int64"),
        ([(COLOUR / 100.0, LABELS)], "lie between 0 and 1"),
        ([(COLOUR[..., :2], LABELS)], "neither 1 nor 3 channels"),
        ([(COLOUR, [0.5] * 6)], "a label is a number from 0 up, or a name, not 0.5"),
        ([(COLOUR, [-1] * 6)], "not -1"),
        ([5], "not a int"),
        ((COLOUR, LABELS), "merchant merchant-00: give .pictures, labels.*not a ndarray"),
        (COLOUR, "merchants: give the photos of each"),
        ("photos", "merchants: give the photos of each"),
        ([Pairs([3, 4], [0, 1])], "a picture is an array or a PIL image, not a int"),
        ([(COLOUR[:0], [])], "there is no photo"),
    ],
)
def test_what_cant_be_read_is_refused_in_one_line(merchants: list[Labelled], told: str) -> None:
    with pytest.raises(DataError, match=told) as refused:
        read_data(merchants, test=None, classes=None)
    assert "\n" not in str(refused.value)


def test_a_label_without_a_class_and_a_test_of_other_classes_are_refused() -> None:
    with pytest.raises(DataError, match="label 2 has no name: there are 2 classes"):
        train_of((COLOUR, LABELS), classes=["a", "b"])
    with pytest.raises(DataError, match="test: label '7' is none of the classes"):
        read_data([(COLOUR, LABELS)], test=(COLOUR, [7] * 6), classes=None)


def test_pictures_alone_are_read_as_those_with_labels() -> None:
    listed = read_pictures([Image.fromarray(picture) for picture in COLOUR])
    array = read_pictures(COLOUR)
    assert np.array_equal(listed.pixels(), array.pixels())  # type: ignore[arg-type]
    assert isinstance(Pairs([], []), MapDataset)


class Net(nn.Module):
    """A small network that keeps records apart."""

    def __init__(self, *, outputs: int = 3, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.norm = nn.Identity() if norm is None else norm
        self.scores = nn.Linear(3 * 8 * 8, outputs)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.scores(self.norm(pictures).flatten(1))
        return scores


class Mixing(Net):
    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return super().forward(pictures - pictures.mean(dim=0))


class Chance(Net):
    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return F.dropout(super().forward(pictures), p=0.5)


class Frozen(Net):
    def __init__(self) -> None:
        super().__init__()
        self.fixed = nn.Parameter(torch.rand(3), requires_grad=False)


def seeded(make: Callable[[], nn.Module]) -> Callable[[int], nn.Module]:
    def build(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return make()

    return build


def test_a_model_that_keeps_records_apart_passes_with_dropout_and_group_norm_in_it() -> None:
    check_isolation(seeded(Net), (3, 8, 8), classes=3)
    check_isolation(seeded(lambda: Net(norm=nn.GroupNorm(1, 3))), (3, 8, 8), classes=3)
    check_isolation(seeded(lambda: Net(norm=nn.Dropout(0.5))), (3, 8, 8), classes=3)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Net(norm=nn.BatchNorm2d(3)), "BatchNorm"),
        (Mixing, "depend on the others in its batch, or on chance"),
        (Chance, "depend on the others in its batch, or on chance"),
        (Frozen, "differ each time it is built"),
        (lambda: Net(outputs=4), r"must give \(3, 3\) scores"),
        (lambda: nn.Linear(4, 3), "can't take an input of shape"),
    ],
)
def test_a_model_that_clipping_would_not_bound_is_refused(make: Callable[[], nn.Module], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        check_isolation(seeded(make), (3, 8, 8), classes=3)


SCRIPT = """
import sys
from torch import nn
from fedrec.api.user_model import code_name
{blank}
WIDTH = {width}
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.scores = nn.Linear(WIDTH, 2)
    def forward(self, x):
        return self.scores(x{change})
print(code_name(lambda: Net()))
"""


def test_an_own_model_is_named_by_its_code_and_not_by_where_it_stands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def written(**values: object) -> Path:
        script = tmp_path / "script.py"
        script.write_text(SCRIPT.format(**({"blank": "", "width": 8, "change": ""} | values)))
        return script

    def named(**values: object) -> str:
        done = subprocess.run([sys.executable, written(**values)], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def named_here(**values: object) -> str:
        runpy.run_path(str(written(**values)), run_name="__main__")
        return capsys.readouterr().out.strip()

    first = named()
    assert first.startswith("own-") and len(first) == 20
    further_down = {"blank": "\n# a comment further up\n"}
    assert named(**further_down) == first, "in another process"
    here = named_here()
    assert here.startswith("own-") and named_here(**further_down) == here
    assert named_here(change=" * 2") != here
    assert named_here(width=9) != here


def test_a_model_that_cant_travel_is_refused() -> None:
    lock = threading.Lock()
    with pytest.raises(ConfigError, match="can't be sent to the worker processes"):
        code_name(lambda: Net(outputs=3 if lock.locked() else 2))
