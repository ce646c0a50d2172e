"""What a table does otherwise than its schema says, in plain words, and what the schema would have to be to allow it."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tensorflow_metadata.proto.v0 import schema_pb2, statistics_pb2

from tasks.core.contract import allowed

TYPES = {schema_pb2.INT: "whole numbers", schema_pb2.FLOAT: "numbers", schema_pb2.BYTES: "text"}
TOLD = 5  # words that are named, the most frequent ones


@dataclass(frozen=True)
class Difference:
    """A column that is not as the schema says; `feature` and `words` are what would allow it, None and () where it is gone."""

    column: str
    said: tuple[str, ...]
    feature: schema_pb2.Feature | None
    words: tuple[str, ...] | None = None  # of its own list, None where it has none


def differences(
    schema: schema_pb2.Schema,
    inferred: schema_pb2.Schema,
    statistics: statistics_pb2.DatasetFeatureStatisticsList,
    *,
    strange: Mapping[str, Counter[str]],
    ranges: Mapping[str, tuple[float, float]],
    most_words: int,
) -> list[Difference]:
    """Each column that differs, in the table's order, those that are gone behind.

    `inferred` is the schema that the table alone would get, `strange` the words that the schema does not know, with their rows,
    `ranges` the smallest and largest value of columns for which it has a range.
    """
    known = {feature.name: feature for feature in schema.feature}
    fresh = {feature.name: feature for feature in inferred.feature}
    found = []
    for stats in statistics.datasets[0].features:
        name = stats.path.step[0]
        if name not in known:
            found.append(_new(fresh[name], inferred))
        elif known[name].type != fresh[name].type and _rows(stats):
            was, is_ = (TYPES.get(feature.type, "of no type") for feature in (known[name], fresh[name]))
            found.append(Difference(name, (f"was {was}, is {is_}",), fresh[name], _words(fresh[name], inferred)))
        else:
            one = _changed(known[name], schema, stats, strange.get(name, Counter()), ranges.get(name), most_words)
            found += [one] if one.said else []
    there = {stats.path.step[0] for stats in statistics.datasets[0].features}
    return [*found, *(Difference(name, ("is gone",), None) for name in known if name not in there)]


def replaced(column: str, said: str, inferred: schema_pb2.Schema) -> Difference:
    """A difference that has no other remedy than what the table alone would get."""
    feature = next(feature for feature in inferred.feature if feature.name == column)
    return Difference(column, (said,), feature, _words(feature, inferred))


def _new(feature: schema_pb2.Feature, inferred: schema_pb2.Schema) -> Difference:
    words = _words(feature, inferred)
    some = f", {len(words)} different words" if words else ""
    return Difference(feature.name, (f"is new: {TYPES.get(feature.type, 'of no type')}{some}",), feature, words)


def _words(feature: schema_pb2.Feature, schema: schema_pb2.Schema) -> tuple[str, ...] | None:
    """The words of the feature's own list, where it has one, in their order."""
    match feature.WhichOneof("domain_info"):
        case "domain":
            return next((tuple(domain.value) for domain in schema.string_domain if domain.name == feature.domain), ())
        case "string_domain":
            return tuple(feature.string_domain.value)
        case _:
            return None


def _rows(stats: statistics_pb2.FeatureNameStatistics) -> int:
    return int(_common(stats).num_non_missing)


def _common(stats: statistics_pb2.FeatureNameStatistics) -> Any:
    return getattr(stats, str(stats.WhichOneof("stats"))).common_stats


def _changed(
    feature: schema_pb2.Feature,
    schema: schema_pb2.Schema,
    stats: statistics_pb2.FeatureNameStatistics,
    strange: Counter[str],
    extremes: tuple[float, float] | None,
    most_words: int,
) -> Difference:
    """The difference of a column of the same type; it says nothing when there is none."""
    wanted = schema_pb2.Feature()
    wanted.CopyFrom(feature)
    words = _words(feature, schema)
    said = [*_missing(wanted, stats), *_out_of_range(wanted, schema, extremes)]
    if strange and words is not None:
        ranked = sorted(strange.items(), key=lambda pair: (-pair[1], pair[0]))
        said.append(_told(ranked, feature.name))
        if strange.total() == _rows(stats):
            # As when a column becomes pseudonymised: what stood there must not stay in the schema.
            said.append(f"none of the {len(words):,} words before is there any more: the list would be replaced")
            wanted.ClearField(str(wanted.WhichOneof("domain_info")))
            words = ()
        words = (*words, *(word for word, _ in ranked))
        if len(words) > most_words:
            said.append(f"{len(words):,} words are too many for a list; any word would be allowed")
            if kind := wanted.WhichOneof("domain_info"):
                wanted.ClearField(kind)
            wanted.ClearField("distribution_constraints")
            words = None
    return Difference(feature.name, tuple(said), wanted, words)


def _told(ranked: list[tuple[str, int]], column: str) -> str:
    shown = ", ".join(f"{word!r} ({rows:,} {'row' if rows == 1 else 'rows'})" for word, rows in ranked[:TOLD])
    more = f" and {len(ranked) - TOLD:,} more" if len(ranked) > TOLD else ""
    return f"new {'word' if len(ranked) == 1 else 'words'} {shown}{more}"


def _missing(wanted: schema_pb2.Feature, stats: statistics_pb2.FeatureNameStatistics) -> Iterable[str]:
    """What is said of missing values; the wanted presence allows as many as there are."""
    common = _common(stats)
    rows = common.num_missing + common.num_non_missing
    share = common.num_missing / rows
    needed = wanted.presence.min_fraction
    if not common.num_non_missing and (needed or wanted.presence.min_count):
        yield "every value is missing"
        wanted.presence.Clear()
        wanted.presence.min_fraction = 0
    elif 1 - share < needed:
        was = "was never" if needed == 1 else f"was in at most {1 - needed:.1%}"
        yield f"now missing in {share:.1%} of the rows ({common.num_missing:,}), {was}"
        wanted.presence.ClearField("min_fraction")
    else:
        return
    if wanted.HasField("shape"):  # a shape demands a value in every row
        wanted.ClearField("shape")
        wanted.value_count.min = wanted.value_count.max = 1


def _out_of_range(
    wanted: schema_pb2.Feature, schema: schema_pb2.Schema, extremes: tuple[float, float] | None
) -> Iterable[str]:  # fmt: skip
    """What is said of values outside the range; the wanted one holds them."""
    limits = allowed(wanted, schema)
    if extremes is None or (limits.low <= extremes[0] and extremes[1] <= limits.high):
        return
    yield f"values from {extremes[0]:g} to {extremes[1]:g}, allowed are {limits.low:g} to {limits.high:g}"
    kind = str(wanted.WhichOneof("domain_info"))
    if kind == "bool_domain":
        wanted.ClearField(kind)
        return
    domain = getattr(wanted, kind)
    whole = int if kind == "int_domain" else float
    if domain.HasField("min"):
        domain.min = min(domain.min, whole(extremes[0]))
    if domain.HasField("max"):
        domain.max = max(domain.max, whole(extremes[1]))
