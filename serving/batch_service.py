"""Batches over HTTP: the body goes to a file, a child process scores it, the answer comes from a file; nobody else waits for it."""

import asyncio
import json
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from serving.batch import ENDED, Format, Job, Outcome
from serving.request import RequestError

Headers = Iterable[tuple[bytes, bytes]]
MEDIA: dict[str, Format] = {
    "application/vnd.apache.arrow.stream": "arrow",
    "application/vnd.apache.parquet": "parquet",
    "application/x-parquet": "parquet",
}
GIVEN: dict[Format, str] = {"arrow": "application/vnd.apache.arrow.stream", "parquet": "application/vnd.apache.parquet"}
MOST_BODY = 100_000_000  # bytes
IDLE_SECONDS = 30.0  # without a byte of the body
SLOWEST = 50_000  # bytes a second, of all that came: who drips keeps others from the line
JOB_SECONDS = 300.0
KEEP_SECONDS = 60.0  # that the child is kept for the next batch
MOST_WAITING = 4  # batches, beside the one that is scored
CHUNK = 1 << 18


class BatchService:
    """The batches of one process of the service: one at a time, a few in line."""

    def __init__(self, most_body: int = MOST_BODY) -> None:
        self.most_body = most_body
        self.child: Process | None = None
        self.turn, self.waiting = asyncio.Lock(), 0
        self.leaving: asyncio.TimerHandle | None = None

    async def answer(self, request: Request, bundle: Path, headers: dict[str, str]) -> tuple[Response, int]:
        """The answers to the rows of the request's body, by the bundle in that folder, and how many there are."""
        taken = MEDIA[media_type(request.scope["headers"])]
        given = _wanted(request.headers.get("accept", ""), taken)
        if self.waiting > MOST_WAITING:
            raise RequestError(503, f"{MOST_WAITING} batches wait already; come again", retry_after=10)
        self.waiting += 1
        try:
            with tempfile.TemporaryDirectory(prefix="tidemill-batch-") as folder:
                source, target = Path(folder) / "source", Path(folder) / "target"
                await self._receive(request, source)
                job = Job(str(bundle), str(source), taken, str(target), given)
                async with self.turn:
                    outcome = await self._ask(job)
                if outcome.status != 200:
                    raise RequestError(outcome.status, outcome.detail, [(name, fault) for name, fault in outcome.faults])
                size, file = target.stat().st_size, target.open("rb")  # which outlives its name
        except OSError as error:
            raise RequestError(503, f"no room for the batch here: {error.strerror or error}", retry_after=60) from error
        finally:
            self.waiting -= 1
        sent = {**headers, "content-length": str(size)}
        return StreamingResponse(_pieces(file), headers=sent, media_type=GIVEN[given]), outcome.rows

    async def stop(self) -> None:
        """The child has ended."""
        if self.leaving:
            self.leaving.cancel()
        self._end()
        if self.child is not None:
            await self.child.wait()
            self.child = None

    async def _receive(self, request: Request, path: Path) -> None:
        """The body is in the file; RequestError 413 for one that is too large, as soon as it is known."""
        length, started = 0, asyncio.get_running_loop().time()
        parts = aiter(request.stream())
        with path.open("wb") as file:
            try:
                while True:
                    now = asyncio.get_running_loop().time()
                    async with asyncio.timeout_at(min(now, started + length / SLOWEST) + IDLE_SECONDS):
                        part = await anext(parts)
                    length += len(part)
                    if length > self.most_body:
                        raise RequestError(413, f"the batch is larger than {self.most_body:,} bytes; send it in parts")
                    file.write(part)
            except StopAsyncIteration:
                return
            except ClientDisconnect as error:
                raise RequestError(400, "the client went away before its body ended") from error
            except TimeoutError as error:
                raise RequestError(408, f"too little came of the body for {IDLE_SECONDS:g} s") from error

    async def _ask(self, job: Job) -> Outcome:
        async with self._living() as child:
            assert child.stdin is not None
            assert child.stdout is not None
            told: dict[str, Any] = {}
            try:
                async with asyncio.timeout(JOB_SECONDS):
                    child.stdin.write(json.dumps(asdict(job)).encode() + b"\n")
                    await child.stdin.drain()
                    while "status" not in told and (line := await child.stdout.readline()):
                        told = json.loads(line)
            except TimeoutError as error:
                raise RequestError(413, f"the batch takes longer than {JOB_SECONDS:g} s; send it in parts") from error
            except ConnectionError:  # it ended before it read the job
                told = {}
            if "status" not in told:
                raise RequestError(413, ENDED)
            return Outcome(**told)

    @asynccontextmanager
    async def _living(self) -> AsyncIterator[Process]:
        """A child that waits for a job; one that did not do it is ended."""
        if self.leaving:
            self.leaving.cancel()
        if self.child is None or self.child.returncode is not None:
            command = (sys.executable, "-m", "serving.batch_child")
            # In a session of its own, so that Ctrl-C ends the service first and the child by it.
            self.child = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, start_new_session=True)
        try:
            yield self.child
        except BaseException:
            await self.stop()
            raise
        self.leaving = asyncio.get_running_loop().call_later(KEEP_SECONDS, self._end)

    def _end(self) -> None:
        if self.child is not None:
            with suppress(ProcessLookupError):
                self.child.kill()


def is_batch(headers: Headers) -> bool:
    """Whether the body is said to be a file of Arrow or Parquet."""
    return media_type(headers) in MEDIA


def media_type(headers: Headers) -> str:
    for name, value in headers:
        if name == b"content-type":
            return str(value.decode("latin-1").partition(";")[0].strip().lower())
    return ""


def _wanted(accept: str, taken: Format) -> Format:
    """The format to answer in: the first that is accepted; RequestError 406 for none of ours."""
    for one in accept.lower().split(","):
        name = one.partition(";")[0].strip()
        if name in MEDIA:
            return MEDIA[name]
        if name in ("", "*/*", "application/*"):
            return taken
    raise RequestError(406, f"a batch is answered as {' or '.join(GIVEN.values())}, found Accept: {accept[:100]}")


async def _pieces(file: BinaryIO) -> AsyncIterator[bytes]:
    with file:
        while piece := file.read(CHUNK):
            yield piece
