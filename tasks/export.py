"""Stage export: the release bundle, all that serving needs and all that says where it came from."""

import json
import logging
import math
import subprocess
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from numpy.typing import NDArray
from ruamel.yaml import YAML

from tasks import stage
from tasks.core import report
from tasks.core.encoder import Encoder
from tasks.core.encoder_graph import GraphEncoder
from tasks.core.errors import DataError
from tasks.core.runtime import Network
from tasks.features import load_encoder
from tasks.networks import load_network
from tasks.params import Export, Params, Preprocess, Table
from tasks.shards import read_shards

log = logging.getLogger("tasks.export")

GRAPH_TOLERANCE = 1e-5  # between the SavedModel and NumPy + the float network, which differ in rounding alone
WEAKEST = 6  # slices in the model card


def export(
    name: str,
    table: Table,
    preprocess: Preprocess,
    export: Export,
    *,
    features: Path,
    candidates: Path,
    verdict: Path,
    evaluation: Path,
    slices: Path,
    snapshot: Path,
    schema: Path,
    reference: Path,
    release: Path,
) -> None:
    """`release` holds the bundle; manifest.json names every other file with its hash, and its version is their content."""
    chosen = json.loads(verdict.read_text())
    home = candidates / chosen["folder"]
    encoder = load_encoder(features)
    golden = golden_rows(features, table, encoder, export.golden_rows)
    quality = json.loads(evaluation.read_text())
    facts = {"name": name, "target": table.target, "chosen": chosen["chosen"]}

    with stage.replacing(release) as folder:
        folder.mkdir(parents=True)
        (folder / "model.tflite").write_bytes((home / "model.tflite").read_bytes())
        (folder / "encoder.json").write_text(json.dumps(encoder.to_json(), indent=1, ensure_ascii=False))
        (folder / "schema.pbtxt").write_bytes(schema.read_bytes())
        (folder / "reference.pb").write_bytes(reference.read_bytes())
        scores = answer(folder, encoder, golden)
        (folder / "golden.json").write_text(json.dumps({"instances": golden, "predictions": scores}, indent=1))
        save_graph(folder / "saved_model", home, encoder, golden)
        card = model_card(facts, table, preprocess, quality, chosen["gate"], pd.read_csv(slices), json.loads(snapshot.read_text()))
        (folder / "model_card.md").write_text(card)
        (folder / "lineage.json").write_text(json.dumps(lineage(quality, json.loads(snapshot.read_text())), indent=1))
        version = write_manifest(folder, facts)
    log.info("%s %s: %s", name, version, chosen["chosen"])


def golden_rows(features: Path, table: Table, encoder: Encoder, count: int) -> list[dict[str, Any]]:
    """Raw rows spread evenly over the test part, as a client sends them: a missing value is left out."""
    rows = pd.concat(shard.to_pandas() for shard in read_shards(features / "test_rows"))
    chosen = rows.iloc[np.linspace(0, len(rows) - 1, count).astype(int)]
    numbers = {column.name for column in encoder.numbers}
    return [
        {
            column: _plain(float(row[column])) if column in numbers else row[column]
            for column in encoder.names
            if not (row[column] is None or (column in numbers and math.isnan(row[column])))
        }
        for _, row in chosen.iterrows()
    ]


def _plain(value: float) -> float | int:
    """Whole numbers without a decimal point, as a person writes them."""
    return int(value) if value.is_integer() else value


def as_columns(rows: list[dict[str, Any]], encoder: Encoder) -> dict[str, NDArray[Any]]:
    """The rows as raw columns, missing values as NaN or None."""
    return {
        **{c.name: np.array([row.get(c.name, math.nan) for row in rows], np.float64) for c in encoder.numbers},
        **{c.name: np.array([row.get(c.name) for row in rows], object) for c in encoder.categories},
    }


def answer(folder: Path, encoder: Encoder, rows: list[dict[str, Any]]) -> list[float]:
    """What the bundle's network says of each row alone, as a server will compute it."""
    network = Network((folder / "model.tflite").read_bytes())
    encoded = encoder.encode(as_columns(rows, encoder))
    return [float(network(encoded["num"][i : i + 1], encoded["cat"][i : i + 1])[0]) for i in range(len(rows))]


def save_graph(folder: Path, home: Path, encoder: Encoder, rows: list[dict[str, Any]]) -> None:
    """A SavedModel that takes raw columns and gives `score`, by the float network behind the chosen candidate."""
    _, network = load_network(keras, home)
    graph = GraphEncoder(encoder)

    def serve(**columns: Any) -> dict[str, Any]:
        return {"score": tf.reduce_mean(tf.sigmoid(network(graph(columns), training=False)), axis=1)}

    # keras.export.ExportArchive tracks variables in sets, in another order each time; a list keeps equal bundles equal.
    module = tf.Module()
    module.encoder, module.weights = graph, [variable.value for variable in network.variables]
    module.serve = tf.function(serve)
    endpoint = module.serve.get_concrete_function(**graph.signature)
    tf.saved_model.save(module, str(folder), signatures={"serving_default": endpoint})
    (folder / "fingerprint.pb").unlink(missing_ok=True)  # a random id

    columns = as_columns(rows, encoder)
    words = {c.name: tf.constant(["" if word is None else word for word in columns[c.name]]) for c in encoder.categories}
    said = tf.saved_model.load(str(folder)).signatures["serving_default"](
        **{c.name: tf.constant(columns[c.name]) for c in encoder.numbers}, **words
    )["score"]
    encoded = encoder.encode(columns)
    wanted = tf.reduce_mean(
        tf.sigmoid(network({key: tf.constant(value) for key, value in encoded.items()}, training=False)), axis=1
    )
    if (gap := float(tf.reduce_max(tf.abs(said - wanted)))) > GRAPH_TOLERANCE:
        raise DataError(
            f"the SavedModel answers golden rows {gap:.2g} apart from the encoder and the network; nothing was released"
        )


def model_card(
    facts: dict[str, str],
    table: Table,
    preprocess: Preprocess,
    quality: dict[str, Any],
    gate: dict[str, Any],
    slices: pd.DataFrame,
    snapshot: dict[str, Any],
) -> str:
    """The model card as Markdown."""
    chosen = facts["chosen"]
    lines = [{"name": name, "bytes": None, **found} for name, found in quality["baselines"].items()]
    lines += [{"name": name, **found} for name, found in quality["candidates"].items()]
    own = slices[slices["model"] == chosen].sort_values("auc")
    return (
        report.ENVIRONMENT.overlay(autoescape=False)
        .get_template("model_card.md")
        .render(
            **facts,
            what=quality["candidates"][chosen]["what"],
            bytes=quality["candidates"][chosen]["bytes"],
            numbers=table.numbers,
            categories=table.categories,
            rows=quality["test_rows"],
            test_from=preprocess.test_from,
            confidence=quality["confidence"],
            table=lines,
            gate=gate,
            least_rows=quality["least_slice_rows"],
            weakest=own.head(WEAKEST).to_dict("records"),
            snapshot=snapshot,
            min_count=preprocess.min_count,
        )
    )


def lineage(quality: dict[str, Any], snapshot: dict[str, Any]) -> dict[str, Any]:
    """Code, data, parameters and figures that the bundle was made from; no time of day, so that a rerun makes the same one."""
    lock = YAML(typ="safe").load(Path("dvc.lock").read_text()) if Path("dvc.lock").exists() else {"stages": {}}
    made = {name: entry for name, entry in lock["stages"].items() if name not in ("evaluate", "export")}
    return {
        "git": {"revision": _git("rev-parse", "HEAD"), "changed": (_git("status", "--porcelain", "-uno") or "").splitlines()},
        "stages": {name: {out["path"]: out["md5"] for out in entry.get("outs", [])} for name, entry in made.items()},
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


def write_manifest(folder: Path, facts: dict[str, str]) -> str:
    """manifest.json lists every file of the folder; returns the version, which is their content's hash."""
    files = {
        str(path.relative_to(folder)): {"sha256": stage.content_hash(path), "bytes": path.stat().st_size}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    version = stage.content_hash(folder)[:12]
    (folder / "manifest.json").write_text(json.dumps({**facts, "format": 1, "version": version, "files": files}, indent=1))
    return version


if __name__ == "__main__":
    stage.main(export)
