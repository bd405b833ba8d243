"""W-MSE (Ermolov et al. 2021): the mean squared difference of whitened, normalised embeddings.

    loss = |w_anchor - w_query|^2 of unit vectors = 2 - 2 cosine, the mean over images

Each view is whitened in slices of `whitening_size` consecutive images of the global batch, which is
shuffled anew every epoch; the released code permutes it once more.
"""

import ml_collections

from iecl_jax.config.checks import POSITIVE
from iecl_jax.losses import whitening
from iecl_jax.losses.similarity import negative_cosine
from iecl_jax.methods.parts import online
from iecl_jax.methods.parts.method import Method, unmoved
from iecl_jax.models import collectives

SETTINGS = {"whitening_size": POSITIVE, **online.SETTINGS}


def make(
    config: ml_collections.ConfigDict, *, total_steps: int, axis_name: str | None = None
) -> Method:
    """See `methods.Method`."""
    network = online.make(config, axis_name)

    def loss(outputs):
        anchors, queries = (
            whitening.whiten(
                collectives.gather(outputs[name], axis_name), size=config.method.whitening_size
            )
            for name in ("anchor_projection", "query_projection")
        )
        return 2 + 2 * negative_cosine(anchors, queries), {}

    return Method(
        network.init, network.forward, loss, unmoved, network.encode, network.embed, schedules={}
    )
