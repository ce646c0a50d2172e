"""Whether a workspace is whole: params, graph, sources, secrets, locks, remote and release. Changes nothing, shows no secret."""

import glob
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tasks.claim import refuse_if_busy
from tasks.core.errors import ParamsError, TidemillError
from tasks.credentials import read_secret
from tasks.freeze import SCHEMA
from tasks.health import CODE, Check, ok
from tasks.health_reach import check_remote, reach
from tasks.params import SECRETS, ApiSource, FileSource, PackageSource, Params, Release, Source, SqlSource, read_yaml
from tasks.releases import ReleaseError, open_releases, telling, verify_files
from tasks.sources.lock import read_lock
from tasks.sources.places import locate


def workspace_checks(workspace: Path) -> list[Callable[[], list[Check]]]:
    """Every look at the workspace; at params alone when they cannot be read, since all else stands in them."""
    path = workspace / "params.yaml"
    if not path.exists():
        remedy = "python -m flows.new DIR --data SOURCE --target COLUMN makes a workspace; --workspace DIR names one"
        return [lambda: [Check("params", "fault", f"{workspace} has no params.yaml", remedy)]]
    try:
        params = Params.load(path)
    except ParamsError as error:
        said = str(error)
        return [lambda: [Check("params", "fault", said, "correct that line")]]
    return [
        lambda: [ok("params", f"{path} is valid")],
        lambda: [check_graph(workspace)],
        *(lambda name=name, source=source: [check_source(name, source, workspace)] for name, source in params.sources.items()),
        lambda: list(check_secrets(params)),
        lambda: [check_lock(workspace, params), check_schema(workspace), check_run(workspace)],
        lambda: [check_remote(workspace)],
        lambda: [check_release(workspace, params.release)],
    ]


def check_graph(workspace: Path) -> Check:
    """dvc.yaml, what it depends on of the code, and DVC's own folder."""
    graph = workspace / "dvc.yaml"
    if not graph.is_file():
        return Check("graph", "fault", f"{workspace} has no dvc.yaml", f"cp {CODE / 'dvc.yaml'} {workspace}")
    stages = read_yaml(graph.read_text())["stages"].values()
    code = sorted({dep for stage in stages for dep in stage["deps"] if dep.startswith("tasks/")})
    absent = [dep for dep in code if not (workspace / dep).exists()]
    if absent:
        link, newer = f"ln -sfn {CODE / 'tasks'} {workspace / 'tasks'}", f"cp {CODE / 'dvc.yaml'} {workspace}"
        remedy = link if len(absent) == len(code) else newer
        return Check("graph", "fault", f"{len(absent)} of {len(code)} files of code are not there: {absent[:3]}", remedy)
    if not any((folder / ".dvc").is_dir() for folder in (workspace, *workspace.parents)):
        return Check("graph", "fault", "no .dvc folder here or above", "dvc init, or dvc init --subdir in a larger repository")
    return ok("graph", f"dvc.yaml and its {len(code)} files of code are there")


def check_source(name: str, source: Source, workspace: Path) -> Check:
    """Whether it is where params.yaml says, without a look at its content."""
    what = f"source {name}"
    match source:
        case FileSource() if "://" in source.file:
            return reach(what, source.endpoint or source.file)
        case FileSource():
            place = workspace / source.file
            here = [place] if place.exists() else glob.glob(str(place))  # noqa: PTH207  whose pattern may start at the root
            missing = Check(what, "fault", f"no file {source.file!r}", "put it there, or correct sources in params.yaml")
            return ok(what, f"{len(here)} file{'s' * (len(here) > 1)} at {source.file}") if here else missing
        case PackageSource():
            try:
                locate(name, source, workspace)
            except TidemillError as error:
                return Check(what, "fault", str(error), "install the package, or correct sources in params.yaml")
            return ok(what, f"in the package {source.package}")
        case SqlSource() if source.url.startswith("sqlite"):
            file = workspace / source.url.partition(":///")[2]
            missing = Check(what, "fault", f"no file {str(file)!r}", "correct the url in params.yaml")
            return ok(what, f"the database {file.name} is there") if file.is_file() else missing
        case SqlSource() | ApiSource():
            return reach(what, source.url)
        case _:
            raise AssertionError(source)


def check_secrets(params: Params) -> Iterator[Check]:
    """Each secret that params.yaml names, by its name."""
    for reference in sorted(set(_references(params.model_dump(mode="json")))):
        try:
            read_secret(reference)
        except ParamsError as error:
            if reference.startswith("prefect:"):
                yield Check("secret", "warning", f"{reference} is looked up by the run", "make the block under Blocks in Prefect")
            else:
                yield Check("secret", "fault", str(error), f"export {reference.partition(':')[2]}=...")
        else:
            yield ok("secret", f"{reference} is set")


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key in SECRETS and isinstance(value, str) and value.startswith(("env:", "prefect:")):
                yield value
            yield from _references(value)


def check_lock(workspace: Path, params: Params) -> Check:
    path = workspace / "sources.lock"
    if not path.exists():
        return Check("sources.lock", "warning", "not there yet", "the first run writes it; commit it then")
    try:
        locked = read_lock(path)
    except TidemillError as error:
        return Check("sources.lock", "fault", str(error), "git checkout sources.lock")
    if other := sorted(set(locked) ^ set(params.sources)):
        return Check("sources.lock", "warning", f"does not name the sources of params.yaml: {other}", "the next run rewrites it")
    return ok("sources.lock", f"names {len(locked)} source{'s' * (len(locked) != 1)}")


def check_schema(workspace: Path) -> Check:
    if (workspace / SCHEMA).is_file():
        return ok("schema", f"{SCHEMA} is there")
    return Check("schema", "warning", f"no {SCHEMA} yet", "the first run infers it; look through it then, and commit it")


def check_run(workspace: Path) -> Check:
    """Whether a run has the workspace, or DVC's own lock names a process that is gone."""
    try:
        refuse_if_busy(workspace)
    except TidemillError as error:
        return Check("run", "warning", str(error), "wait, or stop it")
    return ok("run", "nobody has the workspace")


def check_release(workspace: Path, values: Release) -> Check:
    """Every file of the release in production against its manifest."""
    try:
        with telling(), TemporaryDirectory() as folder:
            releases = open_releases(workspace, values.store, values.kms_key)
            found = releases.channel("production")
            if found is None:
                return Check("release", "warning", "nothing is released yet", "python -m flows.train")
            home = releases.fetch(found[0].version, Path(folder))
            files = verify_files(home)["files"]
    except ReleaseError as error:
        remedy = "python -m flows.train publishes it again, python -m flows.rollout rollback goes to the one before"
        return Check("release", "fault", str(error), remedy)
    return ok("release", f"{found[0].version}, {len(files)} files as its manifest says")
