"""All4One (Estepa et al. 2023): nearest neighbours, a centroid of them, and decorrelated features.

    loss = neighbor_weight * neighbor + centroid_weight * centroid + feature_weight * feature

m are projections of the momentum network, z those of the online network, and N the rows of a queue
of earlier m that are nearest to m, the nearest first. They are constants. The losses are

    neighbor: InfoNCE(N_anchor[0], h(z_query)) / 2 + InfoNCE(N_query[0], h(z_anchor)) / 2
    centroid: InfoNCE(c_anchor, c'_query) / 2 + InfoNCE(c_query, c'_anchor) / 2
    feature: 5 * (on_diagonal + off_diagonal) of `losses.redundancy.feature_correlation`, with the
      pairs (m_anchor, z_query) and (m_query, z_anchor)

c is the first output of a transformer encoder for the sequence N. c' is that for the sequence with
the prediction h2(z) in front, and without its last neighbour. Gradients reach the transformer
through both. m_anchor enters the queue after the look-up. All means are over all devices, also
those of the feature loss, which the authors' code has per device.
"""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jaxtyping import Array, Float32, Int32, Key

from iecl_jax.config.rules import BELOW_ONE, COUNT, FEW, NOT_NEGATIVE, POSITIVE, WIDTH, divides
from iecl_jax.config.section import Section, key
from iecl_jax.losses.contrastive import l2_normalize
from iecl_jax.losses.product import product
from iecl_jax.losses.redundancy import feature_correlation
from iecl_jax.methods.parts import contrast, ema, online, queue
from iecl_jax.methods.parts.method import Loss, Method, Outputs, Part, Tree, Views
from iecl_jax.models import build, collectives, precision
from iecl_jax.models.transformer import TransformerEncoder, encode_each

TITLE = "All4One"
LONG_QUEUE = True  # longer than the data set, as in solo-learn's recipe: an alarm tells
_WIDTH = "projector.output_dim"
OPPOSITE = (("anchor", "query"), ("query", "anchor"))

alarms = queue.alarms


class Settings(online.Settings, online.PredictorSettings, ema.Settings):
    """The settings of All4One, besides those of its parts."""

    temperature = key(0.2, POSITIVE, "temperature of the softmax of the neighbours")
    centroid_temperature = key(0.1, POSITIVE, "temperature of the softmax of the centroids")
    neighbor_weight = key(0.5, NOT_NEGATIVE, "weight of the neighbour loss")
    centroid_weight = key(0.5, NOT_NEGATIVE, "weight of the centroid loss")
    feature_weight = key(0.5, NOT_NEGATIVE, "weight of the feature loss")
    queue_size = key(98304, COUNT, "number of earlier embeddings that are searched for neighbours")
    neighbors = key(5, FEW, "neighbours of an image")

    class transformer(Section):
        """The encoder that makes a centroid of the neighbours."""

        num_layers = key(3, FEW, "number of layers")
        num_heads = key(8, FEW, "heads of the attention")
        hidden_dim = key(512, WIDTH, "hidden units of a layer")
        dropout = key(0.1, BELOW_ONE, "probability of the dropout")
        learning_rate = key(0.1, POSITIVE, "its peak learning rate, instead of optimizer's")


def check(config: ml_collections.ConfigDict, num_devices: int) -> None:
    """Raises ValueError if the queue or the transformer do not fit the batch or the projections."""
    queue.check(config)
    settings, width = config.method, config.projector.output_dim
    divides("method.transformer.num_heads", settings.transformer.num_heads, _WIDTH, width)
    if width < 2:
        raise ValueError(f"{_WIDTH}={width} must be 2 or more: the loss compares features.")
    if settings.neighbors > settings.queue_size:
        raise ValueError(
            f"method.neighbors={settings.neighbors} must be at most "
            f"method.queue_size={settings.queue_size}."
        )


def make(
    config: ml_collections.ConfigDict,
    *,
    total_steps: int,
    axis_name: str | None = None,
    num_images: int = 1,
) -> Method:
    """Returns All4One as a `Method`."""
    settings, width = config.method, config.projector.output_dim
    network = online.make(config, axis_name, predictor=True)
    momentum = ema.make(config, axis_name, total_steps=total_steps)
    second = build.predictor(config, axis_name)
    transformer = TransformerEncoder(
        num_layers=settings.transformer.num_layers,
        num_heads=settings.transformer.num_heads,
        hidden_dim=settings.transformer.hidden_dim,
        dropout=settings.transformer.dropout,
        dtype=precision.compute_dtype(config),
    )
    positions = jnp.asarray(encoding(settings.neighbors, width), jnp.float32)
    running_views = 2 if settings.running_stats == "both" else 1

    def init(key: Key[Array, ""], views: Views) -> tuple[Tree, Tree]:
        keys = jax.random.split(key, 4)
        params, state = network.init(keys[0], views)
        state = momentum.init(params, state)
        predictor = second.init(keys[1], jnp.zeros((len(views[0]), width)), train=True)
        sequence = jnp.zeros((settings.neighbors, width))
        encoder = transformer.init(keys[2], sequence, deterministic=True)
        added = {"predictor2": predictor["params"], "transformer": encoder["params"]}
        stats = {"predictor2": predictor.get("batch_stats", {})}
        entries = queue.init(keys[3], settings.queue_size, width)
        return {"online": params["online"] | added}, state | {
            "online": state["online"] | stats,
            "queue": entries,
        }

    def forward(
        params: Tree, state: Tree, views: Views, keys: Key[Array, "b"] | None = None
    ) -> tuple[Outputs, Tree]:
        stats = state["online"]["predictor2"]
        outputs, state = network.forward(params, state, views)
        of_views, state = momentum.forward(state, views[:2])
        z = jnp.concatenate([outputs["anchor_projection"], outputs["query_projection"]])
        predicted, updated = second.apply(
            {"params": params["online"]["predictor2"], "batch_stats": stats},
            z,
            train=True,
            num_views=2,
            running_views=running_views,
            mutable=["batch_stats"],
        )
        earlier = state["queue"]["keys"]
        found = [nearest(m, earlier, settings.neighbors) for m in of_views]
        sequences = []
        for (_, rows, _), prediction in zip(found, jnp.split(predicted, 2), strict=True):
            sequences += [rows, jnp.concatenate([prediction[:, None], rows[:, :-1]], axis=1)]
        centroids = encode_each(
            transformer,
            params["online"]["transformer"],
            jnp.stack(sequences) + positions[None, None],
            keys,
        )[..., 0, :]
        for i, view in enumerate(("anchor", "query")):
            outputs[f"{view}_key"] = of_views[i]
            outputs[f"{view}_neighbor"] = found[i][1][:, 0]
            outputs[f"{view}_centroid"] = centroids[2 * i]
            outputs[f"{view}_centroid_prediction"] = centroids[2 * i + 1]
        outputs["neighbor_cosine"] = found[0][2]
        outputs["neighbor_overlap"] = shared(found[0][0], found[1][0])
        entered = queue.enqueue(state["queue"], of_views[0], axis_name)
        stats = state["online"] | {"predictor2": updated.get("batch_stats", {})}
        return outputs, state | {"online": stats, "queue": entered}

    def loss(outputs: Outputs) -> Loss:
        def both(anchors, keys, temperature):
            found = [
                contrast.info_nce(
                    outputs[f"{a}_{anchors}"],
                    outputs[f"{b}_{keys}"],
                    temperature=temperature,
                    axis_name=axis_name,
                )
                for a, b in OPPOSITE
            ]
            return (found[0][0] + found[1][0]) / 2, found[0][1]

        neighbor, top1 = both("neighbor", "prediction", settings.temperature)
        centroid, centroid_top1 = both(
            "centroid", "centroid_prediction", settings.centroid_temperature
        )
        names = [(f"{a}_key", f"{b}_projection") for a, b in OPPOSITE]
        gathered = collectives.gather(
            {name: outputs[name] for pair in names for name in pair}, axis_name
        )
        on, off = feature_correlation(*((gathered[m], gathered[z]) for m, z in names))
        feature = 5 * (on + off)
        value = (
            settings.neighbor_weight * neighbor
            + settings.centroid_weight * centroid
            + settings.feature_weight * feature
        )
        return value, {
            "neighbor_loss": neighbor,
            "centroid_loss": centroid,
            "feature_loss": feature,
            "on_diagonal": on,
            "off_diagonal": off,
            "info_nce_top1": top1,
            "centroid_top1": centroid_top1,
            "neighbor_cosine": outputs["neighbor_cosine"].mean(),
            "neighbor_overlap": outputs["neighbor_overlap"].mean(),
        }

    schedules = {"ema": momentum.schedule, "queue_epochs": queue.epochs(config, num_images)}
    return Method(
        init,
        forward,
        loss,
        momentum.post_update,
        network.encode,
        network.embed,
        schedules,
        reads=("keys",),
        optimizers={"transformer": Part(settings.transformer.learning_rate)},
    )


def nearest(
    z: Float32[Array, "b d"], support: Float32[Array, "K d"], count: int
) -> tuple[Int32[Array, "b n"], Float32[Array, "b n d"], Float32[Array, "b n"]]:
    """Returns (numbers, rows, cosines) of the `count` rows of `support` nearest to each z.

    The nearest comes first. The rows of `support` have unit length. No gradient flows to z.
    """
    z = jax.lax.stop_gradient(l2_normalize(z))
    cosines, numbers = jax.lax.top_k(product(z, support.T), count)
    return numbers, jnp.take(support, numbers, axis=0), cosines


def shared(first: Int32[Array, "b n"], second: Int32[Array, "b n"]) -> Float32[Array, "b n"]:
    """Returns, for each number in `first`, 1 if it is in the same row of `second`, and else 0."""
    return (first[:, :, None] == second[:, None, :]).any(2).astype(jnp.float32)


def encoding(length: int, width: int) -> np.ndarray:
    """Returns what the authors' code adds to a sequence: float64 [length, width].

    Sequence and features are exchanged in it: the features are the positions x, and the places c in
    the sequence are the channels, with sin(x w) where c is even, cos(x w) where it is odd, and
    w = 10000^(-2 floor(c / 2) / C), where C is `length` rounded up to an even number.
    """
    places, features = np.arange(length)[:, None], np.arange(width)[None]
    frequency = 10000.0 ** (-2 * (places // 2) / (length + length % 2))
    return np.where(places % 2, np.cos(features * frequency), np.sin(features * frequency))
