"""The options of ``fedrec.simulate``: those of the command line, by the same names."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypedDict


class SimulationOptions(TypedDict, total=False):
    """Every option of ``fedrec simulate`` except the model and the merchants, which may be objects too.

    Defaults are those of the command line: see ``fedrec simulate --help``. ``config`` is a file of options,
    ``resume`` the folder of a stopped run, and ``progress`` writes a line on stderr after every round.
    """

    config: str | Path
    resume: str | Path
    progress: bool

    data: str | Path
    names_encoding: str
    dataset: str
    data_root: str | Path
    eval_data: str | Path
    partition: str
    method: Literal["steps", "one-round"]
    unit: Literal["record", "product"]
    rounds: int
    patience: int
    target: Literal["accuracy", "macro-f1"]
    learning_rate: float
    optimizer: str
    schedule: str
    server_learning_rate: float
    averaging: float
    weight_decay: float
    l1: float
    loss: Literal["cross-entropy", "hinge"]
    label_smoothing: float
    class_prior: str
    local_steps: int
    augment: bool
    privacy: Literal["distributed", "local", "off"]
    epsilon: float
    delta: float
    sample_rate: float
    site_figures: float
    clip: float
    clipping: Literal["fixed", "automatic"]
    secure_aggregation: str
    committee: int
    threshold: int
    min_contributors: int
    corrupt_members: int
    witnesses: int
    corrupt_witnesses: int
    colluders: int
    drop: float
    crash: float
    engine: Literal["local", "ray"]
    workers: int
    device: str
    seed: int
    out: str | Path
