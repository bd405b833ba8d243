"""Linear evaluation of a frozen encoder, section 4.1 of the paper.

Streams freshly augmented images through the encoder and trains a classifier on them. With `cached`
it trains a grid of learning rates on features computed once, as `linear` does.
"""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from iecl_jax import data
from iecl_jax.config.pretrain import View
from iecl_jax.config.rules import (
    BELOW_ONE,
    COUNT,
    INSIDE_SHARE,
    NOT_NEGATIVE,
    POSITIVE,
    RATES,
    multiple,
)
from iecl_jax.config.section import Section, key, with_defaults
from iecl_jax.data import augment
from iecl_jax.evals import linear
from iecl_jax.evals.measures import linear_probe
from iecl_jax.evals.parts.encoder import replicate
from iecl_jax.evals.parts.schedule import AtEnd
from iecl_jax.evals.parts.subject import Subject
from iecl_jax.models import collectives
from iecl_jax.run.checkpoint import Checkpointer
from iecl_jax.run.seal import digest
from iecl_jax.train.actions import Log, Save
from iecl_jax.train.loop import Run, train
from iecl_jax.train.step import AXIS

RESULTS = linear.RESULTS


class CropAndFlip(View):
    """The views of the classifier's training: random resized crop and horizontal flip alone."""

    @staticmethod
    def inside(own, given):
        """The settings of each operator's file, with these defaults."""
        changed: dict[str, dict[str, Any]] = {
            "crop": {"scale": (0.08, 1.0)},
            "jitter": {"prob": 0.0},
            "gray": {"prob": 0.0},
            "blur": {"prob": 0.0},
        }
        found = View.inside(own, given)
        return {name: with_defaults(each, changed.get(name, {})) for name, each in found.items()}


class Job(Section):
    """Of a checkpoint."""

    batch_size = key(512, COUNT, "images of a step, over all devices")
    num_epochs = key(200, COUNT, "passes over the training images")
    learning_rate = key(0.03, POSITIVE, "at this batch size, not scaled; cosine to 0")
    momentum = key(0.9, BELOW_ONE, "of SGD")
    weight_decay = key(1e-5, NOT_NEGATIVE, "of the kernel")
    feature_norm = key("layer_norm", ("layer_norm", "none"), "of the features, no parameters")
    cached = key(False, None, "a grid of learning rates on features computed once")
    learning_rates = key((0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0), RATES, "that grid")
    holdout = key(0.1, INSIDE_SHARE, "share of the training images that chooses from the grid")
    augment = CropAndFlip


class Settings(AtEnd, Job):
    """During training."""


def check(subject: Subject, settings: Any) -> None:
    """Raises ValueError where a batch does not fit the devices or the data set."""
    for split in ("train", "test"):
        subject.labels(split)
    batch, devices = settings.batch_size, jax.local_device_count()
    multiple("linear_probe.batch_size", batch, devices, "devices")
    if settings.cached:
        linear.check_holdout(subject, "linear_probe.cached=True")


def measure(subject: Subject, settings: Any) -> dict[str, Any]:
    """{"linear_top1"} in [0, 1], and "linear_top5" of more than five classes.

    With `cached` also "best_learning_rate" and "holdout_accuracy".
    """
    if settings.cached:
        return linear.grid(subject, settings, feature_norm=settings.feature_norm)
    weights = (
        {"online": subject.params["online"]},
        {"online": subject.method_state.get("online", {})},
    )
    streamed = ml_collections.ConfigDict({"seed": subject.seed, "probe": settings.to_dict()})
    final, steps = _stream_probe(
        streamed, subject.config, subject.method, weights, subject.encoder, subject.run_dir
    )
    features, labels = subject.features("test")
    subject.work.steps, subject.work.params = steps, final
    subject.work.images = steps * settings.batch_size
    accuracy = functools.partial(
        linear_probe.grid_accuracy,
        jax.tree.map(lambda leaf: leaf[None], final),
        np.asarray(linear_probe.normalize_features(features, settings.feature_norm)),
        labels,
    )
    metrics = {"linear_top1": float(accuracy()[0])}
    if subject.num_classes > 5:
        metrics["linear_top5"] = float(accuracy(k=5)[0])
    return metrics


def _stream_probe(config, pretrain, method, weights, encoder, run_dir):
    """Trains the paper's probe; returns (its parameters, steps). Resumes like pretraining does."""
    stream = ml_collections.ConfigDict(pretrain.to_dict())
    stream.seed, stream.train.batch_size = config.seed, config.probe.batch_size
    stream.augment.update({"views": ("anchor",), "anchor": config.probe.augment})
    num_images = len(encoder.labelled("train"))
    steps_per_epoch = num_images // config.probe.batch_size
    if not steps_per_epoch:
        raise ValueError(
            f"probe.batch_size={config.probe.batch_size} is larger than the {num_images} training "
            f"images of {pretrain.data.name}: lower it."
        )
    total_steps = config.probe.num_epochs * steps_per_epoch
    tx = linear_probe.probe_optimizer(
        config.probe.learning_rate,
        momentum=config.probe.momentum,
        weight_decay=config.probe.weight_decay,
        total_steps=total_steps,
    )
    make_views = augment.make_augment(
        stream.augment, stream.data.image_size, *data.statistics(stream.data)
    )

    def step(probe, weights, batch):
        places = collectives.places(len(batch["label"]), AXIS)
        key = jax.random.key(config.seed)
        [view] = make_views(augment.image_keys(key, probe.step, places), batch["image"])
        features = method.encode(*weights, view)["pooled"]
        features = linear_probe.normalize_features(features, config.probe.feature_norm)
        probe, loss = linear_probe.probe_step(
            probe, features, batch["label"], tx=tx, axis_name=AXIS
        )
        return probe, {"loss": loss[None]}

    mapped = jax.pmap(
        step, axis_name=AXIS, in_axes=(None, None, 0), out_axes=None, donate_argnums=0
    )
    feature_dim = jax.eval_shape(
        method.encode, *weights, jnp.zeros((1, stream.data.image_size, stream.data.image_size, 3))
    )["pooled"].shape[-1]
    probe = linear_probe.init_probe(
        jax.random.key(config.seed), feature_dim, encoder.labelled("train").num_classes, tx
    )
    # A probe belongs to one encoder: that of another checkpoint starts anew beside it.
    probe_dir = Path(run_dir) / f"probe-{digest(weights)[:12]}"
    weights = replicate(weights)
    run = Run(
        run_dir=run_dir,
        checkpointer=Checkpointer(probe_dir, keep=1, keep_best=0, config=config),
        state=replicate(probe),  # Where the step leaves it; `pmap` may then reuse its memory.
        steps=lambda probe, batches: mapped(probe, weights, *batches),
        open_batches=functools.partial(data.TrainBatches, stream, encoder.labelled("train")),
        total=total_steps,
        steps_per_epoch=steps_per_epoch,
        batch_size=config.probe.batch_size,
        group="probe",
    )
    try:
        train(run, [Log(run, steps_per_epoch), Save(run, steps_per_epoch)])
    except FloatingPointError as error:
        raise FloatingPointError(
            f"{error} Lower probe.learning_rate={config.probe.learning_rate}."
        ) from error
    return jax.device_get(run.state.params), total_steps
