"""What a report may claim: the guarantee in words, the alarms, and what each party could see.

The words follow from the mode (``distributed``, ``local``, ``off``) and the aggregation scheme
(``kahe``, ``ckks``, ``none``) of the run. A scheme or mode that is unknown here claims nothing.
All texts are plain: whoever shows them escapes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedrec._internal import number_format
from fedrec.privacy.accounting.rating import Rating, rate, unit_in_words

_SCHEMES = ("kahe", "ckks", "none")
_MODES = ("distributed", "local", "off")


@dataclass(frozen=True)
class Sight:
    """What one party could see of the merchants' photos and updates.

    ``exposed`` is true when single updates lie open to this party, or sums without noise do.
    """

    party: str
    sees: str
    exposed: bool


def alarms(privacy: Mapping[str, Any], scheme: Any) -> tuple[str, ...]:
    """Give the reasons why nobody may treat the run as private; empty when there is none."""
    reasons = []
    if privacy.get("mode") == "off":
        reasons.append(
            "differential privacy was off; no noise was added, and photos may be read off the model."
        )
    if privacy.get("seeded") is True:
        reasons.append(
            "noise and sampling came from a seed; whoever has the seed can take the noise away again. "
            "Such a run is for comparison only."
        )
    if scheme == "none":
        reasons.append("updates were not encrypted; the server could read every merchant's update.")
    return tuple(reasons)


def guarantee(privacy: Mapping[str, Any], scheme: Any) -> str:
    """Give the (epsilon, delta) guarantee of the run as one plain sentence."""
    if privacy.get("mode") == "off":
        return "There is no privacy guarantee: the run added no noise."
    epsilon = number_format.number(privacy.get("epsilon"))
    if epsilon is None:
        return "There is no privacy guarantee: the run has no epsilon."
    seeded = "With unseeded noise these settings would guarantee: " if privacy.get("seeded") is True else ""
    change = _change(privacy)
    delta = number_format.number(privacy.get("delta"))
    beyond = "" if not delta else f", give or take a probability of {number_format.delta(delta)}"
    return (
        f"{seeded}{change if seeded else change[0].upper() + change[1:]} makes anything that the server "
        f"sees, or that can be learnt from the model, at most {number_format.factor(epsilon)} times as "
        f"likely or as unlikely{beyond}{_condition(privacy, scheme)}."
    )


def caveats(privacy: Mapping[str, Any], scheme: Any) -> tuple[str, ...]:
    """Give the sentences without which the guarantee would be misread."""
    if privacy.get("mode") == "off" or number_format.number(privacy.get("epsilon")) is None:
        return ()
    notes = []
    broken = number_format.number(privacy.get("epsilon_aggregation_broken"))
    if scheme == "kahe" and broken is not None and privacy.get("mode") == "distributed":
        notes.append(
            f"If encrypted aggregation were broken altogether, epsilon {number_format.epsilon(broken)} "
            "would be left, from the noise that each merchant adds itself."
        )
    if scheme == "ckks":
        notes.append(
            "If any one merchant sides with the server, the one that holds the key or another, the two open "
            "single updates; epsilon counts on that."
        )
    notes.append("The same photo held by several merchants counts once for each of them.")
    return tuple(notes)


def rating(privacy: Mapping[str, Any], *, public_total: int | None = None) -> Rating:
    """Rate the run's budget; little protection without an epsilon, or where noise came from a seed."""
    epsilon, delta = (number_format.number(privacy.get(name)) for name in ("epsilon", "delta"))
    if privacy.get("mode") == "off" or privacy.get("seeded") is True or epsilon is None or delta is None:
        epsilon, delta = None, 0.0
    return rate(epsilon, delta=delta, unit=unit_in_words(privacy.get("unit")), public_total=public_total)


def verdict(sight: Sight, rated: Rating) -> str:
    """Say how single updates stand before this party: a budget of little protection protects nothing."""
    return "exposed" if sight.exposed else "protected" if rated.protected else "little protection"


def sights(privacy: Mapping[str, Any], scheme: Any) -> tuple[Sight, ...]:
    """Give what the server, the server with merchants, a merchant and the network could see."""
    mode = privacy.get("mode")
    if scheme not in _SCHEMES or mode not in _MODES:
        return (Sight("Every party", "Nothing is claimed: the report names no known mode and scheme.", True),)
    bare = mode == "off"
    single = _single_update(privacy)
    total = {
        "distributed": "the sum of the updates of each opened round, with the noise that epsilon counts",
        "local": "the sum of the updates of each opened round, each with the full noise of its merchant",
        "off": "the exact sum of the updates of each opened round, without noise",
    }[mode]
    traces = "Who took part, when, and how much was sent"
    merchant = "The model of every round, the roster, and its own photos"
    harm = " A model trained without noise may give photos away." if bare else ""
    if scheme == "kahe":
        rows = [
            Sight("The server", f"{traces}; {total}. Never a single merchant's update.", bare),
            _kahe_coalition(privacy, bare),
            Sight("A merchant", f"{merchant}. Nothing of another merchant's update.{harm}", bare),
        ]
    elif scheme == "ckks":
        rows = [
            Sight(
                "The server",
                f"{traces}; {total}. No single update, as long as no merchant at all sides with it.",
                bare,
            ),
            Sight(
                "The server with any one merchant",
                f"Any merchant's update that they choose, {single}: the one that holds the key decrypts it, "
                "any other uploads the negative of the rest, so that it alone is left in the sum.",
                True,
            ),
            Sight(
                "A merchant without the key", f"{merchant}. Nothing of another merchant's update.{harm}", bare
            ),
            Sight(
                "The merchant that holds the key",
                f"{merchant}. It is sent every ciphertext, to decrypt their sum; a dishonest one opens every "
                f"merchant's update, {single}.{harm}",
                True,
            ),
        ]
    else:
        rows = [
            Sight("The server", f"{traces}; every merchant's update in clear, {single}.", True),
            Sight("The server with merchants", "No more than the server alone: it has every update.", True),
            Sight("A merchant", f"{merchant}. Nothing of another merchant's update.{harm}", bare),
        ]
    only = " Nothing but TLS protects the updates on their way." if scheme == "none" else ""
    rows.append(
        Sight("The network", f"TLS traffic: who talks to the server, when, and how much.{only}", False)
    )
    return tuple(rows)


def _change(privacy: Mapping[str, Any]) -> str:
    unit = "product with all its photos" if privacy.get("unit") == "product" else "photo"
    adjacency = str(privacy.get("adjacency") or "").lower()
    if "repl" in adjacency or "subst" in adjacency:
        return f"replacing any one {unit} of any merchant"
    return f"adding or removing any one {unit} of any merchant"


def _condition(privacy: Mapping[str, Any], scheme: Any) -> str:
    colluders = number_format.number(privacy.get("colluders"))
    if scheme != "kahe" or privacy.get("mode") != "distributed" or colluders is None:
        return ""
    noun = "merchant sides" if colluders == 1 else "merchants side"
    return f", as long as at most {colluders:.0f} {noun} with the server"


def _single_update(privacy: Mapping[str, Any]) -> str:
    mode = privacy.get("mode")
    if mode == "off":
        return "without noise"
    own = (
        "the full noise of its merchant" if mode == "local" else "only its merchant's own share of the noise"
    )
    broken = number_format.number(privacy.get("epsilon_aggregation_broken"))
    left = "" if broken is None else f" (epsilon {number_format.epsilon(broken)})"
    return f"with {own}{left}"


def _kahe_coalition(privacy: Mapping[str, Any], bare: bool) -> Sight:
    colluders = number_format.number(privacy.get("colluders"))
    party = "The server with colluding merchants"
    if colluders is not None:
        party = f"The server with up to {colluders:.0f} merchant{'' if colluders == 1 else 's'}"
    return Sight(
        party,
        "The same, less what those merchants put in themselves. With more merchants than that on its "
        f"side it may come to single updates, {_single_update(privacy)}.",
        bare,
    )
