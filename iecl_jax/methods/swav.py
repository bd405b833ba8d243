"""SwAV (Caron et al. 2020): a view's scores predict the prototypes that another view is given.

    loss = mean over i, v of CE(codes_i, softmax(s_v / T)),  i anchor or query, v any other view

s_v are the cosines of a view's projections with the prototypes. codes_i are s_i shared out among
the prototypes by Sinkhorn's algorithm over the images of all devices (`losses.assignment`); they
are constants. All pairs weigh the same. A small batch is shared out together with the earlier
images of a queue, one for the anchors and one for the queries, whose scores are those of today's
prototypes.
"""

import functools
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Key

from iecl_jax.config.rules import COUNT_OR_NONE, FEW, POSITIVE
from iecl_jax.config.section import key
from iecl_jax.losses import assignment
from iecl_jax.losses.contrastive import l2_normalize
from iecl_jax.methods.parts import online, prototypes, queue
from iecl_jax.methods.parts.method import Loss, Method, Outputs, Step, Tree, Views, unmoved
from iecl_jax.models import collectives

TITLE = "SwAV"
ASSIGNED = ("anchor", "query")
# Shares of what is possible, beyond which the assignments say nothing.
MOST_ENTROPY, FEWEST_USED = 0.99, 0.05


class Settings(online.Settings, prototypes.Settings):
    """The settings of SwAV, besides those of its parts."""

    temperature = key(0.1, POSITIVE, "temperature of the softmax")
    epsilon = key(0.05, POSITIVE, "entropy weight of Sinkhorn's iteration; softer codes above it")
    iterations = key(3, FEW, "iterations of Sinkhorn's algorithm")
    queue_size = key(0, COUNT_OR_NONE, "earlier images that are assigned with the batch; 0 = none")
    queue_start_epoch = key(
        15,
        COUNT_OR_NONE,
        "first epoch, counted from 0, in which the queue is used, once it is full",
    )


def check(config: ml_collections.ConfigDict, num_devices: int) -> None:
    """Raises ValueError unless the length of the queue is a multiple of the batch size."""
    queue.check(config)


def make(
    config: ml_collections.ConfigDict,
    *,
    total_steps: int,
    axis_name: str | None = None,
    steps_per_epoch: int = 1,
) -> Method:
    """Returns SwAV as a `Method`."""
    settings, dim = config.method, config.projector.output_dim
    network = online.make(config, axis_name)
    heads = prototypes.make(config, steps_per_epoch=steps_per_epoch)

    def init(key: Key[Array, ""], views: Views) -> tuple[Tree, Tree]:
        keys = jax.random.split(key)
        params, state = network.init(keys[0], views)
        if settings.queue_size:
            state["queue"] = {view: queue.empty(settings.queue_size, dim) for view in ASSIGNED}
        return heads.init(keys[1], params), state

    def forward(params: Tree, state: Tree, views: Views, *, epoch: Step) -> tuple[Outputs, Tree]:
        outputs, state = network.forward(params, state, views)
        rows = params["online"]["prototypes"]
        projections = prototypes.projections(outputs)
        outputs["scores"] = heads.scores(rows, projections)
        # Embeddings are fewer numbers than scores, so these travel between the devices.
        sent = jax.lax.stop_gradient(l2_normalize(projections[:2])).swapaxes(0, 1)
        everyone = collectives.gather(sent, axis_name).swapaxes(0, 1)
        if settings.queue_size:
            queues = state["queue"]
            earlier = jnp.stack([queues[view]["keys"] for view in ASSIGNED])
            usable = queue.is_full(queues["anchor"]) & (epoch >= settings.queue_start_epoch)
            outputs["counted"] = jnp.concatenate(
                [
                    jnp.ones(everyone.shape[1], bool),
                    jnp.broadcast_to(usable, settings.queue_size),
                ]
            )
            entered = {
                view: queue.enqueue(queues[view], new, None)
                for view, new in zip(ASSIGNED, everyone, strict=True)
            }
            everyone = jnp.concatenate([everyone, earlier], axis=1)
            state = state | {"queue": entered}
        outputs["assigned_scores"] = jax.lax.stop_gradient(heads.scores(rows, everyone))
        return outputs, state

    sinkhorn = functools.partial(
        assignment.sinkhorn, epsilon=settings.epsilon, iterations=settings.iterations
    )

    def loss(outputs: Outputs) -> Loss:
        shared, counted = outputs["assigned_scores"], outputs.get("counted")
        codes = jnp.stack([sinkhorn(scores, counted=counted) for scores in shared])
        codes = codes[:, : shared.shape[1] - settings.queue_size]
        places = collectives.places(outputs["scores"].shape[1], axis_name)
        value = assignment.of_other_views(
            codes[:, places], outputs["scores"] / settings.temperature
        )
        used = jnp.stack([assignment.num_used(of_view) for of_view in codes])
        return value, {
            "assignment_entropy": assignment.entropy(codes).mean(),
            "mean_assignment_entropy": assignment.entropy(codes.mean(1)).mean(),
            "prototypes_used": used.astype(jnp.float32).mean(),
        }

    return Method(
        init,
        forward,
        loss,
        unmoved,
        network.encode,
        network.embed,
        schedules={},
        reads=("epoch",),
        constrain=heads.constrain,
        optimizers=heads.optimizers,
    )


def alarms(config: ml_collections.ConfigDict, metrics: Mapping[str, float]) -> list[str]:
    """Returns the sentences for assignments that are uniform or use few prototypes."""
    count, batch = config.method.prototypes.count, config.train.batch_size
    entropy, most = metrics["assignment_entropy"], math.log(count)
    used = metrics["prototypes_used"]
    if entropy > MOST_ENTROPY * most:
        return [
            f"the entropy of the assignments, {entropy:.2f} nats, is nearly the {most:.2f} of "
            f"equal shares for all {count} prototypes: images or prototypes have become alike, and "
            "the loss stays there; raise method.prototypes.frozen_epochs, or lower "
            "optimizer.learning_rate, method.prototypes.count or method.epsilon."
        ]
    if used < FEWEST_USED * min(count, batch):
        return [
            f"only {used:.0f} of {count} prototypes are the first choice of an image in a batch of "
            f"{batch}: raise method.prototypes.frozen_epochs, or lower optimizer.learning_rate or "
            "method.prototypes.count."
        ]
    return []
