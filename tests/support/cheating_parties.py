"""Attacks by dealers, committee members and the server, to put into a cohort."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message

from fedrec.privacy.aggregation import dealing, degree, shamir
from fedrec.privacy.randomness import Randomness
from fedrec.protocol.messages import UnmaskReply, UnmaskRequest
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.transport import pack, unpack
from tests.support.cohort import Cohort, InProcessGrid

CLEAR = {"scheme": "none", "committee": (), "threshold": 0}


def expected_without(
    folder: Path, size: int, absent: set[int], rounds: int = 1, min_contributors: int = 3
) -> np.ndarray:
    """The model that the same cohort reaches in clear when some merchants never upload."""
    cohort = Cohort(folder, size=size)
    grid = InProcessGrid(
        cohort.app(), size, drop=lambda kind, group, index: kind == "train" and index in absent
    )
    plan = cohort.plan(rounds=rounds, min_contributors=min_contributors, **CLEAR)
    return cohort.train(plan, grid)[0]


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


def deal_badly(monkeypatch: pytest.MonkeyPatch, dealers: set[str], targets: set[int]) -> None:
    """Make these dealers give these members shares of another key, committed to and proved for the first."""
    honest = dealing.deal

    def deal(
        secret: np.ndarray, *, members: int, threshold: int, statement: bytes, rng: Randomness
    ) -> dealing.Dealing:
        if not any(f'"{dealer}"'.encode() in statement for dealer in dealers):
            return honest(secret, members=members, threshold=threshold, statement=statement, rng=rng)
        masked = np.concatenate([secret, np.zeros(degree.REPETITIONS, dtype=np.int64)])
        first, other = (shamir.polynomials(masked, threshold=threshold, rng=rng) for _ in range(2))
        shares, wrong = (shamir.evaluate(c, members=members) for c in (first, other))
        parcels = tuple(
            bytes(32) + shamir.encode_share(x, (wrong if x in targets else shares)[x - 1])
            for x in range(1, members + 1)
        )
        commitments = tuple(map(dealing._commitment, parcels))
        weights = degree.challenge(statement, commitments, threshold=threshold, count=secret.size)
        proof = degree.prove(first, weights).astype("<u4").tobytes().hex()
        return dealing.Dealing(parcels, dealing.Published(commitments=commitments, proof=proof))

    monkeypatch.setattr(dealing, "deal", deal)


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
