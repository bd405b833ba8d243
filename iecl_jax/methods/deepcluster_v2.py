"""DeepCluster-v2 (Caron et al. 2020, SwAV, appendix D): predicts the cluster of an image.

    loss = mean over H heads of CE(z C_h / T, label_h(image))

z are the unit embeddings of all views of an image. The prototypes C_h are the centroids, and
label_h the clusters, of spherical k-means on the embeddings of the epoch before; both stay as they
are for an epoch, and no gradient trains them. There is one memory for the anchor and one for the
query, and the heads cluster them in turn. Images that the epoch before left out, because they did
not fill a batch, have no label and do not count.

Before the first epoch there are no embeddings. With `first_epoch` "ignore" no image has a label in
it, and only batch norm learns (solo-learn). With "encode" the projections of all images by the
untrained network take their place. The encoder sees the whole image in evaluation mode, where the
authors' program has a random crop in training mode; the projector is in training mode.
"""

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Float32, Int32, Key

from iecl_jax.config.rules import FEW, POSITIVE
from iecl_jax.config.section import key
from iecl_jax.losses import pseudo_labels
from iecl_jax.losses.contrastive import l2_normalize
from iecl_jax.losses.product import product
from iecl_jax.methods.parts import clusters, crops, kmeans, memory, online, prototypes
from iecl_jax.methods.parts.method import Loss, Method, NewEpoch, Outputs, Tree, Views, unmoved
from iecl_jax.models import build, collectives

TITLE = "DeepCluster-v2"
ASSIGNING = ("anchor", "query")  # the views whose embeddings are clustered

alarms = clusters.alarms


class Settings(online.SharedSettings, crops.Settings, clusters.Settings):
    """The settings of DeepCluster-v2, besides those of its parts."""

    num_heads = key(3, FEW, "number of clusterings, each with prototypes of its own")
    temperature = key(0.1, POSITIVE, "temperature of the softmax")
    first_epoch = key(
        "encode",
        ("encode", "ignore"),
        "labels of the first epoch: clusters of the untrained network's projections, or none",
    )


def make(
    config: ml_collections.ConfigDict,
    *,
    total_steps: int,
    axis_name: str | None = None,
    num_images: int = 1,
) -> Method:
    """Returns DeepCluster-v2 as a `Method`."""
    network = online.make(config, axis_name, crops=config.method.crops)
    settings, dim = config.method, config.projector.output_dim

    def init(key: Key[Array, ""], views: Views) -> tuple[Tree, Tree]:
        keys = jax.random.split(key)
        params, state = network.init(keys[0], views)
        shape = (settings.num_heads, settings.num_clusters, dim)
        return params, state | {
            "prototypes": l2_normalize(jax.random.normal(keys[1], shape)),
            "clusters": clusters.init(num_images, settings.num_heads),
            "memory": memory.init(len(ASSIGNING), num_images, dim),
        }

    def forward(
        params: Tree, state: Tree, views: Views, *, index: Int32[Array, "b"]
    ) -> tuple[Outputs, Tree]:
        outputs, state = network.forward(params, state, views)
        embeddings = prototypes.projections(outputs)[: len(ASSIGNING)]
        outputs |= {"prototypes": state["prototypes"]}
        outputs |= clusters.of_images(state["clusters"], index)
        remembered = memory.write(state["memory"], index, embeddings, axis_name)
        return outputs, state | {"memory": remembered}

    def loss(outputs: Outputs) -> Loss:
        z = l2_normalize(prototypes.projections(outputs))
        labels = outputs["labels"]
        counts = collectives.mean_count(labels >= 0, axis_name)
        losses, hits = [], []
        for centroids, of_head, count in zip(outputs["prototypes"], labels.T, counts, strict=True):
            scores = product(z, centroids.T) / settings.temperature
            losses.append(pseudo_labels.cross_entropy(scores, of_head).mean(0).sum() / count)
            right = (scores.argmax(-1) == of_head[None]).astype(jnp.float32)
            hits.append(right.mean(0).sum() / count)
        terms = {"cluster_top1": jnp.stack(hits).mean()} | clusters.measured(outputs)
        return jnp.stack(losses).mean(), terms

    def new_epoch(
        params: Tree, state: Tree, key: Key[Array, ""], features: Float32[Array, "n F"] | None
    ) -> tuple[Tree, Tree]:
        known: Any = state["memory"]
        if features is not None:
            projections = l2_normalize(_project(config, params, features))
            known = {
                "embeddings": jnp.stack([projections] * len(ASSIGNING)),
                "filled": jnp.ones(num_images, bool),
            }
        filled = known["filled"]
        moved, labels = [], []
        for head, before in enumerate(state["prototypes"]):
            rows = known["embeddings"][head % len(ASSIGNING)]
            start = kmeans.draw(jax.random.fold_in(key, head), rows, len(before), filled)
            centroids, found = kmeans.fit(
                rows,
                start,
                iterations=settings.kmeans_iterations,
                spherical=True,
                counted=filled,
            )
            moved.append(jnp.where(filled.any(), centroids, before))
            labels.append(found)
        return params, state | {
            "prototypes": jnp.stack(moved),
            "clusters": clusters.renewed(
                state["clusters"], jnp.stack(labels, axis=1), settings.num_clusters
            ),
            "memory": memory.emptied(state["memory"]),
        }

    return Method(
        *(init, forward, loss, unmoved, network.encode, network.embed),
        schedules={},
        reads=("index",),
        new_epoch=NewEpoch(
            new_epoch,
            encodes=settings.first_epoch == "encode",
            first_only=True,
            title="Clustering the images",
        ),
    )


def _project(
    config: ml_collections.ConfigDict, params: Tree, features: Float32[Array, "n F"]
) -> Float32[Array, "n d"]:
    """Returns the projections of features, with the batch statistics of one batch after another."""
    projector, size = build.projector(config), config.train.batch_size
    variables = {"params": params["online"]["projector"]}

    def project(block):
        return projector.apply(variables, block, train=True, mutable=["batch_stats"])[0]

    whole = len(features) // size * size
    blocks = jax.lax.map(project, features[:whole].reshape(-1, size, features.shape[1]))
    projections = blocks.reshape(whole, -1)
    if whole < len(features):
        rest = project(features[-size:])[whole - len(features) :]
        projections = jnp.concatenate([projections, rest])
    return projections
