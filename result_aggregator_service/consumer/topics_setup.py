"""Creates the topics that are missing, where the broker allows it: the consumed ones and the published ones."""

import structlog
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from result_aggregator_service.contracts.topics import CONSUMED, PUBLISHED
from result_aggregator_service.settings import Settings

_log = structlog.get_logger(__name__)


async def create_missing_topics(settings: Settings) -> None:
    """Create them; a broker that refuses is told of in the log and left alone: it may create them on first use."""
    admin = AIOKafkaAdminClient(**settings.kafka_client_options(), client_id=settings.service_name)
    try:
        await admin.start()
        missing = sorted({*CONSUMED, *PUBLISHED} - set(await admin.list_topics()))
        if not missing:
            return
        try:
            response = await admin.create_topics(
                [
                    NewTopic(topic, settings.kafka_topic_partitions, settings.kafka_topic_replication_factor)
                    for topic in missing
                ]
            )
        except (KafkaError, AttributeError) as error:  # AttributeError: a broker without a controller (a mock)
            _log.warning("topics_not_created", topics=missing, error=str(error) or type(error).__name__)
            return
        refused = {
            topic: for_code(code).__name__
            for topic, code, *_ in response.topic_errors
            if code not in (0, TopicAlreadyExistsError.errno)
        }
        if refused:
            _log.warning("topics_not_created", topics=refused)
        created = [topic for topic in missing if topic not in refused]
        if created:
            _log.info("topics_created", topics=created, partitions=settings.kafka_topic_partitions)
    finally:
        await admin.close()
