"""A new workspace's folder: all of it or none, never over anything that is there."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.core.errors import ParamsError, TidemillError
from tasks.stage import discard, replacing

CODE = Path(__file__).resolve().parent
OWN = ("params.yaml", "dvc.yaml", "sources.lock", "dvc.lock", "tasks")  # what makes a folder a workspace
IGNORED = (
    "/tasks\n/.cache/\n/data/*\n!/data/schema.pbtxt\n!/data/released.pb\n/models/\n/reports/\n/logs/\n/releases/\n/predictions/\n"
    "/keys.json\n/*.pem\n"
)
DVC = {  # what `dvc init` writes, without its telemetry
    ".dvc/config": "[core]\n    analytics = false\n    check_update = false\n",
    ".dvc/.gitignore": "/config.local\n/tmp\n/cache\n",
    ".dvcignore": "",
}


def refuse_workspace(folder: Path) -> None:
    """ParamsError when the folder cannot become a workspace: it is one, or no folder."""
    if folder.exists() and not folder.is_dir():
        raise ParamsError(f"{folder} is a file; name a folder that is new, or one without a workspace")
    if there := [name for name in OWN if os.path.lexists(folder / name)]:
        raise ParamsError(f"{folder} holds {there} already; nothing was changed: name another folder")
    if shutil.which("git") is None:
        raise TidemillError("git is not installed; a workspace keeps its params.yaml and locks in git")
    if not (CODE.parent / "dvc.yaml").is_file():
        raise TidemillError(f"{CODE.parent} has no dvc.yaml: run from a checkout of Tidemill, installed with `pip install -e .`")


@contextmanager
def building(folder: Path) -> Iterator[Path]:
    """A folder aside to build in; when the block ends well, everything in it stands in `folder`, else nothing does."""
    above = next(parent for parent in folder.parents if parent.is_dir())
    aside = above / f".{folder.name}.partial"
    discard(aside)
    aside.mkdir()
    try:
        yield aside
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.exists() and any(folder.iterdir()):
            _move_into(aside, folder)
        else:
            aside.replace(folder)
    finally:
        discard(aside)


def fill(aside: Path, folder: Path, params: str) -> None:
    """`aside` holds what `folder` needs to be a workspace: params, graph, code by a link, git and DVC where there is none."""
    (aside / "params.yaml").write_text(params, encoding="utf-8")
    shutil.copy(CODE.parent / "dvc.yaml", aside)
    # The graph names code by its place in the workspace. A link, not a copy: with the code updated, stages run again.
    (aside / "tasks").symlink_to(CODE)
    (aside / ".gitignore").write_text(IGNORED)
    for name, text in DVC.items():
        (aside / name).parent.mkdir(exist_ok=True)
        (aside / name).write_text(text)
    if not in_git(folder):
        done = subprocess.run(["git", "init", "--quiet"], cwd=aside, capture_output=True, text=True)
        if done.returncode:
            raise TidemillError(f"git init failed: {' '.join(done.stderr.split())}")


def link_code(workspace: Path) -> None:
    """The workspace has the code that its graph names: a fresh clone of one lacks the link, which git must not keep."""
    if not os.path.lexists(workspace / "tasks"):
        (workspace / "tasks").symlink_to(CODE)


def in_git(folder: Path) -> bool:
    """Whether the folder, which may not be there yet, lies in a working tree of git."""
    above = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    done = subprocess.run(["git", "rev-parse", "--is-inside-work-tree"], cwd=above, capture_output=True, text=True)
    return done.stdout.strip() == "true"


def _move_into(aside: Path, folder: Path) -> None:
    """Every entry of `aside` that `folder` lacks stands there, and what git must not keep; on a failure none of the entries."""
    moved: list[Path] = []
    try:
        for entry in sorted(aside.iterdir(), key=lambda entry: entry.name == "params.yaml"):  # which makes it a workspace, last
            if not os.path.lexists(folder / entry.name):
                entry.rename(folder / entry.name)
                moved.append(folder / entry.name)
        _ignore(folder / ".gitignore")
    except OSError:
        for path in moved:
            discard(path)
        raise


def _ignore(path: Path) -> None:
    """Every line of IGNORED stands in the file, and all else that did."""
    text = path.read_text(encoding="utf-8")
    lacking = [line for line in IGNORED.splitlines() if line not in text.splitlines()]
    if lacking:
        with replacing(path) as aside:
            aside.write_text(text + "\n" * (bool(text) and not text.endswith("\n")) + "\n".join(lacking) + "\n", encoding="utf-8")
