"""Looks at a source that nobody has described yet, and decides what a workspace for it should say."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tasks import engine, profile
from tasks.core import guess, leaks
from tasks.core.errors import DataError, PersonalError
from tasks.core.facts import TableFacts, TimeCut
from tasks.core.guess import Decision
from tasks.core.guess_target import LEAST_ROWS, TargetGuess, find_column, guess_target
from tasks.core.sizes import Sizes, choose_sizes
from tasks.core.target import Task
from tasks.params import ApiSource, FileSource, Privacy, Source
from tasks.sources.land import land, look

NAME = "data"  # of the source, and so of its table in the query
SEED = 1
LEAST_OF_PART = 2  # rows of each class in each part, for a split by time


@dataclass(frozen=True)
class Request:
    """What a user said: the source and the target, and what is not to be guessed."""

    name: str
    source: Source
    target: str
    time: str | None = None
    task: Task | None = None
    outcomes: tuple[str, ...] = ()
    features: tuple[str, ...] = ()

    @property
    def named(self) -> dict[str, str]:
        """Every column that was named, with the flag."""
        one = {self.target: "--target"} | ({self.time: "--time"} if self.time else {})
        return {**dict.fromkeys(self.features, "--feature"), **dict.fromkeys(self.outcomes, "--outcome"), **one}


@dataclass(frozen=True)
class Plan:
    """Everything that the workspace's params.yaml is written from."""

    request: Request
    source: Source  # with the words for missing values that were found
    dropped: dict[str, str]  # personal columns with the reason
    kept: dict[str, str]  # those that were asked for nevertheless
    facts: TableFacts
    target: TargetGuess
    decided: list[Decision]
    time: str | None
    cut: TimeCut | None
    entity: str | None
    slices: tuple[str, ...]
    doubts: list[str]
    sizes: Sizes

    def having(self, *roles: str) -> list[Decision]:
        return [one for one in self.decided if one.role in roles]


def make_plan(request: Request, say: Callable[[str], None]) -> Plan:
    """What to write of the source, which lands under the current folder; DataError when it cannot be learned from."""
    source, landed = _land(request, request.source, say)
    with engine.connect() as db:
        profile.open_table(db, landed.parts)
        say("counting its columns")
        facts = profile.profile(db)
        if words := _missing_words(source, facts):
            say(f"reading it again with {list(words)} as missing")
            source, landed = _land(request, source.model_copy(update={"missing": words}), say)
    with engine.connect() as db:
        profile.open_table(db, landed.parts)
        facts = profile.profile(db) if words else facts
        for column, flag in request.named.items():
            find_column(column, facts, flag)
        if facts.rows < LEAST_ROWS:
            raise DataError(f"{facts.rows:,} rows are too few to be split in three; expected {LEAST_ROWS} or more")
        counted = profile.count_target(db, request.target)
        target = guess_target(facts.column(request.target), counted, request.task)
        decided = guess.decide_columns(facts, target, outcomes=request.outcomes, features=request.features)
        say("trying out what each column tells alone")
        sample = profile.draw_sample(db, SEED)
        decided = guess.set_apart(
            decided,
            leaks=leaks.find_leaks(sample, target.name, target.task),
            copies=leaks.find_copies(sample),
            target=target,
            features=request.features,
        )
        guess.require_features(decided)
        time, cut = _find_time(request, facts, target, decided, db)
    features = [one for one in decided if one.role in ("number", "category", "date", "text")]
    texts = [facts.column(one.name).text for one in features if one.role == "text"]
    return Plan(
        request=request,
        source=source,
        dropped=landed.dropped,
        kept=landed.kept,
        facts=facts,
        target=target,
        decided=decided,
        time=time,
        cut=cut,
        entity=guess.find_entity(facts, decided),
        slices=guess.find_slices(facts, decided),
        doubts=guess.find_doubts(facts, target, by_chance=cut is None),
        sizes=choose_sizes(target.rows, len(features), target.task, max((text.words for text in texts if text), default=0.0)),
    )


@dataclass(frozen=True)
class _Landed:
    parts: list[Path]
    dropped: dict[str, str]
    kept: dict[str, str]


def _land(request: Request, source: Source, say: Callable[[str], None]) -> tuple[Source, _Landed]:
    """The source in Parquet, without the columns that look personal unless the user named them."""
    dropped: dict[str, str] = {}
    kept: dict[str, str] = {}
    while True:
        privacy = Privacy(key=None, drop=tuple(dropped), pseudonymise=(), coarsen={}, keep=tuple(kept))
        say("reading the source" + (f" without {list(dropped)}" if dropped else ""))
        try:
            return source, _Landed(land(NAME, source, privacy, look(NAME, source, privacy)), dropped, kept)
        except PersonalError as error:
            for column, why in error.columns.items():
                (kept if column in request.named else dropped)[column] = why


def _missing_words(source: Source, facts: TableFacts) -> tuple[str, ...]:
    """Words for missing values that the source was not told of yet, with those that it was."""
    if not isinstance(source, FileSource | ApiSource):
        return ()
    found = guess.find_missing_words(facts)
    return tuple(dict.fromkeys([*source.missing, *found])) if found else ()


def _find_time(
    request: Request, facts: TableFacts, target: TargetGuess, decided: list[Decision], db: profile.Connection
) -> tuple[str | None, TimeCut | None]:
    """The time of the rows and a split by it; a time without a split when the user named it and none is possible."""
    if request.time is not None and not profile.reads_as_time(db, request.time):
        raise DataError(f"--time {request.time!r} does not read as a date or time in every row; name another column")
    for candidate in [request.time] if request.time else guess.time_candidates(facts, decided):
        if cut := profile.cut_by_time(db, candidate, target, LEAST_OF_PART):
            return candidate, cut
    return request.time, None
