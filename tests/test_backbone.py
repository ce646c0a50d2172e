"""A teacher that starts from what another network saw."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from tasks.core.errors import DataError
from tasks.core.models import NetworkSpec, build
from tasks.core.training import Schedule, Training
from tasks.core.trunk import TrunkSpec
from tasks.fit import Job, build_teacher
from tasks.networks import save_network
from tasks.params import Backbone
from tasks.stage import content_hash
from tests.core.test_images import SPEC, bars

TRUNK = TrunkSpec((4, 8), 0, False)


def network(folder: Path, trunk: TrunkSpec = TRUNK) -> Path:
    """A saved network of other outputs than the teacher that starts from it."""
    keras.utils.set_random_seed(9)
    spec = replace(SPEC, hidden=(5,), outputs=3, trunk=trunk)
    save_network(folder, spec, build(keras, spec).get_weights())
    return folder


def backbone(folder: Path, **changes: Any) -> Backbone:
    return Backbone(**{"path": str(folder), "sha256": content_hash(folder), "frozen": True, **changes})


def convolutions(model: Any) -> list[Any]:
    return [weight for layer in model.layers if layer.name.startswith("image0") for weight in layer.get_weights()]


def learned(spec: NetworkSpec, start: Backbone) -> tuple[list[Any], list[Any]]:
    """The convolutions before and after an epoch."""
    keras.utils.set_random_seed(1)
    model = build_teacher(spec, start)
    before, head = convolutions(model), model.get_layer("logits").get_weights()[0]
    rows = bars(64, 1)
    list(Training(model, "binary", Schedule(1, 16, 0.01, 0.01, 1, 1), 64).epochs(rows, rows, lambda done, total: None))
    assert not np.array_equal(head, model.get_layer("logits").get_weights()[0])
    return before, convolutions(model)


def test_frozen_backbone_stays_and_another_one_learns_on(tmp_path: Path) -> None:
    folder = network(tmp_path / "teacher")
    given = [array for name, array in np.load(folder / "weights.npz").items()]
    before, after = learned(SPEC, backbone(folder))
    assert all(any(np.array_equal(weight, one) for one in given) for weight in before)
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)
    before, after = learned(SPEC, backbone(folder, frozen=False))
    assert all(any(np.array_equal(weight, one) for one in given) for weight in before)
    assert not any(np.array_equal(old, new) for old, new in zip(before, after, strict=True))


def test_backbone_that_is_another_one_or_does_not_fit_is_refused(tmp_path: Path) -> None:
    folder = network(tmp_path / "teacher")
    with pytest.raises(DataError, match=f"has sha256 {content_hash(folder)}, params.yaml says 0000"):
        build_teacher(SPEC, backbone(folder, sha256="0" * 64))
    with pytest.raises(DataError, match="is no folder; expected that of a network"):
        build_teacher(SPEC, Backbone(path=str(tmp_path / "none"), sha256="0" * 64, frozen=True))
    wider = network(tmp_path / "wider", TrunkSpec((4, 16), 0, False))
    with pytest.raises(DataError, match=r"does not fit network.images and preprocess.images: its layers \['image0_1'"):
        build_teacher(SPEC, backbone(wider))
    (folder / "weights.npz").write_bytes(b"cut short")
    with pytest.raises(DataError, match="holds no whole network"):
        build_teacher(SPEC, backbone(folder))


def test_job_of_a_worker_keeps_its_backbone(tmp_path: Path) -> None:
    schedule = Schedule(1, 16, 0.01, 0.01, 1, 1)
    for start in (None, Backbone(path="../other", sha256="0" * 64, frozen=True)):
        job = Job("network 1", SPEC, "binary", schedule, tmp_path, start)
        again = Job.from_json(json.loads(json.dumps(job.to_json())))
        assert (again.spec, again.backbone, again.features) == (job.spec, start, tmp_path)
