"""What the commands of merchants and witnesses do alike: exchange keys, pause, and end a training."""

from __future__ import annotations

from typing import Annotated

import typer

from fedrec.cli.wrapping import say
from fedrec.clients.identity_rotation import rotate_identity
from fedrec.clients.party_home import ENROLMENT_FILE, PartyHome
from fedrec.clients.store import MerchantStore
from fedrec.errors import ConfigError
from fedrec.protocol.enrolment import Enrolment, grouped, read_file

NodeKeyOnly = Annotated[
    bool,
    typer.Option(
        "--node-key", help="Exchange the node key alone: the daemon may run, and a training may be open."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]
AnyTraining = Annotated[str | None, typer.Argument(help="A training's id, or its beginning.")]
AllTrainings = Annotated[bool, typer.Option("--all", help="All open trainings.")]


def rotate_keys(opened: PartyHome, *, node_key_only: bool, goes_on: str) -> None:
    """Exchange a party's keys, and say what to do with the new enrolment file.

    Args:
        opened: the party's folder.
        node_key_only: leave the identity key as it is.
        goes_on: what goes on under the new identity key.

    Raises:
        ConfigError: a training is open that names the identity key, or a key can't be used.
        LedgerError: the party's record is damaged, or the daemon runs.
    """
    waiting = opened.next_node_key() is not None
    if not node_key_only:
        rotate_identity(opened)
        say(f"The identity key is now {opened.identity().public.hex()}; {goes_on} goes on with it.")
    opened.rotate()
    if waiting:
        say(
            "The enrolment file made before is void: the operator must enrol this one, "
            "even if the other was enrolled."
        )
    made = opened.folder / ENROLMENT_FILE
    say(
        f"Send {made} to the operator, who enrols it like the first one.\n"
        f"fingerprint of the file: {grouped(read_file(made, Enrolment).fingerprint)}"
    )
    if not node_key_only:
        say(
            "Tell the operator by another channel that you exchanged the key: it confirms that with "
            "'fedrec server enroll FILE --new-key'. Trainings that were planned before name the old key and "
            "are refused."
        )
    say("The daemon switches to the new node key by itself once the server accepts it.")


def pause_party(opened: PartyHome, *, refused: str, note: str) -> None:
    """Pause a party, and say what that means.

    Args:
        opened: the party's folder.
        refused: what it refuses until it resumes.
        note: what pausing doesn't do.
    """
    opened.pause()
    say(f"paused: {refused} are refused from now on, also after a restart.\n{note}")


def resume_party(opened: PartyHome, *, answered: str, note: str = "") -> None:
    """Resume after a pause, and say so.

    Args:
        opened: the party's folder.
        answered: what it answers again.
        note: from when on it does; follows the sentence.
    """
    paused = opened.paused
    opened.resume()
    say(
        f"resumed: {answered} are answered again, as the policy allows{note}"
        if paused
        else f"this {opened.party} was not paused"
    )


def forget_trainings(opened: PartyHome, training: str | None, *, everything: bool) -> None:
    """End open trainings on this machine: their keys are deleted.

    Args:
        opened: the party's folder.
        training: the beginning of one open training's id.
        everything: end all open ones.

    Raises:
        ConfigError: there is no such training, or not exactly one of both is given.
        LedgerError: the store can't be read.
    """
    if (training is not None) == everything:
        raise ConfigError("name a training, or give --all")
    if not opened.store.exists():
        raise ConfigError(f"--home {opened.folder}: this {opened.party} has joined no training")
    store = MerchantStore(opened.store)
    try:
        still_open = store.open_trainings()
        found = [name for name in still_open if training is None or name.startswith(training)]
        if training is not None and len(found) != 1:
            shown = ", ".join(name[:16] for name in still_open) or "none"
            raise ConfigError(f"'{training}' is not the beginning of one open training; open are: {shown}")
        if not found:
            say("no training is open here: there is nothing to forget")
        for name in found:
            store.finish(name)
            say(f"training {name[:16]} is ended: its keys are deleted and its requests are refused")
    finally:
        store.close()
