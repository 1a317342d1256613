"""Show a join file to a person, and ask for what no program can check."""

from __future__ import annotations

import typer

from fedrec.cli.confirmation import confirm_by_hand
from fedrec.cli.wrapping import say
from fedrec.clients.party_home import PartyHome
from fedrec.errors import ConfigError
from fedrec.protocol.enrolment import JoinFile, grouped
from fedrec.protocol.roster_fingerprints import roster_fingerprint

_NOT_JOINED = (
    "not confirmed, so nothing was joined: get the fingerprint from the operator by another channel, "
    "and run the command again (or give it with --fingerprint)"
)


def show_join_file(found: JoinFile) -> None:
    """Print the server, the roster, the witnesses and the fingerprints of a join file."""
    say(f"server      {found.address}")
    say(f"roster      {', '.join(peer.name for peer in found.roster)}")
    if found.witnesses:
        names = ", ".join(peer.name for peer in found.witnesses)
        say(f"witnesses   {names} (no photos; they help to open sums)")
    # The one that a person compares stands last, next to the question.
    say(
        "roster_fingerprint for policy.toml, of the roster alone: "
        f"{roster_fingerprint(found.roster, found.witnesses)}\n"
        f"fingerprint {grouped(found.fingerprint)}"
    )


def confirm_join_file(opened: PartyHome, found: JoinFile, *, given: str | None, new_server: bool) -> None:
    """Have a person confirm a join file, and any change of the server's identity.

    Args:
        opened: the party's folder.
        found: the join file.
        given: the fingerprint, if the person gave it; None asks for it.
        new_server: whether a change of the server's identity is confirmed already.

    Raises:
        ConfigError: it was not confirmed, or the fingerprint is another.
    """
    if given is None:
        confirm_by_hand(
            "Did you get this fingerprint from somebody you trust, by another channel?", otherwise=_NOT_JOINED
        )
    elif "".join(given.split()).lower() != found.fingerprint:
        raise ConfigError("--fingerprint is not that of the join file: don't join, ask the operator")
    changed = opened.changed_server_identity(found)
    if changed:
        typer.echo(
            f"WARNING: {' and '.join(changed)} changed since this {opened.party} joined. Unless the operator "
            "announced that by another channel, somebody may be impersonating the server.",
            err=True,
        )
        if not new_server:
            confirm_by_hand("Did the operator announce that change?", otherwise=_NOT_JOINED)
