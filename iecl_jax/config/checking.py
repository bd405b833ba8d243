"""Checks a whole config before anything compiles; each error is a ValueError of one sentence."""

import importlib.util

import ml_collections

from iecl_jax.config import kinds, schema, section
from iecl_jax.config.rules import check_value, divides, multiple, shown


def check(config: ml_collections.ConfigDict, num_devices: int) -> None:
    """Raises ValueError for the first impossible value of a config of any job."""
    _check_values(config)
    if config.job == "pretrain":
        check_pretrain(config, num_devices)
        _check_awaited(config)
        _check_log(config)
        return
    if not config.checkpoint and "pretrain" not in config:
        raise ValueError(
            "config.checkpoint is empty: name the workdir of a pretraining run, "
            "--config.checkpoint=WORKDIR."
        )


def _check_log(config: ml_collections.ConfigDict) -> None:
    wanted = config.log.wandb
    if wanted != "off" and importlib.util.find_spec("wandb") is None:
        raise ValueError(
            f"log.wandb={wanted!r} needs the package wandb, which is not installed: "
            "`pip install wandb`, or log.wandb='off'."
        )


def _check_values(config: ml_collections.ConfigDict) -> None:
    """Raises ValueError unless the config has exactly the keys of the schema, with valid values."""
    known, given = schema.keys(config), section.leaves(config)
    for name, key in known.items():
        if name not in given:
            raise ValueError(f"the config lacks {name}: add it, for example {key.default!r}.")
        check_value(name, given[name], key.default, key.rule)
    for name in given:
        if name not in known:
            raise ValueError(_foreign(name, config, list(known)))


def _foreign(name: str, config: ml_collections.ConfigDict, known: list[str]) -> str:
    """Returns the error message for a key that the schema does not have."""
    section = name
    beside: list[str] = []
    while section and not beside:  # climbs to the nearest section that the schema has
        section = section.rpartition(".")[0]
        beside = [each for each in known if each.startswith(f"{section}.")]
    whose = section or "the config"
    reads = beside or list(dict.fromkeys(each.partition(".")[0] for each in known))
    part = name.partition(".")[0]
    if f"{part}.name" in known:
        whose = f"{part}.name={config[part].name!r}"
        reads = [each for each in reads if each != f"{part}.name"]
    chosen = f"{part}.name" if f"{part}.name" in known else "what is chosen"
    return (
        f"{name} is no setting of {whose}, which reads {', '.join(reads)}: take it out, or change "
        f"{chosen} with iecl_jax.config.choose, which does."
    )


def check_pretrain(config: ml_collections.ConfigDict, num_devices: int) -> None:
    """Raises ValueError for the first impossible value of a pretraining config."""
    _check_values(config)
    _check_folder(config.data)
    kinds.check("data", config.data.name, config.data)
    batch, entropy = config.train.batch_size, config.objective.entropy
    multiple("train.batch_size", batch, num_devices, "devices")
    if config.train.num_steps == config.train.num_epochs == 0:
        raise ValueError("set train.num_epochs or train.num_steps to more than 0.")
    if entropy.estimator == "kozachenko_leonenko" and entropy.neighbors >= batch:
        raise ValueError(
            f"objective.entropy.neighbors={entropy.neighbors} must be less than "
            f"train.batch_size={batch}: an embedding has no more neighbours."
        )
    if config.saib.enabled:
        _check_saib(config, batch // num_devices)
    _check_bn_group(config, batch // num_devices)
    _check_parts(config, batch // num_devices)
    _check_sizes(config)
    multiple(
        "checkpoint.keep_every_steps",
        config.checkpoint.keep_every_steps,
        config.checkpoint.every_steps,
        "steps between checkpoints",
    )
    for kind in ("encoder", "method"):
        kinds.check(kind, config[kind].name, config, num_devices)


def _check_folder(data: ml_collections.ConfigDict) -> None:
    """Raises ValueError if `data.dir` is set for a source that reads no folder."""
    if data.dir and getattr(kinds.load("data", data.name), "NO_FOLDER", False):
        raise ValueError(
            f"data.dir={data.dir!r} is not read by data.name={data.name!r}, which makes its "
            "images: take it out."
        )


def _check_awaited(config: ml_collections.ConfigDict) -> None:
    """Raises ValueError if something waits for a measurement that never comes."""
    best, names = config.checkpoint.keep_best, tuple(config.eval.names)
    if best and "knn" not in names:
        raise ValueError(
            f"checkpoint.keep_best={best} keeps the checkpoints of best kNN top-1, but "
            f"eval.names={shown(names)} has no 'knn': add it, or set checkpoint.keep_best=0."
        )
    if config.diagnostics.stop_on_collapse and not config.diagnostics.every_steps:
        raise ValueError(
            "diagnostics.stop_on_collapse=True needs measurements: set diagnostics.every_steps to "
            "more than 0."
        )


def _check_saib(config: ml_collections.ConfigDict, per_device: int) -> None:
    saib, size = config.saib, config.data.image_size
    if saib.variant == "expansive" and not saib.inner_skip:
        raise ValueError(
            "saib.inner_skip=False belongs to saib.variant='paper': the expansive block has a "
            "single skip connection."
        )
    share = f"train.batch_size={config.train.batch_size} over the devices, the images of a device"
    divides("saib.group_size", saib.group_size, share, per_device)
    divides("saib.patch_size", saib.patch_size, "data.image_size", size)
    depth, dimensions = config.diagnostics.lanczos_depth, 3 * size**2 * saib.group_size
    if depth > dimensions:
        raise ValueError(
            f"diagnostics.lanczos_depth={depth} is more than the {dimensions} dimensions of a "
            "group of images: lower it."
        )


def _check_sizes(config: ml_collections.ConfigDict) -> None:
    """Raises ValueError if the size of a view does not fit.

    The first two views must have the size of the images, and no view may be larger than the one
    before.
    """
    augment, largest = config.augment, config.data.image_size
    for place, name in enumerate(augment.views):
        size = augment[name].size or config.data.image_size
        if place < 2 and size != largest:
            raise ValueError(
                f"augment.{name}.size={size} must be 0 or data.image_size={largest}: methods take "
                "the first two views at the size of the images."
            )
        if size > largest:
            raise ValueError(
                f"augment.{name}.size={size} is more than the {largest} of the view before: list "
                "large views first in augment.views."
            )
        largest = size


def _check_bn_group(config: ml_collections.ConfigDict, per_device: int) -> None:
    """Raises ValueError unless BN groups fill the batch and do not straddle devices unevenly."""
    group = config.encoder.bn_group
    if not group:
        return
    divides("encoder.bn_group", group, "train.batch_size", config.train.batch_size)
    if per_device % group and group % per_device:
        raise ValueError(
            f"encoder.bn_group={group} neither divides nor is a multiple of the {per_device} "
            "images of a device: choose one that does."
        )


def _check_parts(config: ml_collections.ConfigDict, per_device: int) -> None:
    """Raises ValueError unless each part of `train.accumulate` has whole BN groups."""
    parts, group = config.train.accumulate, config.encoder.bn_group
    if parts == 1:
        return
    share = f"train.batch_size={config.train.batch_size} over the devices, the images of a device"
    divides("train.accumulate", parts, share, per_device)
    images = per_device // parts
    if not group or images % group:
        raise ValueError(
            f"train.accumulate={parts} needs an encoder.bn_group that divides the {images} images "
            f"of a part, and it is {group}: batch norm needs all images of a group at once. Set "
            f"encoder.bn_group={images}, which changes the statistics of batch norm."
        )


def check_length(
    config: ml_collections.ConfigDict, *, num_images: int, steps_per_epoch: int, total_steps: int
) -> None:
    """Raises ValueError if the data set is too small for the run, or the run for its warm-up."""
    held = {"train.batch_size": config.train.batch_size}
    # Where the queue holds neighbours, a longer one only raises an alarm.
    long_queue = getattr(kinds.load("method", config.method.name), "LONG_QUEUE", False)
    for name in ("num_clusters",) if long_queue else ("queue_size", "num_clusters"):
        held[f"method.{name}"] = config.method.get(name, 0)
    for name, count in held.items():
        if count > num_images:
            raise ValueError(
                f"{name}={count} is more than the {num_images} images of {config.data.name}: "
                "lower it."
            )
    epochs = config.schedule.warmup_epochs
    warmup = round(epochs * steps_per_epoch)  # as the schedule rounds it
    if warmup >= total_steps:
        raise ValueError(
            f"schedule.warmup_epochs={epochs:g} is {warmup} steps, as long as the whole run of "
            f"{total_steps}: lower it or train longer."
        )
    for epochs in config.schedule.drop_epochs if config.schedule.decay == "drops" else ():
        steps = round(epochs * steps_per_epoch)
        if steps >= total_steps:
            raise ValueError(
                f"schedule.drop_epochs={epochs:g} is {steps} steps before the end of a run of "
                f"{total_steps}: lower it, train longer, or use schedule.decay='cosine'."
            )
