"""MinEnt (Li et al. 2023): each view learns the classes that the other view gets, in several heads.

    loss = mean over heads of [CE(g_anchor, t_query) + CE(g_query, t_anchor)] / 2

g are the scores of a head, t = argmax h their classes, and h the scores after a normalisation along
the batch of all devices, in float32. A class is the distribution of least entropy that is nearest
to h; the normalisation prevents that all images get the same. The cross-entropy CE is that of the
scores as they are, and t is a constant.

The projector is the first head: the objective's terms, and measurements of embeddings, read its
scores. `further_heads` are the widths of the others, which are as deep and have hidden layers as
wide. The authors' batch norm of h has a scale and a bias that never get a gradient; here it has
none.
"""

from collections.abc import Mapping

import ml_collections

from iecl_jax.config.rules import CLASSES_OR_NONE
from iecl_jax.config.section import key
from iecl_jax.methods.parts import classes, online
from iecl_jax.methods.parts.method import Loss, Method, Outputs, unmoved
from iecl_jax.models import build

TITLE = "MinEnt"


class Settings(online.Settings):
    """The settings of MinEnt, besides those of its parts."""

    further_heads = key(
        (1024, 512, 256, 128, 64, 32, 16),
        CLASSES_OR_NONE,
        "classes of each head besides the projector, which is the first; () = one head",
    )
    normalization = key(
        "bn",
        ("bn", "softmax", "l2", "none"),
        "normalisation of the scores along the batch, before the largest is a class",
    )


def make(
    config: ml_collections.ConfigDict, *, total_steps: int, axis_name: str | None = None
) -> Method:
    """Returns MinEnt as a `Method`."""
    further = build.further_heads(config, config.method.further_heads, axis_name)
    network = online.make(config, axis_name, further=further)
    names = ("projection", *(f"head{i}" for i in range(1, len(_widths(config)))))

    def loss(outputs: Outputs) -> Loss:
        losses, terms = classes.swapped(
            outputs, names, normalization=config.method.normalization, axis_name=axis_name
        )
        return sum(losses[1:], losses[0]) / len(losses), terms

    return Method(
        network.init, network.forward, loss, unmoved, network.encode, network.embed, schedules={}
    )


def alarms(config: ml_collections.ConfigDict, metrics: Mapping[str, float]) -> list[str]:
    """Returns a sentence for each head that gives all images one class, or learns nothing."""
    return classes.alarms(config, _widths(config), metrics)


def _widths(config: ml_collections.ConfigDict) -> tuple[int, ...]:
    return (config.projector.output_dim, *config.method.further_heads)
