"""A real HTTP server on this machine that answers, or misbehaves, as a test says, and remembers what it was asked."""

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit


@dataclass(frozen=True)
class Asked:
    path: str
    query: dict[str, str]
    headers: dict[str, str]


@dataclass(frozen=True)
class Reply:
    """What is sent: a JSON value or bytes; `cut` breaks the connection half-way, `drip` waits so long before each byte."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    delay: float = 0.0
    drip: float = 0.0

    @property
    def content(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


class Api:
    """The server's address and its requests; `answer` may be replaced while it runs."""

    def __init__(self) -> None:
        self.answer: Callable[[Asked], Reply] = lambda asked: Reply([])
        self.asked: list[Asked] = []
        self.url = ""

    def queries(self, name: str) -> list[str | None]:
        return [asked.query.get(name) for asked in self.asked]


@contextmanager
def serving() -> Iterator[Api]:
    """An API on a free port of the loopback, stopped at the end."""
    api = Api()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else every body waits 40 ms for the head's acknowledgement

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            headers = {key.lower(): value for key, value in self.headers.items()}
            asked = Asked(parts.path, dict(parse_qsl(parts.query)), headers)
            api.asked.append(asked)
            try:
                self._send(api.answer(asked))
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def _send(self, reply: Reply) -> None:
            time.sleep(reply.delay)
            self.send_response(reply.status)
            for key, value in {"Content-Length": str(len(reply.content)), **reply.headers}.items():
                self.send_header(key, value)
            self.end_headers()
            if reply.cut:
                self.wfile.write(reply.content[: len(reply.content) // 2])
                # Lingering for no time makes the kernel send a reset where it else would say good-bye.
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True
                return
            for i in range(len(reply.content)) if reply.drip else ():
                time.sleep(reply.drip)
                self.wfile.write(reply.content[i : i + 1])
            if not reply.drip:
                self.wfile.write(reply.content)

        def log_message(self, *_: object) -> None:
            """Nothing is printed."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    api.url = f"http://127.0.0.1:{server.server_port}/rows"
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def by_number(rows: list[dict[str, Any]], size: int) -> Callable[[Asked], Reply]:
    """Pages of that size under `page`, from 1 on."""

    def answer(asked: Asked) -> Reply:
        number = int(asked.query.get("page", "1"))
        return Reply({"items": rows[(number - 1) * size : number * size]})

    return answer


def by_cursor(rows: list[dict[str, Any]], size: int) -> Callable[[Asked], Reply]:
    """Pages of that size under `after`, each naming the next at meta.next."""

    def answer(asked: Asked) -> Reply:
        start = int(asked.query.get("after", "c0")[1:])
        following = f"c{start + size}" if start + size < len(rows) else None
        return Reply({"items": rows[start : start + size], "meta": {"next": following}})

    return answer


def first_then(replies: list[Reply], then: Callable[[Asked], Reply]) -> Callable[[Asked], Reply]:
    """The replies, one to each of the first requests, and then what `then` says."""
    waiting = list(replies)
    return lambda asked: waiting.pop(0) if waiting else then(asked)
