"""The step as a whole, on two devices: what moves, what follows, and what is logged."""

import functools

import jax
import numpy as np
import pytest
import tiny_network

from iecl_jax.train.experiment import build
from iecl_jax.train.step import AXIS

STEPS = 4


@pytest.fixture(scope="module")
def experiment():
    return build(tiny_network.get_config(), total_steps=1000, steps_per_epoch=100, num_classes=10)


@pytest.fixture(scope="module")
def step(experiment):
    """(state, batch) -> (states, metrics), those of every replica."""
    pmapped = jax.pmap(
        experiment.pure_step,
        axis_name=AXIS,
        in_axes=(None, 0, None),
        out_axes=0,
        devices=jax.devices()[:2],
    )
    return lambda state, batch: jax.device_get(pmapped(state, batch, np.uint32(42)))


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (2, 8, 8, 8, 3), np.uint8),
        "label": rng.integers(0, 10, (2, 8)).astype(np.int32),
    }


def first(tree):
    return jax.tree.map(lambda leaf: leaf[0], tree)


@pytest.fixture(scope="module")
def initial(experiment):
    return jax.device_get(experiment.create_state())


@pytest.fixture(scope="module")
def two_device_run(initial, step, batch):
    """Every step's (states, metrics), on one batch again and again."""
    results, state = [], initial
    for _ in range(STEPS):
        results.append(step(state, batch))
        state = first(results[-1][0])
    return results


def test_the_probe_takes_its_first_step(two_device_run, batch):
    """From zero parameters every class has probability 0.1; the bias moves by -rate * gradient."""
    state, _ = first(two_device_run[0])
    share = np.bincount(batch["label"].ravel(), minlength=10) / 16
    rate = tiny_network.get_config().optimizer.probe_learning_rate
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
    objective = tiny_network.get_config().objective
    total = (
        metrics["info_nce"]
        + objective.kl.weight * metrics["kl"]
        - objective.entropy.weight * metrics["entropy"]
        + objective.saib_decay * metrics["saib_decay"]
    )
    np.testing.assert_allclose(metrics["loss"], total, rtol=1e-6)


def test_unlabelled_images_do_not_move_the_probe(initial, step, batch):
    state, metrics = first(step(initial, batch | {"label": np.full((2, 8), -1, np.int32)}))
    assert metrics["probe_loss"] == 0
    jax.tree.map(
        np.testing.assert_array_equal, state.params["online_probe"], initial.params["online_probe"]
    )


def test_views_of_the_gallery_are_those_of_the_step(experiment, batch):
    once, again, later = (experiment.views(step, first(batch)) for step in (3, 3, 4))
    assert [view.shape for view in once] == [(8, 8, 8, 3)] * 2
    for view, same, other in zip(once, again, later, strict=True):
        np.testing.assert_array_equal(view, same)
        assert not np.array_equal(view, other)
