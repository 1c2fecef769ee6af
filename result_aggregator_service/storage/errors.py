"""Tells PostgreSQL's refusals of a content, which will come again, from its troubles, which will pass."""

import asyncpg
from sqlalchemy.exc import DBAPIError, SQLAlchemyError, StatementError

# SQLSTATE classes: data exception, integrity constraint violation, program limit exceeded (such as a huge index entry).
_CONTENT_CLASSES = ("22", "23", "54")
# What a server says when it stops or starts, or has waited for too long: of the session, not of a statement in it.
_ENDS_OF_SESSIONS = ("57P01", "57P02", "57P03", "57P05", "25P03", "25P04")

# An InternalClientError is what the driver says between PostgreSQL's last word on a connection and its end.
_DRIVER_ERRORS = (asyncpg.InterfaceError, asyncpg.InternalClientError)
#: All that a statement may raise about the database: PostgreSQL's errors, the driver's, the pool's, the network's.
DATABASE_ERRORS = (asyncpg.PostgresError, *_DRIVER_ERRORS, SQLAlchemyError, OSError)


def is_refusal_of_content(error: BaseException) -> bool:
    """Whether the database (or its driver, encoding a value) refused what it was given, and always will."""
    if isinstance(error, StatementError) and not isinstance(error, DBAPIError):
        return True  # a value that could not even be bound
    cause: BaseException | None = error.orig if isinstance(error, DBAPIError) else error
    while cause is not None:
        sqlstate = getattr(cause, "sqlstate", None)
        if isinstance(sqlstate, str):
            return sqlstate[:2] in _CONTENT_CLASSES
        cause = cause.__cause__
    return False


def is_trouble(error: BaseException) -> bool:
    """Whether the error tells of a server away, busy or misconfigured: to be waited for, never blamed on a message."""
    return isinstance(error, DATABASE_ERRORS) and not is_refusal_of_content(error)


def spoils_connection(error: BaseException) -> bool:
    """Whether the connection on which this happened is of no use any more, and another one may be."""
    if isinstance(error, asyncpg.InvalidCachedStatementError):
        return True  # prepared before a migration, and not what is there now
    if isinstance(error, asyncpg.PostgresError):
        sqlstate = error.sqlstate or ""
        return sqlstate.startswith("08") or sqlstate in _ENDS_OF_SESSIONS
    # A server that does not answer in time is not to be asked again and again.
    return isinstance(error, (*_DRIVER_ERRORS, OSError)) and not isinstance(error, TimeoutError)
