"""What each part of a config's program does on fixed inputs, to compare two configs.

A config's fingerprint is what each part does with parameters drawn by name and shape, so that a
part shows its own switches alone and not what happens before it.
"""

import functools
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
import tiny_resnet
from flax import traverse_util

from iecl_jax import data, methods
from iecl_jax.configs import imagenet_r50, linear_probe
from iecl_jax.data import augment, split, train_batches
from iecl_jax.data.sources import imagenet100, tfds
from iecl_jax.evals.measures.linear_probe import normalize_features
from iecl_jax.methods.parts import objective
from iecl_jax.models import build
from iecl_jax.train import optim

BATCH, SIDE = 8, 8
NETWORKS = {  # of models.build, and the shapes of their inputs
    "saib": (BATCH, SIDE, SIDE, 3),
    "encoder": (BATCH, SIDE, SIDE, 3),
    "projector": (BATCH, 6),
}
STEPS, EPOCH = 40, 4  # of the curves
TOLERANCE = 1e-4  # of the largest value of an array
QUICKLY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
compiled = functools.partial(jax.jit, compiler_options=QUICKLY)


def config_of(overrides: dict[str, Any]) -> ml_collections.ConfigDict:
    config = imagenet_r50.get_config("100,smoke")
    config.linear_probe = linear_probe.get_config().linear_probe
    config.data.update({"name": "imagenet2012", "cache": "device", "image_size": SIDE})
    config.train.batch_size = BATCH
    config.encoder.update(tiny_resnet.ENCODER)
    config.projector.update({"num_layers": 2, "hidden_dim": 8, "output_dim": 6})
    config.saib.group_size = 2
    config.objective.saib_decay = 0.02
    config.update_from_flattened_dict(overrides)
    return config


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def drawn(shapes: Any) -> Any:
    """Arrays of these shapes, each a function of its name and shape alone."""

    def draw(path, leaf):
        if leaf.dtype == jnp.int32:
            return np.zeros(leaf.shape, np.int32)
        rng = np.random.default_rng(zlib.crc32(jax.tree_util.keystr(path).encode()))
        positive = path[-1].key in ("var", "scale", "sigma")
        value = rng.uniform(0.5, 2, leaf.shape) if positive else rng.normal(size=leaf.shape)
        return np.float32(value / np.linalg.norm(value) if path[-1].key == "u" else value)

    return jax.tree_util.tree_map_with_path(draw, shapes)


# ---------------------------------------------------------------- parts: config -> components


def data_set(config):
    """What is opened of files with ImageNet-100's and 20 more classes, and a batch's order."""
    names = (*imagenet100.class_names(), *(f"other{i}" for i in range(20)))
    whole = split.Split("whole", names, None, 240, list, lambda: np.arange(240) % 120)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tfds, "open_records", lambda *_: whole)
        opened = data.open_split(config.data, "pretrain")
    order = train_batches.host_batches(config, whole, None, process_index=0, process_count=1)
    return {
        "classes": (np.array(opened.num_classes), opened.labels),
        "order of the images": order[0]["index"],
    }


def views(config):
    fn = augment.make_augment(config.augment, SIDE, *data.statistics(config.data))
    images = np.random.default_rng(0).integers(0, 256, (4, 12, 12, 3), dtype=np.uint8)
    keys = augment.image_keys(augment.run_key(config.seed), 3, jnp.arange(4))
    anchor, query = compiled(fn)(keys, images)
    return {"anchor views": anchor, "query views": query}


def network(config, name):
    module = getattr(build, name)(config)
    inputs = jnp.sort(normal(*NETWORKS[name]), axis=0)  # so that groups of images differ
    init = functools.partial(module.init, train=True)

    @compiled
    def run(key, variables):
        output, new = module.apply(variables, inputs, train=True, mutable=["batch_stats"])
        evaluation = module.apply(variables, inputs, train=False)
        return init(key, inputs)["params"], output, new, evaluation

    key = jax.random.split(jax.random.key(config.seed))[0]
    initial, output, new, evaluation = run(key, drawn(jax.eval_shape(init, key, inputs)))
    return {
        f"{name}: parameters": jax.tree.map(lambda leaf: np.array(leaf.shape), initial),
        f"{name}: initial values": initial,
        f"{name}: training": output,
        f"{name}: statistics": new,
        f"{name}: evaluation": evaluation,
    }


def method_of(config):
    """The method, with the default's networks whatever the config's are."""
    networks = {name: getattr(build, name)(config_of({})) for name in NETWORKS}
    with pytest.MonkeyPatch.context() as patch:
        for name, module in networks.items():
            patch.setattr(build, name, lambda *_, module=module: module)
        return methods.make(config, total_steps=STEPS)


def forward_of(config):
    """The method's forward; its parameters, state and views."""
    method, images = method_of(config), list(normal(2, *NETWORKS["encoder"]))
    shapes = jax.eval_shape(method.init, jax.random.key(0), images)
    return method.forward, *drawn(shapes), images


def passes(config):
    forward, *inputs = forward_of(config)
    outputs, new = compiled(forward)(*inputs)
    return {f"output {name}": value for name, value in outputs.items()} | {
        f"state: {name}": tree for name, tree in new.items()
    }


def loss(config):
    """Values of all terms of what the method gives, what their gradients reach, and the weights
    that make the loss's gradient of theirs."""
    forward, params, *inputs = forward_of(config)
    inputs = drawn(jax.eval_shape(forward, params, *inputs)[0]), {"saib": params["saib"]}
    fn = objective.make(config, method_of(config).loss)
    names = ["loss", "info_nce", "kl", "entropy", "saib_decay"]

    def term(name, *inputs):
        total, terms = fn(*inputs)
        return (terms | {"loss": total})[name]

    @compiled
    def run(*inputs):
        gradients = [jax.grad(functools.partial(term, name), (0, 1))(*inputs) for name in names]
        return fn(*inputs)[1], gradients

    terms, gradients = jax.device_get(run(*inputs))
    total, *columns = [
        np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)]) for tree in gradients
    ]
    weights = np.linalg.lstsq(np.stack(columns, 1), total, rcond=None)[0]
    found = dict(terms)
    for name, gradient, weight in zip(names[1:], gradients[1:], weights):
        leaves = traverse_util.flatten_dict(gradient[0] | gradient[1], sep=".").items()
        found[f"gradient of {name}"] = {path: leaf for path, leaf in leaves if leaf.any()}
        found[f"weight of {name}"] = weight
    return found


def updates(config):
    """What two steps at a rate of 0.1 add to each kind of parameter."""
    kernel, vector = normal(3, 3, 2, 4), normal(4)
    params = {
        "online": {"kernel": kernel, "bias": vector},
        "saib": {"conv1": kernel, "scale": vector},
        "online_probe": {"kernel": kernel},
    }
    tx = optim.make(config, lambda step: 0.1)

    @compiled
    def run(params):
        gradients = jax.tree.map(lambda leaf: jnp.sin(3 * leaf), params)
        first, state = tx.update(gradients, tx.init(params), params)
        halved = jax.tree.map(lambda leaf: -0.5 * leaf, gradients)
        return first, tx.update(halved, state, params)[0]

    with jax.numpy_dtype_promotion("standard"):  # optax's adamw promotes
        moved = run(params)
    return {
        "updates of kernels": [update["online"]["kernel"] for update in moved],
        "updates of BN and biases": [update["online"]["bias"] for update in moved],
        "updates of SAIB": [update["saib"] for update in moved],
        "updates of the online probe": [update["online_probe"] for update in moved],
    }


def curves(config):
    rate = optim.learning_rate(config, total_steps=STEPS, steps_per_epoch=EPOCH)
    momentum, steps = method_of(config).schedules["ema"], jnp.arange(STEPS + 1)
    return {
        "learning rate": compiled(jax.vmap(rate))(steps),
        "momentum coefficient": compiled(jax.vmap(momentum))(steps),
    }


def probe(config):
    return {"probe's features": normalize_features(normal(4, 6), config.linear_probe.feature_norm)}


PARTS = [data_set, views, passes, loss, updates, curves, probe]
PARTS += [functools.partial(network, name=name) for name in NETWORKS]


# ---------------------------------------------------------------- fingerprints


class Recorded:
    """A ConfigDict that writes down every value that is read from it, by its dotted name."""

    def __init__(self, node: ml_collections.ConfigDict, reads: dict[str, Any], prefix: str = ""):
        self._node, self._reads, self._prefix = node, reads, prefix

    def __getitem__(self, name: str) -> Any:
        value = self._node[name]
        if isinstance(value, ml_collections.ConfigDict):
            return Recorded(value, self._reads, f"{self._prefix}{name}.")
        self._reads[self._prefix + name] = value
        return value

    def __getattr__(self, name: str) -> Any:
        return self[name]

    def get(self, name: str, default: Any) -> Any:
        return self[name] if name in self._node else default

    @property
    def __class__(self):  # what annotations ask for
        return ml_collections.ConfigDict

    def __iter__(self):
        return iter(self._node)

    def __eq__(self, other: Any) -> bool:
        return [(name, self[name]) for name in self] == [(name, other[name]) for name in other]


RESULTS: dict[Any, list[tuple[dict[str, Any], dict[str, Any]]]] = {part: [] for part in PARTS}


def values_of(config: ml_collections.ConfigDict) -> dict[str, Any]:
    return traverse_util.flatten_dict(config.to_dict(), sep=".")


def fingerprint(overrides: dict[str, Any]) -> dict[str, Any]:
    """Component -> arrays. A part is not run again where all values that it read from an earlier
    config are the same in this one: it would do the same."""
    config = config_of(overrides)
    values, found = values_of(config), dict[str, Any]()
    for part, known in RESULTS.items():
        result = next((old for reads, old in known if reads.items() <= values.items()), None)
        if result is None:
            reads: dict[str, Any] = {}
            result = jax.device_get(part(Recorded(config, reads)))
            known.append((reads, result))
        found |= result
    return found


def is_same(a: Any, b: Any) -> bool:
    (a, tree), (b, other) = jax.tree.flatten(a), jax.tree.flatten(b)
    return tree == other and all(
        np.shape(x) == np.shape(y) and np.max(abs(x - y)) <= TOLERANCE * np.max(abs(x))
        for x, y in zip(a, b)
    )
