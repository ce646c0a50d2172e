"""The whole of params.yaml as frozen, strict classes: type, bound and unit of every value; parsed once."""

import difflib
import io
import json
import math
import re
from collections.abc import Iterable
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args
from urllib.parse import parse_qsl, urlsplit

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import CollectionNode, MappingNode, Node

from tasks.core.errors import ParamsError
from tasks.core.images import PixelScale
from tasks.core.metrics import METRICS, Metric
from tasks.core.target import Label, Task, as_text

Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0, le=1)]
Dropout = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Epochs = Annotated[int, Field(ge=1, le=10_000)]
Batch = Annotated[int, Field(ge=1, le=1_000_000)]
Bins = Annotated[int, Field(ge=2, le=1024)]
Width = Annotated[int, Field(ge=1, le=65_536)]
Name = Annotated[str, Field(min_length=1)]
Severity = Literal["info", "warning", "critical"]  # of an alert
MailAddress = Annotated[str, Field(pattern=r"^[^\s@,<>]+@[^\s@,<>]+$")]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Reading(Section):
    """How the bytes of a file are read; what is absent is found out from the content."""

    missing: tuple[str, ...] = ()  # words that mean "no value", besides the empty field
    format: Literal["csv", "json", "parquet", "arrow", "bytes"] | None = None
    encoding: Name | None = None
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    decimal: Literal[",", "."] | None = None
    dates: Name | None = None  # as strptime: "%d.%m.%Y"
    types: dict[Name, Literal["text", "number", "date", "time"]] = {}  # of columns whose values say it wrongly


class PackageSource(Reading):
    """A file inside an installed package, by its path from the folder that packages are installed in."""

    kind: Literal["package"]
    package: Name
    resource: Name


Secret = Annotated[str, Field(pattern=r"^(env:[A-Za-z_][A-Za-z0-9_]*|prefect:[a-z0-9-]+)$")]
SECRETS = ("password", "token", "key", "sign", "verify", "url")  # the keys that may name one
PASSWORD = "{password}"  # stands in a file's URL for its secret
IN_URL = re.compile(r"://[^/?#@]*:[^/?#@]+@|[?&][\w-]*(signature|sig|token|secret|password|key)=[^&]", re.IGNORECASE)


class FileSource(Reading):
    """Files: a path from the workspace, a glob, or a URL that fsspec opens; text, JSON lines, Parquet or Arrow, also packed.

    With format: bytes each file is a row instead: `path`, its name as the glob finds it, and `content`, as for images.

    `password` takes the place of {password} in the URL, as it is: what a URL demands to be percent-encoded must be.
    """

    kind: Literal["file"]
    file: Name
    password: Secret | None = None
    endpoint: Name | None = None  # of an S3 service other than Amazon's

    @model_validator(mode="after")
    def _has_no_secret(self) -> Self:
        if "://" in self.file and IN_URL.search(self.file.replace(PASSWORD, "")):
            raise ValueError(
                f"the url holds a secret; put that in the environment, write {PASSWORD} instead, and name it: password: 'env:NAME'"
            )
        if (self.password is None) != (PASSWORD not in self.file):
            raise ValueError(f"password and {PASSWORD}, its place in the url, belong together")
        return self


class SqlSource(Section):
    """A table or the result of a query in a database that SQLAlchemy reaches.

    `watermark` is a column that only grows: rows that landed are not read again. Rows that come late or go are noticed where they
    change the count of rows or, of whole numbers and in PostgreSQL of dates and times, a sum over the watermark; then, and when
    a column comes, goes or changes its type, all is read again. A row that changes and keeps its watermark is not noticed: let
    the watermark be the time of the last change.
    """

    kind: Literal["sql"]
    url: Name
    table: Name | None = None
    query: Name | None = None
    password: Secret | None = None
    watermark: Name | None = None

    @model_validator(mode="after")
    def _is_one_thing_without_a_secret(self) -> Self:
        if (self.table is None) == (self.query is None):
            raise ValueError("give either table or query")
        if re.search(r"://[^/@]*:[^/@]+@", self.url) or re.search(r"[?&]password=", self.url):
            raise ValueError("the url holds a password; put that in the environment and name it: password: 'env:NAME'")
        return self


class Page(Section):
    """How an API cuts its answer into pages.

    by number or offset: `parameter` counts from `start`, by itself 1 and 0; by cursor: `parameter` takes what stands at `next`
    in the page before; by link: the Link header, or the URL at `next`. Counted pages end where one is empty, asked for twice,
    and the one after it is empty too; the others where no next one is named.
    """

    by: Literal["number", "offset", "cursor", "link"]
    parameter: Name | None = None
    start: Annotated[int, Field(ge=0)] | None = None
    size_parameter: Name | None = None
    size: Count | None = None
    next: Name | None = None

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> Self:
        if self.by != "link" and self.parameter is None:
            raise ValueError(f"pages by {self.by} need the name of the query's parameter")
        if self.by == "cursor" and self.next is None:
            raise ValueError("pages by cursor need next: where in the page the cursor stands, for example meta.next")
        if self.size_parameter and self.size is None:
            raise ValueError("size_parameter needs size: how many rows a page shall have")
        return self


class Since(Section):
    """Only what is new: the parameter takes the largest value of the column that was fetched before.

    The server must answer it with all rows whose value is that one or larger. Of a server that leaves out those with the same
    value, further rows with it are lost, and so are of any server rows that come later with a smaller value: nothing tells of
    them. Where that may be, let the column be the time of the last change as the server sets it, or do without.
    """

    column: Name
    parameter: Name


class ApiSource(Section):
    """Rows from an HTTP API that answers in JSON; `rows` says where in the answer their list stands, "" for the answer itself."""

    kind: Literal["api"]
    url: Annotated[str, Field(pattern=r"^https?://")]
    rows: str
    query: dict[Name, str] = {}
    page: Page | None = None
    token: Secret | None = None  # sent as `Authorization: Bearer`, or as it is under `header` or as the query's `parameter`
    header: Name | None = None
    parameter: Name | None = None
    key: Name | None = None  # the column that tells rows apart: a row sent twice counts once
    watermark: Since | None = None
    missing: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _leads_somewhere(self) -> Self:
        try:
            parts = urlsplit(self.url)
            leads = bool(parts.hostname) and parts.port != 0 and self.url.isprintable()
        except ValueError:
            leads = False
        if not leads:
            raise ValueError(
                "the url has no host, or a port that is none; expected for example https://api.example.com:8443/v1/rows"
            )
        return self

    @model_validator(mode="after")
    def _has_no_secret(self) -> Self:
        if re.search(r"://[^/@]*:[^/@]+@", self.url):
            raise ValueError("the url holds a password; put it in the environment and name it: token: 'env:NAME'")
        for where, name, value in [
            *(("query", name, value) for name, value in self.query.items()),
            *(("the url's query", name, value) for name, value in parse_qsl(urlsplit(self.url).query)),
        ]:
            if _is_secret(name, value):
                raise ValueError(
                    f"{where} holds what looks like a secret, {name!r}; put its value in the environment and name both: "
                    f"token: 'env:NAME' and parameter: {name}"
                )
        return self

    @model_validator(mode="after")
    def _sends_its_token_one_way(self) -> Self:
        if self.header is not None and self.parameter is not None:
            raise ValueError("header and parameter both say how the token is sent; give one of them")
        if self.token is None and (self.header or self.parameter):
            raise ValueError(
                f"{'header' if self.header else 'parameter'} says how a token is sent; name that too: token: 'env:NAME'"
            )
        page = (self.page.parameter, self.page.size_parameter) if self.page else ()
        others = {*self.query, *page, *([self.watermark.parameter] if self.watermark else [])}
        if self.parameter in others - {None}:
            raise ValueError(f"{self.parameter!r} is the token's parameter and another one's too; expected a name for each")
        return self


_SECRETS = (
    "(x )?api ?key|app ?key|access ?key|((access|auth|api|private|bearer) ?)?token|sig(nature)?"
    "|((client|api|app) ?)?secret|pass(word|wd)?|pwd"
)
_RANDOM = re.compile(r"(?=.*[0-9])(?=.*[A-Za-z])[A-Za-z0-9_+/=.-]{16,}")  # under names that may be those of other things too


def _is_secret(name: str, value: str) -> bool:
    """Whether a parameter of a URL's query looks like a secret by its name, or like a key by name and value."""
    plain = re.sub(r"(?<=[a-z])(?=[A-Z])|[^A-Za-z]+", " ", name).strip().lower()
    if re.fullmatch(_SECRETS, plain):
        return True
    return bool(re.fullmatch(r"(.* )?(key|app ?id|auth|code)", plain) and _RANDOM.fullmatch(value))


Source = Annotated[PackageSource | FileSource | SqlSource | ApiSource, Field(discriminator="kind")]
Sources = dict[Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")], Source]


class Privacy(Section):
    """What becomes of personal columns, each named as `column` or `source.column`, before a row of them is written anywhere.

    pseudonymise: a keyed HMAC-SHA256, the same for the same value and key; coarsen: a date to its day, month or year, text to
    its first characters; keep: looked at, and no harm.
    """

    key: Secret | None
    drop: tuple[Name, ...]
    pseudonymise: tuple[Name, ...]
    coarsen: dict[Name, Literal["day", "month", "year"] | Annotated[int, Field(ge=1, le=100)]]
    keep: tuple[Name, ...]

    @model_validator(mode="after")
    def _is_decided_once(self) -> Self:
        named = [*self.drop, *self.pseudonymise, *self.coarsen, *self.keep]
        if twice := sorted({name for name in named if named.count(name) > 1}):
            raise ValueError(f"{twice} named more than once among drop, pseudonymise, coarsen and keep")
        if self.pseudonymise and self.key is None:
            raise ValueError("pseudonymise needs a key: name the environment variable that holds it, key: env:NAME")
        return self


class Table(Section):
    """The columns of the table by their role, and the DuckDB query that makes it from the sources."""

    task: Task
    time: Name | None
    target: Name
    classes: tuple[Label, ...]  # of a binary or multiclass target; of two the second is the one whose probability is told
    numbers: tuple[Name, ...]
    categories: tuple[Name, ...]
    dates: tuple[Name, ...]
    texts: tuple[Name, ...]
    images: tuple[Name, ...] = ()  # columns of bytes: of PNG, JPEG, WebP, GIF or BMP files
    slices: tuple[Name, ...]
    outcomes: tuple[Name, ...]
    sets: dict[Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")], Name] = {}  # by name a query of one column, for rules
    query: Name

    @property
    def features(self) -> tuple[str, ...]:
        return (*self.numbers, *self.categories, *self.dates, *self.texts, *self.images)

    @model_validator(mode="after")
    def _roles_are_apart(self) -> Self:
        features = self.features
        if not features:
            raise ValueError("no feature: name at least one column under numbers, categories, dates, texts or images")
        if twice := sorted({name for name in features if features.count(name) > 1}):
            raise ValueError(f"{twice} named twice among numbers, categories, dates, texts and images")
        late = {self.target, *self.outcomes} | ({self.time} if self.time not in self.dates else set())
        if leaks := [name for name in features if name in late]:
            raise ValueError(f"{leaks} cannot be features: the time, the target or outcomes, known too late to predict with")
        return self

    @model_validator(mode="after")
    def _classes_fit_the_task(self) -> Self:
        wanted = {"binary": "two", "multiclass": "three or more", "regression": "no"}[self.task]
        fits = {"binary": len(self.classes) == 2, "multiclass": len(self.classes) > 2, "regression": not self.classes}[self.task]
        if not fits:
            raise ValueError(f"task {self.task} takes {wanted} classes, found {list(self.classes)}")
        if len({str(label) for label in self.classes}) < len(self.classes):
            raise ValueError(f"classes {list(self.classes)} name one more than once")
        return self


class Rule(Section):
    """What every value of a column must satisfy, a missing value breaking only not_null; or what holds between columns.

    unique: no value, or combination of several columns' values, stands in two rows, of which the first is kept;
    in_set: one of a set of the table's; expression: a condition in SQL, which a row breaks where it is false.
    """

    column: Name | None = None
    min: float | None = None
    max: float | None = None
    one_of: tuple[int | float | str, ...] | None = None
    matches: str | None = None
    not_null: bool = False
    in_set: Name | None = None
    unique: Annotated[tuple[Name, ...], Field(min_length=1)] | None = None
    expression: Name | None = None
    budget: Share | None = None  # of the rows that may break this rule alone; the whole budget bounds it too

    @model_validator(mode="after")
    def _demands_something(self) -> Self:
        of_column = (self.min, self.max, self.one_of, self.matches, self.in_set) != (None,) * 5 or self.not_null
        if (self.column is not None, self.unique is not None, self.expression is not None).count(True) != 1:
            raise ValueError("give one of column, unique and expression")
        if of_column != (self.column is not None):
            raise ValueError(
                "demands nothing of a column, or something of none: a column needs min, max, one_of, matches, in_set or not_null; "
                "unique and expression stand alone"
            )
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}")
        try:
            re.compile(self.matches or "")
        except re.error as error:
            raise ValueError(f"matches {self.matches!r} is no regular expression: {error}") from error
        return self


class Drift(Section):
    """How far a column may be from what the last release learned on: L-infinity of the shares of a category's words,
    Jensen-Shannon divergence of a number's distribution. Beyond it a warning, or the end of the run."""

    categories: Share
    numbers: Share
    beyond: Literal["warn", "stop"]


class Validate(Section):
    max_quarantined: Share
    min_rows: Count
    duplicates: Literal["keep", "quarantine", "stop"]  # rows that equal another one in every column
    drift: Drift
    rules: tuple[Rule, ...]


class TimeSplit(Section):
    """By the table's time: rows from `test_from` on test, or those of its `test_last_days`, which move on with the data; the last
    day of every `validation_every_days` before them validates."""

    by: Literal["time"]
    test_from: date | datetime | None = None
    test_last_days: Annotated[int, Field(ge=1, le=36_600)] | None = None  # up to and with the day of the newest row
    validation_every_days: Annotated[int, Field(ge=2, le=366)]

    @model_validator(mode="after")
    def _begins_once(self) -> Self:
        if (self.test_from is None) == (self.test_last_days is None):
            raise ValueError("give either test_from, a day that stays, or test_last_days, which move on with the data")
        return self


class RandomSplit(Section):
    """By chance from the seed, each class divided alike."""

    by: Literal["random"]
    test: Annotated[float, Field(gt=0, lt=1)]
    validation: Annotated[float, Field(gt=0, lt=1)]


class GroupSplit(Section):
    """By chance from the seed, all rows with the same value of the column on one side."""

    by: Literal["group"]
    column: Name
    test: Annotated[float, Field(gt=0, lt=1)]
    validation: Annotated[float, Field(gt=0, lt=1)]


Split = Annotated[TimeSplit | RandomSplit | GroupSplit, Field(discriminator="by")]


class Pixels(Section):
    """What every image becomes: resized to height and width, grey (one channel) or red, green and blue (three)."""

    height: Annotated[int, Field(ge=4, le=1024)]
    width: Annotated[int, Field(ge=4, le=1024)]
    channels: Literal[1, 3]


class Pieces(Section):
    """Of a text the first known runs of three to five characters of its words: words that are new or misspelt tell by them."""

    slots: Annotated[int, Field(ge=1, le=4096)]
    most: Annotated[int, Field(ge=1, le=10_000_000)]  # of a column, the most frequent ones


class Backbone(Section):
    """A network that saw other images, which the teacher sees by; the served student never does.

    path: a folder as the stages write it, such as models/teacher/network of another workspace, whose convolutions the teacher's
    start from; or, from anywhere, a .keras file, a folder with a SavedModel, or the file of weights, without their top, of an
    `architecture` of keras.applications. These two files may be behind a URL. sha256: of the file, or of the folder's content.
    pixels: how a network from anywhere wants them, as core.trunk.scale_pixels says. Frozen ones stay as they are, the others
    learn on.
    """

    path: Name
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    frozen: bool
    architecture: Name | None = None
    pixels: PixelScale | None = None

    @model_validator(mode="after")
    def _says_how_it_takes_pixels(self) -> Self:
        if self.architecture and not self.pixels:
            raise ValueError(f"architecture {self.architecture} needs pixels: one of {list(get_args(PixelScale))}")
        return self


class Preprocess(Section):
    split: Split
    quantiles: Annotated[int, Field(ge=2, le=65_536)]
    min_count: Count
    max_words: Annotated[int, Field(ge=1, le=10_000_000)]  # of a category, the most frequent ones
    tokens: Annotated[int, Field(ge=1, le=1024)]  # of a text, the first words and known pairs of words
    token_words: Annotated[int, Field(ge=1, le=10_000_000)]  # of all texts of a column, the most frequent ones
    pieces: Pieces | None = None  # of the words of the columns under table.texts
    holidays: Annotated[str, Field(pattern=r"^[A-Z]{2}(-[A-Z0-9]+)?$")] | None  # a country, or a part of one: US, DE-BY
    images: Pixels | None = None  # of the columns under table.images
    backbone: Backbone | None = None  # frozen: what it makes of each image is computed once, for the teacher

    @model_validator(mode="after")
    def _backbone_is_frozen(self) -> Self:
        if self.backbone and (not self.images or not self.backbone.frozen or not self.backbone.pixels):
            raise ValueError("backbone needs images, pixels and frozen: true; one that learns on belongs under network.backbone")
        return self


class Hyperparameter(Section):
    """What to search: an interval, on a log scale, or choices; the family's first trial takes the default."""

    low: Annotated[float, Field(gt=0)] | None = None
    high: Annotated[float, Field(gt=0)] | None = None
    choices: Annotated[tuple[int | float | str, ...], Field(min_length=1)] | None = None
    default: int | float | str

    @model_validator(mode="after")
    def _is_an_interval_or_choices(self) -> Self:
        low, high, choices, default = self.low, self.high, self.choices, self.default
        if choices is not None and low is None and high is None:
            if default not in choices or len({type(one) for one in (*choices, default)}) > 1:
                raise ValueError(f"expected the default among choices of one type, found {default!r} and {list(choices)}")
            if len(set(choices)) < len(choices):
                raise ValueError(f"choices {list(choices)} name one more than once")
            return self
        if choices is not None or low is None or high is None:
            raise ValueError("give low, high and default, or choices and default")
        if isinstance(default, str) or not low < high or not low <= default <= high:
            raise ValueError(f"expected low < high with default between them, found {low:g}, {high:g}, {default}")
        return self

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The interval, None of choices."""
        return (self.low, self.high) if self.low is not None and self.high is not None else None


class Budget(Section):
    """What ends the search, whichever comes first; money is hours times their price, in any one currency."""

    trials: Annotated[int, Field(ge=1, le=10_000)]
    minutes: Annotated[float, Field(gt=0)]
    money: Annotated[float, Field(gt=0)] | None
    price_per_hour: Annotated[float, Field(gt=0)] | None

    @model_validator(mode="after")
    def _has_a_price(self) -> Self:
        if self.money is not None and self.price_per_hour is None:
            raise ValueError("money needs price_per_hour: what an hour of this machine costs")
        return self

    @property
    def seconds(self) -> float:
        """How long trials may be started for."""
        bought = 3600 * self.money / self.price_per_hour if self.money and self.price_per_hour else math.inf
        return min(60 * self.minutes, bought)


class Convolutions(Section):
    """What sees an image: a stage of a residual network for each of `channels`, the next one at half the height and width.

    In training each image is moved by up to `shift` pixels each way, and mirrored half the time where `flip` says so.
    """

    channels: Annotated[tuple[Width, ...], Field(min_length=1, max_length=8)]
    shift: Annotated[int, Field(ge=0, le=64)]
    flip: bool


class Network(Section):
    members: Annotated[int, Field(ge=1, le=256)]
    bins: Bins
    embedding: Width
    images: Convolutions | None = None
    backbone: Backbone | None = None

    @model_validator(mode="after")
    def _backbone_is_of_convolutions(self) -> Self:
        if self.backbone and not self.images:
            raise ValueError("backbone needs images: the convolutions that start from it, or how images are moved and mirrored")
        if self.backbone and self.backbone.pixels and self.backbone.frozen:
            raise ValueError("a frozen network from anywhere belongs under preprocess.backbone, which lets it see each image once")
        return self


class Tune(Section):
    oracle: Literal["bayesian", "random", "hyperband"]
    budget: Budget
    parallel: Literal["auto"] | Annotated[int, Field(ge=1, le=256)]
    dask: Annotated[str, Field(pattern=r"^(tcp|tls)://[^\s/]+:[0-9]{1,5}$")] | None = (
        None  # a scheduler, on whose cluster trials run
    )
    ahead: Annotated[int, Field(ge=1, le=256)]
    stop_after: Count | None
    keep: Count
    rows: Count
    epochs: Epochs
    batch: Batch
    families: Annotated[dict[Name, dict[Name, Hyperparameter]], Field(min_length=1)]

    @model_validator(mode="after")
    def _stops_by_one_rule(self) -> Self:
        if self.oracle == "hyperband" and self.stop_after is not None:
            raise ValueError("oracle hyperband has its own rule for ending trials: stop_after null is what goes with it")
        return self

    @model_validator(mode="after")
    def _asks_far_enough_ahead(self) -> Self:
        if isinstance(self.parallel, int) and self.parallel > self.ahead:
            raise ValueError(f"{self.parallel} trials at once need tune.ahead of at least {self.parallel}, found {self.ahead}")
        return self

    @model_validator(mode="after")
    def _can_train(self) -> Self:
        for family, space in self.families.items():
            if missing := sorted({"learning_rate", "weight_decay"} - space.keys()):
                raise ValueError(f"families.{family}: {missing} missing; every family is trained with them")
            for name, one in space.items():
                if "dropout" in name and max(one.bounds or (0.0,)) >= 1:
                    raise ValueError(f"families.{family}.{name}: found high {one.high:g}, expected a share below 1")
        return self


Weights = Annotated[
    Annotated[Literal["none", "balanced"], Tag("word")] | Annotated[dict[str, Annotated[float, Field(gt=0)]], Tag("each")],
    Discriminator(lambda value: "each" if isinstance(value, dict) else "word"),
]


class Growth(Section):
    """Trees that are part of the teacher beside its networks."""

    boosting: Annotated[int, Field(ge=1, le=100_000)]
    learning_rate: Rate
    forest: Annotated[int, Field(ge=1, le=10_000)]
    leaf: Count
    rows: Count


class Train(Section):
    epochs: Epochs
    batch: Batch
    patience: Count
    class_weights: Weights  # in the loss of teacher and student
    trees: Growth | None
    words: Count | None = None  # rows that a linear model on the words of table.texts learns from at most, a part of the teacher
    made: Annotated[float, Field(ge=0, le=100)]


Address = Annotated[str, Field(pattern=r"^[^\s/]+:[0-9]{1,5}$")]


class Compute(Section):
    workers: Annotated[int, Field(ge=1, le=1024)]
    hosts: tuple[Address, ...]
    restarts: Annotated[int, Field(ge=0, le=10_000)]

    @model_validator(mode="after")
    def _counts_its_hosts(self) -> Self:
        if self.hosts and len(self.hosts) != self.workers:
            raise ValueError(f"workers is {self.workers}, but hosts name {len(self.hosts)}: one address for each worker, or none")
        if len(set(self.hosts)) < len(self.hosts):
            raise ValueError("hosts name an address twice; workers on one machine need a port each")
        return self


Hidden = Annotated[tuple[Width, ...], Field(min_length=1)]


class ShapeSearch(Section):
    """Shapes of the student to try besides its own: each of `hidden` with each of `bins` and of `embedding`.

    One in `keep` goes on to the next rung, where it is trained `keep` times as long; what does not fit the budget is not trained.
    """

    hidden: Annotated[tuple[Hidden, ...], Field(min_length=1)]
    bins: Annotated[tuple[Bins, ...], Field(min_length=1)]
    embedding: Annotated[tuple[Width, ...], Field(min_length=1)]
    max_bytes: Count  # of the .tflite file with 8-bit weights
    max_microseconds: Annotated[float, Field(gt=0)]  # one row through that, measured on this machine
    keep: Annotated[int, Field(ge=2, le=100)]
    rows: Count  # of the lesson that a rung's epoch takes at most


class Distill(Section):
    epochs: Epochs
    batch: Batch
    learning_rate: Rate
    weight_decay: Share
    hidden: Hidden
    bins: Bins
    embedding: Width
    search: ShapeSearch | None  # null: the shape above
    teacher_weight: Share
    temperature: Annotated[float, Field(ge=0.1, le=100)]  # by which teacher's and student's logits are divided as it learns
    images: Convolutions | None = None


Candidate = Literal[
    "student",
    "student int8 weights",
    "student int8",
    "student aware int8",
    "student pruned int8",
    "student clustered int8",
    "student pruned clustered int8",
    "student pruned aware int8",
    "student clustered aware int8",
    "student pruned clustered aware int8",
    "student alone",
    "large",
]


class Compress(Section):
    candidates: Annotated[tuple[Candidate, ...], Field(min_length=1)]  # in the order that a tie goes by
    sparsity: Annotated[float, Field(gt=0, lt=1)]
    clusters: Annotated[int, Field(ge=2, le=256)]  # distinct weights of a clustered layer
    epochs: Epochs
    batch: Batch
    learning_rate: Rate
    calibration_rows: Annotated[int, Field(ge=10)]

    @model_validator(mode="after")
    def _names_each_once(self) -> Self:
        if len(set(self.candidates)) < len(self.candidates):
            raise ValueError("candidates names one twice")
        return self


class Gate(Section):
    """What a candidate must keep, metric by metric; `near_teacher` is how much worse than the teacher it may be.

    `near_best` is a share: how much higher than the best candidate's its loss may be (log loss, or RMSE).
    """

    at_least: dict[Metric, float]
    at_most: dict[Metric, float]
    near_teacher: dict[Metric, Annotated[float, Field(ge=0)]]
    near_best: Annotated[float, Field(ge=0)]
    max_bytes: Count
    max_microseconds: Annotated[float, Field(gt=0)]
    beats: tuple[Literal["constant", "linear", "gradient boosting"], ...]


Cost = Annotated[float, Field(ge=0)]


class Errors(Section):
    """What a wrong decision between two classes costs; a right one costs nothing."""

    false_positive: Cost  # to act on the second class where the first is true
    false_negative: Cost


Costs = Annotated[
    Annotated[Errors, Tag("two")] | Annotated[dict[str, dict[str, Cost]], Tag("several")],
    Discriminator(
        lambda value: "several" if isinstance(value, dict) and all(isinstance(v, dict) for v in value.values()) else "two"
    ),
]


class Importance(Section):
    """How much worse the model is with a column's values shuffled."""

    rows: Annotated[int, Field(ge=100)]  # of the test part at most
    repeats: Annotated[int, Field(ge=2, le=1000)]


class Evaluate(Section):
    resamples: Annotated[int, Field(ge=20, le=100_000)]
    confidence: Annotated[float, Field(gt=0.5, lt=1)]
    baseline_rows: Count  # that the baselines learn from at most: they hold them in memory
    costs: Costs | None  # of several classes truth: {decision: cost}; one not named costs 1
    interval: tuple[Rate, Rate] | None  # of a regression: the shares of new rows below its low and its high end
    importance: Importance
    gate: Gate


class Export(Section):
    golden_rows: Annotated[int, Field(ge=1, le=1000)]


class Canary(Section):
    """How much of the traffic a canary sees, and what decides on it."""

    share: Rate  # of the requests
    requests: Count  # that it has answered, and
    minutes: Annotated[float, Field(ge=0)]  # that it was watched for, before it is promoted
    errors: Share  # of its requests may fail
    latency: Annotated[float, Field(gt=0)]  # times production's p95 may its own be
    shift: Annotated[float, Field(gt=0)]  # between the distributions of both scores (Kolmogorov and Smirnov)


class Release(Section):
    """Where a release goes, what vouches for it, and how a new one takes over."""

    store: Name
    remote: Name | None  # of DVC
    kms_key: Name | None  # of AWS, by id, ARN or alias
    keep: Count  # versions, besides those that a channel names
    sign: Name | None  # a secret, or the file of a private key in PEM
    verify: Name | None  # likewise the public key, which a release must be signed by
    canary: Canary

    @model_validator(mode="after")
    def _leads_somewhere_without_a_secret(self) -> Self:
        if "://" in self.store and not re.fullmatch(r"s3://[A-Za-z0-9][A-Za-z0-9._-]+(/[^?#]*)?", self.store):
            raise ValueError(f"store {self.store!r} is no place to release to; expected a folder or s3://bucket/prefix")
        for name, place in (("store", self.store), ("remote", self.remote or "")):
            if "://" in place and IN_URL.search(place):
                raise ValueError(f"{name} holds a secret; credentials belong in the environment or ~/.aws")
        for name, key in (("sign", self.sign or ""), ("verify", self.verify or "")):
            if "\n" in key or "-----BEGIN" in key:
                raise ValueError(f"{name} holds a key itself; put it in the environment or a file and name that: env:NAME, key.pem")
        if self.kms_key and not any((place or "").startswith("s3://") for place in (self.store, self.remote)):
            raise ValueError("kms_key encrypts what lies in S3; neither store nor remote does")
        return self


class Told(Section):
    """What each way of telling people has."""

    least: Severity  # alerts of this severity and graver ones: info, warning, critical


class WebhookChannel(Told):
    """An address that takes alerts as JSON, by POST; with the token in its Authorization header, if there is one."""

    kind: Literal["webhook"]
    url: Secret | Annotated[str, Field(pattern=r"^https?://[^\s/?#]+")]
    token: Secret | None = None

    @model_validator(mode="after")
    def _has_no_secret(self) -> Self:
        if IN_URL.search(self.url) or re.search(r"://[^/]*@", self.url):
            raise ValueError("the url holds a secret; put it in the environment and name that: url: 'env:NAME'")
        return self


class SlackChannel(Told):
    """An incoming webhook of Slack, or of what takes the same, such as Mattermost; its address is a secret."""

    kind: Literal["slack"]
    url: Secret


class EmailChannel(Told):
    """A mail server. starttls and tls check its certificate; none is for a server of this machine or network, without a login."""

    kind: Literal["email"]
    host: Name
    port: Annotated[int, Field(ge=1, le=65_535)]
    security: Literal["starttls", "tls", "none"]
    sender: MailAddress
    to: Annotated[tuple[MailAddress, ...], Field(min_length=1)]
    user: Name | None = None
    password: Secret | None = None

    @model_validator(mode="after")
    def _logs_in_over_tls(self) -> Self:
        if (self.user is None) != (self.password is None):
            raise ValueError("user and password belong together")
        if self.user and self.security == "none":
            raise ValueError("security none would send the password for all to read; choose starttls or tls")
        return self


class SnsChannel(Told):
    """A topic of Amazon's SNS; the credentials are those of the environment."""

    kind: Literal["sns"]
    topic: Annotated[str, Field(pattern=r"^arn:aws[a-z-]*:sns:[a-z0-9-]+:[0-9]{12}:[A-Za-z0-9_-]+(\.fifo)?$")]


Channel = Annotated[WebhookChannel | SlackChannel | EmailChannel | SnsChannel, Field(discriminator="kind")]


class Alerting(Section):
    """Whom to tell, and how often."""

    reports: Annotated[str, Field(pattern=r"^https?://[^\s?#]+$")] | None  # where people open the folder reports/
    remind_hours: Annotated[float, Field(gt=0, le=87_840)]  # after which a trouble that is not over is told again
    channels: dict[Name, Channel]


class Retrain(Section):
    """When a model may be trained anew by itself, and what its successor must show."""

    cooldown_hours: Annotated[float, Field(ge=0, le=87_840)]  # from the beginning of one retraining to the next
    most_a_day: Count  # retrainings that begin within 24 hours
    window_days: Annotated[float, Field(gt=0, le=3660)]  # of the prediction log, the newest with truth, that decide
    rows: Count  # of them with truth that a comparison needs; of fewer the test part decides
    resamples: Annotated[int, Field(ge=100, le=100_000)]
    win: Annotated[float, Field(ge=0.5, lt=1)]  # share of the resamples in which the challenger must have the lower loss
    then: Literal["canary", "promote", "hold"]  # a challenger that won
    wait_minutes: Annotated[float, Field(ge=0)]  # for the services' word on the canary


class Floor(Section):
    """The least effects that matter, whatever the odds: see tasks/core/drift.py."""

    shape: Share  # of a column or the answers: Jensen-Shannon distance, base 2; 0.1 is what 0.24 standard deviations make
    missing: Share  # share of the rows without a value, more or fewer
    new: Share  # share of the rows with a word never seen before, or a number beyond the ends
    truth: Share  # share of a class among what came, more or fewer; of a number a distance as of shape
    loss: Annotated[float, Field(ge=0)]  # by which log loss or error grew, as a share of it
    ranking: Share  # by which AUC or accuracy fell
    calibration: Annotated[float, Field(ge=0)]  # between said and came: a probability, or of a number standard deviations


class Seasonality(Section):
    """What features are held against: the release's test part, the windows before this one, or the same days a year before."""

    reference: Literal["release", "moving", "year"]
    windows: Annotated[int, Field(ge=1, le=1000)]  # of a moving one, before this window and without drift


class Monitor(Section):
    """Which rows are watched, in what windows, and what raises drift."""

    log: Name  # where `python -m serving --log` writes: a folder, from the workspace, or s3://bucket/prefix
    channel: Literal["production", "canary"]
    hours: Annotated[float, Field(gt=0, le=8784)]  # of a window; they follow one another from midnight UTC on 1 January 1970
    grace_minutes: Annotated[float, Field(ge=0, le=10_080)]  # after its end, in which the service writes what it still holds
    truth_hours: Annotated[float, Field(ge=0, le=87_840)]  # after its end, when its quality is judged by the truths that came
    min_rows: Annotated[int, Field(ge=50)]  # of a window, below which nothing is said of it
    false_alarms: Annotated[float, Field(gt=0, le=0.2)]  # share of the windows without change that may raise drift
    # What raises drift, the kinds of Finding in tasks/core/verdict.py; the rest is told.
    raises: tuple[Literal["feature", "prediction", "truth", "quality", "calibration"], ...]
    floor: Floor
    columns: dict[Name, Share | None]  # floors of single columns, of whatever is measured; null: not looked at
    unmatched: Share  # share of the truths whose ids no row has, above which quality is unknown; 1 where the log is sampled
    seasonality: Seasonality

    @model_validator(mode="after")
    def _window_has_whole_seconds(self) -> Self:
        if timedelta(hours=self.hours) < timedelta(minutes=1) or timedelta(hours=self.hours).microseconds:
            raise ValueError(f"hours: found {self.hours!r}; expected a minute at least, of whole seconds, such as 24, 1 or 0.25")
        return self

    @model_validator(mode="after")
    def _log_is_a_place(self) -> Self:
        if "://" in self.log and not re.fullmatch(r"s3://[A-Za-z0-9][A-Za-z0-9._-]+(/[^?#]*)?", self.log):
            raise ValueError(f"log {self.log!r} is no place of a prediction log; expected a folder or s3://bucket/prefix")
        return self


class Params(Section):
    """All of params.yaml."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    sources: Annotated[Sources, Field(min_length=1)]
    privacy: Privacy
    table: Table
    validate_: Annotated[Validate, Field(alias="validate")]
    preprocess: Preprocess
    network: Network
    tune: Tune
    train: Train
    compute: Compute
    distill: Distill
    compress: Compress
    evaluate: Evaluate
    export: Export
    release: Release
    alert: Alerting
    retrain: Retrain
    monitor: Monitor

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        split = self.preprocess.split
        if isinstance(split, TimeSplit) and self.table.time is None:
            raise ValueError("preprocess.split by time needs table.time; name the column, or split by random or group")
        if self.train.batch % self.compute.workers:
            raise ValueError(
                f"train.batch {self.train.batch} has no equal shares for compute.workers {self.compute.workers}; change either"
            )
        if self.preprocess.backbone and self.network.backbone:
            raise ValueError("preprocess.backbone and network.backbone are two ways for the teacher to see: take out one")
        if self.table.images and (
            lacking := [
                f"{name}.images"
                for name in ("preprocess", "network", "distill")
                if getattr(self, name).images is None and not (name == "network" and self.preprocess.backbone)
            ]
        ):
            raise ValueError(f"table.images names {list(self.table.images)}, which need {', '.join(lacking)}")
        gate = self.evaluate.gate
        allowed = METRICS[self.table.task]
        named: set[str] = {*gate.at_least, *gate.at_most, *gate.near_teacher}
        if strange := sorted(named - set(allowed)):
            raise ValueError(f"evaluate.gate names {strange}; task {self.table.task} is measured by {list(allowed)}")
        self._classes_are_known()
        if strange := sorted(self.monitor.columns.keys() - set(self.table.features)):
            raise ValueError(f"monitor.columns names {strange}, which are no features")
        if strange := sorted({rule.in_set for rule in self.validate_.rules if rule.in_set} - self.table.sets.keys()):
            raise ValueError(f"validate.rules name the sets {strange}; table.sets has {sorted(self.table.sets)}")
        return self

    def _classes_are_known(self) -> None:
        """ValueError when weights, costs or an interval do not fit the task and its classes."""
        task, labels = self.table.task, [as_text(label) for label in self.table.classes]
        weights, costs, interval = self.train.class_weights, self.evaluate.costs, self.evaluate.interval
        if task == "regression" and (weights != "none" or costs is not None):
            raise ValueError("a regression has no classes: train.class_weights none and evaluate.costs null are what it takes")
        if isinstance(weights, dict) and sorted(weights) != sorted(labels):
            raise ValueError(f"train.class_weights names {sorted(weights)}; expected a weight for each of {labels}")
        if isinstance(costs, Errors) and task != "binary":
            raise ValueError(f"evaluate.costs of task {task} takes truth: {{decision: cost}} with the classes {labels}")
        if isinstance(costs, dict):
            if task == "binary":
                raise ValueError("evaluate.costs of two classes takes {false_positive: cost, false_negative: cost}")
            named = {*costs, *(decision for row in costs.values() for decision in row)}
            if strange := sorted(named - set(labels)):
                raise ValueError(f"evaluate.costs names {strange}; table.classes are {labels}")
        if interval is not None and (task != "regression" or not 0 < interval[0] < interval[1] < 1):
            raise ValueError(f"evaluate.interval {list(interval)}: expected [low, high], 0 < low < high < 1, of a regression")

    @classmethod
    def load(cls, path: Path) -> "Params":
        """The checked content of the file; ParamsError with one line for the first value that is not allowed."""
        return cls.parse(read_params(path), str(path))

    @classmethod
    def parse(cls, text: str, where: str) -> "Params":
        """The checked content of a YAML text; `where` stands in front of the error."""
        try:
            document = read_yaml(text)
        except MarkedYAMLError as error:
            raise ParamsError(f"{where}{_line(error)}: not YAML: {error.problem or error.context}") from error
        except NOT_YAML as error:
            raise ParamsError(f"{where}: not YAML: {' '.join(str(error).split())}") from error
        try:
            same = YAML(typ="safe").load(text) == document
        except RecursionError as error:
            raise ParamsError(f"{where}: it holds itself; expected plain values under named keys") from error
        except MarkedYAMLError as error:
            said = f"{where}{_line(error)}: DVC's parser does not read it: {error.problem or error.context}"
            raise ParamsError(f'{said}; put quotes around what holds a colon: "env:NAME"') from error
        if not same:
            raise ParamsError(f"{where}: YAML parsers read it in different ways; put quotes around texts that look like numbers")
        try:
            # JSON mode keeps strictness (no "3" for 3) yet takes lists for tuples and dates as YAML writes them.
            return cls.model_validate_json(json.dumps(document, default=str))
        except ValidationError as error:
            raise ParamsError(f"{where}: {_explain(error)}") from error
        except (TypeError, ValueError, RecursionError) as error:
            raise ParamsError(f"{where}: {error}; expected plain values under named keys") from error


def _line(error: MarkedYAMLError) -> str:
    return f":{error.problem_mark.line + 1}" if error.problem_mark else ""


def read_params(path: Path) -> str:
    """The file's text, its line ends as they are; ParamsError when it cannot be read."""
    try:
        return path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path}: cannot be read ({error}); a workspace needs a params.yaml") from error


# What the parser raises: for its marks, for a date of 30 February or a !!int of letters, and for a thousand brackets.
NOT_YAML = (YAMLError, ValueError, TypeError, AttributeError, RecursionError)


def read_yaml(text: str) -> Any:
    """The YAML text's values; one of NOT_YAML when it is none. By the parser in Python: the one in C dies of deep brackets."""
    return YAML(typ="safe", pure=True).load(text)


def with_values(text: str, settings: Iterable[str]) -> str:
    """The YAML text with each KEY=VALUE spliced in and every other byte kept; ParamsError for a key that it does not hold.

    A text with a colon gets quotes, without which not every parser reads it among others on one line.
    """
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise ParamsError(f"--set {setting!r}: expected KEY=VALUE, for example train.epochs=5")
        try:
            value.encode()  # bytes that are no UTF-8 come from the shell as what no file can hold
            meant = read_yaml(value)
            node = YAML().compose(io.StringIO(text))
        except MarkedYAMLError as error:
            raise ParamsError(f"--set {_cut(setting)!r}: not YAML: {error.problem or error.context}") from error
        except NOT_YAML as error:
            raise ParamsError(f"--set {_cut(setting)!r}: not YAML: {_cut(' '.join(str(error).split()))}") from error
        for part in key.strip().split("."):
            children = {name.value: child for name, child in node.value} if isinstance(node, MappingNode) else {}
            if part not in children:
                nearest = _nearest(key.strip(), _keys(read_yaml(text)))
                raise ParamsError(f"--set {setting!r}: params.yaml has no key {key.strip()!r}{nearest}")
            node = children[part]
        if isinstance(node, MappingNode) and not node.flow_style:
            raise ParamsError(f"--set {setting!r}: {key.strip()} is a section; set one of {[name.value for name, _ in node.value]}")
        start, end = node.start_mark.index, _end(node, text)
        plain = isinstance(meant, str) and ":" in meant and meant == value.strip()
        text = text[:start] + (json.dumps(meant, ensure_ascii=False) if plain else value.strip()) + text[end:]
    return text


def _cut(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:197]}..."


def _end(node: Node, text: str) -> int:
    """Where the value's own text ends: YAML counts the line breaks and comments after a block as its own."""
    while isinstance(node, CollectionNode) and not node.flow_style and node.value:
        node = node.value[-1][1] if isinstance(node, MappingNode) else node.value[-1]
    return len(text[: node.end_mark.index].rstrip())


def change_params(workspace: Path, settings: list[str]) -> None:
    """params.yaml holds the settings; ParamsError, and the file as it was, when the whole would not be valid."""
    path = workspace / "params.yaml"
    text = read_params(path)
    changed = with_values(text, settings)
    Params.parse(changed, str(path))
    if changed != text:
        aside = path.with_name(".params.yaml.partial")
        aside.write_bytes(changed.encode())
        aside.replace(path)


def _keys(node: Any, prefix: str = "") -> list[str]:
    """Every dotted key of a nested mapping."""
    if not isinstance(node, dict):
        return []
    return [key for name, child in node.items() for key in (f"{prefix}{name}", *_keys(child, f"{prefix}{name}."))]


def _nearest(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _explain(error: ValidationError) -> str:
    """The first fault of the document in one line: key, what was found, what is allowed."""
    # A misspelt key is missing too: tell of the misspelling, which is the cause.
    faults = sorted(error.errors(include_url=False), key=lambda fault: fault["type"] != "extra_forbidden")
    fault = faults[0]
    loc = fault["loc"]  # pydantic puts the kind of a source behind its name
    path = [part for i, part in enumerate(loc) if not _is_kind(loc, i) and part != "[key]"]
    key = ".".join(map(str, path)) or "the file"
    found = fault["input"]
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    match fault["type"]:
        case "extra_forbidden":
            siblings = _known_keys(fault["loc"][:-1])
            return f"{key}: unknown key{_nearest(str(fault['loc'][-1]), siblings) or f'; known here: {sorted(siblings)}'}{more}"
        case "missing":
            return f"{key}: missing; every value stands in this file{more}"
        case "value_error":
            return f"{key}: {fault['ctx']['error']}{more}"
        case _:
            shown = found if isinstance(found, str | int | float | bool | None) else type(found).__name__
            return f"{key}: found {shown!r}; {fault['msg'].removeprefix('Input ').replace('should be', 'expected', 1)}{more}"


# What pydantic puts behind the key of a value that comes in several kinds.
_KINDS: dict[tuple[int | str, int | str], type[Section]] = {
    ("sources", "package"): PackageSource,
    ("sources", "file"): FileSource,
    ("sources", "sql"): SqlSource,
    ("sources", "api"): ApiSource,
    ("preprocess", "time"): TimeSplit,
    ("preprocess", "random"): RandomSplit,
    ("preprocess", "group"): GroupSplit,
    ("train", "word"): Train,
    ("train", "each"): Train,
    ("evaluate", "two"): Errors,
    ("evaluate", "several"): Evaluate,
    ("alert", "webhook"): WebhookChannel,
    ("alert", "slack"): SlackChannel,
    ("alert", "email"): EmailChannel,
    ("alert", "sns"): SnsChannel,
}


# What stands in a list, under names of the user's own or in place of null.
_PARTS: dict[Any, type[Section]] = {
    Validate.model_fields["rules"].annotation: Rule,
    ApiSource.model_fields["page"].annotation: Page,
    Tune.model_fields["families"].annotation: Hyperparameter,
}


def _is_kind(loc: tuple[int | str, ...], place: int) -> bool:
    """Whether that part of a fault's place is the kind of a value, which stands behind its key, and not a key."""
    return place == (3 if loc[0] == "alert" else 2) and (loc[0], loc[place]) in _KINDS


def _known_keys(loc: tuple[int | str, ...]) -> list[str]:
    """The keys that the section at `loc` allows."""
    model: Any = Params
    for i, part in enumerate(loc):
        fields = {field.alias or name: field.annotation for name, field in getattr(model, "model_fields", {}).items()}
        model = _KINDS[loc[0], part] if _is_kind(loc, i) else fields.get(str(part), model)
        model = _PARTS.get(model, model)
    return [field.alias or name for name, field in getattr(model, "model_fields", {}).items()]
