"""Measure what removable noise layers cost in bytes and CPU seconds, one thread.

    python benchmarks/layer_costs.py [--dimension D ...]

All merchants come, so that every layer but the one that stays is opened and subtracted: the dearest case.
What the server subtracts for one merchant is measured and multiplied by their number.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from measure import cpu_seconds

from fedrec.clients.noise_layers import add_layers
from fedrec.privacy.aggregation.layer_seeds import (
    accept_part,
    deal_seeds,
    open_part,
    opened_bytes,
    part_bytes,
    read_opened,
    recover_seeds,
)
from fedrec.privacy.aggregation.seats import choose_seats
from fedrec.privacy.dp.calibration import NoiseRequest, plan_noise
from fedrec.privacy.dp.layer_noise import remove_layer
from fedrec.privacy.dp.noise import discrete_gaussian
from fedrec.privacy.randomness import Randomness

COHORTS = ((10, 5, 1), (100, 90, 5))
"""Merchants, minimum of contributors, colluders."""
DIMENSIONS = (12_000, 539_000, 11_000_000)
_STATEMENT = b"layers"
_HASH_BYTES = 67
"""A hash in a commitment's JSON: 64 digits, quotes and a comma."""


def layer_rows(dimensions: tuple[int, ...] = DIMENSIONS) -> Iterator[dict[str, Any]]:
    """Yield a row for each cohort and model size, at noise multiplier 1."""
    for clients, least, colluders in COHORTS:
        for dimension in dimensions:
            yield layer_row(dimension, clients=clients, least=least, colluders=colluders)


def layer_row(
    dimension: int, *, clients: int, least: int, colluders: int, witnesses: int = 0
) -> dict[str, Any]:
    """Return what layers cost in one cohort: ``upload_bytes`` and ``answer_bytes`` are what they add."""
    noise = plan_noise(
        NoiseRequest(
            mode="distributed",
            epsilon=None,
            noise_multiplier=1.0,
            delta=1e-5,
            sample_rate=0.05,
            steps=100,
            dimension=dimension,
            clip=1.0,
            cohort=clients,
            min_contributors=least,
            colluders=colluders,
            records_per_merchant=750,
            layered=True,
        )
    )
    seats = choose_seats(cohort=clients, colluders=colluders, witnesses=witnesses)
    layers, rng = len(noise.layer_stds), Randomness.from_os()
    values = np.zeros(dimension, dtype=np.int64)
    seeds = add_layers(values, noise=noise, rng=rng)

    def deal() -> Any:
        return deal_seeds(
            seeds, members=seats.members, threshold=seats.threshold, statement=_STATEMENT, rng=rng
        )

    dealing = deal()

    def member() -> bytes:
        opened = b""
        for _ in range(clients):
            accept_part(dealing.parts[0], dealing.published, member=1, statement=_STATEMENT)
            opened += open_part(dealing.parts[0], kept=0, member=1, statement=_STATEMENT)
        return opened

    def check() -> None:
        for _ in range(clients):
            shares = {
                x: read_opened(
                    open_part(dealing.parts[x - 1], kept=0, member=x, statement=_STATEMENT),
                    dealing.published,
                    kept=0,
                    member=x,
                    statement=_STATEMENT,
                )
                for x in range(1, seats.threshold + 1)
            }
            recover_seeds(shares, dealing.published, kept=0, statement=_STATEMENT)

    def remove() -> None:
        for seed, std in zip(seeds, noise.layer_stds, strict=True):
            remove_layer(values, seed, std=std)

    boxes = seats.members * part_bytes(layers)
    return {
        "clients": clients,
        "min_contributors": least,
        "dimension": dimension,
        "layers": layers,
        "narrowest": min(noise.share_std, *noise.layer_stds),
        "upload_bytes": boxes + _HASH_BYTES * (layers + seats.members),
        "part_bytes": part_bytes(layers),
        "answer_bytes": clients * opened_bytes(layers),
        "own_noise_s": cpu_seconds(
            lambda: discrete_gaussian(dimension, sigma=noise.added_std, rng=rng), repeats=3
        ),
        "draw_s": cpu_seconds(lambda: add_layers(values, noise=noise, rng=rng), repeats=3),
        "deal_s": cpu_seconds(deal, repeats=3),
        "member_s": cpu_seconds(member, repeats=3),
        "server_check_s": cpu_seconds(check, repeats=1),
        "server_remove_s": clients * cpu_seconds(remove, repeats=1),
    }


def main() -> None:
    """Print the rows as JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dimension", type=int, nargs="*", default=list(DIMENSIONS))
    for row in layer_rows(tuple(parser.parse_args().dimension)):
        print(json.dumps(row))


if __name__ == "__main__":
    main()
