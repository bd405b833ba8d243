"""The digest and the seal of arrays; that checkpoints use them is in test_checkpoint.py."""

import copy
import hashlib
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iecl_jax.run import seal

pytestmark = pytest.mark.quick


def test_digest_depends_on_values_names_dtypes_and_shapes_alone():
    tree: dict[str, Any] = {
        "a": jnp.arange(6, dtype=jnp.float32),
        "b": {"c": jnp.ones((), jnp.bfloat16)},
    }
    mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("d")
    split = jax.device_put(tree["a"], jax.sharding.NamedSharding(mesh, spec))
    same = [jax.tree.map(np.asarray, tree), dict(reversed(tree.items())), {**tree, "a": split}]
    assert {seal.digest(other) for other in same} == {seal.digest(tree)}
    different = [
        {**tree, "a": tree["a"].reshape(2, 3)},
        {**tree, "a": tree["a"].at[0].set(-0.0)},
        {**tree, "a": tree["a"].view(jnp.int32)},
        {"a": tree["a"], "b": {"d": tree["b"]["c"]}},
        {"a": tree["a"]},
    ]
    digests = {seal.digest(other) for other in different}
    assert len(digests | {seal.digest(tree)}) == 6


def test_digest_is_the_documented_one():
    text = b"a float32 (2,)\n" + np.array([1, 2], "<f4").tobytes() + b"b/0 int32 ()\n\x07\0\0\0"
    tree = {"b": [jnp.asarray(7, jnp.int32)], "a": jnp.asarray([1.0, 2.0])}
    assert seal.digest(tree) == hashlib.sha256(text).hexdigest()


RECORDS = {"data": {"step": 3, "position": 30}, "metrics": {"loss": 0.1 + 0.2}}


def make_leaves() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    tree = {"params": {"w": rng.normal(size=(2, 3)), "b": np.float32(1.5)}, "step": np.int32(3)}
    return seal.host_leaves(tree)


def test_a_seal_survives_json_and_accepts_what_it_was_made_of():
    sealed = json.loads(json.dumps(seal.make(make_leaves(), RECORDS)))
    assert sealed["leaves"] == {
        "params/b": ["float32", []],
        "params/w": ["float64", [2, 3]],
        "step": ["int32", []],
    }
    seal.check_records(sealed, json.loads(json.dumps(RECORDS)))
    seal.check_leaves(sealed, make_leaves())
    seal.check_fits(sealed, sealed["leaves"])
    only = {name: leaf for name, leaf in make_leaves().items() if name.startswith("params/")}
    seal.check_leaves(sealed, only)


def test_a_seal_finds_a_changed_array_and_a_missing_one():
    sealed = seal.make(make_leaves(), RECORDS)
    for name, field in (("params/w", "params"), ("params/b", "params"), ("step", "step")):
        changed = make_leaves()
        changed[name] = changed[name] + np.ones((), changed[name].dtype)
        with pytest.raises(ValueError, match=f"arrays of its {field} do not match their SHA-256"):
            seal.check_leaves(sealed, changed)
    partial = make_leaves()
    del partial["params/b"]
    with pytest.raises(ValueError, match="arrays of its params do not match"):
        seal.check_leaves(sealed, partial)


@pytest.mark.parametrize(
    "path", [("data", "step"), ("metrics", "loss"), ("leaves", "step"), ("fields", "params")]
)
def test_a_seal_finds_changed_records_and_a_changed_seal(path):
    part, key = path
    sealed, records = seal.make(make_leaves(), RECORDS), copy.deepcopy(RECORDS)
    ({**sealed, **records})[part][key] = "other"
    with pytest.raises(ValueError, match="its JSON records do not match their SHA-256"):
        seal.check_records(sealed, records)


def test_the_first_leaf_that_does_not_fit_is_named():
    sealed = seal.make(make_leaves(), RECORDS)
    wanted = sealed["leaves"] | {"params/w": ["float64", [2, 4]], "step": ["int64", []]}
    message = r"its params/w is float64\[2,3\], and that of this run float64\[2,4\]"
    with pytest.raises(ValueError, match=message):
        seal.check_fits(sealed, wanted)
    with pytest.raises(ValueError, match=r"its params/w is float64.*, and that of this run absent"):
        seal.check_fits(sealed, {"params/b": ["float32", []]})


def test_keys_with_a_slash_are_refused():
    with pytest.raises(ValueError, match="two leaves of the state have the same path"):
        seal.host_leaves({"a": {"b": np.ones(1)}, "a/b": np.ones(1)})
