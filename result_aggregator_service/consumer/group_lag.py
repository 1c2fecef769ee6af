"""How far the whole group is behind, told from the offsets that the broker keeps: the same on every replica."""

from types import TracebackType
from typing import Self

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from result_aggregator_service.consumer.stopping import stop_consumer
from result_aggregator_service.contracts.topics import CONSUMED
from result_aggregator_service.settings import Settings

_REQUEST_TIMEOUT_MS = 10_000


class GroupLag:
    """Asks Kafka for the group's lag, over connections of its own; made anew by its owner after a failure."""

    def __init__(self, settings: Settings) -> None:
        options = settings.kafka_client_options()
        options |= {"client_id": f"{settings.service_name}-lag", "request_timeout_ms": _REQUEST_TIMEOUT_MS}
        self._group = settings.kafka_consumer_group_id
        self._from_the_end = settings.kafka_auto_offset_reset == "latest"
        self._admin = AIOKafkaAdminClient(**options)
        # Subscribed to nothing: it fetches no messages, and asks about no topic by name, which might make one.
        self._offsets = AIOKafkaConsumer(**options)

    async def __aenter__(self) -> Self:
        try:
            await self._admin.start()
            await self._offsets.start()
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await stop_consumer(self._offsets)
        await self._admin.close()

    async def largest(self) -> int:
        """The lag, in messages, of the partition that is furthest behind.

        Raises:
            KafkaError: Kafka is away, or does not know all the topics.
        """
        partitions = [
            TopicPartition(topic["topic"], partition["partition"])
            for topic in await self._admin.describe_topics()
            if topic["topic"] in CONSUMED
            for partition in topic["partitions"]
        ]
        if {partition.topic for partition in partitions} != CONSUMED.keys():
            raise KafkaError("not all topics are there yet")
        committed = await self._admin.list_consumer_group_offsets(self._group, partitions=partitions)
        if not committed.keys() >= set(partitions):  # aiokafka overlooks an error that concerns the whole group
            raise KafkaError("the group's coordinator does not know the offsets yet")
        ends: dict[TopicPartition, int] = await self._offsets.end_offsets(partitions)
        beginnings: dict[TopicPartition, int] = await self._offsets.beginning_offsets(partitions)
        lags: list[int] = []
        for partition in partitions:
            offset = committed[partition].offset
            if offset < 0:  # nothing committed yet
                offset = ends[partition] if self._from_the_end else beginnings[partition]
            lags.append(ends[partition] - max(offset, beginnings[partition]))
        return max(lags)
