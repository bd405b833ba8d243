"""The seal of a checkpoint: shapes, dtypes and SHA-256 sums that later prove that it is whole."""

import concurrent.futures
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np


def digest(tree: Any) -> str:
    """Returns the SHA-256 (hex) of a pytree of arrays.

    It covers the path, dtype, shape and bytes of each leaf, sorted by path. A path is the keys
    joined by "/". The result is therefore the same for JAX and NumPy arrays, on any number of
    devices, and for dicts, dataclasses and named tuples with the same names.
    """
    return _digest(host_leaves(tree))


def paths_and_leaves(tree: Any) -> list[tuple[str, Any]]:
    """Returns (path, leaf) of every leaf, in the order of `jax.tree.leaves`."""
    return [
        (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]


def host_leaves(tree: Any) -> dict[str, np.ndarray]:
    """Returns a NumPy copy of every leaf, by path. All copies from the devices run at once.

    Raises:
      ValueError: two leaves have the same path.
    """
    named = paths_and_leaves(tree)
    for _, leaf in named:
        if isinstance(leaf, jax.Array):
            leaf.copy_to_host_async()
    leaves = {path: np.asarray(leaf) for path, leaf in named}
    if len(leaves) < len(named):
        raise ValueError("two leaves of the state have the same path: no key may contain '/'.")
    return leaves


def types(named: Iterable[tuple[str, Any]]) -> dict[str, list]:
    """Returns [dtype, shape] of every leaf, by path, in JSON types."""
    return {path: [np.dtype(leaf.dtype).name, list(leaf.shape)] for path, leaf in named}


def make(leaves: Mapping[str, np.ndarray], records: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the seal of a checkpoint.

    Args:
      leaves: the arrays of the state, by path.
      records: the JSON items of the checkpoint, by name.

    Returns:
      {"leaves": what `types` returns, "fields": the digest of each top-level field of the state,
      "records": the digest of the JSON items and of the two entries before}.
    """
    seal = {"leaves": types(leaves.items()), "fields": _digest_fields(leaves)}
    return seal | {"records": digest_json({**seal, **records})}


def check_records(seal: Mapping[str, Any], records: Mapping[str, Any]) -> None:
    """Raises ValueError if the JSON items or the seal itself differ from what `make` saw."""
    sealed = {"leaves": seal["leaves"], "fields": seal["fields"], **records}
    if digest_json(sealed) != seal["records"]:
        raise ValueError("its JSON records do not match their SHA-256")


def check_leaves(seal: Mapping[str, Any], leaves: Mapping[str, np.ndarray]) -> None:
    """Raises ValueError if a field's arrays are damaged. `leaves` has whole fields only."""
    for field, found in _digest_fields(leaves).items():
        if found != seal["fields"][field]:
            raise ValueError(f"the arrays of its {field} do not match their SHA-256")


def check_fits(seal: Mapping[str, Any], wanted: Mapping[str, list]) -> None:
    """Raises ValueError with the first leaf whose sealed type differs from the one in `wanted`."""

    def describe(kind: list | None) -> str:
        return f"{kind[0]}[{','.join(map(str, kind[1]))}]" if kind else "absent"

    saved = seal["leaves"]
    for path in sorted(saved.keys() | wanted.keys()):
        old, new = saved.get(path), wanted.get(path)
        if old != new:
            raise ValueError(f"its {path} is {describe(old)}, and that of this run {describe(new)}")


def _digest(leaves: Mapping[str, np.ndarray]) -> str:
    sha = hashlib.sha256()
    for path in sorted(leaves):
        leaf = leaves[path]
        sha.update(f"{path} {leaf.dtype} {leaf.shape}\n".encode())
        sha.update(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data)
    return sha.hexdigest()


def _digest_fields(leaves: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Returns the digest of each field: an evaluation checks only the fields that it reads."""
    fields: dict[str, dict[str, np.ndarray]] = {}
    for path, leaf in leaves.items():
        fields.setdefault(path.split("/")[0], {})[path] = leaf
    with concurrent.futures.ThreadPoolExecutor() as pool:
        return dict(zip(fields, pool.map(_digest, fields.values()), strict=True))


def digest_json(value: Any) -> str:
    """Returns the SHA-256 (hex) of a JSON value, with its keys sorted."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
