"""The training of an encoder with a head: schedules, optimizers, resuming, several devices."""

import functools
import os
import pathlib
import signal

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from iecl_jax.config import section
from iecl_jax.data import stream
from iecl_jax.evals.parts import training
from iecl_jax.evals.parts.subject import Subject
from iecl_jax.models import collectives
from iecl_jax.run import metrics_file
from iecl_jax.train.step import AXIS

pytestmark = pytest.mark.filterwarnings("ignore")  # TensorFlow's own


def settings(**changes):
    found = section.defaults(training.Training)
    found.update({"batch_size": 4, "num_steps": 6, "save_every_steps": 2, "eval_every_steps": 3})
    found.log_every_steps = 2
    found.update_from_flattened_dict(changes)
    return found


# ---------------------------------------------------------------- schedule and optimizer


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({}, lambda t: 0.99 * (1 - t / 10) ** 0.9 + 0.01),
        ({"schedule.power": 2.0}, lambda t: 0.99 * (1 - t / 10) ** 2 + 0.01),
        ({"schedule.decay": "cosine"}, lambda t: 0.99 * (1 + np.cos(np.pi * t / 10)) / 2 + 0.01),
        ({"schedule.decay": "drops"}, lambda t: 0.1 ** ((t >= 7) + (t >= 9.0))),
        (
            {"schedule.decay": "drops", "schedule.drop_at": (), "schedule.warmup_steps": 4},
            lambda t: min(1.0, (t + 1) / 4),
        ),
    ],
)
def test_the_learning_rate(changes, expected):
    rate = training.learning_rate(settings(**changes, num_steps=10))
    found = [float(rate(jnp.int32(t))) for t in range(10)]
    np.testing.assert_allclose(found, [0.01 * expected(t) for t in range(10)], rtol=1e-5)


@pytest.mark.parametrize("decay, clip", [("kernels", 0.0), ("all", 0.5)])
def test_sgd_is_pytorchs(decay, clip):
    """v = momentum v + clipped g + decay w; w = w - rate v."""
    chosen = settings(
        **{"optimizer.decay": decay, "optimizer.clip_norm": clip, "optimizer.weight_decay": 0.1}
    )
    rng = np.random.default_rng(0)
    params = {"kernel": rng.normal(size=(3, 2)), "bias": rng.normal(size=2)}
    tx = training.optimizer(chosen, lambda step: 0.1 / (1 + jnp.float32(step)))
    ours = jax.tree.map(jnp.float32, params)
    state = tx.init(ours)
    velocity = dict.fromkeys(params, 0.0)
    for step in range(3):
        gradient = {name: rng.normal(size=value.shape) for name, value in params.items()}
        updates, state = tx.update(jax.tree.map(jnp.float32, gradient), state, ours)
        ours = jax.tree.map(jnp.add, ours, updates)
        norm = np.sqrt(sum((g**2).sum() for g in gradient.values()))
        for name, g in gradient.items():
            g = g * min(1, clip / norm) if clip else g
            g = g + 0.1 * params[name] if decay == "all" or name == "kernel" else g
            velocity[name] = 0.9 * velocity[name] + g
            params[name] = params[name] - 0.1 / (1 + step) * velocity[name]
    for name, value in params.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-5)


# ---------------------------------------------------------------- the training


IMAGES, WIDTH = 12, 3


def example(index, step, place):
    rng = np.random.default_rng(index)
    x = np.float32(rng.normal(size=WIDTH))
    return {"x": x, "y": np.float32(x.sum() + 0.1 * step + place)}


def loss(params, stats, batch, keys):
    """A squared error with a mean of the batch, as BN has, and noise of each image."""
    noise = jax.vmap(lambda key: jax.random.normal(key, (WIDTH,)))(keys)
    x = batch["x"] + 0.1 * noise
    mean = collectives.mean(x.mean(0), AXIS)
    features = (x - mean[None]) @ params["encoder"]["kernel"]
    errors = (features * params["head"]["scale"]).sum(1) - batch["y"]
    value = jnp.square(errors).mean()
    new = {"encoder": {"mean": 0.9 * stats["encoder"]["mean"] + 0.1 * mean}, "head": {}}
    return value, (new, {"first_error": jnp.abs(errors).mean()})


def norm(params, stats):
    return {"norm": float(jnp.linalg.norm(stats["encoder"]["mean"]))}


def task(evaluate=norm, rates=None):
    rng = np.random.default_rng(0)
    return training.Task(
        name="line",
        title="Training a line",
        params={
            "encoder": {"kernel": np.float32(rng.normal(size=(WIDTH, 2)))},
            "head": {"scale": np.ones((1, 2), np.float32)},
        },
        stats={"encoder": {"mean": np.zeros(WIDTH, np.float32)}, "head": {}},
        loss=loss,
        open_batches=functools.partial(
            stream.of_examples, example, IMAGES, batch_size=4, seed=7, num_threads=2, prefetch=2
        ),
        images={"images": IMAGES, "digest": "x"},
        evaluate=evaluate,
        draw=lambda params, stats: {"square": np.zeros((4, 4, 3), np.uint8)},
        words={"norm": "norm of the mean"},
        rates=rates,
    )


def subject(folder, **changes):
    config = ml_collections.ConfigDict()
    return Subject(config, None, None, str(folder), 7, {}, {}, **changes)  # type: ignore[arg-type]


def reference(chosen, rates=(0.01, 0.01)):
    """The training in float64 on the whole batch, without devices: the final parameters."""
    start = task()
    kernel = np.float64(start.params["encoder"]["kernel"])
    scale, mean = np.float64(start.params["head"]["scale"][0]), np.zeros(WIDTH)
    velocity = [0.0, 0.0]
    steps_per_epoch = IMAGES // chosen.batch_size
    base = jax.random.split(jax.random.key(7))[1]
    for step in range(chosen.num_steps):
        epoch, number = divmod(step, steps_per_epoch)
        order = np.random.default_rng((7, epoch)).permutation(IMAGES)
        places = range(chosen.batch_size)
        indices = order[number * chosen.batch_size :][: chosen.batch_size]
        rows = [example(index, step, place) for index, place in zip(indices, places, strict=True)]
        keys = [jax.random.fold_in(jax.random.fold_in(base, step), place) for place in places]
        noise = np.stack([np.float64(jax.random.normal(key, (WIDTH,))) for key in keys])
        x = np.stack([np.float64(row["x"]) for row in rows]) + 0.1 * noise
        mean = 0.9 * mean + 0.1 * x.mean(0)
        x = x - x.mean(0)
        errors = (x @ kernel * scale).sum(1) - np.array([row["y"] for row in rows])
        of_errors = 2 * errors / len(errors)
        gradient = [x.T @ np.outer(of_errors, scale), (x @ kernel * of_errors[:, None]).sum(0)]
        share = 0.99 * (1 - step / chosen.num_steps) ** 0.9 + 0.01
        # A scale does not decay.
        gradient[0] += chosen.optimizer.weight_decay * kernel
        velocity = [0.9 * v + g for v, g in zip(velocity, gradient, strict=True)]
        kernel = kernel - rates[0] * share * velocity[0]
        scale = scale - rates[1] * share * velocity[1]
    return kernel, scale, mean


def test_it_trains_on_two_devices_as_the_formulas_do(tmp_path):
    chosen, work = settings(), subject(tmp_path)
    assert jax.local_device_count() == 2
    state, scores = training.train(work, task(), chosen)
    kernel, scale, mean = reference(chosen)
    np.testing.assert_allclose(state.params["encoder"]["kernel"], kernel, rtol=1e-4)
    np.testing.assert_allclose(state.params["head"]["scale"][0], scale, rtol=1e-4)
    np.testing.assert_allclose(state.method_state["encoder"]["mean"], mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(scores["norm"], np.linalg.norm(mean), rtol=1e-4)
    assert (work.work.steps, work.work.images) == (6, 24)
    [folder] = tmp_path.glob("training-*")
    lines = {line["step"]: line for line in metrics_file.read(folder)}
    assert [step for step, line in lines.items() if "eval/norm" in line] == [3, 6]
    assert {"line/loss", "line/first_error", "line/learning_rate", "line/grad_norm_head"} <= set(
        lines[6]
    )
    assert [path.name for path in folder.glob("square/*")] == ["00000006.png"]


def test_each_part_trains_at_its_own_rate(tmp_path):
    chosen, rates = settings(**{"optimizer.learning_rate": 1.0}), (0.02, 0.005)
    tree = {"encoder": {"kernel": rates[0]}, "head": {"scale": rates[1]}}
    of_each = jax.tree.map(np.float32, tree)
    state, scores = training.train(subject(tmp_path), task(rates=of_each), chosen)
    kernel, scale, _ = reference(chosen, rates)
    np.testing.assert_allclose(state.params["encoder"]["kernel"], kernel, rtol=1e-4)
    np.testing.assert_allclose(state.params["head"]["scale"][0], scale, rtol=1e-4)
    assert "learning_rate" not in scores
    last = np.mean([0.99 * (1 - step / 6) ** 0.9 + 0.01 for step in (4, 5)])
    np.testing.assert_allclose(scores["share_of_peak_rate"], last, rtol=1e-5)


def test_a_stopped_training_goes_on_bit_for_bit(tmp_path):
    chosen = settings()
    whole, _ = training.train(subject(tmp_path / "whole"), task(), chosen)
    calls = []

    def evaluate(params, stats):
        calls.append(1)
        if len(calls) == 1:  # at step 3, which is no step of a checkpoint
            os.kill(os.getpid(), signal.SIGTERM)
        return {"norm": float(jnp.linalg.norm(stats["encoder"]["mean"]))}

    with pytest.raises(SystemExit, match="75"):
        training.train(subject(tmp_path / "parts"), task(evaluate), chosen)
    resumed, scores = training.train(subject(tmp_path / "parts"), task(evaluate), chosen)
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)
    finished, again = training.train(subject(tmp_path / "parts"), task(), chosen)
    jax.tree.map(np.testing.assert_array_equal, finished, whole)
    assert again["norm"] == scores["norm"]


def test_what_cannot_go_on_is_refused(tmp_path):
    training.train(subject(tmp_path), task(), settings())
    for changes, words in (
        ({"batch_size": 6}, "line.batch_size was 4"),
        ({"optimizer.name": "adam"}, "line.optimizer.name was 'sgd'"),
        ({"num_steps": 4}, "has trained 6 steps already"),
    ):
        with pytest.raises(ValueError, match=words):
            training.check_resume(subject(tmp_path), task(), settings(**changes))
    training.check_resume(subject(tmp_path), task(), settings(num_steps=8))


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"batch_size": 3}, r"job.batch_size=3 must be a multiple of the 2 devices"),
        ({"batch_size": 14}, r"job.batch_size=14 is more than the 12 training images"),
        ({"schedule.warmup_steps": 6}, r"job.schedule.warmup_steps=6 must be less than .*=6"),
    ],
)
def test_what_does_not_fit_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        training.check("job", settings(**changes), IMAGES)


@pytest.mark.slow
def test_a_rate_that_is_too_high_is_named(tmp_path):
    chosen = settings(**{"optimizer.learning_rate": 1e38})
    with pytest.raises(FloatingPointError, match=r"Lower line.optimizer.learning_rate=1e\+38"):
        training.train(subject(tmp_path), task(), chosen)
    assert not list(pathlib.Path(tmp_path).glob("training-*/checkpoints/*/state"))


@pytest.mark.slow
def test_an_overflow_in_float16_changes_only_the_scale(tmp_path):
    state, scores = training.train(
        subject(tmp_path), task(), settings(precision="float16", num_steps=2)
    )
    assert state.dynamic_scale.scale == 2**16
    assert scores["loss_scale"] == 2**16
