"""Stage evaluate: every candidate and the baselines on the test part; then the gate chooses what may be released."""

import csv
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks import stage
from tasks.core import baselines, charts
from tasks.core.calibration import fit_calibration
from tasks.core.charts import Point
from tasks.core.column_importance import measure_importance
from tasks.core.decision import Costs, fit_decision, mean_cost
from tasks.core.errors import GateError
from tasks.core.front import front
from tasks.core.gate import Limits, Measured, Verdict, judge
from tasks.core.intervals import fit_intervals, measure_coverage
from tasks.core.metrics import METRICS, WORDS, Interval, Metric, bootstrap, calibration_curve, calibration_error, measure
from tasks.core.rows import Rows
from tasks.core.runtime import Network, time_rows
from tasks.core.target import Target, Task, as_text
from tasks.features import Part, load_encoder, load_rows
from tasks.params import Errors, Evaluate, Gate, Importance, Table
from tasks.shards import read_shards
from tasks.teacher import load_members, load_opinion

log = logging.getLogger("tasks.evaluate")

TEACHER = "teacher"
LEAST_ROWS = 100  # of a slice, for its quality to be worth a line
AXES = {  # of the calibration plot, by task: what was said, what came
    "binary": ("mean score", "share of positive rows"),
    "multiclass": ("mean score of the likeliest class", "share of rows that are of it"),
    "regression": ("mean answer", "mean truth"),
}
MOST_SHUFFLED = 5_000_000  # rows scored for the importance of all columns, some 20 seconds
SINGLE_CALLS, BATCH_ROWS, BATCH_CALLS = 5000, 256, 500


def evaluate(
    seed: int,
    table: Table,
    evaluate: Evaluate,
    *,
    features: Path,
    teacher: Path,
    candidates: Path,
    evaluation: Path,
    verdict: Path,
    latency: Path,
    slices: Path,
    importance: Path,
    pareto: Path,
    quality_plot: Path,
    calibration_plot: Path,
    importance_plot: Path,
) -> None:
    """`evaluation` depends on the data alone; what a clock measured stands in `latency`, in `pareto` and in the plot, and counts in
    `verdict`.

    Each candidate's scores are told as a release would tell them, by what was fitted to them on the validation part; the chosen
    one's target, with that in it, stands in `verdict`.

    GateError, with the report written all the same under reports/refused.json, when no candidate passes.
    """
    encoder = load_encoder(features)
    target = encoder.target
    listing = json.loads((candidates / "candidates.json").read_text())
    networks = {one["name"]: Network((candidates / one["folder"] / "model.tflite").read_bytes()) for one in listing}
    validation, test = load_rows(features, "validation"), load_rows(features, "test")
    truth = np.array(test.target)

    raw, held = score(networks, test), score(networks, validation)
    targets = {name: fit_target(target, validation, one, table, evaluate, seed) for name, one in held.items()}
    scores = {name: calibrate(targets[name], one) for name, one in raw.items()}
    blend: dict[Part, NDArray[Any]] = {part: load_opinion(teacher, part) for part in ("validation", "test")}
    reference = fit_target(target, validation, blend["validation"], table, evaluate, seed)
    timing = {name: time_network(network, test) for name, network in networks.items()}
    log.info("scored %s candidates on %s test rows", len(networks), f"{len(test):,}")
    compared = score_baselines(features, test, target, evaluate.baseline_rows, seed)
    compared_with = {TEACHER: calibrate(reference, blend["test"]), **compared}
    quality = describe({**scores, **compared_with}, target, truth, evaluate, seed)
    for name, fitted in targets.items():
        quality[name] |= describe_fitted(fitted, truth, raw[name])

    ranking, loss, *_ = METRICS[target.task]

    def values(name: str) -> dict[Metric, float]:
        return {metric: quality[name][metric]["value"] for metric in METRICS[target.task]}

    measured = [
        Measured(
            one["name"],
            values(one["name"]),
            one["bytes"],
            timing[one["name"]]["one_row_us"],
        )
        for one in listing
    ]
    losses = {name: quality[name][loss]["value"] for name in compared}
    found = judge(measured, Limits(**evaluate.gate.model_dump()), teacher=values(TEACHER), loss=loss, baselines=losses)
    report: dict[str, Any] = {
        "task": target.task,
        "test_rows": len(test),
        "confidence": evaluate.confidence,
        "least_slice_rows": LEAST_ROWS,
        "candidates": {one["name"]: {"what": one["what"], "bytes": one["bytes"], **quality[one["name"]]} for one in listing},
        "teacher": {"members": [asdict(member) for member in load_members(teacher)], **quality[TEACHER]},
        "baselines": {name: quality[name] for name in compared},
        "references": references(target, truth, np.asarray(validation.target), evaluate),
        "faults": found.faults,
    }
    log.info("%s, which is never served: %s", TEACHER, in_words(values(TEACHER)))
    say(measured, found)
    if found.chosen is None:
        refuse(report, timing, found)
    assert found.chosen is not None
    say_fitted(quality[found.chosen], report["references"])

    shown = {name: {**scores, **compared_with}[name] for name in (found.chosen, TEACHER, "gradient boosting")}
    told = targets[found.chosen]
    sample = draw_sample(test, len(encoder.places), evaluate.importance, seed)
    weighty = measure_importance(
        lambda one: measure(target, np.asarray(sample.target), calibrate(told, one))[loss],
        networks[found.chosen],
        sample,
        encoder.places,
        repeats=evaluate.importance.repeats,
        seed=seed,
    )
    with stage.replacing(evaluation) as aside:
        aside.write_text(json.dumps(report, indent=1))
    with stage.replacing(verdict) as aside:
        chosen = next(one for one in listing if one["name"] == found.chosen)
        aside.write_text(
            json.dumps(
                {
                    "chosen": found.chosen,
                    "folder": chosen["folder"],
                    "gate": evaluate.gate.model_dump(),
                    "target": told.to_json(),
                },
                indent=1,
            )
        )
    with stage.replacing(latency) as aside:
        aside.write_text(json.dumps(timing, indent=1))
    with stage.replacing(pareto) as aside, aside.open("w", newline="") as file:
        write_pareto(file, measured, timing, found, target.task)
    with stage.replacing(slices) as aside:
        by_slice(read_columns(features, table.slices), target, truth, shown).to_csv(aside, index=False)
    with stage.replacing(importance) as aside, aside.open("w", newline="") as file:
        write_importance(file, weighty)
    with stage.replacing(importance_plot) as aside:
        aside.write_bytes(charts.plot_importance(weighty, metric=WORDS[loss], rows=len(sample)))
    with stage.replacing(quality_plot) as aside:
        points = [Point(one.name, **quality[one.name][ranking], microseconds=one.microseconds, bytes=one.bytes) for one in measured]
        lines = {name: quality[name][ranking]["value"] for name in compared_with if name != "constant"}
        limit = lowest(evaluate.gate, ranking, values(TEACHER))
        aside.write_bytes(
            charts.plot_quality(
                points,
                found.chosen,
                evaluate.gate.max_microseconds,
                evaluate.gate.max_bytes,
                limit,
                lines,
                metric=WORDS[ranking],
            )
        )
    with stage.replacing(calibration_plot) as aside:
        curves = {name: calibration_curve(target, truth, one) for name, one in shown.items()}
        if told.calibration is not None:
            curves[f"{found.chosen}, uncalibrated"] = calibration_curve(target, truth, raw[found.chosen])
        aside.write_bytes(charts.plot_calibration(curves, *AXES[target.task]))


def score(networks: Mapping[str, Network], rows: Rows) -> dict[str, NDArray[Any]]:
    """What each network says of the rows, before anything is fitted to it."""
    return {name: network(rows.inputs) for name, network in networks.items()}


def fit_target(target: Target, validation: Rows, scores: NDArray[Any], table: Table, evaluate: Evaluate, seed: int) -> Target:
    """The target that tells a candidate's scores: calibrated where that helps, with a decision or an interval where asked for."""
    truth = np.asarray(validation.target)
    if target.task == "regression":
        if evaluate.interval is None:
            return target
        return replace(target, intervals=fit_intervals(evaluate.interval, target.decode(truth), target.decode(scores)))
    target = replace(target, calibration=fit_calibration(truth, scores, ordered=table.time is not None, seed=seed))
    if evaluate.costs is None:
        return target
    return replace(target, decision=fit_decision(cost_matrix(evaluate, target), truth, target.decode(scores)))


def cost_matrix(evaluate: Evaluate, target: Target) -> Costs:
    """evaluate.costs by the codes of the classes: of deciding one, in a column, where that of the row is true."""
    costs = evaluate.costs
    assert costs is not None
    if isinstance(costs, Errors):
        return ((0.0, costs.false_positive), (costs.false_negative, 0.0))
    labels = [as_text(label) for label in target.classes]
    return tuple(tuple(float(costs.get(came, {}).get(one, came != one)) for one in labels) for came in labels)


def calibrate(target: Target, scores: NDArray[Any]) -> NDArray[Any]:
    """Scores on the scale that is learned, probabilities as the target tells them."""
    return scores if target.task == "regression" else target.decode(scores)


def describe_fitted(target: Target, truth: NDArray[Any], scores: NDArray[Any]) -> dict[str, Any]:
    """What the target makes of a candidate's scores on the test part: beside the calibrated figures the raw ones, the cost, the
    coverage."""
    found: dict[str, Any] = {}
    if target.calibration is not None:
        plain = replace(target, calibration=None)
        raw = {"log_loss": measure(plain, truth, scores)["log_loss"], "calibration_error": calibration_error(plain, truth, scores)}
        found["uncalibrated"] = {name: round(value, 6) for name, value in raw.items()}
    if target.decision is not None:
        cost = mean_cost(target.decision.costs, truth, target.decision(target.decode(scores)))
        found["decision"] = {"threshold": target.decision.threshold, "cost": round(cost, 6)}
    if target.intervals is not None:
        coverage = measure_coverage(target.intervals(target.decode(scores)), target.decode(truth))
        found["interval"] = {name: float(f"{value:.6g}") for name, value in coverage.to_json().items()}
    return found


def references(target: Target, truth: NDArray[Any], validation: NDArray[Any], evaluate: Evaluate) -> dict[str, Any]:
    """What costs and intervals must be compared with: always the same decision, and the same interval for every row."""
    found: dict[str, Any] = {}
    if evaluate.costs is not None:
        costs = cost_matrix(evaluate, target)
        found["costs"] = {as_text(one): round(mean_cost(costs, truth, code), 6) for code, one in enumerate(target.classes)}
    if evaluate.interval is not None:
        bounds = np.quantile(target.decode(validation), evaluate.interval)
        coverage = measure_coverage(np.tile(bounds, (len(truth), 1)), target.decode(truth))
        found["interval"] = {name: float(f"{value:.6g}") for name, value in coverage.to_json().items()}
        found["wanted_share"] = round(evaluate.interval[1] - evaluate.interval[0], 6)
    return found


def draw_sample(test: Rows, columns: int, importance: Importance, seed: int) -> Rows:
    """The test rows that importance is measured on: as many as were asked for, fewer where columns are many."""
    most = max(MOST_SHUFFLED // (columns * importance.repeats), LEAST_ROWS)
    if most < min(importance.rows, len(test)):
        log.info("importance on %s test rows: there are %s columns to shuffle", f"{most:,}", f"{columns:,}")
    return test.take(np.sort(np.random.default_rng(seed).permutation(len(test))[: min(importance.rows, most)]))


def write_importance(file: TextIO, found: dict[str, Interval]) -> None:
    """A line for each column, the most important first."""
    table = csv.writer(file)
    table.writerow(["column", "importance", "low", "high"])
    table.writerows([name, *(f"{value:.6g}" for value in (one.value, one.low, one.high))] for name, one in found.items())


def write_pareto(
    file: TextIO, measured: list[Measured], timing: Mapping[str, Mapping[str, float]], found: Verdict, task: Task
) -> None:
    """A line for each candidate: quality, size, latency, whether it is on the front of the three, and what the gate says of it."""
    ranking, *_ = METRICS[task]
    best = set(front({one.name: (-one.quality[ranking], one.bytes, one.microseconds) for one in measured}))
    table = csv.writer(file)
    table.writerow(["candidate", *METRICS[task], "bytes", *next(iter(timing.values())), "front", "gate"])
    for one in measured:
        faults = "; ".join(found.faults[one.name])
        gate = "chosen" if one.name == found.chosen else faults or "passes"
        figures = [f"{one.quality[metric]:.6g}" for metric in METRICS[task]]
        table.writerow([one.name, *figures, one.bytes, *timing[one.name].values(), int(one.name in best), gate])


def lowest(gate: Gate, metric: Metric, teacher: Mapping[Metric, float]) -> float | None:
    """What the gate demands at least of the metric that ranks; None when it says nothing of it."""
    demands = [gate.at_least[metric]] if metric in gate.at_least else []
    if metric in gate.near_teacher:
        demands.append(teacher[metric] - gate.near_teacher[metric])
    return max(demands, default=None)


def score_baselines(features: Path, test: Rows, target: Target, rows: int, seed: int) -> dict[str, NDArray[Any]]:
    """The baselines' scores of the test rows, learned from the candidates' training rows, or from so many of them."""
    train = load_rows(features, "train")
    if len(train) > rows:
        log.info("the baselines learn from %s of %s training rows (evaluate.baseline_rows)", f"{rows:,}", f"{len(train):,}")
        train = train.take(np.sort(np.random.default_rng(seed).choice(len(train), rows, replace=False)))
    sizes = load_encoder(features).sizes
    learners: dict[str, Callable[[], NDArray[Any]]] = {
        "constant": lambda: baselines.score_constant(target, train, test),
        "linear": lambda: baselines.score_linear(target, train, test, sizes),
        "gradient boosting": lambda: baselines.score_gradient_boosting(target, train, test, sizes, seed),
    }
    scores = {}
    for name, learn in learners.items():
        scores[name] = learn()
        log.info("%s: %s", name, in_words(measure(target, np.asarray(test.target), scores[name])))
    return scores


def describe(scores: dict[str, NDArray[Any]], target: Target, truth: NDArray[Any], evaluate: Evaluate, seed: int) -> dict[str, Any]:
    """Every metric with its interval, and the calibration error, of each."""
    intervals = bootstrap(
        target, truth, list(scores.values()), resamples=evaluate.resamples, confidence=evaluate.confidence, seed=seed
    )
    return {
        name: {
            **{metric: as_json(interval) for metric, interval in found.items()},
            "calibration_error": round(calibration_error(target, truth, one), 6),
        }
        for (name, one), found in zip(scores.items(), intervals, strict=True)
    }


def in_words(quality: Mapping[Metric, float] | Mapping[str, float]) -> str:
    return ", ".join(f"{WORDS[metric]} {value:.4f}" for metric, value in quality.items())  # type: ignore[index]


def as_json(interval: Interval) -> dict[str, float]:
    return {key: round(value, 6) for key, value in interval.to_json().items()}


def time_network(network: Network, test: Rows) -> dict[str, float]:
    """Median microseconds of the network alone, in this process on one thread."""
    inputs = test.head(BATCH_ROWS).inputs
    one = time_rows(network, inputs, rows=1, calls=SINGLE_CALLS)
    batch = time_rows(network, inputs, rows=BATCH_ROWS, calls=BATCH_CALLS)
    return {"one_row_us": round(1e6 * one, 2), f"{BATCH_ROWS}_rows_us": round(1e6 * batch, 1)}


def read_columns(features: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """These columns of the test part's raw rows."""
    if not columns:
        return pd.DataFrame()
    return pd.concat([shard.to_pandas() for shard in read_shards(features / "test_rows", list(columns))], ignore_index=True)


def by_slice(rows: pd.DataFrame, target: Target, truth: NDArray[Any], scores: dict[str, NDArray[Any]]) -> pd.DataFrame:
    """For each value of each slice column with enough rows (and classes): rows, the target's mean, and every metric."""
    lines = []
    binary = target.task == "binary"
    for column in rows:
        for value in sorted(rows[column].dropna().unique()):
            chosen = (rows[column] == value).to_numpy()
            own = truth[chosen]
            if chosen.sum() < LEAST_ROWS or (binary and len(np.unique(own)) < 2):
                continue
            mean = {} if target.task == "multiclass" else {"mean": float(target.decode(own).mean())}
            for name, score in scores.items():
                line = {"slice": column, "value": value, "rows": int(chosen.sum()), **mean, "model": name}
                lines.append({**line, **measure(target, own, score[chosen])})
    return pd.DataFrame(lines, columns=None if lines else ["slice", "value", "rows", "model", *METRICS[target.task]]).round(5)


def say(measured: list[Measured], found: Verdict) -> None:
    """One line for each candidate: what it measures, and chosen, passes, or the first line of the gate that it fails."""
    for one in measured:
        faults = found.faults[one.name]
        state = "chosen" if one.name == found.chosen else f"refused: {faults[0]}" if faults else "passes"
        log.info("%s: %s, %s bytes, %.1f us: %s", one.name, in_words(one.quality), f"{one.bytes:,}", one.microseconds, state)


def say_fitted(chosen: dict[str, Any], references: dict[str, Any]) -> None:
    """A line for what was fitted to the chosen candidate; a warning where its decisions are worth nothing."""
    if before := chosen.get("uncalibrated"):
        log.info(
            "calibrated: error %.4f, before %.4f; log loss %.5f, before %.5f",
            *(chosen["calibration_error"], before["calibration_error"], chosen["log_loss"]["value"], before["log_loss"]),
        )
    if decision := chosen.get("decision"):
        label, cost = min(references["costs"].items(), key=lambda pair: pair[1])
        log.info("decisions cost %.4f a row; the same one for all, %s, %.4f", decision["cost"], label, cost)
        if decision["cost"] >= cost:
            log.warning("by evaluate.costs it is no worse to decide %s for every row than to ask the model", label)
    if interval := chosen.get("interval"):
        log.info(
            "from low to high: %.1f%% of the rows, %.1f%% wanted, %.4g wide on the mean",
            *(100 * interval["share"], 100 * references["wanted_share"], interval["width"]),
        )


def refuse(report: dict[str, Any], timing: dict[str, Any], found: Verdict) -> None:
    """Leave the report for people, and raise."""
    path = Path("reports/refused.json")
    with stage.replacing(path) as aside:
        aside.write_text(json.dumps({**report, "latency": timing}, indent=1))
    faults = "\n  ".join(f"{name}: {'; '.join(faults)}" for name, faults in found.faults.items())
    raise GateError(
        f"the gate refuses every candidate, nothing is released and the last release stands\n  {faults}\n  All figures: {path}"
    )


if __name__ == "__main__":
    stage.main(evaluate)
