"""Early stopping on public evaluation data: end a training whose model has stopped improving.

Scores are those of opened sums on records outside the guarantee, so that the choice of the model and of the
number of rounds is post-processing of the rounds that were planned. Epsilon stays that of all planned rounds:
a smaller one for the rounds that were run would hold only if no result had a say in their number. Ledgers are
charged for the rounds that were run, since the lifetime filter allows for a choice after each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from fedrec.protocol.plan import EarlyStopping, TrainingPlan
from fedrec.protocol.training_report.round_line import RoundLine

_SCORES: Mapping[str, Callable[[RoundLine], float | None]] = {
    "accuracy": lambda line: line.accuracy,
    "macro-f1": lambda line: line.f1_macro,
}


def best_round(stopping: EarlyStopping, lines: Sequence[RoundLine]) -> RoundLine | None:
    """Return the round after which the model scored highest.

    Args:
        stopping: what the plan says of early stopping.
        lines: the records of the finished rounds, in order.

    Returns:
        The first opened round with the highest score; None if none has a score.
    """
    best: RoundLine | None = None
    for line in lines:
        score = score_of(stopping, line)
        if line.opened and score is not None:
            highest = None if best is None else score_of(stopping, best)
            best = line if highest is None or score > highest else best
    return best


def is_over(stopping: EarlyStopping, lines: Sequence[RoundLine]) -> bool:
    """Return whether so many opened rounds as the patience have brought no higher score.

    Args:
        stopping: what the plan says of early stopping.
        lines: the records of the finished rounds, in order.

    Returns:
        Whether the training ends with the last of them.
    """
    best = best_round(stopping, lines)
    if best is None:
        return False
    since = sum(line.opened and line.round > best.round for line in lines)
    return since >= stopping.patience


def score_of(stopping: EarlyStopping, line: RoundLine) -> float | None:
    """Return the score that a round's model is judged by.

    Args:
        stopping: what the plan says of early stopping.
        line: the round's record.

    Returns:
        Accuracy or macro F1; None if it wasn't measured.
    """
    return _SCORES[stopping.target](line)


def describe_stopping(plan: TrainingPlan, lines: Sequence[RoundLine]) -> str | None:
    """Say in one line how a training is stopped early, and which round its model is from.

    Args:
        plan: the training's plan.
        lines: the records of the finished rounds, in order.

    Returns:
        The line; None for a training that always runs all rounds.
    """
    stopping = plan.early_stopping
    if stopping is None:
        return None
    best = best_round(stopping, lines)
    chosen = "no round was measured" if best is None else f"the model is that of round {best.round}"
    return f"{stopping.text}; {chosen}"
