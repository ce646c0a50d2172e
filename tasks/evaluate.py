"""Stage evaluate: every candidate and the baselines on the test part; then the gate chooses what may be released."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from tasks import stage
from tasks.core import baselines, charts
from tasks.core.errors import GateError
from tasks.core.gate import Limits, Measured, Verdict, judge
from tasks.core.metrics import Interval, auc, bootstrap, calibration_curve, calibration_error, log_loss
from tasks.core.rows import Rows
from tasks.core.runtime import Network, time_rows
from tasks.features import load_encoder, load_rows
from tasks.params import Evaluate, Table
from tasks.shards import read_shards

log = logging.getLogger("tasks.evaluate")

TEACHER = "teacher"
LEAST_ROWS = 100  # of a slice, for its quality to be worth a line
SINGLE_CALLS, BATCH_ROWS, BATCH_CALLS = 5000, 256, 500


def evaluate(
    seed: int,
    table: Table,
    evaluate: Evaluate,
    *,
    features: Path,
    candidates: Path,
    evaluation: Path,
    verdict: Path,
    latency: Path,
    slices: Path,
    quality_plot: Path,
    calibration_plot: Path,
) -> None:
    """`evaluation` depends on the data alone; what a clock measured stands in `latency` and in the plot, and counts in `verdict`.

    GateError, with the report written all the same under reports/refused.json, when no candidate passes.
    """
    listing = json.loads((candidates / "candidates.json").read_text())
    networks = {one["name"]: Network((candidates / one["folder"] / "model.tflite").read_bytes()) for one in listing}
    test = load_rows(features, "test")
    num, cat = np.array(test.num), np.array(test.cat)
    target = np.array(test.target)

    scores: dict[str, NDArray[Any]] = {name: network(num, cat) for name, network in networks.items()}
    timing = {name: time_network(network, num, cat) for name, network in networks.items()}
    log.info("scored %s candidates on %s test rows", len(networks), f"{len(test):,}")
    compared = score_baselines(features, test, seed)
    quality = describe({**scores, **compared}, target, evaluate, seed)

    measured = [
        Measured(
            one["name"],
            quality[one["name"]]["auc"]["value"],
            quality[one["name"]]["log_loss"]["value"],
            one["bytes"],
            timing[one["name"]]["one_row_us"],
        )
        for one in listing
    ]
    losses = {name: quality[name]["log_loss"]["value"] for name in compared}
    found = judge(measured, Limits(**evaluate.gate.model_dump()), teacher=TEACHER, baselines=losses)
    report = {
        "test_rows": len(test),
        "confidence": evaluate.confidence,
        "least_slice_rows": LEAST_ROWS,
        "candidates": {one["name"]: {"what": one["what"], "bytes": one["bytes"], **quality[one["name"]]} for one in listing},
        "baselines": {name: quality[name] for name in compared},
        "faults": found.faults,
    }
    say(measured, found)
    if found.chosen is None:
        refuse(report, timing, found)
    assert found.chosen is not None

    rows = pa.concat_tables(read_shards(features / "test_rows", list(table.slices))).to_pandas()
    with stage.replacing(evaluation) as aside:
        aside.write_text(json.dumps(report, indent=1))
    with stage.replacing(verdict) as aside:
        chosen = next(one for one in listing if one["name"] == found.chosen)
        aside.write_text(
            json.dumps({"chosen": found.chosen, "folder": chosen["folder"], "gate": evaluate.gate.model_dump()}, indent=1)
        )
    with stage.replacing(latency) as aside:
        aside.write_text(json.dumps(timing, indent=1))
    with stage.replacing(slices) as aside:
        by_slice(
            rows,
            target,
            {found.chosen: scores[found.chosen], TEACHER: scores[TEACHER], "gradient boosting": compared["gradient boosting"]},
        ).to_csv(aside, index=False)
    with stage.replacing(quality_plot) as aside:
        points = [
            (one.name, one.auc, quality[one.name]["auc"]["low"], quality[one.name]["auc"]["high"], one.microseconds, one.bytes)
            for one in measured
        ]
        aside.write_bytes(
            charts.plot_quality(
                points,
                found.chosen,
                evaluate.gate.max_microseconds,
                measured_teacher(measured) - evaluate.gate.max_auc_below_teacher,
                {name: quality[name]["auc"]["value"] for name in compared if name != "constant"},
            )
        )
    with stage.replacing(calibration_plot) as aside:
        aside.write_bytes(
            charts.plot_calibration(
                {
                    name: calibration_curve(target, {**scores, **compared}[name])
                    for name in (found.chosen, TEACHER, "gradient boosting")
                }
            )
        )


def score_baselines(features: Path, test: Rows, seed: int) -> dict[str, NDArray[Any]]:
    """The baselines' probabilities of the test rows, learned from the same training rows as the candidates."""
    train = load_rows(features, "train")
    *_, sizes = load_encoder(features).sizes
    learners: dict[str, Callable[[], NDArray[Any]]] = {
        "constant": lambda: baselines.score_constant(train, test),
        "logistic regression": lambda: baselines.score_logistic_regression(train, test, sizes),
        "gradient boosting": lambda: baselines.score_gradient_boosting(train, test, sizes, seed),
    }
    scores = {}
    for name, learn in learners.items():
        scores[name] = learn()
        log.info("%s: AUC %.4f, log loss %.4f", name, auc(test.target, scores[name]), log_loss(test.target, scores[name]))
    return scores


def describe(scores: dict[str, NDArray[Any]], target: NDArray[Any], evaluate: Evaluate, seed: int) -> dict[str, Any]:
    """AUC and log loss with their intervals, and the calibration error, of each."""
    intervals = bootstrap(target, list(scores.values()), resamples=evaluate.resamples, confidence=evaluate.confidence, seed=seed)
    return {
        name: {
            **{metric: as_json(interval) for metric, interval in found.items()},
            "calibration_error": round(calibration_error(target, one), 6),
        }
        for (name, one), found in zip(scores.items(), intervals, strict=True)
    }


def as_json(interval: Interval) -> dict[str, float]:
    return {key: round(value, 6) for key, value in interval.to_json().items()}


def time_network(network: Network, num: NDArray[Any], cat: NDArray[Any]) -> dict[str, float]:
    """Median microseconds of the network alone, in this process on one thread."""
    one = time_rows(network, num, cat, rows=1, calls=SINGLE_CALLS)
    batch = time_rows(network, num, cat, rows=BATCH_ROWS, calls=BATCH_CALLS)
    return {"one_row_us": round(1e6 * one, 2), f"{BATCH_ROWS}_rows_us": round(1e6 * batch, 1)}


def by_slice(rows: pd.DataFrame, target: NDArray[Any], scores: dict[str, NDArray[Any]]) -> pd.DataFrame:
    """For each value of each slice column with enough rows of both classes: rows, rate, AUC and log loss."""
    lines = []
    for column in rows:
        for value in sorted(rows[column].dropna().unique()):
            chosen = (rows[column] == value).to_numpy()
            if chosen.sum() < LEAST_ROWS or len(np.unique(target[chosen])) < 2:
                continue
            for name, score in scores.items():
                line = {"slice": column, "value": value, "rows": int(chosen.sum()), "rate": target[chosen].mean(), "model": name}
                lines.append(
                    {**line, "auc": auc(target[chosen], score[chosen]), "log_loss": log_loss(target[chosen], score[chosen])}
                )
    return pd.DataFrame(lines).round(5)


def measured_teacher(measured: list[Measured]) -> float:
    return next(one.auc for one in measured if one.name == TEACHER)


def say(measured: list[Measured], found: Verdict) -> None:
    """One line for each candidate: what it measures, and chosen, passes, or the first line of the gate that it fails."""
    for one in measured:
        faults = found.faults[one.name]
        state = "chosen" if one.name == found.chosen else f"refused: {faults[0]}" if faults else "passes"
        log.info(
            "%s: AUC %.4f, log loss %.4f, %s bytes, %.1f us: %s",
            one.name,
            one.auc,
            one.log_loss,
            f"{one.bytes:,}",
            one.microseconds,
            state,
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
