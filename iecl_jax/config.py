"""Checks of a config before anything compiles; every mistake is one sentence (ValueError)."""

import difflib
from collections.abc import Iterable, Sequence

import ml_collections

from iecl_jax import augment, data, objective, optim, precision
from iecl_jax.methods import ema
from iecl_jax.models import resnet

JOBS = ("pretrain", "linear_probe", "knn")


def check(config: ml_collections.ConfigDict, num_devices: int) -> None:
    """Raises ValueError for the first impossible value of a config of any job."""
    _one_of("job", config.job, JOBS)
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
        _divides("the devices", num_devices, "probe.batch_size", config.probe.batch_size)


def check_pretrain(config: ml_collections.ConfigDict, num_devices: int) -> None:
    """Raises ValueError for the first impossible value of a pretraining config."""
    data.check(config.data)
    augment.check(config.augment)
    _one_of("train.precision", config.train.precision, precision.DTYPES)
    _one_of("encoder.name", config.encoder.name, resnet.ARCHITECTURES)
    _one_of("encoder.stem", config.encoder.stem, resnet.STEMS)
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
        "eval.batch_size",
        "eval.knn_k",
        "eval.knn_temperature",
        "checkpoint.every_steps",
        "checkpoint.keep",
    )

    batch = config.train.batch_size
    _divides("the devices", num_devices, "train.batch_size", batch)
    _divides("the devices", num_devices, "eval.batch_size", config.eval.batch_size)
    per_device = batch // num_devices
    if config.saib.enabled:
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
    queue = config.method.queue_size
    if queue:
        _divides("train.batch_size", batch, "method.queue_size", queue)
    if config.train.num_steps <= 0 and config.train.num_epochs <= 0:
        raise ValueError("set train.num_epochs or train.num_steps to more than 0.")


def check_length(
    config: ml_collections.ConfigDict, *, num_images: int, steps_per_epoch: int, total_steps: int
) -> None:
    """Raises ValueError if the run does not fit the data set it was given."""
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
    """The sentence for the first `--config.KEY` in argv that `config` lacks, with near keys."""
    leaves = leaf_names(config)
    for argument in argv:
        name = argument.split("=")[0].lstrip("-")
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


def _positive(config: ml_collections.ConfigDict, *names: str) -> None:
    for name in names:
        value = config
        for part in name.split("."):
            value = value[part]
        if value <= 0:
            raise ValueError(f"{name}={value} must be more than 0.")


def _divides(name: str, divisor: int, whole_name: str, whole: int) -> None:
    if whole % divisor:
        options: Sequence[int] = [n for n in range(1, whole + 1) if whole % n == 0]
        near = sorted(options, key=lambda n: abs(n - divisor))[:3]
        raise ValueError(
            f"{name} ({divisor}) must divide {whole_name} ({whole}): "
            f"{' or '.join(map(str, sorted(near)))} would."
        )
