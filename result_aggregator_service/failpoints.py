"""Failpoints: named boundaries in the work of consumer, relay and grace, at which a test has the process die.

Unarmed, as always in production (`FAILPOINTS` is refused there), reaching one does nothing: one look at an empty
dictionary. They stand at the steps of a poll, of a batch of outbox rows and of a grace, never at those of a message.
"""

import os
import re
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Failpoint(StrEnum):
    """Every boundary, as `<part>.<step>.<before or after>`; each is reached in one place of the source.

    Where the end of one step is the beginning of the next, there is one name for both: that of the end. (PostgreSQL
    is told of a transaction's begin together with its first statement.)
    """

    # the consumer: each poll, and in it each part that is projected by itself
    POLL_DECODE_BEFORE = "poll.decode.before"
    POLL_DECODE_AFTER = "poll.decode.after"
    TRANSACTION_BEGIN_BEFORE = "transaction.begin.before"
    TRANSACTION_BEGIN_AFTER = "transaction.begin.after"
    STATEMENTS_QUARANTINE_AFTER = "statements.quarantine.after"
    STATEMENTS_INBOX_AFTER = "statements.inbox.after"
    STATEMENTS_LOCKS_AFTER = "statements.locks.after"
    STATEMENTS_BATCHES_AFTER = "statements.batches.after"
    STATEMENTS_OUTCOMES_AFTER = "statements.outcomes.after"
    STATEMENTS_ENDS_AFTER = "statements.ends.after"
    STATEMENTS_ASSESSMENTS_AFTER = "statements.assessments.after"
    STATEMENTS_ESSAYS_AFTER = "statements.essays.after"
    STATEMENTS_MEMBERSHIP_AFTER = "statements.membership.after"
    # these four in a transaction of the grace keeper, too
    STATEMENTS_LOAD_AFTER = "statements.load.after"
    STATEMENTS_JUDGEMENTS_AFTER = "statements.judgements.after"
    STATEMENTS_LEDGER_AFTER = "statements.ledger.after"
    STATEMENTS_OUTBOX_AFTER = "statements.outbox.after"
    TRANSACTION_COMMIT_BEFORE = "transaction.commit.before"
    TRANSACTION_COMMIT_AFTER = "transaction.commit.after"
    MARKS_WRITE_AFTER = "marks.write.after"
    CACHE_INVALIDATE_BEFORE = "cache.invalidate.before"
    CACHE_INVALIDATE_AFTER = "cache.invalidate.after"
    OFFSETS_COMMIT_BEFORE = "offsets.commit.before"
    OFFSETS_COMMIT_AFTER = "offsets.commit.after"
    # the relay: each batch of outbox rows
    RELAY_CLAIM_BEFORE = "relay.claim.before"
    RELAY_CLAIM_AFTER = "relay.claim.after"
    RELAY_SEND_BEFORE = "relay.send.before"
    RELAY_SEND_AFTER = "relay.send.after"
    RELAY_ACKNOWLEDGEMENT_AFTER = "relay.acknowledgement.after"
    RELAY_MARK_BEFORE = "relay.mark.before"
    RELAY_MARK_AFTER = "relay.mark.after"
    # the grace keeper: each time that grace has run out for some batches
    GRACE_COMMIT_BEFORE = "grace.commit.before"
    GRACE_COMMIT_AFTER = "grace.commit.after"


class Action(StrEnum):
    """What happens at a failpoint: SIGKILL to the own process, or only a line on stderr."""

    KILL = "kill"
    LOG = "log"


@dataclass(frozen=True, slots=True)
class Armed:
    """A failpoint with its action; `at` is the one time it acts, counted from 1, or None for every time."""

    point: Failpoint
    action: Action
    at: int | None = None

    @classmethod
    def parse(cls, text: str) -> "Armed":
        """Read `<failpoint>=<action>` or `<failpoint>=<action>@<n>`.

        Raises:
            ValueError: it is not of that form, or names what is not there.
        """
        match = re.fullmatch(r"([^=]+)=([a-z]+)(?:@([1-9]\d*))?", text)
        if match is None:
            raise ValueError(f"{text!r} is not <failpoint>=<action> or <failpoint>=<action>@<n>, with n from 1")
        name, action, at = match.groups()
        if name not in set(Failpoint):
            raise ValueError(f"{name!r} is no failpoint; there are {', '.join(Failpoint)}")
        if action not in set(Action):
            raise ValueError(f"{action!r} is no action of a failpoint; there are {', '.join(Action)}")
        return cls(Failpoint(name), Action(action), None if at is None else int(at))


_armed: dict[Failpoint, list[Armed]] = {}
_reached: dict[Failpoint, int] = {}


def arm(failpoints: Iterable[Armed]) -> None:
    """Arm these failpoints and no others, and count from the beginning."""
    _armed.clear()
    _reached.clear()
    for armed in failpoints:
        _armed.setdefault(armed.point, []).append(armed)


def failpoint(point: Failpoint) -> None:
    """Reach a boundary."""
    if _armed:
        _reach(point)


def _reach(point: Failpoint) -> None:
    _reached[point] = times = _reached.get(point, 0) + 1
    for armed in _armed.get(point, ()):
        if armed.at in (None, times):
            os.write(2, f"failpoint {point} reached, time {times}: {armed.action}\n".encode())
            if armed.action is Action.KILL:
                os.kill(os.getpid(), signal.SIGKILL)
