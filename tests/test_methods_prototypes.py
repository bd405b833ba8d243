"""The forward passes of SwAV and DINO: prototypes, queue, teacher, centre, temperature, alarms."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iecl_jax import config as config_lib
from iecl_jax import methods
from iecl_jax.configs import plug_and_play
from iecl_jax.methods import dino
from iecl_jax.methods.parts import prototypes

pytestmark = pytest.mark.quick

BATCH, QUEUE, WIDTH, COUNT, STEPS_PER_EPOCH = 4, 8, 3, 5, 2
TINY = {"num_layers": 1, "hidden_dim": 4, "output_dim": WIDTH, "output_bn": False}


def _config(name, **changes):
    config = plug_and_play.get_config(f"{name},smoke")
    encoder = str(pathlib.Path(__file__).parent / "tiny_pooled.py")
    config = config_lib.choose(config, {"encoder.name": encoder})
    config.projector.update(TINY)
    config.method.prototypes.count = COUNT
    config.train.batch_size = BATCH
    config.update_from_flattened_dict({f"method.{key}": x for key, x in changes.items()})
    return config


def _method(config, axis_name=None):
    return methods.make(
        config, total_steps=20, axis_name=axis_name, steps_per_epoch=STEPS_PER_EPOCH
    )


def _views(step):
    rng = np.random.default_rng(step)
    return list(jnp.asarray(rng.normal(size=(2, BATCH, 4, 4, 3)), jnp.float32))


def _unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("start_epoch", [0, 2])
def test_swav_assigns_the_batch_of_all_devices_and_then_the_full_queue(devices, start_epoch):
    config = _config("swav", queue_size=QUEUE, queue_start_epoch=start_epoch)
    axis_name = "devices" if devices > 1 else None
    method = _method(config, axis_name)
    params, state = _method(config).init(jax.random.key(0), _views(0))

    def forward(state, views, epoch):
        return method.forward(params, state, views, epoch=epoch)

    axes = (None, 0, None)
    step = jax.jit(jax.vmap(forward, axes, axis_name=axis_name, axis_size=devices))
    rows = np.asarray(params["online"]["prototypes"]["kernel"])
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)
    queues = np.zeros((2, QUEUE, WIDTH))
    for i in range(6):
        views = _views(i)
        epoch = jnp.int32(i // STEPS_PER_EPOCH)
        split = [view.reshape(devices, -1, 4, 4, 3) for view in views]
        outputs, states = step(state, split, epoch)
        embed = [np.asarray(outputs[f"{v}_projection"]) for v in ("anchor", "query")]
        embeddings = _unit(np.stack([rows.reshape(BATCH, WIDTH) for rows in embed]))
        expected = np.concatenate([embeddings, queues], axis=1) @ rows.T
        place = i * BATCH % QUEUE
        queues[:, place : place + BATCH] = embeddings
        used = i >= max(QUEUE // BATCH, start_epoch * STEPS_PER_EPOCH)
        for replica in range(devices):
            got = jax.tree.map(lambda leaf, replica=replica: leaf[replica], outputs)
            np.testing.assert_allclose(got["assigned_scores"], expected, rtol=1e-4, atol=1e-6)
            np.testing.assert_array_equal(got["counted"], [True] * BATCH + [used] * QUEUE)
            own = slice(replica * BATCH // devices, (replica + 1) * BATCH // devices)
            np.testing.assert_allclose(got["scores"], expected[:, own], rtol=1e-4, atol=1e-6)
        state = jax.tree.map(lambda leaf: leaf[0], states)
        for queue, view in zip(queues, ("anchor", "query"), strict=True):
            np.testing.assert_allclose(state["queue"][view]["keys"], queue, rtol=1e-4, atol=1e-6)


def test_swav_without_a_queue_counts_every_image():
    method = _method(_config("swav", queue_size=0))
    params, state = method.init(jax.random.key(0), _views(0))
    outputs, state = method.forward(params, state, _views(1), epoch=jnp.int32(0))
    assert "counted" not in outputs
    assert "queue" not in state
    assert outputs["assigned_scores"].shape == (2, BATCH, COUNT)
    np.testing.assert_allclose(outputs["assigned_scores"], outputs["scores"], rtol=1e-6)


def test_small_crops_are_predicted_and_not_assigned():
    rng = np.random.default_rng(0)
    both = {f"{v}_projection": jnp.float32(rng.normal(size=(4, 3))) for v in ("anchor", "query")}
    crops = jnp.float32(rng.normal(size=(3, 4, 3)))
    assert prototypes.projections(both).shape == (2, 4, 3)
    every = prototypes.projections(both | {"crop_projection": crops})
    np.testing.assert_array_equal(every[2:], crops)
    np.testing.assert_array_equal(every[1], both["query_projection"])


@pytest.mark.parametrize("normalization", ["projection", "gradient"])
def test_prototypes_keep_unit_length(normalization):
    """A step along the gradient changes their length, or the gradient is orthogonal to them."""
    config = _config("swav", **{"prototypes.normalization": normalization})
    heads = prototypes.make(config, steps_per_epoch=100)
    assert heads.optimizers["prototypes"].frozen_steps == 5
    params = heads.init(jax.random.key(1), {"online": {"encoder": {}}, "saib": {}})
    rng = np.random.default_rng(0)
    z = rng.normal(size=(6, WIDTH)) * rng.uniform(0.1, 10, (6, 1))
    weights = jnp.float32(rng.normal(size=(6, COUNT)))

    def weighted(subtree):
        scores = heads.scores(subtree, jnp.float32(z))
        return (weights * scores).sum(), scores

    gradient, scores = jax.jit(jax.grad(weighted, has_aux=True))(params["online"]["prototypes"])
    rows = np.asarray(params["online"]["prototypes"]["kernel"])
    np.testing.assert_allclose(scores, _unit(z) @ _unit(rows).T, rtol=1e-4, atol=1e-6)
    along = (np.asarray(gradient["kernel"]) * rows).sum(1)
    moved = jax.tree.map(lambda x: 3 * x, params)
    constrained = heads.constrain(moved)
    assert constrained.keys() == params.keys()
    assert constrained["online"].keys() == params["online"].keys()
    if normalization == "projection":
        assert abs(along).min() > 1e-2
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)
        np.testing.assert_allclose(constrained["online"]["prototypes"]["kernel"], rows, rtol=1e-6)
    else:
        np.testing.assert_allclose(along, 0, atol=1e-5)
        assert abs(rows).max() < 1 / np.sqrt(WIDTH)
        np.testing.assert_array_equal(constrained["online"]["prototypes"]["kernel"], 3 * rows)


def test_the_teacher_of_dino_follows_the_student_and_is_centred():
    config = _config("dino")
    config.method.ema.update({"schedule": "constant", "start": 0.75})
    method = _method(config)
    params, state = method.init(jax.random.key(0), _views(0))
    teacher = state["momentum"]["params"]
    assert teacher.keys() == params["online"].keys() == {"projector", "prototypes"}
    moved = jax.tree.map(lambda x: 2 * x + 1, params)
    np.testing.assert_array_equal(state["center"], np.zeros(COUNT))

    forward = jax.jit(functools.partial(method.forward, epoch=jnp.int32(3)))
    outputs, after = forward(moved, state, _views(1))
    images = np.stack([np.asarray(view).mean((1, 2)) for view in _views(1)])
    dense = teacher["projector"]["dense1"]
    embeddings = _unit(images @ np.asarray(dense["kernel"]) + np.asarray(dense["bias"]))
    expected = embeddings @ _unit(np.asarray(teacher["prototypes"]["kernel"])).T
    np.testing.assert_allclose(outputs["teacher_scores"], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(outputs["center"], state["center"])
    center = 0.1 * expected.mean((0, 1))
    np.testing.assert_allclose(after["center"], center, rtol=1e-4, atol=1e-6)
    later = forward(moved, after, _views(2))[1]["center"]
    given = forward(moved, after, _views(2))[0]["teacher_scores"]
    np.testing.assert_allclose(later, 0.9 * center + 0.1 * given.mean((0, 1)), atol=1e-6)

    follower = method.post_update(moved, after, jnp.int32(0))["momentum"]["params"]
    for a, b, c in zip(*map(jax.tree.leaves, (teacher, moved["online"], follower)), strict=True):
        np.testing.assert_allclose(c, 0.75 * a + 0.25 * b, rtol=1e-6)


def test_the_teachers_temperature_is_that_of_the_code():
    teacher = _config("dino").method.teacher
    teacher.update({"start_temperature": 0.04, "temperature": 0.07, "warmup_epochs": 30})
    expected = np.concatenate([np.linspace(0.04, 0.07, 30), np.full(4, 0.07)])
    got = [dino.teacher_temperature(teacher, jnp.int32(epoch)) for epoch in range(34)]
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    for epochs, first in ((0, 0.07), (1, 0.04)):
        teacher.warmup_epochs = epochs
        got = [dino.teacher_temperature(teacher, jnp.int32(epoch)) for epoch in (0, 1)]
        np.testing.assert_allclose(got, [first, 0.07], rtol=1e-6)


SWAV = {"assignment_entropy": 1.0, "mean_assignment_entropy": 1.6, "prototypes_used": 4.0}
DINO = {"teacher_entropy": 0.5, "mean_teacher_entropy": 1.5, "teacher_student_kl": 0.1}


@pytest.mark.parametrize(
    "method, changed, words",
    [
        ("swav", {}, None),
        ("swav", {"assignment_entropy": 1.609}, "1.61 nats"),
        ("swav", {"prototypes_used": 0.1}, "0 of 5 prototypes"),
        ("dino", {}, None),
        ("dino", {"teacher_entropy": 1.609}, "method.teacher.temperature"),
        ("dino", {"mean_teacher_entropy": 0.01}, "0.01 nats"),
    ],
)
def test_alarms_name_the_number_and_the_way_out(method, changed, words):
    metrics = {"swav": SWAV, "dino": DINO}[method] | changed
    found = methods.alarms(_config(method), metrics)
    assert len(found) == (words is not None)
    assert words is None or words in found[0]
    assert methods.alarms(_config(method), {}) == []
