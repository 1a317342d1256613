"""Define the plan of a training: everything that its parties must agree on."""

from __future__ import annotations

import unicodedata
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, FailFast, Field, StringConstraints, model_validator

from fedrec._internal.look_alikes import look_alikes, shown
from fedrec._internal.text import counted
from fedrec.errors import ProtocolError
from fedrec.protocol import modes
from fedrec.protocol.modes import Mode, ModeSpec
from fedrec.protocol.schema import (
    MAX_CLASS_NAME,
    MAX_CLASSES,
    MAX_COMMITTEE,
    MAX_LAYERS,
    MAX_PEERS,
    MAX_ROUNDS,
    Fraction,
    Hash,
    Name,
    PartyName,
    RoundNumber,
    Strict,
    sha256_hex,
)
from fedrec.protocol.site_figures import SiteFigures
from fedrec.protocol.trust import TrustModel

MAX_DIMENSION = 200_000_000
MAX_RECORD_VALUES = 1 << 24
MAX_LEARNING_RATE = 1e6
LEAST_CLASS_SHARE = 1e-9
MIN_WINDOW, MAX_WINDOW = 60, 90 * 86400
"""Limits of the time in which uploads of a campaign may arrive, in seconds."""
MIN_CLIP, MAX_CLIP = 1e-6, 1e6
"""Limits of the clipping norm, beyond all useful values; outside them rounding would break its bound."""
_SHOWN_SHARES = 20
_CONTROLS = ("Cc", "Cs", "Zl", "Zp")
_TURNS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
Unit = Literal["record", "product"]
"""The unit of differential privacy: one photo, or one product with all its photos."""
Clipping = Literal["fixed", "automatic"]
Target = Literal["accuracy", "macro-f1"]
"""The score on public data by which rounds are compared."""
LossName = Literal["cross-entropy", "hinge"]
Method = Literal["steps", "one-round"]
"""How a model is learnt: by steps of a server optimizer, one a round, or solved from one sum."""


def has_control_signs(text: str) -> bool:
    """Tell whether a text moves a cursor, ends a line or changes the text direction; joiners don't count."""
    return any(unicodedata.category(sign) in _CONTROLS or sign in _TURNS for sign in text)


def _harmless(text: str) -> str:
    if has_control_signs(text):
        raise ValueError("has a control sign")
    return text


class Peer(Strict):
    """A merchant or a witness: its name and its Ed25519 public key."""

    name: PartyName
    signing_key: Hash


Witnesses = Annotated[tuple[Peer, ...], FailFast(), Field(max_length=MAX_COMMITTEE)]
NoiseLevels = Annotated[
    tuple[Annotated[int, Field(ge=1, le=MAX_PEERS)], ...], FailFast(), Field(max_length=MAX_LAYERS + 1)
]
Penalty = Annotated[float, Field(ge=0, le=1e6)]


class ServerSetting(Strict):
    """One numeric setting of a server optimizer or of a schedule."""

    name: Name
    value: float


ServerSettings = Annotated[tuple[ServerSetting, ...], FailFast(), Field(max_length=16)]


class _WithSettings(Strict):
    """A choice by name that has numeric settings."""

    settings: ServerSettings = ()

    @property
    def values(self) -> dict[str, float]:
        """The settings by name."""
        return {setting.name: setting.value for setting in self.settings}

    @property
    def _settings_texts(self) -> tuple[str, ...]:
        return tuple(f"{setting.name} {setting.value:g}" for setting in self.settings)


class Schedule(_WithSettings):
    """How the server's learning rate changes from step to step."""

    name: Name

    @property
    def text(self) -> str:
        """The schedule and its settings in a few words."""
        settings = ", ".join(self._settings_texts)
        return f"{self.name} ({settings})" if settings else self.name


class ServerUpdate(_WithSettings):
    """How the server updates the model with an opened sum; no merchant's privacy depends on it.

    ``averaging`` is the decay of the exponential moving average whose parameters are the training's result; 0
    for no averaging. ``weight_decay`` and ``l1`` count per step of learning rate 1.
    """

    optimizer: Name
    learning_rate: Annotated[float, Field(gt=0, le=MAX_LEARNING_RATE)]
    schedule: Schedule = Schedule(name="constant")
    averaging: Annotated[float, Field(ge=0, lt=1)] = 0.0
    weight_decay: Penalty = 0.0
    l1: Penalty = 0.0

    @property
    def text(self) -> str:
        """The optimizer and its settings in one line, for reports and terminals."""
        return ", ".join(
            (
                f"{self.optimizer}, learning rate {self.learning_rate:g}",
                *self._settings_texts,
                f"averaging {self.averaging:g}",
                f"schedule {self.schedule.text}",
                *((f"weight decay {self.weight_decay:g}",) if self.weight_decay else ()),
                *((f"L1 {self.l1:g}",) if self.l1 else ()),
            )
        )


class Objective(Strict):
    """What merchants take a record's gradient of, before it is clipped.

    ``label_smoothing`` is the share of a label that is spread over all classes. ``class_prior`` is the public
    share of each class in the records, empty unless the loss is adjusted for it.
    """

    loss: LossName
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    class_prior: Annotated[
        tuple[Annotated[float, Field(ge=LEAST_CLASS_SHARE, le=1)], ...],
        FailFast(),
        Field(max_length=MAX_CLASSES),
    ] = ()

    @property
    def text(self) -> str:
        """The loss and its settings in a few words, for reports and terminals."""
        shares = [f"{share:.2g}" for share in self.class_prior[:_SHOWN_SHARES]]
        more = ["..."] if len(self.class_prior) > _SHOWN_SHARES else []
        return ", ".join(
            (
                self.loss,
                *((f"label smoothing {self.label_smoothing:g}",) if self.label_smoothing else ()),
                *((f"adjusted for the class prior {' '.join(shares + more)}",) if shares else ()),
            )
        )


class EarlyStopping(Strict):
    """When the server ends a training before its last round; the model is that of the best round.

    A training ends after ``patience`` opened rounds without a higher score on public data.
    """

    patience: RoundNumber
    target: Target = "accuracy"

    @property
    def text(self) -> str:
        """The rule in a few words, for reports and terminals."""
        return f"after {counted(self.patience, 'round')} without a higher {self.target}"


class TrainingPlan(Strict):
    """Everything that a training's parties must agree on; ``training_id`` is the hash of all fields.

    The plan doesn't contain the grid, the sensitivity, the noise share or the ring parameters. Each merchant
    derives them from the plan's fields, so that no plan can understate them.

    ``record_values`` counts the numbers of a record's input in one view: channels x size x size for pictures,
    the length of the feature vector for a head. Each merchant compares it with its own model.

    ``model_code`` is the hash of an installed model's code, None for the package's own models. The code
    itself is never sent: a merchant that trains the model must have installed the same code.

    ``upload_window`` is the time, in seconds, in which the uploads of a training of one round may arrive,
    each while its merchant is connected. It begins when the committee's keys are known; the sum is opened
    after it. None for a training whose merchants are all connected during a round.

    ``colluders`` of the roster's merchants are assumed to collude with the server; their noise is not
    counted. The committee tolerates ``corrupt_members`` corrupt seats, ``corrupt_witnesses`` of them held by
    witnesses; ``seat_risk`` is the probability that the draw seats more colluders than the others. All are 0
    if no committee opens sums. ``committee`` is in the order of the draw.

    ``noise_levels`` are the numbers of contributors whose sums keep exactly the noise that they need, falling
    to ``min_contributors``; empty where all noise stays in. Each merchant compares them with those that it
    computes from the plan's other values.

    ``witnesses`` have no photos: they sit on the committee and do nothing else. They aren't on the roster, so
    that nothing that counts merchants counts them. ``trust`` is the scheme's trust model; each merchant
    compares it with that of its own installation.

    ``site_figures`` asks for one more round after the training's ``rounds``, of figures on the merchants' own
    data; None for no such round.
    """

    version: Literal[1] = 1
    server_key: Hash
    nonce: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$", max_length=32)]
    model: Name
    model_code: Hash | None = None
    initial_model_hash: Hash
    classes: Annotated[
        tuple[Annotated[str, StringConstraints(max_length=MAX_CLASS_NAME), AfterValidator(_harmless)], ...],
        FailFast(),
        Field(min_length=2, max_length=MAX_CLASSES),
    ]
    channels: Literal[1, 3]
    image_size: Annotated[int, Field(ge=8, le=1024)]
    dimension: Annotated[int, Field(ge=1, le=MAX_DIMENSION)]
    record_values: Annotated[int, Field(ge=1, le=MAX_RECORD_VALUES)]
    views: Annotated[int, Field(ge=1, le=16)]
    unit: Unit = "record"
    mode: Mode
    rounds: RoundNumber
    upload_window: Annotated[int, Field(ge=MIN_WINDOW, le=MAX_WINDOW)] | None = None
    local_steps: Annotated[int, Field(ge=1, le=1000)]
    local_learning_rate: Annotated[float, Field(gt=0, le=MAX_LEARNING_RATE)]
    early_stopping: EarlyStopping | None = None
    server_update: ServerUpdate = ServerUpdate(optimizer="sgd", learning_rate=1.0)
    sample_rate: Fraction
    clip: Annotated[float, Field(ge=MIN_CLIP, le=MAX_CLIP)]
    clipping: Clipping = "fixed"
    objective: Objective = Objective(loss="cross-entropy")
    delta: Annotated[float, Field(gt=0, lt=1)]
    noise_multiplier: Annotated[float, Field(gt=0, le=1e6)] | None
    site_figures: SiteFigures | None = None
    records_total: Annotated[int, Field(ge=1, le=10**12)]
    records_largest: Annotated[int, Field(ge=1, le=10**9)]
    roster: Annotated[tuple[Peer, ...], FailFast(), Field(min_length=1, max_length=MAX_PEERS)]
    witnesses: Witnesses = ()
    committee: Annotated[tuple[PartyName, ...], FailFast(), Field(max_length=MAX_COMMITTEE)]
    threshold: Annotated[int, Field(ge=0, le=MAX_PEERS)]
    min_contributors: Annotated[int, Field(ge=1, le=MAX_PEERS)]
    colluders: Annotated[int, Field(ge=0, le=MAX_PEERS)]
    noise_levels: NoiseLevels = ()
    corrupt_members: Annotated[int, Field(ge=0, le=MAX_COMMITTEE)]
    corrupt_witnesses: Annotated[int, Field(ge=0, le=MAX_COMMITTEE)] = 0
    seat_risk: Annotated[float, Field(ge=0, le=1)]
    scheme: Name
    trust: TrustModel

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [peer.name for peer in self.parties]
        if len(set(names)) != len(names) or len({peer.signing_key for peer in self.parties}) != len(names):
            raise ValueError("the roster and the witnesses name a party or a key twice")
        if len(set(self.committee)) != len(self.committee) or not set(self.committee) <= set(names):
            raise ValueError("the committee is not a set of merchants of the roster and of witnesses")
        for what, texts in (("classes", self.classes), ("names", names)):
            if alike := look_alikes(texts):
                raise ValueError(f"{what} {', '.join(map(shown, alike[0]))} look alike")
        if (self.noise_multiplier is not None) != self.privacy_mode.private:
            raise ValueError("a noise multiplier is given exactly where the mode is private")
        if self.local_steps != 1 and not self.privacy_mode.several_steps:
            raise ValueError(f"'{self.mode}' takes one step per round")
        if self.objective.class_prior and len(self.objective.class_prior) != len(self.classes):
            raise ValueError("the class prior has not one share for each class")
        if self.min_contributors > self.cohort:
            raise ValueError("more contributors are required than the roster has")
        if self.site_figures is not None:
            self._check_figures(self.site_figures)
        return self

    def _check_figures(self, figures: SiteFigures) -> None:
        if (figures.noise_multiplier is not None) != self.privacy_mode.private:
            raise ValueError("site figures have a noise multiplier exactly where the mode is private")
        if self.upload_window is not None:
            raise ValueError("site figures are of the final model: leave out window or site_figures")
        if self.last_round > MAX_ROUNDS:
            raise ValueError(f"with the round of site figures there are more than {MAX_ROUNDS} rounds")

    @cached_property
    def training_id(self) -> str:
        """The SHA-256 of the canonical plan, 64 hexadecimal digits."""
        return sha256_hex(self.canonical_bytes())

    @cached_property
    def signing_keys(self) -> dict[str, str]:
        """Each merchant's Ed25519 public key, 64 hexadecimal digits, by its name."""
        return {peer.name: peer.signing_key for peer in self.roster}

    @cached_property
    def witness_keys(self) -> dict[str, str]:
        """Each witness's Ed25519 public key, 64 hexadecimal digits, by its name."""
        return {peer.name: peer.signing_key for peer in self.witnesses}

    @property
    def parties(self) -> tuple[Peer, ...]:
        """The merchants of the roster, and the witnesses."""
        return self.roster + self.witnesses

    @property
    def seated_witnesses(self) -> tuple[Peer, ...]:
        """The witnesses where a committee opens sums; nobody where none does."""
        return self.witnesses if self.trust.opened_by == "committee" else ()

    def __copy__(self) -> Self:
        """Return a copy without the derived values, since ``model_copy`` changes the fields of one."""
        copied = super().__copy__()
        for derived in ("training_id", "signing_keys", "witness_keys"):
            vars(copied).pop(derived, None)
        return copied

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Return a copy; no field can be changed in place."""
        return self.__copy__()

    @property
    def privacy_mode(self) -> ModeSpec:
        """The specification of the plan's privacy mode."""
        return modes.get(self.mode)

    @property
    def cohort(self) -> int:
        """The number of merchants on the roster."""
        return len(self.roster)

    @property
    def layers(self) -> int:
        """How many layers of each merchant's noise can be removed from a sum."""
        return max(0, len(self.noise_levels) - 1)

    @property
    def last_round(self) -> int:
        """The highest number of a round: the training's last one, or that of the site figures after it."""
        return self.rounds + (self.site_figures is not None)

    def layers_in(self, round_number: int) -> int:
        """Return how many layers of each merchant's noise can be removed; none in that of site figures."""
        return 0 if self.is_of_figures(round_number) else self.layers

    def is_of_figures(self, round_number: int) -> bool:
        """Tell whether a round is that of the site figures."""
        return self.site_figures is not None and round_number == self.rounds + 1

    @property
    def sends_moves(self) -> bool:
        """Whether an upload is the change of the parameters over local steps rather than one gradient."""
        return self.privacy_mode.sends_moves or self.local_steps > 1

    @property
    def input_bytes(self) -> int:
        """Bytes of the largest merchant's inputs as float32 (n, views, record_values)."""
        return 4 * self.records_largest * self.views * self.record_values

    def key_of(self, name: str) -> bytes:
        """Return a merchant's Ed25519 public key, 32 bytes; ``ProtocolError`` if it is not on the roster."""
        if name not in self.signing_keys:
            raise ProtocolError(f"'{name}' is not on the roster of this training")
        return bytes.fromhex(self.signing_keys[name])

    def party_key(self, name: str) -> bytes:
        """Return the Ed25519 public key of a merchant or of a witness, 32 bytes.

        Raises:
            ProtocolError: it is neither on the roster nor a witness of this training.
        """
        return bytes.fromhex(self.witness_keys[name]) if name in self.witness_keys else self.key_of(name)
