"""What all networks have in common: tries that back off, downloads that resume, and names without their secrets."""

import hashlib
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from tasks.core.errors import DataError
from tasks.sources.packing import keep_free

TRIES = 4
RETRY_AFTER_MOST = 300.0  # seconds; a server that wants a longer pause is left alone
CONNECT_SECONDS = 10
READ_SECONDS = 30
USER = re.compile(r"(?<=://)([^/?]*|[^/?@:]*:(?!:|[0-9]*/)[^@]*)@")  # to the last @ that can end it
QUERY = re.compile(r"[?].+")
T = TypeVar("T")


class TransientError(Exception):
    """The world may change its mind: worth another try, after so many seconds where it said how many."""

    def __init__(self, said: str, after: float | None = None) -> None:
        super().__init__(said)
        self.after = after


def with_tries(where: str, work: Callable[[], T]) -> T:
    """What `work` gives, tried again with growing pauses; DataError when it never came."""
    try:
        for attempt in Retrying(
            stop=stop_after_attempt(TRIES),
            wait=_pause,
            retry=retry_if_exception_type(TransientError),
            reraise=True,
        ):
            with attempt:
                return work()
    except TransientError as error:
        raise DataError(
            f"{where} cannot be reached: {error}, {TRIES} times in a row; try again later, or check the address"
        ) from error
    raise AssertionError("tenacity ends with a result or an error")


def _pause(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, TransientError) and error.after is not None:
        return error.after
    return float(wait_exponential_jitter(initial=0.3, max=10, jitter=0.2)(state))


def wanted_pause(where: str, header: str | None) -> float | None:
    """Seconds from Retry-After's number or date, none where it says neither; DataError for more than anyone waits."""
    if header is None:
        return None
    try:
        seconds = float(header) if header.strip().isdecimal() else _until(parsedate_to_datetime(header))
    except ValueError:
        return None
    if seconds > RETRY_AFTER_MOST:
        raise DataError(f"{where}: the server asks to wait {seconds:,.0f} s; run again after that")
    return max(seconds, 0.0)


def _until(when: datetime) -> float:
    return ((when if when.tzinfo else when.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds()


def shown(url: str) -> str:
    """The URL, or the chain of them, without user, password and query, which may hold secrets; it need not be a right one."""
    return "::".join(QUERY.sub("?...", one.partition("#")[0]) for one in USER.sub("", url).split("::"))


def no_file(where: str, what: str = "it is not there") -> DataError:
    return DataError(f"{where}: no file: {what}; correct the address in params.yaml or put the file there")


def forbidden(where: str, what: str) -> DataError:
    return DataError(f"{where} may not be read: {what}; check the credentials in the environment and what they permit")


def append(where: str, path: Path, chunks: Iterator[bytes], offset: int, total: int | None) -> None:
    """The file's bytes from `offset` on are the chunks; TransientError when the end is missing, and what came is kept."""
    with path.open("r+b") as file:
        file.truncate(offset)
        file.seek(offset)
        for chunk in chunks:
            keep_free(where, path.parent, file.tell())
            file.write(chunk)
        size = file.tell()
    if total is not None and size != total:
        if size > total:
            path.write_bytes(b"")
        raise TransientError(f"{size:,} of {total:,} bytes came")


def refuse_other_content(where: str, path: Path, algorithm: str, expected: str) -> None:
    """TransientError, and nothing kept, when the file has not this hash."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, algorithm).hexdigest()
    if found != expected:
        path.write_bytes(b"")
        raise TransientError(f"its bytes have the {algorithm} {found[:12]}, expected {expected[:12]}")
