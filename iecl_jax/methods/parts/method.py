"""The type of a method."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from jaxtyping import Array, Float, Float32, Int, Key

Tree = Any
Images: TypeAlias = Float32[Array, "B S S 3"]
Views: TypeAlias = Sequence[Float32[Array, "b _ _ 3"]]
Outputs: TypeAlias = dict[str, Float32[Array, "_ _"]]
Step: TypeAlias = Int[Array, ""]
Scalar: TypeAlias = Float32[Array, ""]
Loss: TypeAlias = tuple[Scalar, dict[str, Scalar]]


def _unchanged(params: Tree, method_state: Tree, images: Images, *, train: bool = False) -> Images:
    return images


class Method(NamedTuple):
    """What a training step needs of a method. Views are a list: the anchor, the query, then any
    further ones, none larger than the one before; each has the images of one device. Every method
    here uses the first two, which have one size, S. What passes through SAIB has done so before a
    method's `forward` sees it (`parts.saib`).

    `params` is what the optimizer moves; `method_state` everything else that lasts: BN statistics,
    spectral-norm vectors, momentum encoder, queue. Both are nested dicts, and both hold the trained
    network under "online", with "encoder", "projector" and perhaps "predictor" in it. Networks
    without statistics have nothing in `method_state`, and a checkpoint drops what is empty.

    Attributes:
      init: (key, views) -> (params, method_state); runs outside the pmapped step.
      forward: (params, method_state, views) -> (outputs, method_state); training mode. Outputs that
        are known everywhere:
          features [b, F]: the encoder's of a view without SAIB, for the online linear probe;
          anchor_projection [b, d]: the online network's projection of the anchor;
          query_projection [b, d]: its projection of the query; may be left out where the weights
            of KL and entropy are 0.
        The methods here also return what their own `loss` reads, under these names:
          anchor_prediction, query_prediction [b, d]: the predictor's, of the online projections;
          anchor_key, query_key [b, d]: the momentum network's projections of anchor and query;
          negatives [K, d]: the queue of MoCo;
          anchor_neighbor, query_neighbor [b, d]: rows of NNCLR's queue.
      loss: outputs -> (loss, terms): what the method itself minimises, whose mean over devices is
        the loss of the global batch, and what else of it to log, unweighted.
      post_update: (params, method_state, step) -> method_state after the optimizer's update of
        `step` (0-based): the momentum encoder.
      encode: (params, method_state, images) -> {"pooled" [B, F], and any "stage1", "stage2", ...};
        evaluation mode, the online encoder.
      embed: (params, method_state, V views of size S) -> {"pooled" [V, b, F], "projection"
        [V, b, d]} of the online network in training mode, each view with BN statistics of its
        own, as `forward` has them; for measures, so nothing moves.
      schedules: name -> function of the step, logged (the EMA coefficient).
      transform: (params, method_state, images, train=False) -> SAIB's output, for pictures and
        measures, by its running BN statistics or, with train=True, by those of the images; the
        images themselves where SAIB is off.
    """

    init: Callable[[Key[Array, ""], Views], tuple[Tree, Tree]]
    forward: Callable[[Tree, Tree, Views], tuple[Outputs, Tree]]
    loss: Callable[[Outputs], Loss]
    post_update: Callable[[Tree, Tree, Step], Tree]
    encode: Callable[[Tree, Tree, Images], Mapping[str, Float[Array, "B ..."]]]
    embed: Callable[[Tree, Tree, Views], Mapping[str, Float32[Array, "V b _"]]]
    schedules: Mapping[str, Callable[[Step], Scalar]]
    transform: Callable[..., Images] = _unchanged


def unmoved(params: Tree, method_state: Tree, step: Step) -> Tree:
    """`post_update` of a method without a momentum encoder."""
    return method_state
