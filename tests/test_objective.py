"""The objective: a weighted sum of terms, the same on two devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_objective import get_config, get_objective

from iecl_jax.losses import divergence, entropy
from iecl_jax.methods.parts import objective

FORMS = {"closed": divergence.closed, "eq16": divergence.eq16, "softmax": divergence.softmax}
PAIRS = [
    ("closed", "coding_rate", functools.partial(entropy.coding_rate, epsilon=0.4)),
    ("eq16", "gaussian_diagonal", entropy.gaussian_diagonal),
    ("softmax", "renyi2", functools.partial(entropy.renyi2, kernel_scale=1.5)),
    (
        "closed",
        "kozachenko_leonenko",
        functools.partial(entropy.kozachenko_leonenko, neighbors=2),
    ),
]


def _inputs(batch=8, queue=0, symmetric=False, seed=0):
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return rng.normal(size=shape).astype(np.float32)

    outputs = {
        name: draw(batch, 6) for name in ("anchor_projection", "query_projection", "query_key")
    }
    if symmetric:
        outputs["anchor_key"] = draw(batch, 6)
    if queue:
        outputs["negatives"] = draw(queue, 6)
    block = {"conv1": draw(1, 1, 2, 2), "bn1": {"scale": draw(2)}, "positions": draw(1, 3, 4, 1)}
    params = {
        "online": {"encoder": {"conv1": {"kernel": draw(3, 3, 3, 4)}}},
        "saib": {"block1": block, "block2": {"conv1": draw(1, 1, 2, 2), "conv2": draw(3, 3, 2, 4)}},
    }
    return outputs, params


def _unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def _info_nce(anchors, keys, temperature, negatives=None):
    """Mean of -log softmax at the own key, over the other keys or the queue, in float64."""
    anchors, keys = _unit(np.float64(anchors)), _unit(np.float64(keys))
    losses = []
    for i, anchor in enumerate(anchors):
        logits = keys @ anchor / temperature
        others = (
            logits if negatives is None else [logits[i], *(_unit(negatives) @ anchor / temperature)]
        )
        losses.append(np.log(np.exp(others).sum()) - logits[i])
    return np.mean(losses)


def _decay(params):
    """Half the squares of SAIB's kernels alone."""
    blocks = params["saib"]
    leaves = [blocks["block1"]["conv1"], blocks["block2"]["conv1"], blocks["block2"]["conv2"]]
    return 0.5 * sum((np.float64(leaf) ** 2).sum() for leaf in leaves)


@pytest.mark.parametrize("form, estimator, estimate", PAIRS)
def test_loss_is_the_weighted_sum_of_its_terms(form, estimator, estimate):
    config = get_config(**{"objective.kl.form": form, "objective.entropy.estimator": estimator})
    outputs, params = _inputs()
    loss, terms = jax.jit(get_objective(config))(outputs, params)
    p, q = outputs["query_projection"], outputs["anchor_projection"]
    if form == "softmax":
        kl = jax.jit(FORMS[form])(p, q)
    else:
        kl = jax.jit(FORMS[form])(_unit(p), _unit(q))
    expected = {
        "info_nce": _info_nce(q, outputs["query_key"], 0.3),
        "kl": float(kl),
        "entropy": float(jax.jit(estimate)(_unit(p))),
        "saib_decay": _decay(params),
    }
    assert set(terms) == {*expected, "info_nce_top1", "method_loss"}
    for name, value in expected.items():
        assert float(terms[name]) == pytest.approx(value, rel=1e-4, abs=1e-6), name
    weights = {"info_nce": 1, "kl": 0.7, "entropy": -0.4, "saib_decay": 0.02}
    total = sum(weight * expected[name] for name, weight in weights.items())
    assert float(loss) == pytest.approx(total, rel=1e-4, abs=1e-5)
    assert loss.dtype == jnp.float32


def test_weight_zero_removes_the_term():
    outputs, params = _inputs()
    full_loss, full = jax.jit(get_objective(get_config()))(outputs, params)
    for weight, term, scale in [
        ("kl.weight", "kl", 0.7),
        ("entropy.weight", "entropy", -0.4),
        ("saib_decay", "saib_decay", 0.02),
    ]:
        without = get_objective(get_config(**{f"objective.{weight}": 0.0}))
        loss, terms = jax.jit(without)(outputs, params)
        assert set(full) - set(terms) == {term}
        expected = float(full_loss) - scale * float(full[term])
        assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_info_nce_alone_needs_no_query_projection_and_no_saib():
    outputs, params = _inputs()
    del outputs["query_projection"], params["saib"]
    config = get_config(**{"objective.kl.weight": 0.0, "objective.entropy.weight": 0.0})
    loss, terms = jax.jit(get_objective(config))(outputs, params)
    assert set(terms) == {"info_nce", "info_nce_top1", "method_loss"}
    assert float(loss) == float(terms["info_nce"])


@pytest.mark.parametrize("queue", [0, 5])
def test_symmetric_adds_the_other_direction(queue):
    outputs, params = _inputs(queue=queue, symmetric=True)
    config = get_config(**{"method.symmetric": True, "method.queue_size": queue})
    _, terms = jax.jit(get_objective(config))(outputs, params)
    negatives = outputs.get("negatives")
    expected = _info_nce(outputs["anchor_projection"], outputs["query_key"], 0.3, negatives)
    expected += _info_nce(outputs["query_projection"], outputs["anchor_key"], 0.3, negatives)
    assert float(terms["info_nce"]) == pytest.approx(expected, rel=1e-5)


def test_names_are_those_of_the_switches():
    assert set(objective.KL_FORMS) == set(FORMS)
    assert set(objective.estimators(get_config().objective.entropy)) == {
        name for _, name, _ in PAIRS
    }


@pytest.mark.parametrize(
    "queue, form, estimator", [(5, *PAIRS[0][:2]), *((0, *pair[:2]) for pair in PAIRS[1:])]
)
def test_two_devices_are_one(queue, form, estimator):
    """Mean over devices of loss, terms and parameter gradients: the single-device values."""
    outputs, params = _inputs(queue=queue, symmetric=True)
    rng = np.random.default_rng(1)
    mixer = rng.normal(size=(6, 6)).astype(np.float32)  # stands for the network's parameters
    config = get_config(
        **{
            "method.symmetric": True,
            "method.queue_size": queue,
            "objective.kl.stop_gradient": "none",
            "objective.kl.form": form,
            "objective.entropy.estimator": estimator,
        }
    )

    def step(axis_name):
        fn = get_objective(config, axis_name)

        def loss(mixer, outputs, params):
            moved = {
                name: value @ mixer if name in ("anchor_projection", "query_projection") else value
                for name, value in outputs.items()
            }
            return fn(moved, params)

        return jax.value_and_grad(loss, has_aux=True)

    (loss, terms), gradient = jax.jit(step(None))(mixer, outputs, params)
    split = {
        name: value if name == "negatives" else value.reshape(2, 4, 6)
        for name, value in outputs.items()
    }
    axes = {name: None if name == "negatives" else 0 for name in outputs}
    on_two = jax.pmap(
        step("devices"), "devices", in_axes=(None, axes, None), devices=jax.devices()[:2]
    )
    (losses, split_terms), gradients = jax.device_get(on_two(mixer, split, params))
    np.testing.assert_allclose(losses.mean(0), loss, rtol=1e-5)
    np.testing.assert_allclose(gradients.mean(0), gradient, rtol=1e-3, atol=1e-5)
    for name, value in terms.items():
        np.testing.assert_allclose(split_terms[name].mean(0), value, rtol=1e-5, atol=1e-7)
    for name in ("kl", "entropy", "saib_decay"):  # of all embeddings, on every device
        np.testing.assert_allclose(split_terms[name][0], split_terms[name][1], rtol=1e-6)
