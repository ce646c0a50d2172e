"""HTTP/1.1 with an end to patience: uvicorn waits for a client for ever, and takes heads of any size and of two meanings.

What is refused here never reaches the app: it is answered as an RFC 9457 problem all the same.
"""

import asyncio
import resource
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from serving.batching import CROWD
from serving.replies import CYCLE, problem
from serving.request import RequestError

HEAD_SECONDS = 10.0  # from the connection, or the head's first byte, to its last; and for a body that is no longer of use
HEAD_BYTES = 65_536  # of the path and all headers
MOST_HEADERS = 256
WRITE_SECONDS = 30.0  # for a client to take what it asked for
LINGER_SECONDS = 2.0  # in which what a refused client still sends is thrown away, so that it finds the answer
SPARE_FILES = 200  # of the process' limit, for everything but connections
STARTED = "tidemill.started"  # in a scope's extensions: how many requests had been handed to the app by then


def most_connections() -> int:
    """As many as the limit of open files leaves room for."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(64, limit - SPARE_FILES)


class Together:
    """A transport that sends an answer's head with what follows it: two writes are two packets, and wake the client twice.

    Of a service that is killed, a proxy gets both or neither, and may ask another one as long as it has neither.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self.transport, self.loop, self.head = transport, loop, b""

    def write(self, data: bytes) -> None:
        if self.transport.is_closing():  # its client is gone; uvloop would raise
            return
        if self.head:
            data, self.head = self.head + data, b""
        elif data.startswith(b"HTTP/1.1 ") and data.endswith(b"\r\n\r\n"):
            self.head = data
            self.loop.call_soon(self.flush)  # when nothing follows at once
            return
        self.transport.write(data)

    def flush(self) -> None:
        """Nothing is held back."""
        if self.head:
            self.write(b"")

    def close(self) -> None:
        self.flush()
        self.transport.close()

    def write_eof(self) -> None:
        self.flush()
        self.transport.write_eof()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)


@dataclass
class Crowd:
    """All connections of a process; `refused` is called with the status of each request that the app never sees."""

    refused: Callable[[int], None]
    most: int = field(default_factory=most_connections)
    started: int = 0  # requests that were handed to the app
    idle: dict["PatientProtocol", None] = field(default_factory=dict)  # connections without one under way, the longest first


class PatientProtocol(HttpToolsProtocol):
    """A connection that is ended when its client is too slow, says too much, or what could be understood in two ways."""

    def __init__(self, crowd: Crowd, **made: Any) -> None:
        super().__init__(**made)
        self.crowd = crowd
        self.head_timer: asyncio.TimerHandle | None = None
        self.waits_since: float | None = None
        self.write_timer: asyncio.TimerHandle | None = None
        self.head_bytes = self.hosts = 0
        self.encodings: list[bytes] = []
        self.in_head = self.in_message = self.refused = False

    def connection_made(self, transport: Any) -> None:
        super().connection_made(Together(transport, self.loop))  # type: ignore[arg-type]
        self.crowd.idle[self] = None
        if len(self.connections) > self.crowd.most:
            self._make_room()
        if not self.refused:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self.crowd.idle.pop(self, None)
        self._stop_waiting()
        if self.head_timer is not None:
            self.head_timer.cancel()
            self.head_timer = None
        self._stop_writing()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.refused:
            return
        self._unset_keepalive_if_required()
        if self.cycle is None or self.cycle.response_complete:
            self._wait()  # even if it is an empty line only, which begins no request
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._stay(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            reason = "" if isinstance(error, httptools.HttpParserCallbackError) else f": {str(error)[:100]}"
            self._break_off(RequestError(400, f"this is no request of HTTP/1.1{reason}"))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.head_bytes = self.hosts = 0
        self.encodings = []
        self.in_head = self.in_message = True
        self._wait()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + 4)
        if not self.in_head:  # a trailer, of which none is of use, and which must not pass for a header
            return
        super().on_header(name, value)
        name = self.headers[-1][0]
        if name == b"host":
            self.hosts += 1
        elif name == b"transfer-encoding":
            self.encodings.append(value.lower())
        if len(self.headers) > MOST_HEADERS:
            self._break_off(RequestError(431, f"more than {MOST_HEADERS} headers"))

    def on_headers_complete(self) -> None:
        self.in_head = False
        self._stop_waiting()
        if not self.refused and self.parser.get_method() == b"CONNECT":
            self._break_off(RequestError(405, "this service is no proxy"))
        if self.refused or self.parser.should_upgrade():
            return
        if fault := self._fault():
            self._break_off(fault)
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self.refused and not self.parser.should_upgrade():
            super().on_body(body)

    def on_message_complete(self) -> None:
        self.in_message = False
        if self.refused or self.parser.should_upgrade():
            return
        answered = self.cycle.response_complete
        super().on_message_complete()
        if answered and not self.transport.is_closing():  # before its body ended: now the connection is as good as new
            self._stop_waiting()
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self.loop.call_later(WRITE_SECONDS, self.transport.abort)  # which does nothing if all was taken
        elif self.cycle.response_complete:
            self.crowd.idle[self] = None
            if self.in_message:  # of no use any more, and it must not go on for ever
                self._wait()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.write_timer = self.loop.call_later(WRITE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop_writing()
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self.loop.call_later(LINGER_SECONDS, self.transport.abort)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self.crowd.idle.pop(self, None)
        self.crowd.started += 1
        ours = {CROWD: self.tasks, STARTED: self.crowd.started, CYCLE: cycle}
        cycle.scope["extensions"] = ours  # type: ignore[typeddict-item]  # of a server in the same process
        super()._start_asgi_task(cycle, app)

    def _fault(self) -> RequestError | None:
        """What must not be guessed at: another server before this one may have guessed otherwise (RFC 9112, 3.2 and 6.1)."""
        version = self.parser.get_http_version()
        if version not in ("1.0", "1.1"):
            return RequestError(400, f"HTTP/{version}; this service speaks HTTP/1.1")
        if self.hosts > 1 or (not self.hosts and version == "1.1"):
            return RequestError(400, f"{self.hosts} Host headers; expected one")
        if self.encodings and (self.encodings != [b"chunked"] or version == "1.0"):
            return RequestError(400, "this Transfer-Encoding is not taken; send Content-Length, or `chunked` by HTTP/1.1")
        return None

    def _stay(self, rest: bytes) -> None:
        """The request that asked for another protocol goes on in this one, as RFC 9110 (7.8) leaves to a server.

        Java's client asks so with each first request, and httptools takes a body for the other protocol's.
        """
        if self.refused:
            return
        drop = (b"connection", b"upgrade", b"http2-settings")
        head = [self.parser.get_method(), b" ", self.url, b" HTTP/1.1\r\n"]
        for name, value in self.headers:
            if name not in drop:
                head += [name, b": ", value, b"\r\n"]
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"".join([*head, b"\r\n", rest]))

    def _wait(self) -> None:
        """Patience begins to end, unless it has before; one timer goes on over many requests, as each costs microseconds."""
        if self.waits_since is None:
            self.waits_since = self.loop.time()
            if self.head_timer is None:
                self.head_timer = self.loop.call_later(HEAD_SECONDS, self._look_again)

    def _stop_waiting(self) -> None:
        self.waits_since = None

    def _look_again(self) -> None:
        """Gives up what has been waited for long enough; else the timer runs for as long as there is something to wait for."""
        self.head_timer = None
        if self.waits_since is None:
            return
        left = self.waits_since + HEAD_SECONDS - self.loop.time()
        if left > 0:
            self.head_timer = self.loop.call_later(left, self._look_again)
        else:
            self._give_up()

    def _stop_writing(self) -> None:
        if self.write_timer is not None:
            self.write_timer.cancel()
            self.write_timer = None

    def _give_up(self) -> None:
        self._stop_waiting()
        if self.in_head:
            self._break_off(RequestError(408, f"the request's head did not end within {HEAD_SECONDS:g} s"))
        else:  # nothing was asked, or this is the rest of a body that was answered
            self.refused = True
            self._close()

    def _count(self, size: int) -> None:
        self.head_bytes += size
        if self.head_bytes > HEAD_BYTES:
            self._break_off(RequestError(431, f"path and headers are larger than {HEAD_BYTES:,} bytes"))

    def _make_room(self) -> None:
        """One connection less: the one that had nothing to ask for the longest time, else this one."""
        oldest = next(iter(self.crowd.idle))
        if oldest is self:
            self._break_off(RequestError(503, f"{self.crowd.most:,} connections are open", retry_after=1))
        else:
            oldest.refused = True
            oldest._stop_waiting()
            oldest.transport.abort()

    def _break_off(self, error: RequestError) -> None:
        """The client is told, and nothing more is taken from it."""
        if self.refused:
            return
        self.refused = True
        self._stop_waiting()
        self.crowd.refused(error.status)
        running = self.cycle is not None and not self.cycle.response_complete
        if running and (self.pipeline or not self.cycle.more_body):  # what came before it is answered first
            self.cycle.keep_alive = False
        elif running and self.cycle.response_started:
            self._close()
        else:
            status, headers, content = problem(error)
            headers |= {"connection": "close", "content-length": str(len(content))}
            head = [f"HTTP/1.1 {status.value} {status.phrase}", *(f"{name}: {value}" for name, value in headers.items())]
            self.transport.write("\r\n".join([*head, "\r\n"]).encode() + content)
            if running:
                self.cycle.disconnected = True  # who reads its body need not wait for the rest
                self.cycle.message_event.set()
            self._close()

    def _close(self) -> None:
        if self.transport.can_write_eof():  # not over TLS
            self.transport.write_eof()
        else:
            self.transport.close()
        self.loop.call_later(LINGER_SECONDS, self.transport.abort)
