"""What each task minimises, and how logits become scores: in TensorFlow, over all members of a network."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tasks.core.calibration import LEAST
from tasks.core.target import Target, Task, as_text


def loss(task: Task, logits: Any, target: Any, weights: Sequence[float] = ()) -> Any:
    """The mean loss of logits [row, member] or [row, (member,) class] against targets [row] or [row, class].

    Cross-entropy in nats for classes, given by code or by probabilities, the part of each class counting as its weight says
    (alike where there are none); the squared error for a regression. Each member learns on its own, so the mean is over them too.
    """
    logits = tf.cast(logits, tf.float32)  # whatever the network computes with
    if task == "multiclass":
        logits = _with_members(logits)  # [row, member, class]
        wanted = tf.one_hot(tf.cast(target, tf.int32), logits.shape[-1]) if len(target.shape) == 1 else target
        wide = tf.broadcast_to(wanted[:, None, :], tf.shape(logits))
        if not weights:
            return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(wide, logits))
        counted = wide * tf.constant(weights)
        total = tf.reduce_sum(counted, axis=-1)
        return tf.reduce_mean(total * tf.nn.softmax_cross_entropy_with_logits(counted / total[..., None], logits))
    wanted = tf.broadcast_to(target[:, None], tf.shape(logits))
    if task == "binary":
        if not weights:
            return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(wanted, logits))
        total = weights[1] * wanted + weights[0] * (1 - wanted)
        return tf.reduce_mean(total * tf.nn.sigmoid_cross_entropy_with_logits(weights[1] * wanted / total, logits))
    return tf.reduce_mean(tf.square(wanted - logits))


def scores(task: Task, logits: Any) -> Any:
    """What the members say together, [row, output]: probabilities, or the number on the scale that was learned."""
    logits = tf.cast(logits, tf.float32)
    if task == "binary":
        return tf.reduce_mean(tf.sigmoid(logits), axis=1, keepdims=True)
    if task == "multiclass":
        return tf.reduce_mean(tf.nn.softmax(_with_members(logits)), axis=1)
    return tf.reduce_mean(logits, axis=1, keepdims=True)


def tell(target: Target, scores: Any) -> dict[str, Any]:
    """As `Target.decode`, `answer` and `decide` tell scores [row, output], operation by operation: `score`, and what else there is.

    `decision` is the label to act on, as text; `low` and `high` are an interval's bounds.
    """
    if target.calibration is not None:
        p, found = tf.clip_by_value(scores, LEAST, 1 - LEAST), target.calibration
        if target.task == "binary":
            scores = tf.sigmoid(found.slope * (tf.math.log(p) - tf.math.log1p(-p)) + found.bias[0])
        else:
            scores = tf.nn.softmax(found.slope * tf.math.log(p) + tf.constant(found.bias, tf.float32))
    told = scores * target.scale + target.center if target.task == "regression" else scores
    said = {"score": told if target.outputs > 1 else told[:, 0]}
    if target.decision is not None:
        if target.decision.threshold is None:
            code = tf.argmin(tf.linalg.matmul(told, tf.constant(target.decision.costs, tf.float32)), axis=1, output_type=tf.int32)
        else:
            code = tf.cast(told[:, 0] >= target.decision.threshold, tf.int32)
        said["decision"] = tf.gather(tf.constant([as_text(label) for label in target.classes]), code)
    if target.intervals is not None:
        bins = tf.searchsorted(tf.constant(target.intervals.edges, tf.float32), told[:, 0], side="right")
        for name, added in (("low", target.intervals.below), ("high", target.intervals.above)):
            said[name] = told[:, 0] + tf.gather(tf.constant(added, tf.float32), bins)
    return said


def _with_members(logits: Any) -> Any:
    return logits if len(logits.shape) == 3 else logits[:, None, :]
