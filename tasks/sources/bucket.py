"""Files in S3 and in services that speak its language; credentials come from the environment, as boto3 finds them."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, ParamValidationError
from fsspec.utils import glob_translate

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
    wanted_pause,
    with_tries,
)
from tasks.sources.packing import CHUNK
from tasks.sources.places import Files, Found

MAGIC = re.compile(r"[*?\[]")
MD5 = re.compile(r"[0-9a-f]{32}")
BUSY = {"SlowDown", "RequestTimeout", "Throttling", "ThrottlingException", "RequestLimitExceeded"}
DENIED = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "AllAccessDisabled"}


def find(where: str, url: str, endpoint: str | None) -> Files:
    """The object, or those whose keys fit the pattern, by ETag and size."""
    name, key = _split(where, url)
    if not MAGIC.search(key):
        return Files((with_tries(where, lambda: _look(where, name, key, endpoint)),), by_pattern=False)
    fits = re.compile(glob_translate(key))

    def listed() -> list[dict[str, Any]]:
        with _told(where, name):
            pages = _client(endpoint).get_paginator("list_objects_v2").paginate(Bucket=name, Prefix=MAGIC.split(key)[0])
            return [thing for page in pages for thing in page.get("Contents", []) if fits.match(thing["Key"])]

    objects = with_tries(where, listed)
    if not objects:
        raise DataError(f"{where}: no object fits; correct the pattern in params.yaml")
    found = (_found(name, thing["Key"], thing["ETag"], thing["Size"], endpoint) for thing in objects)
    return Files(tuple(sorted(found, key=lambda one: one.place)), by_pattern=True)


def download(where: str, found: Found, path: Path) -> None:
    """`path` holds the object that was found, resumed where it broke off."""
    with_tries(where, lambda: _download(where, found, path))


def _look(where: str, name: str, key: str, endpoint: str | None) -> Found:
    # Of an object that is not there, GET tells whether the bucket is; HEAD has no body to tell it in.
    with _told(where, name):
        answer = _client(endpoint).get_object(Bucket=name, Key=key)
        answer["Body"].close()
    return _found(name, key, answer["ETag"], answer["ContentLength"], endpoint)


def _found(name: str, key: str, etag: str, size: int, endpoint: str | None) -> Found:
    mark: Mark = {"etag": etag.strip('"'), "bytes": size}
    return Found(f"s3://{name}/{key}", f"s3://{name}/{key}", str(mark["etag"]), mark, endpoint)


def _download(where: str, found: Found, path: Path) -> None:
    name, key = _split(where, found.place)
    offset = path.stat().st_size
    wanted = {"Range": f"bytes={offset}-"} if 0 < offset < int(found.mark["bytes"]) else {}
    with _told(where, name):
        answer = _client(found.endpoint).get_object(Bucket=name, Key=key, IfMatch=f'"{found.key}"', **wanted)
        append(where, path, answer["Body"].iter_chunks(CHUNK), offset if wanted else 0, int(found.mark["bytes"]))
    # An ETag is the content's MD5 but for objects that came in parts or are encrypted with a key of KMS.
    if MD5.fullmatch(found.key) and answer.get("ServerSideEncryption", "AES256") == "AES256":
        refuse_other_content(where, path, "md5", found.key)


def _split(where: str, url: str) -> tuple[str, str]:
    name, _, key = url.split("://", 1)[1].partition("/")
    if not name or not key or "@" in name:
        raise DataError(f"{where} is no address of an object; expected s3://BUCKET/KEY, the credentials in the environment")
    return name, key


def _client(endpoint: str | None) -> Any:
    session = boto3.session.Session()
    config = Config(
        retries={"mode": "standard", "total_max_attempts": 1},  # the tries are ours, as a body may break off too
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        s3={"addressing_style": "path" if endpoint else "auto"},
        signature_version=None if session.get_credentials() else UNSIGNED,  # a public bucket wants no signature
    )
    return session.client("s3", endpoint_url=endpoint, config=config, region_name=session.region_name or "us-east-1")


@contextmanager
def _told(where: str, name: str) -> Iterator[None]:
    """What the service or the way to it says against it, as one of the errors that a user can act on."""
    try:
        yield
    except ClientError as error:
        code = error.response["Error"]["Code"]
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        if code == "NoSuchBucket":
            raise no_file(where, f"there is no bucket {name!r}") from error
        if code in ("NoSuchKey", "404"):
            raise no_file(where, "the bucket is there, the object is not") from error
        if code == "PreconditionFailed":
            raise moved(where) from error
        if code in DENIED or status in (401, 403):
            raise forbidden(where, f"the service answered {code}") from error
        if status >= 500 or status == 429 or code in BUSY:
            after = error.response["ResponseMetadata"].get("HTTPHeaders", {}).get("retry-after")
            raise TransientError(f"the service answered {code}", wanted_pause(where, after)) from error
        raise DataError(f"{where}: the service answered {code}; check the address and the endpoint") from error
    except ParamValidationError as error:
        raise DataError(f"{where} is no address of an object: {' '.join(str(error).split())[:200]}") from error
    except (HTTPClientError, BotoCoreError) as error:
        raise TransientError(f"no answer of the service ({type(error).__name__})") from error
    except ValueError as error:  # of an endpoint that is no URL
        raise DataError(f"{where}: {error}; correct endpoint: in params.yaml") from error
