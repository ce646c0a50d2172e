"""Whether this machine can run Tidemill: versions, programs, ports, disk, memory, and a Prefect server. Changes nothing."""

import importlib.metadata
import platform
import re
import shutil
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import psutil
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from tasks import server

CODE = Path(__file__).resolve().parent.parent
SETUP = "set the environment up again: make train, or uv pip install -r requirements.lock"
LOCKED = re.compile(r"^([A-Za-z0-9._-]+(?:\[[^\]]*\])?==[^\s\\;]+(?: *;[^\\]*)?)", re.MULTILINE)
LEAST_DISK, GOOD_DISK = 1e9, 5e9  # bytes: below the first nothing is written whole, the second is what a run and its cache take
LEAST_MEMORY, GOOD_MEMORY = 1e9, 3e9  # the stages peak at 1.4 GB on the flagship's table
SERVING_PORT = 8080

State = Literal["ok", "warning", "fault"]


@dataclass(frozen=True)
class Check:
    """One line of the doctor's: what was looked at, what was found, and what to do when that is not well."""

    what: str
    state: State
    found: str
    remedy: str = ""


def ok(what: str, found: str) -> Check:
    return Check(what, "ok", found)


def machine_checks(workspace: Path) -> list[Callable[[], list[Check]]]:
    """Every look at the machine, each independent of the others."""
    return [
        check_python,
        check_packages,
        check_programs,
        lambda: [check_disk(workspace)],
        lambda: [check_memory()],
        lambda: [check_port(SERVING_PORT, "serving"), *check_server()],
    ]


def check_python() -> list[Check]:
    wanted = SpecifierSet(importlib.metadata.metadata("tidemill")["Requires-Python"])
    found = platform.python_version()
    if found in wanted:
        return [ok("Python", f"{found} ({wanted} wanted)")]
    return [Check("Python", "fault", f"{found}, {wanted} wanted", "install a Python of that range and run make train")]


def check_packages() -> list[Check]:
    """Against pyproject.toml's bounds, outside of which nothing was tried, and the lock, which is what was tested."""
    needed = _unmet(importlib.metadata.requires("tidemill") or [])
    bounds = (
        Check("packages", "fault", f"outside pyproject.toml's bounds: {_few(needed)}", SETUP)
        if needed
        else ok("packages", "within pyproject.toml's bounds")
    )
    lock = CODE / "requirements.lock"
    if not lock.is_file():
        return [bounds]
    other = _unmet(LOCKED.findall(lock.read_text()))
    if other:
        return [bounds, Check("lock", "warning", f"{len(other)} packages are not as locked: {_few(other)}", SETUP)]
    return [bounds, ok("lock", "every package is as requirements.lock has it")]


def _unmet(requirements: list[str]) -> list[str]:
    """The requirements, meant for this platform, that are not met, with what is there instead."""
    unmet = []
    for text in requirements:
        requirement = Requirement(text.strip())
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            unmet.append(f"{requirement.name} is missing ({requirement.specifier or 'any'} wanted)")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            unmet.append(f"{requirement.name} {version} ({requirement.specifier} wanted)")
    return unmet


def _few(words: list[str]) -> str:
    return ", ".join(words[:4]) + (f" and {len(words) - 4} more" if len(words) > 4 else "")


def check_programs() -> list[Check]:
    git = shutil.which("git")
    if git is None:
        return [Check("git", "fault", "not found", "install git: workspaces keep params.yaml and locks in it")]
    said = subprocess.run([git, "--version"], capture_output=True, text=True, timeout=5, check=False).stdout.strip()
    if shutil.which("dvc") is None:
        return [ok("git", said), Check("dvc", "warning", "not on the PATH", "source .venv/bin/activate, to type `dvc repro`")]
    return [ok("git", said), ok("dvc", importlib.metadata.version("dvc"))]


def check_disk(folder: Path) -> Check:
    free = shutil.disk_usage(next(parent for parent in (folder, *folder.parents) if parent.exists())).free
    return _amount("disk", free, LEAST_DISK, GOOD_DISK, "make room: `dvc gc -w` drops cached versions that no commit names")


def check_memory() -> Check:
    free = psutil.virtual_memory().available
    return _amount("memory", free, LEAST_MEMORY, GOOD_MEMORY, "end other programs, or lower batch and rows in params.yaml")


def _amount(what: str, free: float, least: float, good: float, remedy: str) -> Check:
    found = f"{free / 1e9:,.1f} GB free"
    if free >= good:
        return ok(what, found)
    return Check(what, "fault" if free < least else "warning", f"{found}, {good / 1e9:.0f} wanted", remedy)


def check_port(port: int, whom: str) -> Check:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            said = (error.strerror or str(error)).lower()
            return Check(f"port {port}", "warning", f"cannot be had for {whom}: {said}", "python -m serving --port takes another")
    return ok(f"port {port}", f"free for {whom}")


def check_server() -> list[Check]:
    """The Prefect server that a run would use, or that it would start."""
    url = server.address()
    shown = re.sub(r"//[^/@]*@", "//", url)
    if server.answers(url):
        return [ok("Prefect", f"a server answers at {shown}")]
    parts = urlsplit(url)
    if parts.hostname not in ("127.0.0.1", "localhost", "::1"):
        return [Check("Prefect", "fault", f"no server answers at {shown}", "start it, or unset PREFECT_API_URL for a local one")]
    port = check_port(parts.port or 80, "Prefect's server")
    if port.state == "ok":
        return [ok("Prefect", f"no server at {shown} yet; the first run starts one")]
    return [Check("Prefect", "fault", f"another program has port {parts.port}", "PREFECT_API_URL=http://127.0.0.1:4300/api")]
