"""Implement ``fedrec audit``: make audit bundles that an outsider can verify, and verify them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from fedrec._internal.files import write_atomically
from fedrec._internal.json_files import read_document
from fedrec._internal.pip_command import pip_command
from fedrec._internal.text import counted
from fedrec.cli.generated_options import fields_as_options
from fedrec.cli.lazy_group import PLAIN, LazyGroup
from fedrec.errors import AuditError, ConfigError, IncompleteAuditError


class _Attacks(LazyGroup):
    lazily: ClassVar[Mapping[str, tuple[str, str]]] = {
        "empirical": (
            "fedrec.cli.empirical:empirical",
            "Audit the installed code: send canaries through its clipping, noise, encryption and opening.",
        ),
        "inversion": (
            "fedrec.cli.attacks:inversion",
            "Try to reconstruct photos from what each party sees of a merchant's step; a page shows them.",
        ),
        "membership": (
            "fedrec.cli.attacks:membership",
            "Try to infer from a final model which photos it was trained on, without and with noise.",
        ),
    }


app = typer.Typer(
    cls=_Attacks,
    help="Make audit bundles that outsiders can verify, verify them, and attack our own protection.",
    no_args_is_help=True,
    **PLAIN,
)

BUNDLE, PAGE, PRINT = "audit.json", "audit.html", "audit.pdf"


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Options of ``fedrec audit report``; each is described by its help."""

    out: Annotated[Path, typer.Option(help="New folder for audit.json, audit.html and audit.pdf.")]
    run: Annotated[Path | None, typer.Option(help="A simulation's run directory.")] = None
    client: Annotated[
        list[Path] | None, typer.Option(help="A merchant's folder (may be given several times).")
    ] = None
    server: Annotated[Path | None, typer.Option(help="The server's folder, for plans and receipts.")] = None
    disclose_data: Annotated[
        bool,
        typer.Option(
            "--disclose-data",
            help="Reveal which charges used the same photos, so that 'changed_data' can be checked.",
        ),
    ] = False
    empirical_json: Annotated[
        Path | None, typer.Option("--empirical", help="JSON of 'audit empirical' to include.")
    ] = None
    membership: Annotated[Path | None, typer.Option(help="JSON of 'audit membership' to include.")] = None
    inversion: Annotated[
        Path | None, typer.Option(help="inversion.json of 'audit inversion' to include.")
    ] = None


@app.command()
@fields_as_options(ReportOptions)
def report(given: ReportOptions) -> None:
    """Put ledgers, receipts, policies and plans into one signed bundle, with an HTML page and a PDF."""
    from fedrec.privacy.audit.audit_document import audit_document
    from fedrec.privacy.audit.bundle import body_of, seal
    from fedrec.report.html import render_html
    from fedrec.report.pdf import can_render_pdf, render_pdf
    from fedrec.simulations.audit_evidence import (
        LARGEST_ATTACHMENT,
        evidence_of_client,
        evidence_of_run,
        evidence_of_server,
        merge_evidence,
    )

    parts = [evidence_of_run(given.run, discloses_data=given.disclose_data)] if given.run is not None else []
    parts += [evidence_of_client(folder, discloses_data=given.disclose_data) for folder in given.client or []]
    parts += [evidence_of_server(given.server)] if given.server is not None else []
    if not any(evidence.merchants for evidence, _ in parts):
        raise ConfigError("an audit needs ledgers: give --run DIR, or --client DIR")
    if given.out.exists() and any(given.out.iterdir()):
        raise ConfigError(f"--out {given.out} is not empty: choose another folder; nothing is overwritten")
    names = [record.name for evidence, _ in parts for record in evidence.merchants]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"the ledger of '{name}' is given twice: name each merchant's folder once")
    evidence = merge_evidence([evidence for evidence, _ in parts])
    attachments = dict(evidence.attachments)
    for name, path in (
        ("empirical", given.empirical_json),
        ("membership", given.membership),
        ("inversion", given.inversion),
    ):
        if path is not None:
            attachments[name] = read_document(path, schema=f"fedrec.{name}/1", largest=LARGEST_ATTACHMENT)
    signer = parts[-1][1]
    body = body_of(replace(evidence, attachments=attachments))
    document = audit_document(body, signer=signer.public.hex())
    pages = {PAGE: render_html(document).encode()}
    if can_render_pdf():
        pages[PRINT] = render_pdf(document)
    else:
        typer.echo(f"{PRINT} was not made: it needs {pip_command('fedrec[pdf]')}", err=True)
    bundle = seal(body, signer=signer, pages=pages)
    given.out.mkdir(parents=True, exist_ok=True)
    write_atomically(given.out / BUNDLE, json.dumps(bundle, indent=1, allow_nan=False).encode())
    for name, page in pages.items():
        write_atomically(given.out / name, page)
    typer.echo(
        f"{given.out / BUNDLE} holds {counted(len(bundle['body']['merchants']), 'ledger')}; "
        f"signed by {bundle['signer']}"
    )
    typer.echo(f"Anyone can verify it: fedrec audit verify {shlex.quote(str(given.out / BUNDLE))}")


@app.command()
def verify(
    bundle: Annotated[Path, typer.Argument(help="An audit.json.")],
    server_key: Annotated[
        list[str] | None,
        typer.Option(help="A server's public key from a trusted source (several times)."),
    ] = None,
    merchant: Annotated[
        list[str] | None,
        typer.Option(help="NAME=KEY: a merchant's public key from a trusted source (several times)."),
    ] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Exit with 0 even if parts are missing.")
    ] = False,
) -> None:
    """Verify a bundle: chains, signatures, receipts, policies, and every epsilon from the charges."""
    from fedrec.privacy.audit import verify as verifier

    try:
        anchors = verifier.Anchors(
            servers=frozenset(verifier.public_key(text) for text in server_key or []),
            merchants=dict(verifier.named_key(text) for text in merchant or []),
        )
        outcome = verifier.verify(bundle, anchors=anchors)
    except (ValueError, verifier.UnusableError) as error:
        raise ConfigError(str(error)) from None
    for line in verifier.text_lines(outcome):
        typer.echo(line)
    if not outcome.ok:
        where, reason = next(iter(outcome.failures.items()))
        more = len(outcome.failures) - 1
        raise AuditError(
            f"the record does not hold: {where or 'bundle'}: {reason}"
            + (f" (and {more} more, see above)" if more else "")
        )
    typer.echo(outcome.verdict)
    if not (outcome.complete or allow_missing):
        raise IncompleteAuditError(
            f"not everything could be checked: {outcome.gaps[0]}"
            + (f", and {len(outcome.gaps) - 1} more" if len(outcome.gaps) > 1 else "")
            + "; --allow-missing accepts that"
        )
