"""Tells PostgreSQL's refusals of a content, which will come again, from its troubles, which will pass."""

import asyncpg
from sqlalchemy.exc import DBAPIError, InterfaceError, SQLAlchemyError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

# SQLSTATE classes: data exception, integrity constraint violation, program limit exceeded (such as a huge index entry).
_CONTENT_CLASSES = ("22", "23", "54")


def is_refusal_of_content(error: BaseException) -> bool:
    """Whether the database (or its driver, encoding a value) refused what it was given, and always will."""
    if not isinstance(error, DBAPIError):
        return isinstance(error, StatementError)  # a value that could not even be bound
    cause: BaseException | None = error.orig
    while cause is not None:
        sqlstate = getattr(cause, "sqlstate", None)
        if isinstance(sqlstate, str):
            return sqlstate[:2] in _CONTENT_CLASSES
        if isinstance(cause, asyncpg.DataError):
            return True
        cause = cause.__cause__
    return False


def is_trouble(error: BaseException) -> bool:
    """Whether the error tells of a server away, busy or misconfigured: to be waited for, never blamed on a message."""
    if isinstance(error, (OSError, TimeoutError, PoolTimeoutError, InterfaceError)):
        return True
    if isinstance(error, (SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError)):
        return not is_refusal_of_content(error)
    return False
