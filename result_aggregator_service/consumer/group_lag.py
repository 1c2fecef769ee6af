"""How far the whole group is behind, told from the offsets that the broker keeps: the same on every replica."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from result_aggregator_service.consumer.offsets import KafkaOffsets
from result_aggregator_service.contracts.topics import CONSUMED
from result_aggregator_service.settings import Settings


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the group stands in a partition: the offset of its next message, and that of the next to be produced."""

    begun: int
    end: int

    @property
    def lag(self) -> int:
        """How many messages it is behind."""
        return self.end - self.begun


class GroupLag:
    """Asks Kafka for the group's lag; made anew by its owner after a failure."""

    def __init__(self, settings: Settings) -> None:
        self._from_the_end = settings.kafka_auto_offset_reset == "latest"
        self._offsets = KafkaOffsets(settings)

    async def __aenter__(self) -> Self:
        await self._offsets.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._offsets.__aexit__(kind, error, traceback)

    async def standings(self) -> Mapping[TopicPartition, Standing]:
        """Where the group stands in every partition of the consumed topics.

        Raises:
            KafkaError: Kafka is away, or does not know all the topics.
        """
        partitions = await self._offsets.partitions()
        if {partition.topic for partition in partitions} != CONSUMED.keys():
            raise KafkaError("not all topics are there yet")
        committed = await self._offsets.committed(partitions)
        ends = await self._offsets.ends(partitions)
        beginnings = await self._offsets.beginnings(partitions)
        # Where nothing is committed yet, the group begins where it is told to.
        starts = ends if self._from_the_end else beginnings
        return {
            partition: Standing(
                begun=max(committed.get(partition, starts[partition]), beginnings[partition]), end=ends[partition]
            )
            for partition in partitions
        }
