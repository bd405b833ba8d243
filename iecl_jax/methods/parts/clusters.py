"""Clusters of the training images as their classes: labels, measures, and the share of the loss."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Float32, Int32

from iecl_jax.config.rules import COUNT, FEW
from iecl_jax.config.section import Section, key
from iecl_jax.methods.parts.agreement import normalized_mutual_information
from iecl_jax.methods.parts.method import Scalar

MEASURES = ("cluster_nmi", "empty_clusters", "largest_cluster")


class Settings(Section):
    """The settings of a method that clusters the training images."""

    num_clusters = key(3000, COUNT, "number of clusters, at most that of the images")
    kmeans_iterations = key(10, FEW, "iterations of k-means before each epoch")


def init(images: int, heads: int) -> dict[str, Array]:
    """Returns the clusters before the first epoch, when no image has a label.

    They are {"labels": int32 [images, heads], -1 where an image has none; and `MEASURES`}. These
    are float32 means over the heads, of the clusters with which the present epoch began:
      cluster_nmi: the normalised mutual information of the labels with those of the epoch before,
        over the images that have both; 0 without any;
      empty_clusters: the share of clusters without an image;
      largest_cluster: the largest cluster's share of the labelled images.
    """
    labels = jnp.full((images, heads), -1, jnp.int32)
    return {"labels": labels} | {name: jnp.zeros(()) for name in MEASURES}


def renewed(
    clusters: Any, labels: Int32[Array, "images heads"], num_clusters: int
) -> dict[str, Array]:
    """Returns the clusters with new labels."""

    def measures(old, new):
        sizes = cluster_sizes(new, num_clusters)
        return {
            "cluster_nmi": normalized_mutual_information(old, new, (old >= 0) & (new >= 0)),
            "empty_clusters": (sizes == 0).astype(jnp.float32).mean(),
            "largest_cluster": sizes.max() / jnp.maximum(sizes.sum(), 1.0),
        }

    heads = [measures(old, new) for old, new in zip(clusters["labels"].T, labels.T, strict=True)]
    return {"labels": labels} | jax.tree.map(lambda *values: jnp.stack(values).mean(), *heads)


def cluster_sizes(labels: Int32[Array, "n"], num_clusters: int) -> Float32[Array, "{num_clusters}"]:
    """Returns the number of images with each label."""
    places = jnp.where(labels >= 0, labels, num_clusters)
    ones = jnp.ones_like(labels)
    return jax.ops.segment_sum(ones, places, num_clusters + 1)[:-1].astype(jnp.float32)


def of_images(clusters: Any, index: Int32[Array, "b"]) -> dict[str, Array]:
    """Returns {"labels": int32 [b, heads]} of the images, and `MEASURES`: outputs of `forward`."""
    return clusters | {"labels": clusters["labels"][index]}


def measured(outputs: Mapping[str, Array]) -> dict[str, Scalar]:
    """Returns the measures among the outputs of `forward`, as terms of the loss to log."""
    return {name: outputs[name] for name in MEASURES if name in outputs}


def alarms(config: ml_collections.ConfigDict, metrics: Mapping[str, float]) -> list[str]:
    """Returns the sentences of `methods.alarms` for `MEASURES`."""
    found, number = [], config.method.num_clusters
    if number > 2 and (share := metrics.get("largest_cluster", 0.0)) > 0.5:
        found.append(
            f"one of the {number} clusters has {share:.0%} of the images (largest_cluster is above "
            "0.5), so the labels say little: lower optimizer.learning_rate, or warm up for longer."
        )
    if (share := metrics.get("empty_clusters", 0.0)) > 0.5:
        found.append(
            f"{share:.0%} of the {number} clusters are empty (empty_clusters is above 0.5): lower "
            "method.num_clusters."
        )
    return found
