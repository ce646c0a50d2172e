"""Whether other machines answer: a source's host, and the remote that data and models are pushed to. Sends no data."""

import configparser
import socket
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

from tasks.health import Check, ok

SECONDS = 2.0  # to wait for another machine
PORTS = {"http": 80, "https": 443, "postgresql": 5432, "postgres": 5432, "mysql": 3306, "mariadb": 3306, "mssql": 1433}


def reach(what: str, url: str) -> Check:
    """Whether something listens where the URL points; of the URL only host and port are shown, and nothing is sent."""
    parts = urlsplit(url)
    port = parts.port or PORTS.get(parts.scheme.partition("+")[0])
    if not parts.hostname or not port:
        return Check(what, "warning", f"{parts.scheme}:// is not looked at here", "the next run tells")
    try:
        socket.create_connection((parts.hostname, port), timeout=SECONDS).close()
    except OSError as error:
        said = error.strerror or str(error)
        return Check(
            what, "fault", f"{parts.hostname}:{port} does not answer: {said}", "start it, or correct the url or the network"
        )
    return ok(what, f"{parts.hostname}:{port} answers")


def check_remote(workspace: Path) -> Check:
    """Where `dvc push` would bring data and models."""
    config = configparser.ConfigParser(interpolation=None, strict=False)
    config.read([workspace / ".dvc/config", workspace / ".dvc/config.local"])
    remotes = {name[9:-2]: dict(config[name]) for name in config.sections() if name.startswith("'remote \"")}
    if not remotes:
        return Check("remote", "warning", "no DVC remote: data and models are on this machine alone", "dvc remote add -d NAME URL")
    name = config.get("core", "remote", fallback=next(iter(remotes)))
    if name not in remotes:
        return Check(
            "remote", "fault", f"core.remote names {name!r}, which is none of {sorted(remotes)}", "dvc remote default NAME"
        )
    remote = remotes[name]
    url = remote.get("url", "")
    if url.startswith("s3://"):
        return _bucket(name, remote)
    if "://" in url:
        return reach(f"remote {name}", url)
    folder = workspace / ".dvc" / url
    missing = Check(f"remote {name}", "warning", f"no folder {url!r} yet", "the first dvc push makes it, if its disk is there")
    return ok(f"remote {name}", f"the folder {url} is there") if folder.is_dir() else missing


def _bucket(name: str, remote: dict[str, str]) -> Check:
    import boto3  # half a second that other workspaces need not wait
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    what, bucket = f"remote {name}", urlsplit(remote["url"]).netloc
    config = Config(connect_timeout=SECONDS, read_timeout=SECONDS, retries={"total_max_attempts": 1})
    try:
        session = boto3.Session(
            profile_name=remote.get("profile"),
            region_name=remote.get("region"),
            aws_access_key_id=remote.get("access_key_id"),
            aws_secret_access_key=remote.get("secret_access_key"),
            aws_session_token=remote.get("session_token"),
        )
        with closing(session.client("s3", endpoint_url=remote.get("endpointurl"), config=config)) as client:
            client.head_bucket(Bucket=bucket)
    except ClientError as error:
        code = error.response["ResponseMetadata"]["HTTPStatusCode"]
        why = {403: "access is denied", 404: "there is no such bucket"}.get(code, f"it answers {code}")
        return Check(what, "fault", f"s3://{bucket}: {why}", "correct the remote, or the credentials in the environment")
    except (BotoCoreError, ValueError) as error:
        remedy = "correct the endpoint, the network or the credentials"
        return Check(what, "fault", f"s3://{bucket}: {type(error).__name__}", remedy)
    return ok(what, f"s3://{bucket} answers")
