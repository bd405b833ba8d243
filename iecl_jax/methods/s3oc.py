"""S3OC (Li et al. 2024), in our reading: the authors' code is not public, and we know the abstract.

Known is this: one stage trains the encoder and clustering headers together. A header is a linear
layer whose weights are cluster centres, and whose outputs are the similarities of a feature with
them. Their softmax is a soft assignment, its largest entry a hard one, and the cross-entropy
between both is the loss. Several headers of different widths stand in a cascade. Our reading:

    loss = sum over levels of [CE(s_anchor / T, t_query) + CE(s_query / T, t_anchor)] / 2

s are the cosines of a level's input with its centres. The first level gets the encoder's pooled
features, without a projector, and each further one the cosines of the level before. t are the
classes that the other view gets, a constant: the largest of the scores after a normalisation along
the batch of all devices, as in the authors' later MinEnt (`normalization="bn"`), or of an
assignment that uses all classes equally ("sinkhorn"; the authors' earlier work limits the images of
a class, too).
"""

from collections.abc import Mapping

import ml_collections

from iecl_jax.config.rules import CLASSES, POSITIVE
from iecl_jax.config.section import key
from iecl_jax.methods.parts import classes, online
from iecl_jax.methods.parts.method import Loss, Method, Outputs, unmoved
from iecl_jax.models.heads import Cascade

TITLE = "S3OC (our reading)"


class Settings(online.Settings):
    """The settings of S3OC, besides those of its parts."""

    levels = key((1024, 512, 256, 128, 64), CLASSES, "clusters of each level of the cascade")
    temperature = key(0.1, POSITIVE, "T, the divisor of the cosines")
    normalization = key(
        "bn",
        ("bn", "sinkhorn"),
        "normalisation of the scores along the batch, before the largest is a class",
    )


def make(
    config: ml_collections.ConfigDict, *, total_steps: int, axis_name: str | None = None
) -> Method:
    """Returns S3OC as a `Method`."""
    settings = config.method
    network = online.make(
        config, axis_name, projector=False, further=Cascade(tuple(settings.levels))
    )
    names = [f"level{i}" for i in range(len(settings.levels))]

    def loss(outputs: Outputs) -> Loss:
        losses, terms = classes.swapped(
            outputs,
            names,
            normalization=settings.normalization,
            temperature=settings.temperature,
            axis_name=axis_name,
        )
        return sum(losses[1:], losses[0]), terms

    return Method(
        network.init, network.forward, loss, unmoved, network.encode, network.embed, schedules={}
    )


def alarms(config: ml_collections.ConfigDict, metrics: Mapping[str, float]) -> list[str]:
    """Returns a sentence for each level that gives all images one class, or learns nothing."""
    return classes.alarms(config, config.method.levels, metrics)
