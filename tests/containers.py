"""Throw-away containers by testcontainers, where a Docker engine answers; without one nothing of Docker is imported."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from embedded import ServerError

if TYPE_CHECKING:
    from testcontainers.core.container import DockerContainer

_PING_SECONDS = 2
_LOG_TAIL_LINES = 30
_DEFAULT_SOCKET = Path("/var/run/docker.sock")
_RYUK_SWITCH = "TESTCONTAINERS_RYUK_DISABLED"


@cache
def docker_answers() -> bool:
    """Whether the engine of DOCKER_HOST, or of the default socket, answers a ping at once."""
    if not os.environ.get("DOCKER_HOST") and not _DEFAULT_SOCKET.exists():
        return False
    import docker
    from docker.errors import DockerException
    from requests.exceptions import RequestException

    try:
        client = docker.from_env(timeout=_PING_SECONDS)
    except DockerException:
        return False
    try:
        return bool(client.ping())
    except (DockerException, RequestException):
        return False
    finally:
        client.close()


class Container:
    """A container that was started; whether what is in it answers is for the caller to see."""

    def __init__(self, container: "DockerContainer", image: str, port: int) -> None:
        self._container = container.get_wrapped_container()
        self.image = image
        self.address = f"{engine_host()}:{container.get_exposed_port(port)}"

    def require_running(self) -> None:
        """Raises ServerError, with the end of its log, if the container has ended."""
        self._container.reload()
        if self._container.status not in ("created", "running"):
            log = self._container.logs(tail=_LOG_TAIL_LINES).decode(errors="replace")
            raise ServerError(f"the container of {self.image} is {self._container.status}\n{log}")


@contextmanager
def container(
    image: str,
    port: int,
    *,
    environment: Mapping[str, str] | None = None,
    command: Sequence[str] | None = None,
    host_port: int | None = None,
) -> Iterator[Container]:
    """A started container whose `port` is published, on a free port of the host if none is named; removed at the end.

    Raises:
        ServerError: the engine could not start it; its image cannot be had, for example.
    """
    from docker.errors import DockerException
    from requests.exceptions import RequestException
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.exceptions import ContainerStartException

    _settle_ryuk()
    wanted = DockerContainer(image)
    for name, value in (environment or {}).items():
        wanted = wanted.with_env(name, value)
    if command is not None:
        wanted = wanted.with_command(list(command))
    wanted = wanted.with_exposed_ports(port) if host_port is None else wanted.with_bind_ports(port, host_port)
    try:
        running = wanted.start()
    except (DockerException, RequestException, ContainerStartException) as error:
        raise ServerError(f"Docker could not start {image}: {error}") from error
    try:
        yield Container(running, image, port)
    finally:
        running.stop()


def engine_host() -> str:
    """The host on which the engine publishes ports."""
    from testcontainers.core.docker_client import DockerClient

    host = DockerClient().host()
    # Published on IPv4 for certain, while "localhost" may be IPv6 first.
    return "127.0.0.1" if host == "localhost" else host


def _settle_ryuk() -> None:
    """Do without Ryuk, which removes the containers of a killed run, where its image cannot be had."""
    if _RYUK_SWITCH in os.environ:
        return
    import docker
    from docker.errors import DockerException
    from requests.exceptions import RequestException
    from testcontainers.core.config import testcontainers_config

    client = docker.from_env()
    try:
        if not client.images.list(name=testcontainers_config.ryuk_image):
            client.images.pull(testcontainers_config.ryuk_image)
    except (DockerException, RequestException):
        os.environ[_RYUK_SWITCH] = "true"
        testcontainers_config.ryuk_disabled = True
    finally:
        client.close()
