"""Claims that a report may make: the guarantee in words, the alarms, and what each party could see.

The words follow from the privacy mode's noise, and from the plan's statement on who can read a single
update. Where either is unknown, nothing is claimed, and the alarms say so. All texts are plain: whoever
shows them escapes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedrec._internal import number_format
from fedrec._internal.text import counted
from fedrec.privacy.accounting.budget_rating import Rating, rate_budget, unit_in_words
from fedrec.protocol import modes
from fedrec.protocol.modes import ModeSpec
from fedrec.protocol.trust import TrustModel


@dataclass(frozen=True)
class PartyView:
    """What one party could see of the merchants' photos and updates.

    Attributes:
        party: who.
        sees: what, in one or more sentences.
        exposed: whether this party could read single updates, or sums without noise.
    """

    party: str
    sees: str
    exposed: bool


def trust_of(aggregation: Mapping[str, Any]) -> TrustModel | None:
    """Parse the trust model in a plan or in a report's section on secure aggregation; None without one."""
    return TrustModel.read(aggregation.get("trust"))


def exposure_clause(trust: TrustModel | None) -> str | None:
    """Say in a clause that the server can read single updates; None where the scheme hides them."""
    if trust is None:
        return (
            "nothing says who can read a single update: assume that updates were not encrypted, and the "
            "server could read every merchant's"
        )
    if trust.encrypted:
        return None
    return "updates were not encrypted; the server could read every merchant's update"


def scheme_warning(trust: TrustModel | None, *, trust_limit: str = "", holder: str = "") -> str | None:
    """Return the warning that a scheme's trust model needs wherever a run is described.

    Args:
        trust: the trust model stated in the plan; None where there is none.
        trust_limit: the scheme's own sentence on whom a merchant has to trust.
        holder: the merchant that holds the key, where one does.

    Returns:
        The warning; None where none is needed.
    """
    if trust is None:
        return "NOT ENCRYPTED, as far as is known: nothing says who can read a single update."
    if not trust.encrypted:
        return "NOT ENCRYPTED: the server sees every merchant's own update; epsilon is that of one share."
    if trust.reads_single_updates != "nobody_below_threshold":
        said = " ".join(text for text in (trust_limit, f"The holder is {holder};" if holder else "") if text)
        return f"ONE KEY: {said} epsilon is that of one share."
    return None


def alarms(privacy: Mapping[str, Any], trust: TrustModel | None) -> tuple[str, ...]:
    """Return the reasons why nobody may treat the run as private.

    Args:
        privacy: the report's section on privacy.
        trust: the trust model stated in the plan; None where there is none.

    Returns:
        One sentence per reason; empty when there is none.
    """
    reasons = []
    mode = modes.find(privacy.get("mode"))
    if mode is None:
        reasons.append("no known privacy mode is named; assume that no noise was added.")
    elif not mode.private:
        reasons.append(
            "differential privacy was off; no noise was added, and photos may be read off the model."
        )
    if privacy.get("seeded") is True:
        reasons.append(
            "noise and sampling came from a seed; whoever has the seed can take the noise away again. "
            "Such a run is for comparison only."
        )
    exposed = exposure_clause(trust)
    if exposed is not None:
        reasons.append(f"{exposed}.")
    return tuple(reasons)


def guarantee(privacy: Mapping[str, Any], trust: TrustModel | None) -> str:
    """State the (epsilon, delta) guarantee of the run as one plain sentence.

    Args:
        privacy: the report's section on privacy.
        trust: the trust model stated in the plan; None where there is none.

    Returns:
        The sentence; that there is no guarantee where mode, trust model or epsilon is missing.
    """
    mode = modes.find(privacy.get("mode"))
    if mode is None or trust is None:
        return "There is no privacy guarantee: who adds noise, or who can read a single update, is not said."
    if not mode.private:
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
        f"likely or as unlikely{beyond}{_condition(privacy, mode, trust)}."
    )


def caveats(privacy: Mapping[str, Any], trust: TrustModel | None) -> tuple[str, ...]:
    """Return the sentences without which the guarantee would be misread.

    Args:
        privacy: the report's section on privacy.
        trust: the trust model stated in the plan; None where there is none.

    Returns:
        The sentences; empty where there is no guarantee.
    """
    mode = modes.find(privacy.get("mode"))
    if mode is None or not mode.private or number_format.number(privacy.get("epsilon")) is None:
        return ()
    notes = []
    broken = number_format.number(privacy.get("epsilon_aggregation_broken"))
    if trust is not None and trust.epsilon_of == "sum" and broken is not None and mode.shares_noise:
        notes.append(
            f"If encrypted aggregation were broken altogether, epsilon {number_format.epsilon(broken)} "
            "would be left, from the noise that each merchant adds itself."
        )
    if trust is not None and trust.reads_single_updates == "key_holder":
        notes.append(
            "If any one merchant sides with the server, the one that holds the key or another, the two open "
            "single updates; epsilon counts on that."
        )
    notes.append("The same photo held by several merchants counts once for each of them.")
    return tuple(notes)


def rating(privacy: Mapping[str, Any], *, public_total: int | None = None) -> Rating:
    """Rate the run's budget.

    Args:
        privacy: the report's section on privacy.
        public_total: number of records in all, where it is public.

    Returns:
        The rating: little protection without an epsilon, or where noise came from a seed.
    """
    epsilon, delta = (number_format.number(privacy.get(name)) for name in ("epsilon", "delta"))
    mode = modes.find(privacy.get("mode"))
    bare = mode is None or not mode.private
    if bare or privacy.get("seeded") is True or epsilon is None or delta is None:
        epsilon, delta = None, 0.0
    return rate_budget(
        epsilon, delta=delta, unit=unit_in_words(privacy.get("unit")), public_total=public_total
    )


def verdict(view: PartyView, rated: Rating) -> str:
    """Say in one or two words how well single updates are protected from a party.

    Args:
        view: what the party could see.
        rated: the rating of the budget.

    Returns:
        "exposed", "protected", or "little protection" where the budget protects little.
    """
    return "exposed" if view.exposed else "protected" if rated.protected else "little protection"


def party_views(privacy: Mapping[str, Any], trust: TrustModel | None) -> tuple[PartyView, ...]:
    """Return what the server, the server with merchants, a merchant and the network could see.

    Args:
        privacy: the report's section on privacy.
        trust: the trust model stated in the plan; None where there is none.

    Returns:
        One view per party; without a known mode and trust model, one that claims nothing.
    """
    mode = modes.find(privacy.get("mode"))
    if trust is None or mode is None:
        said = "Nothing is claimed: who adds noise, or who can read a single update, is not said."
        return (PartyView("Every party", said, True),)
    bare = not mode.private
    single = _single_update(privacy, mode)
    total = mode.sum_in_words + _figures_in_words(privacy)
    traces = "Who took part, when, and how much was sent"
    merchant = "The model of every round, the roster, and its own photos"
    harm = " A model trained without noise may give photos away." if bare else ""
    if trust.reads_single_updates == "nobody_below_threshold":
        rows = [
            PartyView("The server", f"{traces}; {total}. Never a single merchant's update.", bare),
            _coalition(privacy, mode),
            PartyView("A merchant", f"{merchant}. Nothing of another merchant's update.{harm}", bare),
        ]
    elif trust.reads_single_updates == "key_holder":
        rows = [
            PartyView(
                "The server",
                f"{traces}; {total}. No single update, as long as no merchant at all sides with it.",
                bare,
            ),
            PartyView(
                "The server with any one merchant",
                f"Any merchant's update that they choose, {single}: the one that holds the key decrypts it, "
                "any other uploads the negative of the rest, so that it alone is left in the sum.",
                True,
            ),
            PartyView(
                "A merchant without the key", f"{merchant}. Nothing of another merchant's update.{harm}", bare
            ),
            PartyView(
                "The merchant that holds the key",
                f"{merchant}. It is sent every ciphertext, to decrypt their sum; a dishonest one opens every "
                f"merchant's update, {single}.{harm}",
                True,
            ),
        ]
    else:
        rows = [
            PartyView("The server", f"{traces}; every merchant's update in clear, {single}.", True),
            PartyView(
                "The server with merchants", "No more than the server alone: it has every update.", True
            ),
            PartyView("A merchant", f"{merchant}. Nothing of another merchant's update.{harm}", bare),
        ]
    only = "" if trust.encrypted else " Nothing but TLS protects the updates on their way."
    rows.append(
        PartyView("The network", f"TLS traffic: who talks to the server, when, and how much.{only}", False)
    )
    return tuple(rows)


def _figures_in_words(privacy: Mapping[str, Any]) -> str:
    """Return the sum of site figures as a further thing that is seen; nothing where there was none."""
    events = privacy.get("events")
    listed = events if isinstance(events, Sequence) else ()
    kinds = [event.get("kind") for event in listed if isinstance(event, Mapping)]
    return "; and one such sum of site figures" if "figures" in kinds else ""


def _change(privacy: Mapping[str, Any]) -> str:
    unit = "product with all its photos" if privacy.get("unit") == "product" else "photo"
    adjacency = str(privacy.get("adjacency") or "").lower()
    if "repl" in adjacency or "subst" in adjacency:
        return f"replacing any one {unit} of any merchant"
    return f"adding or removing any one {unit} of any merchant"


def _condition(privacy: Mapping[str, Any], mode: ModeSpec, trust: TrustModel) -> str:
    colluders = number_format.number(privacy.get("colluders"))
    if trust.epsilon_of != "sum" or not mode.shares_noise or colluders is None:
        return ""
    merchants = counted(round(colluders), "merchant sides", plural="merchants side")
    return f", as long as at most {merchants} with the server"


def _single_update(privacy: Mapping[str, Any], mode: ModeSpec) -> str:
    broken = number_format.number(privacy.get("epsilon_aggregation_broken")) if mode.private else None
    left = "" if broken is None else f" (epsilon {number_format.epsilon(broken)})"
    return f"{mode.update_in_words}{left}"


def _coalition(privacy: Mapping[str, Any], mode: ModeSpec) -> PartyView:
    colluders = number_format.number(privacy.get("colluders"))
    party = "The server with colluding merchants"
    if colluders is not None:
        party = f"The server with up to {counted(round(colluders), 'merchant')}"
    return PartyView(
        party,
        "The same, less what those merchants put in themselves. With more merchants than that on its "
        f"side it may come to single updates, {_single_update(privacy, mode)}.",
        not mode.private,
    )
