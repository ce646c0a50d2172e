"""What the service did in the last hour: every ten seconds a sample of its own totals, and what these tell of a model.

A request costs nothing more for it. Of several worker processes the first to come takes the sample of all and leaves it in the
metrics' folder, where the others find it: each tells the same, also one that was started again.
"""

import asyncio
import os
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from serving.metrics import FOLDER, SECONDS, Metrics
from serving.models import Model
from serving.request import RequestError
from tasks.core.encoder import Encoder
from tasks.core.expected import Expected, by_chance, counted_columns, distance, edges_of, labels_of

EVERY = 10.0  # seconds between two samples
WINDOW = 3600.0  # seconds that they reach back
DRIFT = 300.0  # seconds of answers that are held against the expected ones
FEWEST = 30  # answers, for their distribution to be one
PREDICTIONS = ("predict", "infer")  # the routes that count as traffic
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
COUNTED = ("requests", "refused", "failed", "rows")
SERIES = ("time", *COUNTED, *QUANTILES, "distance", "chance")
Sample = dict[str, Any]


class Live:
    """The samples of the last hour, in memory as JSON, and of several workers in files: at most one for each EVERY seconds."""

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics
        self.folder = Path(os.environ[FOLDER]) / "live" if metrics.shared else None
        self.samples: dict[int, bytes] = {}  # by the number of their EVERY seconds since 1970
        self.told: dict[str, tuple[tuple[int, str], dict[str, Any]]] = {}
        self.lock, self.guard = asyncio.Lock(), threading.Lock()

    def start(self) -> None:
        """Nothing was asked yet, and a sample says so."""
        if self.folder:
            self.folder.mkdir(exist_ok=True)
        self._sample(int(time.time() // EVERY))

    async def follow(self) -> None:
        """Takes a sample again and again, at the same times as every other worker."""
        while True:
            await asyncio.sleep(EVERY - time.time() % EVERY)
            self.metrics.settle()
            await asyncio.to_thread(self._sample, int(time.time() // EVERY))

    async def tell(self, model: Model) -> dict[str, Any]:
        """The last hour of the model, as its release in production sees it; worked out once for each sample."""
        served = model.current
        shadow = model.shadow.served.version if model.shadow else None
        async with self.lock:  # of many who look at once the first works it out
            newest, samples = await asyncio.to_thread(self._look)
            asked = (newest, served.version)
            if (known := self.told.get(model.name)) is None or known[0] != asked:
                facts = (model.name, served.version, shadow, served.bundle.encoder, served.bundle.expected)
                known = self.told[model.name] = (asked, await asyncio.to_thread(tell, samples, *facts))
        return known[1]

    async def trials(self, model: Model) -> dict[str, dict[str, int]]:
        """By channel the requests that a trial under way was tried on and could not answer, in all workers by the last sample."""
        samples = (await asyncio.to_thread(self._look))[1]
        tried = orjson.loads(samples[-1])["trials"].get(model.name, {})
        none = {"requests": 0, "errors": 0}
        return {name: tried.get(name, {}).get(trial.served.version, none) for name, trial in model.trials.items()}

    def _sample(self, slot: int) -> None:
        """The sample of this slot is there, unless another worker is at it.

        One is missing when the disk is full, or a worker is just making room in its file, which reads as a broken one.
        """
        if self.folder is None:
            with self.guard:
                self.samples.setdefault(slot, take(self.metrics))
                self._forget(slot)
            return
        path, partial = self.folder / f"{slot}.json", self.folder / f"{slot}.partial"
        with suppress(OSError, RuntimeError, ValueError), partial.open("xb") as file:
            if path.exists():  # its taker was done before
                partial.unlink()
                return
            file.write(take(self.metrics))
            file.flush()
            partial.replace(path)
            for old in self.folder.iterdir():
                if int(old.stem) < slot - WINDOW / EVERY:
                    old.unlink()

    def _look(self) -> tuple[int, list[bytes]]:
        """The slot of the newest sample, and all samples in their order; RequestError 503 while there is none."""
        with self.guard:
            for path in self.folder.glob("*.json") if self.folder else ():
                if int(path.stem) not in self.samples:
                    with suppress(FileNotFoundError):  # grown old meanwhile
                        self.samples[int(path.stem)] = path.read_bytes()
            if not self.samples:
                raise RequestError(503, "no sample yet; come again", retry_after=1)
            self._forget(max(self.samples))
            return max(self.samples), [self.samples[slot] for slot in sorted(self.samples)]

    def _forget(self, now: int) -> None:
        for old in [slot for slot in self.samples if slot < now - WINDOW / EVERY]:
            del self.samples[old]


def take(metrics: Metrics) -> bytes:
    """The totals by now, as JSON: answers by kind, latency by bucket, rows and answers by version, and trials."""
    found: Sample = {
        "at": time.time(),
        "answers": [0.0, 0.0, 0.0],
        "seconds": [0.0] * (len(SECONDS) + 1),
        "models": {},
        "trials": {},
    }
    places = {edge: place for place, edge in enumerate((*SECONDS, float("inf")))}
    for family in metrics.everyone().collect():
        for sample in family.samples:
            labels, value = sample.labels, sample.value
            match sample.name:
                case "tidemill_requests_total" if labels["route"] in PREDICTIONS:
                    found["answers"][min(2, max(0, int(labels["status"]) // 100 - 3))] += value
                case "tidemill_request_seconds_bucket" if labels["route"] in PREDICTIONS:
                    found["seconds"][places[float(labels["le"])]] += value
                case "tidemill_prediction_bucket" | "tidemill_prediction_spreads_bucket":
                    counts = _version(found, labels)["scores"].setdefault(labels.get("class_", ""), [])
                    counts.append((float(labels["le"]), value))
                case "tidemill_trial_requests_total" | "tidemill_trial_errors_total":
                    trials = found["trials"].setdefault(labels["model"], {}).setdefault(labels["channel"], {})
                    kind = "errors" if "errors" in sample.name else "requests"
                    trials.setdefault(labels["version"], {"requests": 0, "errors": 0})[kind] = int(value)
                case "tidemill_missing_values_total" if value:
                    _version(found, labels)["missing"][labels["column"]] = value
                case "tidemill_unknown_categories_total" if value:
                    _version(found, labels)["unknown"][labels["column"]] = value
    for versions in found["models"].values():
        for one in versions.values():
            one["scores"] = {label: [count for _, count in sorted(counts)] for label, counts in one["scores"].items()}
    return orjson.dumps(found)


def _version(found: Sample, labels: Mapping[str, str]) -> Sample:
    versions: dict[str, Sample] = found["models"].setdefault(labels["model"], {})
    return versions.setdefault(labels["version"], {"scores": {}, "missing": {}, "unknown": {}})


def tell(
    samples: Sequence[bytes], name: str, version: str, shadow: str | None, encoder: Encoder, expected: Expected | None
) -> dict[str, Any]:
    """What the samples, of which there is one at least, say of the model; what was not asked for in a span of time is None.

    Traffic and latency are those of the whole service; rows are those of the model that were answered, by whatever version but the
    `shadow`'s; scores, distances and columns are those of this version. Seconds, and shares between 0 and 1.
    """
    found = [orjson.loads(sample) for sample in samples]
    labels, buckets = labels_of(encoder.target), len(edges_of(encoder.target)) + 1
    scores = [_scores(sample, name, version, labels, buckets) for sample in found]
    rows = [_rows(sample, name, shadow) for sample in found]
    series: dict[str, list[float | None]] = {kind: [] for kind in SERIES}
    start = 0
    for i in range(1, len(found)):
        before, now = found[i - 1], found[i]
        while start < i - 1 and found[start + 1]["at"] <= now["at"] - DRIFT:
            start += 1
        span = max(now["at"] - before["at"], 1e-3)
        answers = [b - a for a, b in zip(before["answers"], now["answers"], strict=True)]
        series["time"].append(round(now["at"], 1))
        counts = dict(zip(COUNTED, (sum(answers), *answers[1:], rows[i] - rows[i - 1]), strict=True))
        for kind, count in counts.items():
            series[kind].append(_short(count / span))
        seconds = [b - a for a, b in zip(before["seconds"], now["seconds"], strict=True)]
        for kind, share in QUANTILES.items():
            series[kind].append(quantile(seconds, share))
        apart, chance = _drift(_less(scores[i], scores[start]), expected)
        series["distance"].append(apart)
        series["chance"].append(chance)
    first, last = found[0], found[-1]
    answers = [b - a for a, b in zip(first["answers"], last["answers"], strict=True)]
    seconds = [b - a for a, b in zip(first["seconds"], last["seconds"], strict=True)]
    lie = _less(scores[-1], scores[0])
    counted = int(sum(lie[labels[0]]))
    apart, chance = _drift(lie, expected)
    return {
        "model": name,
        "version": version,
        "since": round(first["at"], 1),
        "until": round(last["at"], 1),
        "every": EVERY,
        "totals": {
            **dict(zip(COUNTED, map(int, (sum(answers), *answers[1:], rows[-1] - rows[0])), strict=True)),
            **{kind: quantile(seconds, share) for kind, share in QUANTILES.items()},
        },
        "series": series,
        "scores": {
            "unit": "standard deviations" if encoder.target.task == "regression" else "probability",
            "edges": edges_of(encoder.target),
            "rows": counted,
            "live": {label: [_short(count / counted) for count in lie[label]] for label in labels} if counted else None,
            "expected_rows": expected.tested if expected else None,
            "expected": expected.scores if expected else None,
            "distance": apart,
            "chance": chance,
            "distance_seconds": DRIFT,
        },
        "columns": _columns(first, last, name, version, encoder, expected, counted),
    }


def quantile(counts: Sequence[float], share: float) -> float | None:
    """The seconds that this share of the answers took at most, between a bucket's edges by a straight line; None without answers.

    `counts` are cumulative, by SECONDS and beyond: beyond the last edge nothing is known but that it was passed. It is what
    Prometheus' histogram_quantile says.
    """
    if not counts[-1]:
        return None
    rank = share * counts[-1]
    place = next(i for i, count in enumerate(counts) if count >= rank)
    if place == len(SECONDS):
        return SECONDS[-1]
    low, below = (SECONDS[place - 1], counts[place - 1]) if place else (0.0, 0.0)
    return _short(low + (SECONDS[place] - low) * (rank - below) / (counts[place] - below))


def _scores(sample: Sample, name: str, version: str, labels: Sequence[str], buckets: int) -> dict[str, list[float]]:
    """The version's answers so far by class and bucket."""
    told = sample["models"].get(name, {}).get(version, {}).get("scores", {})
    cumulated = {label: told.get(label) or [0.0] * buckets for label in labels}
    return {label: [b - a for a, b in zip([0.0, *some], some, strict=False)] for label, some in cumulated.items()}


def _rows(sample: Sample, name: str, shadow: str | None) -> float:
    """Rows of the model that were answered so far; the shadow answers nobody."""
    versions = sample["models"].get(name, {})
    return sum(next(iter(one["scores"].values()), [0.0])[-1] for version, one in versions.items() if version != shadow)


def _less(now: Mapping[str, list[float]], before: Mapping[str, list[float]]) -> dict[str, list[float]]:
    return {label: [b - a for a, b in zip(before[label], some, strict=True)] for label, some in now.items()}


def _drift(lie: Mapping[str, list[float]], expected: Expected | None) -> tuple[float | None, float | None]:
    """How far the answers lie from the expected ones, at the class where most, and how far chance alone would take them."""
    rows = int(sum(next(iter(lie.values()))))
    if expected is None or rows < FEWEST:
        return None, None
    apart = max(distance(some, expected.scores[label]) for label, some in lie.items())
    return _short(apart), _short(min(1.0, by_chance(rows, expected.tested, len(lie))))


def _columns(
    first: Sample, last: Sample, name: str, version: str, encoder: Encoder, expected: Expected | None, rows: int
) -> list[dict[str, Any]]:
    """Of each column that is counted the share of rows without a value or with a word never learned, now and in training."""
    before, now = (sample["models"].get(name, {}).get(version, {}) for sample in (first, last))
    flagged, words = counted_columns(encoder)

    def share(what: str, column: str) -> dict[str, float | None]:
        count = now.get(what, {}).get(column, 0) - before.get(what, {}).get(column, 0)
        wanted: Mapping[str, float] = getattr(expected, what) if expected else {}
        return {"live": _short(count / rows) if rows else None, "expected": wanted.get(column)}

    return [
        {"column": column, "missing": share("missing", column), "unknown": share("unknown", column) if column in words else None}
        for column in (*flagged, *words)
    ]


def _short(value: float) -> float:
    """Six digits, which a picture needs no more of."""
    return float(f"{value:.6g}")
