"""Where alerts arrive in tests: a webhook and a mail server on loopback, which keep what they are given."""

import email
import http.server
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session

from tests.conftest import free_port


@dataclass
class Webhook:
    """Its address, and each body that was posted there with its headers; `status` answers the next request."""

    url: str
    posts: list[tuple[dict[str, str], Any]] = field(default_factory=list)
    status: Callable[[], int] = field(default=lambda: 200)

    @property
    def bodies(self) -> list[Any]:
        return [body for _, body in self.posts]

    def wait(self, fits: Callable[[Any], bool], seconds: float = 30) -> Any:
        """The first body that fits, once it is there."""
        deadline = time.monotonic() + seconds
        while not (found := [body for body in self.bodies if fits(body)]):
            assert time.monotonic() < deadline, self.bodies
            time.sleep(0.1)
        return found[0]


@contextmanager
def webhook() -> Iterator[Webhook]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            status = sink.status()
            if status < 300:
                sink.posts.append(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    sink = Webhook(f"http://127.0.0.1:{server.server_address[1]}/hook")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield sink
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class Mailbox:
    """Where its server listens, and the mails it took."""

    port: int = 0
    mails: list[EmailMessage] = field(default_factory=list)
    logins: list[tuple[str, str]] = field(default_factory=list)
    refuses: set[str] = field(default_factory=set)  # addresses

    async def handle_RCPT(  # noqa: N802  the library's own name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address in self.refuses:
            return "550 no such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802  likewise
        assert isinstance(envelope.content, bytes)
        mail = email.message_from_bytes(envelope.content, policy=default)
        assert isinstance(mail, EmailMessage)
        self.mails.append(mail)
        return "250 OK"

    def wait(self, words: str, seconds: float = 30) -> EmailMessage:
        """The first mail whose subject holds the words, once it is there."""
        deadline = time.monotonic() + seconds
        while not (found := [mail for mail in self.mails if words in mail["Subject"]]):
            assert time.monotonic() < deadline, [mail["Subject"] for mail in self.mails]
            time.sleep(0.1)
        return found[0]


@contextmanager
def mailbox(certificate: tuple[Path, Path] | None = None, user: tuple[str, str] | None = None) -> Iterator[Mailbox]:
    """With a certificate and its key it demands STARTTLS, with a user and password a login."""
    box = Mailbox()

    def authenticate(server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
        pair = (data.login.decode(), data.password.decode())
        box.logins.append(pair)
        return AuthResult(success=pair == user, handled=False)  # else it is for us to answer

    context = None
    if certificate:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*certificate)
    demands: dict[str, Any] = {"tls_context": context, "require_starttls": context is not None}
    if user:
        demands |= {"authenticator": authenticate, "auth_required": True}
    box.port = free_port()
    controller = Controller(box, hostname="127.0.0.1", port=box.port, **demands)
    controller.start()
    try:
        yield box
    finally:
        controller.stop()
