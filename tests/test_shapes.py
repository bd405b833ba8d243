"""The annotations of losses, models and methods hold in tests, and cost a user's run nothing."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import jaxtyping
import pytest

from iecl_jax.losses import contrastive, similarity
from iecl_jax.methods.parts import queue
from iecl_jax.models.mlp import MLP

WRONG = {
    "a loss, rows": lambda: similarity.negative_cosine(jnp.ones((3, 2)), jnp.ones((4, 2))),
    "a loss, type": lambda: contrastive.l2_normalize(jnp.ones((3, 2), jnp.int32)),
    "a model": lambda: MLP(1, 4, 4).init(jax.random.key(0), jnp.ones((2, 3, 4)), train=True),
    "a method": lambda: queue.enqueue({}, jnp.ones(3), None),
}


@pytest.mark.parametrize("call", WRONG.values(), ids=WRONG)
def test_a_wrong_shape_or_type_is_an_error(call):
    with pytest.raises(jaxtyping.TypeCheckError):
        call()


def test_a_run_checks_none():
    program = (
        "import sys, iecl_jax.methods.moco_v2, iecl_jax.models.build\n"
        "from iecl_jax.losses import contrastive\n"
        "assert 'beartype' not in sys.modules\n"
        "assert not hasattr(contrastive.info_nce, '__wrapped__')\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
