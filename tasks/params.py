"""The whole of params.yaml as frozen, strict classes: type, bound and unit of every value; parsed once."""

import difflib
import io
import json
import re
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import CollectionNode, MappingNode, Node

from tasks.core.errors import ParamsError

Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0, le=1)]
Dropout = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Epochs = Annotated[int, Field(ge=1, le=10_000)]
Batch = Annotated[int, Field(ge=1, le=1_000_000)]
Bins = Annotated[int, Field(ge=2, le=1024)]
Width = Annotated[int, Field(ge=1, le=65_536)]
Name = Annotated[str, Field(min_length=1)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class PackageSource(Section):
    """A file inside an installed package, by its path from the folder that packages are installed in."""

    kind: Literal["package"]
    package: Name
    resource: Name
    missing: tuple[str, ...] = ()


class FileSource(Section):
    """A CSV file, plain, gzipped or the only member of a zip; the path is relative to the workspace."""

    kind: Literal["file"]
    file: Name
    missing: tuple[str, ...] = ()


Source = Annotated[PackageSource | FileSource, Field(discriminator="kind")]
Sources = dict[Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")], Source]


class Table(Section):
    """The columns of the table by their role, and the DuckDB query that makes it from the sources."""

    time: Name
    target: Name
    numbers: tuple[Name, ...]
    categories: tuple[Name, ...]
    slices: tuple[Name, ...]
    outcomes: tuple[Name, ...]
    query: Name

    @model_validator(mode="after")
    def _roles_are_apart(self) -> Self:
        features = [*self.numbers, *self.categories]
        if not features:
            raise ValueError("no feature: name at least one column under numbers or categories")
        if twice := sorted({name for name in features if features.count(name) > 1}):
            raise ValueError(f"{twice} named twice among numbers and categories")
        if leaks := [name for name in features if name in (self.target, self.time, *self.outcomes)]:
            raise ValueError(f"{leaks} cannot be features: the time, the target or outcomes, known too late to predict with")
        return self


class Rule(Section):
    """What every value of a column must satisfy; a missing value breaks only not_null."""

    column: Name
    min: float | None = None
    max: float | None = None
    one_of: tuple[int | float | str, ...] | None = None
    matches: str | None = None
    not_null: bool = False

    @model_validator(mode="after")
    def _demands_something(self) -> Self:
        if (self.min, self.max, self.one_of, self.matches) == (None,) * 4 and not self.not_null:
            raise ValueError("demands nothing: give min, max, one_of, matches or not_null")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}")
        try:
            re.compile(self.matches or "")
        except re.error as error:
            raise ValueError(f"matches {self.matches!r} is no regular expression: {error}") from error
        return self


class Validate(Section):
    max_quarantined: Share
    min_rows: Count
    rules: tuple[Rule, ...]


class Preprocess(Section):
    test_from: date
    validation_every_days: Annotated[int, Field(ge=2, le=366)]
    quantiles: Annotated[int, Field(ge=2, le=65_536)]
    min_count: Count


class Range(Section):
    """An interval to search and the value to start from."""

    low: Annotated[float, Field(gt=0)]
    high: Annotated[float, Field(gt=0)]
    default: float

    @model_validator(mode="after")
    def _is_ordered(self) -> Self:
        if not self.low < self.high or not self.low <= self.default <= self.high:
            raise ValueError(f"expected low < high with default between them, found {self.low:g}, {self.high:g}, {self.default:g}")
        return self


class DropoutRange(Range):
    low: Annotated[float, Field(gt=0, lt=1)]
    high: Annotated[float, Field(gt=0, lt=1)]


class Space(Section):
    learning_rate: Range
    weight_decay: Range
    dropout: DropoutRange
    embedding_dropout: DropoutRange


class Network(Section):
    members: Annotated[int, Field(ge=1, le=256)]
    bins: Bins
    embedding: Width


class Tune(Section):
    oracle: Literal["bayesian", "random"]
    trials: Annotated[int, Field(ge=1, le=10_000)]
    minutes: Annotated[float, Field(gt=0)]
    rows: Count
    epochs: Epochs
    batch: Batch
    space: Space
    width: Annotated[tuple[Width, ...], Field(min_length=1)]
    layers: Annotated[tuple[Annotated[int, Field(ge=1, le=16)], ...], Field(min_length=1)]


class Train(Section):
    epochs: Epochs
    batch: Batch
    patience: Count


class Distill(Section):
    epochs: Epochs
    batch: Batch
    learning_rate: Rate
    weight_decay: Share
    hidden: Annotated[tuple[Width, ...], Field(min_length=1)]
    bins: Bins
    embedding: Width
    teacher_weight: Share


class Compress(Section):
    sparsity: Annotated[float, Field(gt=0, lt=1)]
    epochs: Epochs
    batch: Batch
    learning_rate: Rate
    calibration_rows: Annotated[int, Field(ge=10)]


class Gate(Section):
    min_auc: Share
    max_logloss: Annotated[float, Field(gt=0)]
    max_auc_below_teacher: Share
    max_bytes: Count
    max_microseconds: Annotated[float, Field(gt=0)]
    beats: tuple[Literal["constant", "logistic regression", "gradient boosting"], ...]


class Evaluate(Section):
    resamples: Annotated[int, Field(ge=20, le=100_000)]
    confidence: Annotated[float, Field(gt=0.5, lt=1)]
    gate: Gate


class Export(Section):
    golden_rows: Annotated[int, Field(ge=1, le=1000)]


class Params(Section):
    """All of params.yaml."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    sources: Annotated[Sources, Field(min_length=1)]
    table: Table
    validate_: Annotated[Validate, Field(alias="validate")]
    preprocess: Preprocess
    network: Network
    tune: Tune
    train: Train
    distill: Distill
    compress: Compress
    evaluate: Evaluate
    export: Export

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
            line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
            raise ParamsError(f"{where}{line}: not YAML: {error.problem or error.context}") from error
        except NOT_YAML as error:
            raise ParamsError(f"{where}: not YAML: {' '.join(str(error).split())}") from error
        try:
            # JSON mode keeps strictness (no "3" for 3) yet takes lists for tuples and dates as YAML writes them.
            return cls.model_validate_json(json.dumps(document, default=str))
        except ValidationError as error:
            raise ParamsError(f"{where}: {_explain(error)}") from error
        except (TypeError, ValueError, RecursionError) as error:
            raise ParamsError(f"{where}: {error}; expected plain values under named keys") from error


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
    """The YAML text with each KEY=VALUE spliced in and every other byte kept; ParamsError for a key that it does not hold."""
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise ParamsError(f"--set {setting!r}: expected KEY=VALUE, for example train.epochs=5")
        try:
            value.encode()  # bytes that are no UTF-8 come from the shell as what no file can hold
            read_yaml(value)
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
        text = text[:start] + value.strip() + text[end:]
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
    path = [part for i, part in enumerate(loc) if not (i == 2 and loc[0] == "sources" and part in ("package", "file", "[key]"))]
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


def _known_keys(loc: tuple[int | str, ...]) -> list[str]:
    """The keys that the section at `loc` allows."""
    model: Any = Params
    for part in loc:
        fields = {field.alias or name: field.annotation for name, field in getattr(model, "model_fields", {}).items()}
        model = {"package": PackageSource, "file": FileSource}.get(str(part), fields.get(str(part), model))
        if model == Validate.model_fields["rules"].annotation:
            model = Rule
    return [field.alias or name for name, field in getattr(model, "model_fields", {}).items()]
