"""What every method must do, with SAIB and without; the files that enrol them import all of it.

The bfloat16 steps, twenty compilations more, are slow tests: `pytest -m slow tests/test_conf*.py`.

A module that does `from conformance import *` gives a module fixture `case`: a Case of each method.
"""

import dataclasses
import functools
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_network

from iecl_jax import config as config_lib
from iecl_jax import methods
from iecl_jax.configs import methods as recipes
from iecl_jax.configs import plug_and_play
from iecl_jax.run import programs
from iecl_jax.run.checkpoint import Checkpointer
from iecl_jax.train import experiment
from iecl_jax.train.step import AXIS

__all__ = [
    "test_a_bfloat16_step_stays_finite",
    "test_a_restored_checkpoint_goes_on_bit_for_bit",
    "test_evaluation_looks_at_each_image_alone",
    "test_its_programs_can_be_kept",
    "test_no_gradient_reaches_the_momentum_network",
    "test_replicas_stay_equal_bit_for_bit",
    "test_statistics_move_in_training",
    "test_the_loss_falls_on_a_fixed_batch",
    "test_the_step_compiles_once",
]

STEPS, BATCH, SIDE = 3, 16, 8
# A head without BN, and so low temperatures, take small steps.
LEARNING_RATES = {"dino": 0.01, "light_moco": 0.04}
OWN_METHOD = '''
"""Pulls the projections of both views together, and away from the mean of all."""

import jax.numpy as jnp

from iecl_jax.models import collectives
from iecl_jax.config.rules import POSITIVE
from iecl_jax.config.section import key
from iecl_jax.losses.contrastive import l2_normalize
from iecl_jax.methods.parts import online
from iecl_jax.methods.parts.method import Method, unmoved


class Settings(online.Settings):
    """See `methods.parts`, and its own."""

    spread = key(0.5, POSITIVE, "weight of the centre's length")


def make(config, *, total_steps, axis_name=None):
    network = online.make(config, axis_name)

    def loss(outputs):
        anchor, query = (
            collectives.gather(l2_normalize(outputs[name]), axis_name)
            for name in ("anchor_projection", "query_projection")
        )
        center = jnp.square(anchor.mean(0)).sum()
        value = jnp.square(anchor - query).sum(1).mean() + config.method.spread * center
        return value, {"center": center}

    return Method(
        network.init, network.forward, loss, unmoved, network.encode, network.embed, schedules={}
    )
'''


def tiny_config(name: str, *, saib: bool, crops: bool = False, **overrides: Any):
    """The recipe of a method, or the method of a file, with the smallest networks."""
    recipe = name if name in recipes.NAMES else "simclr"
    additions = ("+saib" if saib else "") + ("+crops" if crops else "")
    config = plug_and_play.get_config(f"{recipe}{additions},smoke")
    if recipe != name:  # a method without a recipe, with the defaults that its file declares
        config = config_lib.choose(config, {"method.name": name})
    tiny_network.plain_views(tiny_network.shrink(config))
    config.objective.kl.stop_gradient = "none"  # so that the loss is what its gradient lowers
    # So wide that no image loses all hidden units, and with them the direction of its embedding.
    config.projector.update({"num_layers": 2, "hidden_dim": 32, "output_dim": 6})
    if "predictor" in config.method:
        config.method.predictor.hidden_dim = 32
    config.optimizer.learning_rate = LEARNING_RATES.get(name, 0.16)  # 0.01 at this batch
    if "transformer" in config.method:
        config.method.transformer.num_heads = 2
    if config.optimizer.name == "adam":  # optax's is not for the strict promotion of the tests
        config.optimizer.name = "sgd"
    config.update_from_flattened_dict(overrides)
    return config


@dataclasses.dataclass
class Case:
    """A method at work: `step(state)` is (states, metrics) of both replicas on one fixed batch."""

    config: Any
    built: experiment.Experiment
    step: Callable[[Any], Any]
    traces: list[int]
    initial: Any
    history: list[Any]


def first(tree: Any) -> Any:
    """Replica 0, on the host."""
    return jax.tree.map(lambda leaf: leaf[0], jax.device_get(tree))


def make_case(config: Any, *, steps: int = STEPS) -> Case:
    """Builds and runs a few steps on two devices."""
    config_lib.check(config, 2)
    # Runs with other seeds share the programs, so nothing that builds them may read the seed.
    without = config.copy_and_resolve_references()
    with without.unlocked():
        del without.seed
    built = experiment.build(without, total_steps=1000, steps_per_epoch=100, num_classes=10)
    built = dataclasses.replace(built, config=config)
    traces: list[int] = []

    def counted(state, batch):
        traces.append(1)
        return built.pure_step(state, batch, np.uint32(config.seed))

    pmapped = jax.pmap(
        counted, axis_name=AXIS, in_axes=(None, 0), out_axes=0, devices=jax.devices()[:2]
    )
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (2, BATCH // 2, SIDE, SIDE, 3), np.uint8),
        "label": rng.integers(0, 10, (2, BATCH // 2)).astype(np.int32),
        "index": np.arange(BATCH, dtype=np.int32).reshape(2, -1),
    }
    state = built.create_state()
    pooled = jax.eval_shape(
        built.method.encode, state.params, state.method_state, jnp.zeros((1, SIDE, SIDE, 3))
    )["pooled"]
    features = rng.normal(size=(BATCH, pooled.shape[-1])).astype(np.float32)
    initial = jax.device_get(built.begin_epoch(state, 0, lambda *_: features))
    case = Case(config, built, lambda state: pmapped(state, batch), traces, initial, [])
    state = initial
    for _ in range(steps):
        states, metrics = case.step(state)
        case.history.append((states, first(metrics)))
        state = first(states)
    return case


def cases(saib: bool, quick: Collection[str] = (), slow: Collection[str] = ()):
    """A module fixture: a Case of every method in turn, one of them in a folder of its own.

    Those that are in `slow`, or not in `quick` unless that is empty, are slow tests.
    """
    names = (*recipes.METHODS, "a file")
    late = {name for name in names if name in slow or (quick and name not in quick)}
    params = [pytest.param(name, marks=[pytest.mark.slow] * (name in late)) for name in names]

    @pytest.fixture(scope="module", params=params)
    def case(request, tmp_path_factory):
        name = request.param
        if name == "a file":
            path = tmp_path_factory.mktemp("elsewhere") / "own_method.py"
            path.write_text(OWN_METHOD)
            name = str(path)
        return make_case(tiny_config(name, saib=saib))

    return case


def test_the_loss_falls_on_a_fixed_batch(case):
    """Only parameters move: views, targets, queue and statistics are those of the first step."""
    losses, state = [], case.initial
    for _ in range(5):
        moved, metrics = first(case.step(state))
        losses.append(float(metrics["loss"]))
        state = case.initial.replace(params=moved.params)
    assert losses[-1] < min(losses[0], losses[1]), losses


def test_replicas_stay_equal_bit_for_bit(case):
    for path, leaf in jax.tree_util.tree_leaves_with_path(case.history[-1]):
        if np.ndim(leaf):
            np.testing.assert_array_equal(leaf[0], leaf[-1], err_msg=jax.tree_util.keystr(path))


def test_the_step_compiles_once(case):
    assert len(case.traces) == 1


def test_its_programs_can_be_kept(case):
    """Their arguments and results, see `run.programs`."""
    assert programs.write(jax.jit(lambda state: state), case.initial)


def test_no_gradient_reaches_the_momentum_network(case):
    """It is no part of what is trained, and a constant to what is."""
    state = jax.tree.map(jnp.asarray, case.initial)
    assert "momentum" not in state.params
    momentum = state.method_state.get("momentum", {"params": {}})
    drawn = np.random.default_rng(1).normal(size=(2, BATCH, SIDE, SIDE, 3))
    views = list(jnp.asarray(drawn, jnp.float32))
    method = methods.make(case.config, total_steps=10)
    facts = {"index": jnp.arange(BATCH), "step": jnp.int32(0), "epoch": jnp.int32(0)}
    facts |= {"keys": jax.random.split(jax.random.key(0), BATCH)}
    facts = {name: facts[name] for name in method.reads}

    @jax.jit
    def gradient(params):
        def loss(params):
            changed = state.method_state | {"momentum": momentum | {"params": params}}
            return method.loss(method.forward(state.params, changed, views, **facts)[0])[0]

        return jax.grad(loss)(params)

    if momentum["params"]:
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradient(momentum["params"])):
            assert not leaf.any(), jax.tree_util.keystr(path)


def test_statistics_move_in_training(case):
    before = jax.tree_util.tree_leaves_with_path(case.initial.method_state)
    after = jax.tree.leaves(first(case.history[0][0]).method_state)
    for (path, old), new in zip(before, after, strict=True):
        if path[-1].key in ("mean", "var", "u"):
            assert (old != new).any(), jax.tree_util.keystr(path)


def test_evaluation_looks_at_each_image_alone(case):
    """Running statistics: other images of a batch change nothing; SAIB mixes a group at most."""
    state, method = first(case.history[-1][0]), case.built.method
    images = np.random.default_rng(2).normal(size=(8, SIDE, SIDE, 3)).astype(np.float32)
    others = images.copy()
    others[4:] += 1
    encode = jax.jit(
        functools.partial(
            lambda method, params, state, images: (
                method.encode(params, state, images)["pooled"],
                method.transform(params, state, images),
            ),
            method,
        )
    )
    once = encode(state.params, state.method_state, images)
    again = encode(state.params, state.method_state, others)
    for a, b in zip(once, again, strict=True):
        np.testing.assert_array_equal(a[:4], b[:4])  # a group is of four images
        assert (a[4:] != b[4:]).any()


def test_a_restored_checkpoint_goes_on_bit_for_bit(case, tmp_path):
    state = first(case.history[0][0])
    checkpointer = Checkpointer(tmp_path, keep=1, keep_best=0, config=case.config)
    on_device = jax.tree.map(jnp.asarray, state)
    checkpointer.save(1, on_device, position=0, wait=True)
    restored = checkpointer.restore(on_device)
    assert restored is not None
    expected = first(case.step(state))
    got = first(case.step(jax.device_get(restored.state)))
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(expected), jax.tree.leaves(got), strict=True
    ):
        np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))


@pytest.mark.slow
def test_a_bfloat16_step_stays_finite(case):
    config = tiny_config(
        case.config.method.name, saib=case.config.saib.enabled, **{"train.precision": "bfloat16"}
    )
    ((states, metrics),) = make_case(config, steps=1).history
    assert all(np.isfinite(value) for value in metrics.values()), metrics
    for path, leaf in jax.tree_util.tree_leaves_with_path(states):
        assert np.isfinite(leaf).all(), jax.tree_util.keystr(path)
