"""A released model of two columns and a prediction log in the service's own format, made for the tests of the monitor."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from prometheus_client import Counter

from serving.bundle import Bundle, load_bundle
from serving.records import Answered, Truth, answered_batch, parquet, truth_batch
from tasks.cloud.storage import open_storage
from tasks.core.encoder import Words
from tasks.core.reference import Reference, fit_reference, kinds
from tasks.core.runtime import Network
from tasks.params import with_values
from tasks.releases import Releases
from tasks.shards import write_parquet
from tests.conftest import ROOT
from tests.serving.stores import FREE, make_bundle, network, promote, seal

TESTED = 20_000  # rows of the reference
DAY = datetime(2026, 3, 2, tzinfo=UTC)
WITHHELD = Counter("watched_withheld", "of the tests", ["column"])
CARRIERS = ("UA", "AA", "DL")
SHARES = (0.5, 0.3, 0.2)


@dataclass(frozen=True)
class Rows:
    """Raw rows, what the model says of them, and what came."""

    rows: list[dict[str, Any]]
    told: list[float]
    truth: list[int]


Change = Callable[[dict[str, Any], np.random.Generator], Mapping[str, Any]]


def draw(count: int, seed: int, change: Change | None = None, late: float = 0.0) -> Rows:
    """Rows as they are without drift, each changed; `late` more of them come true than the model says."""
    chance = np.random.default_rng(seed)
    distance, carrier = chance.normal(5, 2, count), chance.choice(CARRIERS, count, p=SHARES)
    told = 1 / (1 + np.exp(-(0.5 * (distance - 5) + (carrier == "AA") - 1)))
    truth = chance.random(count) < told * (1 - late) + late
    rows: list[dict[str, Any]] = [{"distance": float(d), "carrier": str(c)} for d, c in zip(distance, carrier, strict=True)]
    if change:
        rows = [dict(change(row, chance)) for row in rows]
    return Rows(rows, told.tolist(), truth.astype(int).tolist())


def reference() -> Reference:
    """That of the rows without drift."""
    made = draw(TESTED, seed=0)
    carriers = np.array([row["carrier"] for row in made.rows])
    words, places = np.unique(carriers, return_inverse=True)
    columns = {"distance": np.array([row["distance"] for row in made.rows]), "carrier": Words(words.tolist(), places)}
    slices = {f"carrier={word}": carriers == word for word in CARRIERS}
    return fit_reference(FREE.target, kinds(FREE), columns, np.array(made.truth), np.array(made.told), slices)


@dataclass(frozen=True)
class Watched:
    """A workspace with one release in production, and its log."""

    workspace: Path
    bundle: Bundle

    @property
    def log(self) -> Path:
        return self.workspace / "predictions" / "flights"

    @property
    def store(self) -> Path:
        return self.workspace / "releases"

    def set(self, *settings: str) -> None:
        params = self.workspace / "params.yaml"
        params.write_text(with_values(params.read_text(), [f"monitor.{one}" for one in settings]))

    def write(
        self,
        made: Rows,
        day: datetime = DAY,
        *,
        channel: str = "production",
        hours: Sequence[int] = tuple(range(24)),
        truth: float = 0.0,
        received: datetime | None = None,
        bundle: Bundle | None = None,
        name: str = "r",
    ) -> None:
        """The rows are in the log, spread over the hours of the day; a share of them has its truth, received at the day's end."""
        own, parts = bundle or self.bundle, np.array_split(np.arange(len(made.rows)), len(hours))
        for hour, part in zip(hours, parts, strict=True):
            when = day + timedelta(hours=hour)
            entries = [
                Answered(
                    when.timestamp() + 3599 * i / len(part), own, f"{name}-{day:%m%d}-{place}", [made.rows[place]],
                    np.array([made.told[place]], np.float32), channel, None,
                )
                for i, place in enumerate(part)
            ]  # fmt: skip
            self.file(f"date={when:%Y-%m-%d}/hour={when:%H}/{name}.parquet", parquet([answered_batch(entries, WITHHELD)]))
        if truth:
            last = received or day + timedelta(hours=23)
            told = range(int(truth * len(made.rows)))
            truths = [Truth(last.timestamp(), own, f"{name}-{day:%m%d}-{i}", str(made.truth[i]), None) for i in told]
            self.file(f"feedback/date={last:%Y-%m-%d}/{name}.parquet", parquet([truth_batch(truths)]))

    def set_table(self, made: Rows, day: datetime) -> None:
        """The workspace's table holds the rows, all at that day's noon, and others of another day."""
        columns = {name: [*(row.get(name) for row in made.rows), None] for name in ("distance", "carrier")}
        times = [*[day.replace(tzinfo=None) + timedelta(hours=12)] * len(made.rows), day.replace(tzinfo=None) - timedelta(days=9)]
        folder = self.workspace / "data/valid"
        folder.mkdir(parents=True)
        write_parquet(pa.table({**columns, "time": times}), folder / "00000.parquet")

    def file(self, key: str, content: bytes) -> None:
        path = self.log / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def records(self) -> dict[str, dict[str, Any]]:
        """The ledger: by file name the record."""
        home = self.store / "monitor" / "flights"
        return {p.name: json.loads(p.read_text()) for p in sorted(home.glob("*Z*.json")) if not p.name.endswith(".told.json")}


def make_watched(folder: Path, model: bytes | None = None) -> Watched:
    """The workspace: the repository's params.yaml for a model of two columns."""
    folder.mkdir(parents=True, exist_ok=True)
    model = model or network(folder / "graph")
    bundle = folder / "bundle"
    make_bundle(bundle, model, lambda row: 0.5)
    (bundle / "reference.json").write_text(json.dumps(reference().to_json()))
    loaded = _load(bundle)
    text = (ROOT / "params.yaml").read_text()
    table = "table.numbers=[distance]", "table.categories=[carrier]", "table.slices=[carrier]"
    (folder / "params.yaml").write_text(with_values(text, [*table, "monitor.min_rows=500"]))
    shutil.copy(ROOT / "dvc.yaml", folder)
    releases = Releases(open_storage(folder / "releases"))
    releases.put(bundle)
    promote(folder / "releases", loaded.version)
    return Watched(folder, loaded)


def _load(folder: Path) -> Bundle:
    """The bundle, its golden rows answered as its own network does."""
    seal(folder)
    golden = json.loads((folder / "golden.json").read_text())
    scores = Network((folder / "model.tflite").read_bytes())(FREE.encode_rows(golden["instances"]))
    (folder / "golden.json").write_text(json.dumps({**golden, "predictions": FREE.target.answer(scores)}))
    seal(folder)
    return load_bundle(folder)


def other_version(watched: Watched) -> Bundle:
    """A bundle of another version, which is not in the store."""
    return replace(watched.bundle, version="0123456789ab")
