"""Check an audit bundle. Imports nothing of fedrec: copy this folder and run it anywhere.

    python -m verify audit.json [--server-key HEX] [--merchant NAME=HEX ...] [--allow-missing]

It needs two packages: ``cryptography`` for Ed25519, and Google's ``dp_accounting``, which installs numpy and
scipy. Start reading at ``check.py``. It checks the bundle's signature, the pages beside it, the attached
report and the statements. All plans must name the server's key and follow their own rules. No merchant or key
may occur twice, and merchants charged for the same round must have been sent the same model. What is used of
plans (``plans.py``) and of the report (``reports.py``) is read by ``forms.py``, which names the place of
whatever has another type. For every merchant it runs these checks:

- ``ledger.py``, the hash chain: entry n's hash is SHA-256 of a prefix, entry n-1's hash and entry n's
  payload, and is signed by the merchant's key. Numbers have no gap, no (training, round, step) occurs twice,
  and dates don't decrease. All receipts (ledger heads that the merchant signed and the server countersigned)
  must match an entry, which detects a ledger restored from an older state and entries cut from its end.
- ``keys.py``, the exchanges of the merchant's key: both keys signed each, and the entries after it are signed
  by the new one. No key is in two merchants' ledgers.
- ``charge_checks.py``, each charge: its sensitivity follows from grid, dimension and beta
  (``sensitivities.py``), its noise from the planned noise multiplier (``noise_shares.py``), and all of it
  from its training's plan.
- ``policy_checks.py``, the merchant's policies: no charge breaks a rule that was in force.
- ``epsilon_checks.py``, every epsilon, recomputed from the charges (sampling rate, noise multiplier, steps,
  beta, delta) to 0.1%: of each training by PLD, with RDP at real orders as a cross-check (``epsilons.py``),
  and of the lifetime, before and after each charge, by the lifetime filter (``lifetime_filter.py``).
- ``summary_checks.py`` and ``report_checks.py``, the summary and the attached report: their numbers follow
  from the charges.

Missing parts are reported and give a verdict of their own: the record holds as far as it could be checked.
Nothing can show that a merchant ran what it recorded, or what its photos were. A bundle is only as
trustworthy as its keys: compare the printed keys with those that you obtained independently.
"""

from __future__ import annotations

from .bundle_statements import STATEMENTS
from .check import BODY, SCHEMA, verify
from .outcome import Anchors, Outcome, UnusableError
from .text_output import named_key, public_key, text_lines

__all__ = [
    "BODY",
    "SCHEMA",
    "STATEMENTS",
    "Anchors",
    "Outcome",
    "UnusableError",
    "named_key",
    "public_key",
    "text_lines",
    "verify",
]
