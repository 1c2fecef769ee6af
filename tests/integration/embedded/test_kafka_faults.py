"""The faults that the embedded Apache Kafka can be given: a broken link to its clients, partitions without a leader."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaTimeoutError, NodeNotReadyError, RequestTimedOutError
from confluent_kafka.admin import AdminClient

from embedded import ApacheKafka, ApacheKafkaCluster, ServerError, TcpProxy, free_port
from result_aggregator_service.consumer.stopping import stop_consumer
from tests.servers import Servers, create_topics, leave_out_for
from tests.waiting import eventually

TOPIC = "embedded.kafka.faults.v1"
GENEROUS_SECONDS = 30
pytestmark = pytest.mark.apache_kafka


@asynccontextmanager
async def producer(bootstrap_servers: str) -> AsyncIterator[AIOKafkaProducer]:
    client = AIOKafkaProducer(bootstrap_servers=bootstrap_servers, request_timeout_ms=1000, acks="all")
    await client.start()
    try:
        yield client
    finally:
        await client.stop()


@asynccontextmanager
async def group_member(bootstrap_servers: str) -> AsyncIterator[AIOKafkaConsumer]:
    client = AIOKafkaConsumer(
        TOPIC,
        bootstrap_servers=bootstrap_servers,
        group_id="group",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        request_timeout_ms=2000,
        session_timeout_ms=6000,
        heartbeat_interval_ms=500,
        metadata_max_age_ms=1000,
    )
    await client.start()
    try:
        yield client
    finally:
        await stop_consumer(client)


async def received(consumer: AIOKafkaConsumer, count: int) -> list[bytes]:
    """The values of the next `count` messages, sorted."""
    values: list[bytes] = []

    async def all_there() -> bool:
        polled = await consumer.getmany(timeout_ms=200)
        values.extend(record.value for records in polled.values() for record in records)
        return len(values) >= count

    await eventually(all_there, within=GENEROUS_SECONDS)
    return sorted(values)


@pytest.fixture
def lacks_nothing(servers: Servers) -> None:
    leave_out_for(servers.why_no_native_kafka)


@pytest.fixture
def proxy() -> Iterator[TcpProxy]:
    with TcpProxy(free_port()) as running:
        yield running


async def test_clients_of_the_proxied_listener_are_cut_off_with_the_proxy_and_others_are_not(
    lacks_nothing: None, own_folder: Path, proxy: TcpProxy
) -> None:
    with ApacheKafka(own_folder, proxy=proxy) as kafka:
        await create_topics(kafka.bootstrap_servers, [TOPIC])
        assert proxy.connections_accepted == 0
        async with (
            producer(kafka.bootstrap_servers) as direct,
            producer(kafka.proxied_bootstrap_servers) as proxied,
            group_member(kafka.proxied_bootstrap_servers) as member,
        ):
            await proxied.send_and_wait(TOPIC, b"through the proxy")
            assert await received(member, 1) == [b"through the proxy"]

            proxy.hang()
            await direct.send_and_wait(TOPIC, b"past the proxy")
            with pytest.raises((RequestTimedOutError, KafkaTimeoutError, NodeNotReadyError)):
                await asyncio.wait_for(proxied.send_and_wait(TOPIC, b"unknown"), GENEROUS_SECONDS)
            assert not await member.getmany(timeout_ms=500)

            proxy.pass_on()
            values = await received(member, 1)
            assert b"past the proxy" in values
            await proxied.send_and_wait(TOPIC, b"through it again")
            while b"through it again" not in values:
                values += await received(member, 1)


def leaders(bootstrap_servers: str, topic: str) -> list[int]:
    """The node that leads each partition; -1 where there is none."""
    partitions = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0}).list_topics(topic, 10).topics
    return [partition.leader for _, partition in sorted(partitions[topic].partitions.items())]


async def test_partitions_of_a_broker_that_is_away_have_no_leader_while_the_group_goes_on(
    lacks_nothing: None, own_folder: Path, proxy: TcpProxy
) -> None:
    with TcpProxy(free_port()) as second_proxy:
        cluster = ApacheKafkaCluster(own_folder, proxies=(proxy, second_proxy))
        with cluster:
            cluster.create_topic(TOPIC, [1, 2])
            # Again is no error.
            cluster.create_topic(TOPIC, [1, 2])
            first, second = cluster.first.bootstrap_servers, cluster.second
            assert set(leaders(first, "__consumer_offsets")) == {1}
            servers = cluster.proxied_bootstrap_servers
            async with producer(servers) as sender, group_member(servers) as member:
                for number, value in enumerate([b"on the first", b"on the second"]):
                    await sender.send_and_wait(TOPIC, value, partition=number)
                assert await received(member, 2) == [b"on the first", b"on the second"]
                assert second_proxy.connections > 0

                second.kill()
                await eventually(lambda: leaders(first, TOPIC) == [1, -1], within=GENEROUS_SECONDS)
                await sender.send_and_wait(TOPIC, b"on the first", partition=0)
                assert await received(member, 1) == [b"on the first"]
                await member.commit()
                late = await sender.send(TOPIC, b"late", partition=1)

                second.start()
                assert leaders(first, TOPIC) == [1, 2]
                await asyncio.gather(late, return_exceptions=True)
                await sender.send_and_wait(TOPIC, b"on the second", partition=1)
                values = await received(member, 1)
                while b"on the second" not in values:
                    values += await received(member, 1)

            # The controller comes back to the broker that stayed.
            cluster.first.kill()
            cluster.first.start()
            await eventually(lambda: leaders(first, TOPIC) == [1, 2], within=GENEROUS_SECONDS)
            cluster.first.kill()
        # Not even now does the end wait for a controller's leave.
        assert not second.is_running


def test_a_broker_without_a_proxy_says_so(own_folder: Path) -> None:
    with pytest.raises(ServerError, match="no proxy"):
        _ = ApacheKafka(own_folder).proxied_bootstrap_servers
