"""The objective of Eq. 17: a method's own loss + beta KL - lambda H + gamma R(SAIB).

The method's own loss is `Method.loss`, which is InfoNCE for IE-CL. Eq. 17 also regularises the
encoder (eta); here that is spectral normalisation, a constraint inside `models.conv` and not a term
of the loss. The terms are returned unweighted, besides the weighted sum.
"""

from collections.abc import Callable, Iterable

import jax
import ml_collections
from jaxtyping import Array, Float

from iecl_jax.losses import contrastive, divergence, entropy
from iecl_jax.methods.parts.method import Loss, Outputs, Scalar, Tree
from iecl_jax.models import collectives

KL_FORMS = {"closed": divergence.closed, "eq16": divergence.eq16, "softmax": divergence.softmax}
STOP_GRADIENT = ("query", "anchor", "none")

# {SAIB's side: [(output of a view that SAIB transforms, output of the other view)]}
PAIRS = {
    "query": [("query_projection", "anchor_projection")],
    "anchor": [("anchor_projection", "query_projection")],
    "both": [("query_projection", "anchor_projection"), ("anchor_projection", "query_projection")],
}

MethodLoss = Callable[[Outputs], Loss]
Objective = Callable[[Outputs, Tree], Loss]
Estimator = Callable[[Float[Array, "n d"]], Scalar]


def estimators(config: ml_collections.ConfigDict) -> dict[str, Estimator]:
    """Returns the entropy estimators by name; `config` is `config.objective.entropy`."""
    return {
        "coding_rate": lambda z: entropy.coding_rate(z, epsilon=config.epsilon),
        "gaussian_diagonal": entropy.gaussian_diagonal,
        "kozachenko_leonenko": lambda z: entropy.kozachenko_leonenko(z, neighbors=config.neighbors),
        "renyi2": lambda z: entropy.renyi2(z, kernel_scale=config.kernel_scale),
    }


def kernel_decay(params: Tree) -> Scalar:
    """Returns R, half the sum of squares of all kernels (the leaves named conv*)."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    squares = [(leaf * leaf).sum() for path, leaf in leaves if "conv" in jax.tree_util.keystr(path)]
    return 0.5 * sum(squares[1:], squares[0])


def make(
    config: ml_collections.ConfigDict, method_loss: MethodLoss, *, axis_name: str | None = None
) -> Objective:
    """Builds the objective from a method's own loss and `config.objective`.

    KL and H are computed from the projections of all devices. These are l2-normalised, except for
    the softmax KL. KL compares the view that SAIB transforms with the other view, and H is the
    entropy of the transformed one. If SAIB transforms both views, KL and H are means over both.

    Args:
      config: a pretraining config.
      method_loss: the function `Method.loss`.
      axis_name: the axis of the devices; None for a single device.

    Returns:
      A function (outputs, params) -> (loss, terms). `outputs` are those of `Method.forward`. The
      terms are method_loss, the terms of the method, and kl, entropy (nats per dimension) and
      saib_decay if their weight is above 0. The function raises ValueError if KL or entropy need a
      projection that the outputs lack.
    """
    settings = config.objective
    estimate = estimators(settings.entropy)[settings.entropy.estimator]
    divergence_of = KL_FORMS[settings.kl.form]
    pairs = PAIRS[config.saib.side]

    def objective(outputs: Outputs, params: Tree) -> Loss:
        compared = {}
        if settings.kl.weight > 0 or settings.entropy.weight > 0:
            _require_projections(outputs)
            compared = {name: outputs[name] for name in PAIRS["query"][0]}
            compared = collectives.gather(compared, axis_name)
        loss, terms = method_loss(outputs)
        terms = {"method_loss": loss} | terms
        if settings.kl.weight > 0:
            terms["kl"] = _mean(kl(compared[p], compared[q]) for p, q in pairs)
            loss = loss + settings.kl.weight * terms["kl"]
        if settings.entropy.weight > 0:
            terms["entropy"] = _mean(entropy_of(compared[p]) for p, _ in pairs)
            loss = loss - settings.entropy.weight * terms["entropy"]
        if "saib" in params and settings.saib_decay > 0:
            terms["saib_decay"] = kernel_decay(params["saib"])
            loss = loss + settings.saib_decay * terms["saib_decay"]
        return loss, terms

    def kl(p, q):
        if settings.kl.stop_gradient == "query":
            p = jax.lax.stop_gradient(p)
        elif settings.kl.stop_gradient == "anchor":
            q = jax.lax.stop_gradient(q)
        if settings.kl.form != "softmax":
            p, q = contrastive.l2_normalize(p), contrastive.l2_normalize(q)
        return divergence_of(p, q)

    def entropy_of(z):
        return estimate(contrastive.l2_normalize(z))

    return objective


def _require_projections(outputs: Outputs) -> None:
    for name in ("anchor_projection", "query_projection"):
        if name not in outputs:
            raise ValueError(
                f"the KL and entropy terms need the method's output {name!r}, but it has only "
                f"{', '.join(outputs)}: set their weights to 0, or let the method return it."
            )


def _mean(values: Iterable[Scalar]) -> Scalar:
    first, *others = values
    return sum(others, first) / (1 + len(others)) if others else first
