"""A real PostgreSQL on loopback, with a password, and a proxy before it that cuts connections."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

PASSWORD = "Tide!mill-7431"
VARIABLE = "TIDE_PASSWORD"
BIN = Path("/usr/lib/postgresql/15/bin")


@dataclass(frozen=True)
class Base:
    """A database of the server: how to reach it as a source does, and as the one who fills it."""

    port: int
    name: str

    def url(self, port: int | None = None, options: str = "") -> str:
        return f"postgresql+psycopg://tide@127.0.0.1:{port or self.port}/{self.name}{options}"

    def connect(self) -> "psycopg.Connection[Any]":
        return psycopg.connect(host="127.0.0.1", port=self.port, user="tide", password=PASSWORD, dbname=self.name, autocommit=True)

    def run(self, *statements: str) -> list[Any]:
        """Run the statements; what the last one gives."""
        with self.connect() as connection:
            for statement in statements:
                cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def load(self, table: str, csv: Path) -> None:
        """The table holds the CSV's rows besides its own, by COPY."""
        with self.connect() as connection, connection.cursor() as cursor:
            statement = f"COPY {table} FROM STDIN (FORMAT csv, HEADER, NULL 'NA')"
            with cursor.copy(statement.encode()) as copy, csv.open("rb") as file:
                while block := file.read(1 << 20):
                    copy.write(block)


def _account() -> str:
    """Whom the server runs as: PostgreSQL refuses root."""
    if os.getuid():
        return pwd.getpwuid(os.getuid()).pw_name
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


@contextmanager
def running_postgres() -> Iterator[Callable[[str], Base]]:
    """A server for the length of the block; the call makes a new database of that name."""
    account = pwd.getpwnam(_account())
    folder = Path(tempfile.mkdtemp(prefix="tide-pg-"))
    secret = folder / "secret"
    secret.write_text(PASSWORD)
    for path in (folder, secret):
        os.chown(path, account.pw_uid, account.pw_gid)
    other: dict[str, Any] = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []} if os.getuid() == 0 else {}
    initdb = [BIN / "initdb", "-D", folder / "data", "-U", "tide", "-E", "UTF8", "--locale=C", "--no-sync"]
    subprocess.run(
        [*initdb, "--auth=scram-sha-256", f"--pwfile={secret}"], cwd=folder, check=True, stdout=subprocess.DEVNULL, **other
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    settings = ["fsync=off", "synchronous_commit=off", "listen_addresses=127.0.0.1", "max_wal_size=256MB", f"port={port}"]
    options = [word for setting in settings for word in ("-c", setting)]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [BIN / "postgres", "-D", folder / "data", "-k", folder, *options], cwd=folder, stdout=log, stderr=log, **other
        )
    try:
        base = Base(port, "postgres")
        _wait_until_ready(base, server, folder / "log")

        def make(name: str) -> Base:
            base.run(f'CREATE DATABASE "{name}"')
            return Base(port, name)

        yield make
    finally:
        server.send_signal(signal.SIGQUIT)  # at once: what it holds is thrown away
        server.wait(30)
        shutil.rmtree(folder)


def _wait_until_ready(base: Base, server: "subprocess.Popen[bytes]", log: Path) -> None:
    for _ in range(300):
        if server.poll() is not None:
            break
        try:
            base.run("SELECT 1")
            return
        except psycopg.OperationalError:
            threading.Event().wait(0.1)
    raise RuntimeError(f"PostgreSQL did not start: {log.read_text()[-2000:]}")


class Proxy:
    """Forwards to a port; every connection takes the next of `cuts`, after which many bytes of answers it is cut off."""

    def __init__(self, port: int) -> None:
        self.target = port
        self.cuts: list[int] = []
        self.connections = 0
        self.answered = 0  # bytes
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.listener.getsockname()[1])
        self.threads: list[threading.Thread] = []
        self._start(self._accept)

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self.threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                self.connections += 1
                server = socket.create_connection(("127.0.0.1", self.target))
                cut = self.cuts.pop(0) if self.cuts else None
                self._start(self._pump, client, server, None)
                self._start(self._pump, server, client, cut)

    def _pump(self, source: socket.socket, sink: socket.socket, cut: int | None) -> None:
        forwarded = 0
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if cut is not None and forwarded + len(data) > cut:
                    sink.sendall(data[: cut - forwarded])
                    break
                sink.sendall(data)
                forwarded += len(data)
                if source.getpeername()[1] == self.target:
                    self.answered += len(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        if sink.fileno() >= 0:
            sink.close()

    def close(self) -> None:
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in self.threads:
            thread.join(5)


@contextmanager
def proxying(port: int) -> Iterator[Proxy]:
    proxy = Proxy(port)
    try:
        yield proxy
    finally:
        proxy.close()
