"""Checks of a config before anything compiles; every mistake is one sentence (ValueError)."""

import difflib
import pkgutil
from collections.abc import Callable, Iterable
from typing import Any

import ml_collections

from iecl_jax import augment, data, methods, objective, optim, precision
from iecl_jax.methods import ema
from iecl_jax.models import resnet, saib

JOBS = ("pretrain", "linear_probe", "knn", "jacobian")
METHODS = tuple(m.name for m in pkgutil.iter_modules(methods.__path__) if m.name != "ema")


def check(config: ml_collections.ConfigDict, num_devices: int) -> None:
    """Raises ValueError for the first impossible value of a config of any job."""
    _one_of("job", config.job, JOBS)
    _require(config, ["seed"], lambda seed: 0 <= seed < 2**32, "from 0 to 2**32 - 1")
    if config.job == "pretrain":
        check_pretrain(config, num_devices)
        return
    if not config.checkpoint and "pretrain" not in config:
        raise ValueError(
            "config.checkpoint is empty: name the workdir of a pretraining run, "
            "--config.checkpoint=WORKDIR."
        )
    if config.job == "linear_probe":
        _one_of("probe.feature_norm", config.probe.feature_norm, ("layer_norm", "none"))
        _positive(config, "probe.batch_size", "probe.num_epochs", "probe.learning_rate")
        augment.check_view(config.probe.augment, "probe.augment")
        _not_negative(config, "probe.weight_decay")
        _require(config, ["probe.momentum"], lambda m: 0 <= m < 1, "at least 0 and less than 1")
        if config.probe.cached:
            _require(config, ["probe.holdout"], lambda s: 0 < s < 1, "between 0 and 1")
            _require(config, ["probe.learning_rates"], len, "one rate or more")
        _multiple("probe.batch_size", config.probe.batch_size, num_devices, "devices")
    elif config.job == "jacobian":
        _one_of("jacobian.statistics", config.jacobian.statistics, ("running", "batch"))
        _positive(config, *(f"jacobian.{name}" for name in ("num_groups", "depth", "num_probes")))
        _not_negative(config, "jacobian.exact_up_to")
    else:
        _not_negative(config, "knn.k", "knn.temperature")


def check_pretrain(config: ml_collections.ConfigDict, num_devices: int) -> None:
    """Raises ValueError for the first impossible value of a pretraining config."""
    data.check(config.data)
    augment.check(config.augment)
    _one_of("train.precision", config.train.precision, precision.DTYPES)
    _one_of("encoder.name", config.encoder.name, resnet.ARCHITECTURES)
    _one_of("encoder.stem", config.encoder.stem, resnet.STEMS)
    _one_of("method.name", config.method.name, METHODS)
    _one_of("method.running_stats", config.method.running_stats, ("anchor", "both"))
    _one_of("method.ema.schedule", config.method.ema.schedule, ema.SCHEDULES)
    _one_of("optimizer.name", config.optimizer.name, optim.OPTIMIZERS)
    settings = config.objective
    _one_of("objective.kl.form", settings.kl.form, objective.KL_FORMS)
    _one_of("objective.kl.stop_gradient", settings.kl.stop_gradient, objective.STOP_GRADIENT)
    estimators = objective.estimators(settings.entropy)
    _one_of("objective.entropy.estimator", settings.entropy.estimator, estimators)
    _positive(
        config,
        "train.batch_size",
        "train.log_every_steps",
        "encoder.width",
        "projector.num_layers",
        "projector.hidden_dim",
        "projector.output_dim",
        "objective.temperature",
        "objective.entropy.epsilon",
        "objective.entropy.neighbors",
        "objective.entropy.kernel_scale",
        "optimizer.learning_rate",
        "optimizer.trust_coefficient",
        "eval.batch_size",
        "eval.knn_k",
        "eval.knn_temperature",
        "checkpoint.every_steps",
        "checkpoint.keep",
        "diagnostics.num_images",
        "diagnostics.lanczos_depth",
        "diagnostics.lanczos_probes",
    )
    _not_negative(
        config,
        "method.queue_size",
        "encoder.feature_dim",
        "encoder.bn_group",
        "objective.kl.weight",
        "objective.entropy.weight",
        "objective.saib_decay",
        "optimizer.weight_decay",
        "optimizer.probe_learning_rate",
        "schedule.warmup_epochs",
        "eval.every_epochs",
        "eval.labels_per_class",
        "eval.linear_epochs",
        "checkpoint.keep_best",
        "checkpoint.keep_every_steps",
        "diagnostics.every_steps",
        "diagnostics.min_rank",
        "diagnostics.min_feature_std",
    )
    _require(config, ["method.ema.start", "method.ema.end"], lambda m: 0 <= m <= 1, "from 0 to 1")
    _require(config, ["optimizer.momentum"], lambda m: 0 <= m < 1, "at least 0 and less than 1")

    batch = config.train.batch_size
    _multiple("train.batch_size", batch, num_devices, "devices")
    if settings.entropy.estimator == "kozachenko_leonenko" and settings.entropy.neighbors >= batch:
        raise ValueError(
            f"objective.entropy.neighbors={settings.entropy.neighbors} must be less than "
            f"train.batch_size={batch}: an embedding has no more neighbours."
        )
    per_device = batch // num_devices
    if config.saib.enabled:
        _one_of("saib.variant", config.saib.variant, saib.VARIANTS)
        if config.saib.variant == "expansive" and not config.saib.inner_skip:
            raise ValueError(
                "saib.inner_skip=False belongs to saib.variant='paper': the expansive block has a "
                "single skip connection."
            )
        _positive(config, "saib.group_size", "saib.patch_size", "saib.num_blocks")
        group, patch = config.saib.group_size, config.saib.patch_size
        _divides("saib.group_size", group, "the images of a device", per_device)
        _divides("saib.patch_size", patch, "data.image_size", config.data.image_size)
    group = config.encoder.bn_group
    if group:
        _divides("encoder.bn_group", group, "train.batch_size", batch)
        if per_device % group and group % per_device:
            raise ValueError(
                f"encoder.bn_group={group} neither divides nor is a multiple of the {per_device} "
                "images of a device: choose one that does."
            )
    depth, dimensions = config.diagnostics.lanczos_depth, 3 * config.data.image_size**2
    dimensions *= config.saib.group_size
    if config.saib.enabled and depth > dimensions:
        raise ValueError(
            f"diagnostics.lanczos_depth={depth} is more than the {dimensions} dimensions of a "
            "group of images: lower it."
        )
    _multiple("method.queue_size", config.method.queue_size, batch, "images of a step")
    _multiple(
        "checkpoint.keep_every_steps",
        config.checkpoint.keep_every_steps,
        config.checkpoint.every_steps,
        "steps between checkpoints",
    )
    if config.train.num_steps <= 0 and config.train.num_epochs <= 0:
        raise ValueError("set train.num_epochs or train.num_steps to more than 0.")


def check_length(
    config: ml_collections.ConfigDict, *, num_images: int, steps_per_epoch: int, total_steps: int
) -> None:
    """Raises ValueError if the run does not fit the data set it was given."""
    if config.train.batch_size > num_images:
        raise ValueError(
            f"train.batch_size={config.train.batch_size} is more than the {num_images} images of "
            f"{config.data.name}: lower it."
        )
    if config.method.queue_size > num_images:
        raise ValueError(
            f"method.queue_size={config.method.queue_size} is more than the {num_images} images of "
            f"{config.data.name}: a queue must not hold an image twice, so lower it."
        )
    if config.schedule.warmup_epochs * steps_per_epoch >= total_steps:
        raise ValueError(
            f"schedule.warmup_epochs={config.schedule.warmup_epochs:g} is "
            f"{config.schedule.warmup_epochs * steps_per_epoch:g} steps, as long as the whole run "
            f"of {total_steps}: lower it or train longer."
        )


def unknown_override(config: ml_collections.ConfigDict, argv: Iterable[str]) -> str | None:
    """The sentence for the first `--config.KEY` in argv that `config` lacks, with near keys.

    `--noconfig.KEY` is meant too. None if `config` has them all.
    """
    leaves = leaf_names(config)
    for argument in argv:
        name = argument.split("=")[0].lstrip("-").removeprefix("no")
        key = name.removeprefix("config.")
        inner = any(leaf.startswith(f"{key}.") for leaf in leaves)
        if not name.startswith("config.") or key in leaves or inner:
            continue
        last = key.split(".")[-1]
        near = difflib.get_close_matches(key, leaves, n=3)
        near += [leaf for leaf in leaves if leaf.split(".")[-1] == last and leaf not in near]
        hint = f"did you mean {' or '.join(near[:3])}?" if near else f"keys: {', '.join(config)}."
        return f"config has no key {key!r}: {hint}"
    return None


def leaf_names(config: ml_collections.ConfigDict, prefix: str = "") -> list[str]:
    """Dotted names of all values that are not ConfigDicts."""
    names = []
    for key in config:
        value = config[key]
        if isinstance(value, ml_collections.ConfigDict):
            names += leaf_names(value, f"{prefix}{key}.")
        else:
            names.append(f"{prefix}{key}")
    return names


def _one_of(name: str, value: str, choices: Iterable[str]) -> None:
    if value not in choices:
        near = difflib.get_close_matches(value, choices)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"{name}={value!r} is unknown: {hint}use one of {', '.join(choices)}.")


def _require(
    config: ml_collections.ConfigDict,
    names: Iterable[str],
    holds: Callable[[Any], Any],
    wanted: str,
) -> None:
    """Raises ValueError for the first value of the dotted names for which `holds` is false."""
    for name in names:
        value: Any = config
        for part in name.split("."):
            value = value[part]
        if not holds(value):
            raise ValueError(f"{name}={value} must be {wanted}.")


def _positive(config: ml_collections.ConfigDict, *names: str) -> None:
    _require(config, names, lambda value: value > 0, "more than 0")


def _not_negative(config: ml_collections.ConfigDict, *names: str) -> None:
    _require(config, names, lambda value: value >= 0, "at least 0")


def _multiple(name: str, value: int, of: int, what: str) -> None:
    if value % of:
        lower = value - value % of
        near = f"{lower} or {lower + of}" if lower else f"{of}"
        raise ValueError(f"{name}={value} must be a multiple of the {of} {what}: {near} would be.")


def _divides(name: str, divisor: int, whole_name: str, whole: int) -> None:
    """Raises ValueError with the nearest divisors of `whole` if `divisor` is none of them."""
    if whole % divisor:
        options = [n for n in range(1, whole + 1) if whole % n == 0]
        near = sorted(sorted(options, key=lambda n: abs(n - divisor))[:3])
        raise ValueError(
            f"{name}={divisor} must divide {whole_name} ({whole}): "
            f"{' or '.join(map(str, near))} would."
        )
