"""The step as a whole: devices, replicas, state, precision."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import imagenet_r50
from iecl_jax.train.experiment import build
from iecl_jax.train.step import AXIS

STEPS = 8


def tiny_config(**train_settings):
    config = imagenet_r50.get_config("100,smoke")
    config.data.image_size = 16
    config.encoder.width = 4
    config.train.update(train_settings)
    return config


@functools.cache
def experiment(precision="float32"):
    config = tiny_config(precision=precision)
    return build(config, total_steps=1000, steps_per_epoch=100, num_classes=10)


def make_batch(devices):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (16, 16, 16, 3), np.uint8)
    labels = rng.integers(0, 10, 16).astype(np.int32)
    return {
        "image": images.reshape(devices, -1, 16, 16, 3),
        "label": labels.reshape(devices, -1),
    }


@functools.cache
def pmapped(devices, precision="float32"):
    """The step with every replica's result returned."""
    traces = []

    def counted(state, batch):
        traces.append(1)
        return experiment(precision).pure_step(state, batch, jnp.uint32(42))

    step = jax.pmap(
        counted, axis_name=AXIS, in_axes=(None, 0), out_axes=0, devices=jax.devices()[:devices]
    )
    return step, traces


def first(tree):
    return jax.tree.map(lambda leaf: leaf[0], tree)


@pytest.fixture(scope="module")
def initial():
    return jax.device_get(experiment().create_state())


@pytest.fixture(scope="module")
def two_device_run(initial):
    """Every step's replicated (state, metrics) on two devices, on one batch again and again."""
    step, _ = pmapped(2)
    results, state = [], initial
    for _ in range(STEPS):
        state, metrics = step(state, make_batch(2))
        results.append(jax.device_get((state, metrics)))
        state = first(results[-1][0])
    return results


def test_one_and_two_devices_take_the_same_step(initial, two_device_run):
    one_state, one_metrics = jax.device_get(first(pmapped(1)[0](initial, make_batch(1))))
    two_state, two_metrics = first(two_device_run[0])
    for name, value in one_metrics.items():
        np.testing.assert_allclose(two_metrics[name], value, rtol=2e-5, atol=1e-6, err_msg=name)
    leaves = jax.tree_util.tree_leaves_with_path(one_state)
    for (path, one), two in zip(leaves, jax.tree.leaves(two_state), strict=True):
        name = jax.tree_util.keystr(path)
        scale = np.abs(one).max()
        np.testing.assert_allclose(two, one, rtol=0, atol=2e-5 * scale + 1e-8, err_msg=name)


def test_replicas_stay_equal_bit_for_bit(two_device_run):
    for path, leaf in jax.tree_util.tree_leaves_with_path(two_device_run[-1]):
        np.testing.assert_array_equal(leaf[0], leaf[1], err_msg=jax.tree_util.keystr(path))


def test_the_step_compiles_once(two_device_run):
    del two_device_run
    assert len(pmapped(2)[1]) == 1


def test_the_probe_takes_its_first_step(two_device_run):
    """From zero parameters every class has probability 0.1; the bias moves by -rate * gradient."""
    state, _ = first(two_device_run[0])
    share = np.bincount(make_batch(1)["label"][0], minlength=10) / 16
    rate = tiny_config().optimizer.probe_learning_rate
    np.testing.assert_allclose(
        state.params["online_probe"]["bias"], -rate * (0.1 - share), atol=1e-6
    )


def test_every_metric_stays_finite(two_device_run):
    for _, metrics in two_device_run:
        assert all(np.isfinite(value).all() for value in metrics.values())


def test_what_moves_and_what_follows(initial, two_device_run):
    """The optimizer moves params; the statistics move; the momentum encoder is the EMA."""
    state, metrics = first(two_device_run[0])
    for name in ("online", "saib", "online_probe"):
        before, after = jax.tree.leaves(initial.params[name]), jax.tree.leaves(state.params[name])
        assert any((a != b).any() for a, b in zip(before, after, strict=True)), name
    for tree in ("online", "saib"):
        before = jax.tree_util.tree_leaves_with_path(initial.method_state[tree])
        after = jax.tree.leaves(state.method_state[tree])
        for (path, old), new in zip(before, after, strict=True):
            if path[-1].key not in ("u", "sigma"):  # may have converged
                assert (old != new).any(), jax.tree_util.keystr(path)
    m = metrics["ema"]
    followed = jax.tree.map(
        lambda k, q: m * k + (1 - m) * q,
        initial.method_state["momentum"]["params"],
        state.params["online"],
    )
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-8),
        state.method_state["momentum"]["params"],
        followed,
    )
    assert state.step == 1


def test_the_loss_is_the_weighted_sum_of_its_logged_terms(two_device_run):
    _, metrics = first(two_device_run[-1])
    objective = tiny_config().objective
    total = (
        metrics["info_nce"]
        + objective.kl.weight * metrics["kl"]
        - objective.entropy.weight * metrics["entropy"]
        + objective.saib_decay * metrics["saib_decay"]
    )
    np.testing.assert_allclose(metrics["loss"], total, rtol=1e-6)


def test_unlabelled_images_do_not_move_the_probe(initial):
    batch = make_batch(1)
    batch["label"][:] = -1
    state, metrics = jax.device_get(first(pmapped(1)[0](initial, batch)))
    assert metrics["probe_loss"] == 0
    jax.tree.map(
        np.testing.assert_array_equal, state.params["online_probe"], initial.params["online_probe"]
    )


def test_float16_skips_an_overflowing_step_and_recovers(two_device_run):
    step, _ = pmapped(1, "float16")
    initial = jax.device_get(experiment("float16").create_state())
    scale = initial.dynamic_scale.replace(scale=np.float32(2.0**40), fin_steps=np.int32(0))
    state, metrics = jax.device_get(
        first(step(initial.replace(dynamic_scale=scale), make_batch(1)))
    )
    assert metrics["skipped_step"] == 1
    jax.tree.map(np.testing.assert_array_equal, state.params, initial.params)
    jax.tree.map(np.testing.assert_array_equal, state.opt_state, initial.opt_state)
    assert state.dynamic_scale.scale < 2.0**40

    moderate = initial.dynamic_scale.replace(scale=np.float32(2.0**8), fin_steps=np.int32(2000))
    state, metrics = jax.device_get(
        first(step(initial.replace(dynamic_scale=moderate), make_batch(1)))
    )
    assert metrics["skipped_step"] == 0
    assert state.dynamic_scale.scale == 2.0**9  # grown after 2000 finite steps
    full = first(two_device_run[0])[1]
    for name in ("loss", "info_nce", "entropy"):
        np.testing.assert_allclose(metrics[name], full[name], rtol=0.02, err_msg=name)


def test_views_of_the_gallery_are_those_of_the_step():
    batch = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), make_batch(1))
    once = experiment().views(3, batch)
    again = experiment().views(3, batch)
    later = experiment().views(4, batch)
    np.testing.assert_array_equal(once, again)
    assert not np.array_equal(once, later)
    assert once.shape == (2, 16, 16, 16, 3)
