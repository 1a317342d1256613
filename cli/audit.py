"""``fedrec audit``: bundles that an outsider can recheck."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from fedrec.cli import attacks
from fedrec.cli.empirical import empirical
from fedrec.errors import AuditError, ConfigError
from fedrec.files import write_atomically
from fedrec.privacy.audit import verify as verifier
from fedrec.privacy.audit.bundle import build
from fedrec.privacy.audit.pages import render_html, render_pdf
from fedrec.simulations.evidence import attachment, merged, of_client, of_run, of_server

app = typer.Typer(help="Make reports that an outsider can recheck, and recheck them.", no_args_is_help=True)
app.command("empirical")(empirical)
app.command("inversion")(attacks.inversion)
app.command("membership")(attacks.membership)

BUNDLE, PAGE, PRINT = "audit.json", "audit.html", "audit.pdf"


@app.command()
def report(
    out: Annotated[Path, typer.Option(help="New folder for audit.json, audit.html and audit.pdf.")],
    run: Annotated[Path | None, typer.Option(help="A simulation's run directory.")] = None,
    client: Annotated[
        list[Path] | None, typer.Option(help="A merchant's folder (may be given several times).")
    ] = None,
    server: Annotated[Path | None, typer.Option(help="The server's folder: plans and receipts.")] = None,
    empirical_json: Annotated[
        Path | None, typer.Option("--empirical", help="JSON of 'audit empirical', to be included.")
    ] = None,
    membership: Annotated[
        Path | None, typer.Option(help="JSON of 'audit membership', to be included.")
    ] = None,
) -> None:
    """Put ledgers, receipts, rules and plans into one signed bundle, with a page to read and one to print."""
    parts = [of_run(run)] if run is not None else []
    parts += [of_client(folder) for folder in client or []]
    parts += [of_server(server)] if server is not None else []
    if not any(evidence.merchants for evidence, _ in parts):
        raise ConfigError("an audit needs ledgers: give --run DIR, or --client DIR")
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"--out {out} is not empty: choose another folder, nothing is ever overwritten")
    evidence = merged([evidence for evidence, _ in parts])
    attachments = dict(evidence.attachments)
    for name, path in (("empirical", empirical_json), ("membership", membership)):
        if path is not None:
            attachments[name] = attachment(path, schema=f"fedrec.{name}/1")
    bundle = build(replace(evidence, attachments=attachments), signer=parts[-1][1])
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / BUNDLE, json.dumps(bundle, indent=1, allow_nan=False).encode())
    write_atomically(out / PAGE, render_html(bundle).encode())
    write_atomically(out / PRINT, render_pdf(bundle))
    typer.echo(
        f"{out / BUNDLE} holds {len(bundle['body']['merchants'])} ledgers; signed by {bundle['signer']}"
    )
    typer.echo(f"Anyone can recheck it: fedrec audit verify {out / BUNDLE}")


@app.command()
def verify(bundle: Annotated[Path, typer.Argument(help="An audit.json.")]) -> None:
    """Recheck a bundle: chains, signatures, receipts, rules, and every epsilon from the raw history."""
    outcome = verifier.verify(bundle)
    for line in outcome.lines:
        typer.echo(f"ok      {line}")
    for name, reason in outcome.failures.items():
        typer.echo(f"FAILED  {name or 'bundle'}: {reason}")
    typer.echo("This shows that the record is consistent, not that a merchant ran what it wrote down.")
    if not outcome.ok:
        raise AuditError(f"the record does not hold: {next(iter(outcome.failures.values()))}")
    typer.echo("The record holds.")
