"""Whose fault an error is: a content's, which comes again with it, or a server's, which passes."""

import asyncpg
import pytest
from sqlalchemy.exc import DBAPIError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from result_aggregator_service.storage.errors import is_refusal_of_content, is_trouble


def wrapped(cause: Exception) -> DBAPIError:
    """As SQLAlchemy passes on what the driver raised."""
    return DBAPIError("SELECT", {}, cause)


@pytest.mark.parametrize(
    "error",
    [
        wrapped(asyncpg.NumericValueOutOfRangeError("integer out of range")),
        wrapped(asyncpg.UniqueViolationError("duplicate key")),
        wrapped(asyncpg.ProgramLimitExceededError("index row too large")),
        wrapped(asyncpg.DataError("invalid input for query argument $1")),
        StatementError("cannot be bound", "SELECT", {}, ValueError("no such thing")),
    ],
)
def test_what_a_content_makes_impossible_is_its_own_fault(error: Exception) -> None:
    assert is_refusal_of_content(error)
    assert not is_trouble(error)


@pytest.mark.parametrize(
    "error",
    [
        wrapped(asyncpg.DeadlockDetectedError("deadlock detected")),
        wrapped(asyncpg.SerializationError("could not serialize access")),
        wrapped(asyncpg.DiskFullError("no space left on device")),
        wrapped(asyncpg.ReadOnlySQLTransactionError("cannot execute INSERT in a read-only transaction")),
        wrapped(asyncpg.UndefinedTableError('relation "batch_results" does not exist')),
        wrapped(asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")),
        PoolTimeoutError("QueuePool limit reached"),
        ConnectionRefusedError("nobody listens"),
        asyncpg.InternalClientError("cannot switch to state 15; another operation (2) is in progress"),
        TimeoutError(),
    ],
)
def test_a_server_in_trouble_is_waited_for(error: Exception) -> None:
    assert is_trouble(error)
    assert not is_refusal_of_content(error)


def test_a_mistake_in_our_own_code_is_neither() -> None:
    assert not is_trouble(TypeError("unsupported operand"))
    assert not is_refusal_of_content(TypeError("unsupported operand"))
