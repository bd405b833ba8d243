"""Non-maximum suppression, exact, in static shapes."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32

from iecl_jax.models.detection import boxes as boxes_lib


def nms(
    boxes: Float32[Array, "n 4"],
    scores: Float32[Array, "n"],
    valid: Bool[Array, "n"],
    threshold: float,
) -> Bool[Array, "n"]:
    """Returns which boxes greedy suppression keeps.

    It takes the boxes by falling score, equal scores by their place, and keeps a box unless its IoU
    with one already kept is above `threshold`. Boxes that are not `valid` are not kept and suppress
    nothing. Nothing has a gradient.

    All boxes are decided at once and again, until nothing changes: a box is kept unless one before
    it is kept and overlaps it. The first box is right after one round, and the k-th after k at the
    latest, so what no longer changes is the result of the greedy loop; few rounds suffice.
    """
    boxes, scores = jax.lax.stop_gradient((boxes, scores))
    place = jnp.arange(len(scores))
    above = scores[:, None] > scores[None, :]
    equal = scores[:, None] == scores[None, :]
    before = above | (equal & (place[:, None] < place[None, :]))
    suppresses = before & (boxes_lib.iou(boxes, boxes) > threshold)

    def decide(state):
        kept, _ = state
        decided = valid & ~(suppresses & kept[:, None]).any(0)
        return decided, (decided != kept).any()

    return jax.lax.while_loop(lambda state: state[1], decide, decide((valid, True)))[0]
