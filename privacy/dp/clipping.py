"""Per-record clipping: every record's gradient is cut to norm C before it meets another's.

Per-record gradients come from :mod:`fedrec.privacy.dp.book_keeping` where it covers the model, and from
Opacus's ``GradSampleModule`` (hooks) where it doesn't. Norms, factors and sums are
computed in float64 from the very float32 values that are added, so rounding can let one record move
the sum by more than C only by the relative :data:`FLOAT_SLACK`:

- a float64 norm of d <= 2**24 squares is off by a relative 2**-29 (Higham 2002, section 3.1), the
  quotient C / norm by 2**-53;
- a float64 sum of n <= 2**17 clipped records, in whatever order, is off by at most n**2 * 2**-53 * C in
  norm, and twice that between two neighbouring sets of records: 2**-18.

Both together stay below 2**-16. Taken as given, and not covered by the slack: that a record's float32
gradient doesn't depend on which records share its physical batch. Matrix kernels may order a record's
own sums differently from one batch shape to another, a relative difference of about 1e-7.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.grad_sample import GradSampleModule
from torch import Tensor, nn

from fedrec.errors import ConfigError
from fedrec.privacy.dp.book_keeping import BookKeeper, covers

FLOAT_SLACK = 2.0**-16
"""Relative excess of a record's contribution over C by floating point; counted in the sensitivity."""
MAX_RECORDS = 1 << 17
"""Most records in one clipped sum; the slack is proved up to here."""
MAX_PARAMETERS = 1 << 24
"""Most trainable parameters; the slack is proved up to here."""
DEFAULT_PHYSICAL_BATCH = 64
"""Images passed through the model at a time; beyond it caches are missed more than calls are saved."""
# Columns turned to float64 at a time: 256 records x 64k columns are 128 MiB.
_COLUMNS = 1 << 16


def _trainable(model: nn.Module) -> list[nn.Parameter]:
    """List the trainable parameters in ``named_parameters()`` order, the order of every flat vector."""
    return [parameter for _, parameter in model.named_parameters() if parameter.requires_grad]


def parameter_count(model: nn.Module) -> int:
    """Count the trainable scalars of ``model``: d, the length of every flat vector."""
    return sum(parameter.numel() for parameter in _trainable(model))


def parameter_vector(model: nn.Module) -> NDArray[np.float64]:
    """Copy the trainable parameters into one float64 vector of shape (d,)."""
    parts = [parameter.detach().reshape(-1).double().cpu().numpy() for parameter in _trainable(model)]
    return np.concatenate(parts) if parts else np.zeros(0)


def load_parameter_vector(model: nn.Module, vector: NDArray[np.float64]) -> None:
    """Write a vector of shape (d,) into the trainable parameters, cast to each one's dtype.

    Raises:
        ConfigError: the vector's shape is not (d,).

    """
    expected = parameter_count(model)
    if vector.shape != (expected,):
        raise ConfigError(
            f"load_parameter_vector: the model has {expected} trainable parameters, "
            f"but the vector has shape {vector.shape}."
        )
    offset = 0
    with torch.no_grad():
        for parameter in _trainable(model):
            part = np.array(vector[offset : offset + parameter.numel()], dtype=np.float64)
            parameter.copy_(torch.from_numpy(part).reshape(parameter.shape))
            offset += parameter.numel()


@contextlib.contextmanager
def _full_float32(device: torch.device) -> Iterator[None]:
    """Switch TF32, bf16 products and autocast off for a block, and back to what they were."""
    precision = torch.get_float32_matmul_precision()
    convolutions = torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        with torch.autocast(device.type, enabled=False), torch.enable_grad():
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = convolutions


def _column_blocks(gradient: Tensor) -> Iterator[Tensor]:
    """Cut [n, width] into blocks of columns small enough to be copied to float64."""
    for start in range(0, gradient.shape[1], _COLUMNS):
        yield gradient[:, start : start + _COLUMNS]


class RecordClipper:
    """Clips per-record gradients of one model; wrap once, call :meth:`clipped_sum` often, then close.

    Use as a context manager, or call :meth:`close`: it takes every hook off and puts training flags
    and ``.grad`` fields back. While open, layers with trainable parameters are in training mode (Opacus
    needs it) and all others, so dropout and frozen normalisation too, in evaluation mode.

    Args:
        model: gives logits [m, classes] for a batch [m, ...]; trainable parameters float32 or float64.
        clip: C, the largest L2 norm of one record's contribution.
        physical_batch: images passed through the model at a time; it bounds memory, not the result.
        reference: take Opacus's gradients even where book-keeping covers the model.

    Raises:
        ConfigError: an argument is out of range, or a layer has no per-record gradient (BatchNorm).

    """

    def __init__(
        self,
        model: nn.Module,
        *,
        clip: float,
        physical_batch: int = DEFAULT_PHYSICAL_BATCH,
        reference: bool = False,
    ) -> None:
        if not 0.0 < clip < float("inf"):
            raise ConfigError(f"clip: {clip} is not a positive number; choose a bound such as 1.0.")
        if physical_batch < 1:
            raise ConfigError(f"physical batch: {physical_batch} must be at least 1.")
        self._model = model
        # Opacus hangs ``grad_sample`` on each parameter, which torch's types don't know.
        self._parameters: list[Any] = list(_trainable(model))
        self.dimension = parameter_count(model)
        if not 1 <= self.dimension <= MAX_PARAMETERS:
            raise ConfigError(
                f"model: {self.dimension} trainable parameters; clipping takes 1 to {MAX_PARAMETERS}."
            )
        if any(p.dtype not in (torch.float32, torch.float64) for p in self._parameters):
            raise ConfigError("model: trainable parameters must be float32 or float64 to be clipped.")
        self._clip = clip
        self._physical_batch = physical_batch
        self._device = self._parameters[0].device
        self._offsets: dict[int, int] = {}
        for parameter in self._parameters:
            self._offsets[id(parameter)] = sum(p.numel() for p in self._parameters[: len(self._offsets)])
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
        """Sum g_i * min(1, C / ||g_i||) over the records.

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
        chunk = max(1, self._physical_batch // inputs.shape[1])
        with _full_float32(self._device):
            for start in range(0, records, chunk):
                part = slice(start, start + chunk)
                self._add(inputs[part].to(self._device), labels[part].to(self._device), total)
        result: NDArray[np.float64] = total.cpu().numpy()
        return result

    def _add(self, inputs: Tensor, labels: Tensor, total: Tensor) -> None:
        """Add one physical batch's clipped gradients to ``total``."""
        if self._keeper is not None:
            self._add_kept(self._keeper, inputs, labels, total)
            return
        gradients = self._per_record_gradients(inputs, labels)
        norms = torch.zeros(inputs.shape[0], dtype=torch.float64, device=self._device)
        for gradient in gradients:
            for columns in _column_blocks(gradient):
                norms += columns.double().square().sum(dim=1)
        # An infinite or NaN entry makes the float64 norm so; finite float32 values cannot overflow it.
        finite = torch.isfinite(norms)
        # 0 * NaN is NaN, so a broken record's rows are taken out rather than weighted by zero.
        all_finite = bool(finite.all())
        factors = self._factors(norms)
        if not all_finite:
            factors = factors[finite]
        offset = 0
        for gradient in gradients:
            for columns in _column_blocks(gradient):
                kept = columns if all_finite else columns[finite]
                width = columns.shape[1]
                total[offset : offset + width] += factors @ kept.double()
                offset += width

    def _factors(self, square_norms: Tensor) -> Tensor:
        """Return min(1, C / norm) of each record, float64 [n]."""
        norms = square_norms.sqrt().clamp(min=torch.finfo(torch.float64).tiny)
        return torch.clamp(self._clip / norms, max=1.0)

    def _add_kept(self, keeper: BookKeeper, inputs: Tensor, labels: Tensor, total: Tensor) -> None:
        """Add one physical batch's clipped gradients; a broken record is left out of a second pass."""
        views = inputs.shape[1]

        def loss_of(logits: Tensor) -> Tensor:
            repeated = labels.repeat_interleave(views)
            return nn.functional.cross_entropy(logits, repeated, reduction="sum") / views

        layers = keeper.layer_gradients(inputs.flatten(0, 1), loss_of, views=views)
        norms = torch.zeros(inputs.shape[0], dtype=torch.float64, device=self._device)
        for _, gradients in layers:
            norms = norms + gradients.square_norms()
        finite = torch.isfinite(norms)
        if not bool(finite.all()):
            if bool(finite.any()):
                self._add_kept(keeper, inputs[finite], labels[finite], total)
            return
        factors = self._factors(norms)
        for parameters, gradients in layers:
            for parameter, part in zip(parameters, gradients.weighted_sums(factors), strict=True):
                offset = self._offsets[id(parameter)]
                total[offset : offset + part.numel()] += part.reshape(-1)

    def _per_record_gradients(self, inputs: Tensor, labels: Tensor) -> list[Tensor]:
        """Return, per parameter, the gradients of all records as [n, size of the parameter]."""
        if self._hooked is None:
            raise RuntimeError("this clipper keeps books and has no hooks")
        records, views = inputs.shape[:2]
        self._hooked.enable_hooks()
        try:
            with warnings.catch_warnings():
                # Torch remarks that the images themselves need no gradient.
                warnings.simplefilter("ignore", UserWarning)
                logits = self._hooked(inputs.flatten(0, 1))
                loss = nn.functional.cross_entropy(logits, labels.repeat_interleave(views), reduction="sum")
                torch.autograd.backward(loss / views)
            gradients = []
            for parameter in self._parameters:
                sample = parameter.grad_sample
                if sample is None:
                    # A parameter that the output doesn't depend on has gradient zero.
                    gradients.append(parameter.new_zeros(records, parameter.numel()))
                    continue
                gradients.append(sample.reshape(records, views, -1).sum(dim=1))
            return gradients
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
    physical_batch: int = DEFAULT_PHYSICAL_BATCH,
) -> NDArray[np.float64]:
    """Sum the clipped per-record gradients of ``model`` once, leaving it as it was.

    Arguments, result and errors are those of :class:`RecordClipper` and :meth:`RecordClipper.clipped_sum`.
    """
    with RecordClipper(model, clip=clip, physical_batch=physical_batch) as clipper:
        return clipper.clipped_sum(inputs, labels)
