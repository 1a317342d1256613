"""Claims that a report may make: the guarantee in words, the alarms, and what each party could see.

The words follow from the privacy mode's noise, and from the plan's statement on who can read a single
update. All texts are plain: whoever shows them escapes them.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedrec._internal import number_format
from fedrec._internal.text import counted
from fedrec.protocol import modes
from fedrec.protocol.modes import ModeSpec
from fedrec.protocol.training_report.privacy_section import PrivacySection
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


def exposure_clause(trust: TrustModel) -> str | None:
    """Say in a clause that the server can read single updates; None where the scheme hides them."""
    if trust.encrypted:
        return None
    return "updates were not encrypted; the server could read every merchant's update"


def scheme_warning(trust: TrustModel, *, trust_limit: str = "", holder: str = "") -> str | None:
    """Return the warning that a scheme's trust model needs wherever a run is described.

    Args:
        trust: the trust model stated in the plan.
        trust_limit: the scheme's own sentence on whom a merchant has to trust.
        holder: the merchant that holds the key, where one does.

    Returns:
        The warning; None where none is needed.
    """
    if not trust.encrypted:
        return "NOT ENCRYPTED: the server sees every merchant's own update; epsilon is that of one share."
    if trust.reads_single_updates != "nobody_below_threshold":
        said = " ".join(text for text in (trust_limit, f"The holder is {holder};" if holder else "") if text)
        return f"ONE KEY: {said} epsilon is that of one share."
    return None


def alarms(mode: ModeSpec, trust: TrustModel, *, seeded: bool = False) -> tuple[str, ...]:
    """Return the reasons why nobody may treat a training as private.

    Args:
        mode: its privacy mode.
        trust: the trust model stated in its plan.
        seeded: whether noise came from a seed.

    Returns:
        One sentence per reason; empty when there is none.
    """
    reasons = []
    if not mode.private:
        reasons.append(
            "differential privacy was off; no noise was added, and photos may be read off the model."
        )
    if seeded:
        reasons.append(
            "noise and sampling came from a seed; whoever has the seed can take the noise away again. "
            "Such a run is for comparison only."
        )
    exposed = exposure_clause(trust)
    if exposed is not None:
        reasons.append(f"{exposed}.")
    return tuple(reasons)


def guarantee(privacy: PrivacySection, trust: TrustModel) -> str:
    """State the (epsilon, delta) guarantee of a training as one plain sentence.

    Args:
        privacy: the report's section on privacy.
        trust: the trust model stated in the plan.

    Returns:
        The sentence; that there is no guarantee where no noise was added or epsilon is missing.
    """
    mode = modes.get(privacy.mode)
    if not mode.private:
        return "There is no privacy guarantee: the run added no noise."
    if privacy.epsilon is None:
        return "There is no privacy guarantee: the run has no epsilon."
    unit = "product with all its photos" if privacy.unit == "product" else "photo"
    adding = "With unseeded noise these settings would guarantee: adding" if privacy.seeded else "Adding"
    beyond = f", give or take a probability of {number_format.delta(privacy.delta)}" if privacy.delta else ""
    return (
        f"{adding} or removing any one {unit} of any merchant makes anything that the server "
        f"sees, or that can be learnt from the model, at most {number_format.factor(privacy.epsilon)} times "
        f"as likely or as unlikely{beyond}{_condition(privacy.colluders, mode, trust)}."
    )


def caveats(privacy: PrivacySection, trust: TrustModel) -> tuple[str, ...]:
    """Return the sentences without which the guarantee would be misread.

    Args:
        privacy: the report's section on privacy.
        trust: the trust model stated in the plan.

    Returns:
        The sentences; empty where there is no guarantee.
    """
    mode = modes.get(privacy.mode)
    if not mode.private or privacy.epsilon is None:
        return ()
    notes = []
    broken = privacy.epsilon_aggregation_broken
    if trust.epsilon_of == "sum" and broken is not None and mode.shares_noise:
        notes.append(
            f"If encrypted aggregation were broken altogether, epsilon {number_format.epsilon(broken)} "
            "would be left, from the noise that each merchant adds itself."
        )
    if trust.reads_single_updates == "key_holder":
        notes.append(
            "If any one merchant sides with the server, the one that holds the key or another, the two open "
            "single updates; epsilon counts on that."
        )
    notes.append("The same photo held by several merchants counts once for each of them.")
    return tuple(notes)


def verdict(view: PartyView, *, protected: bool) -> str:
    """Say in one or two words how well single updates are protected from a party.

    Args:
        view: what the party could see.
        protected: whether the budget protects more than a little.

    Returns:
        "exposed", "protected", or "little protection" where the budget protects little.
    """
    return "exposed" if view.exposed else "protected" if protected else "little protection"


def party_views(
    mode: ModeSpec, trust: TrustModel, *, colluders: int, figures: bool, epsilon_broken: float | None = None
) -> tuple[PartyView, ...]:
    """Return what the server, the server with merchants, a merchant and the network could see.

    Args:
        mode: the privacy mode.
        trust: the trust model stated in the plan.
        colluders: merchants on the server's side that epsilon allows for.
        figures: whether a sum of site figures was opened too.
        epsilon_broken: epsilon for somebody who sees every upload in clear; None where it isn't told.

    Returns:
        One view per party.
    """
    bare = not mode.private
    single = mode.update_in_words
    if not bare and epsilon_broken is not None:
        single += f" (epsilon {number_format.epsilon(epsilon_broken)})"
    total = mode.sum_in_words + ("; and one such sum of site figures" if figures else "")
    traces = "Who took part, when, and how much was sent"
    merchant = "The model of every round, the roster, and its own photos"
    harm = " A model trained without noise may give photos away." if bare else ""
    if trust.reads_single_updates == "nobody_below_threshold":
        rows = [
            PartyView("The server", f"{traces}; {total}. Never a single merchant's update.", bare),
            _coalition(colluders, single, bare=bare),
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


def _condition(colluders: int, mode: ModeSpec, trust: TrustModel) -> str:
    if trust.epsilon_of != "sum" or not mode.shares_noise:
        return ""
    merchants = counted(colluders, "merchant sides", plural="merchants side")
    return f", as long as at most {merchants} with the server"


def _coalition(colluders: int, single: str, *, bare: bool) -> PartyView:
    return PartyView(
        f"The server with up to {counted(colluders, 'merchant')}",
        "The same, less what those merchants put in themselves. With more merchants than that on its "
        f"side it may come to single updates, {single}.",
        bare,
    )
