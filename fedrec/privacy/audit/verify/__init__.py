"""Recheck an audit bundle. Stands alone: imports nothing of fedrec; copy this folder and run it elsewhere.

    python -m verify audit.json [--server-key HEX] [--merchant NAME=HEX ...] [--allow-missing]

It needs two packages: ``cryptography`` for Ed25519, and Google's ``dp_accounting`` (which brings numpy and
scipy). ``check.py`` is where to start reading: it checks of the bundle its signature, the pages beside it,
that all plans name the server's key and keep their own rules, that no merchant or key comes twice, that
merchants who were charged for one round name one model, the attached report, and the statements. And for
every merchant

- ``ledger.py``, the chain: entry n's hash is SHA-256 of a prefix, entry n-1's hash and entry n's payload, and
  is signed by the merchant's key; numbers have no gap, no (training, round, step) comes twice, and time never
  runs back; and the receipts: heads that the merchant signed and the server countersigned all stand in the
  chain, so that neither a ledger put back to an older state nor entries cut from the end go unnoticed;
- ``terms.py``, each charge: its sensitivity follows from grid, dimension and beta, its noise from what was
  planned, and all of it from its training's plan;
- ``rules.py``, the merchant's policies: no charge breaks a rule of its time;
- ``spending.py``, every epsilon from the raw history (sampling rate, noise multiplier, steps, beta, delta)
  alone, to 0.1%: of each training by itself by PLD, with RDP at real orders as a cross-check
  (``epsilons.py``), and of the lifetime, before and after each charge, by the two-armed filter (``cap.py``);
- ``figures.py``, the summary and the attached report: what people read is what the history gives.

What is missing from the bundle is said, and is a verdict of its own: the record then holds as far as it could
be checked. What can't be shown at all: that a merchant ran what it wrote down, or what its photos were. And a
bundle is only as good as its keys: compare those that are printed with what you got by another way.
"""

from __future__ import annotations

from .check import BODY, SCHEMA, verify
from .outcome import Anchors, Outcome, UnusableError
from .statements import STATEMENTS
from .telling import named_key, public_key, told

__all__ = [
    "BODY",
    "SCHEMA",
    "STATEMENTS",
    "Anchors",
    "Outcome",
    "UnusableError",
    "named_key",
    "public_key",
    "told",
    "verify",
]
