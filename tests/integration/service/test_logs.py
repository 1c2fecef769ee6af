"""What a real process logs: whose line it is, one for each poll and request, and no secret and no essay's text."""

import asyncio
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import structlog
from sqlalchemy import make_url, text
from structlog.testing import capture_logs

from embedded.process import LOOPBACK, free_port, plain_environment
from result_aggregator_service.consumer.decoder import InvalidReason
from result_aggregator_service.contracts.topics import BATCH_ESSAYS_REGISTERED, CONSUMED, ESSAY_SLOT_ASSIGNED, PUBLISHED
from result_aggregator_service.publishing.relay import Relay
from result_aggregator_service.storage.engine import Database
from tests.integration.publishing.relaying import announcement, enqueue
from tests.integration.service.process import CREDENTIALS, ServiceProcess
from tests.integration.service.wiring import KEY, Wire, container_of, on_the_wire, settings_for, turning
from tests.samples import CONSUMED_NAMES, consumed
from tests.servers import CHECKOUT, KafkaServer, create_topics
from tests.unit.contracts.wire import Record, is_bad
from tests.unit.domain import messages as say
from tests.waiting import eventually

Positioned = Callable[[Iterable[str]], Awaitable[str]]

TEXT = "CANARY-what-a-pupil-wrote"
SECRET = "CANARY-secret"
STATED = "11111111-2222-4333-8444-555555555555"
REFUSED_ESSAY = "an-essay-that-the-database-refuses"
REFUSED = say.slot(REFUSED_ESSAY, text=TEXT)
MOST_BYTES = 60_000
STATUS = "/internal/v1/batches/{}/status"


def places_of_text(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where some JSON holds texts that are no ids: ids may be logged."""
    named = str(next((step for step in reversed(path) if isinstance(step, str)), ""))
    if isinstance(value, str) and not named.endswith(("_id", "_ids")):
        yield path
    for step, below in (
        value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else ())
    ):
        yield from places_of_text(below, (*path, step))


def with_canaries(name: str) -> bytes:
    """A sample whose every free text is a canary, and some fields more that nobody knows."""
    message = consumed(name)
    topic = message["event_type"]
    message["essay_text"] = message["data"]["essay_text"] = TEXT
    for path in list(places_of_text(message["data"])):
        place = message["data"]
        for step in path[:-1]:
            place = place[step]
        before, place[path[-1]] = place[path[-1]], TEXT
        if is_bad(Record(topic, json.dumps(message).encode())):
            place[path[-1]] = before
    return json.dumps(message).encode()


def bad_messages() -> list[tuple[str, bytes | None]]:
    """A bad message of each kind that can be had from outside; UNPROCESSABLE takes a mistake of the service's own."""
    misread, misdirected = consumed("batch_essays_registered"), consumed("essay_slot_assigned")
    misread["data"]["expected_essay_count"] = TEXT
    misdirected["event_type"] = "huleedu.other.v1"
    misdirected["data"]["original_file_name"] = TEXT
    return [
        (ESSAY_SLOT_ASSIGNED, None),
        (ESSAY_SLOT_ASSIGNED, TEXT.encode() * (MOST_BYTES // len(TEXT) + 1)),
        (ESSAY_SLOT_ASSIGNED, TEXT.encode() + b"\xff"),
        (ESSAY_SLOT_ASSIGNED, f'{{"correlation_id": "{STATED}", "data": {{"text": "{TEXT}'.encode()),
        (BATCH_ESSAYS_REGISTERED, json.dumps(misread).encode()),
        (ESSAY_SLOT_ASSIGNED, json.dumps(misdirected).encode()),
        (ESSAY_SLOT_ASSIGNED, on_the_wire(REFUSED)),
    ]


def lines_of(service: ServiceProcess) -> list[dict[str, Any]]:
    """All that it wrote: lines of JSON, and nothing else."""
    return [json.loads(line) for line in service.output().splitlines()]


async def test_a_process_tells_whose_line_it_is_and_no_secret_and_no_text(
    own_folder: Path, database_url: str, redis_url: str, kafka_server: KafkaServer, kafka_group: Positioned
) -> None:
    database = make_url(database_url)
    assert database.database is not None
    plain_url = database_url.replace("+asyncpg", "")
    others_url = database.set(drivername="postgresql", database="postgres").render_as_string(hide_password=False)
    settings = {
        "LOG_LEVEL": "DEBUG",
        "KAFKA_BOOTSTRAP_SERVERS": kafka_server.bootstrap_servers,
        "KAFKA_SASL_PASSWORD": SECRET,
        "INTERNAL_API_KEY": f"{KEY},{SECRET}",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://user:{SECRET}@{LOOPBACK}:{free_port()}",
        "OTEL_EXPORTER_OTLP_HEADERS": f"authorization={SECRET}",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "0.5",
        "MAX_MESSAGE_BYTES": str(MOST_BYTES),
    }
    redis = make_url(redis_url)
    locked_out = ServiceProcess(
        own_folder / "locked out",
        **{**settings, "KAFKA_BOOTSTRAP_SERVERS": f"{LOOPBACK}:{free_port()}"},
        DATABASE_URL=database.set(password=SECRET).render_as_string(hide_password=False),
        REDIS_URL=redis.set(password=SECRET).render_as_string(hide_password=False),
    )
    service = ServiceProcess(
        own_folder / "service",
        **settings,
        DATABASE_URL=database_url,
        REDIS_URL=redis_url,
        KAFKA_CONSUMER_GROUP_ID=await kafka_group(CONSUMED),
        KAFKA_MAX_POLL_RECORDS="100",
    )
    connection = await asyncpg.connect(plain_url)
    await connection.execute(f"ALTER TABLE essay_results ADD CHECK (essay_id <> '{REFUSED_ESSAY}')")
    await connection.close()
    others = await asyncpg.connect(others_url)
    async with Wire(kafka_server.bootstrap_servers, is_apache=kafka_server.is_apache) as wire:
        burst = [say.slot(f"e{number}", "burst") for number in range(300)]
        await wire.say(*burst)
        with locked_out, service:

            async def handled(number: int) -> bool:
                exposed = (await service.get("/metrics")).text.splitlines()
                counted = [line for line in exposed if line.startswith("ras_messages_processed_total{")]
                return sum(float(line.split()[-1]) for line in counted) == number

            await eventually(lambda: handled(300), within=60)
            bad = bad_messages()
            for topic, content in bad:
                await wire.send(topic, content, key=b"b", headers=[("note", TEXT.encode())])
            for name in CONSUMED_NAMES:
                await wire.send(consumed(name)["event_type"], with_canaries(name), key=b"b")
            known = 300 + len(bad) + len(CONSUMED_NAMES)
            await eventually(lambda: handled(known), within=60)

            async with httpx.AsyncClient(base_url=f"http://{LOOPBACK}:{service.port}") as client:
                for number, key in enumerate((KEY, SECRET, f"{SECRET} that is none")):
                    credentials = {**CREDENTIALS, "X-Internal-API-Key": key, "X-Correlation-ID": f"request-{number}"}
                    await client.get(STATUS.format("burst"), headers=credentials)

            await others.execute(f'ALTER DATABASE "{database.database}" ALLOW_CONNECTIONS false')
            ending = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1"
            await others.execute(ending.replace("$1", f"'{database.database}'"))
            await wire.send(ESSAY_SLOT_ASSIGNED, on_the_wire(last := say.slot("last", "burst")), key=b"b")
            await eventually(lambda: service.logged("database_unavailable"), within=30)
            await service.answers(STATUS.format("not-cached"), 503)
            await others.execute(f'ALTER DATABASE "{database.database}" ALLOW_CONNECTIONS true')
            await others.close()
            await eventually(lambda: handled(known + 1), within=60)
            await eventually(
                lambda: locked_out.logged("waiting_for_database") or locked_out.logged("database_ready"), within=30
            )
            polls = await service.metric("ras_poll_records_count")
            await eventually(lambda: len(service.logged("poll_projected")) == polls)

    lines = lines_of(service)
    assert not [line for line in [*lines, *lines_of(locked_out)] if "CANARY" in json.dumps(line)]
    if database.password:
        assert database.password not in service.output()
    # one line for a poll, whatever is in it
    assert polls < 100
    projected = service.logged("poll_projected")
    assert sum(line["folded"] + line["duplicates"] + line["quarantined"] for line in projected) == known + 1
    assert len([line for line in lines if line["level"] == "info"]) < 100
    # a poll of many is nobody's
    for line in projected:
        is_one = line["folded"] + line["duplicates"] + line["quarantined"] == 1
        assert is_one or not {"correlation_id", "topic", "partition", "offset"} & line.keys()
    assert projected[-1]["correlation_id"] == str(last.correlation_id)
    assert (projected[-1]["topic"], projected[-1]["batch_id"]) == (ESSAY_SLOT_ASSIGNED, "burst")
    # a message that is handled alone is told of with all that is known of it
    quarantined = {line["error_type"]: line for line in service.logged("message_quarantined")}
    assert quarantined.keys() == set(InvalidReason) - {InvalidReason.UNPROCESSABLE}
    assert all({"topic", "partition", "offset"} <= line.keys() for line in quarantined.values())
    assert quarantined["not_json"]["correlation_id"] == STATED
    assert quarantined["wrong_topic"]["correlation_id"] == consumed("essay_slot_assigned")["correlation_id"]
    assert quarantined["rejected_by_database"]["correlation_id"] == str(REFUSED.correlation_id)
    assert not {"correlation_id"} & (quarantined["null_value"].keys() | quarantined["too_large"].keys())
    (away, *_) = service.logged("database_unavailable")
    assert away["correlation_id"] == str(last.correlation_id)
    # a line for a request, and each its own
    requests = [line for line in service.logged("request") if line["level"] == "info"]
    told = [(line["correlation_id"], line["status_code"]) for line in requests[:3]]
    assert told == [("request-0", 404), ("request-1", 404), ("request-2", 401)]
    (failed, *_) = service.logged("request_without_database")
    assert failed["correlation_id"] in {line["correlation_id"] for line in requests if line["status_code"] == 503}


async def test_a_row_that_kafka_refuses_is_told_of_with_its_cause(
    database_url: str, redis_url: str, kafka_server: KafkaServer
) -> None:
    settings = settings_for(
        database_url,
        redis_url=redis_url,
        kafka_bootstrap_servers=kafka_server.bootstrap_servers,
        outbox_max_attempts=1,
        outbox_parked_key_policy="skip",
    )
    await create_topics(kafka_server.bootstrap_servers, PUBLISHED, is_apache=kafka_server.is_apache)
    refused = announcement("batch", padding=TEXT * 50_000)
    no_envelope = dataclasses.replace(refused, envelope=refused.envelope.model_copy(update={"event_id": uuid4()}))
    async with container_of(settings) as container:
        await enqueue(container, refused, no_envelope)
        database = await container.get(Database)
        async with database.transaction() as session:
            spoil = text("UPDATE event_outbox SET event_data = '[]' WHERE event_id = :event_id")
            await session.execute(spoil, {"event_id": no_envelope.event_id})
        with capture_logs([structlog.contextvars.merge_contextvars]) as lines:
            async with turning(await container.get(Relay)):
                await eventually(lambda: len([line for line in lines if line["event"] == "outbox_row_parked"]) == 2)
    told = {line["event_id"]: line for line in lines if line["event"] == "outbox_row_parked"}
    line = told[str(refused.event_id)]
    assert (line["correlation_id"], line["batch_id"]) == (str(refused.envelope.correlation_id), "batch")
    assert "correlation_id" not in told[str(no_envelope.event_id)]
    assert TEXT not in str(lines)


@contextmanager
def told_to(stderr: str, folder: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A service whose standard error is `closed`, a pipe that nobody `reads`, or a disk that is `full`."""
    command = [sys.executable, "-m", "result_aggregator_service"]
    if stderr == "closed":
        command = ["/bin/sh", "-c", 'exec "$0" "$@" 2>&-', *command]
    reader, writer = os.pipe()
    os.close(reader)
    with open("/dev/full", "wb") as full, (folder / f"{stderr}.out").open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr={"closed": None, "reads": writer, "full": full}[stderr],
            env={**plain_environment(), "PYTHONPATH": str(CHECKOUT), **environment},
            cwd=folder,
        )
    os.close(writer)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def test_a_log_that_cannot_be_written_stops_no_work(
    own_folder: Path, database_url: str, redis_url: str, kafka_server: KafkaServer, kafka_group: Positioned
) -> None:
    ports = {stderr: free_port() for stderr in ("closed", "reads", "full")}
    async with (
        Wire(kafka_server.bootstrap_servers, is_apache=kafka_server.is_apache) as wire,
        httpx.AsyncClient() as client,
    ):
        with ExitStack() as stack:
            processes = {}
            for stderr, port in ports.items():
                environment = {
                    "DATABASE_URL": database_url,
                    "REDIS_URL": redis_url,
                    "KAFKA_BOOTSTRAP_SERVERS": kafka_server.bootstrap_servers,
                    "KAFKA_CONSUMER_GROUP_ID": await kafka_group(CONSUMED),
                    "INTERNAL_API_KEY": KEY,
                    "LOG_LEVEL": "DEBUG",
                    "PORT": str(port),
                    "METRICS_PORT": str(free_port()),
                }
                processes[stderr] = stack.enter_context(told_to(stderr, own_folder, environment))
            await wire.say(say.registered(["e1"], "b"))
            await wire.send(ESSAY_SLOT_ASSIGNED, b"no JSON")

            async def works(port: int) -> bool:
                try:
                    exposed = (await client.get(f"http://{LOOPBACK}:{port}/metrics")).text
                    answer = await client.get(f"http://{LOOPBACK}:{port}{STATUS.format('b')}", headers=CREDENTIALS)
                except httpx.TransportError as error:
                    raise AssertionError from error
                return answer.status_code == 200 and 'result="quarantined"' in exposed

            for stderr, port in ports.items():
                await eventually(partial(works, port), within=60, what=f"work with a log that is: {stderr}")
            for process in processes.values():
                process.terminate()
            statuses = {name: await asyncio.to_thread(process.wait, 40) for name, process in processes.items()}
    assert statuses == {"closed": 0, "reads": 0, "full": 0}
