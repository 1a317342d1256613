"""A smaller model is kept only if it agrees with the original and no other is in nothing worse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from fedrec.errors import ConfigError
from fedrec.recognition.bundle.card import card
from fedrec.recognition.bundle.manifest import CompressionRow, Manifest
from fedrec.recognition.bundle.photo_inputs import prepared
from fedrec.recognition.bundle.session import Session
from fedrec.recognition.compression import compressing, distillation
from fedrec.recognition.compression.choosing import best, judged
from fedrec.recognition.compression.compressing import compressed
from fedrec.recognition.compression.distillation import WEIGHT_DECAY, distilled, fitted_head, student_of
from fedrec.recognition.compression.measuring import Measurement, PhotoSample, agreement
from fedrec.recognition.compression.methods import Candidate
from fedrec.recognition.compression.mixed_precision import later, products
from fedrec.recognition.compression.photos import CompressionPhotos
from fedrec.recognition.compression.pruning import pruned
from fedrec.recognition.compression.quantisation import Layer, Quantiser, quantisable, quantised
from fedrec.recognition.export.bundles import Bundle, write_bundle
from fedrec.recognition.export.canonical_graph import canonical_graph
from fedrec.recognition.export.sources import Source
from fedrec.recognition.model import open_model
from fedrec.vision.models.centred_head import CentredHead
from tests.support.bundles import INPUT, SIDE, tiny_graph, tiny_manifest

CHANNELS = 48


def network() -> bytes:
    """The tiny model behind three convolutions: two that lose nothing of a colour, and their inverse."""
    model, rng = tiny_graph(), np.random.default_rng(0)
    orthogonal = np.linalg.qr(rng.normal(size=(CHANNELS, CHANNELS)))[0]
    first = orthogonal[:, :3].reshape(CHANNELS, 3, 1, 1) * np.geomspace(0.5, 2, CHANNELS)[:, None, None, None]
    middle = np.zeros((CHANNELS, CHANNELS, 3, 3))
    middle[:, :, 1, 1] = np.diag(1 / np.geomspace(0.5, 2, CHANNELS))
    last = orthogonal[:, :3].T.reshape(3, CHANNELS, 1, 1)
    weights = {"first": first, "middle": middle, "last": last}
    nodes = {node.output[0]: node for node in model.graph.node}
    convolutions = [
        helper.make_node("Conv", ["maps", "first"], ["one"]),
        helper.make_node("Conv", ["one", "middle"], ["two"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["two", "last"], ["restored"]),
    ]
    nodes["means"].input[0] = "restored"
    nodes["evidence_wide16"].input[0] = "restored"
    ordered = list(model.graph.node)
    at = next(i for i, node in enumerate(ordered) if node.output[0] == "maps") + 1
    ordered[at:at] = convolutions
    del model.graph.node[:]
    model.graph.node.extend(ordered)
    for name, values in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    return canonical_graph(model)


GRAPH = network()


def colours(count: int, seed: int) -> list[Image.Image]:
    rng = np.random.default_rng(seed)
    return [
        Image.fromarray(
            np.clip(rng.integers(0, 256, 3) + rng.integers(-9, 9, (20, 20, 3)), 0, 255).astype(np.uint8)
        )
        for _ in range(count)
    ]


def session(graph: bytes) -> Session:
    return Session(graph, inputs=(INPUT,), classes=3, embedding=6)


@pytest.fixture(scope="module")
def int8() -> bytes:
    return quantised(GRAPH, inputs=(INPUT,), photos=colours(16, seed=1))


def stored(graph: bytes) -> dict[str, NDArray[Any]]:
    model = onnx.load_model_from_string(graph)
    return {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}


def test_weights_are_rounded_to_integers_with_a_scale_of_each_channel(int8: bytes) -> None:
    """Against the definition: w = scale * integer, the largest of a channel being 127."""
    before, after = stored(GRAPH), stored(int8)
    for name in ("first", "middle", "last"):
        integers, scales = after[f"{name}_quantized"], after[f"{name}_scale"]
        assert integers.dtype == np.int8 and scales.shape == (len(before[name]),)
        largest = np.abs(before[name].astype(np.float64)).reshape(len(scales), -1).max(axis=1)
        np.testing.assert_allclose(scales, largest / 127, rtol=0.02)
        rebuilt = integers * scales.reshape(-1, 1, 1, 1)
        assert (np.abs(rebuilt - before[name]) <= 0.51 * scales.reshape(-1, 1, 1, 1)).all()


def test_the_head_stays_in_float_and_its_evidence_sums_to_the_scores(int8: bytes) -> None:
    model = onnx.load_model_from_string(int8)
    producers = {output: node for node in model.graph.node for output in node.output}
    for node in model.graph.node:
        if node.op_type != "Conv" and node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            weights = [producers[name] for name in node.input[1:] if name in producers]
            assert not any(each.op_type == "DequantizeLinear" for each in weights), node.op_type
    found = session(int8).run(prepared([INPUT], colours(4, seed=2)), evidence=True)
    sums = found.evidence["wide16"].mean(axis=(2, 3)) + found.offset
    np.testing.assert_allclose(sums, found.scores, atol=1e-4)
    assert {each.domain for each in model.opset_import} == {""}


def test_a_quantised_graph_is_smaller_and_says_nearly_the_same(int8: bytes) -> None:
    assert len(int8) < 0.4 * len(GRAPH)
    photos = colours(40, seed=3)
    float_, integer = (
        np.concatenate([session(graph).run(prepared([INPUT], [each])).probabilities for each in photos])
        for graph in (GRAPH, int8)
    )
    assert np.abs(float_ - integer).max() < 0.1
    assert not np.array_equal(float_, integer)


def chain(*groups: int) -> onnx.ModelProto:
    """Convolutions one after another, with so many groups."""
    nodes = [
        helper.make_node("Conv", [f"v{i}", f"w{i}"], [f"v{i + 1}"], name=f"conv{i}", group=count)
        for i, count in enumerate(groups)
    ]
    value = helper.make_tensor_value_info
    ends = [value(name, TensorProto.FLOAT, ["n", 8, SIDE, SIDE]) for name in ("v0", f"v{len(groups)}")]
    return helper.make_model(helper.make_graph(nodes, "chain", ends[:1], ends[1:]))


def test_a_depthwise_convolution_behind_the_first_stays_in_float_with_it() -> None:
    assert quantisable(chain(1, 8, 1, 8).graph) == ["conv2", "conv3"]
    assert quantisable(chain(1, 1, 8).graph) == ["conv0", "conv1", "conv2"]


def layer(*, depth: int, weights: int, work: int, is_product: bool = False) -> Layer:
    return Layer((f"at{depth}",), is_product, weights, work, depth)


def test_layers_are_told_with_their_sizes_and_what_stands_before_them() -> None:
    found = Quantiser(GRAPH, inputs=(INPUT,), photos=colours(4, seed=6)).layers
    pixels = SIDE**2
    assert [(each.weights, each.work, each.depth) for each in found] == [
        (3 * CHANNELS, 3 * CHANNELS * pixels, 0),
        (9 * CHANNELS**2, 9 * CHANNELS**2 * pixels, 1),
        (3 * CHANNELS, 3 * CHANNELS * pixels, 2),
    ]
    assert not any(each.is_product for each in found)


def test_only_the_layers_that_are_chosen_are_quantised() -> None:
    quantiser = Quantiser(GRAPH, inputs=(INPUT,), photos=colours(4, seed=6))
    after = stored(quantiser.made(later(quantiser.layers)))
    assert "middle_quantized" in after and after["first"].dtype == np.float32


def test_the_first_layers_stay_in_float_while_they_cost_a_tenth() -> None:
    first, second = layer(depth=0, weights=1, work=50), layer(depth=1, weights=90, work=49)
    beside, last = layer(depth=1, weights=1, work=1), layer(depth=2, weights=900, work=900)
    assert later([first, beside, second, last]) == (last,)
    dear = layer(depth=1, weights=9, work=51)
    assert later([first, beside, dear, last]) == (beside, dear, last), "all of one depth or none"
    with pytest.raises(ConfigError, match="too large a part"):
        later([layer(depth=0, weights=10, work=10), layer(depth=1, weights=10, work=10)])


def test_products_are_quantised_alone_where_they_hold_most_of_the_weights() -> None:
    convolution = layer(depth=0, weights=10, work=90)
    product = layer(depth=1, weights=90, work=10, is_product=True)
    assert products([convolution, product]) == (product,)
    with pytest.raises(ConfigError, match="those of convolutions"):
        products([layer(depth=0, weights=200, work=1), product])
    with pytest.raises(ConfigError, match="no convolutions"):
        products([product])


def test_ranges_are_computed_in_bounded_memory() -> None:
    """Of a value of 12 GiB, by a graph of 40 kB."""
    model = onnx.load_model_from_string(GRAPH)
    model.graph.initializer.append(numpy_helper.from_array(np.array([1 << 15, 1 << 15, 1, 3]), "far"))
    model.graph.node.append(helper.make_node("Expand", ["means", "far"], ["huge"]))
    model.graph.node.append(helper.make_node("Relu", ["huge"], ["unused"]))
    graph = canonical_graph(model)
    before = psutil.Process().memory_info().rss
    with pytest.raises(ConfigError, match="more than 2 GiB"):
        quantised(graph, inputs=(INPUT,), photos=colours(2, seed=7))
    assert psutil.Process().memory_info().rss - before < 100 << 20


def test_pruning_zeroes_the_smallest_weights_of_each_tensor() -> None:
    before, after = stored(GRAPH), stored(pruned(GRAPH, share=0.5))
    for name in ("first", "last"):
        order = np.sort(np.abs(before[name]).ravel())
        expected = np.where(np.abs(before[name]) < order[len(order) // 2], 0, before[name])
        np.testing.assert_array_equal(after[name], expected)
    np.testing.assert_array_equal(after["scale"], before["scale"])


def row(
    method: str, size: int, time: float, agreement: float, accuracy: float | None = None
) -> CompressionRow:
    return CompressionRow(
        method=method, bytes=size, milliseconds=time, agreement=agreement, accuracy=accuracy, verdict=""
    )


def test_only_sound_candidates_on_the_front_are_kept() -> None:
    rows = judged(
        [
            row("original", 100, 10.0, 1.0),
            row("same size, hardly faster", 100, 9.3, 0.99),
            row("same size, faster", 100, 8.9, 0.99),
            row("smaller", 50, 9.9, 0.98),
            row("small and fast", 30, 5.0, 0.975),
            row("worse than that", 30, 6.0, 0.975),
            row("wrong", 10, 1.0, 0.9699),
        ]
    )
    assert [each.verdict.split(":")[0] for each in rows] == [
        "original", "refused", "kept", "kept", "kept", "not on the front", "refused",
    ]  # fmt: skip
    chosen = best(rows)
    assert chosen is not None and chosen.method == "small and fast"
    assert best(judged([row("original", 100, 10.0, 1.0), row("wrong", 1, 1.0, 0.5)])) is None


def test_of_foreign_photos_only_those_count_of_which_the_original_is_sure() -> None:
    sure, unsure = [[0.6, 0.4, 0.0]] * 60, [[0.3, 0.4, 0.3]] * 40
    first = Measurement(np.array([*sure, *unsure], np.float32), 1.0)
    other = Measurement(np.array([*sure[:45], *unsure[:15], *sure[:40]], np.float32), 1.0)
    assert agreement(first, other, foreign=True) == (0.75, 60)
    assert agreement(first, other, foreign=False) == (0.45, 100)
    assert other.accuracy([0, 1, None]) == 0.5 and other.accuracy([None] * 3) is None


def test_the_surest_photos_count_where_the_original_is_sure_of_few() -> None:
    largest = np.linspace(0.52, 0.12, 200)  # the original is sure of ten
    first = np.stack([largest, *[(1 - largest) / 10] * 10], axis=1).astype(np.float32)
    other = first.copy()
    other[40:] = np.roll(other[40:], 1, axis=1)
    found = agreement(Measurement(first, 1.0), Measurement(other, 1.0), foreign=True)
    assert found == (0.8, 50)


def photos() -> CompressionPhotos:
    made = colours(60, seed=5)
    labels = [int(np.asarray(each).mean(axis=(0, 1)).argmax()) for each in made]
    given = colours(40, seed=4)
    return CompressionPhotos(
        given[:16], given, "colours", PhotoSample(made, list(labels), "60 colours", False)
    )


def test_a_compressed_bundle_opens_and_tells_how_it_was_made(tmp_path: Path) -> None:
    manifest = tiny_manifest(GRAPH)
    made = compressed(manifest, GRAPH, photos=photos(), methods=["int8"])
    assert made.bundle is not None and made.rows[0].method == "original"
    write_bundle(made.bundle, tmp_path / "small")
    found = open_model(tmp_path / "small")
    told = found.manifest.compression
    assert told is not None and told.original == manifest.graph.sha256 and told.counted == 60
    assert found.manifest.graph.precision == "int8" and found.embedding_id != manifest.embedding_id
    assert found.manifest.measured[-1].value == told.rows[1].accuracy
    assert "int8, static, per channel" in card(found.manifest) and "60 colours" in card(found.manifest)
    with pytest.raises(ConfigError, match="int8 already"):
        compressed(found.manifest, made.bundle.graph, photos=photos())


def test_a_graph_that_computes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a per-channel scale on the wrong axis would."""

    def wrong(manifest: Manifest, graph: bytes, photos: CompressionPhotos) -> Candidate:
        model = onnx.load_model_from_string(graph)
        for weight in model.graph.initializer:
            if weight.name == "last":
                values = numpy_helper.to_array(weight)[[1, 2, 0]]
                weight.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), "last"))
        return Candidate("wrong", manifest, canonical_graph(model), "none")

    monkeypatch.setattr(compressing, "METHODS", {"int8": wrong})
    made = compressed(tiny_manifest(GRAPH), GRAPH, photos=photos(), methods=["int8"])
    assert made.bundle is None and made.rows[1].verdict.startswith("refused") and made.rows[1].agreement < 0.5


def test_a_backbone_alone_and_an_unknown_method_are_refused() -> None:
    with pytest.raises(ConfigError, match="backbone alone"):
        compressed(tiny_manifest(GRAPH, classes=False), GRAPH, photos=photos())
    with pytest.raises(ConfigError, match="not magic"):
        compressed(tiny_manifest(GRAPH), GRAPH, photos=photos(), methods=["magic"])


def test_a_student_s_head_is_the_minimum_of_the_stated_loss() -> None:
    """The gradient by numpy, from the definition, is zero there."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(50, 6)).astype(np.float32)
    targets = rng.dirichlet(np.ones(3), size=50).astype(np.float32)
    head = fitted_head(vectors, targets, weight_decay=0.01)
    centred = vectors - vectors.mean(axis=0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    weights = head.scores.weight.detach().numpy().astype(np.float64)
    scores = np.exp(centred @ weights.T)
    answers = scores / scores.sum(axis=1, keepdims=True)
    gradient = (answers - targets).T @ centred / len(vectors) + 2 * 0.01 * weights
    assert np.abs(gradient).max() < 1e-4 < np.abs(weights).max()
    assert WEIGHT_DECAY > 0


def of_size(manifest: Manifest, size: int) -> Manifest:
    return manifest.model_copy(update={"graph": manifest.graph.model_copy(update={"bytes": size})})


def test_a_student_is_the_next_smaller_model_and_the_smallest_has_none() -> None:
    manifest = of_size(tiny_manifest(GRAPH), 30_000_000)
    assert student_of(manifest).name == "effnet-lite0-head"
    assert student_of(of_size(manifest, 2_000_000)).name == "scattering-head"  # as of a small cnn
    with pytest.raises(ConfigError, match="no packaged model is smaller"):
        student_of(of_size(manifest, 100_000))
    smaller = student_of(manifest.model_copy(update={"model": "effnet-lite0-head"}))
    assert smaller.name == "lite0-small-head"
    smallest = manifest.model_copy(update={"model": "scattering-head"})
    with pytest.raises(ConfigError, match="no packaged model is smaller than scattering-head"):
        student_of(smallest)
    left_out: list[str] = []
    made = compressed(smallest, GRAPH, photos=photos(), step=left_out.append)
    assert [each.method.split(",")[0] for each in made.rows[1:]] == ["int8"] * 2 + ["30% of the weights zero"]
    assert any(text.startswith("distil is left out: no packaged model") for text in left_out)
    with pytest.raises(ConfigError, match="no packaged model"):
        compressed(smallest, GRAPH, photos=photos(), methods=["distil"])


@pytest.mark.slow  # in make test-long
def test_a_student_is_exported_with_the_classes_and_the_guarantee(monkeypatch: pytest.MonkeyPatch) -> None:
    sources: list[Source] = []

    def exported(source: Source) -> Bundle:
        sources.append(source)
        return Bundle(tiny_manifest(GRAPH), GRAPH)

    def noted(vectors: NDArray[np.float32], targets: NDArray[np.float32]) -> CentredHead:
        head = fitted_head(vectors, targets)
        given_to.append(((vectors, targets), head))
        return head

    given_to: list[tuple[tuple[NDArray[np.float32], NDArray[np.float32]], CentredHead]] = []
    monkeypatch.setattr(distillation, "fitted_head", noted)
    monkeypatch.setattr(distillation, "make_bundle", exported)
    manifest = tiny_manifest(GRAPH).model_copy(update={"model": "lite0-small-head"})
    given = colours(6, seed=6)
    distilled(manifest, GRAPH, given)
    source = sources[0]
    assert source.spec.name == "scattering-head" and source.network is not None
    kept = ("classes", "training", "privacy", "warnings", "measured")
    assert all(getattr(source, name) == getattr(manifest, name) for name in kept)
    # Fitted to what the model answers about these photos.
    answers = np.concatenate(
        [session(GRAPH).run(prepared([INPUT], [photo])).probabilities for photo in given]
    )
    (vectors, targets), head = given_to[0]
    np.testing.assert_array_equal(targets, answers)
    assert head is source.network and source.spec.features is not None
    assert vectors.shape == (len(given), source.spec.features.dimension)
