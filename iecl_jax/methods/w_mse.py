"""W-MSE (Ermolov et al. 2021): the squared distance of whitened embeddings of unit length.

    loss = |w_anchor - w_query|^2 = 2 - 2 cosine,  the mean over images

Each view is whitened in slices of `whitening_size` consecutive images of the global batch. The data
order changes in every epoch, so the slices are random; the released code permutes the batch again.

As in the released code and in lightly, both views get the gradient. In solo-learn the second one is
a constant: `stop_gradient="query"`, the same loss with another gradient.
"""

import jax
import ml_collections

from iecl_jax.config.rules import COUNT, SHARE, multiple
from iecl_jax.config.section import key
from iecl_jax.losses import whitening
from iecl_jax.losses.similarity import negative_cosine
from iecl_jax.methods.parts import online
from iecl_jax.methods.parts.method import Loss, Method, Outputs, unmoved
from iecl_jax.models import collectives

TITLE = "W-MSE"


class Settings(online.Settings):
    """The settings of W-MSE, besides those of its parts."""

    whitening_size = key(128, COUNT, "images per slice that is whitened")
    whitening_epsilon = key(0.0, SHARE, "share of the identity in the covariance of a slice")
    stop_gradient = key(
        "none", ("none", "anchor", "query"), "the view that is a constant (solo-learn: query)"
    )


def check(config: ml_collections.ConfigDict, num_devices: int) -> None:
    """Raises ValueError if slices do not fill the batch, or are too small for the covariance."""
    batch, size = config.train.batch_size, config.method.whitening_size
    multiple("train.batch_size", batch, size, "images of method.whitening_size")
    if size <= config.projector.output_dim:
        raise ValueError(
            f"method.whitening_size={size} must be more than projector.output_dim="
            f"{config.projector.output_dim}: fewer images have no invertible covariance."
        )


def make(
    config: ml_collections.ConfigDict, *, total_steps: int, axis_name: str | None = None
) -> Method:
    """Returns W-MSE as a `Method`."""
    network = online.make(config, axis_name)
    settings = config.method

    def loss(outputs: Outputs) -> Loss:
        return 2 + 2 * negative_cosine(
            *(whitened(outputs, side) for side in ("anchor", "query"))
        ), {}

    def whitened(outputs, side):
        z = collectives.gather(outputs[f"{side}_projection"], axis_name)
        size, epsilon = settings.whitening_size, settings.whitening_epsilon
        white = whitening.whiten(z, size=size, epsilon=epsilon)
        return jax.lax.stop_gradient(white) if settings.stop_gradient == side else white

    return Method(
        network.init, network.forward, loss, unmoved, network.encode, network.embed, schedules={}
    )
