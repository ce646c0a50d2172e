"""HTTP/1.1 with an end to patience: uvicorn waits for a client for ever, and takes heads of any size and of two meanings.

What is refused here never reaches the app: it is answered as an RFC 9457 problem all the same.
"""

import asyncio
import resource
from dataclasses import dataclass, field
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from serving.direct import Direct
from serving.replies import problem
from serving.request import RequestError
from serving.traffic import STARTED, Traffic

HEAD_SECONDS = 10.0  # from the connection, or the head's first byte, to its last; and for a body that is no longer of use
HEAD_BYTES = 65_536  # of the path and all headers
MOST_HEADERS = 256
WRITE_SECONDS = 30.0  # for a client to take what it asked for
LEAVE_SECONDS = 0.2  # that a connection without a request stays when the service ends: one may be on its way
LINGER_SECONDS = 2.0  # in which what a refused client still sends is thrown away, so that it finds the answer
SPARE_FILES = 200  # of the process' limit, for everything but connections


def most_connections() -> int:
    """As many as the limit of open files leaves room for."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(64, limit - SPARE_FILES)


class Together:
    """A transport that sends an answer's head with what follows it: two writes are two packets, and wake the client twice.

    Of a service that is killed, a proxy gets both or neither, and may ask another one as long as it has neither.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self.transport, self.loop, self.head, self.ended = transport, loop, b"", False

    def write(self, data: bytes) -> None:
        if self.ended or self.transport.is_closing():  # its client is gone, or was told enough; uvloop would raise
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
        self.ended = True
        self.transport.write_eof()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)


@dataclass
class Crowd:
    """All connections of a process, and what answers their commonest requests."""

    traffic: Traffic
    direct: Direct
    most: int = field(default_factory=most_connections)
    idle: dict["PatientProtocol", None] = field(default_factory=dict)  # connections without one under way, the longest first
    stamped: tuple[list[tuple[bytes, bytes]], bytes] = field(default_factory=lambda: ([], b""))

    def stamp(self, headers: list[tuple[bytes, bytes]]) -> bytes:
        """The headers of every answer as they are sent: uvicorn makes new ones, with the time, each second."""
        if self.stamped[0] is not headers:
            self.stamped = headers, b"".join(b"%s: %s\r\n" % header for header in headers)
        return self.stamped[1]


class PatientProtocol(HttpToolsProtocol):
    """A connection that is ended when its client is too slow, says too much, or what could be understood in two ways."""

    def __init__(self, crowd: Crowd, **made: Any) -> None:
        super().__init__(**made)
        self.crowd = crowd
        self.timer: asyncio.TimerHandle | None = None
        self.waits_since: float | None = None  # for the head of a request
        self.rests_since: float | None = None  # from an answer to the next request
        self.write_timer: asyncio.TimerHandle | None = None
        self.head_bytes = self.hosts = 0
        self.encodings: list[bytes] = []
        self.in_head = self.in_message = self.refused = False
        self.whole: list[bytes] | None = None  # the body of a request that is answered directly, once it is there
        self.pending = False  # such a request waits for the end of the event loop's turn
        self.leaving = False  # the service ends

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
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        self._stop_writing()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.refused:
            return
        self._unset_keepalive_if_required()
        self.rests_since = None
        if self.cycle is None or self.cycle.response_complete:
            self._wait()  # even if it is an empty line only, which begins no request
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._stay(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            reason = "" if isinstance(error, httptools.HttpParserCallbackError) else f": {str(error)[:100]}"
            self._break_off(RequestError(400, f"this is no request of HTTP/1.1{reason}"))
        if self.whole is not None:  # it does not end here: the app has the patience to wait for more
            whole, self.whole = self.whole, None
            super().on_headers_complete()
            for part in whole:
                super().on_body(part)

    def eof_received(self) -> bool | None:  # type: ignore[override]  # asyncio asks for it
        """Who has said all that it will say may still wait for its answers; over TLS the connection has ended."""
        self._settle()
        cycle = self.cycle
        if cycle is None or cycle.response_complete or cycle.more_body or not self.transport.can_write_eof():
            return None
        cycle.keep_alive = False  # it is the last one
        return True

    def shutdown(self) -> None:
        """The connection ends with the answer to what was asked, also if that was not read yet: to close it would lose it."""
        self._settle()
        self.leaving = True
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(LEAVE_SECONDS, super().shutdown)
        else:
            super().shutdown()

    def on_message_begin(self) -> None:
        self._settle()
        self._unset_keepalive_if_required()  # of the answer to the one before it in the same packet
        self.rests_since = None
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
        super().on_header(name, value.rstrip(b" \t"))  # llhttp leaves what RFC 9112 (5) has end with the line
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
        elif self._is_direct():
            self.whole = []
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if self.whole is not None:
            self.whole.append(body)
        elif not self.refused and not self.parser.should_upgrade():
            super().on_body(body)

    def on_message_complete(self) -> None:
        self.in_message = False
        if self.whole is not None:
            whole, self.whole, self.pending = b"".join(self.whole), None, True
            self.crowd.idle.pop(self, None)
            self.crowd.direct.answer(self.headers, self.url, whole, self._reply, len(self.connections) == 1)
            return
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
        if self.leaving and not self.pipeline:
            cycle.keep_alive = False
        started = {STARTED: self.crowd.traffic.begin()}
        cycle.scope["extensions"] = started  # type: ignore[typeddict-item]  # of a server in the same process
        super()._start_asgi_task(cycle, app)

    def _is_direct(self) -> bool:
        """Whether the request may be one that needs no app: nothing before it is unanswered, and nothing is odd about it."""
        if (
            (self.cycle is not None and not self.cycle.response_complete)
            or self.flow.write_paused
            or self.leaving
            or self.encodings
            or self.expect_100_continue
            or self.parser.get_method() != b"POST"
            or self.parser.get_http_version() != "1.1"
            or not self.parser.should_keep_alive()
        ):
            return False
        return self.crowd.direct.takes(self.headers, self.url)

    def _reply(self, head: bytes, content: bytes, last: bool) -> None:
        """The answer to a request that no app saw; the connection ends with it, if it is the `last`."""
        self.pending = False
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.transport.write(b"%s%s\r\n%s" % (head, self.crowd.stamp(self.server_state.default_headers), content))
        if last:
            self.transport.close()
            self.loop.call_later(WRITE_SECONDS, self.transport.abort)
        else:
            self.crowd.idle[self] = None
            self.rests_since = self.loop.time()
            self._look_later()

    def _settle(self) -> None:
        """What came before on this connection is answered."""
        if self.pending:
            self.crowd.direct.flush()

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
            self._look_later()

    def _stop_waiting(self) -> None:
        self.waits_since = None

    def _look_later(self) -> None:
        if self.timer is None:
            self.timer = self.loop.call_later(HEAD_SECONDS, self._look_again)

    def _look_again(self) -> None:
        """Gives up what has been waited for long enough; else the timer runs for as long as there is something to wait for."""
        self.timer = None
        since, patience, end = self.waits_since, HEAD_SECONDS, self._give_up
        if since is None:
            since, patience, end = self.rests_since, self.timeout_keep_alive, self.timeout_keep_alive_handler
        if since is None:
            return
        left = since + patience - self.loop.time()
        if left > 0:
            self.timer = self.loop.call_later(left, self._look_again)
        else:
            end()

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
        self._settle()
        self.refused = True
        self._stop_waiting()
        self.crowd.traffic.metrics.turned_away(error.status)
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
