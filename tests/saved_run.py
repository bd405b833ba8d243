"""The folder of a run that never trained, for tests that need a checkpoint: it compiles nothing."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from iecl_jax import config as config_lib
from iecl_jax import methods
from iecl_jax.run.checkpoint import Checkpointer


def save(folder: pathlib.Path, config):
    """Writes a checkpoint of step 1 with random weights and statistics, which it returns."""
    generator = np.random.default_rng(config.seed)
    views = [
        jax.ShapeDtypeStruct((4, config.data.image_size, config.data.image_size, 3), jnp.float32)
        for _ in range(2)
    ]
    method = methods.make(config, total_steps=1)
    shapes = jax.eval_shape(lambda views: method.init(jax.random.key(0), views), views)

    def drawn(path, leaf):
        is_variance = jax.tree_util.keystr(path).endswith("['var']")
        values = generator.uniform(0.5, 2, leaf.shape)
        return (values if is_variance else values - 1.25).astype(leaf.dtype)

    params, method_state = jax.tree_util.tree_map_with_path(drawn, shapes)
    state = {"params": params, "method_state": method_state}
    saved = Checkpointer(folder, keep=1, keep_best=0, config=config)
    saved.save(1, state | {"step": np.int32(1)}, position=0, wait=True)
    saved.close()
    (folder / "config.json").write_text(config_lib.to_json(config))
    return state
