"""Several steps in one call of the device, and blocks that are computed twice to save memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run

from iecl_jax.models.encoders.resnet import ResNet
from iecl_jax.train.experiment import build


def tiny_experiment(**train_settings):
    config = tiny_run.get_config()
    config.train.update(train_settings)
    return build(config, total_steps=1000, steps_per_epoch=100, num_classes=10)


@pytest.fixture(scope="module")
def experiment():
    return tiny_experiment(steps_per_call=4)


def random_batch(seed):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (2, 8, 8, 8, 3), np.uint8),
        "label": rng.integers(0, 10, (2, 8), np.int32),
    }


@pytest.mark.parametrize("count", [3, 4])
def test_steps_of_one_call_are_those_of_as_many_calls(experiment, count):
    batches = [random_batch(seed) for seed in range(count)]
    together, rows = experiment.steps(experiment.create_state(), batches)
    single = tiny_experiment(steps_per_call=1)
    state, singles = single.create_state(), []
    for batch in batches:
        state, metrics = single.steps(state, [batch])
        singles.append(jax.device_get(metrics))
    assert together.step == count
    for name, row in rows.items():
        assert row.shape == (4,)
        expected = [metrics[name][0] for metrics in singles]
        np.testing.assert_allclose(row[:count], expected, rtol=1e-4, atol=1e-6, err_msg=name)
        np.testing.assert_array_equal(row[count:], 0)
    for one, other in zip(jax.tree.leaves(together), jax.tree.leaves(state), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4 * np.abs(other).max() + 1e-8)


def test_blocks_computed_twice_change_no_value_and_keep_less():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8, 8, 3)), jnp.float32)
    results, kept = [], []
    for remat in (False, True):
        net = ResNet((2,), False, stem="cifar", width=4, spectral_norm=True, remat=remat)
        variables = jax.jit(functools.partial(net.init, train=True))(jax.random.key(0), x)

        def loss(params, net=net, variables=variables):
            outputs, state = net.apply(
                variables | {"params": params}, x, train=True, mutable=["batch_stats"]
            )
            return (outputs["pooled"] ** 2).sum(), (outputs, state)

        results.append(jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"]))
        residuals = jax.eval_shape(
            functools.partial(jax.vjp, has_aux=True),
            jax.tree_util.Partial(loss),
            variables["params"],
        )[1]
        kept.append(sum(leaf.size for leaf in jax.tree.leaves(residuals)))
    for one, other in zip(*(jax.tree.leaves(result) for result in results), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5 * np.abs(one).max())
    assert kept[1] < kept[0] / 2
