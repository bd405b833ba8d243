"""Momentum contrast: passes, BN statistics, momentum encoder and queue, on one and two devices."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_resnet

from iecl_jax import methods
from iecl_jax.configs import imagenet_r50
from iecl_jax.methods.parts import ema
from iecl_jax.models.saib import SAIB

BATCH, SIDE, QUEUE = 8, 8, 16
PLAIN = {"saib.enabled": False, "objective.kl.weight": 0.0, "objective.entropy.weight": 0.0}


def _config(**settings):
    config = imagenet_r50.get_config("100,smoke")
    config.encoder.update(tiny_resnet.ENCODER | {"num_stages": 2})
    config.projector.update({"num_layers": 2, "hidden_dim": 8, "output_dim": 4})
    config.saib.group_size = 2
    config.update_from_flattened_dict(settings)
    return config


@functools.cache
def _method(*, axis_name=None, **settings):
    config = _config(**{name.replace("__", "."): value for name, value in settings.items()})
    return methods.make(config, total_steps=10, axis_name=axis_name)


@functools.cache
def _forward(**settings):
    return jax.jit(_method(**settings).forward)


def _plain_forward():
    """Q and K alone, one view each: SAIB, queue and a second pass of Q off."""
    return _forward(**{name.replace(".", "__"): value for name, value in PLAIN.items()})


def _random_like(shapes, seed):
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if leaf.dtype == jnp.int32:
            return np.zeros(leaf.shape, np.int32)
        positive = path[-1].key in ("var", "scale", "sigma")
        value = rng.uniform(0.5, 2, leaf.shape) if positive else rng.normal(size=leaf.shape)
        unit = path[-1].key in ("u", "keys")
        value = value / np.linalg.norm(value, axis=-1, keepdims=True) if unit else value
        return np.float32(value)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def _inputs(seed=0, **settings):
    """Random views, parameters and state (of the online and the momentum encoder unlike)."""
    views = np.random.default_rng(seed).normal(size=(2, BATCH, SIDE, SIDE, 3)).astype(np.float32)
    views = list(views)
    shapes = jax.eval_shape(_method(**settings).init, jax.random.key(0), views)
    return views, *_random_like(shapes, seed + 1)


def _without_saib(params, state):
    return {"online": params["online"]}, {k: state[k] for k in ("online", "momentum")}


def _transformed(params, state, query):
    """SAIB's training-mode output, from the module itself."""
    saib = SAIB(group_size=2, patch_size=4)
    apply = jax.jit(functools.partial(saib.apply, train=True, mutable=["batch_stats"]))
    got, new = apply({"params": params["saib"], "batch_stats": state["saib"]}, query)
    return np.asarray(got), new["batch_stats"]


def _assert_close(got, expected, rtol=1e-3, atol=1e-4):
    jax.tree.map(lambda a, b: None, got, expected)  # the same structure
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(expected)):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol, err_msg=jax.tree_util.keystr(path))


def _is_equal(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)))


def _is_running(path):
    return path[-1].key in ("mean", "var")


# ---------------------------------------------------------------- forward


@pytest.fixture(scope="module")
def separate():
    """Views, parameters and state, SAIB's output, and every pass made alone by plain MoCo."""
    views, params, state = _inputs()
    query, saib_stats = _transformed(params, state, views[1])
    plain_params, plain_state = _without_saib(params, state)
    forward = _plain_forward()
    on_anchor = forward(plain_params, plain_state, [views[0], query])
    on_query = forward(plain_params, plain_state, [query, views[0]])
    return views, params, state, saib_stats, on_anchor, on_query


def test_algorithm_1_is_three_separate_passes(separate):
    """q_anchor = Q(anchor), q_query = Q(g(query)), k_query = K(g(query)); Q's statistics move once,
    with the anchor's."""
    views, params, state, saib_stats, on_anchor, on_query = separate
    outputs, new = _forward()(params, state, views)
    expected = {
        "features": on_anchor[0]["features"],
        "anchor_projection": on_anchor[0]["anchor_projection"],
        "query_key": on_anchor[0]["query_key"],
        "query_projection": on_query[0]["anchor_projection"],
    }
    _assert_close(dict(outputs), expected)
    expected_state = {
        "online": on_anchor[1]["online"],
        "momentum": on_anchor[1]["momentum"],
        "saib": saib_stats,
    }
    _assert_close(new, expected_state)
    assert not _is_equal(new["online"], state["online"])
    momentum, new_momentum = state["momentum"], new["momentum"]
    assert _is_equal(new_momentum["params"], momentum["params"])
    assert not _is_equal(new_momentum["batch_stats"], momentum["batch_stats"])


def test_symmetric_with_running_statistics_of_both_passes(separate):
    views, params, state, _, on_anchor, on_query = separate
    outputs, new = _forward(
        method__symmetric=True,
        method__running_stats="both",
        objective__kl__weight=0.0,
        objective__entropy__weight=0.0,
    )(params, state, views)
    expected = {
        "features": on_anchor[0]["features"],
        "anchor_projection": on_anchor[0]["anchor_projection"],
        "query_key": on_anchor[0]["query_key"],
        "query_projection": on_query[0]["anchor_projection"],
        "anchor_key": on_query[0]["query_key"],
    }
    _assert_close(dict(outputs), expected)
    both = jax.tree.map(
        lambda a, b: (np.asarray(a) + np.asarray(b)) / 2, on_anchor[1], on_query[1]
    )  # running statistics are linear in those of a batch; u and sigma are equal in the two
    for name in ("online", "momentum"):
        _assert_close(new[name], both[name])
    anchor_alone = jax.tree_util.tree_leaves_with_path(on_anchor[1]["online"])
    for (path, a), b in zip(anchor_alone, jax.tree.leaves(new["online"])):
        assert np.allclose(a, b, rtol=1e-4, atol=1e-5) != _is_running(path), path


def test_plain_moco_makes_no_query_pass_and_no_saib():
    views, params, state = _inputs(method__queue_size=QUEUE, **_underscored(PLAIN))
    assert set(params) == {"online"}
    assert set(state) == {"online", "momentum", "queue"}
    shapes = jax.eval_shape(
        _method(method__queue_size=QUEUE, **_underscored(PLAIN)).forward, params, state, views
    )
    assert set(shapes[0]) == {"features", "anchor_projection", "query_key", "negatives"}
    method = _method(**_underscored(PLAIN))
    images = jnp.asarray(views[1])
    np.testing.assert_array_equal(method.transform(params, state, images), images)


def _underscored(settings):
    return {name.replace(".", "__"): value for name, value in settings.items()}


@pytest.mark.parametrize("weight", ["kl", "entropy"])
def test_a_query_pass_is_made_where_a_term_needs_it(weight):
    settings = _underscored(PLAIN) | {f"objective__{weight}__weight": 0.1}
    views, params, state = _inputs(**settings)
    outputs, _ = jax.eval_shape(_method(**settings).forward, params, state, views)
    assert "query_projection" in outputs


def test_the_view_without_saib_gives_running_statistics_and_probe_features():
    views, params, state = _inputs(saib__side="anchor")
    outputs, new = _forward(saib__side="anchor")(params, state, views)
    clean, expected = _plain_forward()(*_without_saib(params, state), views[::-1])
    _assert_close(new["online"], expected["online"])
    _assert_close(outputs["features"], clean["features"])
    _assert_close(outputs["query_projection"], clean["anchor_projection"])


# ---------------------------------------------------------------- devices and queue


def _run_steps(devices, num_steps):
    """Training forwards on `devices` devices: (outputs, state) of each step, global arrays."""
    settings = {"method__queue_size": QUEUE, "encoder__bn_group": 4}
    _, params, state = _inputs(**settings)
    method = _method(axis_name="devices", **settings)
    step = jax.pmap(
        method.forward,
        axis_name="devices",
        in_axes=(None, None, 0),
        devices=jax.devices()[:devices],
    )
    history, rng = [], np.random.default_rng(9)
    for _ in range(num_steps):
        views = rng.normal(size=(2, BATCH, SIDE, SIDE, 3)).astype(np.float32)
        outputs, states = jax.device_get(
            step(params, state, list(views.reshape(2, devices, -1, SIDE, SIDE, 3)))
        )
        for leaf in jax.tree.leaves(states):
            np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape))
        negatives = outputs.pop("negatives")[0]
        outputs = {name: x.reshape(BATCH, -1) for name, x in outputs.items()}
        previous, state = state, jax.tree.map(lambda leaf: leaf[0], states)
        history.append((outputs, negatives, previous, state))
    return history


def test_queue_and_two_devices():
    """New keys overwrite the oldest rows, in global order, after they were compared with."""
    runs = {devices: _run_steps(devices, num_steps=3) for devices in (1, 2)}
    for history in runs.values():
        for i, (outputs, negatives, previous, state) in enumerate(history):
            start = i * BATCH % QUEUE
            assert previous["queue"]["next"] == start
            np.testing.assert_array_equal(negatives, previous["queue"]["keys"])
            keys = outputs["query_key"].astype(np.float64)
            expected = previous["queue"]["keys"].copy()
            expected[start : start + BATCH] = keys / np.linalg.norm(keys, axis=1, keepdims=True)
            np.testing.assert_allclose(state["queue"]["keys"], expected, rtol=1e-4, atol=1e-6)
            assert state["queue"]["next"] == (start + BATCH) % QUEUE
    for one, two in zip(runs[1], runs[2]):
        _assert_close(two[0], one[0])
        _assert_close(two[3], one[3])


def test_both_keys_enter_the_queue_the_anchors_first():
    settings = {"method__queue_size": 2 * QUEUE, "method__enqueue": "both", **_underscored(PLAIN)}
    views, params, state = _inputs(**settings)
    outputs, new = _forward(**settings)(params, state, views)
    expected = state["queue"]["keys"].copy()
    for i, name in enumerate(("anchor_key", "query_key")):
        keys = np.float64(outputs[name])
        keys /= np.linalg.norm(keys, axis=1, keepdims=True)
        expected[i * len(keys) : (i + 1) * len(keys)] = keys
    np.testing.assert_allclose(new["queue"]["keys"], expected, rtol=1e-4, atol=1e-6)
    assert new["queue"]["next"] == 2 * len(views[0])
    assert "query_projection" not in outputs


SCHEDULES = {  # of a run of 10 steps, of 2 epochs, the first of which is the warm-up
    "constant": [0.3] * 4,
    "after_warmup": [0, 0, 0.3, 0.3],
    "cosine": [0, 0.15 * (1 - math.cos(0.4 * math.pi)), 0.15, 0.3],
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_smoothed_mass_follows_its_schedule(schedule):
    config = _config(**PLAIN, **{"method.smooth.k": 2, "method.smooth.schedule": schedule})
    config.method.smooth.mass, config.schedule.warmup_epochs = 0.3, 1.0
    method = methods.make(config, total_steps=10, steps_per_epoch=5)
    for step, expected in zip((0, 4, 5, 10), SCHEDULES[schedule], strict=True):
        value = method.schedules["smooth_mass"](jnp.int32(step))
        assert float(value) == pytest.approx(expected, abs=1e-6)
        assert value.dtype == jnp.float32
    rng = np.random.default_rng(0)
    outputs = dict(zip(("anchor_projection", "query_key"), rng.normal(size=(2, 8, 4)), strict=True))
    outputs = jax.tree.map(jnp.float32, outputs)
    if schedule == "constant":
        assert not method.reads
    else:
        assert method.reads == ("step",)
        outputs["smooth_mass"] = jnp.float32(0.3)
    constant = _config(**PLAIN, **{"method.smooth.k": 2, "method.smooth.mass": 0.3})
    expected = methods.make(constant, total_steps=10).loss(outputs)[0]
    np.testing.assert_allclose(method.loss(outputs)[0], expected, rtol=1e-6)


# ---------------------------------------------------------------- init, momentum, encode


def test_init_copies_the_online_encoder_and_ignores_the_batch():
    method = _method(method__queue_size=QUEUE, encoder__spectral_norm=False)
    views = np.random.default_rng(3).normal(size=(2, 4, SIDE, SIDE, 3)).astype(np.float32)
    params, state = jax.jit(method.init)(jax.random.key(0), list(views))
    momentum = state["momentum"]
    assert _is_equal(momentum["params"], params["online"])
    assert _is_equal(momentum["batch_stats"], state["online"])
    buffers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((params, state))]
    assert len(set(buffers)) == len(buffers)  # so that both can be donated
    assert set(params) == {"online", "saib"}
    keys = np.asarray(state["queue"]["keys"])
    assert keys.shape == (QUEUE, 4)
    np.testing.assert_allclose(np.linalg.norm(keys, axis=1), 1, rtol=1e-5)
    assert state["queue"]["next"] == 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(state["online"]):
        if path[-1].key == "mean":
            np.testing.assert_array_equal(leaf, np.zeros(leaf.shape))
    larger = jax.eval_shape(method.init, jax.random.key(0), [jnp.zeros((BATCH, SIDE, SIDE, 3))] * 2)
    assert jax.tree.map(jnp.shape, (params, state)) == jax.tree.map(lambda s: s.shape, larger)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_coefficient(schedule):
    config = _config().method.ema
    config.update({"schedule": schedule, "start": 0.9, "end": 0.99})
    fn = jax.jit(ema.coefficient(config, 40))
    for step in (0, 10, 20, 33, 40):
        expected = 0.9
        if schedule == "cosine":  # Grill et al. 2020: 1 - (1 - start) (cos(pi k / K) + 1) / 2
            expected = 0.99 - 0.09 * (math.cos(math.pi * step / 40) + 1) / 2
        assert float(fn(jnp.int32(step))) == pytest.approx(expected, abs=1e-6)
    assert fn(jnp.int32(0)).dtype == jnp.float32
    assert float(fn(jnp.int32(0))) == pytest.approx(0.9)
    assert float(fn(jnp.int32(40))) == pytest.approx(0.99 if schedule == "cosine" else 0.9)


def test_post_update_moves_the_momentum_parameters_alone():
    settings = {"method__ema__schedule": "cosine", "method__ema__start": 0.6}
    _, params, state = _inputs(**settings)
    method = _method(**settings)
    new = jax.jit(method.post_update)(params, state, jnp.int32(3))
    m = 1 - 0.4 * (math.cos(math.pi * 0.3) + 1) / 2
    expected = jax.tree.map(
        lambda k, q: m * np.float64(k) + (1 - m) * np.float64(q),
        state["momentum"]["params"],
        params["online"],
    )
    _assert_close(new["momentum"]["params"], expected, rtol=1e-5, atol=1e-6)
    assert _is_equal(new["momentum"]["batch_stats"], state["momentum"]["batch_stats"])
    assert _is_equal(new["online"], state["online"])
    assert _is_equal(new["saib"], state["saib"])
    assert float(method.schedules["ema"](jnp.int32(3))) == pytest.approx(m, rel=1e-6)


def test_encode_uses_the_online_encoder_with_running_statistics():
    views, params, state = _inputs()
    method = _method()
    encode = jax.jit(method.encode)
    images = views[0]
    outputs = encode(params, state, images)
    assert {"stage1", "stage2", "pooled"} == set(outputs)
    assert outputs["pooled"].dtype == jnp.float32
    np.testing.assert_allclose(outputs["pooled"], outputs["stage2"].mean((1, 2)), rtol=1e-5)

    other = images.copy()
    other[1:] += 1  # in training mode the first image would change too
    np.testing.assert_array_equal(encode(params, state, other)["pooled"][0], outputs["pooled"][0])

    moved = jax.tree.map(lambda leaf: leaf + 1 if leaf.dtype == np.float32 else leaf, state)
    same = encode(params, moved | {"online": state["online"]}, images)
    np.testing.assert_array_equal(same["pooled"], outputs["pooled"])
    changed = encode(params, state | {"online": moved["online"]}, images)
    assert abs(changed["pooled"] - outputs["pooled"]).max() > 1e-3


def test_transform_is_saib_in_evaluation_mode():
    views, params, state = _inputs()
    saib = SAIB(group_size=2, patch_size=4)
    variables = {"params": params["saib"], "batch_stats": state["saib"]}
    got, expected = jax.jit(
        lambda params, state, variables, x: (
            _method().transform(params, state, x),
            saib.apply(variables, x, train=False),
        )
    )(params, state, variables, views[1])
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert abs(got - views[1]).max() > 0.1
