"""Effect retraining: a challenger is held against the champion, tried or dropped, and all that was done stands in one report.

The store remembers who trained anew, when and why (`monitor/<model>/retrainings.json`), so that of all workers no two do at once,
and not too many in a day.
"""

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event

from tasks import rollout, view
from tasks.alert import Alert, open_alerts, raise_alert, resolve_alert
from tasks.child import failure, run_child
from tasks.cloud.storage import CONFLICTS, Conflict, Missing, Storage, StorageError
from tasks.core.errors import TidemillError
from tasks.core.retraining import Attempt, Challenge, Outcome, Step, as_markdown, find_obstacle, judge, render
from tasks.core.retraining import Retraining as Retraining
from tasks.params import Params
from tasks.publish import BUNDLE, Release
from tasks.releases import FETCHED, Channel, ReleaseError, Releases, open_releases, telling, who
from tasks.sign import read_public_key
from tasks.stage import replacing

REPORT, RECORD, KEPT = Path("reports/retrain.html"), Path("reports/retrain.json"), Path("reports/retrainings")
CHALLENGE = Path(".cache/challenge.json")
MOST_ATTEMPTS = 200  # that the store remembers
POLL_SECONDS = 5.0  # between two looks at the channels
MARK = "retrained: "  # how the reason of a canary begins that a retraining started
ALERT = "retrain-"  # how the keys of its alerts begin

log = logging.getLogger("tasks.retraining")


@dataclass
class Journal:
    """A retraining under way: what was done until now, and with what. With an `obstacle` it may not begin."""

    workspace: Path
    params: Params
    releases: Releases
    id: str
    why: str
    began: str
    obstacle: str = ""
    ceiling: bool = False
    waited: bool = False  # for the services' word
    champion: str = ""
    challenger: str = ""
    challenge: Challenge | None = None
    steps: list[Step] = field(default_factory=list)

    def note(self, what: str, detail: str) -> None:
        """It was done, now."""
        self.steps.append(Step(_now(), what, detail))


def new_journal(workspace: Path, why: str, obstacle: str = "") -> Journal:
    """A retraining of which the store does not know yet. ReleaseError where the store cannot be used."""
    params, now = Params.load(workspace / "params.yaml"), datetime.now(UTC)
    with telling():
        releases = open_releases(workspace, params.release.store, params.release.kms_key)
    name = f"{now:%Y%m%dT%H%M%SZ}-{uuid4().hex[:4]}"
    return Journal(workspace, params, releases, name, " ".join(why.split()) or "by hand", now.isoformat(), obstacle)


def open_journal(workspace: Path, why: str, force: bool) -> Journal:
    """The store says that a retraining began, or the journal why none may; `force` asks for none of the rules.

    Of several that begin at once one does. ReleaseError where the store cannot be used.
    """
    journal = new_journal(workspace, why)
    rules, storage, model = journal.params.retrain, journal.releases.storage, journal.params.name
    by, cooldown = f"{who()}:{workspace.resolve()}", timedelta(hours=rules.cooldown_hours)
    with telling():
        for _ in range(CONFLICTS):
            attempts, tag = _read(storage, model)
            # Nobody else is at work in this workspace, which is claimed: what it began and did not end was killed.
            attempts = [replace(one, outcome="killed") if one.outcome is None and one.by == by else one for one in attempts]
            if not force:
                now = datetime.now(UTC)
                journal.obstacle, journal.ceiling = find_obstacle(attempts, now, cooldown, rules.most_a_day)
            if journal.obstacle:
                return journal
            with suppress(Conflict):
                _write(storage, model, [*attempts, Attempt(journal.id, journal.began, by, journal.why)], tag)
                journal.note("began", journal.why)
                return journal
        raise ReleaseError(f"{storage.place}: others begin retrainings all the time; run again")


def trained(journal: Journal, moved: list[str], release: Release) -> str:
    """The journal names champion and challenger; returns why there is nothing to compare, empty where there is."""
    journal.note("data", "; ".join(moved) or "no source has moved")
    journal.challenger = release.version
    with telling():
        found = journal.releases.channel("production")
    assert found is not None  # publish puts the first release there
    journal.champion = "" if found[0].version == release.version and found[0].since >= journal.began else found[0].version
    journal.note("trained", f"challenger {release.version} ({release.chosen}), which is in the store")
    if found[0].withdrawn == release.version:
        return f"{release.version} came out again, which was rolled back before"
    return (
        f"the sources, params and code are those of {release.version}, which is in production"
        if journal.champion == release.version
        else ""
    )


@task(cache_policy=NO_CACHE, task_run_name="compare champion and challenger")
def hold_against(journal: Journal, start: str, end: str) -> tuple[bool, str]:
    """The challenger was compared with the champion; returns whether it won, and how."""
    log, shown = get_run_logger(), view.current()
    shown.begin("compare", f"champion {journal.champion}, challenger {journal.challenger}")
    values = journal.params.release
    with telling():
        key = read_public_key(journal.workspace, values.verify) if values.verify else None
        champion = journal.releases.fetch(journal.champion, journal.workspace / FETCHED, key)
    place = journal.params.monitor.log
    words = ["--log", place if "://" in place else str((journal.workspace / place).resolve())]
    words += [word for name, value in (("start", start), ("end", end)) if value for word in (f"--{name}", value)]
    sides = ["--champion", str(champion.resolve()), "--challenger", str(BUNDLE), "--out", str(CHALLENGE)]
    if failed := run_child("compare", ["-m", "tasks.challenge", *sides, *words], journal.workspace, log):
        shown.end("compare", "Failed", "")
        raise failure("compare", None, failed)
    found = json.loads((journal.workspace / CHALLENGE).read_text())
    if "incomparable" in found:
        won, said = False, f"they cannot be compared: {found['incomparable']}"
    else:
        journal.challenge = Challenge.from_json(found)
        won, said = judge(journal.challenge, journal.params.retrain.win)
    journal.note("compared", said)
    log.info(said)
    shown.line("compare", said)
    shown.end("compare", "Completed", "")
    return won, said


@task(cache_policy=NO_CACHE, task_run_name="roll out the challenger")
def roll_out(journal: Journal, said: str) -> tuple[Outcome, str]:
    """The challenger that won is a canary, in production or in the store alone, as retrain.then says."""
    workspace, releases, params, why = journal.workspace, journal.releases, journal.params, f"{MARK}{said}"
    with telling():
        if params.retrain.then == "hold":
            return "held", f"{said}; `python -m flows.rollout canary {journal.challenger}` tries it"
        if params.retrain.then == "promote":
            rollout.promote(releases, workspace, params.release, journal.challenger, why)
            journal.note("promoted", "retrain.then is promote")
            return "promoted", said
        found = releases.channel("canary")
        if found and found[0].version != journal.challenger and not found[0].why.startswith(MARK):
            return "dropped", f"{found[0].version} is tried as a canary, which {found[0].by} began; {said}"
        share = params.release.canary.share
        rollout.try_out(releases, workspace, params.release, "canary", journal.challenger, share, None, why)
    journal.note("canary", f"{share:.4g} of the requests")
    return "canary", said


@task(cache_policy=NO_CACHE, task_run_name="wait for the services' word")
def await_word(journal: Journal) -> tuple[Outcome, str]:
    """What the services, or a person, made of the canary; after retrain.wait_minutes without a word it goes on as one."""
    log, shown, minutes = get_run_logger(), view.current(), journal.params.retrain.wait_minutes
    shown.begin("canary", f"waits {minutes:g} minutes at most for a service to promote or end it")
    deadline, word = time.monotonic() + 60 * minutes, None
    while word is None:
        try:
            canary, production = (journal.releases.channel(name) for name in ("canary", "production"))
            word = _word(journal, canary, production)
        except (StorageError, ReleaseError) as error:
            log.warning("the release store is asked again: %s", error)
        if word is None and time.monotonic() >= deadline:
            word = "canary", f"no service decided on it within {minutes:g} minutes; it goes on as a canary"
        elif word is None:
            time.sleep(min(POLL_SECONDS, max(0.0, deadline - time.monotonic())))
    outcome, said = word
    journal.waited = True
    journal.note(outcome, said)
    log.info("%s: %s", outcome, said)
    shown.end("canary", "Completed", "")
    return outcome, said


def _word(
    journal: Journal, canary: tuple[Channel, str] | None, production: tuple[Channel, str] | None
) -> tuple[Outcome, str] | None:
    """What became of the canary, None while it is one. The canary was looked at first: it ends after production moved."""
    if production and production[0].version == journal.challenger:
        return "promoted", f"{production[0].by}: {production[0].why}"
    if canary and canary[0].version == journal.challenger:
        return None
    if canary:
        return "dropped", f"{canary[0].by} tries {canary[0].version} in its place: {canary[0].why}"
    ended = next((move for move in journal.releases.history(5) if move.channel == "canary"), None)
    return "dropped", f"{ended.by}: {ended.why}" if ended else "its channel is gone"


def finish(journal: Journal, outcome: Outcome, reason: str) -> Retraining:
    """Store, reports, people and Prefect know what became of it."""
    if outcome != "canary":
        journal.note("ended", outcome)
    done = Retraining(
        id=journal.id,
        model=journal.params.name,
        why=journal.why,
        outcome=outcome,
        reason=reason,
        began=journal.began,
        ended=_now(),
        champion=journal.champion,
        challenger=journal.challenger,
        challenge=journal.challenge,
        steps=tuple(journal.steps),
        report="" if outcome == "skipped" else f"{KEPT / journal.id}.html",
    )
    before: list[Attempt] = []
    if outcome != "skipped":
        with _even_so(outcome):
            before = _end(journal, done)
        with _even_so(outcome):
            write_report(journal.workspace, done, before)
    if outcome != "canary" or journal.waited:  # one that was just begun is no news yet
        tell_people(journal.workspace, done, journal.ceiling)
    return done


def publish_outcome(done: Retraining) -> None:
    """Prefect's page of the run shows what became of it, and an event says so."""
    create_markdown_artifact(as_markdown(done), key="retraining", description=done.headline)
    resource = {"prefect.resource.id": f"tidemill.model.{done.model}", "prefect.resource.name": done.model}
    emit_event("tidemill.retrained", resource=resource, payload={"outcome": done.outcome, "reason": done.reason, **_brief(done)})


@contextmanager
def failing(journal: Journal) -> Iterator[None]:
    """What fails within the block is told: production is as it was, and people know."""
    try:
        yield
    except Exception as error:
        finish(journal, "failed", " ".join(str(error).split()) or type(error).__name__)
        raise
    except BaseException as error:  # it was asked to stop
        journal.note("stopped", type(error).__name__)
        with suppress(StorageError, TidemillError):
            _end(journal, None)
        raise


@contextmanager
def _even_so(outcome: Outcome) -> Iterator[None]:
    """People hear of a retraining that failed though store or disk, for which it may have failed, do not take what became of it."""
    try:
        yield
    except (OSError, StorageError, TidemillError) as error:
        if outcome != "failed":
            raise
        log.error("that the retraining failed is not on record: %s", error)


def write_report(workspace: Path, done: Retraining, before: list[Attempt]) -> None:
    """reports/retrain.html and .json tell of it, and a copy under its id stays there."""
    page, record = render(done, before), json.dumps(done.to_json(), indent=1, ensure_ascii=False)
    for path, text in (
        (KEPT / f"{done.id}.html", page),
        (KEPT / f"{done.id}.json", record),
        (REPORT, page),
        (RECORD, record),
    ):
        with replacing(workspace / path) as aside:
            aside.write_text(text, encoding="utf-8")


def tell_people(workspace: Path, done: Retraining, ceiling: bool) -> None:
    """Who is to be told is; troubles of former retrainings that are over are."""
    key, severity = f"{ALERT}{done.outcome}", "warning"
    match done.outcome:
        case "promoted" | "held":
            key, severity = f"{ALERT}{done.outcome}-{done.challenger}", "info"
        case "dropped" | "canary":
            key = f"{ALERT}{done.outcome}-{done.challenger or done.id}"
        case "failed":
            severity = "critical"
        case "skipped":
            if not ceiling:
                return
            key = f"{ALERT}ceiling"
        case _:
            pass
    over = [f"{ALERT}failed"] if done.outcome not in ("failed", "skipped") else []
    if done.outcome in ("promoted", "held"):
        over = [one.key for one in open_alerts(workspace) if one.key.startswith(ALERT)]
    for one in over:
        resolve_alert(workspace, one, f"{done.headline}: {done.reason}")
    text = f"{done.reason}\n\nIt was trained because: {done.why}"
    if done.outcome in ("dropped", "failed", "skipped", "unchanged"):
        text += "\nProduction is as it was."
    raise_alert(workspace, Alert(key, done.headline, text, severity, done.report))  # type: ignore[arg-type]


def _end(journal: Journal, done: Retraining | None) -> list[Attempt]:
    """The store knows how it ended, without a word that it was killed; returns the attempts before it, newest first."""
    storage, name = journal.releases.storage, journal.params.name
    ended: dict[str, Any] = {"outcome": "killed"} if done is None else {"outcome": done.outcome, "reason": done.reason}
    with telling():
        for _ in range(CONFLICTS):
            attempts, tag = _read(storage, name)
            mine = [one.id == journal.id for one in attempts]
            after = [
                replace(one, ended=_now(), challenger=journal.challenger, **ended) if own else one
                for one, own in zip(attempts, mine, strict=True)
            ]
            with suppress(Conflict):
                _write(storage, name, after, tag)
                return [one for one, own in zip(reversed(after), reversed(mine), strict=True) if not own]
        raise ReleaseError(f"{storage.place}: others end retrainings all the time; run again")


def _read(storage: Storage, model: str) -> tuple[list[Attempt], str | None]:
    """What the store remembers, the oldest first, and its tag."""
    key = _key(model)
    try:
        content, tag = storage.read(key)
    except Missing:
        return [], None
    try:
        return [Attempt.from_json(one) for one in json.loads(content)["retrainings"]], tag
    except (ValueError, TypeError, KeyError) as error:
        raise ReleaseError(f"{storage.place}/{key} cannot be read ({error!r}); restore it, or delete it to begin anew") from error


def _write(storage: Storage, model: str, attempts: list[Attempt], tag: str | None) -> None:
    document = {"retrainings": [asdict(one) for one in attempts[-MOST_ATTEMPTS:]]}
    content = json.dumps(document, indent=1, ensure_ascii=False).encode()
    storage.create(_key(model), content) if tag is None else storage.replace(_key(model), content, tag)


def _key(model: str) -> str:
    return f"monitor/{model}/retrainings.json"


def _brief(done: Retraining) -> dict[str, Any]:
    return {name: getattr(done, name) for name in ("id", "why", "champion", "challenger", "began", "ended", "report")}


def _now() -> str:
    return datetime.now(UTC).isoformat()
