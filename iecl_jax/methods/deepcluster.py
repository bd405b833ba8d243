"""DeepCluster (Caron et al. 2018): classifies images into clusters of their own features.

    loss = mean of weight(cluster) * CE(W f(anchor) + b, cluster(image))

Before each epoch, the pooled features f of all training images are whitened (PCA), scaled to unit
length and clustered by k-means. The clusters are the classes of the epoch, for which a new top
layer W, b starts from random weights. `symmetric` adds the query, and the loss is the mean over
both views.

The original trains an AlexNet or VGG; that the features are the pooled ones of a ResNet, without
Sobel filter, dropout or projector, is our reading. The original draws the images of an epoch evenly
from the clusters. Here each epoch has every image once, and with `balance` "weights" its loss is
weighted by N / (number of clusters that are not empty * images of its cluster): the expectation is
the same. Sources: the paper and facebookresearch/deepcluster.
"""

import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Float32, Int32, Key

from iecl_jax.config.rules import POSITIVE, WIDTH
from iecl_jax.config.section import key
from iecl_jax.losses import principal, pseudo_labels
from iecl_jax.losses.contrastive import l2_normalize
from iecl_jax.losses.product import product
from iecl_jax.methods.parts import clusters, kmeans, online
from iecl_jax.methods.parts.method import (
    Loss,
    Method,
    NewEpoch,
    Outputs,
    Part,
    Tree,
    Views,
    unmoved,
)
from iecl_jax.models import collectives

TITLE = "DeepCluster"

alarms = clusters.alarms


class Settings(online.Settings, clusters.Settings):
    """The settings of DeepCluster, besides those of its parts."""

    num_clusters = clusters.Settings.num_clusters._replace(default=100)
    kmeans_iterations = clusters.Settings.kmeans_iterations._replace(default=20)
    pca_dim = key(256, WIDTH, "dimensions of the features that are clustered, at most all")
    balance = key(
        "weights", ("weights", "none"), "weights: all clusters count the same in the loss"
    )
    symmetric = key(False, None, "the query is classified too")
    head_learning_rate = key(0.05, POSITIVE, "constant rate of the top layer at batch size 256")


def make(
    config: ml_collections.ConfigDict,
    *,
    total_steps: int,
    axis_name: str | None = None,
    num_images: int = 1,
) -> Method:
    """Returns DeepCluster as a `Method`."""
    network = online.make(config, axis_name, projector=False)
    settings, objective = config.method, config.objective
    views_of_loss = ("anchor", "query") if settings.symmetric else ("anchor",)
    encode_query = settings.symmetric or objective.kl.weight > 0 or objective.entropy.weight > 0

    def head(key: Key[Array, ""], dim: int) -> Tree:
        kernel = 0.01 * jax.random.normal(key, (dim, settings.num_clusters))
        return {"kernel": kernel, "bias": jnp.zeros(settings.num_clusters)}

    def init(key: Key[Array, ""], views: Views) -> tuple[Tree, Tree]:
        keys = jax.random.split(key)
        params, state = network.init(keys[0], views)
        pooled = jax.eval_shape(network.encode, params, state, views[0])["pooled"]
        params["online"]["head"] = head(keys[1], pooled.shape[-1])
        return params, state | {
            "clusters": clusters.init(num_images, heads=1),
            "weights": jnp.ones(settings.num_clusters),
        }

    def forward(
        params: Tree, state: Tree, views: Views, *, index: Int32[Array, "b"]
    ) -> tuple[Outputs, Tree]:
        outputs, state = network.forward(params, state, views[: 2 if encode_query else 1])
        outputs |= clusters.of_images(state["clusters"], index)
        return outputs | {"weights": state["weights"]} | params["online"]["head"], state

    def loss(outputs: Outputs) -> Loss:
        labels, weights = outputs["labels"][:, 0], outputs["weights"]
        pooled = jnp.stack([outputs[f"{view}_projection"] for view in views_of_loss])
        scores = product(pooled, outputs["kernel"]) + outputs["bias"][None, None]
        losses = pseudo_labels.cross_entropy(scores, labels).mean(0)
        count = collectives.mean_count(labels >= 0, axis_name)
        right = (scores.argmax(-1) == labels[None]).astype(jnp.float32)
        terms = {"cluster_top1": right.mean(0).sum() / count} | clusters.measured(outputs)
        return (losses * weights[jnp.maximum(labels, 0)]).sum() / count, terms

    def new_epoch(
        params: Tree, state: Tree, key: Key[Array, ""], features: Float32[Array, "n F"]
    ) -> tuple[Tree, Tree]:
        keys = jax.random.split(key, 3)
        rows = l2_normalize(principal.whitened(features, settings.pca_dim))
        start = kmeans.draw(keys[0], rows, settings.num_clusters, jnp.ones(len(rows), bool))
        _, labels = kmeans.fit(rows, start, iterations=settings.kmeans_iterations, refill=keys[1])
        online_params = params["online"] | {"head": head(keys[2], features.shape[1])}
        return params | {"online": online_params}, state | {
            "clusters": clusters.renewed(state["clusters"], labels[:, None], settings.num_clusters),
            "weights": class_weights(clusters.cluster_sizes(labels, settings.num_clusters))
            if settings.balance == "weights"
            else state["weights"],
        }

    return Method(
        *(init, forward, loss, unmoved, network.encode, network.embed),
        schedules={},
        reads=("index",),
        optimizers={"head": Part(settings.head_learning_rate, "constant", momentum=0.0)},
        new_epoch=NewEpoch(new_epoch, encodes=True, title="Clustering the images"),
    )


def class_weights(sizes: Float32[Array, "K"]) -> Float32[Array, "K"]:
    """Returns what gives each cluster that is not empty the same share of the loss; the mean is 1.

    The mean is that over images, of which `sizes` lie in the clusters.
    """
    nonempty = (sizes > 0).astype(jnp.float32).sum()
    return sizes.sum() / (jnp.maximum(nonempty, 1.0) * jnp.maximum(sizes, 1.0))
