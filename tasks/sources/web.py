"""Files behind http and https. Redirects are followed, but to no host's own services and never with another host's password."""

import hashlib
import ipaddress
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tasks.core.errors import DataError
from tasks.sources.lock import Mark, moved
from tasks.sources.network import (
    CONNECT_SECONDS,
    READ_SECONDS,
    TransientError,
    append,
    forbidden,
    no_file,
    refuse_other_content,
    shown,
    wanted_pause,
    with_tries,
)
from tasks.sources.places import Found

REDIRECTS = 10
PORTS = 65_535
AGAIN = {408, 425, 429, 500, 502, 503, 504}
# Where clouds hand out credentials to whoever asks from inside.
METADATA = tuple(map(ipaddress.ip_network, ("169.254.0.0/16", "fe80::/10", "fd00:ec2::/32", "100.100.100.200/32")))


def look(where: str, url: str) -> Found:
    """The file's ETag and size, or when it was changed and its size, or else its hash, for which all of it is read.

    Of a body that ends where the connection does, only another reading of it with the same hash tells that it is whole.
    """
    return with_tries(where, lambda: _look(where, url))


def download(where: str, found: Found, path: Path) -> None:
    """`path` holds the file that was found, resumed where it broke off as long as it is the same."""
    with_tries(where, lambda: _download(where, found, path))


def _look(where: str, url: str) -> Found:
    with _answer(where, "GET", url, {}) as response:
        mark = _mark(response)
        if not mark:
            digest, size = hashlib.sha256(), 0
            for chunk in response.iter_raw():
                digest.update(chunk)
                size += len(chunk)
            mark = {"sha256": digest.hexdigest(), "bytes": size}
    key = str(mark.get("etag") or mark.get("sha256") or f"{mark['modified']} {mark['bytes']}")
    return Found(url, shown(url), key, mark)


def _mark(response: httpx.Response) -> Mark:
    """What the answer's head says of the content, nothing when that is too little or nothing proves that all of it came."""
    if not _is_framed(response):
        return {}
    size = _length(response)
    if etag := _etag(response):
        return {"etag": etag, **({} if size is None else {"bytes": size})}
    modified = response.headers.get("last-modified")
    return {"modified": modified, "bytes": size} if modified and size is not None else {}


def _download(where: str, found: Found, path: Path) -> None:
    offset = path.stat().st_size
    etag = str(found.mark.get("etag", ""))
    # Only a strong ETag promises the same bytes (RFC 9110, 13.1.5).
    resumed = offset > 0 and bool(etag) and not etag.startswith("W/")
    headers = {"Range": f"bytes={offset}-", "If-Range": f'"{etag}"'} if resumed else {}
    with _answer(where, "GET", found.place, headers) as response:
        if response.status_code == 206:
            start, _, total = response.headers.get("content-range", "").removeprefix("bytes ").partition("/")
            if not start.startswith(f"{offset}-") or not total.isdigit():
                path.write_bytes(b"")
                raise TransientError("another part of it came than was asked for")
            append(where, path, response.iter_raw(), offset, int(total))
        else:
            now = _mark(response)
            if (now and now != found.mark) or _etag(response) != found.mark.get("etag", _etag(response)):
                raise moved(where)
            append(where, path, response.iter_raw(), 0, _length(response))
            if not _is_framed(response) and path.stat().st_size < int(found.mark.get("bytes", 0)):
                raise TransientError(f"{path.stat().st_size:,} of {found.mark['bytes']:,} bytes came")
    if path.stat().st_size != found.mark.get("bytes", path.stat().st_size):
        raise moved(where)
    if sha256 := found.mark.get("sha256"):
        refuse_other_content(where, path, "sha256", str(sha256))


def _is_framed(response: httpx.Response) -> bool:
    """Whether a connection that closes too early is told from the content's end."""
    return _length(response) is not None or "chunked" in response.headers.get("transfer-encoding", "").lower()


def _etag(response: httpx.Response) -> str | None:
    etag = response.headers.get("etag")
    return etag.replace('"', "") if etag else None


def _length(response: httpx.Response) -> int | None:
    length = response.headers.get("content-length", "")
    return int(length) if length.isdigit() else None


@contextmanager
def _answer(where: str, method: str, url: str, headers: dict[str, str]) -> Iterator[httpx.Response]:
    """The answer behind all redirects, its body still to be read; TransientError for what may pass, DataError for the rest."""
    timeout = httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)
    try:
        with httpx.Client(timeout=timeout, headers={"Accept-Encoding": "identity", **headers}) as client:
            response = _follow(where, client, method, httpx.URL(url))
            try:
                _refuse_status(where, response)
                yield response
            finally:
                response.close()
    except httpx.InvalidURL as error:
        raise DataError(f"{where} is no address: {error}; correct it in params.yaml") from error
    except httpx.TransportError as error:
        raise TransientError(_said(error)) from error


def _follow(where: str, client: httpx.Client, method: str, url: httpx.URL) -> httpx.Response:
    for _ in range(REDIRECTS):
        _refuse_metadata(where, url)
        response = client.send(client.build_request(method, url), stream=True)
        if not response.has_redirect_location:
            return response
        response.close()
        target = url.join(response.headers["location"])
        if target.scheme not in ("http", "https"):
            raise DataError(f"{where} leads to {target.scheme}://..., which is not followed; name the file's own address")
        same = (target.scheme, target.host, target.port) == (url.scheme, url.host, url.port)
        url = target.copy_with(userinfo=url.userinfo if same else b"")
    raise DataError(f"{where} leads on for ever, {REDIRECTS} times so far; name the file's own address")


def _refuse_metadata(where: str, url: httpx.URL) -> None:
    """DataError before a request to an address where a cloud's machine finds its credentials."""
    if (url.port or 0) > PORTS:
        raise httpx.InvalidURL(f"Invalid port: {url.port}")
    try:
        resolved = socket.getaddrinfo(url.host, url.port or 80, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise TransientError(f"no host is called {url.host!r}") from error
    for *_, address in resolved:
        found = ipaddress.ip_address(str(address[0]).split("%")[0])
        found = getattr(found, "ipv4_mapped", None) or found
        if any(found in network for network in METADATA):
            raise DataError(f"{where} leads to {found}, an address of the machine's own services; no request was sent there")


def _refuse_status(where: str, response: httpx.Response) -> None:
    status = response.status_code
    if status in AGAIN:
        raise TransientError(f"the server answered {status}", wanted_pause(where, response.headers.get("retry-after")))
    if status in (401, 403, 407):
        raise forbidden(where, f"the server answered {status}")
    if status in (404, 410):
        raise no_file(where, f"the server answered {status}")
    if status not in (200, 206):
        raise DataError(f"{where}: the server answered {status}; expected 200 and the file: check the address")


def _said(error: httpx.TransportError) -> str:
    match error:
        case httpx.TimeoutException():
            return "no answer in time"
        case httpx.ConnectError():
            return "no connection" + (" (its certificate is not trusted)" if "certificate" in str(error).lower() else "")
        case _:
            return "the connection broke off"
