"""The loss of every method against a float64 loop over the global batch, on one and two devices.

The loops of tests/method_losses.py read their settings from the config; gradients are compared with
central finite differences of the loops. Two devices are a mapped axis.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_reference import numeric_gradient
from method_losses import (
    BATCH,
    CASES,
    CENTROIDS,
    HEADS,
    KEYS,
    LEVELS,
    NEIGHBORHOOD,
    NEIGHBORS,
    PREDICTED,
    SHAPES,
    TRAINED,
    WIDTH,
    product,
    unit,
)

from iecl_jax import config as config_lib
from iecl_jax import methods
from iecl_jax.config import kinds, section
from iecl_jax.configs import plug_and_play
from iecl_jax.methods import nnclr
from iecl_jax.methods.parts import queue

pytestmark = pytest.mark.quick

ON_TWO_DEVICES = [
    "moco_v2",
    "simclr",
    "byol",
    *{case.method: name for name, case in CASES.items()}.values(),
]


@functools.cache
def _config(name):
    config = plug_and_play.get_config(f"{CASES[name].method},smoke")
    config.method.update(CASES[name].settings)
    return config


def _loss(name, axis_name=None):
    return methods.make(_config(name), total_steps=10, axis_name=axis_name).loss


def _outputs(name):
    """Float64 rows of any length, alike for an image; slices of 4 are far from singular."""
    rng = np.random.default_rng(38)
    images = rng.normal(size=(BATCH, WIDTH)) * [0.4, 1.0, 1.6] + [0.5, 0.0, -1.0]
    found = {}
    rows = (*PREDICTED, *KEYS, *NEIGHBORS, *CENTROIDS, *NEIGHBORHOOD, *HEADS, *LEVELS)
    for output in rows:
        found[output] = images + rng.normal(size=images.shape) * [0.5, 0.8, 0.3]
    for output, shape in SHAPES.items():
        found[output] = rng.normal(size=shape)
    # All of the batch, and most of the queue.
    found["counted"] = np.arange(*SHAPES["counted"]) % 15 != 14
    found["teacher_temperature"] = np.array(0.2)
    found["weights"] = np.linspace(0.5, 2, WIDTH)
    found["labels"] = rng.integers(-1, WIDTH, SHAPES["labels"]).astype(np.int32)
    return {output: found[output] for output in CASES[name].outputs}


def _trained(outputs):
    """(what depends on the parameters, the rest)."""
    trained = {output: x for output, x in outputs.items() if output in TRAINED}
    return trained, {output: x for output, x in outputs.items() if output not in TRAINED}


def _reference(name, outputs):
    """(loss, terms) of the loop."""
    rows = {output: values.tolist() for output, values in outputs.items()}
    return CASES[name].reference(_config(name).method, rows)


def _float32(tree):
    """The same with float32 for float64."""
    return jax.tree.map(
        lambda x: jnp.asarray(x, jnp.float32 if x.dtype == np.float64 else x.dtype), tree
    )


@pytest.mark.parametrize("name", CASES)
def test_loss_terms_and_gradients_are_those_of_the_loop(name):
    case, outputs = CASES[name], _outputs(name)

    def of_trained(trained, rest):
        return _loss(name)(trained | rest)

    step = jax.jit(jax.value_and_grad(of_trained, has_aux=True))
    (loss, terms), gradients = step(*_float32(_trained(outputs)))
    expected, expected_terms = _reference(name, outputs)
    assert (loss.dtype, loss.shape) == (jnp.float32, ())
    assert set(terms) == set(expected_terms)
    np.testing.assert_allclose(loss, expected, rtol=1e-4)
    for term, value in expected_terms.items():
        assert (terms[term].dtype, terms[term].shape) == (jnp.float32, ())
        np.testing.assert_allclose(terms[term], value, rtol=1e-4, err_msg=term)
        assert 0 < value < 1 or not term.endswith("_top1")
    for output in gradients:

        def moved(x, output=output):
            return _reference(name, outputs | {output: x})[0]

        numeric = numeric_gradient(moved, outputs[output]) * (output not in case.constant)
        if numeric.any():
            np.testing.assert_allclose(gradients[output], numeric, rtol=1e-3, atol=1e-5)
            assert abs(numeric).max() > 1e-2, output
        else:
            np.testing.assert_array_equal(gradients[output], numeric, err_msg=output)


@pytest.mark.parametrize("name", ON_TWO_DEVICES)
def test_two_devices_are_the_loop_over_all_images(name):
    """Mean over devices of loss, terms and the gradient of a matrix that stands for the network."""
    case, outputs = CASES[name], _outputs(name)
    mixer = np.eye(WIDTH) + 0.3 * np.random.default_rng(1).normal(size=(WIDTH, WIDTH))

    def mixed(mixer, outputs, names):
        return {o: x @ mixer if o in names else x for o, x in outputs.items()}

    def loss(mixer, outputs):
        return _loss(name, "devices")(mixed(mixer, outputs, TRAINED))

    shapes = {output: SHAPES.get(output, (BATCH, WIDTH)) for output in outputs}
    axes = {o: shape.index(BATCH) if BATCH in shape else None for o, shape in shapes.items()}
    split = {
        o: x if axes[o] is None else np.stack(np.split(x, 2, axes[o]), axes[o])
        for o, x in outputs.items()
    }
    step = jax.value_and_grad(loss, has_aux=True)
    on_two = jax.jit(jax.vmap(step, in_axes=(None, axes), axis_name="devices"))
    (losses, terms), gradients = on_two(*_float32((mixer, split)))

    constant = mixed(mixer, outputs, case.constant)
    moving = set(TRAINED) - set(case.constant)
    expected, expected_terms = _reference(name, mixed(mixer, constant, moving))
    numeric = numeric_gradient(lambda m: _reference(name, mixed(m, constant, moving))[0], mixer)
    assert losses.shape == (2,)
    np.testing.assert_allclose(losses.mean(), expected, rtol=1e-4)
    for term, value in expected_terms.items():
        np.testing.assert_allclose(terms[term].mean(), value, rtol=1e-4, err_msg=term)
    np.testing.assert_allclose(gradients.mean(0), numeric, rtol=1e-3, atol=1e-5)
    assert abs(numeric).max() > 1e-2


def _program_at(name, key, value):
    """The loss of a case with another value of a setting, as text: the value is a constant in it.

    Its computation would compile each of its operations.
    """
    config = _config(name).copy_and_resolve_references()
    config.update_from_flattened_dict({f"method.{key}": value})
    method = methods.make(config, total_steps=10)
    program = jax.make_jaxpr(lambda outputs: method.loss(outputs)[0])(_float32(_outputs(name)))
    return str(program), [np.asarray(constant).tolist() for constant in program.consts]


def test_every_method_and_every_setting_of_a_loss_has_a_case():
    assert {case.method for case in CASES.values()} == set(kinds.names("method"))
    for method in kinds.names("method"):
        cases = [name for name, case in CASES.items() if case.method == method]
        for key, declared in section.keys(kinds.settings("method", method)).items():
            given = section.leaves(_config(cases[0]).method)[key]
            if isinstance(declared.default, float) and (
                _program_at(cases[0], key, given) != _program_at(cases[0], key, 0.7 * given)
            ):
                values = {section.leaves(_config(name).method)[key] for name in cases}
                assert len(values) > 1, (method, key)
        losses = sorted(_reference(name, _outputs(name))[0] for name in cases)
        assert all(high - low > 0.02 for low, high in itertools.pairwise(losses)), losses


def test_nearest_is_the_row_of_the_largest_cosine():
    rng = np.random.default_rng(0)
    rows = [unit(row) for row in rng.normal(size=(30, WIDTH))]
    support = jnp.asarray(rows, jnp.float32)
    z = rng.normal(size=(BATCH, WIDTH)) * rng.uniform(0.1, 10, (BATCH, 1))
    expected = []
    for row in z.tolist():
        cosines = [product(unit(row), other) for other in rows]
        expected.append(rows[cosines.index(max(cosines))])
    assert len(np.unique(expected, axis=0)) > BATCH // 2
    weights = _float32(rng.normal(size=z.shape))

    def weighted(z):
        found = nnclr.nearest(z, support)
        return (weights * found).sum(), found

    gradient, found = jax.jit(jax.grad(weighted, has_aux=True))(_float32(z))
    np.testing.assert_array_equal(found, np.asarray(expected, np.float32))
    np.testing.assert_array_equal(gradient, np.zeros_like(z))


@pytest.mark.parametrize("devices", [1, 2])
def test_the_queue_holds_the_newest_unit_rows_in_global_order(devices):
    """Seven batches of 4 in a queue of 12; the rows not overwritten yet are those of `init`."""
    rng = np.random.default_rng(2)
    batches = rng.normal(size=(7, 4, WIDTH)) * rng.uniform(0.1, 10, (7, 4, 1))
    state = queue.init(jax.random.key(0), 12, WIDTH)
    np.testing.assert_allclose(np.linalg.norm(state["keys"], axis=1), 1, rtol=1e-5)
    assert len(np.unique(state["keys"], axis=0)) == 12
    axis_name = "devices" if devices > 1 else None

    def enter(embeddings, state):
        entered = queue.enqueue(state, embeddings, axis_name)
        return entered["keys"].sum(), entered

    step = jax.grad(enter, has_aux=True)
    step = jax.jit(jax.vmap(step, in_axes=(0, None), axis_name=axis_name, axis_size=devices))
    expected = np.asarray(state["keys"]).tolist()
    for i, batch in enumerate(batches):
        gradient, states = step(_float32(batch.reshape(devices, -1, WIDTH)), state)
        np.testing.assert_array_equal(gradient, np.zeros_like(gradient))
        for j, row in enumerate(batch.tolist()):
            expected[(4 * i + j) % 12] = unit(row)
        for replica in range(devices):
            state = jax.tree.map(lambda leaf, replica=replica: leaf[replica], states)
            np.testing.assert_allclose(state["keys"], expected, rtol=1e-5, atol=1e-6)
            assert state["next"] == 4 * (i + 1) % 12
            assert state["next"].dtype == jnp.int32


@pytest.mark.parametrize("method", ["nnclr", "all4one"])
def test_a_queue_of_neighbours_longer_than_the_data_set_is_an_alarm(method):
    config = plug_and_play.get_config(f"{method},smoke")
    config.method.queue_size = 512
    config_lib.check(config, 1)
    config_lib.check_length(config, num_images=256, steps_per_epoch=16, total_steps=32)
    age = methods.make(config, total_steps=32, num_images=256).schedules["queue_epochs"]
    for step, epochs in ((0, 0.0), (8, 0.5), (16, 1.0), (24, 1.5), (40, 2.0)):
        metrics = {"queue_epochs": float(age(jnp.int32(step)))}
        assert metrics["queue_epochs"] == epochs
        alarms = methods.alarms(config, metrics)
        assert len(alarms) == (epochs > 1)
        assert all("lower method.queue_size=512" in alarm for alarm in alarms)
    assert methods.alarms(config, {}) == []  # before the first entry of the log
