"""Implement ``fedrec client rotate`` and ``fedrec client vouch``: a merchant's own keys, and its word."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedrec.cli.client_home import DEFAULT_HOME, Home
from fedrec.cli.confirmation import confirm_by_hand
from fedrec.cli.party_commands import NodeKeyOnly, rotate_keys
from fedrec.cli.wrapping import say
from fedrec.clients.merchant_home import MerchantHome
from fedrec.clients.vouching import check_enrolment, vouch_for
from fedrec.errors import ConfigError
from fedrec.protocol.enrolment import Enrolment, grouped, read_file
from fedrec.protocol.roster_statements import MOST_VOUCH_DAYS


def rotate(
    home: Home = DEFAULT_HOME,
    node_key_only: NodeKeyOnly = False,
) -> None:
    """Exchange the keys: the identity key (the ledger and its budget go on) and the node key.

    Stop the daemon first, and between trainings. The old identity key signs the new one. The operator enrols
    the new enrolment file, and the other merchants accept the new key by that signature. The node key stays
    valid until the new one is enrolled.
    """
    rotate_keys(MerchantHome.open(home), node_key_only=node_key_only, goes_on="the ledger")


def vouch(
    file: Annotated[Path, typer.Argument(help="The new merchant's enrolment file.")],
    home: Home = DEFAULT_HOME,
    confirm: Annotated[
        str | None,
        typer.Option("--fingerprint", help="The enrolment file's fingerprint, from the new merchant itself."),
    ] = None,
    days: Annotated[
        int, typer.Option(min=1, max=MOST_VOUCH_DAYS, help="Days after which the vouch no longer counts.")
    ] = 30,
) -> None:
    """Vouch for a new merchant that you know, so that others may accept it without a meeting.

    Compare the fingerprint with the new merchant itself, by another channel than the operator. Your word is a
    signature; give the file that this writes to the operator.

    Raises:
        ConfigError: the fingerprint is another one or isn't confirmed, or this merchant can't vouch for it.
    """
    opened = MerchantHome.open(home)
    enrolment = read_file(file, Enrolment)
    check_enrolment(opened, enrolment)
    stated = enrolment.statement
    say(
        f"merchant    {stated.name}\n"
        f"key         {stated.signing_key}\n"
        f"fingerprint {grouped(enrolment.fingerprint)}"
    )
    if confirm is None:
        confirm_by_hand(
            f"Did {stated.name} itself tell you this fingerprint, in person or by another channel?",
            otherwise="not confirmed, so nothing was signed: ask the new merchant itself for the fingerprint "
            "that 'fedrec client init' showed, and run the command again (or give it with --fingerprint)",
        )
    elif "".join(confirm.split()).lower() != enrolment.fingerprint:
        raise ConfigError(
            "--fingerprint is not that of the enrolment file: don't vouch for it, ask the new merchant itself"
        )
    written, signed = vouch_for(opened, enrolment, days=days)
    say(
        f"You vouch for {stated.name} until {signed.statement.last_day}. Give {written} to the operator "
        "('fedrec server vouch FILE')."
    )
