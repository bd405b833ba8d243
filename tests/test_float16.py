"""float16 with dynamic loss scaling: what an overflow leaves alone, and how near float32 it is.

The step runs on two devices with everything that it carries: spectral normalisation, SAIB, momentum
encoder and queue.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_network

from iecl_jax.train.experiment import build
from iecl_jax.train.step import AXIS

BATCH = 16
MODERATE = 2.0**8  # a loss scale at which the tiny network neither overflows nor underflows
MOMENTUM = 0.9
STEPS = 6


def get_config(precision):
    config = tiny_network.plain_views(tiny_network.get_config())
    config.method.queue_size = 2 * BATCH
    # Small steps: at 0.3 two runs of this network part within three steps, whatever the rounding.
    config.optimizer.update({"learning_rate": 0.03, "momentum": MOMENTUM})
    config.train.precision = precision
    return config


@functools.cache
def experiment(precision):
    return build(get_config(precision), total_steps=1000, steps_per_epoch=100, num_classes=10)


@functools.cache
def pmapped(precision):
    """The step on two devices; every replica's state goes in and comes out."""

    def step(state, batch):
        return experiment(precision).pure_step(state, batch, jnp.uint32(42))

    return jax.pmap(step, axis_name=AXIS, devices=jax.devices()[:2])


def take_step(precision, state, index=0):
    """(state, metrics) of one replica, after a check that both have the same, bit for bit."""
    replicated = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), state)
    results = jax.device_get(pmapped(precision)(replicated, make_batch(index)))
    for path, leaf in jax.tree_util.tree_leaves_with_path(results):
        np.testing.assert_array_equal(leaf[0], leaf[1], err_msg=jax.tree_util.keystr(path))
    return jax.tree.map(lambda leaf: leaf[0], results)


def make_batch(index):
    rng = np.random.default_rng(index)
    return {
        "image": rng.integers(0, 256, (2, BATCH // 2, 8, 8, 3), np.uint8),
        "label": rng.integers(0, 10, (2, BATCH // 2)).astype(np.int32),
    }


def scaled(state, scale, fin_steps=0):
    """The state with another loss scale, after `fin_steps` finite steps in a row."""
    dynamic_scale = state.dynamic_scale.replace(
        scale=np.float32(scale), fin_steps=np.int32(fin_steps)
    )
    return state.replace(dynamic_scale=dynamic_scale)


def moved(before, after):
    """The paths of the leaves that changed."""
    leaves = zip(jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True)
    return {
        jax.tree_util.keystr(path) for (path, old), new in leaves if not np.array_equal(old, new)
    }


@pytest.fixture(scope="module")
def history():
    """The float16 states after 0, 1 and 2 steps, none of them skipped."""
    states = [scaled(jax.device_get(experiment("float16").create_state()), MODERATE)]
    for index in range(2):
        state, metrics = take_step("float16", states[-1], index)
        assert metrics["skipped_step"] == 0
        states.append(state)
    return states


@pytest.fixture(scope="module")
def warm(history):
    """A state whose momentum, queue and statistics are not the initial ones."""
    return history[-1]


def test_an_accepted_step_moves_every_part_of_the_state(history):
    paths = moved(*history[1:])
    for part in (
        ".step",
        ".dynamic_scale.fin_steps",
        ".params['online']['encoder']",
        ".params['online']['projector']",
        ".params['saib']",
        ".params['online_probe']",
        ".opt_state",
        ".method_state['momentum']['params']",
        ".method_state['momentum']['batch_stats']",
        ".method_state['online']",
        ".method_state['saib']",
        ".method_state['queue']['keys']",
        ".method_state['queue']['next']",
    ):
        assert any(path.startswith(part) for path in paths), part
    for statistic in ("mean", "var", "u", "sigma"):
        assert any(path.endswith(f"['{statistic}']") for path in paths), statistic


def test_an_overflow_moves_only_the_step_and_the_loss_scale(warm):
    before = scaled(warm, 2.0**40, fin_steps=7)
    after, metrics = take_step("float16", before, index=2)
    assert moved(before, after) == {
        ".step",
        ".dynamic_scale.scale",
        ".dynamic_scale.fin_steps",
    }
    assert after.step == before.step + 1
    assert after.dynamic_scale.scale == 2.0**39
    assert after.dynamic_scale.fin_steps == 0
    assert metrics["skipped_step"] == 1
    assert metrics["loss_scale"] == 2.0**39
    assert np.isfinite(metrics["loss"])  # the forward pass does not see the scale


def test_the_scale_halves_until_the_gradients_fit_and_training_goes_on(warm):
    state = scaled(warm, 2.0**26)
    skipped = []
    while skipped[-2:] != [False, False]:
        assert len(skipped) < 20
        scale = state.dynamic_scale.scale
        state, metrics = take_step("float16", state, index=2 + len(skipped))
        skipped.append(bool(metrics["skipped_step"]))
        assert state.dynamic_scale.scale == (scale / 2 if skipped[-1] else scale)
        assert np.isfinite(metrics["loss"])
    assert skipped[:3] == [True, True, True]
    assert state.step == warm.step + len(skipped)
    assert state.dynamic_scale.fin_steps == 2


def test_the_scale_doubles_after_2000_finite_steps_and_the_next(warm):
    state, _ = take_step("float16", scaled(warm, MODERATE, fin_steps=1999), index=2)
    assert (state.dynamic_scale.scale, state.dynamic_scale.fin_steps) == (MODERATE, 2000)
    state, _ = take_step("float16", state, index=3)
    assert (state.dynamic_scale.scale, state.dynamic_scale.fin_steps) == (2 * MODERATE, 0)


def test_the_scale_never_falls_below_its_floor(warm):
    """The training loop gives up before that, below 1: see metric_log.check_finite."""
    state = scaled(warm, 2.0**-14)
    params = jax.tree.map(lambda leaf: np.full_like(leaf, np.inf), state.params["saib"])
    state = state.replace(params=state.params | {"saib": params})
    after, metrics = take_step("float16", state, index=3)
    assert metrics["skipped_step"] == 1
    assert after.dynamic_scale.scale == 2.0**-14


def gradients(before, after):
    """{subtree: gradient of the step, flat, plus the weight decay}, from the optimizer's traces."""
    found = {}
    for (_, old), (_, new) in zip(
        optax.tree.get_all_with_path(before.opt_state, "trace"),
        optax.tree.get_all_with_path(after.opt_state, "trace"),
        strict=True,
    ):
        gradient = jax.tree.map(lambda a, b: (b - MOMENTUM * a).ravel(), old, new)
        for name, tree in gradient.items():
            if leaves := jax.tree.leaves(tree):
                found[name] = np.concatenate(leaves)
    return found


def relative_error(got, expected):
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


def rounded(state):
    """The state with the weights of both networks and of SAIB rounded to float16."""

    def round_(tree):
        return jax.tree.map(lambda leaf: leaf.astype(np.float16).astype(np.float32), tree)

    momentum = state.method_state["momentum"]
    momentum = momentum | {"params": round_(momentum["params"])}
    return state.replace(
        params=round_(state.params), method_state=state.method_state | {"momentum": momentum}
    )


@pytest.mark.slow
def test_every_step_of_a_float32_run_is_the_same_in_float16():
    """From each state of the float32 run, both steps see the same images.

    The losses agree within 0.5 %, their terms within 1 %. A gradient jumps where a rounding flips
    the sign under a ReLU, so float32's own gradient moves by several percent when nothing but its
    weights are rounded to float16; that is the yardstick of float16's.
    """
    loss_scale = scaled(
        jax.device_get(experiment("float16").create_state()), MODERATE
    ).dynamic_scale
    state = jax.device_get(experiment("float32").create_state())
    errors, yardsticks = [], []
    for index in range(STEPS):
        half, half_metrics = take_step("float16", state.replace(dynamic_scale=loss_scale), index)
        full, full_metrics = take_step("float32", state, index)
        assert half_metrics["skipped_step"] == 0
        np.testing.assert_allclose(half_metrics["loss"], full_metrics["loss"], rtol=5e-3)
        for name in ("info_nce", "kl", "entropy", "saib_decay", "probe_loss"):
            np.testing.assert_allclose(
                half_metrics[name], full_metrics[name], rtol=1e-2, err_msg=name
            )
        of_weights, _ = take_step("float32", rounded(state), index)
        expected = gradients(state, full)
        assert set(expected) == {"online", "saib", "online_probe"}
        for list_, other in ((errors, half), (yardsticks, of_weights)):
            found = gradients(state, other)
            list_.append({name: relative_error(found[name], expected[name]) for name in found})
        state = full
    for name, limit in (("online", 0.15), ("saib", 0.25), ("online_probe", 5e-3)):
        error, yardstick = (np.mean([row[name] for row in rows]) for rows in (errors, yardsticks))
        assert error < 3 * yardstick, (name, error, yardstick)
        assert error < limit, name


def test_the_gradient_does_not_depend_on_the_loss_scale(warm):
    """Powers of two cancel exactly, but for what underflows at the smaller scale."""
    large, _ = take_step("float16", scaled(warm, MODERATE), index=2)
    small, _ = take_step("float16", scaled(warm, MODERATE / 16), index=2)
    for name, expected in gradients(warm, large).items():
        assert relative_error(gradients(warm, small)[name], expected) < 1e-3, name
