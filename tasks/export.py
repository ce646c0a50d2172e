"""Stage export: the release bundle, all that serving needs and all that says where it came from."""

import json
import logging
import math
import subprocess
from base64 import b64encode
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf
from ruamel.yaml import YAML

from tasks import protection, stage
from tasks.columns import counted_columns, raw_columns
from tasks.core import objective, report
from tasks.core.calendar import format_time
from tasks.core.encoder import Encoder, Words
from tasks.core.encoder_graph import GraphEncoder
from tasks.core.errors import DataError
from tasks.core.expected import expect
from tasks.core.explain import make_background
from tasks.core.metrics import LOWER_IS_BETTER, METRICS, WORDS
from tasks.core.reference import Reference, fit_reference, kinds
from tasks.core.runtime import Network
from tasks.core.target import Target, Task
from tasks.features import load_encoder, load_rows
from tasks.networks import load_network
from tasks.params import Export, GroupSplit, Params, Preprocess, Privacy, RandomSplit, Split, TimeSplit
from tasks.shards import count_rows, read_shards, shard_paths

log = logging.getLogger("tasks.export")

REPORTS = "reports/"  # some of which tell of seconds, so that no two are equal
GRAPH_TOLERANCE = 1e-5  # between the SavedModel and NumPy + the float network, which differ in rounding alone
WEAKEST = 6  # slices in the model card
FOREMOST = 8  # columns in the model card, by importance
BACKGROUND_ROWS, MOST_CELLS = 32, 100_000  # that an explanation compares a row with; fewer where columns are many
FITTED_ROWS = 100_000  # training rows that the background is made after
TESTED_ROWS = 100_000  # test rows that the expectation is made of
BLOCK_ROWS = 100_000  # training rows in memory at once
REFERENCE_ROWS = 500_000  # test rows that live ones are held against


def export(
    seed: int,
    name: str,
    privacy: Privacy,
    preprocess: Preprocess,
    export: Export,
    *,
    features: Path,
    candidates: Path,
    verdict: Path,
    evaluation: Path,
    slices: Path,
    importance: Path,
    snapshot: Path,
    schema: Path,
    reference: Path,
    release: Path,
) -> None:
    """`release` holds the bundle; manifest.json names every other file with its hash, and its version is their content."""
    chosen = json.loads(verdict.read_text())
    home = candidates / chosen["folder"]
    encoder = replace(load_encoder(features), target=Target.from_json(chosen["target"]))
    golden = golden_rows(features, encoder, export.golden_rows)
    quality = json.loads(evaluation.read_text())
    facts = {
        "name": name,
        "target": encoder.target.to_json(),
        "chosen": chosen["chosen"],
        "privacy": protection.of_columns(privacy, encoder.names),
    }

    with stage.replacing(release) as folder:
        folder.mkdir(parents=True)
        (folder / "model.tflite").write_bytes((home / "model.tflite").read_bytes())
        (folder / "encoder.json").write_text(json.dumps(encoder.to_json(), indent=1, ensure_ascii=False))
        (folder / "schema.pbtxt").write_bytes(schema.read_bytes())
        (folder / "reference.pb").write_bytes(reference.read_bytes())
        (folder / "background.json").write_text(json.dumps(background(features, encoder, seed)))
        (folder / "expected.json").write_text(json.dumps(expectation(folder, features, encoder), indent=1, ensure_ascii=False))
        told = watched(folder, features, encoder, slices)
        (folder / "reference.json").write_text(json.dumps(told.to_json(), ensure_ascii=False))
        scores = answer(folder, encoder, golden)
        (folder / "golden.json").write_text(json.dumps({"instances": golden, "predictions": scores}, indent=1))
        save_graph(folder / "saved_model", home, encoder, golden)
        data = json.loads(snapshot.read_text())
        foremost = pd.read_csv(importance).head(FOREMOST).to_dict("records")
        card = model_card(
            facts, encoder, privacy, preprocess, quality, chosen["gate"], pd.read_csv(slices), foremost, len(golden), data
        )
        (folder / "model_card.md").write_text(card)
        (folder / "lineage.json").write_text(json.dumps(lineage(quality, data), indent=1))
        version = write_manifest(folder, facts)
    log.info("%s %s: %s", name, version, chosen["chosen"])


def golden_rows(features: Path, encoder: Encoder, count: int) -> list[dict[str, Any]]:
    """Raw rows spread evenly over the test part, as a client sends them: a missing value is left out."""
    total = sum(count_rows(path) for path in shard_paths(features / "test_rows"))
    places = np.unique(np.linspace(0, total - 1, count).astype(int))
    rows: list[dict[str, Any]] = []
    start = 0
    for shard in read_shards(features / "test_rows", encoder.names):
        own = shard.take(places[(places >= start) & (places < start + len(shard))] - start)
        columns = {name: [_plain(value) for value in values] for name, values in _raw(own, encoder).items()}
        rows += [{name: values[i] for name, values in columns.items() if values[i] not in (None, "")} for i in range(len(own))]
        start += len(shard)
    return rows


def _raw(shard: pa.Table, encoder: Encoder) -> dict[str, list[Any]]:
    """The columns as a client would name their values: numbers, ISO dates, words, images in base64."""
    columns = raw_columns(shard, encoder)
    dates = {column.name for column in encoder.dates}
    images = {column.name for column in encoder.images}
    told: dict[str, list[Any]] = {}
    for name, values in columns.items():
        if name in images:
            told[name] = [b64encode(content).decode() for content in shard.column(name).to_pylist()]
        elif isinstance(values, Words):
            told[name] = [values.distinct[place] for place in values.places]
        elif name in dates:
            told[name] = [None if math.isnan(value) else format_time(value) for value in values]
        else:
            told[name] = [None if math.isnan(value) else float(value) for value in values]
    return {name: told[name] for name in encoder.names}


def _plain(value: Any) -> Any:
    """Whole numbers without a decimal point, as a person writes them."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def background(features: Path, encoder: Encoder, seed: int) -> dict[str, Any]:
    """The rows that explanations compare with, as lists by array: made up, since a bundle travels further than the data may."""
    train = load_rows(features, "train")
    rows = train.take(np.arange(0, len(train), -(-len(train) // FITTED_ROWS)))
    count = max(4, min(BACKGROUND_ROWS, MOST_CELLS // len(encoder.names) ** 2))
    made = make_background(encoder, rows.inputs, count, seed)
    return {
        name: np.round(array.astype(np.float64), 6).tolist() if array.dtype.kind == "f" else array.tolist()
        for name, array in made.items()
    }


def expectation(folder: Path, features: Path, encoder: Encoder) -> dict[str, Any]:
    """How the bundle's answers lie on the test part, or on rows spread evenly over it, and what all rows of training lack."""
    train, test = load_rows(features, "train"), load_rows(features, "test")
    some = test.take(np.arange(0, len(test), -(-len(test) // TESTED_ROWS)))
    scores = Network((folder / "model.tflite").read_bytes())(some.inputs)
    blocks = (train.between(start, start + BLOCK_ROWS).inputs for start in range(0, len(train), BLOCK_ROWS))
    return expect(encoder, scores, blocks).to_json()


def watched(folder: Path, features: Path, encoder: Encoder, slices: Path) -> Reference:
    """How the columns of the test part, its truth and the bundle's answers lie, and how good these are, also by slice: on all rows,
    or on as many spread evenly over them."""
    test, target, counted = load_rows(features, "test"), encoder.target, kinds(encoder)
    places = np.arange(0, len(test), -(-len(test) // REFERENCE_ROWS))
    by = pd.read_csv(slices, dtype=str)[["slice", "value"]].drop_duplicates()
    columns = list(dict.fromkeys([*counted, *by["slice"]]))
    shards, start = [pa.table({})] if not columns else [], 0  # of a model of images alone
    for shard in read_shards(features / "test_rows", columns) if columns else ():
        shards.append(shard.take(places[(places >= start) & (places < start + len(shard))] - start))
        start += len(shard)
    rows, own = pa.concat_tables(shards), test.take(places)
    told = target.decode(Network((folder / "model.tflite").read_bytes())(own.inputs))
    truth = target.decode(np.asarray(own.target)) if target.task == "regression" else np.asarray(own.target)
    words = {name: rows[name].cast(pa.string()) for name in by["slice"].unique()}
    masks = {
        f"{one.slice}={one.value}": np.asarray(pc.fill_null(pc.equal(words[one.slice], one.value), False))
        for one in by.itertuples()
    }
    return fit_reference(target, counted, counted_columns(rows, counted), truth, told, masks)


def answer(folder: Path, encoder: Encoder, rows: list[dict[str, Any]]) -> list[Any]:
    """What the bundle's network says of each row alone, as a server will compute it."""
    network = Network((folder / "model.tflite").read_bytes())
    encoded = encoder.encode(encoder.columns(rows))
    scores = [network({name: array[i : i + 1] for name, array in encoded.items()}) for i in range(len(rows))]
    return encoder.target.answer(np.concatenate(scores))


def save_graph(folder: Path, home: Path, encoder: Encoder, rows: list[dict[str, Any]]) -> None:
    """A SavedModel that takes raw columns and gives `score` (and `decision`, or `low` and `high`).

    It answers by the float network behind the chosen candidate. A column whose name TensorFlow does not take goes by another;
    signature.json says which.
    """
    _, network = load_network(keras, home)
    graph = GraphEncoder(encoder)
    target = encoder.target

    def score(encoded: dict[str, Any]) -> dict[str, Any]:
        return objective.tell(target, objective.scores(target.task, network(encoded, training=False)))

    def serve(**columns: Any) -> dict[str, Any]:
        return score(graph({name: columns[argument] for name, argument in graph.arguments.items()}))

    # keras.export.ExportArchive tracks variables in sets, in another order each time; a list keeps equal bundles equal.
    module = tf.Module()
    module.encoder, module.weights = graph, [variable.value for variable in network.variables]
    module.serve = tf.function(serve)
    endpoint = module.serve.get_concrete_function(**graph.signature)
    tf.saved_model.save(module, str(folder), signatures={"serving_default": endpoint})
    (folder / "fingerprint.pb").unlink(missing_ok=True)  # a random id
    (folder / "signature.json").write_text(json.dumps(graph.arguments, indent=1, ensure_ascii=False))

    said = tf.saved_model.load(str(folder)).signatures["serving_default"](**graph.feed(rows))["score"]
    wanted = score({key: tf.constant(value) for key, value in encoder.encode(encoder.columns(rows)).items()})["score"]
    gap = float(tf.reduce_max(tf.abs(said - wanted))) / target.scale
    if not gap <= GRAPH_TOLERANCE:
        raise DataError(
            f"the SavedModel answers golden rows {gap:.2g} apart from the encoder and the network; nothing was released"
        )


def model_card(
    facts: dict[str, Any],
    encoder: Encoder,
    privacy: Privacy,
    preprocess: Preprocess,
    quality: dict[str, Any],
    gate: dict[str, Any],
    slices: pd.DataFrame,
    foremost: list[dict[Any, Any]],
    golden: int,
    snapshot: dict[str, Any],
) -> str:
    """The model card as Markdown."""
    chosen, task = facts["chosen"], encoder.target.task
    metrics = METRICS[task]
    lines = [{"name": name, "bytes": None, **found} for name, found in quality["baselines"].items()]
    lines += [{"name": "teacher, not served", "bytes": None, **quality["teacher"]}]
    lines += [{"name": name, **found} for name, found in quality["candidates"].items()]
    own = slices[slices["model"] == chosen].sort_values(metrics[0], ascending=metrics[0] not in LOWER_IS_BETTER)
    return (
        report.ENVIRONMENT.overlay(autoescape=False)
        .get_template("model_card.md")
        .render(
            name=facts["name"],
            chosen=chosen,
            meaning=encoder.target.meaning,
            what=quality["candidates"][chosen]["what"],
            bytes=quality["candidates"][chosen]["bytes"],
            encoder=encoder,
            inputs=inputs_in_words(encoder),
            rows=quality["test_rows"],
            split=in_words(preprocess.split),
            confidence=quality["confidence"],
            metrics=[(metric, WORDS[metric]) for metric in metrics],
            table=lines,
            demands=demands(gate, task),
            least_rows=quality["least_slice_rows"],
            fitted=quality["candidates"][chosen],
            references=quality["references"],
            loss=WORDS[metrics[1]],
            foremost=foremost,
            golden=golden,
            weakest=own.head(WEAKEST).to_dict("records"),
            snapshot=snapshot,
            privacy=protection.in_words(privacy),
            min_count=preprocess.min_count,
        )
    )


def inputs_in_words(encoder: Encoder) -> str:
    """How many columns of each kind there are."""
    kinds = {
        "number": encoder.numbers,
        "date": encoder.dates,
        "category": encoder.categories,
        "text": encoder.texts,
        "image": encoder.images,
    }
    many = {"category": "categories"}
    return ", ".join(
        f"{len(columns)} {kind if len(columns) == 1 else many.get(kind, f'{kind}s')}" for kind, columns in kinds.items() if columns
    )


def in_words(split: Split) -> str:
    """Which rows test, as the end of a sentence."""
    match split:
        case TimeSplit():
            return f"from {split.test_from} on" if split.test_from else f"of the last {split.test_last_days} days"
        case RandomSplit():
            return f"drawn by chance, {split.test:.0%} of all"
        case GroupSplit():
            return f"those of {split.test:.0%} of the groups by {split.column}"


def demands(gate: dict[str, Any], task: Task) -> str:
    """The gate in words."""
    parts = [f"{WORDS[metric]} at least {low:g}" for metric, low in gate["at_least"].items()]
    parts += [f"{WORDS[metric]} at most {high:g}" for metric, high in gate["at_most"].items()]
    parts += [f"{WORDS[metric]} at most {gap:g} worse than the teacher's" for metric, gap in gate["near_teacher"].items()]
    parts.append(f"{WORDS[METRICS[task][1]]} at most {gate['near_best']:.1%} above the best candidate's")
    parts.append(f"at most {gate['max_bytes']:,} bytes")
    parts.append(f"at most {gate['max_microseconds']:g} microseconds for one row (the network alone, on the machine that built it)")
    if gate["beats"]:
        parts.append(f"a lower {WORDS[METRICS[task][1]]} than {' and '.join(gate['beats'])}")
    return ", ".join(parts)


def lineage(quality: dict[str, Any], snapshot: dict[str, Any]) -> dict[str, Any]:
    """Code, data, parameters and figures that the bundle was made from; no time of day, so that a rerun makes the same one."""
    lock = YAML(typ="safe").load(Path("dvc.lock").read_text()) if Path("dvc.lock").exists() else {"stages": {}}
    made = {name: entry for name, entry in lock["stages"].items() if name not in ("evaluate", "export")}
    return {
        "git": {"revision": _git("rev-parse", "HEAD"), "changed": (_git("status", "--porcelain", "-uno") or "").splitlines()},
        "stages": {
            name: {out["path"]: out["md5"] for out in entry.get("outs", []) if not out["path"].startswith(REPORTS)}
            for name, entry in made.items()
        },
        "snapshot": snapshot,
        "params": Params.load(Path("params.yaml")).model_dump(mode="json", by_alias=True),
        "quality": quality,
    }


def _git(*words: str) -> str | None:
    """What git says, or None outside a repository."""
    try:
        done = subprocess.run(["git", *words], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.rstrip()


def write_manifest(folder: Path, facts: dict[str, Any]) -> str:
    """manifest.json lists every file of the folder; returns the version, which is their content's hash."""
    files = {
        str(path.relative_to(folder)): {"sha256": stage.content_hash(path), "bytes": path.stat().st_size}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    version = stage.content_hash(folder)[:12]
    (folder / "manifest.json").write_text(json.dumps({**facts, "format": 3, "version": version, "files": files}, indent=1))
    return version


if __name__ == "__main__":
    stage.main(export)
