"""Implement ``fedrec client``, the merchant's commands."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from fedrec._internal.text import counted, one_line
from fedrec.cli.client_home import DEFAULT_HOME, Home
from fedrec.cli.client_keys import rotate, vouch
from fedrec.cli.client_roster import accepted_by_statements
from fedrec.cli.join_confirmation import confirm_join_file, show_join_file
from fedrec.cli.json_output import tell
from fedrec.cli.lazy_group import PLAIN, LazyGroup
from fedrec.cli.option_values import check_layout, check_unit
from fedrec.cli.party_commands import (
    AllTrainings,
    AnyTraining,
    Json,
    forget_trainings,
    pause_party,
    resume_party,
)
from fedrec.cli.running_options import Fingerprint, NewServer, keep_flower_files
from fedrec.cli.status_lines import budget_lines, status_lines
from fedrec.cli.wrapping import say
from fedrec.clients.merchant_home import ENROLMENT_FILE, MerchantHome
from fedrec.clients.noised_count import count_randomness
from fedrec.clients.policy import MerchantPolicy
from fedrec.clients.status import read_budget, read_status
from fedrec.errors import ConfigError
from fedrec.privacy.accounting.entry_contents import Count
from fedrec.protocol.enrolment import Enrolment, JoinFile, grouped, read_file
from fedrec.protocol.plan import Unit
from fedrec.vision.folders import Layout
from fedrec.vision.listing.found_encoding import with_found_encoding, with_found_folders
from fedrec.vision.listing.legacy_text import checked_encoding
from fedrec.vision.listing.photo_places import PhotoPlace


class _Commands(LazyGroup):
    lazily: ClassVar[Mapping[str, tuple[str, str]]] = {
        "start": (
            "fedrec.cli.client_start:start",
            "Take part in trainings as the policy allows, until stopped (Ctrl-C or SIGTERM).",
        ),
        "photos": (
            "fedrec.cli.client_photos:photos",
            "Read the folder, count its photos by what becomes of them, and name those that are left out.",
        ),
        "page": (
            "fedrec.cli.client_page:page",
            "Serve the merchant's page on this machine alone, whether the daemon runs or not.",
        ),
        "model": (
            "fedrec.cli.client_model:model",
            "Fetch the model bundle of a finished training from the server, checked by hash and signature.",
        ),
    }


app = typer.Typer(
    help="Take part in a federation as a merchant.", cls=_Commands, no_args_is_help=True, **PLAIN
)


@app.command()
def init(
    name: Annotated[str, typer.Option(help="The merchant's name on the roster.")],
    data: Annotated[Path, typer.Option(help="Folder of class folders with photos, or a CSV file.")],
    home: Home = DEFAULT_HOME,
    layout: Annotated[
        str, typer.Option(help="class, or product: class folders that hold a folder per product.")
    ] = "class",
    unit: Annotated[
        str | None,
        typer.Option(
            help="Unit that the ledger protects, fixed once: record (a photo) or product (all its photos). "
            "Default: by the layout."
        ),
    ] = None,
    names_encoding: Annotated[
        str | None,
        typer.Option(help="Encoding of folder names that are not in UTF-8, e.g. gbk (found by itself)."),
    ] = None,
    insecure_seed: Annotated[
        int | None,
        typer.Option(
            help="FOR TESTS: draw the count's noise from a seed, which protects nothing; the ledger records "
            "it."
        ),
    ] = None,
) -> None:
    """Create keys, a policy and the ledger on this machine, and an enrolment file for the operator."""
    chosen = check_layout(layout)
    protected = check_unit(unit, layout=chosen)
    encoding = None if names_encoding is None else checked_encoding(names_encoding)
    MerchantHome.check_new(home, name)
    # Found once, and kept: a training reads names and folders by the settings alone.
    place = with_found_folders(with_found_encoding(PhotoPlace(data, encoding)), layout=chosen)
    units = _counted(place, layout=chosen, unit=protected)
    rng = None
    if insecure_seed is not None:
        typer.echo("INSECURE: the noise of the count comes from a seed; it protects nothing", err=True)
        rng = count_randomness(insecure_seed, name)
    made = MerchantHome.create(
        home, name=name, data=place, layout=chosen, unit=protected, units=units, rng=rng
    )
    say(
        f"{_describe_count(units, made.declared_count())}\n"
        f"Edit {made.folder / 'policy.toml'}: it decides what this merchant takes part in."
    )
    say(
        f"Give {made.folder / ENROLMENT_FILE} to the operator; it holds your name, two public keys, that "
        "noisy count and its unit, signed, and nothing else.\n"
        f"fingerprint of the file, for merchants that vouch for you: {_enrolment_fingerprint(made)}"
    )


def _enrolment_fingerprint(home: MerchantHome) -> str:
    return grouped(read_file(home.folder / ENROLMENT_FILE, Enrolment).fingerprint)


def _counted(data: PhotoPlace, *, layout: Layout, unit: Unit) -> int:
    """Say what was found in a folder, and return the exact number of distinct units to train on."""
    from fedrec.vision.inspection import inspect

    found = inspect(data, layout=layout, one_merchant=True)
    left = "" if not found.left_out else "; 'fedrec client check' says why"
    for line in (f"{found.totals}{left}", *found.notes, *found.warnings):
        say(one_line(line, most=len(line)))
    train = found.splits[0]
    return train.products if unit == "product" else train.photos


def _describe_count(units: int, count: Count) -> str:
    """Say what was counted, what was charged, and what the operator will see."""
    what = "products" if count.unit == "product" else "photos"
    return (
        f"{units} distinct {what}; the operator will see {count.size}: the count plus noise of standard "
        f"deviation {count.sigma:g}, drawn once and charged to the ledger."
    )


@app.command()
def recount(home: Home = DEFAULT_HOME) -> None:
    """Release a new noisy count of photos or products, charged to the ledger; stop the daemon first.

    Without this command the first count stays in use when photos change: a new count at each change would
    reveal that there was a change.
    """
    opened = MerchantHome.open(home)
    settings, before = opened.settings(), opened.declared_count()
    unit = check_unit(before.unit, layout=settings.layout)
    units = _counted(settings.place, layout=settings.layout, unit=unit)
    say(_describe_count(units, opened.recount(units)))
    say(f"Send {opened.folder / ENROLMENT_FILE} to the operator, who enrols it like the first one.")
    say(f"fingerprint of the file: {_enrolment_fingerprint(opened)}")


app.command()(rotate)
app.command()(vouch)


@app.command()
def join(
    file: Annotated[Path, typer.Argument(help="The operator's join file.")],
    home: Home = DEFAULT_HOME,
    confirm: Fingerprint = None,
    new_server: NewServer = False,
    by_hand: Annotated[
        bool,
        typer.Option("--by-hand", help="Ask for the fingerprint although the peers' statements are enough."),
    ] = False,
) -> None:
    """Approve a join file (the server, its keys and the roster), and keep it.

    A changed roster of the same server needs no fingerprint where the policy accepts what is new in it: a
    merchant that enough others vouch for, or a new key that the approved one signed.

    Raises:
        ConfigError: the file can't be used, isn't confirmed, or has another fingerprint.
    """
    opened = MerchantHome.open(home)
    found = read_file(file, JoinFile)
    show_join_file(found)
    opened.check_listed(found)
    if confirm is None and not by_hand and accepted_by_statements(opened, found):
        return
    confirm_join_file(opened, found, given=confirm, new_server=new_server)
    opened.approve(found)
    say(f"joined {found.address}; next: fedrec client check --home {shlex.quote(str(home))}")
    if opened.paused:
        say("this merchant is still paused: 'fedrec client resume' has it take part")


@app.command()
def check(
    home: Home = DEFAULT_HOME,
    offline: Annotated[bool, typer.Option("--offline", help="Skip the checks that need the server.")] = False,
) -> None:
    """Check everything that could fail, before anything is sent. Start the server first."""
    opened = MerchantHome.open(home)
    keep_flower_files(opened.folder)
    # Flower reads its environment at import.
    from fedrec.clients.preflight_checks import run_checks

    problems = 0
    for finding in run_checks(opened, offline=offline):
        problems += finding.ok is False
        mark = {True: "ok", False: "WRONG", None: "-"}[finding.ok]
        # Names of folders may hold anything, line ends and commands to a terminal included.
        say(f"{mark:5} {finding.what}: {one_line(finding.text, most=len(finding.text))}")
    if problems:
        raise ConfigError(f"{counted(problems, 'check')} failed for '{opened.settings().name}'")


@app.command()
def pause(home: Home = DEFAULT_HOME) -> None:
    """Refuse new rounds until 'resume'. An upload that was charged already may still be sent."""
    pause_party(
        MerchantHome.open(home),
        refused="plans and new rounds",
        note="What can't be undone: a round charged before may still be sent and opened, and keeps its "
        "charge.",
    )


@app.command()
def resume(home: Home = DEFAULT_HOME) -> None:
    """Take part again after 'pause'."""
    resume_party(
        MerchantHome.open(home),
        answered="plans and rounds",
        note="; in a training that goes on, from the round for which the server asks next, within about ten "
        "minutes",
    )


@app.command()
def forget(
    training: AnyTraining = None,
    home: Home = DEFAULT_HOME,
    everything: AllTrainings = False,
    photo: Annotated[
        list[Path] | None, typer.Option("--photo", help="A photo to exclude (several times).")
    ] = None,
) -> None:
    """End a training on this machine, whatever the server says, or exclude a photo from all later steps."""
    opened = MerchantHome.open(home)
    if (training is not None) + everything + bool(photo) != 1:
        raise ConfigError("name a training, or give --all or --photo")
    if photo:
        _forget_photos(opened, photo)
    else:
        forget_trainings(opened, training, everything=everything)


def _forget_photos(opened: MerchantHome, paths: list[Path]) -> None:
    from fedrec.clients.forgetting import forget_photos

    for name, copies in forget_photos(opened, paths):
        also = f" and its {counted(copies, 'copy', plural='copies')}" if copies else ""
        say(f"{name}{also}: excluded from the next round on; no file is deleted")
    say(
        "What can't be undone: a round charged before may still be sent, the model keeps what earlier rounds "
        "learnt, and the ledger keeps every charge."
    )


@app.command()
def status(home: Home = DEFAULT_HOME, as_json: Json = False) -> None:
    """Show the connection, the open training, the budget, and the last refusals with their costs."""
    tell(read_status(MerchantHome.open(home)), status_lines, as_json=as_json)


@app.command()
def budget(home: Home = DEFAULT_HOME, as_json: Json = False) -> None:
    """Show the lifetime budget that was spent, by training."""
    opened = MerchantHome.open(home)
    found, _ = read_budget(opened, MerchantPolicy.load(opened.folder / "policy.toml"))
    tell(found, budget_lines, as_json=as_json)
