"""A database as SQLAlchemy reaches it: opened for reading, its faults told in one line, and what may pass tried again."""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
import tenacity

from tasks.core.errors import DataError
from tasks.credentials import read_secret
from tasks.engine import first_line
from tasks.params import SqlSource

T = TypeVar("T")
ATTEMPTS = 5  # without progress between them; with CONNECT's time-out a host that does not answer takes about a minute
SECONDS = 7200.0  # after which no further attempt begins
SHOWN = 20  # tables that an error lists at most

# By driver; what the URL says of the same comes first. A host that is gone in mid-read is noticed after a minute.
CONNECT: dict[str, dict[str, int | str]] = {
    "psycopg": {
        "client_encoding": "UTF8",  # PGCLIENTENCODING may name one that the server does not convert to
        "connect_timeout": 10,
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "tcp_user_timeout": 60_000,
    },
    "pysqlite": {"timeout": 5},
}
# PostgreSQL writes values as its session says: here always the same way, whatever the server's or the user's settings.
SESSION = {
    "client_encoding": "UTF8",
    "TimeZone": "UTC",
    "DateStyle": "ISO",
    "IntervalStyle": "iso_8601",
    "bytea_output": "hex",
    "extra_float_digits": "1",
}

# SQLSTATE's classes and codes: connection, rollback of a conflict, shut-down and start-up, too many connections.
PASSING = ("08", "40", "57P0", "53300")
STARTING = ("starting up", "shutting down", "recovery", "too many", "remaining connection slots")


class ConnectionLostError(DataError):
    """The database was not there, or not for us; the next attempt may find it."""


def persisting(work: Callable[[], T], progress: Callable[[], int]) -> T:
    """What `work` gives, tried again with growing pauses after a lost connection, for as long as `progress` grows between."""
    while True:
        before = progress()
        attempts = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(ConnectionLostError),
            stop=tenacity.stop_after_attempt(ATTEMPTS) | tenacity.stop_after_delay(SECONDS),
            wait=tenacity.wait_random_exponential(multiplier=0.2, max=10),
            reraise=True,
        )
        try:
            return attempts(work)
        except ConnectionLostError as error:
            if progress() == before:
                raise ConnectionLostError(f"{error}; tried {attempts.statistics['attempt_number']} times") from error


@contextlib.contextmanager
def connected(name: str, source: SqlSource, workspace: Path) -> Iterator[sa.Connection]:
    """A connection that only reads, in one transaction; what the database refuses is a DataError of one line."""
    engine = _engine(name, source, workspace)
    try:
        with _told(name, source, engine), engine.connect() as connection:
            if connection.dialect.name == "postgresql":
                connection.execution_options(postgresql_readonly=True)
                settings = ", ".join(f"set_config('{key}', '{value}', false)" for key, value in SESSION.items())
                connection.exec_driver_sql(f"SELECT {settings}")
            yield connection
    finally:
        engine.dispose()


def table_of(source: SqlSource) -> tuple[str | None, str]:
    """Schema and name of the source's table."""
    schema, _, table = (source.table or "").rpartition(".")
    return schema or None, table


def _engine(name: str, source: SqlSource, workspace: Path) -> sa.Engine:
    try:
        url = sa.make_url(source.url)
        if source.password:
            url = url.set(password=read_secret(source.password))
        if url.get_backend_name() == "sqlite":
            url = url.set(database=str(_sqlite_file(name, url, workspace)))
        connect = {key: value for key, value in CONNECT.get(url.get_driver_name(), {}).items() if key not in url.query}
        engine = sa.create_engine(url, poolclass=sa.NullPool, connect_args=connect)
    except sa.exc.NoSuchModuleError as error:
        raise DataError(
            f"source {name!r}: SQLAlchemy has no dialect {url.drivername!r}; PostgreSQL is postgresql+psycopg"
        ) from error
    except sa.exc.ArgumentError as error:
        raise DataError(f"source {name!r}: its url is none; expected for example postgresql+psycopg://user@host/base") from error
    except ModuleNotFoundError as error:
        raise DataError(
            f"source {name!r}: {url.drivername} needs the package {error.name!r}, which is not installed; install it, or name "
            "another driver in the url (PostgreSQL: postgresql+psycopg)"
        ) from error
    if engine.dialect.is_async:
        raise DataError(f"source {name!r}: the driver {url.drivername!r} is asynchronous; name another (postgresql+psycopg)")
    return engine


def _sqlite_file(name: str, url: sa.URL, workspace: Path) -> Path:
    """The database's file; SQLite would make an empty one where there is none."""
    path = workspace / (url.database or "")
    if not path.is_file():
        raise DataError(f"source {name!r}: no database {str(path)!r}; correct its url in params.yaml or put the file there")
    return path


@contextlib.contextmanager
def _told(name: str, source: SqlSource, engine: sa.Engine) -> Iterator[None]:
    """What the driver says went wrong is a DataError without statement or parameters, a ConnectionLostError if it may pass."""
    driver_error: type[Exception] = engine.dialect.loaded_dbapi.Error
    try:
        yield
    except (sa.exc.DBAPIError, driver_error) as error:
        cause = error.orig or error if isinstance(error, sa.exc.DBAPIError) else error
        said = _words(cause, engine.url.password)
        if _may_pass(cause, isinstance(error, sa.exc.DBAPIError) and error.connection_invalidated):
            where = engine.url.host or engine.url.database
            raise ConnectionLostError(f"source {name!r}: the connection to {where!r} failed: {said}") from None
        hint = f"; {_tables(source, engine)}" if _lacks_table(cause) else ""
        raise DataError(f"source {name!r}: {engine.dialect.name} says: {said}{hint}") from None


def _words(cause: BaseException, password: Any) -> str:
    """The error's first line; of a value that cannot be converted not the value, which may be personal."""
    said = first_line(Exception((str(cause) or type(cause).__name__).strip().splitlines()[0]))
    said = said.removeprefix("connection failed: ")
    if str(getattr(cause, "sqlstate", None)).startswith("22"):
        said = said.partition(": ")[0]
    return said.replace(str(password), "***") if password else said


def _may_pass(cause: BaseException, invalidated: bool) -> bool:
    said = str(cause)
    if state := getattr(cause, "sqlstate", None):
        return str(state).startswith(PASSING)
    if isinstance(cause, sqlite3.Error):
        return "locked" in said or "busy" in said
    if "FATAL:" in said:  # PostgreSQL refuses a log-in without a code
        return any(word in said for word in STARTING)
    return invalidated or type(cause).__name__ in ("OperationalError", "InterfaceError", "ConnectionTimeout")


def _lacks_table(cause: BaseException) -> bool:
    return getattr(cause, "sqlstate", None) == "42P01" or "no such table" in str(cause)


def _tables(source: SqlSource, engine: sa.Engine) -> str:
    schema, _ = table_of(source)
    names: list[str] = []
    with contextlib.suppress(sa.exc.DBAPIError), engine.connect() as connection:
        inspector = sa.inspect(connection)
        names = sorted([*inspector.get_table_names(schema), *inspector.get_view_names(schema)])
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{f'schema {schema!r}' if schema else 'the database'} has the tables {names[:SHOWN]}{more}"
