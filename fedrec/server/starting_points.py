"""Start a training from the result of an earlier one of the same server.

An earlier result was computed from opened sums alone, so that a start from it is post-processing. Nothing is
charged for it. Both trainings are charged as ever, and compose in the merchants' own ledgers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fedrec.errors import ConfigError
from fedrec.privacy.dp.vectors import parameter_vector
from fedrec.server.planning import Task, starting_parameters
from fedrec.server.round_records import any_opened
from fedrec.server.trainings import Training
from fedrec.vision import model_registry
from fedrec.vision.backbones.carried_weights import carried_weights
from fedrec.vision.backbones.public_directions import ProjectedSet
from fedrec.vision.models.centred_head import CentredHead
from fedrec.vision.models.discriminant_head import DiscriminantHead
from fedrec.vision.stored_parameters import load_parameters

ROW_NORM = 30.0
"""Root mean square of the norms of the classes' weights at the start of a head. A discriminant's own are so
long that its scores saturate the loss. Chosen by cross-validation within photos of clothes
(``docs/one-round.md``): 60 is better for small budgets, and worse for large ones."""


def starting_point(source: Training, task: Task) -> NDArray[np.float64]:
    """Return the parameters with which a training starts from the result of another.

    Args:
        source: the earlier training.
        task: what the new training learns.

    Returns:
        float64 (d,), rounded to float32 as they are sent. A training of the same model goes on from the
        parameters as they are. A head takes the weights of a discriminant on the same networks; it has no
        bias, and it releases the mean of its own vectors in its first round. Its weights of classes that
        the campaign didn't have are zero.

    Raises:
        ConfigError: the earlier training isn't done, or its result isn't one to start from.
        MissingExtraError: a package is not installed.
    """
    what = f"start_from {source.number}"
    if source.status()[0] != "done" or not any_opened(source.rounds()):
        raise ConfigError(f"{what}: that training isn't done, or none of its sums was opened")
    if task.spec.solved:
        raise ConfigError(f"{what}: model {task.spec.name} is solved from one sum, and has no start")
    plan = source.plan()
    theirs = Task.of_plan(plan, model_registry.get_exact(plan.model, plan.model_code), seed=0)
    earlier = _result(source, theirs, what=what)
    same = plan.model_code == model_registry.code_of(task.spec.name)
    if same and (theirs.spec.name, theirs.classes, theirs.shape) == (
        task.spec.name,
        task.classes,
        task.shape,
    ):
        return starting_parameters(earlier)
    model = task.model()
    if not (isinstance(model, CentredHead) and isinstance(earlier, DiscriminantHead)):
        raise ConfigError(
            f"{what}: {task.spec.name} starts from a training of the same model, classes and pictures, or a "
            f"head from a one-round campaign; that one is of {plan.model}"
        )
    weights = _head_weights(earlier, theirs, task, what=what)
    model.scores.weight.data.copy_(model.scores.weight.new_tensor(weights))
    return starting_parameters(model)


def _result(source: Training, task: Task, *, what: str) -> nn.Module:
    """Return the network with the final parameters of a training."""
    network = task.model()
    try:
        load_parameters(network, source.folder)
    except ConfigError as error:
        raise ConfigError(f"{what}: {error}") from None
    return network


def _head_weights(earlier: DiscriminantHead, theirs: Task, task: Task, *, what: str) -> NDArray[np.float64]:
    """Return the weights of a head, float64 (classes, dimension): a discriminant's, by class name."""
    source, target = theirs.spec.features, task.spec.features
    if not isinstance(source, ProjectedSet) or target is None:
        raise ConfigError(f"{what}: {theirs.spec.name} isn't on public directions of networks")
    own = parameter_vector(earlier)[: earlier.weight.numel()].reshape(earlier.weight.shape)
    try:
        carried = carried_weights(own, source=source, target=target)
    except ConfigError as error:
        raise ConfigError(f"{what}: {error}") from None
    known = dict(zip(theirs.classes, carried, strict=True))
    found = np.stack([known.get(name, np.zeros(target.dimension)) for name in task.classes])
    length = float(
        np.sqrt(np.mean([row @ row for name, row in known.items() if name in task.classes] or [0.0]))
    )
    if not length > 0.0:
        raise ConfigError(f"{what}: it knows none of the classes, or its weights are zero")
    return found * (ROW_NORM / length)
