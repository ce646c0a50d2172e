"""Effect push: data and models of the workspace go to DVC's remote, from where a fresh clone pulls them."""

import contextlib
from pathlib import Path
from typing import Any

from tasks.child import run_child
from tasks.core.errors import TidemillError

NAME = "release"  # of the remote in .dvc/config, unless one with its URL has another


def push(workspace: Path, url: str, kms_key: str | None, log: Any) -> None:
    """The remote holds what dvc.lock names, and .dvc/config, which belongs into git, names the remote.

    TidemillError when it cannot be reached; what was pushed until then stays there, and the next push adds the rest.
    """
    name = set_remote(workspace, url, kms_key)
    if failed := run_child("publish", ["-m", "dvc", "push", "--remote", name, "--run-cache"], workspace, log):
        said = [line for line in failed.splitlines() if line.startswith("ERROR: ")] or failed.splitlines()
        raise TidemillError(
            f"nothing was released: dvc push to {url} failed; check the address, and the credentials in the environment: {said[-1]}"
        )


def set_remote(workspace: Path, url: str, kms_key: str | None) -> str:
    """.dvc/config has the URL as its default remote, encrypted with the key where there is one; returns the remote's name."""
    from dvc.config import ConfigError
    from dvc.repo import Repo

    wanted = {"url": url, **({"sse": "aws:kms", "sse_kms_key_id": kms_key} if kms_key else {})}
    try:
        with contextlib.chdir(workspace), Repo() as repo:
            remotes = repo.config["remote"]
            place = url if "://" in url else str(Path(url).absolute())
            same = [name for name, one in remotes.items() if one.get("url") in (url, place)]
            name = same[0] if same else NAME
            kept = same and all(remotes[name].get(key) == value for key, value in wanted.items() if key != "url")
            if not kept or repo.config["core"].get("remote") != name:
                with repo.config.edit("repo") as config:
                    config["remote"].setdefault(name, {}).update({**wanted, "url": place if "://" in url else url})
                    config["core"]["remote"] = name
    except ConfigError as error:
        raise TidemillError(f"release.remote {url!r}: {error}; expected a URL such as s3://bucket/prefix, or a folder") from error
    return name


def has_remote(workspace: Path) -> bool:
    """Whether there is a default remote to restore from."""
    from dvc.repo import Repo

    with contextlib.chdir(workspace), Repo() as repo:
        return bool(repo.config["core"].get("remote"))
