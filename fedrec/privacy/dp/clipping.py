"""Per-record clipping: every record's gradient is brought to norm C at most before it meets another's.

Per-record gradients come from :mod:`fedrec.privacy.dp.book_keeping` where it covers the model, and from
Opacus's ``GradSampleModule`` (hooks) where it doesn't. Norms, factors and sums are computed in float64 from
the very values that are added, so rounding can let one record move the sum by more than C only by the
relative ``FLOAT_SLACK`` of bounds.py. With u = 2**-53, at most n = 2**17 records in a sum and m records in a
batch (2**8 on a GPU and at most; 2**4 on a CPU unless told otherwise):

- a float64 norm of d <= 2**27 squares is off by a relative 2**-26 (Higham 2002, section 3.1), the
  quotient C / norm by u; so is a norm from inner products, by the shares that layer_gradients.py forms alone;
- a sum of n clipped contributions, in whatever order, is off by at most (n + 2) u times the norm of the sum
  of their absolute values, n C: 2**-19 C;
- where a layer's contributions are not formed one by one, a batch's come from one product whose terms are
  g_t a_t^T of T <= 2**5 positions of each record. A record's terms total L, and weighted at most 2**5 C,
  since one of a norm below L / 2**5 is formed by itself. That product is off by (m T + 2) u times 2**5 m C,
  all batches by (m T + 2) u * 2**5 n C: 2**-22 C on a CPU, 2**-18 C on a GPU. Over layers these add up as
  the layers' parts of a norm do, in squares, so that the bound is the whole model's;
- between two neighbouring sets of records the last two count twice: 2**-18 + 2**-21 on a CPU, 2**-18 + 2**-17
  on a GPU;
- bringing the scaled sum to the lattice of stochastic rounding (quantise.py) moves two neighbours apart by
  at most sqrt(d) * 2**-40 grid units, of which a C has one or more: 2**-26.

All together stay below 2**-16: 0.28 of it on a CPU, 0.76 on a GPU.

What a record contributes must not depend on the other records either: a last digit that another's presence
changes may turn a ReLU or a maximum, so that no small bound on the difference exists. Hence every pass
through the model has one and the same shape: a last batch, and one whose broken records were taken out, is
filled up with copies that count for nothing. Torch's kernels work on each row of a batch of a given shape by
the same operations in the same order, whatever its place and its neighbours. This is an assumption about
them; the tests hold every model to it, bit for bit, on the machine at hand.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedrec.errors import ConfigError
from fedrec.privacy.dp.book_keeping import BookKeeper, covers
from fedrec.privacy.dp.bounds import MAX_PARAMETERS, MAX_RECORDS
from fedrec.privacy.dp.clipping_rules import RULES
from fedrec.privacy.dp.layer_gradients import LayerGradients, Rows, Scattered, Several
from fedrec.privacy.dp.vectors import parameter_count, trainable
from fedrec.protocol.plan import Clipping

if TYPE_CHECKING:
    from opacus.grad_sample import GradSampleModule

CPU_BATCH = 16
"""Images passed through the model at a time on a CPU: beyond it more caches are missed than calls saved."""
GPU_BATCH = 256
"""The same on a GPU, and the most that the slack is proved for."""
HELD_BYTES = 256 * 2**20
"""Fewer images are, where their per-record gradients would take more memory than this."""


@contextlib.contextmanager
def _full_float32(device: torch.device) -> Iterator[None]:
    """Switch TF32, bf16 products, autocast and cuDNN's choosing by trial off for a block, then back."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    # From torch 2.9 on a CPU's convolutions have a switch of their own; before, no other precision.
    convolutions = getattr(torch.backends.mkldnn, "conv", None)
    before = None if convolutions is None else convolutions.fp32_precision
    if convolutions is not None:
        convolutions.fp32_precision = "ieee"
    kernels = torch.backends.cudnn.flags(
        enabled=torch.backends.cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=False
    )
    try:
        with kernels, torch.autocast(device.type, enabled=False), torch.enable_grad():
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
        if convolutions is not None:
            convolutions.fp32_precision = before


@dataclass(frozen=True)
class _Batch:
    """One pass's records, always as many: (n, V, ...) inputs, labels, and 1 for those that count, else 0."""

    inputs: Tensor
    labels: Tensor
    counted: Tensor

    @classmethod
    def filled(cls, inputs: Tensor, labels: Tensor, size: int) -> _Batch:
        """Fill up to ``size`` with copies of the first record that don't count."""
        counted = torch.zeros(size, dtype=torch.float64, device=inputs.device)
        counted[: len(inputs)] = 1.0
        chosen = torch.zeros(size, dtype=torch.int64, device=inputs.device)
        chosen[: len(inputs)] = torch.arange(len(inputs), device=inputs.device)
        return cls(inputs[chosen], labels[chosen], counted)

    def without(self, broken: Tensor) -> _Batch | None:
        """Put copies of a sound record, not counted, in place of the broken ones; None if all are."""
        sound = torch.nonzero(~broken)
        if not len(sound):
            return None
        chosen = torch.where(broken, sound[0], torch.arange(len(broken), device=broken.device))
        return _Batch(self.inputs[chosen], self.labels[chosen], self.counted * ~broken)


class RecordClipper:
    """Clips per-record gradients of one model; wrap once, call :meth:`clipped_sum` often, then close.

    Use as a context manager, or call :meth:`close`: it takes every hook off and puts training flags
    and ``.grad`` fields back. While open, layers with trainable parameters are in training mode (Opacus
    needs it) and all others, so dropout and frozen normalisation too, in evaluation mode.

    Args:
        model: gives logits [m, classes] for a batch [m, ...]; trainable parameters float32 or float64.
        clip: C, the largest L2 norm of one record's contribution.
        clipping: how a gradient is brought to that norm.
        physical_batch: images passed through the model at a time, up to 256, as many as memory allows if
            None; it bounds memory, not the result.
        reference: take Opacus's gradients even where book-keeping covers the model.

    Raises:
        ConfigError: an argument is out of range, or a layer has no per-record gradient (BatchNorm).

    """

    def __init__(
        self,
        model: nn.Module,
        *,
        clip: float,
        clipping: Clipping = "fixed",
        physical_batch: int | None = None,
        reference: bool = False,
    ) -> None:
        if not 0.0 < clip < float("inf"):
            raise ConfigError(f"clip: {clip} is not a positive number; choose a bound such as 1.0.")
        if physical_batch is not None and not 1 <= physical_batch <= GPU_BATCH:
            raise ConfigError(f"physical batch: {physical_batch} is outside 1 to {GPU_BATCH}.")
        self._model = model
        # Opacus hangs ``grad_sample`` on each parameter, which torch's types don't know.
        self._parameters: list[Any] = list(trainable(model))
        self.dimension = parameter_count(model)
        if not 1 <= self.dimension <= MAX_PARAMETERS:
            raise ConfigError(
                f"model: {self.dimension} trainable parameters; clipping takes 1 to {MAX_PARAMETERS}."
            )
        if any(p.dtype not in (torch.float32, torch.float64) for p in self._parameters):
            raise ConfigError("model: trainable parameters must be float32 or float64 to be clipped.")
        self._clip = clip
        self._rule = RULES[clipping]
        self._physical_batch = physical_batch
        self._device = self._parameters[0].device
        self._modes = [(module, module.training) for module in model.modules()]
        self._grads = [parameter.grad for parameter in self._parameters]
        self._closed = False
        self._keeper = BookKeeper(model) if not reference and covers(model) else None
        self._hooked = self._hook() if self._keeper is None else None
        # Backward would add into the caller's own tensors.
        for parameter in self._parameters:
            parameter.grad = None
        for module in model.modules():
            module.training = any(p.requires_grad for p in module.parameters(recurse=False))

    def _hook(self) -> GradSampleModule:
        """Let Opacus take per-record gradients, listening during our own passes only."""
        # Imported here: it takes more than a second in every process, and few models need it.
        from opacus.grad_sample import GradSampleModule

        model = self._model
        try:
            hooked = GradSampleModule(model, loss_reduction="sum")
        except (NotImplementedError, ValueError) as error:
            for parameter in self._parameters:
                for name in ("grad_sample", "_forward_counter"):
                    parameter.__dict__.pop(name, None)
            raise ConfigError(
                f"model: {type(model).__name__} has a layer without per-record gradients, such as BatchNorm, "
                "or is being clipped already; use GroupNorm, and close the other clipper."
            ) from error
        hooked.disable_hooks()
        return hooked

    def __enter__(self) -> RecordClipper:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the model as it was found; closing twice is harmless."""
        if self._closed:
            return
        self._closed = True
        if self._hooked is not None:
            self._hooked.to_standard_module()
            self._hooked = None
        for parameter, grad in zip(self._parameters, self._grads, strict=True):
            parameter.grad = grad
        for module, training in self._modes:
            module.training = training

    def clipped_sum(self, inputs: Tensor, labels: Tensor) -> NDArray[np.float64]:
        """Sum the records' gradients g_i, each brought to norm C at most.

        g_i is the gradient of the mean, over the record's V views, of the cross-entropy; a g_i that is
        not finite contributes zero.

        Args:
            inputs: [n, V, ...], V >= 1 views per record; n may be 0.
            labels: int64 [n].

        Returns:
            float64 of shape (d,), in ``named_parameters()`` order of the trainable parameters.

        Raises:
            ConfigError: shapes don't fit, there are more than 2**17 records, or the clipper is closed.

        """
        records = inputs.shape[0]
        if inputs.ndim < 3 or inputs.shape[1] < 1 or labels.shape != (records,):
            raise ConfigError(
                f"clipped_sum: expects inputs [n, views, ...] and labels [n], not {tuple(inputs.shape)} "
                f"and {tuple(labels.shape)}."
            )
        if self._closed:
            raise ConfigError("RecordClipper: it is closed; make a new one.")
        if records > MAX_RECORDS:
            raise ConfigError(
                f"clipped_sum: {records} records were sampled in one step, the limit is {MAX_RECORDS}; "
                "lower the sample rate."
            )
        total = torch.zeros(self.dimension, dtype=torch.float64, device=self._device)
        with _full_float32(self._device):
            chunk = self._records_at_once(inputs)
            for start in range(0, records, chunk):
                part = slice(start, start + chunk)
                batch = _Batch.filled(inputs[part].to(self._device), labels[part].to(self._device), chunk)
                self._add(batch, total)
        result: NDArray[np.float64] = total.cpu().numpy()
        return result

    def _records_at_once(self, inputs: Tensor) -> int:
        """Return how many of these records go through the model together."""
        views = inputs.shape[1]
        images = self._physical_batch
        if images is None:
            held = self.dimension
            if self._keeper is not None and inputs.shape[0]:
                held = self._keeper.held_values(inputs[0].to(self._device), views=views)
            largest = CPU_BATCH if self._device.type == "cpu" else GPU_BATCH
            images = min(largest, views * HELD_BYTES // (4 * max(1, held)))
        return max(1, images // views)

    def _add(self, batch: _Batch, total: Tensor) -> None:
        """Add one physical batch's clipped gradients to ``total``."""
        gradients = self._gradients(batch)
        norms = gradients.square_norms()
        # An infinite or NaN entry makes the float64 norm so; finite float32 values cannot overflow it.
        finite = torch.isfinite(norms)
        if bool(finite.all()):
            gradients.add_weighted(self._factors(norms) * batch.counted, self._split(total))
            return
        # 0 * NaN is NaN, so broken records are replaced rather than weighted by zero.
        sound = batch.without(~finite)
        if sound is not None:
            self._add(sound, total)

    def _split(self, total: Tensor) -> list[Tensor]:
        """Cut the flat total into one part a parameter."""
        return list(torch.split(total, [parameter.numel() for parameter in self._parameters]))

    def _gradients(self, batch: _Batch) -> LayerGradients:
        """Return all per-record gradients of a batch, parameters in their order."""
        views = batch.inputs.shape[1]
        repeated = batch.labels.repeat_interleave(views)

        def loss_of(logits: Tensor) -> Tensor:
            return nn.functional.cross_entropy(logits, repeated, reduction="sum") / views

        images = batch.inputs.flatten(0, 1)
        if self._keeper is None:
            return self._hooked_gradients(images, loss_of, views=views)
        order = {id(parameter): index for index, parameter in enumerate(self._parameters)}
        layers = [
            ([order[id(parameter)] for parameter in parameters], gradients)
            for parameters, gradients in self._keeper.layer_gradients(images, loss_of, views=views)
        ]
        return Scattered(layers)

    def _factors(self, square_norms: Tensor) -> Tensor:
        """Return what each record's gradient is multiplied by, float64 [n]."""
        return self._rule.factors(square_norms.sqrt(), self._clip)

    def _hooked_gradients(
        self, images: Tensor, loss_of: Callable[[Tensor], Tensor], *, views: int
    ) -> LayerGradients:
        """Return Opacus's per-record gradients, a matrix (records, size) for each parameter."""
        if self._hooked is None:
            raise RuntimeError("this clipper keeps books and has no hooks")
        records = images.shape[0] // views
        self._hooked.enable_hooks()
        try:
            with warnings.catch_warnings():
                # Torch remarks that the images themselves need no gradient.
                warnings.simplefilter("ignore", UserWarning)
                torch.autograd.backward(loss_of(self._hooked(images)))
            gradients: list[LayerGradients] = []
            for parameter in self._parameters:
                sample = parameter.grad_sample
                if sample is None:
                    # A parameter that the output doesn't depend on has gradient zero.
                    sample = parameter.new_zeros(images.shape[0], parameter.numel())
                gradients.append(Rows(sample.reshape(records, views, -1).sum(dim=1)))
            return Several(gradients)
        finally:
            self._hooked.disable_hooks()
            self._forget_pass()

    def _forget_pass(self) -> None:
        """Drop what Opacus kept of a pass, one broken off included, which would spoil the next."""
        for parameter in self._parameters:
            parameter.grad_sample = None
            parameter.grad = None
            parameter._forward_counter = 0
            parameter.__dict__.pop("_current_grad_sample", None)
        for module in self._model.modules():
            for name in ("activations", "max_batch_len"):
                module.__dict__.pop(name, None)


def clipped_sum(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    clip: float,
    clipping: Clipping = "fixed",
    physical_batch: int | None = None,
) -> NDArray[np.float64]:
    """Sum the clipped per-record gradients of ``model`` once, leaving it as it was.

    Arguments, result and errors are those of :class:`RecordClipper` and :meth:`RecordClipper.clipped_sum`.
    """
    with RecordClipper(model, clip=clip, clipping=clipping, physical_batch=physical_batch) as clipper:
        return clipper.clipped_sum(inputs, labels)
