"""The seal of a checkpoint: shape, dtype and SHA-256 of what it holds, to prove it whole later."""

import concurrent.futures
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np


def digest(tree: Any) -> str:
    """SHA-256 (hex) of a pytree of arrays: path, dtype, shape and bytes of each leaf, by path.

    A path is the keys joined by "/". So it is the same for JAX and NumPy arrays, on any number of
    devices, and for dicts, dataclasses and named tuples of the same names.
    """
    return _digest(host_leaves(tree))


def paths_and_leaves(tree: Any) -> list[tuple[str, Any]]:
    """(path, leaf) of every leaf, in the order of `jax.tree.leaves`."""
    return [
        (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]


def host_leaves(tree: Any) -> dict[str, np.ndarray]:
    """NumPy copy of every leaf by path; the copies from the devices overlap.

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
    """[dtype, shape] of every leaf by path, as JSON keeps it."""
    return {path: [np.dtype(leaf.dtype).name, list(leaf.shape)] for path, leaf in named}


def make(leaves: Mapping[str, np.ndarray], records: Mapping[str, Any]) -> dict[str, Any]:
    """The seal of arrays by path and of the JSON items beside them.

    Returns:
      {"leaves": `types`, "fields": digest of each top-level field of the state, "records": digest
      of the JSON items and of the rest of the seal}.
    """
    seal = {"leaves": types(leaves.items()), "fields": _digest_fields(leaves)}
    return seal | {"records": _digest_json({**seal, **records})}


def check_records(seal: Mapping[str, Any], records: Mapping[str, Any]) -> None:
    """Raises ValueError if the JSON items, or the seal itself, are not those of `make`."""
    sealed = {"leaves": seal["leaves"], "fields": seal["fields"], **records}
    if _digest_json(sealed) != seal["records"]:
        raise ValueError("its JSON records do not match their SHA-256")


def check_leaves(seal: Mapping[str, Any], leaves: Mapping[str, np.ndarray]) -> None:
    """Raises ValueError if the arrays of a field, all given in `leaves`, are not those sealed."""
    for field, found in _digest_fields(leaves).items():
        if found != seal["fields"][field]:
            raise ValueError(f"the arrays of its {field} do not match their SHA-256")


def check_fits(seal: Mapping[str, Any], wanted: Mapping[str, list]) -> None:
    """Raises ValueError naming the first leaf in which the sealed types and `wanted` differ."""

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
    """Digest of each field of the state: an evaluation checks only the fields that it reads."""
    fields: dict[str, dict[str, np.ndarray]] = {}
    for path, leaf in leaves.items():
        fields.setdefault(path.split("/")[0], {})[path] = leaf
    with concurrent.futures.ThreadPoolExecutor() as pool:
        return dict(zip(fields, pool.map(_digest, fields.values()), strict=True))


def _digest_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
