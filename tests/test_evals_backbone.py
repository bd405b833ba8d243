"""The encoder of a subject as a backbone: its settings, its folded kernels, what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_network

from iecl_jax.evals.parts import backbone
from iecl_jax.evals.parts.subject import Subject
from iecl_jax.models import build

PLAIN = {"precision": "float32", "remat": False, "output_stride": 32, "name": "job"}
OWN = """
from flax import linen as nn
from iecl_jax.config.section import Section

class Settings(Section):
    pass

class Flat(nn.Module):
    @nn.compact
    def __call__(self, x, *, train, num_views=1, running_views=1):
        return {"pooled": nn.Dense(3)(x.mean((1, 2))), "stage4": x}

def make(config, *, axis_name=None):
    return Flat()
"""


def subject(config):
    init = jax.jit(lambda key: build.encoder(config).init(key, jnp.zeros((2, 8, 8, 3)), train=True))
    variables = init(jax.random.key(0))
    params = {"online": {"encoder": variables["params"]}}
    stats = {"online": {"encoder": variables.get("batch_stats", {})}}
    return Subject(config, None, None, "", 0, params, stats)  # type: ignore[arg-type]


@pytest.mark.slow
def test_spectral_norms_are_divided_out_and_batch_norm_is_of_the_whole_batch():
    config = tiny_network.get_config()
    config.encoder.update({"stem": "imagenet", "num_stages": 2, "bn_group": 4})
    given = subject(config)
    found = backbone.of_subject(
        given, **PLAIN | {"precision": "bfloat16", "remat": True, "output_stride": 8}, stages=()
    )
    assert found.config.encoder.bn_group == 0
    assert (found.module.spectral_norm, found.module.remat) == (False, True)
    assert (found.module.output_stride, found.module.dtype) == (8, jnp.bfloat16)
    assert config.encoder.spectral_norm, "the subject stays as it is"
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 16, 16, 3)), jnp.float32)
    apply = jax.jit(functools.partial(build.encoder(config).apply, train=False))
    weights = given.params["online"]["encoder"], given.method_state["online"]["encoder"]
    before = apply({"params": weights[0], "batch_stats": weights[1]}, x)
    plain = found.module.copy(dtype=jnp.float32, axis_name=None)
    apply = jax.jit(functools.partial(plain.apply, train=False))
    after = apply({"params": found.params, "batch_stats": found.stats}, x)
    np.testing.assert_allclose(after["stage2"], before["stage2"], rtol=1e-4, atol=1e-5)


def test_an_encoder_that_does_not_fit_is_refused(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    config = tiny_network.get_config()
    config.encoder = {"name": str(tmp_path / "own.py"), "bn_group": 0}
    given = subject(config)
    for changes, stages, words in (
        ({"output_stride": 16}, (), r"job.output_stride=16 needs .*: set job.output_stride=32"),
        ({"remat": True}, (), r"job.remat=True needs .*: set job.remat=False"),
        ({}, ("stage3", "stage4"), r"job needs maps .*own.py does not return stage3: evaluate"),
    ):
        with pytest.raises(ValueError, match=words):
            backbone.of_subject(given, **PLAIN | changes, stages=stages)
    assert backbone.of_subject(given, **PLAIN, stages=("stage4",)).stats == {}
