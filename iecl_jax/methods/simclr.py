"""SimCLR (Chen et al. 2020): NT-Xent over the views of the images on all devices.

    loss = mean over i of -log(exp(z_i z_j / T) / sum over k != i of exp(z_i z_k / T))

j is the other view of the image of i, and z has unit length. The mean is over the 2B embeddings of
the batch, each compared with the 2B - 1 others. The views are encoded as one batch, but each has
its own BN statistics. With `crops`, all V views of an image are positives of one another
(solo-learn), and there are V B embeddings.
"""

import jax.numpy as jnp
import ml_collections

from iecl_jax.config.rules import POSITIVE
from iecl_jax.config.section import key
from iecl_jax.losses import contrastive
from iecl_jax.methods.parts import crops, online
from iecl_jax.methods.parts.method import Loss, Method, Outputs, unmoved
from iecl_jax.models import collectives

TITLE = "SimCLR"


class Settings(online.Settings, crops.OnRequest):
    """The settings of SimCLR, besides those of its parts."""

    temperature = key(0.2, POSITIVE, "temperature of the softmax")


def make(
    config: ml_collections.ConfigDict, *, total_steps: int, axis_name: str | None = None
) -> Method:
    """Returns SimCLR as a `Method`."""
    network = online.make(config, axis_name, crops=config.method.crops)

    def loss(outputs: Outputs) -> Loss:
        views = online.of_all_views(outputs, "projection")
        value, top1 = contrastive.nt_xent(
            jnp.stack(views),
            jnp.stack(collectives.gather(views, axis_name)),
            collectives.places(len(views[0]), axis_name),
            temperature=config.method.temperature,
        )
        return value, {"nt_xent_top1": top1}

    return Method(
        network.init, network.forward, loss, unmoved, network.encode, network.embed, schedules={}
    )
