"""Sections of an audit's pages on attack results; a value missing in an attachment is shown as a dash."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedrec._internal import number_format
from fedrec._internal.text import counted
from fedrec.report.document import (
    Alert,
    Block,
    Cell,
    Code,
    Column,
    Paragraph,
    Section,
    Table,
    Tag,
    named_figures,
)

_COMMANDS = {"empirical": "Empirical audit", "membership": "Membership inference", "inversion": "Inversion"}


def attack_sections(attachments: Mapping[str, Any]) -> list[Section]:
    """Return one section per kind of attack that the bundle holds results of."""
    makers = {"empirical": _empirical, "membership": _membership, "inversion": _inversion}
    found = []
    for name, title in _COMMANDS.items():
        figures_of = attachments.get(name)
        if isinstance(figures_of, Mapping):
            found.append(Section(title, tuple(makers[name](figures_of))))
    return found


def attacks_not_tried(attachments: Mapping[str, Any]) -> tuple[Block, ...]:
    """Name the attacks that the bundle holds no results of, and the commands that make them."""
    missing = [name for name in _COMMANDS if not isinstance(attachments.get(name), Mapping)]
    if not missing:
        return ()
    commands = ", ".join(f"{_COMMANDS[name].lower()} ('fedrec audit {name}')" for name in missing)
    return (Paragraph(f"Not part of this bundle: {commands}.", "note"),)


def _number(value: Any, digits: int = 2) -> str:
    found = number_format.number(value)
    return number_format.MISSING if found is None else f"{found:.{digits}f}"


def _empirical(found: Mapping[str, Any]) -> list[Block]:
    violations = number_format.number(found.get("violations"))
    claimed, bound = _number(found.get("epsilon_claimed")), _number(found.get("epsilon_lower_bound"))
    confidence = number_format.percent(found.get("confidence"))
    result: list[Block] = []
    if violations:
        text = (
            f"The installed pipeline leaked more than it claims: {counted(round(violations), 'violation')}."
        )
        result.append(Alert((text,)))
    result.append(
        Paragraph(
            "Canaries went through the installed clip, noise, encryption and opening, and the opened sums "
            f"were searched for them. Epsilon is at least {bound} with {confidence} "
            f"confidence; {claimed} was claimed. A bound below the claim is no proof of it: this attack "
            f"could have shown {_number(found.get('epsilon_lower_bound_possible'))} at most."
        )
    )
    sizes = ("runs", "canaries", "rounds", "sample_rate")
    names = (*sizes, "contributors", "min_contributors", "colluders", "scheme")
    rows: list[tuple[Cell, ...]] = [
        (name.replace("_", " "), number_format.general(found.get(name))) for name in names
    ]
    rows += [
        ("delta", number_format.delta(found.get("delta"))),
        ("noise multiplier", _number(found.get("noise_multiplier"), 3)),
        ("median bound", _number(found.get("epsilon_lower_bound_median"))),
        ("code", Code(number_format.general(found.get("code")))),
    ]
    return [*result, Table((Column("setting"), Column("value")), tuple(rows))]


def _membership(found: Mapping[str, Any]) -> list[Block]:
    result: list[Block] = []
    if found.get("attack_works") is False:
        result.append(Alert(("The attack did not work without noise: it says nothing.",)))
    if found.get("exposed"):
        text = "Models gave away more than these budgets allow: "
        result.append(Alert((text + ", ".join(map(str, found["exposed"])),)))
    result.append(
        Paragraph(
            "Who was in the training, told from the final model alone (LiRA with shadow models, and the "
            "plain loss threshold as the floor), where "
            f"{number_format.percent(found.get('fpr'))} of the others are taken for members. "
            "'At most' is what no attack can pass at that epsilon."
        )
    )
    rows = []
    levels = found.get("levels")
    for level in levels if isinstance(levels, list) else ():
        lira, threshold = _part(level, "lira"), _part(level, "threshold")
        private = level.get("epsilon") is not None
        rows.append(
            (
                f"epsilon {number_format.general(level['epsilon'])}" if private else "no noise",
                f"{number_format.percent(lira.get('tpr'))} ({number_format.percent(lira.get('tpr_low'))} to "
                f"{number_format.percent(lira.get('tpr_high'))})",
                _number(lira.get("auc"), 3),
                number_format.percent(threshold.get("tpr")),
                number_format.percent(level.get("bound")) if private else number_format.MISSING,
                f"{number_format.percent(level.get('accuracy_members'))} / "
                f"{number_format.percent(level.get('accuracy_others'))}",
            )
        )
    columns = named_figures(
        "noise", "members found (95%)", "AUC", "loss alone", "at most", "accuracy in / out"
    )
    return [*result, Table(columns, tuple(rows))] if rows else result


def _inversion(found: Mapping[str, Any]) -> list[Block]:
    result: list[Block] = []
    if found.get("attack_works") is False:
        result.append(Alert(("The attack did not work on an unprotected update: it says nothing.",)))
    if found.get("exposed"):
        text = "Photos showed through: "
        result.append(Alert((text + ", ".join(map(str, found["exposed"])).replace("_", " "),)))
    result.append(
        Paragraph(
            "What each party holds of one step, turned back into photos by one attack (PSNR in dB: higher is "
            "nearer to the photo). A plain grey picture is what anybody can guess."
        )
    )
    batches = found.get("batches")
    for batch in batches if isinstance(batches, list) else ():
        views = batch.get("views")
        rows: list[tuple[Cell, ...]] = [
            (
                str(view.get("view")).replace("_", " "),
                _number(view.get("psnr"), 1),
                _number(view.get("best_psnr"), 1),
                _number(view.get("ssim")),
                Tag("yes", "warn") if view.get("shows_something") else "no",
            )
            for view in (views if isinstance(views, list) else ())
        ]
        rows.append(
            ("plain grey", _number(batch.get("grey_psnr"), 1), "", _number(batch.get("grey_ssim")), "")
        )
        photos = number_format.count(batch.get("photos"))
        columns = named_figures(f"{photos} photos", "PSNR", "best", "SSIM", "shows a photo")
        result.append(Table(columns, tuple(rows)))
    return result


def _part(level: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = level.get(name)
    return found if isinstance(found, Mapping) else {}
