"""Every switch of docs/paper.md's readings changes what it says and nothing else.

A config's fingerprint is what each part of the program does on fixed inputs with parameters drawn
by name and shape, so that a part shows its own switches alone and not what happens before it. Each
case states the whole set of components that its switch changes.
"""

import fnmatch
import functools
import pathlib
import re
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
import tiny_resnet
from flax import traverse_util

from configs import imagenet_r50, linear_probe
from iecl_jax import data, methods
from iecl_jax.data import augment, split, train_batches
from iecl_jax.data.sources import imagenet100, tfds
from iecl_jax.evals.measures.linear_probe import normalize_features
from iecl_jax.methods.parts import objective
from iecl_jax.models import build
from iecl_jax.train import optim

DOCS = pathlib.Path(__file__).parent.parent / "docs" / "paper.md"
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


def every(name: str, *parts: str) -> set[str]:
    parts = parts or ("parameters", "initial values", "training", "statistics", "evaluation")
    return {f"{name}: {part}" for part in parts}


def both(settings: dict[str, Any]) -> dict[str, Any]:
    views = ("anchor", "query")
    return {f"augment.{view}.{name}": value for name, value in settings.items() for view in views}


INFO_NCE, KL, ENTROPY = ({n, f"gradient of {n}"} for n in ("info_nce", "kl", "entropy"))
INFO_NCE |= {"method_loss"}
SAIB_ON_ANCHOR = {"output features", "output anchor_projection", "state: online", "state: saib"}
SAIB_ON_ANCHOR |= KL | ENTROPY
SAIB_OFF_QUERY = {"output query_projection", "output query_key", "state: momentum"}
KNN = {"objective.entropy.estimator": "kozachenko_leonenko"}
RENYI = {"objective.entropy.estimator": "renyi2"}
EXPANSIVE = {"saib.variant": "expansive"}
COSINE = {"method.ema.schedule": "cosine"}
KEYS_OF_THE_ANCHOR = {"output anchor_key", "state: momentum"}  # K's statistics
QUEUE = {"info_nce_top1", "output negatives", "state: queue"}
FEW_OPS = both({"blur.prob": 0.0, "jitter.prob": 0.0, "gray.prob": 0.0})
ON_KERNELS = {"updates of kernels", "updates of SAIB"}
UPDATES = {f"updates of {kind}" for kind in ("kernels", "BN and biases", "SAIB")}
VIEWS = {"anchor views", "query views"}
GROUPED = {f"{n}: {p}" for n in ("encoder", "projector") for p in ("training", "statistics")}
BY_SEED = {"order of the images", *VIEWS, *(f"{name}: initial values" for name in NETWORKS)}

# Row, settings that are changed, settings that they are changed from, components that change.
CASES: list[tuple[str, dict[str, Any], dict[str, Any], set[str]]] = [
    ("1", {"saib.group_size": 1}, {}, every("saib")),
    ("1", {"saib.group_size": BATCH}, {}, every("saib")),
    ("2", {"saib.residual_scale": 0.5}, {}, {"saib: initial values"}),
    ("3", {"saib.inner_skip": False}, {}, every("saib", "training", "evaluation")),
    ("5", {"saib.patch_size": 2}, {}, every("saib")),
    ("6", {"saib.variant": "expansive"}, {}, every("saib")),
    ("7", {"objective.kl.stop_gradient": "anchor"}, {}, {"gradient of kl"}),
    ("7", {"objective.kl.stop_gradient": "none"}, {}, {"gradient of kl"}),
    ("8", {"objective.kl.form": "eq16"}, {}, KL),
    ("8", {"objective.kl.form": "softmax"}, {}, KL),
    ("9", {"objective.entropy.estimator": "gaussian_diagonal"}, {}, ENTROPY),
    ("9", KNN, {}, ENTROPY),
    ("9", RENYI, {}, ENTROPY),
    ("9", {"objective.entropy.epsilon": 0.4}, {}, ENTROPY),
    ("9", {"objective.entropy.neighbors": 2}, KNN, ENTROPY),
    ("9", {"objective.entropy.kernel_scale": 1.5}, RENYI, ENTROPY),
    ("9", {"objective.entropy.neighbors": 2, "objective.entropy.kernel_scale": 1.5}, {}, set()),
    ("10", {"method.symmetric": True}, {}, {*INFO_NCE, *KEYS_OF_THE_ANCHOR}),
    ("11", {"method.queue_size": 16}, {}, {*QUEUE, *INFO_NCE}),
    ("12", {"optimizer.name": "adam"}, {}, UPDATES),
    ("12", {"optimizer.name": "adamw"}, {}, UPDATES),
    ("12", {"optimizer.trust_clip": True}, {"optimizer.name": "lars"}, ON_KERNELS),
    ("12", {"optimizer.name": "lars"}, {}, ON_KERNELS),
    ("12", {"optimizer.learning_rate": 0.1}, {}, {"learning rate"}),
    ("12", {"optimizer.momentum": 0.5}, {}, {*UPDATES, "updates of the online probe"}),
    ("13", {"optimizer.weight_decay": 0.01}, {}, {"updates of kernels"}),
    ("13", {"objective.saib_decay": 0.1}, {}, {"weight of saib_decay"}),
    ("14", {"method.ema.schedule": "cosine"}, {}, {"momentum coefficient"}),
    ("14", {"method.ema.start": 0.99}, {}, {"momentum coefficient"}),
    ("14", {"method.ema.end": 0.95}, COSINE, {"momentum coefficient"}),
    ("14", {"method.ema.end": 0.95}, {}, set()),
    ("15", {"method.temperature": 0.5}, {}, INFO_NCE),
    ("16", {"schedule.warmup_epochs": 5.0}, {}, {"learning rate"}),
    ("17", {"encoder.feature_dim": 256}, {}, every("encoder") - {"encoder: statistics"}),
    ("18", {"projector.num_layers": 3}, {}, every("projector")),
    ("18", {"projector.hidden_dim": 12}, {}, every("projector")),
    ("18", {"projector.output_dim": 5}, {}, every("projector")),
    ("18", {"projector.hidden_bn": False}, {}, every("projector")),
    ("18", {"projector.output_bn": False}, {}, every("projector")),
    # In training the function stays, since BN follows every convolution.
    ("19", {"encoder.spectral_norm": False}, {}, every("encoder", "statistics", "evaluation")),
    ("20", both({"crop.scale": (0.08, 1.0), "blur.prob": 0.0}), {}, VIEWS),  # SimCLR's for CIFAR
    ("20", {"augment.query.flip.prob": 0.0}, FEW_OPS, {"query views"}),
    ("21", {"linear_probe.feature_norm": "none"}, {}, {"probe's features"}),
    ("22", {"encoder.bn_group": 4}, {}, GROUPED),
    ("23", {"encoder.stem": "imagenet"}, {}, every("encoder")),
    ("24", {"data.name": "imagenet100"}, {}, {"classes"}),
    ("25", {"seed": 7}, {}, BY_SEED),
    ("other", {"saib.residual_scale": 0.5}, EXPANSIVE, {"saib: initial values"}),
    ("other", {"saib.side": "anchor"}, {}, SAIB_ON_ANCHOR | SAIB_OFF_QUERY),
    ("other", {"saib.side": "both"}, {}, SAIB_ON_ANCHOR),
    ("other", {"method.running_stats": "both"}, {}, {"state: online"}),
    ("Table 4", {"saib.num_blocks": 2}, {}, every("saib")),
]


@pytest.mark.parametrize(
    "row, changed, base, components", CASES, ids=[f"row {row}: {new}" for row, new, _, _ in CASES]
)
def test_a_switch_changes_what_it_says_and_nothing_else(row, changed, base, components):
    before, after = fingerprint(base), fingerprint(base | changed)
    found = {n for n in before | after if not is_same(before.get(n), after.get(n))}
    assert found == components


def switches_in_docs() -> list[tuple[str, str, str]]:
    """(row, key, value or "") of the readings' column of keys, in which `.end` is a sibling of the
    key before it and a word that is no key another value of it."""
    table = DOCS.read_text().split("## Readings")[1].split("\n## ")[0]
    keys, found = values_of(config_of({})), []
    for line in table.splitlines():
        cells = re.split(r"(?<!\\)\|", line)
        if len(cells) != 7:
            continue
        row, key = cells[1].strip(), ""
        row = row if row.isdigit() else "other"
        for word in re.findall(r"`(.+?)`", cells[4]):
            name, _, value = word.partition("=")
            if name.startswith("."):
                found.append((row, key.rpartition(".")[0] + name, value))
            elif name in keys or name.endswith(".*"):
                key = name
                found.append((row, key, value))
            else:
                found.append((row, key, word))
    return found


def test_every_switch_of_the_readings_has_a_case():
    switches = switches_in_docs()
    assert len({row for row, _, _ in switches}) > 20
    for row, key, value in switches:
        values = {
            str(new)
            for case_row, changed, _, _ in CASES
            for name, new in changed.items()
            if case_row == row and fnmatch.fnmatch(name, key)
        }
        assert values, f"row {row} of docs/paper.md: add a case for {key or value}"
        assert not value or value.isdigit() or value in values, (
            f"row {row} of docs/paper.md: add a case for {key}={value}"
        )


# ---------------------------------------------------------------- what a switch says


@pytest.mark.parametrize("group, patch", [(1, 4), (BATCH, 4), (2, 2)])
def test_a_group_is_the_channels_and_a_patch_the_columns(group, patch):
    """Rows 1 and 5."""
    changed = {"saib.group_size": group, "saib.patch_size": patch}
    shapes = fingerprint(changed)["saib: parameters"]["block1"]
    assert [*shapes["conv2"]] == [3, 3, group, 2 * group]
    assert [*shapes["conv3"]] == [1, 1, 2 * group, 2 * group]
    assert [*shapes["positions"]] == [1, 3 * (SIDE // patch) ** 2, patch**2, 1]


def test_the_sides_of_the_kl_add_up():
    """Row 7: each side's gradient is of one projection, and both together are the whole."""
    query, anchor, whole = (
        fingerprint({"objective.kl.stop_gradient": side})["gradient of kl"]
        for side in ("query", "anchor", "none")
    )
    assert [*query] == ["anchor_projection"]
    assert [*anchor] == ["query_projection"]
    assert is_same(query | anchor, whole)
