"""Classifiers of which each view learns the classes that the other view gets (MinEnt, S3OC)."""

import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import ml_collections

from iecl_jax.losses import assignment, pseudo_labels
from iecl_jax.methods.parts.clusters import cluster_sizes
from iecl_jax.methods.parts.method import Outputs, Scalar
from iecl_jax.models import collectives


def swapped(
    outputs: Outputs,
    names: Sequence[str],
    *,
    normalization: str,
    axis_name: str | None,
    temperature: float = 1.0,
) -> tuple[list[Scalar], dict[str, Scalar]]:
    """Returns the loss of each classifier, and terms to log.

    The loss is the mean of both directions: the cross-entropy of one view's scores, divided by the
    temperature, against the classes of the other view (`pseudo_labels.of_batch`). The classes are
    constants, and their normalisation is over the images of all devices.

    Args:
      outputs: has the scores "anchor_NAME" and "query_NAME" [b, K] of each classifier.
      names: the names of the classifiers.
      normalization: see `pseudo_labels.of_batch`.
      axis_name: the axis of the devices.
      temperature: above 0.

    Returns:
      (losses, terms). The terms of classifier i are "head{i}_loss", "head{i}_classes" (the number
      of classes that the images of the batch got) and "head{i}_entropy" (of their frequencies, in
      nats); the latter two are means over both views.
    """
    sides = ("anchor", "query")
    scores = [[outputs[f"{side}_{name}"] for side in sides] for name in names]
    everyone = collectives.gather(jax.lax.stop_gradient(scores), axis_name)
    places = collectives.places(len(scores[0][0]), axis_name)
    losses: list[Scalar] = []
    terms: dict[str, Scalar] = {}
    for i, (own, of_all) in enumerate(zip(scores, everyone, strict=True)):
        classes = [pseudo_labels.of_batch(view, normalization) for view in of_all]
        first, second = (
            pseudo_labels.cross_entropy(view / temperature, other[places]).mean()
            for view, other in zip(own, classes[::-1], strict=True)
        )
        losses.append((first + second) / 2)
        sizes = jnp.stack([cluster_sizes(view, own[0].shape[1]) for view in classes])
        terms |= {
            f"head{i}_loss": losses[-1],
            f"head{i}_classes": (sizes > 0).sum(1).astype(jnp.float32).mean(),
            f"head{i}_entropy": assignment.entropy(sizes / len(classes[0])).mean(),
        }
    return losses, terms


def alarms(
    config: ml_collections.ConfigDict, widths: Sequence[int], metrics: Mapping[str, float]
) -> list[str]:
    """Returns a sentence for each classifier that gives all images one class, or learns nothing.

    The latter is said from an epoch after the warm-up on: before it, it is so.

    Args:
      config: a pretraining config.
      widths: the number of classes of each classifier.
      metrics: what a training logged, with the terms of `swapped`, and "epoch".
    """
    found = []
    warm = metrics["epoch"] >= config.schedule.warmup_epochs + 1
    for i, width in enumerate(widths):
        loss, classes = metrics.get(f"head{i}_loss"), metrics.get(f"head{i}_classes")
        if loss is None or classes is None:
            continue
        if classes < 1.5:
            found.append(
                f"head{i}_classes={classes:.2f} of {width}: all images get one class, so nothing "
                "is learned: lower optimizer.learning_rate, or take another method.normalization."
            )
        elif warm and loss > 0.995 * math.log(width):
            found.append(
                f"head{i}_loss={loss:.3f} is still that of chance, log {width} = "
                f"{math.log(width):.3f}: lower optimizer.learning_rate, or take fewer classes."
            )
    return found
