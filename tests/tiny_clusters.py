"""A method that clusters images, with the smallest network: `--config=tests/tiny_clusters.py:NAME`.

An epoch is eight steps.
"""

import tiny_network

from iecl_jax.configs import plug_and_play


def get_config(name="deepcluster_v2"):
    config = plug_and_play.get_config(f"{name},smoke")
    tiny_network.plain_views(tiny_network.shrink(config))
    config.train.batch_size = 32
    config.eval.names = ()
    config.diagnostics.every_steps = 0
    return config
