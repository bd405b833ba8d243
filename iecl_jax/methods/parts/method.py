"""The type of a method, and the types of its arguments."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from jaxtyping import Array, Float, Float32, Int, Key

Tree = Any
Images: TypeAlias = Float32[Array, "B S S 3"]
Views: TypeAlias = Sequence[Float32[Array, "b _ _ 3"]]
Outputs: TypeAlias = dict[str, Array]
Step: TypeAlias = Int[Array, ""]
Scalar: TypeAlias = Float32[Array, ""]
Loss: TypeAlias = tuple[Scalar, dict[str, Scalar]]


def _unchanged(params: Tree, method_state: Tree, images: Images, *, train: bool = False) -> Images:
    return images


def _free(params: Tree) -> Tree:
    return params


class Part(NamedTuple):
    """How the optimizer treats a subtree of params["online"] that has rules of its own.

    Attributes:
      learning_rate: peak rate at batch size 256, scaled by the batch as the network's; None = that
        of the network.
      schedule: "cosine" is the network's schedule, "constant" the peak at every step.
      momentum, weight_decay: None = those of the network.
      frozen_steps: for so many steps, neither gradient, weight decay nor momentum act.
    """

    learning_rate: float | None = None
    schedule: str = "cosine"
    momentum: float | None = None
    weight_decay: float | None = None
    frozen_steps: int = 0


class NewEpoch(NamedTuple):
    """What a method does before each epoch, the first one included (clustering).

    Attributes:
      function: (params, method_state, key, features) -> (params, method_state). `features` is
        float32 [N, F], the pooled features of the N training images in their order, in evaluation
        mode and without augmentation, or None. It runs outside the pmapped step, as a whole on each
        device, so that its result does not depend on their number.
      encodes: whether `function` needs the features, which takes a pass over all images.
      title: what it does, for the console.
      first_only: whether it gets the features only before the first epoch.
    """

    function: Callable[..., tuple[Tree, Tree]]
    encodes: bool
    title: str
    first_only: bool = False


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
      forward: (params, method_state, views) -> (outputs, method_state), in training mode. It also
        gets what `reads` names, by keyword. The objective and the online linear probe read these
        outputs:
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
      reads: what `forward` gets by keyword: "index" (int32 [b], the number of each image in the
        training split), "step" (int32 [], 0-based), "epoch" (int32 [], 0-based), "keys" (typed
        PRNG keys [b], one per image, for dropout).
      constrain: params -> params. It runs after the optimizer's update, before `post_update`.
      optimizers: {name of a subtree of params["online"]: Part}.
      new_epoch: what happens before each epoch; None = nothing.
    """

    init: Callable[[Key[Array, ""], Views], tuple[Tree, Tree]]
    forward: Callable[..., tuple[Outputs, Tree]]
    loss: Callable[[Outputs], Loss]
    post_update: Callable[[Tree, Tree, Step], Tree]
    encode: Callable[[Tree, Tree, Images], Mapping[str, Float[Array, "B ..."]]]
    embed: Callable[[Tree, Tree, Views], Mapping[str, Float32[Array, "V b _"]]]
    schedules: Mapping[str, Callable[[Step], Scalar]]
    transform: Callable[..., Images] = _unchanged
    reads: tuple[str, ...] = ()
    constrain: Callable[[Tree], Tree] = _free
    optimizers: Mapping[str, Part] = {}
    new_epoch: NewEpoch | None = None


def unmoved(params: Tree, method_state: Tree, step: Step) -> Tree:
    """Returns the state as it is: the `post_update` of a method without a momentum network."""
    return method_state
