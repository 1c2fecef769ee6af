"""What the broker knows of the consumed topics' offsets: where partitions begin and end, what the group committed."""

from collections.abc import Collection, Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError, for_code

from result_aggregator_service.consumer.stopping import stop_consumer
from result_aggregator_service.contracts.topics import CONSUMED
from result_aggregator_service.settings import Settings

_REQUEST_TIMEOUT_MS = 10_000

Offsets = Mapping[TopicPartition, int]


class KafkaOffsets:
    """Asks Kafka, over connections of its own; every question may raise KafkaError: Kafka is away."""

    def __init__(self, settings: Settings) -> None:
        self._options = settings.kafka_client_options()
        self._options |= {
            "client_id": f"{settings.service_name}-offsets",
            "request_timeout_ms": _REQUEST_TIMEOUT_MS,
        }
        self._group = settings.kafka_consumer_group_id
        self._admin = AIOKafkaAdminClient(**self._options)
        # Subscribed to nothing: it fetches no messages, and asks about no topic by name, which might make one.
        self._consumer = AIOKafkaConsumer(**self._options)

    async def __aenter__(self) -> Self:
        try:
            await self._admin.start()
            await self._consumer.start()
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await stop_consumer(self._consumer)
        await self._admin.close()

    async def partitions(self) -> list[TopicPartition]:
        """The partitions of those consumed topics that there are."""
        return [
            TopicPartition(topic["topic"], partition["partition"])
            for topic in await self._admin.describe_topics()
            if topic["topic"] in CONSUMED
            for partition in topic["partitions"]
        ]

    async def beginnings(self, partitions: Collection[TopicPartition]) -> Offsets:
        """The first offset that is retained of each."""
        offsets: Offsets = await self._consumer.beginning_offsets(list(partitions))
        return offsets

    async def ends(self, partitions: Collection[TopicPartition]) -> Offsets:
        """The offset of each at which the next message will lie."""
        offsets: Offsets = await self._consumer.end_offsets(list(partitions))
        return offsets

    async def since(self, partitions: Collection[TopicPartition], time: datetime) -> Offsets:
        """The offset of each one's first message of that time or later; those without any are left out."""
        milliseconds = int(time.timestamp() * 1000)
        found = await self._consumer.offsets_for_times(dict.fromkeys(partitions, milliseconds))
        return {partition: first.offset for partition, first in found.items() if first is not None}

    async def committed(self, partitions: Collection[TopicPartition]) -> Offsets:
        """What the group has committed; partitions for which it has not are left out."""
        committed = await self._admin.list_consumer_group_offsets(self._group, partitions=list(partitions))
        if not committed.keys() >= set(partitions):  # aiokafka overlooks an error that concerns the whole group
            raise KafkaError("the group's coordinator does not know the offsets yet")
        return {partition: committed[partition].offset for partition in partitions if committed[partition].offset >= 0}

    async def members(self) -> int:
        """How many members the group has now."""
        [answer] = await self._admin.describe_consumer_groups([self._group])
        [group] = answer.to_object()["groups"]
        if group["error_code"]:
            raise for_code(group["error_code"])(self._group)
        members: list[Any] = group["members"]
        return len(members)

    async def commit(self, offsets: Offsets) -> None:
        """Commit offsets for the group, which has no members.

        Raises:
            CommitFailedError: it has some.
        """
        member = AIOKafkaConsumer(**self._options, group_id=self._group, enable_auto_commit=False)
        try:
            await member.start()
            member.assign(list(offsets))
            await member.commit(dict(offsets))
        finally:
            await stop_consumer(member)
