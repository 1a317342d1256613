"""Run the checks of ``fedrec client check``, which find faults before anything is sent to the server."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from fedrec._internal import number_format
from fedrec._internal.look_alikes import shown, skeleton
from fedrec._internal.suggestions import alike
from fedrec._internal.text import counted
from fedrec._internal.text import listed as shorten
from fedrec.clients.approvals_file import read_approvals
from fedrec.clients.event_hook import find_program
from fedrec.clients.merchant_home import MerchantHome
from fedrec.clients.policy import MerchantPolicy
from fedrec.clients.record_tags import RecordTags
from fedrec.clients.status import plan_of_last_charge, read_budget
from fedrec.clients.store_view import read_store, readable_plan
from fedrec.errors import (
    AggregationError,
    ConfigError,
    DataError,
    FedrecError,
    MissingExtraError,
    NotAdmittedError,
)
from fedrec.privacy.accounting.ledger_head import check_head
from fedrec.privacy.accounting.ledger_reader import in_use, read_checked_head
from fedrec.privacy.derived_parameters import derive
from fedrec.privacy.identity import verify
from fedrec.protocol.plan import TrainingPlan
from fedrec.vision import model_registry as models
from fedrec.vision.datasets import open_folder
from fedrec.vision.devices import pick_device
from fedrec.vision.feature_room import check_feature_room
from fedrec.vision.inspection import FolderSummary, inspect
from fedrec.vision.listing.found_encoding import encoding_advice, folders_advice
from fedrec.vision.listing.photo_places import why_away

_SHOWN = 3
_GROWN, _SMALL = 2, 100
"""Growth after which a folder should be declared anew. A declared size below 100 is mostly noise."""
_LOG_BYTES = 6 * 10 * 2**20
"""Size of a daemon's logs: the current file and five older ones."""
_ENTRY_BYTES = 4096
"""Upper bound on the disk space of a ledger entry, with the file's journal."""
_COPIES = 3
"""Copies of a reply on disk at once: the reply, the one before it, and that one's pages in the journal."""


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        what: name of the check.
        ok: whether it passed; None if it was not made.
        text: one line with the details.
    """

    what: str
    ok: bool | None
    text: str


class _NotCheckedError(Exception):
    """The check can't be made now, which alone is no fault."""


def run_checks(home: MerchantHome, *, offline: bool) -> Iterator[Finding]:
    """Run one check after another.

    Args:
        home: the merchant's folder.
        offline: skip the checks that need the server.

    Yields:
        The result of each check.

    Raises:
        ConfigError: the folder's settings can't be read.
    """
    checks = _Checks(home)
    steps: list[tuple[str, Callable[[], str]]] = [
        ("photos", checks.photos),
        ("names", checks.names),
        ("store", checks.store),
        ("classes", checks.classes),
        ("device", checks.device),
        ("disk", checks.disk),
        ("features", checks.features),
        ("keys", checks.keys),
        ("joined", checks.joined),
        ("policy", checks.policy),
        ("models", checks.models),
        ("ledger", checks.ledger),
        ("changes", checks.changes),
        ("budget", checks.budget),
        ("on_event", checks.event_command),
    ]
    if not offline:
        steps += [("proxy", checks.proxy), ("clock", checks.clock), ("server", checks.server)]
    faults: dict[str, str] = {}
    for what, step in steps:
        try:
            yield Finding(what, True, step())
        except _NotCheckedError as error:
            yield Finding(what, None, str(error))
        except (FedrecError, OSError) as error:
            # A fault that several checks meet is reported once, by the first of them.
            cause = faults.setdefault(str(error), what)
            if cause == what:
                yield Finding(what, False, str(error))
            else:
                yield Finding(what, None, f"not checked: see {cause}")


class _Checks:
    """The checks. Each method returns one line if the check passes, and raises an error if it fails."""

    def __init__(self, home: MerchantHome) -> None:
        self._home = home
        self._settings = home.settings()
        self._found: FolderSummary | None = None

    def photos(self) -> str:
        away = why_away(self._settings.data)
        if away is not None:
            raise DataError(away)
        self._found = found = inspect(self._settings.place, layout=self._settings.layout, one_merchant=True)
        train = found.splits[0]
        named = [f"{skip.name} ({skip.reason})" for skip in found.skipped[:_SHOWN]]
        more = len(found.skipped) - len(named)
        forgotten = read_store(self._home.store).forgotten
        listed = f": {'; '.join(named)}" + (f"; and {more} more" if more > 0 else "") if named else ""
        return (
            f"{counted(train.photos, 'photo')}, "
            f"{counted(found.duplicates_dropped, 'copy', plural='copies')}, "
            f"{counted(sum(map(len, found.near_duplicates)), 'near duplicate')}"
            + (f", {len(found.in_several_products)} in several products" if train.products else "")
            + f", {len(found.skipped)} unusable{listed}"
            + f"; {found.totals}"
            + "".join(
                f"; ignored {len(names)}, {reason}: {shorten(names, most=_SHOWN)}"
                for reason, names in found.ignored_by_reason.items()
            )
            + (
                f"; {forgotten} forgotten: used in no step, but counted here while the file exists"
                if forgotten
                else ""
            )
        )

    def names(self) -> str:
        """Say how names and folders were read, and which can be taken for each other."""
        if self._found is None:
            raise _NotCheckedError("not checked: see photos")
        place = self._settings.place
        found = (encoding_advice(place), folders_advice(place, layout=self._settings.layout))
        advice = tuple(filter(None, found))
        return (
            "; ".join((*self._found.notes, *advice, *self._found.warnings))
            or "all in UTF-8, and none looks like another"
        )

    def store(self) -> str:
        return "a training is open" if read_store(self._home.store).open_plan else "no training is open"

    def classes(self) -> str:
        if self._found is None:
            raise _NotCheckedError("not checked: see photos")
        own = {name: count for name, count in self._found.splits[0].classes.items() if count}
        # A folder's name may move the cursor.
        counts = ", ".join(
            f"{name if name.isprintable() else shown(name)} {count}" for name, count in own.items()
        )
        plan = self._plan()
        if plan is None:
            return counts
        if not set(own) & set(plan.classes):
            meant = ", ".join(f"{name} {count}{_meant(name, plan.classes)}" for name, count in own.items())
            raise ConfigError(
                f"none of these ({meant}) is a class of the training ({', '.join(plan.classes)}), and the "
                "uploads would be noise alone: give the folders the names of the training's classes"
            )
        others = [name + _meant(name, plan.classes) for name in own if name not in plan.classes]
        none = [name for name in plan.classes if name not in own]
        return (
            counts
            + (f"; not in the training, and left out: {', '.join(others)}" if others else "")
            + (f"; in the training, without a photo here: {', '.join(none)}" if none else "")
        )

    def _plan(self) -> TrainingPlan | None:
        """Return the plan of the open training, or else of the last one; None if none can be read."""
        view = read_store(self._home.store)
        plan = view.open_plan or (view.plans[-1] if view.plans else None)
        return None if plan is None else readable_plan(plan)

    def changes(self) -> str:
        view = read_store(self._home.store)
        if view.counted is None:
            return "nothing was charged yet, so there is nothing to compare"
        budget, entries = read_budget(self._home, None)
        plan = plan_of_last_charge(self._home, entries)
        if plan is None:
            raise _NotCheckedError("not compared: the plan of the last charge is no longer stored")
        splits = open_folder(
            self._settings.place,
            classes=plan.classes,
            layout=self._settings.layout,
            unit=plan.unit,
            may_be_empty=True,
            one_merchant=True,
        )
        tags = RecordTags(self._home.identity())
        fresh = len(set(map(tags.tag, splits.held)) - view.counted.held)
        gone = len(view.counted.held) - (len(splits.held) - fresh)
        left = ""
        if gone:
            missing = counted(gone, f"{plan.unit} is", plural=f"{plan.unit}s are")
            left = f"{missing} missing since the last charge, and used in no step"
        if not fresh:
            return left or f"the {plan.unit}s are those of the last charge"
        new = f"{counted(fresh, plan.unit)} added since the last charge"
        if self._policy().changed_data == "refuse":
            new += ", and left out: policy 'changed_data' is 'refuse', 'count_together' would include them"
        else:
            new += ", and used from the next training on, which counts all of them together"
        if len(splits.held) > _GROWN * max(budget.declared, _SMALL):
            new += (
                f"; that is more than {_GROWN} times the {budget.declared:,} that were declared: "
                "'fedrec client recount' declares them anew, for a small charge"
            )
        return new + (f"; {left}" if left else "")

    def device(self) -> str:
        device = pick_device("auto")
        if device.type == "cuda":
            return f"a GPU, {torch.cuda.get_device_name(device)}"
        return f"no GPU; the CPU, {os.cpu_count()} threads"

    def disk(self) -> str:
        free = shutil.disk_usage(self._home.folder).free
        plan, needed, what = self._plan(), _LOG_BYTES, "logs; uploads need more once there is a plan"
        if plan is not None:
            try:
                upload = derive(plan).upload_bytes
            except (ConfigError, AggregationError) as error:
                raise ConfigError(f"the training can't be carried out: {error}") from None
            # Twice, for uploads and for answers, which are no larger.
            needed += 2 * _COPIES * upload + plan.last_round * _ENTRY_BYTES
            what = f"logs, ledger and uploads of {number_format.size(upload)}"
        if free < needed:
            raise ConfigError(
                f"{number_format.size(free)} are free, but {number_format.size(needed)} are needed for {what}"
            )
        return f"{number_format.size(free)} free, {number_format.size(needed)} needed for {what}"

    def features(self) -> str:
        plan = self._plan()
        if plan is None:
            return "none are kept: no plan names a model yet"
        if self._found is None:
            raise _NotCheckedError("not checked: see photos")
        try:
            spec = models.get_exact(plan.model, plan.model_code)
            return check_feature_room(plan, spec, photos=self._found.splits[0].photos)
        except (ConfigError, MissingExtraError) as error:
            raise _NotCheckedError(f"not checked: {error}") from None

    def keys(self) -> str:
        for path in (self._home.identity_file, self._home.node_key_file):
            # Windows' modes say nothing of other users.
            if sys.platform != "win32" and path.exists() and path.stat().st_mode & 0o077:
                raise ConfigError(f"{path.name} can be read by others: run 'chmod 600' on it")
        self._home.identity()
        self._home.node_key()
        if self._home.next_node_key() is not None:
            return "readable by this user only; a new node key waits for the operator to enrol it"
        return "readable by this user only"

    def joined(self) -> str:
        joined = self._home.joined()
        vouched = read_approvals(self._home.folder, joined).vouched
        words = "".join(f"; {entry.peer.name} by the word of {shorten(entry.vouchers)}" for entry in vouched)
        paused = "; paused: 'fedrec client resume' has it take part" if self._home.paused else ""
        return f"{joined.address}, with {', '.join(peer.name for peer in joined.roster)}{words}{paused}"

    def _policy(self) -> MerchantPolicy:
        return MerchantPolicy.load(self._home.folder / "policy.toml")

    def policy(self) -> str:
        policy = self._home.policy() if self._home.has_joined else self._policy()
        return f"lifetime epsilon {policy.lifetime_epsilon:g}, schemes {', '.join(sorted(policy.schemes))}"

    def models(self) -> str:
        installed = {name: code for name in models.names() if (code := models.code_of(name)) is not None}
        allowed = self._policy().model_code
        shown = [
            f"{name} {code} ({'allowed' if code in allowed else 'not allowed'} by policy 'model_code')"
            for name, code in installed.items()
        ]
        return "; ".join(shown) or "none besides fedrec's own"

    def ledger(self) -> str:
        ledger, public = self._home.ledger, self._home.identity().public
        # The head is read first: a running daemon may add an entry in between, and only a head that is older
        # than the ledger is accepted.
        head = read_checked_head(ledger, public=public, verify=verify)
        _, entries = read_budget(self._home, None)
        check_head(ledger, head, entries, public=public)
        return f"{counted(len(entries), 'entry', plural='entries')}, the hash chain is valid, none is missing"

    def budget(self) -> str:
        budget, _ = read_budget(self._home, self._policy())
        if budget.left is None or budget.cap is None:
            raise ConfigError("the policy has no lifetime cap")
        if budget.left <= 0:
            raise ConfigError(
                f"epsilon {budget.cap:g} is spent, and every training will be refused: raise "
                "'lifetime_epsilon' in policy.toml"
            )
        left = number_format.epsilon_left(budget.left)
        return f"epsilon {left} left of {budget.cap:g}, at delta {number_format.delta(budget.delta)}"

    def event_command(self) -> str:
        command = self._policy().hook
        if command is None:
            return "no command is run for events: policy 'on_event' would name one"
        program = find_program(command, folder=self._home.folder)
        if program is None:
            raise ConfigError(
                f"policy 'on_event': {shown(command.arguments[0])} isn't a program that can be run from "
                f"{self._home.folder}: give its full path, and make it executable"
            )
        return f"{program} is run when a training starts, ends, or needs a decision"

    def proxy(self) -> str:
        from fedrec.flower.proxies import proxy_for

        address = self._home.joined().address
        proxy = proxy_for(address)
        return (
            f"none: {address} is reached directly"
            if proxy is None
            else f"{address} is reached through {proxy}"
        )

    def clock(self) -> str:
        from fedrec.flower.clock import MOST_AHEAD, MOST_BEHIND, MOST_CORRECTED, ask_clock, clock_fault

        ahead = ask_clock(self._home.joined().address, ca=self._home.authority)
        if ahead is None:
            raise _NotCheckedError("not compared: the server can't be asked, or doesn't send its time")
        fault = clock_fault(ahead)
        if fault is not None:
            raise ConfigError(fault)
        off = f"{ahead:+.0f} s from the server's"
        if -MOST_BEHIND <= ahead <= MOST_AHEAD:
            return off
        return f"{off}: requests are signed with the server's time, which makes up for {MOST_CORRECTED:.0f} s"

    def server(self) -> str:
        from fedrec.flower.fleet import FleetLink

        joined = self._home.joined()
        if in_use(self._home.ledger):
            last = self._home.connection()
            if last is None or not last.connected:
                reason = last.reason if last is not None and last.reason else "it is starting"
                raise ConfigError(f"the daemon runs, but isn't connected to {joined.address}: {reason}")
            return f"the daemon runs, and is connected to {joined.address}"
        key, waiting = self._home.node_key(), self._home.next_node_key()
        try:
            with FleetLink(address=joined.address, ca=self._home.authority, key=key):
                return f"{joined.address} answers and knows this merchant"
        except NotAdmittedError:
            if waiting is None:
                raise
        with FleetLink(address=joined.address, ca=self._home.authority, key=waiting):
            return f"{joined.address} answers and knows this merchant's new node key"


def _meant(name: str, classes: Sequence[str]) -> str:
    """Return a hint at the training's class that a folder's name looks like; empty if there is none."""
    same = next((own for own in classes if skeleton(own) == skeleton(name)), None)
    if same is not None:
        return f" (looks like the training's class {shown(same)}: rename the folder)"
    meant = alike(name, classes)
    return f" (did you mean {meant}?)" if meant else ""
