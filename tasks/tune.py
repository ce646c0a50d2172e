"""Stage tune: searches families of networks on part of the training rows; each finished trial outlives a kill."""

import csv
import json
import logging
import math
import os
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import asdict
from pathlib import Path

import psutil

from tasks import stage
from tasks.core.errors import TidemillError
from tasks.core.models import check_family
from tasks.core.trials import Asked, Choices, Interval, Outcome, Trial, best_of
from tasks.core.tuning import ENDS, End, Tuning, render
from tasks.core.weights import Weighing, weigh_classes
from tasks.features import load_encoder, load_rows
from tasks.params import Hyperparameter, Network, Tune
from tasks.workers import Places, Work, Workers

log = logging.getLogger("tasks.tune")

PROCESS_BYTES = 1_500_000_000  # that a process of trials needs, TensorFlow first of all


def tune(
    seed: int,
    class_weights: Weighing,
    network: Network,
    tune: Tune,
    *,
    features: Path,
    hparams: Path,
    trials: Path,
    tuning_report: Path,
) -> None:
    """`hparams` holds the configurations of the best trials, best first, `trials` a line for each in the order of the search."""
    for family, space in tune.families.items():
        check_family(family, space)
    if network.backbone:
        from tasks.backbone import fetch  # TensorFlow, which only the processes of trials need otherwise

        fetch(network.backbone, "network.backbone")  # once for all of them, and what is wrong with it is said at once
    train, validation = (load_rows(features, part) for part in ("train", "validation"))
    weights = weigh_classes(class_weights, load_encoder(features).target, train.target)
    cores = available_cores()
    room = max(1, psutil.virtual_memory().available // PROCESS_BYTES)
    count = min(cores, room, tune.ahead, tune.budget.trials) if tune.parallel == "auto" else tune.parallel
    threads = max(1, cores // count)
    work = Work(seed, network.model_dump_json(), tune.model_dump_json(), str(features.resolve()), threads, str(Path.cwd()), weights)
    if tune.dask:
        from tasks.dask import DaskWorkers  # an extra, which not everyone has

        with DaskWorkers(tune.dask, work, tune.ahead) as workers:
            count = workers.count
            found, end = search_with(workers, seed, network, tune, features)
    else:
        with Workers(count, work) as workers:
            found, end = search_with(workers, seed, network, tune, features)

    best = best_of(found, tune.keep)
    if not best:
        reason, times = Counter(trial.outcome.reason for trial in found).most_common(1)[0]
        raise TidemillError(
            f"all {len(found)} trials failed, {times} of them thus: {reason}. Nothing was written and the last release stands"
        )
    with stage.replacing(hparams) as aside:
        kept = [{**trial.configuration.to_json(), "validation_loss": trial.outcome.loss} for trial in best]
        aside.write_text(json.dumps({"best": kept}, indent=1))
    with stage.replacing(trials) as aside:
        write_table(aside, found)
    with stage.replacing(tuning_report) as aside:
        budget = tune.budget
        sizes = (min(len(train), tune.rows), len(train), len(validation))
        aside.write_text(render(Tuning(tuple(found), end, budget.trials, count, *sizes, tune.epochs, budget.price_per_hour)))
    log.info("best: validation loss %.5f with %s", best[0].outcome.loss, best[0].configuration.to_json())


def search_with(workers: Places, seed: int, network: Network, tune: Tune, features: Path) -> tuple[list[Trial], End]:
    """Every trial of the search, in its order, and what ended it; those of an earlier process, killed or of a smaller budget, are
    not run again."""
    # Not at the top: these import TensorFlow, which takes seconds, and meanwhile the processes do so too.
    import tasks.trial  # noqa: F401  the processes run it: its code counts as this stage's
    from tasks.core.search import Search

    decides = tune.model_dump_json(exclude={"budget", "parallel", "dask", "keep"})  # what the outcome of a trial can depend on
    journal = (
        stage.resumable(
            "tune", inputs=[features], values=[seed, network, decides, str(workers.work.weights), stage.code_hash(tune.families)]
        )
        / "trials.jsonl"
    )
    known = read_journal(journal)
    if known:
        log.info("going on after %s finished trials", len(known))
    started = time.monotonic() - max((trial.ended for trial in known.values()), default=0.0)
    families = {family: {name: searched(one) for name, one in space.items()} for family, space in tune.families.items()}
    found: dict[int, Trial] = {}
    running: dict[Future[tuple[Outcome, float]], Asked] = {}
    trials, next_one = tune.budget.trials, None
    with Search(tune.oracle, families, trials=trials, ahead=tune.ahead, stop_after=tune.stop_after, seed=seed) as search:
        while True:
            if next_one is None and search.ready:
                next_one = search.ask()  # though none may start yet: to choose takes the model a second
                earlier = known.get(next_one.number) if next_one else None
                if next_one and earlier and earlier.configuration.key == next_one.configuration.key:
                    found[earlier.number] = earlier
                    search.tell(earlier.number, earlier.outcome)
                    next_one = None
                    continue
            over = bool(found or running) and time.monotonic() - started > tune.budget.seconds
            if next_one and len(running) < workers.count and not over:
                running[workers.submit(next_one)] = next_one
                next_one = None
                continue
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                asked = running.pop(future)
                outcome, seconds = future.result()
                trial = Trial(asked.number, asked.configuration, outcome, seconds, time.monotonic() - started)
                found[trial.number] = known[trial.number] = trial
                write_journal(journal, known.values())
                search.tell(trial.number, outcome)
                log.info("trial %s of %s: %s", trial.number, trials, in_words(outcome))
    if all(trial.outcome.state == "failed" for trial in found.values()):
        stage.discard(journal)  # what was in their way, memory for one, may be gone when the search is run again
    end = what_ended(tune, len(found), next_one is None)
    if end != "trials":
        log.warning("stopped after %s of %s trials: %s", len(found), trials, ENDS[end])
    return [found[number] for number in sorted(found)], end


def what_ended(tune: Tune, trials: int, exhausted: bool) -> End:
    """What ended the search: its trials, its time or the money for it, or that there was no further configuration."""
    if trials >= tune.budget.trials:
        return "trials"
    if exhausted:
        return "space"
    return "minutes" if tune.budget.seconds >= 60 * tune.budget.minutes else "money"


def in_words(outcome: Outcome) -> str:
    """How a trial ended, for the log."""
    match outcome.state:
        case "finished":
            return f"validation loss {outcome.loss:.5f}"
        case "stopped":
            return (
                f"stopped after epoch {len(outcome.losses)}, validation loss {outcome.loss:.5f} is worse than what others had there"
            )
        case "failed":
            return f"failed: {outcome.reason}"


def searched(one: Hyperparameter) -> Interval | Choices:
    """What params.yaml says of a hyperparameter, for the search."""
    if one.choices is not None:
        return Choices(one.choices, one.default)
    assert one.bounds is not None
    return Interval(*one.bounds, float(one.default))


def available_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_journal(journal: Path) -> dict[int, Trial]:
    """The trials that ended, by number; a last line cut short does not count."""
    trials = {}
    for line in journal.read_text().splitlines() if journal.exists() else []:
        try:
            trial = Trial.from_json(json.loads(line))
        except (json.JSONDecodeError, KeyError, TypeError):
            break
        trials[trial.number] = trial
    return trials


def write_journal(journal: Path, trials: Iterable[Trial]) -> None:
    """The journal holds these trials, a line each."""
    with stage.replacing(journal) as aside:
        aside.write_text("".join(json.dumps(asdict(trial)) + "\n" for trial in trials))


def write_table(path: Path, trials: Sequence[Trial]) -> None:
    """A CSV of a line for each trial, without what a clock measured: the same search writes the same bytes."""
    names = list(dict.fromkeys(name for trial in trials for name in trial.configuration.values))
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["trial", "family", "state", "validation_loss", "epochs", *names, "reason"])
        for trial in trials:
            outcome, values = trial.outcome, trial.configuration.values
            loss = f"{outcome.loss:.6f}" if math.isfinite(outcome.loss) else ""
            said = [trial.number, trial.configuration.family, outcome.state, loss, len(outcome.losses)]
            table.writerow([*said, *(values.get(name, "") for name in names), outcome.reason])


if __name__ == "__main__":
    stage.main(tune)
