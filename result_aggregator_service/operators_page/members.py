"""How many members the consumer group has: asked rarely, beside everything else, over connections of its own."""

import asyncio

import structlog
from aiokafka.errors import KafkaError

from result_aggregator_service.consumer.offsets import KafkaOffsets
from result_aggregator_service.settings import Settings

_log = structlog.get_logger(__name__)

_SECONDS_BETWEEN_QUESTIONS = 30.0
_SECONDS_UNTIL_KNOWN = 3.0  # who has just started has not joined yet


class GroupMembers:
    """Knows the last answer; `count` is None while Kafka does not give one."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.count: int | None = None

    async def run(self) -> None:
        """Ask again and again until cancelled."""
        while True:
            try:
                async with KafkaOffsets(self._settings) as offsets:
                    while True:
                        self.count = await offsets.members()
                        await asyncio.sleep(_SECONDS_BETWEEN_QUESTIONS if self.count else _SECONDS_UNTIL_KNOWN)
            except Exception as error:  # noqa: BLE001 - to know how many there are is not worth a death
                self.count = None
                if not isinstance(error, KafkaError | OSError | TimeoutError):
                    _log.warning("group_members_not_counted", exc_info=True)
            await asyncio.sleep(_SECONDS_BETWEEN_QUESTIONS)
