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

    secured = {"sse": "aws:kms", "sse_kms_key_id": kms_key} if kms_key else {}
    try:
        with contextlib.chdir(workspace), Repo() as repo:
            written = repo.config.load_one("repo")  # as it stands in git, without defaults and what is this machine's own
            remotes = written.get("remote", {})
            place = url if "://" in url else str(Path(url).resolve())
            name = next((name for name, one in remotes.items() if one.get("url") in (url, place)), NAME)
            before = remotes.get(name, {})
            ours = ("url", "sse", "sse_kms_key_id") if name == NAME else ("url",)  # of another one a user may have set the rest
            others = {key: value for key, value in before.items() if key not in ours}
            kept = {**others, **secured} == {key: value for key, value in before.items() if key != "url"}
            if not before or before["url"] not in (url, place) or not kept or written.get("core", {}).get("remote") != name:
                with repo.config.edit("repo") as config:
                    config["remote"][name] = {**others, "url": url, **secured}
                    config["core"]["remote"] = name
    except ConfigError as error:
        raise TidemillError(f"release.remote {url!r}: {error}; expected a URL such as s3://bucket/prefix, or a folder") from error
    return name


def has_remote(workspace: Path) -> bool:
    """Whether there is a default remote to restore from."""
    from dvc.repo import Repo

    with contextlib.chdir(workspace), Repo() as repo:
        return bool(repo.config["core"].get("remote"))
