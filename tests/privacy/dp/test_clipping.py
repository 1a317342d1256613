"""Per-record clipping against a naive loop over records."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fedrec.errors import ConfigError
from fedrec.privacy.dp import clipping
from fedrec.privacy.dp.book_keeping import BookKeeper, covers
from fedrec.privacy.dp.clipping import RecordClipper, clipped_sum
from fedrec.privacy.dp.gradient_forms import OuterProduct, OuterProducts
from fedrec.privacy.dp.pass_memory import kept_bytes
from fedrec.privacy.dp.vectors import load_parameter_vector, parameter_count, parameter_vector
from fedrec.vision import model_registry
from fedrec.vision.models.layers import WSConv2d


def _cnn(channels: int = 1, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(4 * 9, 3),
    )  # fmt: skip


def _naive(model: nn.Module, inputs: Tensor, labels: Tensor, clip: float) -> np.ndarray:
    """Autograd once per record, in the plainest way."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    total = np.zeros(sum(p.numel() for p in parameters))
    for views, label in zip(inputs, labels, strict=True):
        loss = nn.functional.cross_entropy(model(views), label.expand(len(views)))
        grads = torch.autograd.grad(loss, parameters)
        flat = np.concatenate([g.double().flatten().numpy() for g in grads])
        total += flat * min(1.0, clip / np.linalg.norm(flat))
    return total


def _data(n: int, views: int, channels: int = 1, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(n, views, channels, 6, 6, generator=generator)
    return inputs, torch.randint(0, 3, (n,), generator=generator)


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 9),
    views=st.integers(1, 3),
    channels=st.integers(1, 3),
    batch=st.integers(1, 12),
    clip=st.sampled_from([0.05, 1.0, 3.0, 1e4]),
    seed=st.integers(0, 1000),
)
def test_equals_the_per_record_loop(
    n: int, views: int, channels: int, batch: int, clip: float, seed: int
) -> None:
    model = _cnn(channels, seed)
    inputs, labels = _data(n, views, channels, seed)
    ours = clipped_sum(model, inputs, labels, clip=clip, physical_batch=batch)
    reference = _naive(model, inputs, labels, clip)
    assert ours.dtype == np.float64
    assert np.linalg.norm(ours - reference) <= 1e-5 * np.linalg.norm(reference)


def test_views_are_averaged_before_clipping() -> None:
    model = nn.Linear(4, 2, bias=False)
    nn.init.zeros_(model.weight)
    view = torch.tensor([100.0, 0.0, 0.0, 0.0])
    # Two opposite views cancel; clipped one by one and averaged they would cancel as well, unequal ones not.
    inputs = torch.stack([view, -view / 100])[None]
    ours = clipped_sum(model, inputs, torch.tensor([0]), clip=1.0)
    assert np.linalg.norm(ours) == pytest.approx(1.0, rel=1e-6)


class _Branches(nn.Module):
    """Layers whose gradients come by several ways, change in place, or are of no use to the loss."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.left, self.right, self.frozen = nn.Linear(36, 5), nn.Linear(36, 5), nn.Linear(36, 5)
        self.frozen.requires_grad_(False)
        self.after_left, self.shared, self.unused = nn.Linear(5, 5), nn.Linear(5, 3), nn.Linear(5, 3)
        self.stopped = nn.Linear(5, 3)

    def forward(self, pictures: Tensor) -> Tensor:
        flat = pictures.flatten(1)
        left = self.after_left(self.left(flat).relu_())
        right = self.right(flat).tanh_() + self.frozen(flat)
        self.unused(left)
        scores: Tensor = self.shared(left + right).add_(left[:, :3]) + self.stopped(right.detach())
        return scores


@pytest.mark.parametrize("frozen", [(), ("left",), ("left", "right"), ("after_left", "stopped")])
def test_layers_in_branches_equal_the_loop_whichever_are_trained(frozen: tuple[str, ...]) -> None:
    model, (inputs, labels) = _Branches(), _data(5, 2)
    for name in frozen:
        model.get_submodule(name).requires_grad_(False)
    assert covers(model)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    expected = np.zeros(sum(parameter.numel() for parameter in parameters))
    for views, label in zip(inputs, labels, strict=True):
        loss = nn.functional.cross_entropy(model(views), label.expand(2))
        parts = torch.autograd.grad(loss, parameters, materialize_grads=True)
        flat = np.concatenate([part.double().flatten().numpy() for part in parts])
        expected += flat * min(1.0, 0.5 / np.linalg.norm(flat))
    ours = clipped_sum(model, inputs, labels, clip=0.5, physical_batch=4)
    assert np.linalg.norm(ours - expected) <= 1e-5 * np.linalg.norm(expected)


def test_each_record_moves_the_sum_by_at_most_the_bound() -> None:
    model = _cnn()
    inputs, labels = _data(30, 1)
    inputs = inputs * torch.logspace(-3, 6, 30).reshape(-1, 1, 1, 1, 1)
    for i in range(30):
        one = clipped_sum(model, inputs[i : i + 1], labels[i : i + 1], clip=0.1)
        assert np.linalg.norm(one) <= 0.1 * (1 + 2**-16)


def test_empty_batch_gives_zeros() -> None:
    model = _cnn()
    ours = clipped_sum(model, torch.zeros(0, 2, 1, 6, 6), torch.zeros(0, dtype=torch.int64), clip=1.0)
    assert ours.shape == (parameter_count(model),)
    assert not ours.any()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_a_broken_record_contributes_nothing(bad: float) -> None:
    model = _cnn()
    inputs, labels = _data(6, 1)
    broken = inputs.clone()
    broken[2] = bad
    if bad == 1e30:
        # GroupNorm makes any finite scale harmless, so put the overflow behind it.
        linear = nn.Linear(36, 3)
        model = nn.Sequential(nn.Flatten(), linear)
        nn.init.constant_(linear.weight, 1e30)
        broken[2] = 1e30 * torch.randn(1, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    rest = [0, 1, 3, 4, 5]
    ours = clipped_sum(model, broken, labels, clip=1.0)
    without = clipped_sum(model, inputs[rest], labels[rest], clip=1.0)
    assert np.all(np.isfinite(ours))
    np.testing.assert_allclose(ours, without, rtol=1e-5, atol=1e-7)


def test_the_model_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(36, 3))
    model.train()
    model[2].eval()
    model[2].weight.grad = torch.ones(3, 36)
    before = parameter_vector(model)
    keys = [(set(vars(m)), len(m._forward_hooks), len(m._backward_hooks)) for m in model.modules()]
    inputs, labels = _data(4, 1)
    first = clipped_sum(model, inputs, labels, clip=1.0)
    second = clipped_sum(model, inputs, labels, clip=1.0)
    np.testing.assert_array_equal(first, second)
    assert keys == [(set(vars(m)), len(m._forward_hooks), len(m._backward_hooks)) for m in model.modules()]
    assert [m.training for m in model.modules()] == [True, True, True, False]
    assert torch.equal(model[2].weight.grad, torch.ones(3, 36))
    assert model[2].bias.grad is None
    assert not any(hasattr(p, "grad_sample") or hasattr(p, "_forward_counter") for p in model.parameters())
    np.testing.assert_array_equal(before, parameter_vector(model))


def test_a_failed_pass_leaves_no_hooks_and_no_residue() -> None:
    model = _cnn()
    inputs, labels = _data(4, 1)
    good = clipped_sum(model, inputs, labels, clip=1.0)
    assert not clipped_sum(model, inputs, labels + 100, clip=1.0).any()
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())
    np.testing.assert_array_equal(good, clipped_sum(model, inputs, labels, clip=1.0))


def test_one_clipper_serves_many_sums_and_frozen_layers_stay_out() -> None:
    model = _cnn()
    for p in model[0].parameters():
        p.requires_grad_(False)
    inputs, labels = _data(5, 2)
    with RecordClipper(model, clip=0.5, physical_batch=4) as clipper:
        sums = []
        for _ in range(2):
            sums.append(clipper.clipped_sum(inputs, labels))
            reference = _naive(model, inputs, labels, 0.5)
            assert np.linalg.norm(sums[-1] - reference) <= 1e-5 * np.linalg.norm(reference)
        assert not clipper.clipped_sum(inputs, labels + 100).any()
        again = clipper.clipped_sum(inputs, labels)
        np.testing.assert_array_equal(sums[-1], again)
    with pytest.raises(ConfigError):
        clipper.clipped_sum(inputs, labels)


def _precisions() -> dict[str, object]:
    """Every switch that lets a product be of fewer digits than float32 has, or choose its kernel by trial."""
    found: dict[str, object] = {
        "matmul": torch.get_float32_matmul_precision(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "gradients": torch.is_grad_enabled(),
        "cudnn_tf32": torch.backends.cudnn.allow_tf32,
        "cudnn_by_trial": torch.backends.cudnn.benchmark,
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
    }
    convolutions = getattr(torch.backends.mkldnn, "conv", None)
    if convolutions is not None:
        found["convolutions"] = convolutions.fp32_precision
    return found


class _Probe(nn.Module):
    """A model that notes how its own pass is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = _cnn()
        self.seen: list[dict[str, object]] = []
        self.types: set[torch.dtype] = set()

    def forward(self, inputs: Tensor) -> Tensor:
        self.seen.append(_precisions())
        out: Tensor = self.inner(inputs)
        self.types.add(out.dtype)
        return out


@pytest.mark.parametrize("reference", [False, True])
def test_a_pass_is_float32_whatever_the_caller_set_and_the_settings_come_back(
    monkeypatch: pytest.MonkeyPatch, reference: bool
) -> None:
    inputs, labels = _data(5, 2)
    convolutions = getattr(torch.backends.mkldnn, "conv", None)
    usual = None if convolutions is None else convolutions.fp32_precision
    if convolutions is not None:
        convolutions.fp32_precision = "bf16"
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    torch.set_float32_matmul_precision("medium")
    model = _Probe()
    try:
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            before = _precisions()
            with RecordClipper(model, clip=1.0, physical_batch=4, reference=reference) as clipper:
                clipper.clipped_sum(inputs, labels)
            assert _precisions() == before
    finally:
        torch.set_float32_matmul_precision("highest")
        if convolutions is not None:
            convolutions.fp32_precision = usual
    assert model.seen and model.types == {torch.float32}
    for seen in model.seen:
        assert seen == before | {
            "matmul": "highest", "autocast": False, "gradients": True, "cudnn_tf32": False,
            "cudnn_by_trial": False, "cudnn_deterministic": True,
        } | ({"convolutions": "ieee"} if "convolutions" in before else {})  # fmt: skip


def test_batch_norm_a_bad_clip_and_labels_of_another_length_are_refused() -> None:
    inputs, labels = _data(2, 1)
    with pytest.raises(ConfigError, match="layer without per-record gradients"):
        clipped_sum(
            nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(36, 3)), inputs, labels, clip=1.0
        )
    for clip in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match=r"clip: .* is not a positive number"):
            clipped_sum(_cnn(), inputs, labels, clip=clip)
    with pytest.raises(ConfigError, match="expects inputs"):
        clipped_sum(_cnn(), inputs, labels[:1], clip=1.0)


def test_vectors_round_trip_in_order() -> None:
    model = _cnn()
    vector = np.arange(parameter_count(model), dtype=np.float64)
    load_parameter_vector(model, vector)
    np.testing.assert_array_equal(parameter_vector(model), vector)
    assert next(model.parameters()).flatten()[:3].tolist() == [0.0, 1.0, 2.0]
    with pytest.raises(ConfigError):
        load_parameter_vector(model, vector[:-1])


@settings(max_examples=15, deadline=None)
@given(
    records=st.integers(1, 7), views=st.integers(1, 3), batch=st.integers(1, 9), seed=st.integers(0, 10**6)
)
def test_book_keeping_equals_opacus(records: int, views: int, batch: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1, bias=False),
        nn.GroupNorm(2, 4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, dilation=2, padding=2),
        nn.Flatten(),
        nn.Linear(6 * 16, 5),
        nn.Tanh(),
        nn.Linear(5, 3, bias=False),
    )
    inputs = torch.randn(records, views, 2, 8, 8, generator=generator)
    labels = torch.randint(0, 3, (records,), generator=generator)
    sums = []
    for reference in (False, True):
        with RecordClipper(model, clip=0.3, physical_batch=batch, reference=reference) as clipper:
            sums.append(clipper.clipped_sum(inputs, labels))
    scale = np.linalg.norm(sums[1])
    assert scale > 0
    assert np.linalg.norm(sums[0] - sums[1]) <= 1e-5 * scale


@settings(max_examples=12, deadline=None)
@given(
    records=st.integers(1, 5), views=st.integers(1, 3), size=st.integers(3, 24), channels=st.integers(1, 3),
    outputs=st.integers(1, 40), stride=st.integers(1, 3), bias=st.booleans(), seed=st.integers(0, 10**6),
)  # fmt: skip
def test_standardised_weights_are_clipped_by_the_gradient_of_what_is_trained(
    records: int, views: int, size: int, channels: int, outputs: int, stride: int, bias: bool, seed: int
) -> None:
    """At few positions and at many, for any shape, against the loop over records in float64."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        WSConv2d(channels, outputs, 3, stride=stride, padding=1, bias=bias), nn.Tanh(), nn.Flatten(),
        nn.LazyLinear(3),
    ).double()  # fmt: skip
    inputs = torch.randn(records, views, channels, size, size).double()
    labels = torch.randint(0, 3, (records,))
    model(inputs[0])
    assert covers(model)
    for clip in (0.05, 1e6):
        ours = clipped_sum(model, inputs, labels, clip=clip, physical_batch=8)
        reference = _naive(model, inputs, labels, clip)
        assert np.linalg.norm(ours - reference) <= 1e-9 * np.linalg.norm(reference)


@settings(max_examples=12, deadline=None)
@given(
    records=st.integers(1, 5), views=st.integers(1, 3), tokens=st.integers(1, 40), width=st.integers(1, 12),
    shape=st.sampled_from(["last", "both"]), scale=st.booleans(), bias=st.booleans(),
    seed=st.integers(0, 10**6),
)  # fmt: skip
def test_layer_norms_and_biases_are_clipped_by_book_keeping(
    records: int, views: int, tokens: int, width: int, shape: str, scale: bool, bias: bool, seed: int
) -> None:
    """Of tokens (n, tokens, width): against the loop in float64, and against Opacus where it takes them."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    norm = nn.LayerNorm([width] if shape == "last" else [tokens, width], elementwise_affine=scale, bias=bias)
    model = nn.Sequential(
        nn.Linear(width, width), norm, nn.Tanh(), nn.Flatten(), nn.Linear(tokens * width, 3)
    )
    model[0].weight.requires_grad_(False)
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    inputs = torch.randn(records, views, tokens, width, generator=generator)
    labels = torch.randint(0, 3, (records,), generator=generator)
    assert covers(model)
    if bias or not scale:
        with RecordClipper(model, clip=0.05, reference=True) as clipper:
            by_opacus = clipper.clipped_sum(inputs, labels)
        ours = clipped_sum(model, inputs, labels, clip=0.05)
        assert np.linalg.norm(ours - by_opacus) <= 1e-5 * np.linalg.norm(by_opacus)
    model.double()
    ours = clipped_sum(model, inputs.double(), labels, clip=0.05, physical_batch=8)
    reference = _naive(model, inputs.double(), labels, 0.05)
    assert np.linalg.norm(ours - reference) <= 1e-9 * np.linalg.norm(reference)


def test_layers_that_book_keeping_lacks_are_left_to_opacus() -> None:
    model = nn.Sequential(nn.Conv1d(3, 3, 1), nn.Flatten(), nn.Linear(12, 3))
    assert not covers(model)
    assert covers(nn.Sequential(nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2), nn.Flatten(), nn.Linear(8, 2)))
    inputs, labels = torch.randn(5, 1, 3, 4), torch.tensor([0, 1, 2, 0, 1])
    total = clipped_sum(model, inputs, labels, clip=0.5)
    assert 0 < np.linalg.norm(total) <= 5 * 0.5 * (1 + 1e-6)


def _padded(model: nn.Module, inputs: Tensor, labels: Tensor, clip: float, size: int) -> np.ndarray:
    """Autograd once per record, in passes of ``size`` records of which the others have no loss."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    total = np.zeros(sum(p.numel() for p in parameters))
    for views, label in zip(inputs, labels, strict=True):
        logits = model(views.repeat(size, *[1] * (views.ndim - 1)))[: len(views)]
        loss = nn.functional.cross_entropy(logits, label.expand(len(views)))
        flat = np.concatenate(
            [
                g.double().flatten().numpy()
                for g in torch.autograd.grad(loss, parameters, materialize_grads=True)
            ]
        )
        total += flat * min(1.0, clip / np.linalg.norm(flat))
    return total


def _every_shape(name: str, data: st.DataObject, sizes: tuple[int, int], records: int) -> None:
    channels, size = data.draw(st.sampled_from([1, 3])), data.draw(st.integers(*sizes))
    classes, views = data.draw(st.integers(2, 12)), data.draw(st.integers(1, 4))
    model = model_registry.get(name).build(classes=classes, channels=channels, size=size, seed=0)
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**32)))
    with torch.no_grad():
        for parameter in model.parameters():  # a head that starts at zero has one gradient for all
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    shape = model_registry.get(name).record_shape(channels, size)
    count = data.draw(st.integers(1, records))
    inputs = torch.randn(count, views, *shape, generator=generator)
    labels = torch.randint(0, classes, (count,), generator=generator)
    clip = data.draw(st.sampled_from([1e-3, 0.5, 3.0, 1e6]))
    with RecordClipper(model, clip=clip) as clipper:
        ours = clipper.clipped_sum(inputs, labels)
        at_once = clipper._records_at_once(inputs)
    expected = _padded(model, inputs, labels, clip, at_once)
    assert at_once == (16 if len(shape) > 1 else 256) // views
    assert np.linalg.norm(ours - expected) <= 1e-5 * np.linalg.norm(expected)


@settings(max_examples=6, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize(
    ("name", "sizes", "records"),
    [
        ("cnn", (8, 32), 18),
        ("cnn-ws", (8, 32), 18),
        ("cnn-tanh", (14, 32), 18),
        ("effnet-lite0-head", (224, 224), 40),
        ("lite0-lite2-views-head", (260, 260), 40),
    ],
)
def test_every_model_of_any_shape_equals_the_loop_at_the_batch_that_is_used(
    name: str, sizes: tuple[int, int], records: int, data: st.DataObject
) -> None:
    """The loop makes passes of the clipper's own shape, where each ReLU falls alike (docs/clipping.md)."""
    _every_shape(name, data, sizes, records)


@pytest.mark.slow
@settings(max_examples=2, deadline=None)
@given(data=st.data())
def test_a_resnet_of_any_shape_equals_the_loop_at_the_batch_that_is_used(data: st.DataObject) -> None:
    _every_shape("resnet18", data, (16, 32), 2)


def test_the_forms_of_a_gradient_are_all_met_by_the_models() -> None:
    met = set()
    for name, size in (("cnn", 28), ("resnet18", 32)):
        model = model_registry.get(name).build(classes=4, channels=3, size=size, seed=0)
        layers = BookKeeper(model).layer_gradients(
            torch.randn(2, 3, size, size), lambda logits: logits.square().sum(), views=1
        )
        met |= {type(part).__name__ for _, layer in layers for part in layer.parts}  # type: ignore[attr-defined]
    assert met == {"OuterProduct", "OuterProducts", "GradientList", "GradientMatrix"}


@pytest.mark.parametrize(
    ("name", "channels", "size"),
    [("cnn", 1, 28), ("cnn", 3, 32), pytest.param("resnet18", 3, 32, marks=pytest.mark.slow)],
)
def test_a_contribution_does_not_depend_on_place_or_company_by_one_bit(
    name: str, channels: int, size: int
) -> None:
    """Take any one record away, or put others beside it: what each of the rest adds is the same."""
    model = model_registry.get(name).build(classes=4, channels=channels, size=size, seed=0)
    generator = torch.Generator().manual_seed(0)
    count = 24 if name == "cnn" else 6
    batch = 16 if name == "cnn" else 4
    inputs = torch.randn(count, 1, channels, size, size, generator=generator)
    labels = torch.randint(0, 4, (count,), generator=generator)

    def summed(chosen: list[int]) -> np.ndarray:
        return clipped_sum(model, inputs[chosen], labels[chosen], clip=0.5, physical_batch=batch)

    one = [summed([i]) for i in range(count)]
    total = np.sum(one, axis=0)
    # Sums of the very same contributions differ by float64's rounding alone, which the slack covers.
    for gone in (None, 0, 3, count - 1):
        expected = total if gone is None else total - one[gone]
        found = summed([i for i in range(count) if i != gone])
        assert np.linalg.norm(found - expected) <= 1e-13 * np.linalg.norm(total)


class _Placed(nn.Module):
    """A model whose scores depend on a record's place by a rounding error, as on some processors."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Linear(12, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.scores(inputs)
        return logits * (1 + 2.0**-23 * torch.arange(len(inputs))[:, None])


def test_where_places_differ_each_record_gets_a_pass_of_its_own() -> None:
    torch.manual_seed(0)
    model = _Placed()
    before = [parameter.clone() for parameter in model.parameters()]
    inputs, labels = torch.randn(9, 1, 12), torch.randint(0, 3, (9,))
    found = clipped_sum(model, inputs, labels, clip=0.5, physical_batch=8)
    alone = [clipped_sum(model, inputs[[i]], labels[[i]], clip=0.5, physical_batch=1) for i in range(9)]
    assert np.linalg.norm(found - np.sum(alone, axis=0)) <= 1e-14
    assert all(torch.equal(left, right) for left, right in zip(before, model.parameters(), strict=True))


def test_a_broken_record_does_not_change_its_batch_mates_by_one_bit() -> None:
    model = model_registry.get("cnn").build(classes=3, channels=1, size=28, seed=0)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(9, 1, 1, 28, 28, generator=generator)
    labels = torch.randint(0, 3, (9,), generator=generator)
    broken = inputs.clone()
    broken[[0, 4]] = float("nan")
    rest = [1, 2, 3, 5, 6, 7, 8]
    found = clipped_sum(model, broken, labels, clip=0.5)
    expected = clipped_sum(model, inputs[rest], labels[rest], clip=0.5)
    assert np.linalg.norm(found - expected) <= 1e-13 * np.linalg.norm(expected)
    broken[:] = float("inf")
    assert not clipped_sum(model, broken, labels, clip=0.5).any()


def _cancelling(ratio: float, *, seed: int, positions: int = 32) -> tuple[Tensor, Tensor]:
    """One record's output gradients and inputs whose terms reach about ``ratio`` times their sum's norm."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(positions, 40, generator=generator, dtype=torch.float64)
    g = torch.randn(positions, 12, generator=generator, dtype=torch.float64)
    # Every term comes again with the other sign, in another place; what is left over makes the ratio.
    other = torch.randperm(positions // 2, generator=generator)
    a[positions // 2 :] = a[other]
    g[positions // 2 :] = -g[other] * (1 + 6 / ratio)
    return g[None], a[None]


def test_the_rounding_of_records_whose_terms_cancel_stays_within_the_proof() -> None:
    """A whole batch around the guard's limit: a record's terms reach from its norm to 2**34 times that."""
    ratios = [2.0**power for power in np.linspace(0.5, 34, 256)]
    records = [_cancelling(ratio, seed=i) for i, ratio in enumerate(ratios)]
    batch = OuterProducts(torch.cat([g for g, _ in records]), torch.cat([a for _, a in records]))
    wide = [
        np.einsum("to,ti->oi", g[0].numpy().astype(np.longdouble), a[0].numpy().astype(np.longdouble))
        for g, a in records
    ]
    formed = [(g[0].T @ a[0]).numpy().astype(np.longdouble) for g, a in records]
    stated = batch.square_norms().sqrt().numpy()
    total = torch.zeros(480, dtype=torch.float64)
    batch.add_weighted(torch.from_numpy(1 / stated), [total])
    contributions, alone = [], 0
    for record, (g, a) in enumerate(records):
        reach = float((g[0].norm(dim=1) * a[0].norm(dim=1)).sum())
        # What is not formed by itself has terms of at most 2**5 C in all; what is, counts as it was formed.
        by_itself = reach > 2.0**5 * stated[record] * (1 + 1e-9)
        value = formed[record] if by_itself else wide[record]
        alone += by_itself
        norm = float(np.linalg.norm(value))
        assert norm * (1 - 2.0**-26) <= stated[record] <= norm * (1 + 2.0**-26)
        contributions.append(value / np.longdouble(stated[record]))
    assert 200 < alone < 245
    error = np.linalg.norm((total.numpy() - np.sum(contributions, axis=0).ravel()).astype(np.float64))
    # The bound for this batch: (m T + 2) u * 2**5 m, and the additions of what was formed.
    assert error <= ((256 * 32 + 2) * 2.0**5 + 258) * 2.0**-53 * 256


@pytest.mark.parametrize(("records", "length"), [(1, 70_001), (300, 700), (5, 1)])
def test_one_product_a_record_is_exact_in_blocks_of_any_shape(records: int, length: int) -> None:
    generator = torch.Generator().manual_seed(0)
    g, a = (torch.randn(records, size, generator=generator) for size in (3, length))
    factors = torch.rand(records, generator=generator, dtype=torch.float64)
    gradients, total = OuterProduct(g, a), torch.ones(3 * length, dtype=torch.float64)
    gradients.add_weighted(factors, [total])
    wide_g, wide_a = g.numpy().astype(np.longdouble), a.numpy().astype(np.longdouble)
    squares = (wide_g**2).sum(1) * (wide_a**2).sum(1)
    expected = 1 + (factors.numpy().astype(np.longdouble)[:, None] * wide_g).T @ wide_a
    np.testing.assert_allclose(gradients.square_norms().numpy(), squares.astype(float), rtol=2.0**-40)
    np.testing.assert_allclose(total.numpy(), expected.astype(float).ravel(), rtol=0, atol=2.0**-40)


def test_the_norm_is_exact_where_views_cancel() -> None:
    """Inner products of positions that nearly cancel: the contribution stays within C all the same."""

    def weighted(sign: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda out: (out * sign).sum()

    layer = nn.Linear(50, 3, bias=False)
    generator = torch.Generator().manual_seed(0)
    view = 1e3 * torch.randn(50, generator=generator)
    for apart in (1e-1, 1e-3, 1e-6):
        inputs = torch.stack([view, view * (1 + apart)])[None]
        keeper = BookKeeper(layer)
        sign = torch.tensor([1.0, -1.0])[:, None] * torch.randn(3, generator=generator)
        ((_, gradients),) = keeper.layer_gradients(inputs[0], weighted(sign), views=2)
        stated = float(gradients.square_norms().sqrt())
        total = torch.zeros(150, dtype=torch.float64)
        gradients.add_weighted(torch.ones(1, dtype=torch.float64), [total])
        exact = np.sum(
            [np.outer(s.double().numpy(), v.double().numpy()) for s, v in zip(sign, inputs[0], strict=True)],
            axis=0,
        )
        np.testing.assert_allclose(total.numpy(), exact.ravel(), rtol=1e-6, atol=1e-9)
        assert np.linalg.norm(total.numpy()) == pytest.approx(stated, rel=2.0**-26)


def test_records_whose_terms_cancel_are_formed_in_any_batch() -> None:
    """Views of a record with opposite gradients: its own contribution is the same in any company."""
    model = nn.Linear(6, 3)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    generator = torch.Generator().manual_seed(1)
    usual = torch.randn(7, 2, 6, generator=generator)
    twins = torch.randn(7, 1, 6, generator=generator) * torch.tensor([1.0, -1 + 1e-4])[:, None]
    inputs, labels = torch.cat([usual, twins]), torch.arange(14) % 3
    whole = clipped_sum(model, inputs, labels, clip=0.05)
    one = [clipped_sum(model, inputs[i : i + 1], labels[i : i + 1], clip=0.05) for i in range(14)]
    assert all(np.linalg.norm(part) <= 0.05 * (1 + 2.0**-16) for part in one)
    assert np.linalg.norm(whole - np.sum(one, axis=0)) <= 1e-13 * np.linalg.norm(whole)


@settings(max_examples=20, deadline=None)
@given(scale=st.floats(1e-3, 1e3), clip=st.sampled_from([0.1, 1.0, 5.0]))
@example(scale=1e-3, clip=0.1)
def test_automatic_clipping_normalises_and_stays_below_the_bound(scale: float, clip: float) -> None:
    model = _cnn()
    inputs, labels = _data(1, 1)
    inputs = inputs * scale
    gradient = _naive(model, inputs, labels, 1e12)
    # One record a pass, as in the loop: in a pass of another shape a last digit may turn a ReLU.
    ours = clipped_sum(model, inputs, labels, clip=clip, clipping="automatic", physical_batch=1)
    norm = float(np.linalg.norm(gradient))
    assert np.linalg.norm(ours) < clip
    expected = gradient * clip / (norm + 0.01)
    assert np.linalg.norm(ours - expected) <= 1e-5 * np.linalg.norm(expected)


def test_memory_bounds_the_physical_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_registry.get("cnn").build(classes=4, channels=3, size=32, seed=0)
    inputs = torch.randn(6, 1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    passes: list[int] = []
    model.register_forward_pre_hook(lambda module, arguments: passes.append(len(arguments[0])))
    usual = clipped_sum(model, inputs, labels, clip=1.0)
    # One look at the shapes, passes that compare places, and one over the records.
    assert passes[0] == 1 and set(passes[1:]) == {16}
    passes.clear()
    monkeypatch.setattr(clipping, "GRADIENT_BYTES", 2**20)
    lean = clipped_sum(model, inputs, labels, clip=1.0)
    assert passes and max(passes) < 16
    assert np.linalg.norm(usual - lean) <= 1e-5 * np.linalg.norm(usual)


def test_what_a_pass_keeps_is_counted_without_weights() -> None:
    model = nn.Sequential(nn.Linear(100, 50), nn.Tanh(), nn.Linear(50, 3))
    inputs = torch.randn(4, 100)
    with kept_bytes(model) as so_far:
        scores = model(inputs)
        # The first layer keeps its input; what tanh gives is kept by it and by the last layer.
        assert so_far() == 4 * 4 * (100 + 50) and scores.requires_grad


def test_what_a_pass_keeps_bounds_the_physical_batch_whatever_the_number_of_records(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = model_registry.get("cnn").build(classes=4, channels=1, size=28, seed=0)
    inputs = torch.randn(200, 1, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    with kept_bytes(model) as so_far:
        scores = model(inputs[0].clone())
        each = so_far()
    assert scores.shape == (1, 4)
    monkeypatch.setattr(clipping, "CPU_ACTIVATION_BYTES", 5 * each + 1)
    with RecordClipper(model, clip=1.0) as clipper:
        assert {clipper._records_at_once(inputs[:count]) for count in (1, 6, 200)} == {5}


# --- on a GPU -----------------------------------------------------------------------------------------------

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
GPU = torch.device("cuda")
GPU_CASES = [("cnn", 1, 28), ("cnn", 3, 32), ("resnet18", 3, 32)]


@needs_gpu
@pytest.mark.parametrize(("name", "channels", "size"), GPU_CASES)
def test_a_gpu_gives_the_per_record_loop_of_a_cpu_in_float64(name: str, channels: int, size: int) -> None:
    model = model_registry.get(name).build(classes=4, channels=channels, size=size, seed=0).double()
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(9, 2, channels, size, size, generator=generator).double()
    labels = torch.randint(0, 4, (9,), generator=generator)
    expected = _naive(model, inputs, labels, 0.5)
    found = clipped_sum(model.to(GPU), inputs.to(GPU), labels.to(GPU), clip=0.5)
    assert np.linalg.norm(found - expected) <= 1e-9 * np.linalg.norm(expected)


@needs_gpu
@pytest.mark.parametrize(("name", "channels", "size"), GPU_CASES)
def test_on_a_gpu_no_contribution_depends_on_its_company_by_one_bit(
    name: str, channels: int, size: int
) -> None:
    model = model_registry.get(name).build(classes=4, channels=channels, size=size, seed=0).to(GPU)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(40, 1, channels, size, size, generator=generator).to(GPU)
    labels = torch.randint(0, 4, (40,), generator=generator).to(GPU)
    torch.set_float32_matmul_precision("medium")
    try:
        with RecordClipper(model, clip=0.5) as clipper:

            def summed(chosen: list[int]) -> np.ndarray:
                return clipper.clipped_sum(inputs[chosen], labels[chosen])

            one = [summed([i]) for i in range(40)]
            total = np.sum(one, axis=0)
            for gone in (None, 0, 17, 39):
                expected = total if gone is None else total - one[gone]
                found = summed([i for i in range(40) if i != gone])
                assert np.linalg.norm(found - expected) <= 1e-13 * np.linalg.norm(total)
            assert all(np.linalg.norm(part) <= 0.5 * (1 + 2.0**-16) for part in one)
    finally:
        torch.set_float32_matmul_precision("highest")


@needs_gpu
def test_on_a_gpu_products_keep_all_digits_of_float32() -> None:
    """TF32 keeps 10 bits: a sum of 1e-3 relative beside the float64 one would show it."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4096, 8, bias=False)).to(GPU)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(32, 1, 4096, generator=generator).to(GPU)
    labels = torch.randint(0, 8, (32,), generator=generator).to(GPU)
    torch.set_float32_matmul_precision("medium")
    try:
        found = clipped_sum(model, inputs, labels, clip=1e6)
    finally:
        torch.set_float32_matmul_precision("highest")
    exact = clipped_sum(model.double(), inputs.double(), labels, clip=1e6)
    assert np.linalg.norm(found - exact) <= 1e-5 * np.linalg.norm(exact)
