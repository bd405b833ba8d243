"""Optimizers against their definitions in float64 NumPy, schedule values and masks."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_vit

from iecl_jax.configs import imagenet_r50
from iecl_jax.train import optim

LEARNING_RATE = 0.05
DECAYED = {
    ("online", "encoder", "conv1", "kernel"),
    ("online", "encoder", "feature", "kernel"),
    ("online", "projector", "dense1", "kernel"),
    ("online", "projector", "dense2", "kernel"),
    ("online", "predictor", "dense1", "kernel"),
}
PREDICTOR = {
    ("online", "predictor", "dense1", "kernel"),
    ("online", "predictor", "bn1", "scale"),
    ("online", "predictor", "bn1", "bias"),
}


def _tree(seed):
    """Parameters (seed 0) or gradients with the nesting and numbers of axes of the real ones.

    The projector's dense2 starts at 0, SAIB's conv2 and the encoder's feature kernel have no
    gradient, and SAIB's positions are large.
    """
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return rng.normal(size=shape).astype(np.float32)

    is_params = np.float32(seed == 0)
    return {
        "online": {
            "encoder": {
                "conv1": {"kernel": draw(3, 3, 2, 4)},
                "bn1": {"scale": draw(4), "bias": draw(4)},
                "feature": {"kernel": is_params * draw(4, 3), "bias": draw(3)},
            },
            "projector": {
                "dense1": {"kernel": draw(3, 2)},
                "dense2": {"kernel": (1 - is_params) * draw(2, 2)},
            },
            "predictor": {
                "dense1": {"kernel": draw(2, 2)},
                "bn1": {"scale": draw(2), "bias": draw(2)},
            },
        },
        "saib": {
            "block1": {
                "conv1": draw(1, 1, 2, 2),
                "conv2": is_params * draw(1, 1, 2, 2),
                "positions": 10**is_params * draw(1, 3, 4, 1),
            }
        },
        "online_probe": {"kernel": draw(4, 5), "bias": draw(5)},
    }


def _leaves(tree):
    return {
        tuple(k.key for k in path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _config(**settings):
    config = imagenet_r50.get_config("100,smoke")
    config.optimizer.update({"weight_decay": 0.3, "momentum": 0.8, "probe_learning_rate": 0.2})
    config.optimizer.update({"trust_clip": False, "predictor_schedule": "cosine"})
    config.optimizer.update(settings)
    return config


def _run(config, num_steps=3, schedule=lambda step: LEARNING_RATE, params=None, decay=None):
    """Parameters after each step with the gradients `_tree(1)`, `_tree(2)`, ..."""
    tx = optim.make(config, schedule, decay=decay)

    @jax.jit
    def step(params, state, gradients):
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    params = params or _tree(0)
    state, history = tx.init(params), []
    for i in range(1, num_steps + 1):
        params, state = step(params, state, _gradients(params, i))
        history.append(_leaves(params))
    return history


def _gradients(params, step):
    """`_tree(step)` without the networks that `params` lacks."""
    tree = _tree(step)
    return {
        name: {part: tree[name][part] for part in parts} if name == "online" else tree[name]
        for name, parts in params.items()
    }


def _reference(rule, rate, num_steps=3, decay=lambda step: 0.3):
    """Every leaf after `rule(name, parameter, gradient, memory, step, rate)`, and its memory.

    `rate(name, step)` is the leaf's learning rate, and `decay(step)`, which is in the memory, the
    weight decay; steps count from 1.
    """
    memory: dict[tuple[str, ...], dict[str, Any]] = {}
    params = {name: np.float64(value) for name, value in _leaves(_tree(0)).items()}
    for i in range(1, num_steps + 1):
        gradients = _leaves(_tree(i))
        for name, value in params.items():
            slots, gradient = memory.setdefault(name, {}), np.float64(gradients[name])
            slots["decay"] = decay(i)
            if name[0] == "online_probe":
                params[name] = value - 0.2 * _momentum(slots, gradient)
            else:
                params[name] = rule(name, value, gradient, slots, i, rate(name, i))
    return params, memory


def _momentum(slots, gradient):
    """PyTorch's buffer: the first gradient, then momentum * buffer + gradient (no dampening)."""
    slots["buffer"] = 0.8 * slots["buffer"] + gradient if "buffer" in slots else gradient
    return slots["buffer"]


def _with_decay(name, value, gradient, slots):
    return gradient + slots["decay"] * value if name in DECAYED else gradient


def _sgd(name, value, gradient, slots, step, rate):
    return value - rate * _momentum(slots, _with_decay(name, value, gradient, slots))


def _adam_step(gradient, slots, step):
    slots["m"] = 0.8 * slots.get("m", 0) + 0.2 * gradient
    slots["v"] = 0.999 * slots.get("v", 0) + 0.001 * gradient**2
    return slots["m"] / (1 - 0.8**step) / (np.sqrt(slots["v"] / (1 - 0.999**step)) + 1e-8)


def _adam(name, value, gradient, slots, step, rate):
    """Kingma & Ba 2015 with L2 in the gradient (PyTorch's Adam)."""
    return value - rate * _adam_step(_with_decay(name, value, gradient, slots), slots, step)


def _adamw(name, value, gradient, slots, step, rate):
    decay = slots["decay"] * value if name in DECAYED else 0
    return value - rate * (_adam_step(gradient, slots, step) + decay)


def _lars(name, value, gradient, slots, step, rate):
    """optax.lars: v = momentum v + lr * eta |w| / |g + wd w| (g + wd w); w = w - v."""
    gradient = _with_decay(name, value, gradient, slots)
    w, g = np.linalg.norm(value), np.linalg.norm(gradient)
    ratio = 0.02 * w / g if value.ndim > 1 and w * g > 0 else 1
    return value - _momentum(slots, rate * ratio * gradient)


def _clipped_lars(name, value, gradient, slots, step, rate):
    """g' = min(eta |w| / (|g| + wd |w| + 1e-8) / lr, 1) (g + wd w); v = momentum v + g';
    w = w - lr v. As in Apex, g' = g (without decay) where w or g is 0."""
    w, g = np.linalg.norm(value), np.linalg.norm(gradient)
    if value.ndim > 1 and w * g > 0:
        trust = 0.02 * w / (g + (slots["decay"] * w if name in DECAYED else 0) + 1e-8)
        slots.setdefault("clipped", []).append(trust >= rate)
        ratio = 1 if trust >= rate else trust / rate
        gradient = ratio * _with_decay(name, value, gradient, slots)
    return value - rate * _momentum(slots, gradient)


def _larc(name, value, gradient, slots, step, rate):
    """Apex's LARC without clipping, of all parameters: g' = eta |w| / (|g| + wd |w| + 1e-8)
    (g + wd w), g' = g where w or g is 0; v = momentum v + g'; w = w - lr v. SAIB has no decay."""
    w, g = np.linalg.norm(value), np.linalg.norm(gradient)
    if w * g > 0:
        decay = slots["decay"] if name[0] == "online" else 0
        gradient = 0.02 * w / (g + decay * w + 1e-8) * (gradient + decay * value)
    return value - rate * _momentum(slots, gradient)


RULES = {
    "sgd": ({"name": "sgd"}, _sgd),
    "adam": ({"name": "adam"}, _adam),
    "adamw": ({"name": "adamw"}, _adamw),
    "lars": ({"name": "lars", "trust_coefficient": 0.02}, _lars),
    "lars, clipped": (
        {"name": "lars", "trust_coefficient": 0.02, "trust_clip": True},
        _clipped_lars,
    ),
    "larc of all": (
        {"name": "larc", "trust_coefficient": 0.02, "scaled": "all", "decay": "all"},
        _larc,
    ),
}


def _warmup_rate(step):
    return 0.2 * (step - 1) / 4  # 0 at the first step


@pytest.mark.parametrize("predictor_schedule", optim.PREDICTOR_SCHEDULES)
@pytest.mark.parametrize("rule", RULES)
def test_three_steps_of_warmup_against_the_definition(rule, predictor_schedule):
    settings, update = RULES[rule]
    config = _config(learning_rate=0.1, predictor_schedule=predictor_schedule, **settings)
    config.train.batch_size = 512
    config.schedule.warmup_epochs = 1.0
    schedule = optim.learning_rate(config, total_steps=8, steps_per_epoch=4)

    def rate(name, step):
        constant = name in PREDICTOR and predictor_schedule == "constant"
        return 0.2 if constant else _warmup_rate(step)

    promotion = "standard" if "adam" in rule else "strict"  # optax's adam promotes
    with jax.numpy_dtype_promotion(promotion):
        got = _run(config, schedule=schedule)[-1]
    expected, _ = _reference(update, rate)
    assert set(got) == set(expected)
    for leaf, value in expected.items():
        np.testing.assert_allclose(got[leaf], value, rtol=1e-4, atol=1e-5, err_msg=str(leaf))


@pytest.mark.parametrize("rule", RULES)
def test_the_weight_decay_may_follow_a_cosine(rule):
    """As in DINO, from wd to 10 wd over the 8 steps of the run: 0.3 (10 - 9 (1 + cos) / 2)."""
    settings, update = RULES[rule]
    config = _config(**settings)
    config.schedule.weight_decay_factor = 10.0

    def decay(step):
        return 0.3 * (10 - 4.5 * (1 + math.cos(math.pi * (step - 1) / 8)))

    promotion = "standard" if "adam" in rule else "strict"  # optax's adam promotes
    with jax.numpy_dtype_promotion(promotion):
        got = _run(config, decay=optim.decay_factor(config, total_steps=8))[-1]
    expected, _ = _reference(update, lambda name, step: LEARNING_RATE, decay=decay)
    for leaf, value in expected.items():
        np.testing.assert_allclose(got[leaf], value, rtol=1e-4, atol=1e-5, err_msg=str(leaf))
    assert optim.decay_factor(_config(), total_steps=8) is None


def test_the_reference_clips_some_kernels_and_not_others():
    _, memory = _reference(_clipped_lars, lambda name, step: _warmup_rate(step))
    clipped = {tuple(slots["clipped"]) for slots in memory.values() if "clipped" in slots}
    assert {(True, True, True), (True, False, False)} <= clipped  # all are, at a rate of 0


def test_the_gradient_of_each_parameter_is_limited_before_all_else():
    """As in DINO's code, each by itself, but not in the probe; momentum 0 shows the gradient."""
    config = _config(name="sgd", momentum=0.0, weight_decay=0.0, clip_norm=1.5)
    got, scales = _run(config, num_steps=1)[0], set()
    for name, value in _leaves(_tree(0)).items():
        gradient = np.float64(_leaves(_tree(1))[name])
        scale, rate = min(1, 1.5 / (np.linalg.norm(gradient) + 1e-6)), LEARNING_RATE
        if name[0] == "online_probe":
            scale, rate = 1, 0.2
        np.testing.assert_allclose(value - got[name], rate * scale * gradient, 1e-4, 1e-5)
        scales.add(scale < 1)
    assert scales == {True, False}


@pytest.mark.parametrize("rule", RULES)
def test_a_constant_predictor_that_is_absent_changes_nothing(rule):
    params = _tree(0)
    del params["online"]["predictor"]
    settings, _ = RULES[rule]
    with jax.numpy_dtype_promotion("standard"):
        runs = [
            _run(_config(predictor_schedule=schedule, **settings), 2, params=params)[-1]
            for schedule in optim.PREDICTOR_SCHEDULES
        ]
    assert not PREDICTOR & set(runs[0])
    jax.tree.map(np.testing.assert_array_equal, *runs)


def test_masks():
    masks = _leaves(optim.decayed(_tree(0)))
    assert {name for name, on in masks.items() if on} == DECAYED
    scaled = {name for name, on in _leaves(optim.scaled(_tree(0))).items() if on}
    assert scaled == {name for name, leaf in _leaves(_tree(0)).items() if leaf.ndim > 1}
    assert all(_leaves(optim.scaled(_tree(0), "all")).values())


@pytest.mark.parametrize("rule", ["sgd", "adamw", "lars, clipped"])
def test_norms_and_biases_decay_if_all_parameters_do(rule):
    settings = RULES[rule][0] | {"momentum": 0.0}
    with jax.numpy_dtype_promotion("standard"):
        kernels, everything = (
            _run(_config(decay=which, **settings), 1)[0] for which in ("kernels", "all")
        )
    before = _leaves(_tree(0))
    for leaf, value in before.items():
        further = leaf[0] == "online" and value.ndim == 1
        expected = kernels[leaf] - further * np.float32(LEARNING_RATE * 0.3) * value
        np.testing.assert_allclose(everything[leaf], expected, rtol=1e-4, atol=1e-6)


def test_of_a_vision_transformer_kernels_alone_decay_and_are_scaled():
    """Its positions, token and attention biases have two axes or more."""
    model = tiny_vit.VisionTransformer(patch=4, dim=8, num_heads=2, depth=1)
    images = jnp.zeros((1, 8, 8, 3))
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=True), images)
    params = {"online": {"encoder": variables["params"]}}
    expected = {("online", "encoder", "patches", "kernel")} | {
        ("online", "encoder", "attention0", part, "kernel")
        for part in ("query", "key", "value", "out")
    }
    several_axes = {name for name, leaf in _leaves(params).items() if leaf.ndim > 1}
    assert len(several_axes - expected) == 5  # three biases of the attention, positions, token
    for mask in (optim.decayed, optim.scaled):
        assert {name for name, on in _leaves(mask(params)).items() if on} == expected


@pytest.mark.parametrize(
    "name, is_kernel",
    [
        ("kernel", True),
        ("compositor", True),
        ("pos_embedding", False),
        ("position", False),
        ("relative_position_bias_table", False),
        ("mask_token", False),
        ("query_tokens", False),
        ("layer_scale", False),
        ("norm_weight", False),
        ("embedding", False),
    ],
)
def test_the_name_of_a_leaf_says_whether_it_is_a_kernel(name, is_kernel):
    decayed = optim.decayed({"online": {name: jnp.zeros((2, 3))}})
    assert decayed == {"online": {name: is_kernel}}


def test_the_probe_does_not_depend_on_the_main_optimizer():
    runs = [
        _run(_config(), schedule=lambda step: 0.0),
        _run(
            _config(name="lars", weight_decay=0.0, trust_coefficient=0.5), schedule=lambda step: 1.0
        ),
    ]
    for leaf in (("online_probe", "kernel"), ("online_probe", "bias")):
        np.testing.assert_array_equal(runs[0][-1][leaf], runs[1][-1][leaf])
    kernel = ("online", "encoder", "conv1", "kernel")
    np.testing.assert_array_equal(runs[0][-1][kernel], _leaves(_tree(0))[kernel])
    assert abs(runs[1][-1][kernel] - runs[0][-1][kernel]).max() > 0.1


def test_the_schedule_counts_steps_from_zero():
    history = _run(_config(weight_decay=0.0, momentum=0.0), 2, lambda step: jnp.float32(step))
    kernel = ("saib", "block1", "conv1")
    np.testing.assert_array_equal(history[0][kernel], _leaves(_tree(0))[kernel])
    expected = history[0][kernel] - _leaves(_tree(2))[kernel]
    np.testing.assert_allclose(history[1][kernel], expected, rtol=1e-6)


def test_saib_and_probe_may_be_absent():
    params = {"online": _tree(0)["online"]}
    tx = optim.make(_config(), lambda step: LEARNING_RATE)
    updates, _ = jax.jit(lambda p: tx.update(p, tx.init(p), p))(params)
    kernel = ("online", "encoder", "conv1", "kernel")
    expected = -LEARNING_RATE * 1.3 * _leaves(params)[kernel]
    np.testing.assert_allclose(_leaves(updates)[kernel], expected, rtol=1e-5)


def test_schedule_rates_reach_the_optimizer():
    config = _config(momentum=0.0, weight_decay=0.0)
    config.schedule.warmup_epochs = 1.0
    schedule = optim.learning_rate(config, total_steps=8, steps_per_epoch=2)
    history = _run(config, 2, schedule)
    kernel = ("saib", "block1", "positions")
    gradient = _leaves(_tree(2))[kernel]
    rate = 0.3 * 16 / 256 / 2  # half way through the warm-up
    np.testing.assert_allclose(
        history[1][kernel], history[0][kernel] - rate * gradient, rtol=1e-4, atol=1e-6
    )
