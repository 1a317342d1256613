"""Clip per-record gradients: scale each record's gradient to L2 norm at most C, then sum them.

Per-record gradients are computed by :mod:`fedrec.privacy.dp.book_keeping` if it covers the model, otherwise
by Opacus's ``GradSampleModule`` (hooks).

Floating-point error. Norms, factors and sums are computed in float64 from the same values that are added. A
record can therefore change the sum by more than C only by the relative ``FLOAT_SLACK`` of bounds.py. Let
u = 2**-53, n <= 2**17 records in a sum, and m records in a batch (at most 2**8; by default 2**4 on a CPU).
The errors are:

- Norms: a float64 norm of d <= 2**27 squares has a relative error of 2**-26 (Higham 2002, "Accuracy and
  Stability of Numerical Algorithms", section 3.1), the quotient C / norm one of u. The bound also holds for
  norms from inner products, since gradient_forms.py computes records with strong cancellation by themselves.
- Sums: the error of a sum of n clipped contributions, in any order, is at most (n + 2) u times the norm of
  the sum of their absolute values, n C: 2**-19 C.
- Products: if a layer's contributions are not computed one by one, one matrix product adds those of a batch.
  Its terms are g_t a_t^T at T <= 2**5 positions per record. A record's terms have a total length of L, which
  is at most 2**5 C after weighting, since a record of norm below L / 2**5 is computed by itself. The error of
  a batch is (m T + 2) u * 2**5 m C, that of all batches (m T + 2) u * 2**5 n C: 2**-22 C on a CPU, 2**-18 C
  on a GPU. The errors of layers add up in squares, as the layers' parts of a norm do, so the bound holds for
  the whole model.
- Neighbouring sets of records: each has its own error, so sums and products count twice: 2**-18 + 2**-21 on a
  CPU, 2**-18 + 2**-17 on a GPU.
- Rounding to the lattice of stochastic rounding (quantise.py) changes the distance of two neighbours by at
  most sqrt(d) * 2**-40 grid units. C is at least one grid unit, so this is at most 2**-26 C.

The total is below 2**-16: 0.30 of it on a CPU, 0.78 on a GPU.

Independence of records. A record's contribution must not depend on the other records: a change in the last
digit can switch a ReLU or a maximum, so the difference would have no small bound. All passes through the
model therefore have the same shape: the last batch, and a batch from which non-finite records were removed,
are padded with copies of weight zero. This needs kernels that process each row of a batch of a given shape by
the same operations in the same order, independent of its position. Not all do (a product with 3 columns and
fewer than 16 rows, on some processors), so the machine that trains checks it, with random records in
several orders (place_check.py). If a record's gradient differs by more than 2**-40 of its norm, each record
gets a pass of its own; that much is at most 2**-22 C in the sums of two neighbours.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
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
from fedrec.privacy.dp.failing_records import FailingRecords
from fedrec.privacy.dp.full_precision import full_float32
from fedrec.privacy.dp.gradient_forms import (
    GradientMatrix,
    LayerGradients,
    ModelGradients,
    ParameterGradients,
)
from fedrec.privacy.dp.losses import CROSS_ENTROPY_OBJECTIVE, check_objective, objective_sum
from fedrec.privacy.dp.padded_batch import PaddedBatch
from fedrec.privacy.dp.pass_memory import memory_of_a_record
from fedrec.privacy.dp.place_check import places_are_alike
from fedrec.privacy.dp.vectors import parameter_count, trainable
from fedrec.protocol.plan import Clipping, Objective

if TYPE_CHECKING:
    from opacus.grad_sample import GradSampleModule

CPU_BATCH = 16
"""Images per pass on a CPU. Larger batches cost more time in cache misses than they save in calls."""
_SMALL_INPUT = 8192
"""Values of an input, such as a feature vector, of which a CPU's caches hold a large batch."""
GPU_BATCH = 256
"""Images per pass on a GPU, and the largest number for which ``FLOAT_SLACK`` is proved."""
GRADIENT_BYTES = 256 * 2**20
"""Memory limit of a pass's per-record gradients; the batch is made smaller to fit."""
CPU_ACTIVATION_BYTES, GPU_ACTIVATION_BYTES = 2**30, 2**33
"""Memory limits of what a forward pass keeps for its backward pass; the batch is made smaller to fit."""


@dataclass(frozen=True)
class _Pass:
    """The gradients of a pass.

    Attributes:
        gradients: of the m records.
        weights: float64 (m,); its values aren't used.
        sizes: the number of values of each parameter.
    """

    gradients: LayerGradients
    weights: Tensor
    sizes: list[int]

    def square_norms(self) -> Tensor:
        return self.gradients.square_norms()

    def gradient(self, place: int) -> Tensor:
        chosen = torch.zeros_like(self.weights)
        chosen[place] = 1.0
        total = self.weights.new_zeros(sum(self.sizes))
        self.gradients.add_weighted(chosen, list(torch.split(total, self.sizes)))
        return total


class RecordClipper:
    """Computes clipped sums of one model's per-record gradients.

    Create it once, call :meth:`clipped_sum` any number of times, then call :meth:`close`, which removes all
    hooks and restores training flags and ``.grad`` fields; or use it as a context manager. While it is open,
    layers with trainable parameters are in training mode, which Opacus needs. All other layers, including
    dropout and frozen normalisation, are in evaluation mode.

    Args:
        model: returns logits (m, classes) for a batch (m, ...); its trainable parameters are float32 or
            float64.
        clip: C, the clipping norm: the largest L2 norm of one record's contribution.
        clipping: the clipping rule.
        objective: what a record's gradient is taken of.
        physical_batch: images per pass, from 1 to 256; None to choose by the available memory. It doesn't
            change what is computed, only the memory that it takes.
        reference: use Opacus even if book-keeping covers the model.

    Raises:
        ConfigError: an argument is out of range or has no meaning, or a layer has no per-record gradients
            (BatchNorm).
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        clip: float,
        clipping: Clipping = "fixed",
        objective: Objective = CROSS_ENTROPY_OBJECTIVE,
        physical_batch: int | None = None,
        reference: bool = False,
    ) -> None:
        if not 0.0 < clip < float("inf"):
            raise ConfigError(f"clip: {clip} is not a positive number; choose a bound such as 1.0.")
        if physical_batch is not None and not 1 <= physical_batch <= GPU_BATCH:
            raise ConfigError(f"physical batch: {physical_batch} is outside 1 to {GPU_BATCH}.")
        self._model = model
        # Opacus adds the attribute ``grad_sample`` to each parameter, which torch's types don't declare.
        self._parameters: list[Any] = list(trainable(model))
        self._sizes = [parameter.numel() for parameter in self._parameters]
        self.dimension = parameter_count(model)
        if not 1 <= self.dimension <= MAX_PARAMETERS:
            raise ConfigError(
                f"model: {self.dimension} trainable parameters; clipping takes 1 to {MAX_PARAMETERS}."
            )
        if any(p.dtype not in (torch.float32, torch.float64) for p in self._parameters):
            raise ConfigError("model: trainable parameters must be float32 or float64 to be clipped.")
        self._clip = clip
        check_objective(objective)
        self._rule = RULES[clipping]
        self._objective = objective
        self._physical_batch = physical_batch
        self._device = self._parameters[0].device
        self._modes = [(module, module.training) for module in model.modules()]
        self._grads = [parameter.grad for parameter in self._parameters]
        self._closed = False
        self._keeper = BookKeeper(model) if not reference and covers(model) else None
        self._hooked = self._hook() if self._keeper is None else None
        # A backward pass would otherwise add to the caller's gradients.
        for parameter in self._parameters:
            parameter.grad = None
        for module in model.modules():
            module.training = any(p.requires_grad for p in module.parameters(recurse=False))

    def _hook(self) -> GradSampleModule:
        """Add Opacus's hooks to the model, disabled except during passes of :meth:`clipped_sum`."""
        # Imported here since the import takes more than a second, and few models need it.
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
        """Restore the model to its state before; closing twice has no effect."""
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

    def clipped_sum(
        self, inputs: Tensor, labels: Tensor, *, chosen: Tensor | None = None
    ) -> NDArray[np.float64]:
        """Sum the clipped gradients of all records, or of the chosen ones.

        A record's gradient is that of the objective averaged over its V views. It contributes zero if it
        isn't finite, or if a pass fails on that record; the number of those is logged.

        Args:
            inputs: (n, V, ...), V >= 1 views per record; n may be 0.
            labels: int64 (n,).
            chosen: positions of records, int64; None for all. A pass takes its records out of the inputs, so
                that those which are mapped from disk don't take memory together.

        Returns:
            float64 (d,), in ``named_parameters()`` order of the trainable parameters.

        Raises:
            ConfigError: shapes don't match, there are more than 2**17 records, or the clipper is closed.
        """
        records = len(inputs) if chosen is None else len(chosen)
        if inputs.ndim < 3 or inputs.shape[1] < 1 or labels.shape != inputs.shape[:1]:
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
        with full_float32(self._device):
            chunk = self._records_at_once(inputs) if records else 1
            # It raises what a pass of any records raises, so that what fails below fails by its own values.
            if records and not places_are_alike(self._model, inputs, chunk, self._pass_of):
                chunk = 1
            failing = FailingRecords()
            places = torch.arange(records, device=inputs.device) if chosen is None else chosen
            for rows in torch.split(places, chunk) if records else ():
                # A copy: kernels may compute a view otherwise, by where it begins in memory.
                taken = inputs.index_select(0, rows).to(self._device)
                batch = PaddedBatch.padded(taken, labels[rows].to(self._device), chunk)
                for passed, gradients in failing.passes(batch, self._gradients):
                    self._add(passed, gradients, total)
        failing.log()
        result: NDArray[np.float64] = total.cpu().numpy()
        return result

    def _records_at_once(self, inputs: Tensor) -> int:
        """Return the number of records per pass."""
        views = inputs.shape[1]
        images = self._physical_batch
        if images is None:
            values, kept = self.dimension, 0
            if self._keeper is not None:
                values, kept = memory_of_a_record(self._model, inputs[0], self._keeper, device=self._device)
            small = inputs[0, 0].ndim == 1 and inputs[0, 0].numel() <= _SMALL_INPUT
            on_cpu = self._device.type == "cpu"
            images = min(
                CPU_BATCH if on_cpu and not small else GPU_BATCH,
                views * GRADIENT_BYTES // (4 * max(1, values)),
                views * (CPU_ACTIVATION_BYTES if on_cpu else GPU_ACTIVATION_BYTES) // max(1, kept),
            )
        return max(1, images // views)

    def _pass_of(self, inputs: Tensor) -> _Pass:
        labels = torch.zeros(len(inputs), dtype=torch.int64, device=self._device)
        batch = PaddedBatch.padded(inputs.to(self._device), labels, len(inputs))
        return _Pass(self._gradients(batch), batch.weights, self._sizes)

    def _add(self, batch: PaddedBatch, gradients: LayerGradients, total: Tensor) -> None:
        """Add the clipped gradients of one pass to ``total``, float64 (d,)."""
        norms = gradients.square_norms()
        # A norm is infinite or NaN only if an entry is: squares of float32 values can't overflow float64.
        finite = torch.isfinite(norms)
        if bool(finite.all()):
            gradients.add_weighted(self._factors(norms) * batch.weights, self._split(total))
            return
        # 0 * NaN is NaN, so such records are replaced; a weight of zero would not be enough.
        replaced = batch.without(~finite)
        if replaced is not None:
            self._add(replaced, self._gradients(replaced), total)

    def _split(self, total: Tensor) -> list[Tensor]:
        """Split the flat total into one view per parameter."""
        return list(torch.split(total, self._sizes))

    def _gradients(self, batch: PaddedBatch) -> LayerGradients:
        """Compute a batch's per-record gradients, parameters in ``named_parameters()`` order."""
        views = batch.inputs.shape[1]
        repeated = batch.labels.repeat_interleave(views)

        def loss_of(logits: Tensor) -> Tensor:
            return objective_sum(self._objective, logits, repeated) / views

        images = batch.inputs.flatten(0, 1)
        if self._keeper is None:
            return self._hooked_gradients(images, loss_of, views=views)
        order = {id(parameter): index for index, parameter in enumerate(self._parameters)}
        layers = [
            ([order[id(parameter)] for parameter in parameters], gradients)
            for parameters, gradients in self._keeper.layer_gradients(images, loss_of, views=views)
        ]
        return ModelGradients(layers)

    def _factors(self, square_norms: Tensor) -> Tensor:
        """Return the clipping factor of each record, float64 (m,)."""
        return self._rule.factors(square_norms.sqrt(), self._clip)

    def _hooked_gradients(
        self, images: Tensor, loss_of: Callable[[Tensor], Tensor], *, views: int
    ) -> LayerGradients:
        """Compute per-record gradients by Opacus, one matrix (m, size) per parameter."""
        if self._hooked is None:
            raise RuntimeError("this clipper uses book-keeping and has no hooks")
        records = images.shape[0] // views
        self._hooked.enable_hooks()
        try:
            with warnings.catch_warnings():
                # Torch warns that the images don't require a gradient.
                warnings.simplefilter("ignore", UserWarning)
                torch.autograd.backward(loss_of(self._hooked(images)))
            gradients: list[LayerGradients] = []
            for parameter in self._parameters:
                sample = parameter.grad_sample
                if sample is None:
                    # The gradient of a parameter that the output doesn't depend on is zero.
                    sample = parameter.new_zeros(images.shape[0], parameter.numel())
                gradients.append(GradientMatrix(sample.reshape(records, views, -1).sum(dim=1)))
            return ParameterGradients(gradients)
        finally:
            self._hooked.disable_hooks()
            self._forget_pass()

    def _forget_pass(self) -> None:
        """Delete what Opacus stored during a pass; after an interrupted pass it would corrupt the next."""
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
    objective: Objective = CROSS_ENTROPY_OBJECTIVE,
    physical_batch: int | None = None,
) -> NDArray[np.float64]:
    """Compute one clipped sum and restore the model.

    Args:
        model: as for :class:`RecordClipper`.
        inputs: (n, V, ...), V >= 1 views per record; n may be 0.
        labels: int64 (n,).
        clip: C, the clipping norm.
        clipping: the clipping rule.
        objective: what a record's gradient is taken of.
        physical_batch: images per pass, from 1 to 256; None to choose by the available memory.

    Returns:
        float64 (d,), in ``named_parameters()`` order of the trainable parameters.

    Raises:
        ConfigError: :class:`RecordClipper` or :meth:`RecordClipper.clipped_sum` raised it.
    """
    with RecordClipper(
        model, clip=clip, clipping=clipping, objective=objective, physical_batch=physical_batch
    ) as clipper:
        return clipper.clipped_sum(inputs, labels)
