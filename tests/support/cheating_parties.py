"""Attacks by dealers, committee members and the server, to put into a cohort."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message

from fedrec.clients import uploading
from fedrec.clients.contribution import compute_contribution
from fedrec.privacy.aggregation.dealing import Dealing
from fedrec.privacy.aggregation.scalar_sharing import random_scalars
from fedrec.privacy.aggregation.scheme import CommitteeScheme, KeyMaterial
from fedrec.privacy.derived_parameters import derive
from fedrec.privacy.dp.layer_noise import add_layer
from fedrec.privacy.randomness import Randomness
from fedrec.protocol.messages import UnmaskReply, UnmaskRequest
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.transport import pack, unpack
from fedrec.server.optimizers.sgd import Sgd
from fedrec.server.weights import Weights
from tests.support.cohort import DIMENSION, Cohort, linear_model

CLEAR = {"scheme": "none", "committee": (), "threshold": 0}


def noised_update(
    cohort: Cohort,
    plan: TrainingPlan,
    name: str,
    parameters: np.ndarray,
    *,
    round_number: int = 1,
    layers: int,
) -> np.ndarray:
    """What a seeded merchant adds to a round's sum, with so many of its noise layers."""
    context, noise = cohort.merchants[name].context, derive(plan).noise
    rng = Randomness.seeded(7, name, round_number)
    values = compute_contribution(
        linear_model(),
        parameters.astype(np.float32),
        context.sets.records(plan, context.sets.fix(plan, policy=cohort.policy)),
        plan=plan,
        noise=noise,
        rng=rng,
    )
    seeds = random_scalars(len(noise.layer_stds), rng.child("layers"))
    for seed, std in list(zip(seeds, noise.layer_stds, strict=True))[:layers]:
        add_layer(values, seed, std=std)
    return values


def expected_without(
    folder: Path, size: int, absent: set[int], rounds: int = 1, min_contributors: int = 3
) -> np.ndarray:
    """The model that the same cohort reaches in clear when some merchants never upload.

    Their noise is added up layer by layer, and only as many layers as a sum of those who come needs.
    """
    cohort = Cohort(folder, size=size)
    plan = cohort.plan(rounds=rounds, min_contributors=min_contributors)
    derived = derive(plan)
    come = [name for index, name in enumerate(cohort.names) if index not in absent]
    weights = Weights.start(np.zeros(DIMENSION), Sgd(DIMENSION, learning_rate=0.5), averaging=0.0)
    for round_number in range(1, rounds + 1):
        kept = sum(len(come) < level for level in derived.noise.levels)
        total = sum(
            noised_update(cohort, plan, name, weights.parameters, round_number=round_number, layers=kept)
            for name in come
        )
        weights.step(np.asarray(total) * (derived.unit / (plan.sample_rate * plan.records_total)))
    return weights.parameters


def lying(indices: set[int]) -> Callable[[Message, int], Message]:
    """Change one number of the answers of these members, each another: equal changes could cancel."""

    def tamper(reply: Message, index: int) -> Message:
        if index in indices and not reply.has_error() and reply.metadata.message_type == "query.unmask":
            body, blobs = unpack(reply.content, UnmaskReply, max_blob_bytes=10**7)
            share = bytearray(blobs["answer"])
            share[40 + 4 * index] ^= 1
            reply.content = pack(body, {"answer": bytes(share)})
        return reply

    return tamper


@dataclass(frozen=True)
class CheatingDealer:
    """In place of a dealer's scheme: some members get shares of another key than the committed one."""

    scheme: CommitteeScheme
    targets: set[int]

    def deal(self, key: KeyMaterial | None, *, members: int, threshold: int, rng: Randomness) -> Dealing:
        first = self.scheme.deal(key, members=members, threshold=threshold, rng=rng)
        nothing = KeyMaterial(np.zeros(self.scheme.parameters.ring_degree, dtype=np.int64))
        other = self.scheme.deal(nothing, members=members, threshold=threshold, rng=rng)
        parcels = [
            wrong if x in self.targets else right
            for x, (right, wrong) in enumerate(zip(first.parcels, other.parcels, strict=True), start=1)
        ]
        return Dealing(tuple(parcels), first.published)


def deal_badly(monkeypatch: pytest.MonkeyPatch, dealers: set[str], targets: set[int]) -> None:
    """Make these dealers give these members shares of another key than the one that they committed to."""
    honest = uploading.deal_to_committee

    def deal(scheme: CommitteeScheme, key: KeyMaterial | None, *, dealer: str, **others: Any) -> Any:
        chosen = CheatingDealer(scheme, targets) if dealer in dealers else scheme
        return honest(chosen, key, dealer=dealer, **others)  # type: ignore[arg-type]

    monkeypatch.setattr(uploading, "deal_to_committee", deal)


def unmask_requests(cohort: Cohort, plan: TrainingPlan) -> tuple[list[UnmaskRequest], list[dict[str, bytes]]]:
    """What the server asks each member after a round's uploads, caught before it is delivered."""
    grid = cohort.grid(drop=lambda kind, group, index: kind == "query.unmask")
    coordinator, _ = cohort.coordinator(plan, grid)
    coordinator.close = lambda: None  # type: ignore[method-assign]
    coordinator.run()
    caught = [m for m in grid.requests if m.metadata.message_type == "query.unmask"]
    parsed = [unpack(m.content, UnmaskRequest, max_blob_bytes=10**8) for m in caught]
    return [body for body, _ in parsed], [blobs for _, blobs in parsed]


def keep(
    request: UnmaskRequest, blobs: dict[str, bytes], chosen: list[int]
) -> tuple[UnmaskRequest, dict[str, bytes]]:
    smaller = request.model_copy(update={"survivors": tuple(request.survivors[i] for i in chosen)})
    return smaller, {f"box-{n}": blobs[f"box-{i + 1}"] for n, i in enumerate(chosen, start=1)}
