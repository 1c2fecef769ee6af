"""PostgreSQL, Redis and Kafka over TLS: the service trusts whom it is told to trust, and nobody else.

Kafka's TLS is its own. The wheels of PostgreSQL and Valkey are built without: before these TLS ends in a proxy, which
speaks to PostgreSQL's clients as PostgreSQL does. What is tested is the client's side, which cannot tell.
"""

import asyncio
import contextlib
import ssl
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import pytest
import trustme
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from confluent_kafka.admin import AdminClient

# Public ones, which the package's face does not name to type checkers.
from confluent_kafka.admin._scram import ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from sqlalchemy import make_url
from structlog.testing import capture_logs

from embedded import ApacheKafka, server_folder
from embedded.process import LOOPBACK, free_port, plain_environment
from result_aggregator_service.cache.guarded_redis import create_redis_client
from result_aggregator_service.storage.engine import connect_directly
from tests.integration.service.process import ServiceProcess
from tests.integration.service.wiring import KEY, Wire, settings_for
from tests.listening import listening
from tests.servers import CHECKOUT, Servers, leave_out_for
from tests.unit.domain import messages as say
from tests.waiting import eventually

STATUS = "/internal/v1/batches/b/status"
USER, PASSWORD = "ras", "password-of-the-tests"


@dataclass(frozen=True)
class Certificates:
    """One authority and what it has signed, and an authority that has signed nothing here.

    The servers' certificate is for the host `localhost`; the address 127.0.0.1, at which they answer too, is not in it.
    """

    authority: Path
    stranger: Path
    client: Path
    server: trustme.LeafCert
    expired: trustme.LeafCert


@dataclass(frozen=True)
class TlsKafka:
    """A broker with listeners that ask their clients for certificates, for a password, and for nothing."""

    broker: ApacheKafka
    mutual: str
    sasl: str


@pytest.fixture(scope="module")
def certificates() -> Iterator[Certificates]:
    authority, now = trustme.CA(), datetime.now(UTC)
    with server_folder() as folder:
        made = Certificates(
            folder / "authority.pem",
            folder / "stranger.pem",
            folder / "client.pem",
            authority.issue_cert("localhost"),
            authority.issue_cert("localhost", not_before=now - timedelta(days=2), not_after=now - timedelta(days=1)),
        )
        authority.cert_pem.write_to_path(str(made.authority))
        trustme.CA().cert_pem.write_to_path(str(made.stranger))
        authority.issue_cert("ras@example.org").private_key_and_cert_chain_pem.write_to_path(str(made.client))
        yield made


@pytest.fixture(scope="module")
def kafka(servers: Servers, certificates: Certificates) -> Iterator[TlsKafka]:
    leave_out_for(servers.why_no_native_kafka)
    ports = {name: free_port() for name in ("PLAINTEXT", "MUTUAL", "SASL", "CONTROLLER")}
    hosts = {"MUTUAL": "localhost", "SASL": "localhost"}
    security = "org.apache.kafka.common.security"
    with server_folder() as folder:
        (folder / "server.pem").write_bytes(_as_java_reads_it(certificates.server))
        settings = {
            "listeners": ",".join(f"{name}://{LOOPBACK}:{port}" for name, port in ports.items()),
            "advertised.listeners": ",".join(
                f"{name}://{hosts.get(name, LOOPBACK)}:{port}" for name, port in ports.items() if name != "CONTROLLER"
            ),
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,MUTUAL:SSL,SASL:SASL_SSL,CONTROLLER:PLAINTEXT",
            "controller.quorum.voters": f"1@{LOOPBACK}:{ports['CONTROLLER']}",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(folder / "server.pem"),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(certificates.authority),
            "listener.name.mutual.ssl.client.auth": "required",
            "listener.name.sasl.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512",
            "listener.name.sasl.plain.sasl.jaas.config": (
                f'{security}.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
            ),
            "listener.name.sasl.scram-sha-512.sasl.jaas.config": f"{security}.scram.ScramLoginModule required;",
        }
        with ApacheKafka(folder / "kafka", ports["PLAINTEXT"], settings=settings) as broker:
            yield TlsKafka(broker, f"localhost:{ports['MUTUAL']}", f"localhost:{ports['SASL']}")


def _as_java_reads_it(certificate: trustme.LeafCert) -> bytes:
    """Key and certificates in one file; Kafka takes the key as PKCS #8 only."""
    key = load_pem_private_key(certificate.private_key_pem.bytes(), None)
    pkcs8 = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return b"".join([pkcs8, *(blob.bytes() for blob in certificate.cert_chain_pems)])


# TLS that ends before a server that has none.


class TlsProxy:
    """Answers on `port` with a certificate, and passes on what comes to a server without TLS."""

    def __init__(self, url: str, certificate: trustme.LeafCert) -> None:
        target = make_url(url)
        self._host, self._port = target.host or LOOPBACK, target.port
        self._is_postgres = target.drivername.startswith("postgres")
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        certificate.configure_cert(self._context)
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self.port = 0
        self.accepted = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator["TlsProxy"]:
        try:
            async with listening(self._accept) as self.port:
                yield self
        finally:
            connections = dict(self._connections)
            for task, writer in connections.items():
                task.cancel()
                writer.transport.abort()  # a task that has not begun yet does not
            await asyncio.gather(*connections, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._connections[task] = writer
        task.add_done_callback(self._connections.pop)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A client that does not trust the certificate hangs up.
        with contextlib.suppress(OSError, EOFError, asyncio.CancelledError):
            try:
                if self._is_postgres:
                    assert (await reader.readexactly(8))[4:] == b"\x04\xd2\x16\x2f"  # SSLRequest
                    writer.write(b"S")
                await writer.start_tls(self._context)
                self.accepted += 1
                await self._pass_on(reader, writer)
            finally:
                writer.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection(self._host, self._port)
        try:
            passing = [asyncio.create_task(_pipe(*ends)) for ends in ((reader, inner_writer), (inner_reader, writer))]
            await asyncio.wait(passing, return_when=asyncio.FIRST_COMPLETED)
            for way in passing:
                way.cancel()
            await asyncio.gather(*passing, return_exceptions=True)
        finally:
            inner_writer.transport.abort()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


@asynccontextmanager
async def tls_before(url: str, certificate: trustme.LeafCert) -> AsyncIterator[TlsProxy]:
    async with TlsProxy(url, certificate).running() as proxy:
        yield proxy


def through(proxy: TlsProxy, url: str, host: str = "localhost", *, ssl_mode: str = "verify-full") -> str:
    """The URL of a server behind a proxy; `ssl_mode` is for PostgreSQL's."""
    parts = make_url(url).set(host=host, port=proxy.port)
    if parts.drivername.startswith("postgres"):
        return parts.update_query_dict({"ssl": ssl_mode}).render_as_string(hide_password=False)
    return f"rediss://{host}:{proxy.port}/{parts.database or 0}"


@pytest.mark.apache_kafka
async def test_one_message_goes_from_kafka_to_http_and_out_again_with_tls_to_all_three(
    own_folder: Path, database_url: str, redis_url: str, kafka: TlsKafka, certificates: Certificates
) -> None:
    """The secrets come from files; none of them shows in what the process writes, nor in its arguments."""
    async with (
        tls_before(database_url, certificates.server) as postgres,
        tls_before(redis_url, certificates.server) as redis,
        Wire(kafka.broker.bootstrap_servers) as wire,
    ):
        secrets = {
            "DATABASE_URL": through(postgres, database_url),
            "REDIS_URL": through(redis, redis_url),
            "INTERNAL_API_KEY": KEY,
        }
        for name, secret in secrets.items():
            (own_folder / name).write_text(f"{secret}\n")
        process = ServiceProcess(
            own_folder / "service",
            **{f"{name}_FILE": str(own_folder / name) for name in secrets},
            DATABASE_SSL_CA_FILE=str(certificates.authority),
            REDIS_SSL_CA_FILE=str(certificates.authority),
            **_mutual(kafka, certificates),
            LOG_LEVEL="DEBUG",
        )
        del process.environment["INTERNAL_API_KEY"]
        with process as service:

            async def has_all_three() -> bool:
                response = await service.get("/readyz")
                return bool(response.json()["status"] == "ok")

            await eventually(has_all_three, within=60)
            phases = [say.outcome(phase, failed=["e"]) for phase in ("spellcheck", "cj_assessment")]
            await wire.say(say.registered(["e"]), say.slot("e"), *phases)
            await service.answers(STATUS, 200, within=40)
            await wire.published(1, within=40)
            assert postgres.accepted >= 2  # of the pool, and the relay's own
            assert redis.accepted
            arguments = _arguments_of(service.process.pid)
            assert await service.terminated(within=35) == 0
            for secret in (KEY, make_url(database_url).password or KEY):
                assert secret not in service.output()
                assert secret.encode() not in arguments
            assert "Traceback" not in service.output()


def _arguments_of(pid: int) -> bytes:
    """What everybody on the machine may see of a process."""
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def _mutual(kafka: TlsKafka, certificates: Certificates) -> dict[str, str]:
    return {
        "KAFKA_BOOTSTRAP_SERVERS": kafka.mutual,
        "KAFKA_SECURITY_PROTOCOL": "SSL",
        "KAFKA_SSL_CA_FILE": str(certificates.authority),
        "KAFKA_SSL_CERT_FILE": str(certificates.client),
    }


# Who is not trusted.

FAULTS = {
    "stranger": "unable to get local issuer certificate",
    "wrong host": "IP address mismatch, certificate is not valid for '127.0.0.1'",
    "expired": "certificate has expired",
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.apache_kafka
async def test_a_server_that_cannot_be_trusted_is_refused_with_a_clear_line(
    fault: str, own_folder: Path, database_url: str, redis_url: str, kafka: TlsKafka, certificates: Certificates
) -> None:
    """Once with PostgreSQL's certificate wrong, once with the two others'.

    PostgreSQL's URL would trust anybody, and the system trusts the authority that has signed: its file is what counts.
    """
    shown = certificates.expired if fault == "expired" else certificates.server
    authority = str(certificates.stranger if fault == "stranger" else certificates.authority)
    host = LOOPBACK if fault == "wrong host" else "localhost"
    plain = f"redis://{kafka.broker.bootstrap_servers}"
    async with (
        tls_before(database_url, shown) as postgres,
        tls_before(redis_url, shown) as redis,
        tls_before(plain, shown) as broker,
    ):
        url = through(postgres, database_url, host, ssl_mode="require")
        with pytest.raises(ssl.SSLCertVerificationError):  # the relay's connection, which is not of the pool
            await connect_directly(settings_for(url, database_ssl_ca_file=authority))
        await _redis_is_refused(through(redis, redis_url, host), authority, FAULTS[fault])
        settings = {
            "DATABASE_URL": url,
            "DATABASE_SSL_CA_FILE": authority,
            "SSL_CERT_FILE": str(certificates.authority),
        }
        others = {
            "REDIS_URL": through(redis, redis_url, host),
            "REDIS_SSL_CA_FILE": authority,
            "KAFKA_BOOTSTRAP_SERVERS": f"{host}:{broker.port}",
            "KAFKA_SECURITY_PROTOCOL": "SSL",
            "KAFKA_SSL_CA_FILE": authority,
            "SSL_CERT_FILE": str(certificates.authority),
        }
        with (
            ServiceProcess(own_folder / "one", **settings, REDIS_URL=redis_url) as one,
            ServiceProcess(own_folder / "other", DATABASE_URL=database_url, **others) as other,
        ):

            def is_told(process: ServiceProcess, event: str) -> bool:
                return any(FAULTS[fault] in str(line) for line in process.logged(event))

            async def cache_is_left_alone() -> bool:
                await other.get(STATUS)
                return is_told(other, "redis_left_alone")

            await eventually(lambda: is_told(one, "waiting_for_database"), within=60)
            await eventually(lambda: is_told(other, "certificate_refused"), within=60)
            await other.answers("/readyz", 200, within=60)
            await eventually(cache_is_left_alone, within=60)
            assert "Traceback" not in one.output() + other.output()
        assert (postgres.accepted, redis.accepted, broker.accepted) == (0, 0, 0)


async def _redis_is_refused(url: str, authority: str, reason: str) -> None:
    """Its refusal is told of as Kafka's is, beside which it does not show in a process."""
    client = create_redis_client(settings_for("postgresql://nowhere/none", redis_url=url, redis_ssl_ca_file=authority))
    with capture_logs() as lines, pytest.raises(RedisConnectionError):
        await client.ping()
    await client.aclose()
    told = [line["reason"] for line in lines if line["event"] == "certificate_refused"]
    assert told
    assert all(said.startswith(reason) for said in told)


async def test_the_migrations_trust_nobody_else_either(database_url: str, certificates: Certificates) -> None:
    async with tls_before(database_url, certificates.server) as postgres:
        environment = {
            **plain_environment(),
            "DATABASE_URL": through(postgres, database_url, ssl_mode="require"),
            "DATABASE_SSL_CA_FILE": str(certificates.stranger),
        }
        command = [sys.executable, "-m", "alembic", "upgrade", "head"]
        migrating = await asyncio.create_subprocess_exec(*command, cwd=CHECKOUT, env=environment, stderr=PIPE)
        _, said = await migrating.communicate()
        assert migrating.returncode != 0
        assert FAULTS["stranger"] in said.decode()
        assert postgres.accepted == 0


@pytest.mark.apache_kafka
async def test_kafka_refuses_a_client_without_a_certificate_and_the_log_says_so(
    kafka: TlsKafka, certificates: Certificates
) -> None:
    settings = settings_for(
        "postgresql://unused/unused",
        kafka_bootstrap_servers=kafka.mutual,
        kafka_security_protocol="SSL",
        kafka_ssl_ca_file=certificates.authority,
    )
    producer = AIOKafkaProducer(**settings.kafka_client_options())
    with capture_logs() as logs:
        try:
            with pytest.raises(KafkaError):
                await producer.start()
        finally:
            await producer.stop()
    refused = next(line for line in logs if line["event"] == "certificate_not_taken")
    assert refused["host"] == "localhost"
    assert "CERTIFICATE" in refused["reason"]


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
@pytest.mark.apache_kafka
async def test_a_password_opens_kafka_over_tls_and_a_wrong_one_does_not(
    mechanism: Literal["PLAIN", "SCRAM-SHA-512"], kafka: TlsKafka, certificates: Certificates
) -> None:
    await asyncio.to_thread(_give_password, kafka.broker.bootstrap_servers)

    async def opens(password: str) -> bool:
        settings = settings_for(
            "postgresql://unused/unused",
            kafka_bootstrap_servers=kafka.sasl,
            kafka_security_protocol="SASL_SSL",
            kafka_sasl_mechanism=mechanism,
            kafka_sasl_username=USER,
            kafka_sasl_password=password,
            kafka_ssl_ca_file=certificates.authority,
        )
        producer = AIOKafkaProducer(**settings.kafka_client_options())
        try:
            await producer.start()
        except KafkaError:
            return False
        finally:
            await producer.stop()
        return True

    await eventually(lambda: opens(PASSWORD), within=60)  # a broker hears of a password after its controller
    assert not await opens("another")


def _give_password(bootstrap_servers: str) -> None:
    """Tell Kafka of the user's password for SCRAM; that for PLAIN stands in its settings."""
    credential = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
    upsertion = UserScramCredentialUpsertion(USER, credential, PASSWORD.encode())
    admin = AdminClient({"bootstrap.servers": bootstrap_servers})
    admin.alter_user_scram_credentials([upsertion])[USER].result(30)
