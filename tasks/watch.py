"""Holds windows of live rows against the release that answered them, each once: counts, judges, records, writes the page."""

import json
import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any
from uuid import uuid4

import pandas as pd

from tasks.cloud.storage import Folder, Storage, open_storage
from tasks.columns import raw_columns
from tasks.core import drift, drift_report
from tasks.core.drift import LEAST_LABELLED, Floors, Test
from tasks.core.encoder import Encoder
from tasks.core.errors import DataError
from tasks.core.reference import Reference
from tasks.core.runtime import Network
from tasks.core.tally import Tally
from tasks.core.verdict import DriftReport, Finding, Verdict
from tasks.ledger import Ledger, Look, Marks, Span, report_of
from tasks.params import Params
from tasks.releases import ReleaseError, Releases, open_releases
from tasks.shards import read_shards
from tasks.stage import replacing
from tasks.window import (
    HOUR,
    Truths,
    Window,
    count_between,
    count_unknown,
    log_files,
    read_log,
    read_table,
    read_truths,
    sample_log,
    sample_table,
)

REFERENCE = "reference.json"
PAGE, EVIDENTLY = Path("reports/monitor.html"), Path("reports/evidently.html")
TEST_ROWS = Path("data/features/test_rows")
VALID = Path("data/valid")
YEAR = timedelta(days=364)  # so that the days of the week are the same ones
USUAL = 7  # windows whose quiet hours say which are usual
SHOWN = 60  # windows in the strip of the page
MOST_DUE = 20_000  # windows at once: two years of hours
READERS = 16  # of records at once
ABOUT: dict[Look, str] = {"rows": "rows", "truth": "what came"}  # looks that judge, and what of
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Judged:
    """A look at a window; `new` says whether it was judged now, or before, by this monitor or another, and `kept` whether it is on
    record."""

    span: Span
    look: Look
    report: DriftReport
    notes: tuple[str, ...]
    new: bool
    kept: bool = True


class Watch:
    """One workspace's model, its log, its releases and its ledger."""

    def __init__(self, workspace: Path, now: datetime | None = None) -> None:
        """ParamsError or StorageError for values or places that cannot be. `now` is the time to take for the present."""
        values = Params.load(workspace / "params.yaml")
        self.workspace, self.values, self.model, self.time_column = workspace, values.monitor, values.name, values.table.time
        self.missing_words = sorted({word for source in values.sources.values() for word in getattr(source, "missing", ())})
        self.now = (now or datetime.now(UTC)).replace(microsecond=0)  # as a record has it
        self.releases: Releases = open_releases(workspace, values.release.store, values.release.kms_key)
        self.ledger = Ledger(self.releases.storage, values.name)
        self._known: dict[Span, Marks] | None = None
        self.missing: dict[str, str] = {}  # by version why there is no reference
        self.references: dict[str, Reference | None] = {}

    @property
    def settled(self) -> datetime:
        """What came until then the service has written: a truth is taken by one look, however late its file."""
        return (self.now - timedelta(minutes=self.values.grace_minutes)).replace(microsecond=0)  # as a record has it too

    @cached_property
    def log(self) -> Storage:
        place = self.values.log
        return open_storage(place if "://" in place else self.workspace / place)

    @property
    def known(self) -> dict[Span, Marks]:
        """What was on record when the look at hand began; the ledger lets no two record the same look."""
        if self._known is None:
            self._known = self.ledger.spans()
        return self._known

    def due(self) -> list[tuple[Span, Look]]:
        """Every look that is due and not on record, the oldest first.

        Windows follow one another from the first file of the log, or the first on record, until now; the one that is not over, with
        the grace for its last rows, is left for later. Those that overlap one on record, of other hours, are not looked at again.
        """
        wide, known = timedelta(hours=self.values.hours), self.known
        first = next(iter(known), None)
        begin = first.start if first else self._first_hour()
        starts, ends = [span.start for span in known], [*accumulate((span.end for span in known), max)]
        found: list[tuple[Span, Look]] = []
        if begin is not None:
            start = EPOCH + wide * math.floor((begin - EPOCH) / wide)
            while start + wide <= self.settled:
                span = Span(start, start + wide)
                before = bisect_left(starts, span.end)
                if not before or ends[before - 1] <= span.start:
                    found.append((span, "rows"))
                start += wide
        if len(found) > MOST_DUE:
            raise DataError(
                f"{len(found):,} windows of {self.values.hours:g} hours are due since {begin:%Y-%m-%d %H:%M}, of the first row in "
                f"the log {self.values.log}; more than {MOST_DUE:,} mean a clock that was wrong, or too small a window: move what "
                "is older out of the log, or set monitor.hours"
            )
        spans = sorted([*(span for span, _ in found), *known])
        found += [(span, "truth") for span in spans if self.is_ripe(span) and not (span in known and "truth" in known[span].judged)]
        found += [
            (span, "late")
            for span, marks in known.items()
            if "truth" in marks.judged and "late" not in marks.judged and self.is_ripe(span, times=2)
        ]
        return sorted(found, key=lambda one: (one[0], ("rows", "truth", "late").index(one[1])))

    def untold(self) -> list[tuple[Span, Look]]:
        """What was judged and not made known, by a monitor that was killed between the two."""
        return [(span, look) for span, marks in self.known.items() for look in sorted(marks.judged - marks.told)]

    def is_ripe(self, span: Span, times: int = 1) -> bool:
        """Whether truths had so many times their time to come."""
        return span.end + times * timedelta(hours=self.values.truth_hours) <= self.settled

    def later(self, span: Span, look: Look) -> Verdict | None:
        """The last verdict that such a look at a later window came to, `unknown` where none could say more, None without any."""
        found: Verdict | None = None
        for one in reversed([one for one, marks in self.known.items() if one.start >= span.end and look in marks.judged]):
            if record := self.ledger.read(one, look):
                found = report_of(record).verdict
                if found != "unknown":
                    break
        return found

    def _off_record(self, span: Span) -> str:
        """Why a look at the window may not stand on record; empty where it may, or another look at it does."""
        if span in self.known:
            return ""
        wide = timedelta(hours=self.values.hours)
        if span.end - span.start != wide or (span.start - EPOCH) % wide:
            return f"it is none of the windows of {self.values.hours:g} hours"  # minutes of a day would keep the day from its look
        if any(one.start < span.end and span.start < one.end for one in self.known):
            return "it overlaps one on record"
        if any(one.start < span.start for one in self.known):
            return ""
        first = self._first_hour()
        return "it was before the log began" if first is None or span.end <= first else ""  # all since then would become due

    def is_blind(self) -> bool:
        """Whether there is no log to look at, nor ever was."""
        return not self.known and self._first_hour() is None

    def _first_hour(self) -> datetime | None:
        """The hour of the log's first file."""
        keys = self.log.keys(f"{self.model}/date=")
        days_ = sorted({key.split("/date=")[1][:10] for key in keys})
        for day in days_:
            try:
                start = datetime.fromisoformat(f"{day}T00:00:00+00:00")
            except ValueError:
                continue
            if hours := [hour for _, hour in log_files(self.log, self.model, start, start + timedelta(days=1))]:
                return min(hours)
        return None

    def judge(self, span: Span, look: Look) -> Judged:
        """The look at the window is on record: made now, or found there; one at a window that is to stay `_off_record` is not."""
        if found := self.ledger.read(span, look):
            return Judged(span, look, report_of(found), tuple(found["notes"]), False)
        self._known = None
        match look:
            case "rows":
                window, held = self._rows(span)
                verdict = self._of_rows(window, held)
            case "truth":
                window = self._truth(span)
                verdict = self._of_truth(window)
            case "late":
                return self._late(span)
        report = DriftReport(
            model=self.model,
            version=window.version,
            start=_iso(span.start),
            end=_iso(span.end),
            rows=window.rows,
            labelled=window.labelled,
            verdict=verdict.verdict,
            why=verdict.why,
            findings=verdict.findings,
            report="",
        )
        if why := self._off_record(span):
            window.notes.append(f"neither recorded nor told: {why}")
            _write(self.workspace / PAGE, self._page(report, window, verdict, str(span)))
            return Judged(span, look, replace(report, report=str(self.workspace / PAGE)), tuple(window.notes), True, kept=False)
        report = self._write_page(span, look, report, window, verdict)
        document = {
            "report": report.to_json(),
            "reasons": verdict.reasons,
            "notes": window.notes,
            "judged": _iso(self.now),
            "truths": _iso(self.settled),
            "hours": dict(window.hours),
            "tally": window.tally.to_json() if window.tally and look == "rows" else None,
        }
        if self.ledger.record(span, look, document):
            return Judged(span, look, report, tuple(window.notes), True)
        other = self.ledger.read(span, look)  # of the monitor that was first
        assert other is not None
        return Judged(span, look, report_of(other), tuple(other["notes"]), False)

    def look(self, table: Path) -> Judged:
        """A table is held against the release in production; nothing is recorded."""
        found = self.releases.channel(self.values.channel)
        if found is None:
            raise ReleaseError(f"{self.releases.storage.place}: {self.values.channel} serves nothing; publish a release first")
        version = found[0].version
        reference = self.reference(version)
        if reference is None:
            raise DataError(f"{self.missing[version]}; release it again with python -m flows.train")
        window = read_table(table, reference, version, self._scorer(version), self.missing_words)
        rows = self._of_rows(window, reference.tally)
        truth = self._of_truth(window) if window.labelled else None
        verdicts = [one for one in (rows, truth) if one]
        findings = tuple(finding for one in verdicts for finding in one.findings)
        worst = max(verdicts, key=lambda one: ("none", "unknown", "drift").index(one.verdict))
        report = DriftReport(self.model, version, "", "", window.rows, window.labelled, worst.verdict, worst.why, findings, "")
        reasons = [reason for one in verdicts for reason in one.reasons]
        verdict = _Verdict(worst.verdict, worst.why, findings, reasons, [test for one in verdicts for test in one.tests], rows.held)
        page = self._page(report, window, verdict, str(table))
        path = self.workspace / PAGE
        _write(path, page)
        return Judged(Span(window.start, window.end), "rows", replace(report, report=str(path)), tuple(window.notes), True)

    def evidently(self, judged: Judged, table: Path | None) -> Path:
        """evidently's page of the window, or of the table, beside the test part, both sampled; DataError without rows."""
        from tasks.evidently_report import SAMPLE, write_evidently

        reference, window = self.reference(judged.report.version), Window(*judged.span, version=judged.report.version)
        if reference is None or not (self.workspace / TEST_ROWS).is_dir():
            raise DataError(
                f"evidently needs rows to compare with, and {TEST_ROWS} is not there; run python -m flows.train, or dvc pull"
            )
        rows = (
            sample_table(table, reference, SAMPLE, self.missing_words)
            if table
            else sample_log(self.log, self.model, window, self.values.channel, SAMPLE)
        )
        names = [name for name, cells in reference.cells.items() if cells.kind in ("number", "category")]
        before = pd.concat([shard.to_pandas() for shard in read_shards(self.workspace / TEST_ROWS, names)], ignore_index=True)
        page = self.workspace / EVIDENTLY
        write_evidently(before, rows.to_pandas(), {name: reference.cells[name].kind for name in names}, page)
        return page

    def reference(self, version: str) -> Reference | None:
        """What the release's test part was; None with the reason in `missing`."""
        if version not in self.references:
            self.references[version] = None
            try:
                if REFERENCE not in self.releases.manifest(version)["files"]:
                    self.missing[version] = f"no reference: release {version} was made before releases held one"
                else:
                    self.references[version] = Reference.from_json(json.loads(self.releases.read(version, REFERENCE)))
            except ReleaseError as error:
                self.missing[version] = f"reference release deleted: {error}"
            except (ValueError, TypeError, KeyError, IndexError) as error:
                self.missing[version] = f"no reference: {REFERENCE} of release {version} cannot be read ({error!r})"
        return self.references[version]

    def _rows(self, span: Span) -> tuple[Window, Tally | None]:
        """The window's rows counted, and what they are held against."""
        quiet = self._quiet_hours(span)
        window = read_log(self.log, self.model, span.start, span.end, self.reference, self.values.channel, quiet_hours=quiet)
        reference = self.references.get(window.version)
        if reference is None:
            return window, None
        match self.values.seasonality.reference:
            case "release":
                return window, reference.tally
            case "moving":
                return window, self._moving(span, window, reference)
            case "year":
                return window, self._year(span, window, reference)

    def _of_rows(self, window: Window, held: Tally | None) -> "_Verdict":
        values, reference = self.values, self.references.get(window.version)
        reasons = self._too_little(window)
        if reference is None or held is None or reasons or window.tally is None:
            return self._decide(window, [], reasons, held)
        named = {name for name in window.tally.columns if values.columns.get(name, 1) is not None and name in held.columns}
        silent = {name for name in named if f"all-null column: {name!r}" in " ".join(window.reasons)}
        tally = Tally(window.rows, {n: c for n, c in window.tally.columns.items() if n in named - silent}, window.tally.scores)
        scores = Tally(held.rows, held.columns, held.scores or reference.tally.scores)
        tests = drift.look_at(
            reference, scores, tally, {name: self._floors(name) for name in named}, values.floor.shape, self._alpha
        )
        return self._decide(window, tests, reasons, held)

    def _truth(self, span: Span) -> Window:
        """The window's answers, with the truths that came until the grace, and ids that no row has."""
        aside = Window(*span)
        back = timedelta(hours=self.values.truth_hours)
        expected = self._expected(span)
        truths = read_truths(self.log, self.model, expected.target, span.start, self.settled, aside) if expected else None
        window = self._answered(span, expected, truths)
        window.reasons, window.tally = (
            aside.reasons,
            Tally(sum(r for (v, c), r in window.versions.items() if (v, c) == (window.version, self.values.channel)), {}, {}),
        )
        if truths is not None:
            if truths.strange:
                window.notes.append(f"{truths.strange:,} truths are no class of the model, or no number, and do not count")
            came, unknown = count_unknown(self.log, self.model, truths, span.start, span.end, back)
            if unknown:
                said = f"truth of unknown ids: {unknown:,} of the {came:,} truths that came in the window have the id of no row"
                (window.reasons if unknown > self.values.unmatched * came else window.notes).append(said)
        return window

    def _answered(self, span: Span, expected: Reference | None, truths: Truths | None) -> Window:
        """The window's answers beside these truths; of the features the slices alone are read."""
        only, quiet = frozenset(expected.slices if expected else ()), self._quiet_hours(span)
        return read_log(
            self.log,
            self.model,
            span.start,
            span.end,
            self.reference,
            self.values.channel,
            truths=truths,
            only=only,
            quiet_hours=quiet,
        )

    def _of_truth(self, window: Window) -> "_Verdict":
        reference = self.references.get(window.version)
        reasons = self._too_little(window)
        if reference is not None and not reasons and window.labelled < LEAST_LABELLED:
            reasons.append(f"too few truths: {window.labelled:,} of {window.rows:,} rows have one; {LEAST_LABELLED} say something")
        if reference is None or reasons or window.truth is None:
            return self._decide(window, [], reasons, None)
        number = max(len(reference.target.classes), 1) + 3 + len(reference.quality)
        each = self._alpha / number
        floors = self._floors("")
        tests = drift.test_truth(reference, reference.truth, window.truth, floors.truth, each)
        tests += drift.test_quality(reference, window.quality, floors, each)
        if lacking := [name for name in reference.slices if not any(one.startswith(f"{name}=") for one in window.quality)]:
            window.notes.append(f"quality by {', '.join(lacking)} cannot be told: it is not in the rows")
        return self._decide(window, tests, reasons, None)

    def _late(self, span: Span) -> Judged:
        """Truths that came after the window's quality was judged are counted, and change nothing."""
        before = self.ledger.read(span, "truth")
        assert before is not None
        taken = datetime.fromisoformat(before.get("truths", before["judged"]))  # which records of older versions do not say
        window, expected, late = Window(*span), self._expected(span), 0
        if expected:
            truths = read_truths(self.log, self.model, expected.target, taken, self.settled, window)
            self._answered(span, expected, truths)
            late = int(truths.matched.sum())
        report = report_of(before)
        why = f"{late:,} truths of {span} came too late for its quality, judged on {before['judged'][:10]}, and do not count"
        report = replace(report, verdict="none", why=why, findings=(), labelled=late)
        notes = [why] if late else []
        new = self.ledger.record(
            span,
            "late",
            {"report": report.to_json(), "reasons": [], "notes": notes, "judged": _iso(self.now), "hours": {}, "tally": None},
        )
        return Judged(span, "late", report, tuple(notes), new)

    @property
    def _alpha(self) -> float:
        """Of the false alarms that a window may raise, half are left to its rows and half to its truths."""
        return self.values.false_alarms / 2

    def _too_little(self, window: Window) -> list[str]:
        if not window.rows:
            there = sum(window.versions.values())
            others = f": {there:,} rows are of other channels" if there else ""
            return [f"empty window: no row of channel {self.values.channel}{others}"]
        found = []
        if window.rows < self.values.min_rows:
            found.append(f"too few rows: {window.rows:,}; monitor.min_rows is {self.values.min_rows:,}")
        if self.references.get(window.version) is None:
            found.append(self.missing[window.version])
        return found

    def _decide(self, window: Window, tests: Sequence[Test], reasons: list[str], held: Tally | None) -> "_Verdict":
        """Drift where something that raises it was found; but unknown where the window is not all there, or some of it could not be
        looked at and nothing was found in the rest."""
        findings = tuple(drift.judge(tests, self._alpha))
        raising = [one for one in findings if one.of in self.values.raises]
        reasons = [*window.broken, *reasons, *window.reasons]
        if window.broken or (reasons and not raising):
            found = f"; besides, {_say(raising)}" if raising else ""
            return _Verdict("unknown", "; ".join(reasons) + found, findings, reasons, tests, held)
        if raising:
            return _Verdict("drift", _say(raising), findings, reasons, tests, held)
        what = (
            "what came and how good the answers were"
            if window.truth is not None and tests and tests[0].of == "truth"
            else f"{len({t.name for t in tests if t.of == 'feature'})} columns and the answers"
        )
        return _Verdict("none", f"{what} are as expected, by {len(tests)} tests", findings, reasons, tests, held)

    def _floors(self, name: str) -> Floors:
        values = self.values.floor.model_dump()
        own = self.values.columns.get(name)
        return Floors(**(values | dict.fromkeys(("shape", "missing", "new"), own) if own is not None else values))

    def _expected(self, span: Span) -> Reference | None:
        """The reference of the version that answered the window, or else of the one in production."""
        record = self.ledger.read(span, "rows")
        version = report_of(record).version if record else ""
        found = self.releases.channel("production")
        for one in (version, found[0].version if found else ""):
            if one and (reference := self.reference(one)):
                return reference
        return None

    def _quiet_hours(self, span: Span) -> frozenset[int]:
        """Hours of the day in which at least half of the last windows had no rows, of all that were looked at."""
        before = [one for one, marks in self.known.items() if one.end <= span.start and "rows" in marks.judged][-USUAL:]
        quiet = dict.fromkeys(range(24), 0)
        seen = dict.fromkeys(range(24), 0)
        for one in before:
            record = self.ledger.read(one, "rows")
            busy = {datetime.fromisoformat(hour) for hour in record["hours"]} if record else set()
            hour = one.start.replace(minute=0, second=0, microsecond=0)
            while hour < one.end:
                seen[hour.hour] += 1
                quiet[hour.hour] += hour not in busy
                hour += HOUR
        return frozenset(hour for hour in seen if seen[hour] and quiet[hour] >= seen[hour] / 2)

    def _moving(self, span: Span, window: Window, reference: Reference) -> Tally:
        """The rows of the last windows of the same release that raised no drift; the release's, until there are enough."""
        whole: Tally | None = None
        used = 0
        for one in reversed([one for one, marks in self.known.items() if one.end <= span.start and "rows" in marks.judged]):
            record = self.ledger.read(one, "rows")
            if record and record["tally"] and report_of(record).verdict == "none" and report_of(record).version == window.version:
                tally = Tally.from_json(record["tally"])
                if whole is None:
                    whole = tally
                else:
                    whole.add(tally)
                used += 1
            if used == self.values.seasonality.windows:
                assert whole is not None
                return whole
        window.notes.append(
            f"held against the release: {used} of {self.values.seasonality.windows} windows for a moving reference are there"
        )
        return reference.tally

    def _year(self, span: Span, window: Window, reference: Reference) -> Tally | None:
        """The rows of the same days a year before, of the log or else the table; None, with the reason, when there are too few."""
        start, end = span.start - YEAR, span.end - YEAR
        logged = read_log(self.log, self.model, start, end, lambda _: reference, self.values.channel)
        if logged.tally and logged.rows >= self.values.min_rows:
            return Tally(logged.rows, logged.tally.columns, {})
        folder = self.workspace / VALID
        tally = count_between(folder, self.time_column, start, end, reference) if self.time_column and folder.is_dir() else None
        if tally and tally.rows >= self.values.min_rows:
            return tally
        window.reasons.append(
            f"no rows of a year before: neither log nor table has {self.values.min_rows:,} from {Span(start, end)}"
        )
        return None

    def _scorer(self, version: str) -> Callable[[Any], Any]:
        """What the version answers to a table's rows."""
        encoder = Encoder.from_json(json.loads(self.releases.read(version, "encoder.json")))
        network = Network(self.releases.read(version, "model.tflite"))

        def score(rows: Any) -> Any:
            if lacking := [name for name in encoder.names if name not in rows.column_names]:
                raise DataError(f"the table has no column {lacking}, which release {version} needs to answer its rows")
            return encoder.target.decode(network(encoder.encode(raw_columns(rows, encoder))))

        return score

    def _write_page(self, span: Span, look: Look, report: DriftReport, window: Window, verdict: "_Verdict") -> DriftReport:
        """The page stands in the store, under a name of its own, and as the latest in the workspace."""
        key = f"{self.ledger.key(span, look).removesuffix('.json')}-{uuid4().hex[:8]}.html"  # of two monitors both have one
        storage = self.releases.storage
        report = replace(report, report=str(storage.path(key)) if isinstance(storage, Folder) else f"{storage.place}/{key}")
        page = self._page(report, window, verdict, str(span))
        _write(self.workspace / PAGE, page)  # first: where it has no room, a run of each hour would leave one in the store
        storage.create(key, page.encode())
        return report

    def _page(self, report: DriftReport, window: Window, verdict: "_Verdict", title: str) -> str:
        reference = self.references.get(window.version)
        return drift_report.render(
            drift_report.Page(
                title=title,
                report=report,
                reasons=tuple(verdict.reasons),
                notes=tuple(window.notes),
                tests=tuple(verdict.tests),
                alpha=self._alpha,
                strip=self._strip(report),
                cells=reference.cells if reference else {},
                score_cells=reference.score_cells if reference else {},
                held=verdict.held,
                scores=reference.tally.scores if reference else {},
                tally=window.tally,
                target=reference.target if reference else None,
                quality=(reference.quality if reference else {}, window.quality),
                truth=(reference.truth if reference else None, window.truth),
                against={"release": "test part", "moving": "windows before", "year": "year before"}[
                    self.values.seasonality.reference
                ],
            )
        )

    def _strip(self, report: DriftReport) -> tuple[DriftReport, ...]:
        """The looks of the last windows, the present one among them."""
        looks: list[tuple[Span, Look]] = [
            (span, look) for span, marks in list(self.known.items())[-SHOWN:] for look in ABOUT if look in marks.judged
        ]
        with ThreadPoolExecutor(READERS) as pool:  # in a bucket each takes its time
            records = pool.map(lambda one: self.ledger.read(*one), looks)
        found = [report_of(record) for record in records if record]
        return (*found, report) if report.start else tuple(found)


@dataclass(frozen=True)
class _Verdict:
    verdict: Any
    why: str
    findings: tuple[Finding, ...]
    reasons: list[str]
    tests: Sequence[Test]
    held: Tally | None


def _say(findings: Sequence[Finding]) -> str:
    first = findings[0]
    name = first.name or {"prediction": "the answers", "quality": "the quality", "calibration": "the calibration"}.get(
        first.of, first.of
    )
    more = f"; and {len(findings) - 1} more" if len(findings) > 1 else ""
    return f"{name}: {first.what}{more}"


def _iso(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


def _write(path: Path, text: str) -> None:
    """The file holds the text, whole."""
    with replacing(path) as aside:
        aside.write_text(text)
