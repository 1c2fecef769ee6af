"""Real Apache Kafka 4 on 127.0.0.1, on Java 17 or later: a broker that is its own controller (KRaft), or two brokers.

Maven fetches it once into a cache outside the checkout. Invariant: what lies in the cache under its final name is
complete, whoever was interrupted while making it and however many make it at once.
"""

import base64
import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self
from xml.etree import ElementTree

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from embedded.process import LOOPBACK, ServerError, ServerProcess, free_port, launch, run_tool
from embedded.tcp_proxy import TcpProxy

_POM = Path(__file__).with_name("kafka_pom.xml")
_LOG4J = Path(__file__).with_name("kafka_log4j2.properties")
_OLDEST_JAVA = 17
_MAVEN_TIMEOUT_SECONDS = 900.0
_TOOL_TIMEOUT_SECONDS = 60.0
_POLL_SECONDS = 0.05
_CONTROLLER_NODE = 1
_OTHER_NODE = 2
_OFFSETS_TOPIC = "__consumer_offsets"
_OFFSETS_PARTITIONS = 4
_UNFINISHED = "unfinished-"
_STARTED = b"Kafka Server started"
# Start until ready on two cores: 3.5 s as it comes, 2.9 s with the first two, 1.7 s with an archive of classes too.
_JVM_OPTIONS = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-XX:-UsePerfData", "-Xmx512m", "-Xshare:auto")
_SMALL_JVM = ("-Xmx256m",)

DEFAULT_SETTINGS = {
    "num.partitions": "4",
    "offsets.topic.num.partitions": str(_OFFSETS_PARTITIONS),
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    # A killed broker may register again only when its session has ended; 9 s of it by default.
    "broker.session.timeout.ms": "2500",
    "broker.heartbeat.interval.ms": "250",
    "log.cleaner.dedupe.buffer.size": "2097152",
    "num.network.threads": "2",
    "num.io.threads": "2",
}


class _Broker(ServerProcess):
    """A broker of what is already installed."""

    name: ClassVar[str] = "Apache Kafka"
    start_timeout_seconds: ClassVar[float] = 90.0

    def __init__(
        self,
        data_dir: Path,
        port: int | None = None,
        *,
        auto_create_topics: bool = True,
        settings: dict[str, str] | None = None,
        jvm_options: Sequence[str] = (),
        proxy: TcpProxy | None = None,
        controller: "_Broker | None" = None,
    ) -> None:
        super().__init__(data_dir, port)
        self._proxy = proxy
        self._controller = controller
        self._controller_port: int | None = None
        self._settings = {
            **DEFAULT_SETTINGS,
            "auto.create.topics.enable": str(auto_create_topics).lower(),
            **(settings or {}),
        }
        self._jvm_options = [*_JVM_OPTIONS, *jvm_options]

    @property
    def bootstrap_servers(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    @property
    def proxied_bootstrap_servers(self) -> str:
        """What a client is given that is to do all its talking through the proxy."""
        if self._proxy is None:
            raise ServerError(f"{self.name} has no proxy")
        return f"{LOOPBACK}:{self._proxy.port}"

    @property
    def controller_port(self) -> int:
        """Where other brokers find the controller; kept, like the port, from the first start on."""
        if self._controller_port is None:
            raise ServerError(f"{self.name} is no controller, or was not started yet")
        return self._controller_port

    @property
    def _properties(self) -> Path:
        return self.data_dir / "server.properties"

    def _prepare(self, port: int) -> None:
        logs = self.data_dir / "logs"
        if not logs.exists():
            # By a rename, so that a copy that was cut short is not taken for a formatted store.
            unfinished = self.data_dir / "logs-unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            shutil.copytree(_installation() / "formatted", unfinished)
            if self._controller is not None:
                _make_other_node(unfinished / "meta.properties")
            unfinished.rename(logs)
        if self._controller is not None:
            node, controller_port = _OTHER_NODE, self._controller.controller_port
        else:
            if self._controller_port is None or self._port is None:
                self._controller_port = free_port()
            node, controller_port = _CONTROLLER_NODE, self._controller_port
        properties = _server_properties(
            logs, self._settings, port=port, controller_port=controller_port, node=node, proxy=self._proxy
        )
        self._properties.write_text(properties)

    def _launch(self, port: int) -> subprocess.Popen[bytes]:
        java = _java()
        archive = _class_archive(java)
        options = [*self._jvm_options, *([f"-XX:SharedArchiveFile={archive}"] if archive.exists() else [])]
        command = [str(java), *options, *_class_path(_installation()), "kafka.Kafka", str(self._properties)]
        return launch(command, log=self.log)

    def _is_ready(self, process: subprocess.Popen[bytes], port: int) -> bool:
        # From its own log, as an answer on the port could come from a stranger.
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return _STARTED in log.read()


class ApacheKafka(_Broker):
    """A broker whose log lies in `data_dir`; a later one on the same folder finds the same messages.

    `settings` are further lines of server.properties, `jvm_options` further options of the JVM (the later one wins).

    With `proxy`, which must run before, there are two ways to it: a client that was given `bootstrap_servers` talks to
    it directly, one that was given `proxied_bootstrap_servers` is told the proxy's address and always goes through it.
    The broker listens for these on the proxy's `target_port`, which `free_port` can give. A broker with a `controller`
    is no controller but joins that one as node 2 (see `ApacheKafkaCluster`).
    """

    def start(self) -> Self:
        """Start the broker, as every server starts, after `install`."""
        self.install()
        return super().start()

    @staticmethod
    def version() -> str:
        """The version that would run, such as 4.1.0."""
        return _version()

    @staticmethod
    def installed() -> bool:
        """Whether it was fetched before."""
        return _installation().exists()

    @staticmethod
    def available() -> bool:
        """Whether this machine has what it takes; whether Maven can fetch the broker is seen by `install` only."""
        return ApacheKafka.why_unavailable() is None

    @staticmethod
    def why_unavailable() -> str | None:
        """What this machine lacks ("no Java 17 on this machine"), or None if nothing."""
        try:
            _java()
            if not _installation().exists():
                _maven()
                _require_writable(_cache_folder())
        except ServerError as error:
            return str(error)
        return None

    @staticmethod
    def install() -> None:
        """Fetch the broker if that was not done before: a minute or so, once on a machine.

        Raises:
            ServerError: Java or Maven is missing, or Maven failed.
        """
        _install(_java())


class ApacheKafkaCluster:
    """Two brokers of which the second can be away while the first serves: some partitions then have no leader.

    `first` is the controller too and holds the groups' offsets; on `second` lies nothing but the partitions that
    `create_topic` puts there. Nothing is replicated. Each can be stopped, killed, paused and started by itself; while
    the first is away the second can be killed but not stopped, as it asks the controller for leave. A broker that was
    killed is back 2 to 3 s after it is started again, when its old session has ended.

    `proxies` stand before the first and the second, as `proxy` of `ApacheKafka` does.
    """

    name = "Apache Kafka cluster"

    def __init__(
        self,
        data_dir: Path,
        *,
        proxies: tuple[TcpProxy, TcpProxy] | None = None,
        auto_create_topics: bool = False,
        settings: dict[str, str] | None = None,
    ) -> None:
        proxy_one, proxy_two = (None, None) if proxies is None else proxies
        self.first = ApacheKafka(
            data_dir / "first",
            auto_create_topics=auto_create_topics,
            settings=settings,
            jvm_options=_SMALL_JVM,
            proxy=proxy_one,
        )
        self.second = ApacheKafka(
            data_dir / "second",
            auto_create_topics=auto_create_topics,
            settings=settings,
            jvm_options=_SMALL_JVM,
            proxy=proxy_two,
            controller=self.first,
        )

    @property
    def bootstrap_servers(self) -> str:
        return f"{self.first.bootstrap_servers},{self.second.bootstrap_servers}"

    @property
    def proxied_bootstrap_servers(self) -> str:
        return f"{self.first.proxied_bootstrap_servers},{self.second.proxied_bootstrap_servers}"

    def start(self) -> Self:
        """Start both, as every server starts."""
        try:
            self.first.start()
            # Before there is a second broker, which would be given a part of it.
            self._create(_OFFSETS_TOPIC, [_CONTROLLER_NODE] * _OFFSETS_PARTITIONS, {"cleanup.policy": "compact"})
            self.second.start()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop both; a second broker that could not ask its controller is killed."""
        if self.first.is_running:
            self.first.resume()
            self.second.stop()
        else:
            self.second.kill()
        self.first.stop()

    def create_topic(self, topic: str, nodes: Sequence[int]) -> None:
        """Create a topic whose partition `i` lies on node `nodes[i]` (1 or 2), unless it exists.

        Raises:
            ServerError: Kafka refused, or the partitions had no leaders within 60 s.
        """
        self._create(topic, nodes, {})

    def _create(self, topic: str, nodes: Sequence[int], settings: dict[str, str]) -> None:
        # Warnings about a broker that is away would go to stderr.
        admin = AdminClient({"bootstrap.servers": self.first.bootstrap_servers, "log_level": 0})
        wanted = NewTopic(topic, len(nodes), replica_assignment=[[node] for node in nodes], config=settings)
        try:
            admin.create_topics([wanted])[topic].result(_TOOL_TIMEOUT_SECONDS)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise ServerError(f"Kafka did not create {topic}: {error}") from error
            return
        deadline = time.monotonic() + _TOOL_TIMEOUT_SECONDS
        while True:
            partitions = admin.list_topics(topic, timeout=_TOOL_TIMEOUT_SECONDS).topics[topic].partitions
            if [partitions[number].leader for number in sorted(partitions)] == list(nodes):
                return
            if time.monotonic() > deadline:
                raise ServerError(f"{topic} has no leaders on the nodes {list(nodes)}")
            time.sleep(_POLL_SECONDS)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


def _server_properties(
    logs: Path,
    settings: dict[str, str],
    *,
    port: int,
    controller_port: int,
    node: int = _CONTROLLER_NODE,
    proxy: TcpProxy | None = None,
) -> str:
    # A client is told the addresses of the listener that it came in by.
    listeners, advertised = {"PLAINTEXT": port}, {"PLAINTEXT": port}
    if proxy is not None:
        listeners["PROXIED"], advertised["PROXIED"] = proxy.target_port, proxy.port
    if node == _CONTROLLER_NODE:
        listeners["CONTROLLER"] = controller_port
    lines = {
        "process.roles": "broker,controller" if node == _CONTROLLER_NODE else "broker",
        "node.id": str(node),
        "controller.quorum.voters": f"{_CONTROLLER_NODE}@{LOOPBACK}:{controller_port}",
        "listeners": _addresses(listeners),
        "advertised.listeners": _addresses(advertised),
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "controller.listener.names": "CONTROLLER",
        "log.dirs": str(logs),
        **settings,
    }
    return "".join(f"{name}={value}\n" for name, value in lines.items())


def _addresses(ports: dict[str, int]) -> str:
    return ",".join(f"{name}://{LOOPBACK}:{port}" for name, port in ports.items())


def _make_other_node(meta_properties: Path) -> None:
    """Turn the formatted storage of the controller into that of the other broker."""
    directory_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    text = re.sub(r"(?m)^node\.id=.*$", f"node.id={_OTHER_NODE}", meta_properties.read_text())
    meta_properties.write_text(re.sub(r"(?m)^directory\.id=.*$", f"directory.id={directory_id}", text))


def _class_path(installation: Path) -> list[str]:
    return [f"-Dlog4j2.configurationFile={_LOG4J}", "-cp", f"{installation}/lib/*"]


@cache
def _java() -> Path:
    """The java of JAVA_HOME or else of PATH."""
    home = os.environ.get("JAVA_HOME")
    found = str(Path(home, "bin", "java")) if home else shutil.which("java")
    if found is None:
        raise ServerError(f"no Java {_OLDEST_JAVA} on this machine")
    version = re.search(r'version "(\d+)', _java_version(Path(found)))
    if version is None or int(version[1]) < _OLDEST_JAVA:
        raise ServerError(f"no Java {_OLDEST_JAVA} on this machine ({found} is {version[1] if version else 'not one'})")
    return Path(found).resolve()


@cache
def _java_version(java: Path) -> str:
    """What `java -version` says, the build included; empty if it cannot be run."""
    try:
        command = [str(java), "-version"]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=_TOOL_TIMEOUT_SECONDS)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stderr


def _maven() -> Path:
    found = shutil.which("mvn")
    if found is None:
        raise ServerError("no Maven on this machine, which would fetch Apache Kafka")
    return Path(found)


@cache
def _version() -> str:
    namespace = "{http://maven.apache.org/POM/4.0.0}"
    version = ElementTree.parse(_POM).findtext(f"{namespace}properties/{namespace}kafka.version")
    if version is None:
        raise ServerError(f"{_POM.name} names no kafka.version")
    return version


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(base or Path.home() / ".cache", "result-aggregator-service")
    except RuntimeError as error:
        raise ServerError(f"no folder for a cache of Apache Kafka: {error}") from error


def _installation() -> Path:
    digest = hashlib.sha256(_POM.read_bytes()).hexdigest()[:8]
    return _cache_folder() / f"kafka-{_version()}-{digest}"


def _class_archive(java: Path) -> Path:
    """An archive of the broker's loaded classes, which is good for one build of the JVM only."""
    digest = hashlib.sha256(f"{java}\n{_java_version(java)}".encode()).hexdigest()[:8]
    return _installation() / f"classes-{digest}.jsa"


def _require_writable(folder: Path) -> None:
    existing = next(parent for parent in (folder, *folder.parents) if os.path.lexists(parent))
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ServerError(f"the cache folder {folder} for Apache Kafka cannot be written to")


def _install(java: Path) -> None:
    installation, archive = _installation(), _class_archive(java)
    if archive.exists():
        return
    try:
        with _locked(_cache_folder()), tempfile.TemporaryDirectory(prefix=_UNFINISHED, dir=_cache_folder()) as work:
            if not installation.exists():
                _fetch(Path(work))
                _format(java, Path(work))
                Path(work, "kafka").rename(installation)
            if not archive.exists():
                _make_class_archive(Path(work), archive)
    except PermissionError:
        if not installation.exists():
            raise ServerError(f"the cache folder {_cache_folder()} for Apache Kafka cannot be written to") from None
        # An installation that another user made serves without an archive of our own.


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time; the lock goes with the process that holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for left_over in folder.glob(f"{_UNFINISHED}*"):
            shutil.rmtree(left_over)
        yield


def _fetch(work: Path) -> None:
    # A project of its own folder, so that nothing is written beside the one in the checkout.
    shutil.copyfile(_POM, work / "pom.xml")
    command = [str(_maven()), "--batch-mode", "--no-transfer-progress", "dependency:copy-dependencies"]
    command += [f"-DoutputDirectory={work / 'kafka' / 'lib'}", "-DincludeScope=runtime"]
    # With the caller's environment: proxies, certificates and JAVA_HOME are Maven's to know.
    log = work / "maven.log"
    run_tool("Maven", command, log=log, environment=dict(os.environ), timeout_seconds=_MAVEN_TIMEOUT_SECONDS)


def _format(java: Path, work: Path) -> None:
    """Format storage once: copied for each new broker, that saves each of them a JVM's start."""
    properties = work / "format.properties"
    formatted = work / "kafka" / "formatted"
    lines = _server_properties(formatted, DEFAULT_SETTINGS, port=free_port(), controller_port=free_port())
    properties.write_text(lines)
    tool = ["kafka.tools.StorageTool", "format", "--config", str(properties), "--cluster-id", "embedded-apache-kafka0"]
    command = [str(java), *_JVM_OPTIONS, *_class_path(work / "kafka"), *tool]
    run_tool("Kafka's StorageTool", command, log=work / "format.log", timeout_seconds=_TOOL_TIMEOUT_SECONDS)


def _make_class_archive(work: Path, archive: Path) -> None:
    """Run a broker once in the final place, as the archive holds good for the class path it was made on only."""
    unfinished = work / "classes.jsa"
    with _Broker(work / "broker", jvm_options=[f"-XX:ArchiveClassesAtExit={unfinished}"]):
        pass
    unfinished.rename(archive)
