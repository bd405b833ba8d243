"""A config with a method of two matrices, which compiles in a second: `--config=tests/tiny_run.py`.

For tests of what goes on around the step. Its order, augmentation, gathered keys, checkpoints and
evaluation are those of any run.
"""

import jax
import jax.numpy as jnp

from iecl_jax.config.rules import POSITIVE
from iecl_jax.config.section import Section, key
from iecl_jax.configs import imagenet_r50
from iecl_jax.losses.contrastive import l2_normalize
from iecl_jax.methods.parts import contrast
from iecl_jax.methods.parts.method import Method, unmoved

FEATURES, PROJECTED = 6, 4


class Settings(Section):
    """Of InfoNCE."""

    temperature = key(0.2, POSITIVE, "of the logits")


def get_config():
    config = imagenet_r50.get_config("100,smoke")
    config.method = {"name": "tests/tiny_run.py", "temperature": 0.2}
    config.data.image_size = 8
    config.saib.enabled = False
    config.objective.kl.weight = config.objective.entropy.weight = 0.0
    for view in (config.augment.anchor, config.augment.query):
        view.jitter.prob = view.gray.prob = view.blur.prob = 0.0
    config.eval.every_epochs = config.eval.linear.num_epochs = 0
    config.diagnostics.every_steps = 0
    return config


def make(config, *, total_steps, axis_name=None):
    """InfoNCE of the query's projection against those of the anchors of all devices."""

    def init(key, views):
        encoder, projector = jax.random.split(key)
        pixels = views[0][0].size
        kernels = {
            "encoder": {"kernel": jax.random.normal(encoder, (pixels, FEATURES)) / pixels**0.5},
            "projector": {"kernel": jax.random.normal(projector, (FEATURES, PROJECTED))},
        }
        return {"online": kernels}, {"online": {"encoder": {"calls": jnp.zeros(())}}}

    def encode(params, state, images):
        flat = images.reshape(len(images), -1)
        return {"pooled": jnp.tanh(flat @ params["online"]["encoder"]["kernel"])}

    def project(params, views):
        pooled = jnp.stack([encode(params, None, view)["pooled"] for view in views])
        return pooled, pooled @ params["online"]["projector"]["kernel"]

    def forward(params, state, views):
        pooled, (anchor, query) = project(params, views[:2])
        outputs = {"features": pooled[0], "anchor_projection": anchor, "query_projection": query}
        return outputs, {"online": {"encoder": {"calls": state["online"]["encoder"]["calls"] + 1}}}

    def loss(outputs):
        query, anchor = (
            l2_normalize(outputs[f"{view}_projection"]) for view in ("query", "anchor")
        )
        value, top1 = contrast.info_nce(
            query, anchor, temperature=config.method.temperature, axis_name=axis_name
        )
        return value, {"info_nce_top1": top1}

    def embed(params, state, views):
        return dict(zip(("pooled", "projection"), project(params, views), strict=True))

    return Method(init, forward, loss, unmoved, encode, embed, schedules={})
