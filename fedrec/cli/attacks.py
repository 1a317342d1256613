"""Implement ``fedrec audit inversion`` and ``membership``: attack fedrec's own protection."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from fedrec._internal.files import write_atomically
from fedrec._internal.json_files import write_json
from fedrec.cli.console import stderr
from fedrec.cli.generated_options import fields_as_options
from fedrec.errors import AuditError, ConfigError
from fedrec.simulations.attacks.inversion import MODEL, SUCCESS_PSNR, InversionSettings, invert
from fedrec.simulations.attacks.inversion_page import render, verdict
from fedrec.simulations.attacks.membership import LEAST_LEAKAGE, MembershipSettings, infer_membership
from fedrec.simulations.attacks.observations import Defence
from fedrec.simulations.attacks.shadow_models import Recipe
from fedrec.vision import model_registry


@dataclass(frozen=True, kw_only=True)
class InversionOptions:
    """Options of ``fedrec audit inversion``; each is described by its help."""

    out: Annotated[Path, typer.Option(help="New folder for inversion.html and inversion.json.")]
    data: Annotated[
        Path | None, typer.Option(help="Your own photos in class folders; synthetic ones unless given.")
    ] = None
    batch: Annotated[
        list[int] | None,
        typer.Option(help="Photos in the attacked step; several times, 1 first (1, 8 and 32)."),
    ] = None
    epsilon: Annotated[float, typer.Option(help="Privacy budget of the attacked training.")] = 8.0
    delta: Annotated[float, typer.Option(help="Delta of that budget.")] = 1e-4
    rounds: Annotated[int | None, typer.Option(help="Rounds of that training (default: the model's).")] = None
    sample_rate: Annotated[
        float | None, typer.Option(help="Sampling rate of that training (default: the model's).")
    ] = None
    clip: Annotated[float | None, typer.Option(help="Clip of that training (default: the model's).")] = None
    merchants: Annotated[int, typer.Option(help="Merchants in the sum.")] = 8
    colluders: Annotated[int, typer.Option(help="Merchants assumed to collude with the server.")] = 1
    steps: Annotated[int, typer.Option(help="Steps of the search for photos.")] = 400
    seed: Annotated[int, typer.Option(help="Seed of photos, initial weights, search and noise.")] = 0


@fields_as_options(InversionOptions)
def inversion(given: InversionOptions) -> None:
    """Try to reconstruct photos from what each party sees of a merchant's step; a page shows them."""
    page, figures = given.out / "inversion.html", given.out / "inversion.json"
    _check_new(page, figures)
    defaults = model_registry.get(MODEL).defaults
    settings = InversionSettings(
        defence=Defence(
            epsilon=given.epsilon,
            delta=given.delta,
            clip=defaults.clip if given.clip is None else given.clip,
            sample_rate=defaults.sample_rate if given.sample_rate is None else given.sample_rate,
            steps=defaults.rounds if given.rounds is None else given.rounds,
            merchants=given.merchants,
            colluders=given.colluders,
        ),
        data=given.data,
        batches=tuple(given.batch or (1, 8, 32)),
        search_steps=given.steps,
        seed=given.seed,
    )
    result = invert(settings, tell=lambda line: stderr.print(line))
    given.out.mkdir(parents=True, exist_ok=True)
    write_json(figures, result.report())
    # Mode 0600, because the page shows the photos themselves.
    write_atomically(page, render(result).encode(), mode=0o600)
    typer.echo(verdict(result))
    typer.echo(f"the pictures are in {page}")
    if not result.attack_works:
        raise AuditError(
            f"the attack is too weak: {result.raw_psnr:.1f} dB on an unprotected update, but "
            f"{SUCCESS_PSNR:.0f} dB are needed; raise --steps"
        )
    if result.exposed:
        raise AuditError(
            f"photos can be recognised in: {', '.join(result.exposed)}; the pictures are in {page}"
        )


@dataclass(frozen=True, kw_only=True)
class MembershipOptions:
    """Options of ``fedrec audit membership``; each is described by its help."""

    out: Annotated[Path, typer.Option(help="New JSON file for the results; 'audit report' can include it.")]
    data: Annotated[
        Path | None, typer.Option(help="Your own photos in class folders; synthetic ones unless given.")
    ] = None
    records: Annotated[int, typer.Option(help="Number of photos; each model is trained on half of them.")] = (
        300
    )
    model: Annotated[
        str, typer.Option(help="cnn (small, greyscale) or another model, such as effnet-lite0-head.")
    ] = "cnn"
    models: Annotated[
        int, typer.Option(help="Models at each budget; each is a shadow model for the others.")
    ] = 12
    epsilon: Annotated[
        list[float] | None, typer.Option(help="Budgets to compare with no noise; several times (8 and 1).")
    ] = None
    delta: Annotated[float | None, typer.Option(help="Delta of the budgets; default 1 / (10 x records).")] = (
        None
    )
    steps: Annotated[int, typer.Option(help="Steps of each training.")] = 80
    sample_rate: Annotated[float, typer.Option(help="Poisson sampling rate of a step.")] = 0.5
    clip: Annotated[float, typer.Option(help="Largest L2 norm of one photo's gradient.")] = 1.0
    learning_rate: Annotated[float, typer.Option(help="Step size.")] = 2.0
    seed: Annotated[int, typer.Option(help="Seed of photos, halves, sampling and noise.")] = 0


@fields_as_options(MembershipOptions)
def membership(given: MembershipOptions) -> None:
    """Try to infer from a final model which photos it was trained on, without and with noise."""
    _check_new(given.out)
    settings = MembershipSettings(
        epsilons=tuple(given.epsilon or (8.0, 1.0)),
        recipe=Recipe(
            steps=given.steps,
            sample_rate=given.sample_rate,
            learning_rate=given.learning_rate,
            clip=given.clip,
            delta=1 / (10 * max(given.records, 1)) if given.delta is None else given.delta,
        ),
        data=given.data,
        records=given.records,
        models=given.models,
        model=given.model,
        seed=given.seed,
    )
    result = infer_membership(settings, tell=lambda line: stderr.print(line))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(given.out, result.report())
    typer.echo("            members found at 1% false alarms (95%)   AUC    loss alone   no attack can pass")
    for level in result.levels:
        name = "no noise" if level.epsilon is None else f"epsilon {level.epsilon:g}"
        found = f"{level.lira.tpr:.1%} ({level.lira.tpr_low:.1%} to {level.lira.tpr_high:.1%})"
        bound = "-" if level.epsilon is None else f"{level.bound:.1%}"
        typer.echo(f"{name:<12}{found:<41}{level.lira.auc:.3f}  {level.threshold.tpr:<12.1%} {bound}")
    typer.echo(f"the results are in {given.out}")
    if not result.attack_works:
        raise AuditError(
            f"the attack is too weak: without noise it finds at most {LEAST_LEAKAGE:.0%} of the members "
            "at 1% false alarms; raise --steps or --models"
        )
    if result.exposed:
        raise AuditError(
            f"models reveal more than epsilon {', '.join(f'{e:g}' for e in result.exposed)} allows"
        )


def _check_new(*paths: Path) -> None:
    for path in paths:
        if path.exists():
            raise ConfigError(f"{path} exists already: choose another --out; nothing is overwritten")
