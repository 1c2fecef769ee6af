"""Commits the offsets of what was handled, beside the next poll: Kafka takes as long for that as a small poll does.

Invariant: one commit at a time, in the order of the polls, and none of an assignment that is over.
"""

import asyncio
from collections.abc import Mapping

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

from result_aggregator_service.failpoints import Failpoint, failpoint
from result_aggregator_service.heartbeat import Heartbeat
from result_aggregator_service.observability.metrics import Metrics
from result_aggregator_service.resilience.backoff import backoff

_log = structlog.get_logger(__name__)

_SECONDS_TO_COMMIT = 5.0


class AbandonedError(Exception):
    """The poll at hand belongs to another member now; what was not committed will be delivered again."""


class OffsetCommits:
    """The commits of one group member; `stopping` ends those that wait for Kafka.

    `committed` is what was committed under the present assignment, `times` how often anything was.
    """

    def __init__(self, metrics: Metrics, heartbeat: Heartbeat, stopping: asyncio.Event) -> None:
        self._metrics = metrics
        self._heartbeat = heartbeat
        self._stopping = stopping
        self._under_way: asyncio.Task[None] | None = None
        self.committed: dict[TopicPartition, int] = {}
        self.times = 0

    @property
    def is_under_way(self) -> bool:
        """Whether a commit has begun that is not done, or could not be."""
        commit = self._under_way
        return commit is not None and (not commit.done() or commit.cancelled() or commit.exception() is not None)

    async def begin(self, consumer: AIOKafkaConsumer, offsets: Mapping[TopicPartition, int]) -> None:
        """Begin a commit as soon as the one before it is done.

        Raises:
            AbandonedError: that one could not be done; this one is not begun.
        """
        await self.done()
        self._under_way = asyncio.create_task(self._commit(consumer, offsets))

    async def done(self) -> None:
        """Wait until what has begun is done, however long Kafka is away.

        Raises:
            AbandonedError: it could not be done: the partitions are another's now, or the service stops.
        """
        commit = self._under_way
        if commit is None:
            return
        await asyncio.wait((commit,))  # which, unlike the task itself, several may await, and one of them give up
        if self._under_way is not commit:
            raise AbandonedError("the group was rebalanced")
        self._under_way = None
        commit.result()

    async def settle(self) -> None:
        """Wait a while for what has begun, however it ends."""
        if self._under_way is not None:
            await asyncio.wait((self._under_way,), timeout=_SECONDS_TO_COMMIT)
            _hear(self._under_way)

    def forget(self) -> None:
        """Give up what is under way: the assignment is over."""
        commit, self._under_way = self._under_way, None
        self.committed.clear()
        if commit is not None:
            commit.cancel()
            _hear(commit)

    async def _commit(self, consumer: AIOKafkaConsumer, offsets: Mapping[TopicPartition, int]) -> None:
        waits = backoff(0.1, 5.0)
        while True:
            try:
                # While no broker answers, aiokafka looks for the group's coordinator without end.
                async with asyncio.timeout(_SECONDS_TO_COMMIT):
                    failpoint(Failpoint.OFFSETS_COMMIT_BEFORE)
                    await consumer.commit(offsets)
                    failpoint(Failpoint.OFFSETS_COMMIT_AFTER)
            except (CommitFailedError, IllegalStateError) as error:
                raise AbandonedError(str(error) or type(error).__name__) from None
            except (KafkaError, TimeoutError) as error:
                self._metrics.consumer_errors.inc()
                self._heartbeat.waits_for("Kafka")
                _log.warning("offset_commit_failed", error=str(error) or type(error).__name__)
                if await self._stops_within(next(waits)):
                    raise AbandonedError("the service stops while Kafka is away") from None
            else:
                self.committed |= offsets
                self.times += 1
                return

    async def _stops_within(self, seconds: float) -> bool:
        try:
            return await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return False


def _hear(commit: asyncio.Task[None]) -> None:
    """Hear how a commit ended, of which nobody may ask any more: asyncio complains of what was never heard."""
    if commit.done() and not commit.cancelled():
        commit.exception()
