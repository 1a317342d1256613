"""Collect the evidence of an audit from a simulation's run directory, a merchant's folder or a server's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from fedrec._internal.files import read_regular
from fedrec._internal.text import one_line
from fedrec.clients.merchant_home import MerchantHome
from fedrec.clients.store import MerchantStore
from fedrec.clients.store_view import StoredRefusal, read_store
from fedrec.errors import ConfigError, ServiceError
from fedrec.privacy.accounting.ledger_reader import read_checked_head
from fedrec.privacy.audit.bundle import Evidence, MerchantRecord
from fedrec.privacy.identity import SigningIdentity, verify
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.statements import Receipt
from fedrec.protocol.training_report.report import read_report
from fedrec.server.receipts import read_receipts
from fedrec.server.server_home import ServerHome
from fedrec.server.trainings import all_trainings

LARGEST_ATTACHMENT = 2**24
"""Most bytes of a file that goes into a bundle."""
_SHOWN = ("run", "privacy", "secure_aggregation", "site_figures", "warnings")
"""Sections of a run's report that go into its bundle."""


def evidence_of_run(run: Path, *, discloses_data: bool = False) -> tuple[Evidence, SigningIdentity]:
    """Collect what a simulation left in its run directory.

    Args:
        run: the run directory.
        discloses_data: whether the bundle opens the merchants' commitments to dataset versions.

    Returns:
        The evidence, and the identity that signs the bundle: the simulation's server.

    Raises:
        ConfigError: it is no whole run directory, or a training of a deployment.
    """
    home = run.resolve().parent.parent
    if (home / "roster.json").exists():
        raise ConfigError(
            f"--run {run} is a training of a deployment, without its ledgers: give --server "
            f"{home}, and --client FOLDER for each merchant that gives you its folder"
        )
    try:
        plan = _plan(read_regular(run / "plan.json"), run / "plan.json")
        signer = ServerHome(run / "server").identity()
        rules = _json_object(run / "policy.json")
        report = read_report(run)
        folders = sorted((run / "merchants").iterdir())
        homes = [home for home in map(MerchantHome, folders) if home.ledger.is_file()]
    except OSError as error:
        lacks = Path(error.filename or run).name
        raise ConfigError(f"--run {run} is no whole run directory ({lacks}: {error.strerror})") from None
    except (ValueError, ServiceError, ConfigError) as error:
        raise ConfigError(f"--run {run} is no whole run directory ({one_line(error)})") from None
    merchants = tuple(
        MerchantRecord(
            name=home.folder.name,
            public=home.identity().public,
            ledger=home.ledger,
            policies=_policies(home.store, rules),
            discloses_data=discloses_data,
        )
        for home in homes
    )
    values = report.to_json()
    shown = {name: values[name] for name in _SHOWN}
    evidence = Evidence(
        merchants=merchants,
        plans=(plan,),
        receipts=tuple(read_receipts(ServerHome(run / "server").receipts)),
        refusals={"server": report.refusals, **{home.folder.name: None for home in homes}},
        attachments={"report": shown},
    )
    return evidence, signer


def evidence_of_client(folder: Path, *, discloses_data: bool = False) -> tuple[Evidence, SigningIdentity]:
    """Collect what a merchant has: its ledger, all its policies and plans, its refusals and its last receipt.

    Args:
        folder: the merchant's folder.
        discloses_data: whether the bundle opens its commitments to dataset versions.

    Returns:
        The evidence, and the identity that signs the bundle: the merchant.
    """
    home = MerchantHome.open(folder)
    identity, policy = home.identity(), home.policy()
    store = MerchantStore(home.store)
    try:
        plans = tuple(_plan(data, home.store) for data in store.plans())
    finally:
        store.close()
    refused = read_store(home.store).refusals
    head = read_checked_head(home.ledger, public=identity.public, verify=verify)
    receipts: tuple[Receipt, ...] = () if head is None or head.receipt is None else (head.receipt,)
    record = MerchantRecord(
        name=home.settings().name,
        public=identity.public,
        ledger=home.ledger,
        policies=_policies(home.store, policy.rules),
        discloses_data=discloses_data,
    )
    evidence = Evidence(
        merchants=(record,),
        plans=plans,
        receipts=receipts,
        servers=(home.joined().server_key,),
        refusals={record.name: {_when(told): told.reason for told in refused}},
    )
    return evidence, identity


def _when(refusal: StoredRefusal) -> str:
    often = f", {refusal.times} times, the last" if refusal.times > 1 else ""
    return f"{refusal.kind}{often} at {refusal.at}"


def evidence_of_server(folder: Path) -> tuple[Evidence, SigningIdentity]:
    """Collect what a server has: plans, receipts and refusals. The server signs the bundle."""
    home = ServerHome.open(folder)
    identity = home.identity()
    trainings = list(all_trainings(home.trainings))
    evidence = Evidence(
        merchants=(),
        plans=tuple(training.plan() for training in trainings),
        receipts=tuple(read_receipts(home.receipts)),
        servers=(identity.public.hex(),),
        refusals={
            "server": {
                f"training {training.number}, {where}": reason
                for training in trainings
                for where, reason in training.refusals().items()
            }
        },
    )
    return evidence, identity


def merge_evidence(parts: Sequence[Evidence]) -> Evidence:
    """Merge evidence from several places."""
    plans = {plan.training_id: plan for part in parts for plan in part.plans}
    receipts = {receipt.signature: receipt for part in parts for receipt in part.receipts}
    return Evidence(
        merchants=tuple(record for part in parts for record in part.merchants),
        plans=tuple(plans.values()),
        receipts=tuple(receipts.values()),
        servers=tuple(sorted({key for part in parts for key in part.servers})),
        refusals={who: found for part in parts for who, found in part.refusals.items()},
        attachments={name: value for part in parts for name, value in part.attachments.items()},
    )


def _plan(data: bytes, path: Path) -> TrainingPlan:
    try:
        return TrainingPlan.model_validate_json(data)
    except ValidationError as error:
        raise ConfigError(f"{path} holds no plan of this version ({error.error_count()} problems)") from None


def _json_object(path: Path) -> str:
    """Return a file's text; ``ValueError`` if it is no JSON object."""
    text = read_regular(path).decode("utf-8")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"{path.name} is no JSON object")
    return text


def _policies(path: Path, rules: str) -> tuple[str, ...]:
    """Return all policies that a merchant's store holds, the current one last."""
    if not path.is_file():
        return (rules,)
    store = MerchantStore(path)
    try:
        kept = [text for text in store.policies() if text != rules]
    finally:
        store.close()
    return (*kept, rules)
