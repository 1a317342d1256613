"""``fedrec audit inversion`` and ``membership``: attack our own protection, and show what comes out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from fedrec._internal.files import write_atomically
from fedrec.cli.console import stderr
from fedrec.errors import AuditError, ConfigError
from fedrec.simulations.attacks.inversion import MODEL, SUCCESS_PSNR, InversionSettings, invert
from fedrec.simulations.attacks.inversion_page import render, verdict
from fedrec.simulations.attacks.membership import LEAST_LEAKAGE, MembershipSettings, infer_membership
from fedrec.simulations.attacks.observations import Defence
from fedrec.simulations.attacks.shadow_models import Recipe
from fedrec.vision import model_registry


def inversion(
    out: Annotated[Path, typer.Option(help="New folder for inversion.html and inversion.json.")],
    data: Annotated[
        Path | None, typer.Option(help="Your own photos in class folders; synthetic ones unless given.")
    ] = None,
    batch: Annotated[
        list[int] | None, typer.Option(help="Photos in the attacked step, 1 first (1, 8 and 32).")
    ] = None,
    epsilon: Annotated[float, typer.Option(help="Privacy budget of the attacked training.")] = 8.0,
    delta: Annotated[float, typer.Option(help="Its delta.")] = 1e-4,
    rounds: Annotated[int | None, typer.Option(help="Its rounds (the model's default).")] = None,
    sample_rate: Annotated[
        float | None, typer.Option(help="Its sampling rate (the model's default).")
    ] = None,
    clip: Annotated[float | None, typer.Option(help="Its clip (the model's default).")] = None,
    merchants: Annotated[int, typer.Option(help="Merchants in the sum.")] = 8,
    colluders: Annotated[int, typer.Option(help="Merchants assumed to side with the server.")] = 1,
    steps: Annotated[int, typer.Option(help="Steps of the search for pictures.")] = 400,
    seed: Annotated[int, typer.Option(help="Of photos, initial weights, search and noise.")] = 0,
) -> None:
    """Try to turn what each party sees of a merchant's step back into photos; a page shows the pictures."""
    page, figures = out / "inversion.html", out / "inversion.json"
    _check_new(page, figures)
    defaults = model_registry.get(MODEL).defaults
    settings = InversionSettings(
        defence=Defence(
            epsilon=epsilon,
            delta=delta,
            clip=defaults.clip if clip is None else clip,
            sample_rate=defaults.sample_rate if sample_rate is None else sample_rate,
            steps=defaults.rounds if rounds is None else rounds,
            merchants=merchants,
            colluders=colluders,
        ),
        data=data,
        batches=tuple(batch or (1, 8, 32)),
        search_steps=steps,
        seed=seed,
    )
    result = invert(settings, tell=lambda line: stderr.print(line))
    _write(figures, json.dumps(result.report(), indent=2, allow_nan=False))
    # The page shows the photos themselves.
    _write(page, render(result), mode=0o600)
    typer.echo(verdict(result))
    typer.echo(f"{page} shows the pictures")
    if not result.attack_works:
        raise AuditError(
            f"the attack is broken: {result.raw_psnr:.1f} dB on an unprotected update, "
            f"{SUCCESS_PSNR:.0f} are needed; raise --steps"
        )
    if result.exposed:
        raise AuditError(f"photos show through: {', '.join(result.exposed)}; {page} has the pictures")


def membership(
    out: Annotated[Path, typer.Option(help="New JSON file for the figures, as 'audit report' takes it.")],
    data: Annotated[
        Path | None, typer.Option(help="Your own photos in class folders; synthetic ones unless given.")
    ] = None,
    records: Annotated[
        int, typer.Option(help="Photos in all; every model is trained on half of them.")
    ] = 300,
    model: Annotated[
        str, typer.Option(help="cnn, small and in grey; or another, such as effnet-lite0-head.")
    ] = "cnn",
    models: Annotated[int, typer.Option(help="Models at each budget, each the others' shadow.")] = 12,
    epsilon: Annotated[
        list[float] | None, typer.Option(help="Budgets to compare with no noise (8 and 1).")
    ] = None,
    delta: Annotated[float | None, typer.Option(help="1 / (10 x records), unless given.")] = None,
    steps: Annotated[int, typer.Option(help="Steps of each training.")] = 80,
    sample_rate: Annotated[float, typer.Option(help="Poisson sampling rate of a step.")] = 0.5,
    clip: Annotated[float, typer.Option(help="Largest L2 norm of one photo's gradient.")] = 1.0,
    learning_rate: Annotated[float, typer.Option(help="Step size.")] = 2.0,
    seed: Annotated[int, typer.Option(help="Of photos, halves, sampling and noise.")] = 0,
) -> None:
    """Try to tell from a final model who was in its training, without noise and with it."""
    _check_new(out)
    settings = MembershipSettings(
        epsilons=tuple(epsilon or (8.0, 1.0)),
        recipe=Recipe(
            steps=steps,
            sample_rate=sample_rate,
            learning_rate=learning_rate,
            clip=clip,
            delta=1 / (10 * max(records, 1)) if delta is None else delta,
        ),
        data=data,
        records=records,
        models=models,
        model=model,
        seed=seed,
    )
    result = infer_membership(settings, tell=lambda line: stderr.print(line))
    _write(out, json.dumps(result.report(), indent=2, allow_nan=False))
    typer.echo("            members found at 1% false alarms (95%)   AUC    loss alone   no attack can pass")
    for level in result.levels:
        name = "no noise" if level.epsilon is None else f"epsilon {level.epsilon:g}"
        found = f"{level.lira.tpr:.1%} ({level.lira.tpr_low:.1%} to {level.lira.tpr_high:.1%})"
        bound = "-" if level.epsilon is None else f"{level.bound:.1%}"
        typer.echo(f"{name:<12}{found:<41}{level.lira.auc:.3f}  {level.threshold.tpr:<12.1%} {bound}")
    typer.echo(f"{out} holds the figures")
    if not result.attack_works:
        raise AuditError(
            f"the attack is broken: without noise it finds no more than {LEAST_LEAKAGE:.0%} of the members "
            "for certain; give more --steps or --models"
        )
    if result.exposed:
        raise AuditError(
            f"models give away more than epsilon {', '.join(f'{e:g}' for e in result.exposed)} allows"
        )


def _check_new(*paths: Path) -> None:
    for path in paths:
        if path.exists():
            raise ConfigError(f"{path} is there already: choose another --out, nothing is ever overwritten")


def _write(path: Path, text: str, *, mode: int = 0o666) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.encode(), mode=mode)
