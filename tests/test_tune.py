"""Stage tune in processes of its own: bad trials, kills at any moment, budgets, and what it leaves behind."""

import csv
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import psutil
import pytest

from tasks.core.encoder import fit_encoder
from tasks.core.errors import ParamsError
from tasks.core.models import Configuration, check_family
from tasks.core.rows import Rows
from tasks.core.target import Target
from tasks.core.trials import Asked, Outcome
from tasks.core.weights import weigh_classes
from tasks.features import load_encoder, load_rows
from tasks.fit import load_best, teacher_spec
from tasks.networks import load_network
from tasks.params import Params, with_values
from tasks.teacher import load_members
from tasks.trial import choose_rows, run_trial
from tasks.workers import Work, Workers
from tests.conftest import ROOT, running

SETTINGS = [
    "network.members=2",
    "tune.oracle=random",
    "tune.budget.trials=4",
    "tune.parallel=1",
    "tune.ahead=2",
    "tune.stop_after=null",
    "tune.keep=2",
    "tune.rows=1000",
    "tune.epochs=2",
    "tune.batch=64",
]
MLP = """\
    mlp:
      learning_rate: {low: 0.001, high: 0.008, default: 0.003}
      weight_decay: {low: 0.001, high: 0.1, default: 0.01}
      dropout: {low: 0.1, high: 0.5, default: 0.3}
      embedding_dropout: {low: 0.1, high: 0.5, default: 0.4}
      width: {choices: [8, 16], default: 8}
      layers: {choices: [1], default: 1}
"""
HUGE = 10**12  # units: no machine has an address for each of their weights
DEFAULT = Configuration(
    "mlp", {"learning_rate": 0.01, "weight_decay": 0.01, "dropout": 0.1, "embedding_dropout": 0.1, "width": 8, "layers": 1}
)


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Encoded rows whose target follows from a number, as preprocess leaves them."""
    folder = tmp_path_factory.mktemp("encoded") / "features"
    chance = np.random.default_rng(1)
    encoder = fit_encoder(
        Target("binary", "late", (0, 1)),
        numbers={name: np.linspace(0, 1, 50) for name in ("a", "b")},
        dates={},
        categories={"c": {"x": 9}},
        texts={},
        missing=frozenset(),
        required=frozenset(),
        quantiles=4,
        min_count=1,
        max_words=9,
        slots=1,
        token_words=9,
    )
    for part, count in (("train", 1500), ("validation", 400), ("test", 200)):
        (folder / part).mkdir(parents=True)
        num = chance.uniform(-1, 1, (count, encoder.width)).astype(np.float32)
        np.save(folder / part / "num.npy", num)
        np.save(folder / part / "cat.npy", chance.integers(0, 3, (count, 1)).astype(np.int32))
        np.save(folder / part / "target.npy", (num[:, 0] + 0.3 * chance.normal(size=count) > 0).astype(np.int8))
    (folder / "encoder.json").write_text(json.dumps(encoder.to_json()))
    return folder


class Place:
    """A workspace that has only what stage tune takes."""

    def __init__(self, path: Path, features: Path, *settings: str) -> None:
        self.path = path
        path.mkdir()
        shutil.copytree(features, path / "features")
        (path / "tasks").symlink_to(ROOT / "tasks")
        text = (ROOT / "params.yaml").read_text()
        (path / "params.yaml").write_text(re.sub(r"(?s)(\n  families:[^\n]*\n).*?\n(?=\n# The teacher)", rf"\1{MLP}", text))
        self.set(*SETTINGS, *settings)

    def set(self, *settings: str) -> None:
        (self.path / "params.yaml").write_text(with_values((self.path / "params.yaml").read_text(), settings))

    def start(self) -> subprocess.Popen[str]:
        outs = ["--hparams", "hparams.json", "--trials", "trials.csv", "--tuning-report", "tuning.html"]
        return self.run("-m", "tasks.tune", "--features", "features", *outs)

    def run(self, *command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *command],
            cwd=self.path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONWARNINGS": "ignore::FutureWarning"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def tune(self) -> tuple[int, str]:
        with self.start() as run:
            said = run.communicate(timeout=300)[0]
        return run.returncode, said

    @property
    def table(self) -> list[dict[str, str]]:
        with (self.path / "trials.csv").open(newline="") as file:
            return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, features: Path) -> tuple[Place, str]:
    """A search of four trials, one after another, and what it said."""
    place = Place(tmp_path_factory.mktemp("searched") / "place", features)
    code, said = place.tune()
    assert code == 0, said
    return place, said


@pytest.mark.slow
def test_search_hands_on_its_best_configurations_and_shows_every_trial(searched: tuple[Place, str]) -> None:
    place, said = searched
    losses = {int(row["trial"]): float(row["validation_loss"]) for row in place.table}
    assert list(losses) == [1, 2, 3, 4]
    assert {row["state"] for row in place.table} == {"finished"}
    assert {row["epochs"] for row in place.table} == {"2"}
    best = json.loads((place.path / "hparams.json").read_text())["best"]
    assert [round(one["validation_loss"], 6) for one in best] == sorted(losses.values())[:2]
    assert [one.key for one in load_best(place.path / "hparams.json")] == [
        Configuration(one["family"], one["values"]).key for one in best
    ]
    assert "trial 4 of 4: validation loss" in said
    page = (place.path / "tuning.html").read_text()
    assert page.count('<td class="state finished">') == 4
    assert "Each trial learned on 1,000 rows of the 1,500 of the training part" in page


@pytest.mark.slow
def test_teacher_is_trained_in_the_best_configuration(searched: tuple[Place, str]) -> None:
    place, _ = searched
    place.set("train.epochs=1", "train.batch=64")
    paths = {"features": "features", "hparams": "hparams.json", "teacher": "teacher", "training": "t.json", "history": "h.csv"}
    with place.run("-m", "tasks.train", *(word for name, path in paths.items() for word in (f"--{name}", path))) as run:
        said = run.communicate(timeout=300)[0]
    assert run.returncode == 0, said
    best = load_best(place.path / "hparams.json")
    _, model = load_network(keras, place.path / "teacher/network")
    shapes = [(one.values["width"], one.values["dropout"]) for one in best]
    assert (model.get_layer("hidden_0").units, model.get_layer("dropout_0").rate) in shapes
    names = [member.name for member in load_members(place.path / "teacher")]
    assert sorted(names) == ["boosting", "forest", *(f"network {i}, mlp" for i in range(1, len(best) + 1))]


@pytest.mark.slow
def test_search_is_the_same_with_two_processes_at_once(searched: tuple[Place, str], tmp_path: Path, features: Path) -> None:
    other = Place(tmp_path / "other", features, "tune.parallel=2")
    code, said = other.tune()
    assert code == 0, said
    assert (other.path / "trials.csv").read_bytes() == (searched[0].path / "trials.csv").read_bytes()


@pytest.mark.slow
def test_larger_budget_goes_on_after_the_trials_of_the_smaller_one(searched: tuple[Place, str]) -> None:
    place, _ = searched
    before = place.table
    place.set("tune.budget.trials=5")
    code, said = place.tune()
    place.set("tune.budget.trials=4")
    assert code == 0, said
    assert "going on after 4 finished trials" in said
    assert "trial 4 of 5" not in said
    assert place.table[:4] == before
    assert len(place.table) == 5
    code, said = place.tune()
    assert place.table == before


@pytest.mark.slow
def test_trials_that_diverge_or_need_too_much_memory_fail_with_their_reason_and_the_search_goes_on(
    tmp_path: Path, features: Path
) -> None:
    place = Place(
        tmp_path / "place",
        features,
        "tune.budget.trials=8",
        "tune.epochs=1",
        "tune.families.mlp.learning_rate={low: 0.001, high: 1.0e+30, default: 0.003}",
        f"tune.families.mlp.width={{choices: [8, {HUGE}], default: 8}}",
    )
    code, said = place.tune()
    assert code == 0, said
    assert "Traceback" not in said
    reasons = [row["reason"] for row in place.table]
    assert len(reasons) == 8
    assert reasons[0] == ""
    assert any(reason.startswith("the loss was no number after epoch 1") for reason in reasons)
    assert any(reason.startswith("out of memory; lower tune.batch") for reason in reasons)
    for row in place.table:
        assert (row["state"] == "failed") == bool(row["reason"]) == (row["validation_loss"] == "")
        assert not (row["width"] == str(HUGE) and row["state"] == "finished")
    assert len(load_best(place.path / "hparams.json")) == min(2, reasons.count(""))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("tune.families.mlp.learning_rate={low: 1.0e+29, high: 1.0e+30, default: 1.0e+30}", "the loss was no number"),
        (f"tune.families.mlp.width={{choices: [{HUGE}], default: {HUGE}}}", "out of memory"),
        ("tune.batch=1001", "1,000 training rows do not fill one batch of 1,001"),
    ],
)
def test_search_of_which_every_trial_fails_ends_with_one_reason_and_nothing_written(
    tmp_path: Path, features: Path, setting: str, words: str
) -> None:
    place = Place(tmp_path / "place", features, "tune.budget.trials=2", setting)
    code, said = place.tune()
    assert code == 1
    assert "Traceback" not in said
    assert f"error: tune: all 2 trials failed, 2 of them thus: {words}" in said
    assert said.rstrip().endswith("Nothing was written and the last release stands")
    assert not any((place.path / name).exists() for name in ("hparams.json", "trials.csv", "tuning.html"))
    assert list(place.path.glob(".cache/tune/*/trials.jsonl")) == []  # it is not taken for granted the next time


@pytest.mark.slow
def test_search_ends_with_its_money(tmp_path: Path, features: Path) -> None:
    place = Place(tmp_path / "place", features, "tune.budget={trials: 9, minutes: 5, money: 0.001, price_per_hour: 30.0}")
    code, said = place.tune()
    assert code == 0, said
    assert len(place.table) == 1
    assert "stopped after 1 of 9 trials: the money of the budget is spent" in said
    assert "money, at 30 an hour" in (place.path / "tuning.html").read_text()


@pytest.mark.slow
def test_search_killed_at_random_moments_loses_and_doubles_no_trial(
    searched: tuple[Place, str], tmp_path: Path, features: Path
) -> None:
    place = Place(tmp_path / "place", features, "tune.parallel=2")
    chance = random.Random(4)
    ended: set[str] = set()
    workers: list[psutil.Process] = []
    for _ in range(int(os.environ.get("KILLS", "2"))):
        with place.start() as run:
            assert run.stdout is not None
            for _ in range(chance.randrange(3)):  # trials that are told of before
                next((line for line in run.stdout if re.match(r"trial \d of 4: ", line)), None)
            time.sleep(chance.uniform(0, 6))
            if run.poll() is None:
                workers += running("tasks.trial", run.pid)
            run.kill()
        journals = list(place.path.glob(".cache/tune/*/trials.jsonl"))
        lines = journals[0].read_text().splitlines() if journals else []
        assert ended <= set(lines)  # whatever ended stays, as it was
        ended = set(lines)
    code, said = place.tune()
    assert code == 0, said
    assert said.count("validation loss") - 1 == 4 - len(ended)  # those that were left, and the best
    assert (place.path / "trials.csv").read_bytes() == (searched[0].path / "trials.csv").read_bytes()
    psutil.wait_procs(workers, timeout=60)  # one that still imports notices only then
    assert not [worker for worker in workers if worker.is_running()]


def work(features: Path, *weights: float) -> Work:
    params = Params.parse(with_values((ROOT / "params.yaml").read_text(), SETTINGS), "params.yaml")
    return Work(1, params.network.model_dump_json(), params.tune.model_dump_json(), str(features), 1, ".", weights)


@pytest.mark.slow
def test_trial_whose_process_is_killed_is_tried_once_more_and_then_failed(features: Path) -> None:
    with Workers(1, work(features)) as workers:
        undisturbed, _ = workers.submit(Asked(1, DEFAULT)).result(120)
        assert undisturbed.state == "finished"
        for kills in (1, 2):
            future = workers.submit(Asked(1, DEFAULT))
            killed: list[psutil.Process] = []
            while len(killed) < kills:  # to wait for a victim would take its exit code away
                for victim in set(running("tasks.trial")) - set(killed):
                    victim.kill()
                    killed.append(victim)
                time.sleep(0.05)
            outcome, _ = future.result(120)
            if kills == 1:
                assert outcome == undisturbed
        assert outcome.state == "failed"
        assert outcome.reason.startswith("its process was killed 2 times by SIGKILL; if the system did so for its memory, lower")
        assert workers.submit(Asked(3, DEFAULT)).result(120)[0] == undisturbed
    assert not running("tasks.trial")


@pytest.mark.slow
def test_process_is_replaced_before_it_has_grown_too_large(features: Path) -> None:
    with Workers(1, work(features), renewed=1) as workers:
        (first,) = running("tasks.trial")
        one, two = (workers.submit(Asked(number, DEFAULT)).result(120)[0] for number in (1, 2))
        assert one == two
        assert not first.is_running()
        assert len(running("tasks.trial")) == 1


@pytest.mark.slow
def test_trial_whose_process_cannot_start_says_why(tmp_path: Path) -> None:
    with Workers(1, work(tmp_path / "nothing")) as workers:
        outcome, _ = workers.submit(Asked(1, DEFAULT)).result(120)
    assert outcome.state == "failed"
    assert outcome.reason.startswith("its process ended with code 1: ")
    assert "encoder.json" in outcome.reason


@pytest.mark.parametrize(("limits", "state", "epochs"), [((), "finished", 2), ((9.0,), "finished", 2), ((0.0,), "stopped", 1)])
def test_trial_worse_than_its_limit_is_stopped_after_that_epoch(
    features: Path, limits: tuple[float, ...], state: str, epochs: int
) -> None:
    params = Params.parse(with_values((ROOT / "params.yaml").read_text(), SETTINGS), "params.yaml")
    rows, validation = load_rows(features, "train"), load_rows(features, "validation")
    asked = Asked(1, DEFAULT, limits)
    outcome = run_trial(asked, work(features), params.network, params.tune, load_encoder(features), rows, validation)
    assert (outcome.state, len(outcome.losses)) == (state, epochs)
    assert outcome.loss == min(outcome.losses) < 0.7


def test_class_weights_count_in_the_loss_of_a_trial(features: Path) -> None:
    params = Params.parse(with_values((ROOT / "params.yaml").read_text(), SETTINGS), "params.yaml")
    rows, validation = load_rows(features, "train"), load_rows(features, "validation")
    weights = weigh_classes({"0": 1.0, "1": 9.0}, load_encoder(features).target, rows.target)
    found = [
        run_trial(Asked(1, DEFAULT), work(features, *each), params.network, params.tune, load_encoder(features), rows, validation)
        for each in ((), weights)
    ]
    assert abs(found[0].loss - found[1].loss) > 0.05


def test_trial_of_an_unknown_family_fails_with_its_reason(features: Path) -> None:
    params = Params.parse(with_values((ROOT / "params.yaml").read_text(), SETTINGS), "params.yaml")
    rows = load_rows(features, "validation")
    asked = Asked(1, Configuration("forest", DEFAULT.values))
    outcome = run_trial(asked, work(features), params.network, params.tune, load_encoder(features), rows, rows)
    assert outcome == Outcome("failed", reason=outcome.reason)
    assert "unknown family 'forest'; known: [" in outcome.reason


@pytest.mark.parametrize(
    ("family", "without", "more", "words"),
    [
        ("mpl", "", "", "tune.families: unknown family 'mpl'; known: ['mlp'"),
        ("mlp", "", "depth", r"tune.families.mlp: unknown hyperparameters \['depth'\]; it understands \['dropout'"),
        ("mlp", "width", "", r"tune.families.mlp: \['width'\] missing; give each low, high and default"),
    ],
)
def test_families_and_hyperparameters_that_are_not_known_are_refused(family: str, without: str, more: str, words: str) -> None:
    names = {*DEFAULT.values, more} - {without, ""}
    with pytest.raises(ParamsError, match=words.replace("['mlp'", r"\['")):
        check_family(family, names)


def test_hyperparameter_of_the_wrong_type_is_refused(features: Path) -> None:
    params = Params.load(ROOT / "params.yaml")
    with pytest.raises(ParamsError, match=r"tune.families.mlp.width: found 'wide', expected a number"):
        teacher_spec(load_encoder(features), params.network, Configuration("mlp", {**DEFAULT.values, "width": "wide"}))


def test_rows_of_a_trial_are_some_of_the_training_rows_each_once_in_their_order() -> None:
    rows = Rows({"num": np.arange(100)[:, None], "cat": np.arange(100)[:, None]}, np.arange(100))
    chosen = choose_rows(rows, 30, seed=7)
    assert len(chosen) == 30
    assert (np.diff(chosen.target) > 0).all()
    assert chosen.target[-1] > 50  # by chance, not the first ones
    np.testing.assert_array_equal(choose_rows(rows, 30, seed=7).target, chosen.target)
    assert len(choose_rows(rows, 1000, seed=7)) == 100
