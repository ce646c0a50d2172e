"""What each task minimises, and how logits become scores: in TensorFlow, over all members of a network."""

from typing import Any

import tensorflow as tf

from tasks.core.target import Task


def loss(task: Task, logits: Any, target: Any) -> Any:
    """The mean loss of logits [row, member] or [row, (member,) class] against targets [row] or [row, class].

    Cross-entropy in nats for classes, given by code or by probabilities; the squared error for a regression. Each member
    learns on its own, so the mean is over them too.
    """
    logits = tf.cast(logits, tf.float32)  # whatever the network computes with
    if task == "multiclass":
        logits = _with_members(logits)  # [row, member, class]
        wanted = tf.one_hot(tf.cast(target, tf.int32), logits.shape[-1]) if len(target.shape) == 1 else target
        wide = tf.broadcast_to(wanted[:, None, :], tf.shape(logits))
        return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(wide, logits))
    wanted = tf.broadcast_to(target[:, None], tf.shape(logits))
    if task == "binary":
        return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(wanted, logits))
    return tf.reduce_mean(tf.square(wanted - logits))


def scores(task: Task, logits: Any) -> Any:
    """What the members say together, [row, output]: probabilities, or the number on the scale that was learned."""
    logits = tf.cast(logits, tf.float32)
    if task == "binary":
        return tf.reduce_mean(tf.sigmoid(logits), axis=1, keepdims=True)
    if task == "multiclass":
        return tf.reduce_mean(tf.nn.softmax(_with_members(logits)), axis=1)
    return tf.reduce_mean(logits, axis=1, keepdims=True)


def _with_members(logits: Any) -> Any:
    return logits if len(logits.shape) == 3 else logits[:, None, :]
