"""Summarises the runs of a row: means, standard deviations, and changes paired by seed."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import special

from iecl_jax import config as config_lib
from iecl_jax.config import kinds
from iecl_jax.tools.runs import Run
from iecl_jax.tools.tables.rows import Row

FACTS = ("config_sha256", "data", "protocol", "device", "versions", "git")


def read(runs: Sequence[Run], metrics: Iterable[str]) -> dict[str, Any]:
    """Reads the results of the finished runs of one seed.

    Args:
      runs: the pretraining, if there is one, and the evaluations that follow.
      metrics: the names of the metrics. Of several runs with a metric, the last one counts, but
        that of JOB for the name JOB:NAME.

    Returns:
      The metrics in [0, 1] (None if not measured) and FACTS. "git" is a list with {"revision",
      "dirty"} or None for each start of the runs; the other facts are single values.
      "config_sha256" is of the first run and leaves out the seed and data.dir, so the seeds of a
      row share it.
    """
    results, starts = (
        [json.loads((run.workdir / name).read_text()) for run in runs]
        for name in ("results.json", "provenance.json")
    )
    texts = [(run.workdir / "config.json").read_text() for run in runs]
    configs = [config_lib.from_json(text).to_dict() for text in texts]
    measured = {name: x for each in results for name, x in each["metrics"].items()}
    for config, each in zip(configs, results, strict=True):
        job = kinds.stem(config["job"])
        measured |= {f"{job}:{name}": x for name, x in each["metrics"].items()}
    return {
        **{name: measured.get(name) for name in metrics},
        "config_sha256": _config_hash(configs[0]),
        "data": _data(configs[0], results[0]["steps"]),
        "protocol": _protocol({kinds.stem(config["job"]): config for config in configs}, metrics),
        "device": results[0]["device"],
        "versions": results[0]["versions"],
        "git": [start["git"] for each in starts for start in each],
    }


def _data(config: Mapping[str, Any], steps: int) -> str:
    """Describes the pretraining: its images, its network and its length."""
    if config["job"] != "pretrain" and config["checkpoint"]:
        return f"the weights of {Path(config['checkpoint']).name}"
    pretrain = config if config["job"] == "pretrain" else config["pretrain"]
    network = f"{pretrain['encoder']['name']} of width {pretrain['encoder']['width']}"
    if pretrain is not config:
        return f"{network} without pretraining"
    images = f"{config['data']['name']} at {config['data']['image_size']} px"
    return f"{images}, {network}, {steps} steps of {config['train']['batch_size']} images"


def _config_hash(config: Mapping[str, Any]) -> str:
    kept = {key: value for key, value in config.items() if key != "seed"}
    kept["data"] = {key: value for key, value in config["data"].items() if key != "dir"}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _protocol(configs: Mapping[str, Mapping[str, Any]], metrics: Iterable[str]) -> str:
    """Describes how the metrics come about, from the configs of the runs by job."""
    told = []
    if "linear_top1" in metrics and {"pretrain", "linear", "linear_probe"} & configs.keys():
        told.append(f"linear: {_linear(configs)}")
    if "linear_probe:linear_top1" in metrics and "linear_probe" in configs:
        told.append(f"linear by section 4.1: {_fixed(configs['linear_probe']['linear_probe'])}")
    if "knn_top1" in metrics and "pretrain" in configs:
        k = configs["pretrain"]["eval"]["knn"]["k"]
        told.append(f"kNN: {k} weighted neighbours among all training images")
    trained = {job: config for job, config in configs.items() if "num_steps" in config.get(job, {})}
    return "; ".join([*told, *(f"{job}: {_training(job, each)}" for job, each in trained.items())])


def _linear(configs: Mapping[str, Mapping[str, Any]]) -> str:
    if "linear_probe" in configs and "linear" not in configs:
        return _fixed(configs["linear_probe"]["linear_probe"])
    grid = (
        configs["linear"]["linear"]
        if "linear" in configs
        else configs["pretrain"]["eval"]["linear"]
    )
    return (
        f"a classifier on the features of unaugmented images, {grid['num_epochs']} epochs, its "
        "learning rate chosen on a tenth of the training images"
    )


def _fixed(probe: Mapping[str, Any]) -> str:
    """Describes the linear evaluation of the paper."""
    return (
        "a classifier on augmented images through the frozen encoder, "
        f"{probe['num_epochs']} epochs of SGD with rate {probe['learning_rate']} at batch "
        f"{probe['batch_size']}, last epoch"
    )


def _training(job: str, config: Mapping[str, Any]) -> str:
    """Describes a job that trains the whole network on images of its own."""
    settings, data = config[job], config["data"]
    images = f"the lists {data['train_split']} and {data['test_split']}"
    images = "generated images" if data["generated"] and not data["dir"] else images
    return (
        f"the whole network, trained for {settings['num_steps']} steps of "
        f"{settings['batch_size']} images at {settings['image_size']} px by "
        f"{settings['optimizer']['name']} with rate {settings['optimizer']['learning_rate']}, "
        f"last step, on {images}"
    )


def spread(values: Sequence[float]) -> dict[str, float | int | None] | None:
    """Returns {"mean", "std", "n"}, None without values. "std" divides by n - 1; None if n = 1."""
    if not values:
        return None
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "std": std, "n": len(values)}


def change(
    after: Mapping[int, float], before: Mapping[int, float]
) -> dict[str, float | int | None] | None:
    """Returns the mean difference over the common seeds, with its 95 % confidence interval.

    The interval is Student's t with n - 1 degrees of freedom.

    Args:
      after, before: values by seed.

    Returns:
      {"mean", "low", "high", "n"}; low and high are None for a single seed. None if there is no
      common seed.
    """
    differences = [after[seed] - before[seed] for seed in sorted(after.keys() & before.keys())]
    found = spread(differences)
    if found is None:
        return None
    n, mean, std = len(differences), float(np.mean(differences)), found["std"]
    half = None if std is None else float(special.stdtrit(n - 1, 0.975)) * std / n**0.5
    low, high = (None, None) if half is None else (mean - half, mean + half)
    return {"mean": mean, "low": low, "high": high, "n": n}


def record(
    row: Row,
    config: str,
    metrics: Iterable[str],
    measured: Mapping[int, Mapping[str, Any]],
    reference: Mapping[int, Mapping[str, Any]],
) -> dict[str, Any]:
    """Returns a row of the table's JSON.

    Args:
      row: the row.
      config: its FILE:VARIANT at this scale; "" = nothing is pretrained.
      metrics: the names of the metrics.
      measured: the results of `read` by seed; may be empty.
      reference: those of the row that it is compared with.

    Returns:
      The fields of the row; "seeds"; "runs", the metrics by seed; the `spread` of each metric;
      "change", the `change` of the first one; and for each of FACTS the list of distinct values.
    """
    by_seed = {name: _values(measured, name) for name in metrics}
    first = next(iter(by_seed))
    return {
        "label": row.label,
        "config": config,
        "cell": list(row.cell),
        "published": row.published,
        "compared_with": row.compared_with,
        "seeds": sorted(measured),
        "runs": {seed: {name: found[name] for name in by_seed} for seed, found in measured.items()},
        **{name: spread(list(values.values())) for name, values in by_seed.items()},
        "change": change(by_seed[first], _values(reference, first)),
        **{name: different(_all_values(measured, name)) for name in FACTS},
    }


def different(values: Sequence[Any]) -> list[Any]:
    """Returns the distinct JSON values, in the order of their first appearance."""
    return list({json.dumps(value, sort_keys=True): value for value in values}.values())


def _values(measured: Mapping[int, Mapping[str, Any]], name: str) -> dict[int, float]:
    found = {seed: measured[seed][name] for seed in sorted(measured)}
    return {seed: value for seed, value in found.items() if value is not None}


def _all_values(measured: Mapping[int, Mapping[str, Any]], name: str) -> list[Any]:
    found = [measured[seed][name] for seed in sorted(measured)]
    return [value for each in found for value in each] if name == "git" else found
