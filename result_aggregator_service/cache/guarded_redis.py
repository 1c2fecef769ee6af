"""Every call to Redis goes through here: bounded in time, counted when it fails, not made while Redis is in trouble.

Nothing that the service promises may depend on a call being made: callers go on without it.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

import structlog
from redis.asyncio import BlockingConnectionPool, Redis, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from result_aggregator_service.cache.kept_connections import Command, KeptConnections
from result_aggregator_service.observability.logging import first_line
from result_aggregator_service.observability.metrics import Metrics
from result_aggregator_service.resilience.circuit_breaker import BreakerState, CircuitBreaker
from result_aggregator_service.settings import Settings

MAX_CONNECTIONS = 32
SECONDS_OPEN = 5.0

#: Turns of the event loop that a call has once its time is over.
_LAST_TURNS = 20
#: The client's own limit for getting a connection.
_CLIENT_TIMEOUT_SECONDS = 2.0

T = TypeVar("T")
log = structlog.get_logger(__name__)


class RedisUnavailableError(Exception):
    """Redis did not take a call in time, refused it, or was not asked because it is in trouble."""


def create_redis_client(settings: Settings) -> Redis:
    """A client for `GuardedRedis`, which bounds its calls. It does not do so by itself, once it is connected."""
    options: dict[str, object] = {
        "protocol": 2,
        # The guard's limit is for the whole call; one for each write and read besides costs more than they do.
        "socket_timeout": None,
        "socket_connect_timeout": _CLIENT_TIMEOUT_SECONDS,
        # Once more, at once: a pooled connection may have died with the server's last process.
        "retry": Retry(NoBackoff(), 1),
    }
    pool = BlockingConnectionPool.from_url(
        settings.redis_url.get_secret_value(),
        max_connections=MAX_CONNECTIONS,
        timeout=_CLIENT_TIMEOUT_SECONDS,
        **options,
    )
    tls = settings.redis_ssl()
    if tls is not None:
        pool.connection_class = _TlsConnection
        pool.connection_kwargs["tls"] = tls
    return Redis.from_pool(pool)


class _TlsConnection(SSLConnection):
    """A connection with a context that is made once; the client's own trusts the system beside the file it is given."""

    def __init__(self, *, tls: ssl.SSLContext, **options: Any) -> None:
        super().__init__(**options)
        self.ssl_context.context = tls


class GuardedRedis:
    """Redis behind a time limit and a circuit breaker; one for each process, whatever it is used for."""

    def __init__(
        self, client: Redis, metrics: Metrics, *, timeout_seconds: float, seconds_open: float = SECONDS_OPEN
    ) -> None:
        self._client = client
        self._metrics = metrics
        self._timeout_seconds = timeout_seconds
        self._seconds_open = seconds_open
        self._probing = False
        self._breaker_opened = False
        self._connections = KeptConnections()
        self._last_failure = ""
        self._breaker = CircuitBreaker(seconds_open=seconds_open, on_change=self._breaker_changed)

    async def call(
        self, operation: str, command: Callable[[Redis], Awaitable[T]], *, even_if_in_trouble: bool = False
    ) -> T:
        """Let `command` talk to Redis. An open breaker is passed only `even_if_in_trouble`.

        Raises:
            RedisUnavailableError: there is no answer; whether the command was executed is not known.
        """
        if not even_if_in_trouble and not self._may_try():
            raise RedisUnavailableError(f"{operation}: Redis is in trouble and is left alone")
        probing = self._breaker.state is BreakerState.HALF_OPEN and not self._probing
        self._probing = self._probing or probing
        try:
            async with _TimeLimit(self._timeout_seconds):
                answer = await command(self._client)
        except ResponseError as error:
            self._breaker.succeeded()
            raise self._refused(operation, error) from error
        except (RedisError, OSError, TimeoutError) as error:
            self._metrics.cache_errors.labels(operation).inc()
            # An open breaker is passed by writers only; what they meet must not keep it open for longer.
            if self._breaker.state is not BreakerState.OPEN:
                self._last_failure = first_line(error)
                self._breaker.failed()
            raise RedisUnavailableError(f"{operation}: {type(error).__name__}: {error}") from error
        finally:
            if probing:
                self._probing = False
        self._breaker.succeeded()
        return answer

    async def exchange(
        self, operation: str, commands: Sequence[Command], *, even_if_in_trouble: bool = False
    ) -> list[Any]:
        """Send commands together; return their answers, for a refused one what could be raised.

        Raises:
            RedisUnavailableError: as `call` does.
        """
        exchange = partial(self._connections.exchange, commands)
        answers = await self.call(operation, exchange, even_if_in_trouble=even_if_in_trouble)
        return [self._refused(operation, each) if isinstance(each, ResponseError) else each for each in answers]

    async def execute(self, operation: str, *command: str | int | bytes) -> Any:
        """Send one command; return its answer.

        Raises:
            RedisUnavailableError: as `call` does.
        """
        (answer,) = await self.exchange(operation, [command])
        if isinstance(answer, RedisUnavailableError):
            raise answer
        return answer

    def _refused(self, operation: str, error: Exception) -> RedisUnavailableError:
        """Count that Redis refuses a call (it is full, say). It is there all the same, and may take others."""
        self._metrics.cache_errors.labels(operation).inc()
        return RedisUnavailableError(f"{operation}: {error}")

    def _may_try(self) -> bool:
        """While it is half open one call at a time finds out whether Redis is back; the others do without."""
        return self._breaker.allows() and not self._probing

    def _breaker_changed(self, state: BreakerState) -> None:
        self._metrics.circuit_breaker_state.labels("redis").set(state)
        if state is BreakerState.OPEN:
            log.warning("redis_left_alone", error=self._last_failure, seconds=self._seconds_open)
        elif state is BreakerState.CLOSED and self._breaker_opened:
            log.info("redis_in_use_again")
        self._breaker_opened = state is not BreakerState.CLOSED


class _TimeLimit:
    """Like `asyncio.timeout`, but what has arrived while the loop was busy with other things is still taken.

    Such a loop finds an answer and the end of the waiting time in one turn, and needs some more to pass the answer on.
    In an idle loop those turns take no time. Nothing of it refers to itself once it is over: there is one for each
    call, and the garbage collector holds the loop for as long as it looks for them.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._limit = asyncio.timeout(None)

    async def __aenter__(self) -> None:
        await self._limit.__aenter__()
        self._handle: asyncio.Handle = self._loop.call_later(self._seconds, self._run_out, _LAST_TURNS)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._handle.cancel()
        await self._limit.__aexit__(kind, error, traceback)

    def _run_out(self, turns_left: int) -> None:
        if turns_left:
            self._handle = self._loop.call_soon(self._run_out, turns_left - 1)
        else:
            self._limit.reschedule(self._loop.time())
