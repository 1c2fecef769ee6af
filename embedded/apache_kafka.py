"""Real Apache Kafka 4 on 127.0.0.1: one broker that is its own controller (KRaft), on Java 17 or later.

Maven fetches it once into a cache outside the checkout. Invariant: what lies in the cache under its final name is
complete, whoever was interrupted while making it and however many make it at once.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import ClassVar, Self
from xml.etree import ElementTree

from embedded.process import LOOPBACK, ServerError, ServerProcess, free_port, launch, run_tool

_POM = Path(__file__).with_name("kafka_pom.xml")
_LOG4J = Path(__file__).with_name("kafka_log4j2.properties")
_OLDEST_JAVA = 17
_MAVEN_TIMEOUT_SECONDS = 900.0
_TOOL_TIMEOUT_SECONDS = 60.0
_UNFINISHED = "unfinished-"
_STARTED = b"Kafka Server started"
# Start until ready on two cores: 3.5 s as it comes, 2.9 s with the first two, 1.7 s with an archive of classes too.
_JVM_OPTIONS = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-XX:-UsePerfData", "-Xmx512m", "-Xshare:auto")

DEFAULT_SETTINGS = {
    "num.partitions": "4",
    "offsets.topic.num.partitions": "4",
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
    ) -> None:
        super().__init__(data_dir, port)
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
    def _properties(self) -> Path:
        return self.data_dir / "server.properties"

    def _prepare(self, port: int) -> None:
        logs = self.data_dir / "logs"
        if not logs.exists():
            # By a rename, so that a copy that was cut short is not taken for a formatted store.
            unfinished = self.data_dir / "logs-unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            shutil.copytree(_installation() / "formatted", unfinished)
            unfinished.rename(logs)
        self._properties.write_text(_server_properties(port, logs, self._settings))

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


def _server_properties(port: int, logs: Path, settings: dict[str, str]) -> str:
    controller_port = free_port()
    lines = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@{LOOPBACK}:{controller_port}",
        "listeners": f"PLAINTEXT://{LOOPBACK}:{port},CONTROLLER://{LOOPBACK}:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://{LOOPBACK}:{port}",
        "controller.listener.names": "CONTROLLER",
        "log.dirs": str(logs),
        **settings,
    }
    return "".join(f"{name}={value}\n" for name, value in lines.items())


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
    properties.write_text(_server_properties(free_port(), work / "kafka" / "formatted", DEFAULT_SETTINGS))
    tool = ["kafka.tools.StorageTool", "format", "--config", str(properties), "--cluster-id", "embedded-apache-kafka0"]
    command = [str(java), *_JVM_OPTIONS, *_class_path(work / "kafka"), *tool]
    run_tool("Kafka's StorageTool", command, log=work / "format.log", timeout_seconds=_TOOL_TIMEOUT_SECONDS)


def _make_class_archive(work: Path, archive: Path) -> None:
    """Run a broker once in the final place, as the archive holds good for the class path it was made on only."""
    unfinished = work / "classes.jsa"
    with _Broker(work / "broker", jvm_options=[f"-XX:ArchiveClassesAtExit={unfinished}"]):
        pass
    unfinished.rename(archive)
