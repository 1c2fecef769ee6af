"""What the consumer makes of where its group stands: which messages it should have got on with."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import CommitFailedError
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from pydantic import SecretStr

from result_aggregator_service.consumer.consumer import Consumer
from result_aggregator_service.consumer.group_lag import Standing
from result_aggregator_service.consumer.poll_handler import Handled
from result_aggregator_service.heartbeat import Heartbeat
from result_aggregator_service.observability.metrics import Metrics
from result_aggregator_service.projection.projector import Poll
from result_aggregator_service.settings import Settings

MINE, OTHERS = TopicPartition("topic", 0), TopicPartition("topic", 1)
PATIENCE = 10


async def decode(_: object) -> Poll:
    """Decode a poll."""
    return Poll((), ())


async def prepare(poll: Poll) -> Poll:
    """Make a poll ready."""
    return poll


async def settle() -> None:
    """Wait for nothing."""


async def handle(*_: object, **__: object) -> Handled:
    """Handle a poll."""
    return Handled()


class Stand:
    """A consumer that is told every second, and a client of Kafka that is only what it shows of itself."""

    def __init__(self) -> None:
        self.now = 0.0
        self.positions: dict[TopicPartition, OffsetAndMetadata] = {}
        all_read = SimpleNamespace(highwater=0, has_valid_position=True, position=0)
        assignment = SimpleNamespace(
            tps={MINE}, all_consumed_offsets=lambda: self.positions, state_value=lambda _: all_read
        )
        self.member: Any = SimpleNamespace(
            _subscription=SimpleNamespace(subscription=SimpleNamespace(assignment=assignment)),
            assignment=set,
            paused=set,
            pause=lambda *_: None,
            resume=lambda *_: None,
        )
        handler: Any = SimpleNamespace(decode=decode, prepare=prepare, handle_poll=handle, settle=settle)
        settings = Settings(
            database_url=SecretStr("postgresql://localhost/x"), environment="development", kafka_max_poll_records=2
        )
        self.consumer = Consumer(settings, handler, Metrics())
        self.consumer.heartbeat = Heartbeat(monotonic=lambda: self.now, seconds_without_progress=PATIENCE)
        self.consumer._member = self.member

    async def polls(self, *offsets: int, commits: bool = True) -> None:
        """One poll of these messages of another partition."""

        async def getmany(**_: object) -> dict[TopicPartition, list[SimpleNamespace]]:
            self.consumer.stop()
            return (
                {
                    OTHERS: [
                        SimpleNamespace(**OTHERS._asdict(), offset=offset, timestamp=0, value=b"") for offset in offsets
                    ]
                }
                if offsets
                else {}
            )

        async def commit(_: object) -> None:
            if not commits:
                raise CommitFailedError

        self.member.getmany, self.member.commit = getmany, commit
        await self.consumer._poll_until_stopped(self.member)
        self.consumer._stopping.clear()

    def hears(self, standings: Mapping[TopicPartition, Standing], *, times: int = PATIENCE + 2) -> bool:
        """Whether it is wedged after it was told so often."""
        for _ in range(times):
            self.now += 1.0
            self.consumer.heartbeat.beat("polling")
            self.consumer.hear_of_group(standings)
        return self.consumer.heartbeat.is_wedged()


@pytest.fixture
def stand() -> Stand:
    return Stand()


def test_messages_in_its_partitions_that_nobody_handles_wedge_it(stand: Stand) -> None:
    assert stand.hears({MINE: Standing(5, 1205), OTHERS: Standing(0, 7)})
    assert stand.consumer.heartbeat.detail() == "polling, lag 1,200, no progress for 11 s"


def test_what_lies_in_the_partitions_of_others_is_not_its_work(stand: Stand) -> None:
    assert not stand.hears({MINE: Standing(5, 5), OTHERS: Standing(0, 7)})


def test_what_it_has_read_past_is_no_message_unless_it_is_at_hand(stand: Stand) -> None:
    stand.positions = {MINE: OffsetAndMetadata(6, "")}
    assert not stand.hears({MINE: Standing(5, 6)})
    stand.consumer._idle.clear()
    assert stand.hears({MINE: Standing(5, 6)})


async def test_what_it_has_read_past_is_no_message_either_where_polls_come_one_after_the_other(stand: Stand) -> None:
    stand.positions = {MINE: OffsetAndMetadata(6, "")}
    for offset in range(2 * PATIENCE):
        await stand.polls(offset)
        assert not stand.hears({MINE: Standing(5, 6)}, times=1)


def test_without_a_place_in_the_group_it_has_no_work(stand: Stand) -> None:
    stand.consumer._member = None
    assert not stand.hears({MINE: Standing(5, 6)})


def test_a_rebalance_begins_the_waiting_anew(stand: Stand) -> None:
    stand.hears({MINE: Standing(5, 6)}, times=PATIENCE)
    stand.consumer._forget_assignment()
    assert not stand.hears({MINE: Standing(5, 6)}, times=PATIENCE)


async def test_while_one_poll_after_the_other_is_full_a_partition_may_have_to_wait(stand: Stand) -> None:
    for offset in range(0, 6 * PATIENCE, 2):
        await stand.polls(offset, offset + 1)
        assert not stand.hears({MINE: Standing(5, 6)}, times=1)


@pytest.mark.parametrize("offsets", [(), (7,)], ids=["empty", "not full"])
async def test_a_poll_that_is_not_full_would_have_held_what_waits(offsets: tuple[int, ...], stand: Stand) -> None:
    for _ in range(PATIENCE + 1):
        await stand.polls(*offsets)
        assert not stand.hears({MINE: Standing(5, 6)}, times=1)
    assert stand.hears({MINE: Standing(5, 6)}, times=1)


async def test_full_polls_that_it_cannot_commit_are_no_excuse(stand: Stand) -> None:
    await stand.polls(5, 6)
    for _ in range(PATIENCE + 3):
        await stand.polls(7, 8, commits=False)
        wedged = stand.hears({MINE: Standing(5, 6)}, times=1)
    assert wedged


async def test_a_poll_that_outlived_its_assignment_commits_nothing(stand: Stand) -> None:
    async def handle_poll(*_: object, **__: object) -> Handled:
        stand.consumer._forget_assignment()
        return Handled()

    handler: Any = stand.consumer._handler
    handler.handle_poll = handle_poll
    await stand.polls(5, 6)
    assert stand.consumer._commits.times == 0
