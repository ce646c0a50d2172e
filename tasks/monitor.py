"""Effect monitor: what is due is judged and recorded in the release store, then told: as an event, an alert and an artifact."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event

from tasks.alert import Alert, raise_alert, resolve_alert
from tasks.core.errors import DataError, ParamsError
from tasks.core.verdict import Verdict
from tasks.ledger import Look, Span
from tasks.releases import telling
from tasks.stage import replacing
from tasks.times import parse_time
from tasks.watch import ABOUT, Judged, Watch

EVENTS: dict[Verdict, str] = {"drift": "tidemill.drift", "none": "tidemill.watched", "unknown": "tidemill.unknown"}
METRICS = Path("reports/monitor.prom")
HELP = {
    "tidemill_monitor_last_window_timestamp_seconds": "End of the last window that was judged",
    "tidemill_monitor_last_judged_timestamp_seconds": "When that window was judged",
    "tidemill_monitor_drift": "1 where the last look raised drift",
    "tidemill_monitor_unknown": "1 where the last look could not say",
    "tidemill_monitor_drift_since_timestamp_seconds": "Start of the first of the last windows, which all raised drift; 0: none",
}


@task(cache_policy=NO_CACHE, task_run_name="find what is due")
def find_due(workspace: Path, start: str, end: str, now: str) -> list[tuple[Span, Look]]:
    """The looks to take, the oldest first: those of the window that is named, or all that are due."""
    with telling():
        watch = open_watch(workspace, now)
        if not start and not end:
            return list(dict.fromkeys([*watch.untold(), *watch.due()]))
        if not start or not end:
            raise ParamsError("a window has a start and an end; give both --start and --end, or neither for all that are due")
        span = Span(parse_time(start, "--start"), parse_time(end, "--end"))
        if span.start >= span.end:
            raise ParamsError(f"--start {start} is not before --end {end}")
        if any(one.microsecond for one in span):
            raise ParamsError(f"--start {start} --end {end}: a window begins and ends with a whole second")
        if span.end > watch.now:
            raise ParamsError(f"--end {end} is yet to come; a window is judged once it is over")
        return [(span, "rows"), *([(span, "truth")] if watch.is_ripe(span) else [])]  # type: ignore[list-item]


@task(cache_policy=NO_CACHE, task_run_name="{look} of {span}")
def judge_window(workspace: Path, span: Span, look: Look, now: str) -> Judged:
    """The look is on record, made now or before, and was told; one that `Watch.judge` does not record is neither."""
    with telling():
        watch = open_watch(workspace, now)
        judged = watch.judge(span, look)
        if judged.kept and not watch.ledger.is_told(span, look):
            tell(workspace, judged, watch.later(span, look))
            watch.ledger.tell(span, look)
    say(judged)
    return judged


@task(cache_policy=NO_CACHE, task_run_name="look at {table}")
def look_at_table(workspace: Path, table: str, now: str) -> Judged:
    """The table beside the release in production; nothing is recorded and nobody alarmed."""
    if not Path(table).is_file():
        raise DataError(f"{table} is not there; expected a Parquet, Arrow or CSV file")
    with telling():
        judged = open_watch(workspace, now).look(Path(table))
    say(judged)
    return judged


def is_blind(workspace: Path, now: str) -> str:
    """Why there is nothing to look at, as there never was; empty where there is."""
    with telling():
        watch = open_watch(workspace, now)
        return f"the log {watch.values.log} holds no row of {watch.model}" if watch.is_blind() else ""


def open_watch(workspace: Path, now: str) -> Watch:
    when = parse_time(now, "--now") if now else None
    if when and when > datetime.now(UTC):
        raise ParamsError(f"--now {now} is yet to come: windows would be judged that have no rows yet")
    return Watch(workspace, when)


def tell(workspace: Path, judged: Judged, later: Verdict | None) -> None:
    """The look is an event on Prefect's server, whose id is the look's own, and an alert where `alarm` finds one due."""
    report = judged.report
    if judged.look == "late":
        return
    payload = {**report.to_json(), "look": judged.look, "notes": list(judged.notes), "workspace": str(workspace)}
    emit_event(
        event=EVENTS[report.verdict],
        resource={"prefect.resource.id": f"tidemill.model.{report.model}", "prefect.resource.name": report.model},
        payload=payload,
        id=uuid5(NAMESPACE_URL, f"{report.model} {judged.span} {judged.look} {report.report}"),
    )
    alarm(workspace, judged, later)


def alarm(workspace: Path, judged: Judged, later: Verdict | None) -> None:
    """People know of drift and of what is unknown, until a window shows that it is over.

    Alerts are of the present: a window begins none where a later one was judged, and ends none where a later one was looked at.
    `later` is what is known of the windows after it, as `Watch.later` says it.
    """
    report = judged.report
    for verdict in ("drift", "unknown"):
        key = f"monitor.{verdict}.{judged.look}"
        if report.verdict == "unknown" and verdict == "drift":
            continue  # who cannot look does not know that it is over
        if report.verdict == verdict and later in (None, "unknown"):
            said = "drift in" if verdict == "drift" else "nothing can be said of"
            title = f"{report.model}: {said} the {ABOUT[judged.look]} of {judged.span}"
            raise_alert(workspace, Alert(key, title, report.why, "warning", report.report))
        elif report.verdict != verdict and later is None:
            resolve_alert(workspace, key, f"{judged.span}: {report.why}")


def say(judged: Judged) -> None:
    """One line in the run's log, and the findings as an artifact."""
    report, log = judged.report, get_run_logger()
    log.info("%s, %s: %s: %s", judged.span, judged.look, report.verdict, report.why)
    for note in judged.notes:
        log.info("  %s", note)
    lines = [f"| {one.of} | {one.name} | {one.what} | {one.effect:g} | {one.bound:g} |" for one in report.findings]
    table = ["| of | name | what | effect | counts from |", "|---|---|---|--:|--:|", *lines] if lines else []
    text = "\n".join([f"**{report.verdict}**: {report.why}", "", *table, "", f"Report: `{report.report}`"])
    create_markdown_artifact(text, key="drift", description=f"{report.model}, {judged.span}: {report.verdict}")


@task(cache_policy=NO_CACHE, task_run_name="evidently")
def write_evidently(workspace: Path, judged: Judged, table: str, now: str) -> None:
    """reports/evidently.html is evidently's page of the look."""
    with telling():
        page = open_watch(workspace, now).evidently(judged, Path(table) if table else None)
    get_run_logger().info("evidently: %s", page)


@task(cache_policy=NO_CACHE, task_run_name="write metrics")
def write_metrics(workspace: Path, now: str) -> None:
    """reports/monitor.prom says, for the textfile collector of Prometheus' node exporter, how it stands."""
    with telling():
        watch = open_watch(workspace, now)
        samples: dict[str, list[str]] = {name: [] for name in HELP}
        for look in ABOUT:
            spans = [span for span, marks in watch.known.items() if look in marks.judged]
            records = ((span, record) for span in reversed(spans) if (record := watch.ledger.read(span, look)))
            last = next(records, None)
            if last is None:
                continue
            span, record = last
            verdict, since = record["report"]["verdict"], 0.0
            for one, before in chain([last], records):  # no further back than drift goes
                if before["report"]["verdict"] != "drift":
                    break
                since = one.start.timestamp()
            judged = datetime.fromisoformat(record["judged"]).timestamp()
            values = span.end.timestamp(), judged, float(verdict == "drift"), float(verdict == "unknown"), since
            for name, value in zip(HELP, values, strict=True):
                samples[name].append(f'{name}{{model="{watch.model}",look="{look}"}} {value:.0f}')
        if watch.is_blind():
            samples["tidemill_monitor_unknown"].append(f'tidemill_monitor_unknown{{model="{watch.model}",look="rows"}} 1')
    text = "".join(
        f"# HELP {name} {HELP[name]}\n# TYPE {name} gauge\n" + "".join(f"{line}\n" for line in lines)
        for name, lines in samples.items()
        if lines
    )
    with replacing(workspace / METRICS) as aside:
        aside.write_text(text)


def as_json(judged: Sequence[Judged]) -> list[dict[str, Any]]:
    """The looks for programs."""
    return [{**asdict(one.report), "look": one.look, "notes": list(one.notes), "new": one.new} for one in judged]
