"""Per-record clipped gradient sums: plain training, Opacus (hooks, ghost), torch.func, and ours, in one run.

Run ``python benchmarks/clipping_speed.py [--quick] [--json FILE]``. One thread, batches of 64, images a
second of CPU time (medians). Peak is memory beyond what model and batch hold. Plain training is a forward
and a backward pass on the mean loss, without any clipping; every method takes a step of SGD on what it
found.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from measure import cpu_seconds, finish, parse, peak_memory_bytes
from opacus.grad_sample import GradSampleModule, GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from fedrec.privacy.dp.clipping import RecordClipper
from fedrec.vision import model_registry

BATCH = 64
CLIP = 1.0
LEARNING_RATE = 0.01
CLASSES = 10

Step = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """A model and the pictures it is timed on."""

    name: str
    model: str
    channels: int
    size: int

    def build(self) -> nn.Module:
        """Build the model afresh: hooks that one method leaves must not slow the next."""
        model = model_registry.get(self.model).build(
            classes=CLASSES, channels=self.channels, size=self.size, seed=0
        )
        return model.train()

    def batch(self) -> tuple[Tensor, Tensor]:
        """Draw a batch of noise pictures."""
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(BATCH, self.channels, self.size, self.size, generator=generator)
        return images, torch.randint(0, CLASSES, (BATCH,), generator=generator)


CASES = (
    Case("cnn28", "cnn", 1, 28),
    Case("cnn64", "cnn", 3, 64),
    Case("resnet18_64", "resnet18", 3, 64),
)


def plain(case: Case) -> Step:
    """Ordinary training."""
    model, (images, labels) = case.build(), case.batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(F.cross_entropy(model(images), labels))
        optimizer.step()

    return step


def opacus_hooks(case: Case) -> Step:
    """Opacus's per-record gradients and its optimizer, without noise."""
    model, (images, labels) = GradSampleModule(case.build()), case.batch()
    optimizer = DPOptimizer(
        torch.optim.SGD(model.parameters(), lr=LEARNING_RATE),
        noise_multiplier=0.0,
        max_grad_norm=CLIP,
        expected_batch_size=BATCH,
    )

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(F.cross_entropy(model(images), labels))
        optimizer.step()

    return step


def opacus_ghost(case: Case) -> Step:
    """Opacus's fast gradient clipping: norms first, then a second backward pass."""
    # Opacus annotates no type; pyright takes int, from the default.
    clip: Any = CLIP
    model = GradSampleModuleFastGradientClipping(case.build(), max_grad_norm=clip, use_ghost_clipping=True)
    images, labels = case.batch()
    optimizer = DPOptimizerFastGradientClipping(
        torch.optim.SGD(model.parameters(), lr=LEARNING_RATE),
        noise_multiplier=0.0,
        max_grad_norm=CLIP,
        expected_batch_size=BATCH,
    )
    criterion = DPLossFastGradientClipping(model, optimizer, nn.CrossEntropyLoss(reduction="mean"))

    def step() -> None:
        optimizer.zero_grad()
        criterion(model(images), labels).backward()
        optimizer.step()

    return step


def torch_func(case: Case) -> Step:
    """``torch.func``: vmap over grad, then clip; in chunks where all records together take too much."""
    model, (images, labels) = case.build(), case.batch()
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def loss(values: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(model, values, (image[None],)), label[None])

    chunk = 8 if case.model == "resnet18" else BATCH
    per_record = vmap(grad(loss), in_dims=(None, 0, 0))

    def step() -> None:
        total = {name: torch.zeros_like(value) for name, value in parameters.items()}
        for first in range(0, BATCH, chunk):
            found = per_record(parameters, images[first : first + chunk], labels[first : first + chunk])
            squares = torch.stack([g.flatten(1).square().sum(1) for g in found.values()]).sum(0)
            factors = (CLIP / squares.sqrt()).clamp(max=1.0)
            for name, gradient in found.items():
                total[name] += torch.tensordot(factors, gradient, dims=1)
        for name, value in parameters.items():
            value.sub_(total[name], alpha=LEARNING_RATE / BATCH)

    return step


def ours(case: Case) -> Step:
    """Our clipped sum, and the same step on its float64 vector as the others take."""
    images, labels = case.batch()
    model = case.build()
    clipper = RecordClipper(model, clip=CLIP)
    parameters = list(model.parameters())
    sizes = [parameter.numel() for parameter in parameters]

    def step() -> None:
        total = torch.from_numpy(clipper.clipped_sum(images[:, None], labels))
        with torch.no_grad():
            for parameter, part in zip(parameters, torch.split(total, sizes), strict=True):
                parameter.sub_(part.view_as(parameter), alpha=LEARNING_RATE / BATCH)

    return step


METHODS: dict[str, Callable[[Case], Step]] = {
    "plain": plain,
    "opacus": opacus_hooks,
    "opacus ghost": opacus_ghost,
    "torch.func": torch_func,
    "ours": ours,
}


def main() -> None:
    """Time every method on every case, and print speeds as parts of plain training's."""
    options = parse(__doc__ or "")
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    speeds: dict[tuple[str, str], float] = {}
    for case in CASES:
        heavy = case.model == "resnet18"
        repeats = 1 if options.quick and heavy else 2 if options.quick else 3 if heavy else 7
        for method, make in METHODS.items():
            if options.quick and case is not CASES[0] and method in ("opacus ghost", "torch.func"):
                continue
            step = make(case)
            speed = BATCH / cpu_seconds(step, repeats=repeats)
            speeds[case.name, method] = speed
            rows.append(
                {
                    "case": case.name,
                    "method": method,
                    "images_per_second": speed,
                    "part_of_plain": speed / speeds[case.name, "plain"],
                    "peak_mb": peak_memory_bytes(step) / 2**20,
                }
            )
    ratios = {}
    for case in CASES:
        for method, prefix in (("ours", ""), ("opacus", "opacus_")):
            ratios[f"{prefix}{case.name}_vs_plain"] = speeds[case.name, method] / speeds[case.name, "plain"]
    finish("clipping", options, rows=rows, ratios=ratios)


if __name__ == "__main__":
    main()
