"""Checks of a config before anything compiles; every mistake is one sentence (ValueError)."""

import difflib
import runpy
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

import ml_collections
from absl import flags
from ml_collections import config_flags

from iecl_jax import data, methods
from iecl_jax.config import checks
from iecl_jax.config.checks import BELOW_ONE, NOT_NEGATIVE, POSITIVE, Rule, leaf_names
from iecl_jax.data import augment
from iecl_jax.methods.parts import objective
from iecl_jax.methods.parts.saib import SIDES
from iecl_jax.models import precision, saib
from iecl_jax.models.encoders import resnet
from iecl_jax.train import optim

_ONE_AT_A_TIME = threading.Lock()  # runpy changes sys.modules for a while
JOBS = ("pretrain", "linear_probe", "knn", "jacobian")
SEED = Rule(lambda seed: 0 <= seed < 2**32, "from 0 to 2**32 - 1")
ABOVE_ZERO = (
    "train.batch_size",
    "train.log_every_steps",
    "train.steps_per_call",
    "encoder.width",
    "projector.num_layers",
    "projector.hidden_dim",
    "projector.output_dim",
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
FROM_ZERO = (
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
PRETRAIN: checks.Rules = {
    "train.precision": precision.DTYPES,
    "encoder.name": resnet.ARCHITECTURES,
    "encoder.stem": resnet.STEMS,
    "optimizer.name": optim.OPTIMIZERS,
    "optimizer.predictor_schedule": optim.PREDICTOR_SCHEDULES,
    "optimizer.momentum": BELOW_ONE,
    "saib.side": SIDES,
    "objective.kl.form": objective.KL_FORMS,
    "objective.kl.stop_gradient": objective.STOP_GRADIENT,
    **dict.fromkeys(ABOVE_ZERO, POSITIVE),
    **dict.fromkeys(FROM_ZERO, NOT_NEGATIVE),
}
LINEAR_PROBE: checks.Rules = {
    "probe.feature_norm": ("layer_norm", "none"),
    "probe.batch_size": POSITIVE,
    "probe.num_epochs": POSITIVE,
    "probe.learning_rate": POSITIVE,
    "probe.weight_decay": NOT_NEGATIVE,
    "probe.momentum": BELOW_ONE,
}
CACHED_PROBE: checks.Rules = {
    "probe.holdout": Rule(lambda share: 0 < share < 1, "between 0 and 1"),
    "probe.learning_rates": Rule(bool, "one rate or more"),
}
JACOBIAN: checks.Rules = {
    "jacobian.statistics": ("running", "batch"),
    "jacobian.num_groups": POSITIVE,
    "jacobian.depth": POSITIVE,
    "jacobian.num_probes": POSITIVE,
    "jacobian.exact_up_to": NOT_NEGATIVE,
}
KNN: checks.Rules = {"knn.k": NOT_NEGATIVE, "knn.temperature": NOT_NEGATIVE}
SAIB: checks.Rules = {
    "saib.variant": saib.VARIANTS,
    "saib.group_size": POSITIVE,
    "saib.patch_size": POSITIVE,
    "saib.num_blocks": POSITIVE,
}


def check(config: ml_collections.ConfigDict, num_devices: int) -> None:
    """Raises ValueError for the first impossible value of a config of any job."""
    checks.check(config, {"job": JOBS, "seed": SEED})
    if config.job == "pretrain":
        check_pretrain(config, num_devices)
        return
    if not config.checkpoint and "pretrain" not in config:
        raise ValueError(
            "config.checkpoint is empty: name the workdir of a pretraining run, "
            "--config.checkpoint=WORKDIR."
        )
    if config.job == "linear_probe":
        checks.check(config, LINEAR_PROBE)
        augment.check_view(config.probe.augment, "probe.augment")
        if config.probe.cached:
            checks.check(config, CACHED_PROBE)
        checks.multiple("probe.batch_size", config.probe.batch_size, num_devices, "devices")
    elif config.job == "jacobian":
        checks.check(config, JACOBIAN)
    else:
        checks.check(config, KNN)


def check_pretrain(config: ml_collections.ConfigDict, num_devices: int) -> None:
    """Raises ValueError for the first impossible value of a pretraining config."""
    data.check(config.data)
    augment.check(config.augment)
    checks.check(config, PRETRAIN)
    methods.check(config)
    settings = config.objective
    estimators = objective.estimators(settings.entropy)
    checks.one_of("objective.entropy.estimator", settings.entropy.estimator, estimators)

    batch = config.train.batch_size
    checks.multiple("train.batch_size", batch, num_devices, "devices")
    if settings.entropy.estimator == "kozachenko_leonenko" and settings.entropy.neighbors >= batch:
        raise ValueError(
            f"objective.entropy.neighbors={settings.entropy.neighbors} must be less than "
            f"train.batch_size={batch}: an embedding has no more neighbours."
        )
    per_device = batch // num_devices
    if config.saib.enabled:
        checks.check(config, SAIB)
        if config.saib.variant == "expansive" and not config.saib.inner_skip:
            raise ValueError(
                "saib.inner_skip=False belongs to saib.variant='paper': the expansive block has a "
                "single skip connection."
            )
        group, patch = config.saib.group_size, config.saib.patch_size
        checks.divides("saib.group_size", group, "the images of a device", per_device)
        checks.divides("saib.patch_size", patch, "data.image_size", config.data.image_size)
    group = config.encoder.bn_group
    if group:
        checks.divides("encoder.bn_group", group, "train.batch_size", batch)
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
    checks.multiple("method.queue_size", queue_size(config), batch, "images of a step")
    whitened = config.method.get("whitening_size")
    if whitened:
        checks.multiple("train.batch_size", batch, whitened, "images of method.whitening_size")
        if whitened <= config.projector.output_dim:
            raise ValueError(
                f"method.whitening_size={whitened} must be more than projector.output_dim="
                f"{config.projector.output_dim}: fewer images have no invertible covariance."
            )
    checks.multiple(
        "checkpoint.keep_every_steps",
        config.checkpoint.keep_every_steps,
        config.checkpoint.every_steps,
        "steps between checkpoints",
    )
    if config.train.num_steps <= 0 and config.train.num_epochs <= 0:
        raise ValueError("set train.num_epochs or train.num_steps to more than 0.")


def queue_size(config: ml_collections.ConfigDict) -> int:
    """Rows of the method's queue; 0 without one."""
    return config.method.get("queue_size", 0)


def check_length(
    config: ml_collections.ConfigDict, *, num_images: int, steps_per_epoch: int, total_steps: int
) -> None:
    """Raises ValueError if the run does not fit the data set it was given."""
    if config.train.batch_size > num_images:
        raise ValueError(
            f"train.batch_size={config.train.batch_size} is more than the {num_images} images of "
            f"{config.data.name}: lower it."
        )
    if queue_size(config) > num_images:
        raise ValueError(
            f"method.queue_size={queue_size(config)} is more than the {num_images} images of "
            f"{config.data.name}: it would hold images more than once, so lower it."
        )
    if config.schedule.warmup_epochs * steps_per_epoch >= total_steps:
        raise ValueError(
            f"schedule.warmup_epochs={config.schedule.warmup_epochs:g} is "
            f"{config.schedule.warmup_epochs * steps_per_epoch:g} steps, as long as the whole run "
            f"of {total_steps}: lower it or train longer."
        )


def load(flag: str, overrides: Sequence[str] = ()) -> ml_collections.ConfigDict:
    """The config FILE[:VARIANT], changed by overrides `--config.KEY=VALUE` as on the command line.

    Raises:
      ValueError: there is no such file, variant or key, or a value does not fit its key.
    """
    path, _, variant = flag.partition(":")
    if not Path(path).is_file():
        raise ValueError(f"there is no config file {path!r}: see configs/.")
    with _ONE_AT_A_TIME:
        config = runpy.run_path(path)["get_config"](*filter(None, [variant]))
    for argument in overrides:
        if not argument.startswith("--config.") or "=" not in argument:
            raise ValueError(f"{argument!r} is no override: write --config.KEY=VALUE.")
    sentence = unknown_override(config, overrides)
    if sentence:
        raise ValueError(sentence)
    values, command = flags.FlagValues(), ["", *overrides]
    try:
        holder = config_flags.DEFINE_config_dict(
            "config", config, flag_values=values, sys_argv=command
        )
        values(command)
    except (flags.Error, TypeError, ValueError) as error:
        raise ValueError(f"{' '.join(overrides)}: {error}") from error
    return holder.value


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
