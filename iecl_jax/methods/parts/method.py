"""The type of a method, and the types of its arguments."""

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
    """A method: pure functions of parameters, state and views.

    Views are a list: the anchor, the query, then any further views, none larger than the one
    before. Each holds the images of one device. The methods here use the first two, which have the
    same size S. SAIB transforms its views before `forward` gets them (`parts.saib`).

    `params` is what the optimizer updates. `method_state` is everything else that lasts: BN
    statistics, spectral-norm vectors, momentum network, queue. Both are nested dicts, and both hold
    the trained network under "online", with "encoder", "projector" and optionally "predictor" in
    it. A network without statistics has nothing in `method_state`, and checkpoints leave out what
    is empty.

    Attributes:
      init: (key, views) -> (params, method_state). It runs outside the pmapped step.
      forward: (params, method_state, views) -> (outputs, method_state), in training mode. The
        objective and the online linear probe read these outputs:
          features [b, F]: the encoder's features of a view without SAIB, for the probe;
          anchor_projection [b, d]: the online network's projection of the anchor;
          query_projection [b, d]: its projection of the query; may be missing if the weights of KL
            and entropy are 0.
        The methods here also return what their own `loss` reads, under these names:
          anchor_prediction, query_prediction [b, d]: predictions from the online projections;
          anchor_key, query_key [b, d]: the momentum network's projections of anchor and query;
          negatives [K, d]: the queue of MoCo;
          anchor_neighbor, query_neighbor [b, d]: rows of NNCLR's queue.
      loss: outputs -> (loss, terms). The mean of the loss over devices is the method's own loss of
        the global batch. The terms are unweighted values to log.
      post_update: (params, method_state, step) -> method_state. It runs after the optimizer's
        update of `step` (0-based) and moves the momentum network.
      encode: (params, method_state, images) -> {"pooled": [B, F], optionally "stage1", "stage2",
        ...} of the online encoder in evaluation mode.
      embed: (params, method_state, V views of size S) -> {"pooled": [V, b, F], "projection":
        [V, b, d]} of the online network in training mode. As in `forward`, each view has its own BN
        statistics, but no state changes: it is for measurements.
      schedules: {name: function of the step} to log (the EMA coefficient).
      transform: (params, method_state, images, train=False) -> images after SAIB, for pictures and
        measurements. SAIB uses its running BN statistics or, if `train` is True, those of the
        images. Without SAIB it returns the images as they are.
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
    """Returns the state as it is: the `post_update` of a method without a momentum network."""
    return method_state
