"""The objective of Eq. 17: InfoNCE + beta KL - lambda H + gamma R(SAIB).

The encoder's regulariser (eta) is spectral normalisation, a constraint inside `models.conv`, not a
term. Every term is returned unweighted beside the weighted sum.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import ml_collections

from iecl_jax import collectives
from iecl_jax.losses import contrastive, divergence, entropy

OUTPUTS = {
    "features": "encoder features of the anchor [b, F]",
    "projection": "q_anchor [b, d]",
    "query_projection": "q_query' = Q(SAIB(query)) [b, d]",
    "target_projection": "k_query = K(SAIB(query)), a constant [b, d]",
    "anchor_target_projection": "k_anchor = K(anchor), a constant [b, d]",
    "negatives": "queue of earlier keys [K, d]",
}
KL_FORMS = {"closed": divergence.closed, "eq16": divergence.eq16, "softmax": divergence.softmax}
STOP_GRADIENT = ("query", "anchor", "none")

Objective = Callable[[Mapping[str, jax.Array], Any], tuple[jax.Array, dict[str, jax.Array]]]


def estimators(config: ml_collections.ConfigDict) -> dict[str, Callable[[jax.Array], jax.Array]]:
    """The entropy estimators by name, with the settings of `objective.entropy`."""
    return {
        "coding_rate": lambda z: entropy.coding_rate(z, epsilon=config.epsilon),
        "gaussian_diagonal": entropy.gaussian_diagonal,
        "kozachenko_leonenko": lambda z: entropy.kozachenko_leonenko(z, neighbors=config.neighbors),
        "renyi2": lambda z: entropy.renyi2(z, kernel_scale=config.kernel_scale),
    }


def kernel_decay(params: Any) -> jax.Array:
    """R = 1/2 sum of squares of all kernels (leaves of two or more axes named conv*), float32."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    squares = [(leaf * leaf).sum() for path, leaf in leaves if "conv" in jax.tree_util.keystr(path)]
    return 0.5 * sum(squares[1:], squares[0])


def make(config: ml_collections.ConfigDict, *, axis_name: str | None = None) -> Objective:
    """Builds (outputs, params) -> (loss, terms) from `config.objective`.

    `outputs` are a method's (see OUTPUTS). InfoNCE is the mean over this device's anchors against
    all keys; KL and H are of the embeddings of all devices. Embeddings are l2-normalised, except
    for the softmax KL, which takes them raw. Terms: info_nce, info_nce_top1, and where their weight
    is positive kl, entropy (nats per dimension) and saib_decay.
    """
    settings = config.objective
    estimate = estimators(settings.entropy)[settings.entropy.estimator]
    divergence_of = KL_FORMS[settings.kl.form]

    def info_nce(anchor, key, negatives):
        return contrastive.info_nce(
            anchor,
            collectives.gather(key, axis_name),
            collectives.places(len(anchor), axis_name),
            temperature=settings.temperature,
            negatives=negatives,
        )

    def objective(outputs, params):
        with jax.default_matmul_precision("highest"):  # float32 on GPUs too, not TF32
            return in_float32(outputs, params)

    def in_float32(outputs, params):
        anchor, key = outputs["projection"], outputs["target_projection"]
        negatives = outputs.get("negatives")
        info, top1 = info_nce(anchor, key, negatives)
        if "anchor_target_projection" in outputs:  # symmetric: both directions are added
            other, _ = info_nce(
                outputs["query_projection"], outputs["anchor_target_projection"], negatives
            )
            info = info + other
        loss, terms = info, {"info_nce": info, "info_nce_top1": top1}

        if settings.kl.weight > 0:
            p, q = outputs["query_projection"], anchor
            if settings.kl.stop_gradient == "query":
                p = jax.lax.stop_gradient(p)
            elif settings.kl.stop_gradient == "anchor":
                q = jax.lax.stop_gradient(q)
            if settings.kl.form != "softmax":
                p, q = contrastive.l2_normalize(p), contrastive.l2_normalize(q)
            terms["kl"] = divergence_of(
                collectives.gather(p, axis_name), collectives.gather(q, axis_name)
            )
            loss = loss + settings.kl.weight * terms["kl"]
        if settings.entropy.weight > 0:
            z = contrastive.l2_normalize(outputs["query_projection"])
            terms["entropy"] = estimate(collectives.gather(z, axis_name))
            loss = loss - settings.entropy.weight * terms["entropy"]
        if "saib" in params and settings.saib_decay > 0:
            terms["saib_decay"] = kernel_decay(params["saib"])
            loss = loss + settings.saib_decay * terms["saib_decay"]
        return loss, terms

    return objective
