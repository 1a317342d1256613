"""Check who may open what: the quorum rules, and the survivor set before a committee member answers.

:mod:`fedrec.privacy.aggregation.seats` derives the conditions on a committee's numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from fedrec._internal.text import counted
from fedrec.errors import AggregationError, ConfigError, ProtocolError, RefusedError
from fedrec.privacy.aggregation.scheme_registry import check_trust
from fedrec.privacy.aggregation.seats import (
    NO_WITNESSES,
    WitnessSeats,
    least_threshold,
    seat_order,
    seat_risk,
)
from fedrec.privacy.identity import check_sealing_public, verify
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.schema import MAX_COMMITTEE, sha256_hex
from fedrec.protocol.statements import (
    COMMITMENT_CONTEXT,
    ENCRYPTION_KEY_CONTEXT,
    SEALING_KEY_CONTEXT,
    Commitment,
    SignedCommitment,
    SignedEncryptionKey,
    SignedSealingKey,
)

_KEPT_KEYS = 4 * MAX_COMMITTEE
LARGEST_SEAT_RISK = 1e-6
"""The largest probability of too many corrupt seats that merchants accept; a policy may require less."""


def check_quorum(
    *,
    cohort: int,
    members: int,
    threshold: int,
    min_contributors: int,
    colluders: int,
    corrupt_members: int,
    witnesses: WitnessSeats = NO_WITNESSES,
) -> None:
    """Check that no party can open a single update under these numbers.

    Args:
        cohort: merchants of the training.
        members: seats of the committee.
        threshold: members whose answers open a sum.
        min_contributors: fewest merchants in an opened sum.
        colluders: merchants that may collude with the server.
        corrupt_members: corrupt seats that the committee must tolerate, witnesses' included.
        witnesses: the witnesses, each of which has a seat.

    Raises:
        ConfigError: a condition is violated; the message says which, and what to change.
    """
    count = witnesses.count
    drawn = members - count
    if drawn > cohort:
        beside = f" and {counted(count, 'witness', plural='witnesses')}" if count else ""
        raise ConfigError(
            f"a committee of {members} is more than the {cohort} merchants{beside} there are: lower "
            "--committee"
        )
    if drawn < 0:
        raise ConfigError(
            f"a committee of {members} has no seat for each of {count} witnesses: raise --committee, or "
            "take fewer witnesses"
        )
    if members > MAX_COMMITTEE:
        raise ConfigError(f"a committee of {members} is too large: --committee is at most {MAX_COMMITTEE}")
    if not 1 <= threshold <= members:
        raise ConfigError(
            f"a threshold of {threshold} can't be met by a committee of {members}: "
            f"choose --threshold between 1 and {members}, or more merchants"
        )
    check_contributors(cohort=cohort, min_contributors=min_contributors, colluders=colluders)
    _check_corrupt(members=members, threshold=threshold, corrupt=corrupt_members)
    _check_witnesses(witnesses, corrupt_members=corrupt_members)
    among = corrupt_members - witnesses.corrupt
    risk = seat_risk(cohort=cohort, colluders=colluders, members=drawn, corrupt=among)
    if risk > LARGEST_SEAT_RISK:
        raise ConfigError(
            f"{drawn} seats drawn among {cohort} merchants hold more than {among} of the "
            f"{colluders} colluders with a chance of {risk:.2g}, over {LARGEST_SEAT_RISK:g}: raise "
            "--corrupt-members (and --committee with it), or lower --colluders"
        )


def _check_witnesses(witnesses: WitnessSeats, *, corrupt_members: int) -> None:
    corrupt = witnesses.corrupt
    if corrupt > witnesses.count:
        raise ConfigError(f"{corrupt} corrupt witnesses are more than the {witnesses.count} there are")
    if witnesses.count and corrupt < 1:
        raise ConfigError(
            "0 corrupt witnesses would trust every one of them: --corrupt-witnesses must be at least 1 where "
            "there are any"
        )
    if corrupt > corrupt_members:
        raise ConfigError(
            f"{counted(corrupt_members, 'corrupt member')} can't include "
            f"{counted(corrupt, 'corrupt witness', plural='corrupt witnesses')}: raise --corrupt-members, or "
            "lower --corrupt-witnesses"
        )


def _check_corrupt(*, members: int, threshold: int, corrupt: int) -> None:
    if corrupt < 1:
        raise ConfigError(
            "0 corrupt members would let one member open every update together with the server: "
            "--corrupt-members must be at least 1"
        )
    if threshold <= corrupt:
        raise ConfigError(
            f"a threshold of {threshold} is reached by {counted(corrupt, 'corrupt member')} alone: raise "
            "--threshold and --committee, or lower --corrupt-members"
        )
    if 2 * threshold - members <= corrupt:
        least = least_threshold(members=members, corrupt=corrupt)
        way_out = (
            f"--threshold must be at least {least}"
            if least <= members
            else "raise --committee, or lower --corrupt-members"
        )
        raise ConfigError(
            f"threshold {threshold} of {members} lets {counted(corrupt, 'corrupt member')} open two "
            f"different sets: {way_out}"
        )


def check_contributors(*, cohort: int, min_contributors: int, colluders: int) -> None:
    """Check that every opened sum contains the updates of at least two honest merchants.

    At least one merchant is assumed to collude with the server: with 0 colluders a committee of one would be
    allowed.

    Args:
        cohort: merchants of the training.
        min_contributors: fewest merchants in an opened sum.
        colluders: merchants that may collude with the server.

    Raises:
        ConfigError: the condition is violated; the message says what to change.
    """
    if colluders < 1:
        raise ConfigError(
            "0 colluders would let one merchant open every update together with the server: "
            "--colluders must be at least 1 where updates are encrypted"
        )
    if min_contributors > cohort:
        raise ConfigError(f"{min_contributors} contributors are required but there are {cohort} merchants")
    if min_contributors - colluders < 2:
        raise ConfigError(
            f"{counted(min_contributors, 'contributor')} less {counted(colluders, 'colluder')} leave fewer "
            "than 2 honest: raise --min-contributors or --merchants, or lower --drop or --colluders"
        )


def check_plan(plan: TrainingPlan) -> None:
    """Check a plan's scheme, committee and minimum of contributors; ``RefusedError`` if they are unsafe."""
    try:
        check_trust(plan)
        opened_by = plan.trust.opened_by
        if opened_by == "committee":
            check_quorum(
                cohort=plan.cohort,
                members=len(plan.committee),
                threshold=plan.threshold,
                min_contributors=plan.min_contributors,
                colluders=plan.colluders,
                corrupt_members=plan.corrupt_members,
                witnesses=WitnessSeats(count=len(plan.witnesses), corrupt=plan.corrupt_witnesses),
            )
        else:
            _check_no_committee(plan, expected=1 if opened_by == "holder" else 0)
            if plan.privacy_mode.shares_noise or opened_by == "holder":
                check_contributors(
                    cohort=plan.cohort, min_contributors=plan.min_contributors, colluders=plan.colluders
                )
    except ConfigError as error:
        raise RefusedError(str(error), code="plan") from None
    _check_draw(plan)


def _check_no_committee(plan: TrainingPlan, *, expected: int) -> None:
    if (len(plan.committee), plan.threshold) != (expected, expected):
        raise RefusedError(
            f"scheme '{plan.scheme}' needs a committee of {expected}, not {len(plan.committee)}",
            code="plan",
        )
    if plan.corrupt_members or plan.corrupt_witnesses or plan.seat_risk:
        raise RefusedError(
            f"scheme '{plan.scheme}' has no committee: the plan's corrupt members and seat risk must be 0",
            code="plan",
        )


def _check_draw(plan: TrainingPlan) -> None:
    """Check the seats against the draw from the roster, and the stated risk against its probability."""
    if plan.committee != seat_order(plan.roster, plan.seated_witnesses)[: len(plan.committee)]:
        raise RefusedError(
            "the committee is not the one that the roster's fingerprint draws: make a new plan",
            code="plan",
        )
    if not plan.corrupt_members:
        return
    risk = seat_risk(
        cohort=plan.cohort,
        colluders=plan.colluders,
        members=len(plan.committee) - len(plan.witnesses),
        corrupt=plan.corrupt_members - plan.corrupt_witnesses,
    )
    if plan.seat_risk != risk:
        raise RefusedError(
            f"the plan states a seat risk of {plan.seat_risk:.3g}, but its numbers give {risk:.3g}: the "
            "server must make a new plan",
            code="plan",
        )


def check_sealing_key(key: SignedSealingKey, *, plan: TrainingPlan) -> bytes:
    """Check a committee member's sealing key.

    Args:
        key: the signed key.
        plan: the training's plan.

    Returns:
        The public sealing key, 1216 bytes.

    Raises:
        ProtocolError: the member did not sign it for this training, or a half of it can't be used to seal
            boxes.
    """
    statement = key.statement
    if statement.training_id != plan.training_id or statement.merchant not in plan.committee:
        raise ProtocolError("a sealing key is of another training, or not of a committee member")
    return _usable_key(key.model_dump_json(), plan.party_key(statement.merchant))


@lru_cache(maxsize=_KEPT_KEYS)
def _usable_key(signed: str, signer: bytes) -> bytes:
    """Return the public half of a sealing key, given as JSON, if it is signed and can be used.

    The same keys come in each round, to each merchant that a process hosts, and are checked once.

    Raises:
        ProtocolError: as :func:`check_sealing_key` raises.
    """
    key = SignedSealingKey.model_validate_json(signed)
    statement = key.statement
    if not verify(
        signer,
        statement.canonical_bytes(),
        bytes.fromhex(key.signature),
        context=SEALING_KEY_CONTEXT,
    ):
        raise ProtocolError(f"the sealing key of '{statement.merchant}' is not signed by its roster key")
    public = bytes.fromhex(statement.public_key)
    # An unusable key that is found only during sealing, after the charge, would cost every merchant every
    # round.
    try:
        check_sealing_public(public)
    except AggregationError as error:
        raise ProtocolError(f"the sealing key of '{statement.merchant}' is refused: {error}") from None
    return public


def check_sealing_keys(keys: Sequence[SignedSealingKey], *, plan: TrainingPlan) -> dict[str, bytes]:
    """Check the sealing keys of a committee.

    Args:
        keys: the signed keys, in any order.
        plan: the training's plan.

    Returns:
        The public sealing key by member, in the order of the committee.

    Raises:
        ProtocolError: there is not exactly one key per member, or :func:`check_sealing_key` refuses one.
    """
    found: dict[str, bytes] = {}
    for key in keys:
        public, member = check_sealing_key(key, plan=plan), key.statement.merchant
        if found.setdefault(member, public) != public:
            raise ProtocolError(f"two sealing keys were given for '{member}'")
    if set(found) != set(plan.committee):
        raise ProtocolError("a committee member's sealing key is missing")
    return {member: found[member] for member in plan.committee}


def check_encryption_key(signed: SignedEncryptionKey | None, key: bytes, *, plan: TrainingPlan) -> bytes:
    """Check the training's public key.

    Args:
        signed: the holder's signed statement about it.
        key: the encoded key.
        plan: the training's plan.

    Returns:
        ``key``.

    Raises:
        ProtocolError: the merchant that holds the private key did not sign it for this training.
    """
    if signed is None:
        raise ProtocolError("the training's public key is missing")
    statement, holder = signed.statement, plan.committee[0]
    if statement.training_id != plan.training_id or statement.merchant != holder:
        raise ProtocolError("the public key is of another training, or not of the merchant that holds it")
    if sha256_hex(key) != statement.key_hash:
        raise ProtocolError("the public key is not the one that its statement names")
    signature = bytes.fromhex(signed.signature)
    if not verify(
        plan.key_of(holder), statement.canonical_bytes(), signature, context=ENCRYPTION_KEY_CONTEXT
    ):
        raise ProtocolError(f"the public key is not signed by the roster key of '{holder}'")
    return key


def check_commitment(signed: SignedCommitment, *, plan: TrainingPlan, round_number: int) -> Commitment:
    """Check a merchant's commitment to its upload.

    Args:
        signed: the signed commitment.
        plan: the training's plan.
        round_number: the round.

    Returns:
        The commitment.

    Raises:
        ProtocolError: its merchant did not sign it for this training and round, or it has a wrong number of
            commitments to its key.
    """
    commitment = signed.commitment
    if commitment.training_id != plan.training_id or commitment.round_number != round_number:
        raise ProtocolError("a commitment is of another training or round")
    by_committee = plan.trust.opened_by == "committee"
    expected = plan.threshold if by_committee else 0
    if len(commitment.key_commitments) != expected:
        raise ProtocolError(
            f"'{commitment.merchant}' sent {len(commitment.key_commitments)} commitments to its key, not "
            f"{expected}"
        )
    layers = len(commitment.layer_seed_hashes), len(commitment.layer_part_hashes)
    removable = plan.layers_in(round_number)
    if layers != (removable, len(plan.committee) if by_committee and removable else 0):
        raise ProtocolError(f"'{commitment.merchant}' committed to a wrong number of noise layers")
    if not verify(
        plan.key_of(commitment.merchant),
        commitment.canonical_bytes(),
        bytes.fromhex(signed.signature),
        context=COMMITMENT_CONTEXT,
    ):
        raise ProtocolError(f"the commitment of '{commitment.merchant}' is not signed by its roster key")
    return commitment


def check_survivors(
    survivors: Sequence[SignedCommitment], *, plan: TrainingPlan, round_number: int
) -> list[Commitment]:
    """Check a survivor set; a committee member does so before it answers.

    Args:
        survivors: the signed commitments of all merchants in the sum.
        plan: the training's plan.
        round_number: the round.

    Returns:
        The commitments, in the given order.

    Raises:
        ProtocolError: a signature or a binding is invalid.
        RefusedError: the set is smaller than the minimum, names a merchant twice, or mixes models.
    """
    commitments = [check_commitment(signed, plan=plan, round_number=round_number) for signed in survivors]
    if len({commitment.merchant for commitment in commitments}) != len(commitments):
        raise RefusedError("the survivor set names a merchant twice")
    if len(commitments) < plan.min_contributors:
        raise RefusedError(
            f"the survivor set has {len(commitments)} merchants, {plan.min_contributors} are required"
        )
    if len({commitment.model_hash for commitment in commitments}) != 1:
        raise RefusedError("the survivors trained from different models")
    return commitments
