"""One answer of an HTTP API: bounded in time and bytes, retried where that helps, from the source's own host and no other."""

import ipaddress
import json
import logging
import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote, quote_plus

import httpx
from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_random_exponential

from tasks.core.errors import DataError, ParamsError
from tasks.core.privacy import Guard
from tasks.credentials import read_secret
from tasks.params import ApiSource
from tasks.sources.network import wanted_pause

CONNECT_SECONDS = 10.0
READ_SECONDS = 30.0  # between two pieces of an answer
REQUEST_SECONDS = 120.0  # for a whole answer, redirects included
MAX_BYTES = 32_000_000  # of one answer, unpacked: in memory it takes about ten times that
MAX_REDIRECTS = 5
ATTEMPTS = 6
ATTEMPTS_MALFORMED = 3  # an answer that is no page is rather a wrong setting than a passing fault
BACKOFF_SECONDS = 1.0  # the first pause at most, doubled each time
BACKOFF_MOST = 60.0
EXCERPT = 120  # characters of what came instead of a page

T = TypeVar("T")


@dataclass(frozen=True)
class Answer:
    """The JSON value that came, and the URL that the Link header calls next."""

    value: Any
    link: str | None


class NoPageError(Exception):
    """What came is no page, but the next attempt may bring one; `after` is how many seconds the server asks to wait."""

    def __init__(self, said: str, attempts: int, after: float | None = None) -> None:
        super().__init__(said)
        self.attempts = attempts
        self.after = after


class AbsentError(DataError):
    """The server says that there is nothing at the URL (404)."""


class Caller:
    """Asks the API of one source; with the block entered, over connections that stay open."""

    def __init__(self, name: str, source: ApiSource, guard: Guard) -> None:
        for library in ("httpx", "httpcore"):
            logging.getLogger(library).setLevel(logging.WARNING)  # they log URLs, and queries hold tokens
        self.name, self.source, self.guard = name, source, guard
        self.token = _sendable(source.token, read_secret(source.token)) if source.token else ""
        headers = {"Accept": "application/json", "User-Agent": "tidemill"}
        if self.token and source.parameter is None:
            headers |= {source.header: self.token} if source.header else {"Authorization": f"Bearer {self.token}"}
        timeout = httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)
        self.client = httpx.Client(headers=headers, timeout=timeout, follow_redirects=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.client.close()

    def get(self, url: httpx.URL, page: int, read: Callable[[Answer], T]) -> T:
        """What `read` makes of the answer; asked for again while the server may change its mind, or `read` says NoPageError."""
        where = f"source {self.name!r}: {_bare(url)}, page {page}"
        again = Retrying(retry=retry_if_exception_type(NoPageError), stop=_is_enough, wait=_pause, reraise=True)
        try:
            found: T = again(self._once, url, where, read)
            return found
        except NoPageError as error:
            tried = again.statistics["attempt_number"]
            raise DataError(
                f"{where}: {error} (asked {tried} times); check the source in params.yaml, or run again later: "
                "what came before is kept for an hour"
            ) from error

    def own(self, url: httpx.URL, where: str) -> httpx.URL:
        """The URL; DataError unless it leads to the source's own host, which alone may see its token."""
        first = httpx.URL(self.source.url)
        upgraded = _origin(first) == ("http", first.host, 80) and _origin(url) == ("https", first.host, 443)
        if _is_link_local(url.host):
            raise DataError(f"{where}: refused to go to {url.host!r}, a link-local address, where machines keep credentials")
        if _origin(url) != _origin(first) and not upgraded:
            found, own = (f"{origin[0]}://{origin[1]}:{origin[2]}" for origin in (_origin(url), _origin(first)))
            raise DataError(f"{where}: refused to follow it from {own} to {found}; if that is right, make it the source's url")
        return url

    def without_token(self, link: str) -> str:
        """The link as it may stand on disk: without the token's parameter, which many a server repeats in it."""
        if self.source.parameter is None:
            return link
        url = httpx.URL(link)
        bare = str(url.copy_remove_param(self.source.parameter)) if self.source.parameter in url.params else link
        if any(spelling in bare for spelling in _spellings(self.token)):
            raise DataError(
                f"source {self.name!r}: the next page's URL holds the token outside of its parameter; "
                f"send it in a header, if the server takes one: header instead of parameter {self.source.parameter!r}"
            )
        return bare

    def redacted(self, text: str) -> str:
        """The beginning of a text without the source's secrets, e-mail addresses and long numbers."""
        queried = (value for value in self.source.query.values() if len(value) >= 8)
        for secret in (spelling for value in (self.token, *queried) for spelling in _spellings(value)):
            text = text.replace(secret, "***") if secret else text
        text = re.sub(r"\S+@\S+", "...@...", " ".join(text.split()))
        text = re.sub(r"\d(?:[ ()/.-]?\d){4,}", "###", text)
        return text if len(text) <= EXCERPT else f"{text[:EXCERPT]}..."

    def _once(self, url: httpx.URL, where: str, read: Callable[[Answer], T]) -> T:
        deadline = time.monotonic() + REQUEST_SECONDS
        self.own(url, where)
        for _ in range(MAX_REDIRECTS + 1):
            try:
                with self.client.stream("GET", self._with_token(url)) as response:
                    if not response.has_redirect_location:
                        return read(self._answer(response, self._body(response, deadline, where), where))
                    url = self.own(response.url.join(response.headers["Location"]), f"{where}: redirected")
            except httpx.TimeoutException as error:
                seconds = CONNECT_SECONDS if isinstance(error, httpx.ConnectTimeout) else READ_SECONDS
                raise NoPageError(f"no answer within {seconds:g} s", ATTEMPTS) from error
            except (httpx.RequestError, httpx.InvalidURL) as error:
                raise NoPageError(f"the connection failed: {self.redacted(str(error))}", ATTEMPTS) from error
        raise DataError(f"{where}: redirected more than {MAX_REDIRECTS} times; correct the source's url")

    def _with_token(self, url: httpx.URL) -> httpx.URL:
        """The URL as it is asked for: what is kept and told is the one without the token."""
        return url.copy_set_param(self.source.parameter, self.token) if self.source.parameter else url

    def _body(self, response: httpx.Response, deadline: float, where: str) -> bytes:
        body = bytearray()
        for piece in response.iter_bytes():
            body += piece
            if len(body) > MAX_BYTES:
                raise DataError(f"{where}: more than {MAX_BYTES:,} bytes; ask for smaller pages: page.size_parameter and page.size")
            if time.monotonic() > deadline:
                raise NoPageError(f"not all of the answer within {REQUEST_SECONDS:g} s", ATTEMPTS)
        return bytes(body)

    def _answer(self, response: httpx.Response, body: bytes, where: str) -> Answer:
        status, came = response.status_code, self._excerpt(body)
        if status in (401, 403):
            remedy = f"it refuses the token of {self.source.token}; renew it" if self.source.token else "name a token: env:NAME"
            raise DataError(f"{where}: status {status}; {remedy}")
        if status in (408, 425, 429) or status >= 500:
            raise NoPageError(f"status {status}{came}", ATTEMPTS, wanted_pause(where, response.headers.get("Retry-After")))
        if status >= 300:
            kind = AbsentError if status == 404 else DataError
            raise kind(f"{where}: status {status}{came}; correct the source's url, query or page in params.yaml")
        try:
            value = json.loads(body, parse_constant=_constant, object_pairs_hook=_each_once)
        except TwiceError as error:
            said = self.redacted(error.key)
            raise DataError(
                f"{where}: an object in the answer has the key {said!r} twice; expected each once: ask its maker"
            ) from error
        except (ValueError, RecursionError) as error:
            said = f"status {status}, expected JSON, found {len(body):,} bytes that are none{came}"
            raise NoPageError(said, ATTEMPTS_MALFORMED) from error
        return Answer(value, response.links.get("next", {}).get("url"))

    def _excerpt(self, body: bytes) -> str:
        """What came, in a few words, unless the source has columns that nobody may see."""
        text = self.redacted(body[: 10 * EXCERPT].decode("utf-8", "replace"))
        return f": {text!r}" if text and not self.guard.changes else ""


def _sendable(reference: str, secret: str) -> str:
    if not (secret.isascii() and secret.isprintable()) or secret != secret.strip():
        raise ParamsError(f"secret {reference} holds spaces, line ends or letters that no HTTP request can carry; set it anew")
    return secret


def _spellings(secret: str) -> list[str]:
    """The secret as it may stand in a text, in JSON of some languages and in a URL; the longest first."""
    spelt = {secret, secret.replace("/", "\\/"), quote(secret, safe=""), quote(secret), quote_plus(secret)} - {""}
    return sorted(spelt, key=len, reverse=True)


class TwiceError(Exception):
    """An object of JSON names a key twice, of which one value would be lost."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise TwiceError(next(key for key in keys if keys.count(key) > 1))
    return found


def _constant(word: str) -> None:
    """NaN is no JSON, but meant as a missing value; an infinity is no value of a table."""
    if word != "NaN":
        raise ValueError(f"{word} is no JSON")


def _is_enough(state: RetryCallState) -> bool:
    error = state.outcome.exception() if state.outcome else None
    return state.attempt_number >= (error.attempts if isinstance(error, NoPageError) else ATTEMPTS)


def _pause(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, NoPageError) and error.after is not None:
        return error.after
    return wait_random_exponential(multiplier=BACKOFF_SECONDS, max=BACKOFF_MOST)(state)


def _bare(url: httpx.URL) -> str:
    """The URL without user, password and query, which may hold secrets."""
    port = f":{url.port}" if url.port else ""
    return f"{url.scheme}://{url.host}{port}{url.path}"


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host.lower(), url.port or {"http": 80, "https": 443}.get(url.scheme)


def _is_link_local(host: str) -> bool:
    """Whether the host is a link-local address, in any notation that a system's resolver takes, or a name for one."""
    if host.lower().rstrip(".") == "metadata.google.internal":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        try:
            address = ipaddress.ip_address(socket.inet_aton(host))  # 0xA9FEA9FE, 2852039166, 169.254.43518
        except OSError:
            return False
    return (getattr(address, "ipv4_mapped", None) or address).is_link_local
