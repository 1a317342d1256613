"""A bundle is data that is checked: whatever doesn't fit its manifest is refused with one line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from PIL import Image

from fedrec.errors import DataError
from fedrec.recognition.bundle.card import card
from fedrec.recognition.bundle.manifest import GRAPH, MANIFEST, read_manifest
from fedrec.recognition.bundle.photo_inputs import PhotoInput
from fedrec.recognition.model import open_model
from tests.support.bundles import CLASSES, SCALE, tiny_graph, tiny_manifest, write_tiny_bundle


def photo(colour: tuple[int, int, int], size: tuple[int, int] = (40, 24)) -> Image.Image:
    return Image.new("RGB", size, colour)


def test_what_a_model_says_is_what_a_loop_computes(tmp_path: Path) -> None:
    model = open_model(write_tiny_bundle(tmp_path / "m"))
    photos = [
        photo((250, 10, 30)),
        photo((0, 90, 200)),
        photo((40, 200, 0)),
        photo((9, 9, 9)),
        photo((1, 2, 3)),
    ]
    for each, found in zip(photos, model.recognise(photos), strict=True):
        means = np.asarray(each, dtype=np.float64).mean(axis=(0, 1)) / 255
        scores = SCALE * means
        probabilities = np.exp(scores) / np.exp(scores).sum()
        assert found.probabilities == pytest.approx(probabilities, abs=1e-5)
        order = np.argsort(-scores)
        assert [label for label, _ in found.top(2)] == order[:2].tolist()
        assert [share for _, share in found.top(2)] == pytest.approx(probabilities[order[:2]], abs=1e-5)
        vector = np.concatenate([means / np.linalg.norm(means), 0.5 * np.sqrt(probabilities)])
        assert found.embedding == pytest.approx(vector / np.linalg.norm(vector), abs=1e-5)
    assert model.embed(photos) == pytest.approx(np.stack([r.embedding for r in model.recognise(photos)]))
    assert model.classes == CLASSES and model.dimension == 6


def test_a_backbone_alone_has_vectors_and_no_classes(tmp_path: Path) -> None:
    model = open_model(write_tiny_bundle(tmp_path / "m", classes=False))
    found = model.recognise([photo((0, 0, 255))])[0]
    assert found.embedding == pytest.approx([0, 0, 1]) and found.probabilities.size == 0
    assert "without any training" in model.title and model.embed([]).shape == (0, 3)


def test_another_graph_or_another_preparation_is_another_embedding() -> None:
    made = tiny_manifest(b"graph")
    squashed = made.model_copy(
        update={"inputs": (PhotoInput(name="wide16", size=16, channels=3, fit="squash"),)}
    )
    renamed = made.model_copy(update={"model": "other"})
    assert len({made.embedding_id, tiny_manifest(b"other").embedding_id, squashed.embedding_id}) == 3
    assert renamed.embedding_id == made.embedding_id


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda m: m.update(version=2), "newer version of fedrec"),
        (lambda m: m.update(version=0), "version must be 1"),
        (lambda m: m.update(classes=["a", "a", "b"]), "two classes"),
        (lambda m: m.update(classes=[]), "a model has classes"),
        (lambda m: m.update(extra=1), "extra"),
        (lambda m: m["graph"].update(sha256="0" * 64), "SHA-256"),
        (lambda m: m["graph"].update(bytes=5), "size"),
        (lambda m: m.update(evidence=None), "evidence is given exactly where there are classes"),
        (lambda m: m.update(privacy=None), "has classes, a training and a guarantee"),
        (lambda m: m["graph"].update(opset=m["graph"]["opset"] - 1), "isn't of the kind that the manifest"),
        (lambda m: m.update(embedding=7), "embedding of 6 values, and the manifest names 7"),
        (lambda m: m.update(classes=["a", "b"]), "of 3 classes, and the manifest names 2"),
        (lambda m: m["inputs"][0].update(size=32), "other pictures"),
        (lambda m: m["inputs"][0].update(size=10**9), "inputs"),
        (lambda m: m["inputs"].append(dict(m["inputs"][0])), "one name"),
        (lambda m: m.update(evidence="occlusion"), "evidence"),
        (lambda m: m["calibration"].update(temperature=0), "temperature"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(tmp_path: Path, change: Change, told: str) -> None:
    folder = write_tiny_bundle(tmp_path / "m")
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=told) as caught:
        open_model(folder).recognise([photo((1, 2, 3))])
    assert len(str(caught.value).splitlines()) == 1


@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_whatever_is_no_manifest_is_refused(content: bytes) -> None:
    with pytest.raises(DataError, match="is no manifest of a bundle"):
        read_manifest(content, where="model.json")


def _replaced(folder: Path, graph: onnx.ModelProto) -> Path:
    content = graph.SerializeToString()
    (folder / GRAPH).write_bytes(content)
    manifest = tiny_manifest(content)
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    return folder


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("operator", "isn't allowed"),
        ("domain", "only ONNX's standard operators"),
        ("external", "in another file"),
        ("type", "takes other pictures"),
        ("outputs", "gives other outputs"),
    ],
)
def test_a_graph_that_could_do_more_is_refused(tmp_path: Path, kind: str, told: str) -> None:
    graph = tiny_graph()
    if kind == "operator":
        graph.graph.node.append(helper.make_node("RandomNormal", [], ["noise"], shape=[1]))
    elif kind == "domain":
        graph.graph.node.append(helper.make_node("Anything", ["scores"], ["more"], domain="com.example"))
    elif kind == "external":
        tensor = graph.graph.initializer[0]
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="/etc/passwd")
    elif kind == "type":
        graph.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    else:
        del graph.graph.output[1]
    with pytest.raises(DataError, match=told):
        open_model(_replaced(write_tiny_bundle(tmp_path / "m"), graph))


SIZE = [1 << 15, 1 << 15]
"""Of 4 GiB in float32."""
HUGE = {
    "ConstantOfShape": ["size"],
    "Expand": ["one", "size"],
    "Tile": ["one", "size"],
    "Pad": ["one", "around"],
    "Resize": ["one", "", "", "size"],
    "OneHot": ["rows", "length", "off_on"],
    "MatMul": ["column", "row"],
    "Add": ["column", "row"],
}
STORED = {
    "one": np.ones((1, 1), np.float32),
    "size": np.array(SIZE),
    "around": np.array([0, 0, *SIZE]),
    "rows": np.arange(SIZE[0]),
    "length": np.array(SIZE[1:]),
    "off_on": np.array([0, 1], np.float32),
    "column": np.ones((SIZE[0], 1), np.float32),
    "row": np.ones((1, SIZE[1]), np.float32),
    "far": np.array([*SIZE, 1, 3]),
}


def _adding(graph: onnx.ModelProto, value: str) -> onnx.ModelProto:
    """Add the largest number of a value to the scores."""
    scores = next(each for each in graph.graph.node if "scores" in each.output)
    scores.output[0] = "plain"
    place = list(graph.graph.node).index(scores) + 1
    graph.graph.node.insert(place, helper.make_node("Add", ["plain", "largest"], ["scores"]))
    graph.graph.node.insert(place, helper.make_node("ReduceMax", [value], ["largest"], keepdims=0))
    return graph


@pytest.mark.parametrize("kind", [*HUGE, "of the photo"])
def test_a_small_graph_that_asks_for_much_memory_gets_none(tmp_path: Path, kind: str) -> None:
    graph = _adding(tiny_graph(), "huge")
    inputs = HUGE.get(kind, ["means", "far"])
    for name in inputs:
        if name in STORED:
            graph.graph.initializer.append(numpy_helper.from_array(STORED[name], name))
    place = next(i for i, each in enumerate(graph.graph.node) if "huge" in each.input)
    made = helper.make_node("Expand" if kind not in HUGE else kind, inputs, ["huge"])
    graph.graph.node.insert(place, made)
    before = psutil.Process().memory_info().rss
    model = open_model(_replaced(write_tiny_bundle(tmp_path / "m"), graph))
    with pytest.raises(DataError, match="more than 2 GiB"):
        model.recognise([photo((1, 2, 3))])
    assert psutil.Process().memory_info().rss - before < 100 << 20


def _busy(parts: int, numbers: int) -> onnx.ModelProto:
    """The tiny graph, whose scores take so many values of so many numbers, all at the same time."""
    graph = _adding(tiny_graph(), "sum")
    nodes = [helper.make_node("Add", ["photo", f"step{part}"], [f"start{part}"]) for part in range(parts)]
    nodes += [helper.make_node("Expand", [f"start{part}", "long"], [f"part{part}"]) for part in range(parts)]
    nodes.append(helper.make_node("Sum", [f"part{part}" for part in range(parts)], ["sum"]))
    nodes.insert(0, helper.make_node("ReduceMax", ["means"], ["photo"], keepdims=0))
    place = next(i for i, each in enumerate(graph.graph.node) if "sum" in each.input)
    for node in reversed(nodes):
        graph.graph.node.insert(place, node)
    stored = {f"step{part}": np.array([float(part)], np.float32) for part in range(parts)}
    for name, values in (stored | {"long": np.array([numbers])}).items():
        graph.graph.initializer.append(numpy_helper.from_array(values, name))
    return graph


@pytest.mark.slow  # in make test-long: it takes 2 GiB
def test_one_bundle_does_not_keep_memory_from_another(tmp_path: Path) -> None:
    """Four photos of 0.7 GiB at once; then a value of 0.9 GiB, where 13 of 100 MiB have lain."""
    greedy = open_model(_replaced(write_tiny_bundle(tmp_path / "greedy"), _busy(6, 25 << 20)))
    large = open_model(_replaced(write_tiny_bundle(tmp_path / "large"), _busy(1, 225 << 20)))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: greedy.recognise([photo((1, 2, 3))]), range(4)))
    assert len(found) == 4
    assert large.recognise([photo((1, 2, 3))])


def test_nothing_is_computed_while_a_graph_is_loaded(tmp_path: Path) -> None:
    """A value of 4 kB that doubles 17 times would be 512 MiB, and all of them together 1 GiB."""
    graph = _adding(tiny_graph(), "twice16")
    graph.graph.initializer.append(numpy_helper.from_array(np.ones(1024, np.float32), "twice"))
    for step in reversed(range(17)):
        last = f"twice{step - 1}" if step else "twice"
        graph.graph.node.insert(0, helper.make_node("Concat", [last, last], [f"twice{step}"], axis=0))
    folder = _replaced(write_tiny_bundle(tmp_path / "m"), graph)
    before = psutil.Process().memory_info().rss
    open_model(folder)
    assert psutil.Process().memory_info().rss - before < 100 << 20


def test_scores_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    model = open_model(write_tiny_bundle(tmp_path / "m", scale=float("inf")))
    with pytest.raises(DataError, match="no usable numbers"):
        model.recognise([photo((1, 2, 3))])


@pytest.mark.parametrize("wrong", ["probabilities", "embedding"])
def test_numbers_that_are_no_probabilities_or_no_direction_are_refused(tmp_path: Path, wrong: str) -> None:
    graph = tiny_graph()
    node = next(each for each in graph.graph.node if wrong in each.output)
    node.output[0] = "before"
    for each in graph.graph.node:
        each.input[:] = ["before" if name == wrong else name for name in each.input]
    graph.graph.node.append(helper.make_node("Add", ["before", "scale"], [wrong]))
    model = open_model(_replaced(write_tiny_bundle(tmp_path / "m"), graph))
    with pytest.raises(DataError, match=f"usable numbers as {wrong}"):
        model.recognise([photo((1, 2, 3))])


def test_a_missing_or_cut_off_bundle_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no model bundle: it doesn't exist; 'fedrec model export RUN"):
        open_model(tmp_path / "nothing")
    with pytest.raises(DataError, match="no model bundle: it has no model"):
        open_model(tmp_path)
    folder = write_tiny_bundle(tmp_path / "m")
    content = (folder / GRAPH).read_bytes()
    (folder / GRAPH).write_bytes(content[:-1])
    with pytest.raises(DataError, match="size"):
        open_model(folder)


def test_the_card_names_figures_and_guarantee_and_nobody_can_write_markup_into_it() -> None:
    made = tiny_manifest(b"graph").model_copy(update={"classes": ("<b>x</b>", "[a](http://b)", "c")})
    made = made.model_copy(update={"warnings": ("one\n\n~~~~\nhidden",)})
    text = card(made)
    assert "~~~~" not in text.replace("\\~", "")
    assert "epsilon | 2 |" in text and hashlib.sha256(b"graph").hexdigest() in text
    assert "<b>" not in text and "[a](" not in text and "UNCALIBRATED" in text
    assert text.endswith(".\n")


@given(
    st.integers(8, 300),
    st.integers(8, 300),
    st.sampled_from(["crop", "squash"]),
    st.floats(1, 2),
)
def test_what_a_picture_shows_lies_within_the_photo(width: int, height: int, fit: Any, margin: float) -> None:
    each = PhotoInput(name="a", size=16, channels=3, fit=fit, margin=margin)
    left, top, right, bottom = each.shown((width, height))
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
    assert each.picture(photo((5, 6, 7), (width, height))).shape == (16, 16, 3)
