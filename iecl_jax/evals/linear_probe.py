"""The linear evaluation of a frozen encoder in section 4.1 of the paper.

It trains a classifier on freshly augmented images that pass through the encoder in every epoch.
With `cached` it instead trains a grid of learning rates on features that are computed once, like
`linear`.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from iecl_jax import data
from iecl_jax.config.rules import (
    BELOW_ONE,
    COUNT,
    INSIDE_SHARE,
    NOT_NEGATIVE,
    POSITIVE,
    RATES,
    multiple,
)
from iecl_jax.config.section import Section, key
from iecl_jax.data import augment
from iecl_jax.evals import linear
from iecl_jax.evals.measures import linear_probe
from iecl_jax.evals.parts import crop_and_flip
from iecl_jax.evals.parts.crop_and_flip import CropAndFlip
from iecl_jax.evals.parts.encoder import replicate
from iecl_jax.evals.parts.schedule import AtEnd
from iecl_jax.evals.parts.subject import Subject
from iecl_jax.models import collectives
from iecl_jax.run.checkpoint import Checkpointer
from iecl_jax.run.continuity import Terms
from iecl_jax.run.seal import digest
from iecl_jax.train.actions import Log, Save
from iecl_jax.train.loop import Run, check_total, train
from iecl_jax.train.step import AXIS

RESULTS = {
    "linear_top1": "linear probe, top-1 (%)",
    "linear_top5": "linear probe, top-5 (%)",
}


class Job(Section):
    """The settings on a checkpoint."""

    batch_size = key(512, COUNT, "images per step, over all devices")
    num_epochs = key(200, COUNT, "passes over the training images")
    learning_rate = key(
        0.03, POSITIVE, "first rate, not scaled by the batch; falls to 0 on a cosine"
    )
    momentum = key(0.9, BELOW_ONE, "momentum of SGD")
    weight_decay = key(1e-5, NOT_NEGATIVE, "weight decay of the kernel; the bias has none")
    feature_norm = key(
        "layer_norm", ("layer_norm", "none"), "normalisation of the features, without parameters"
    )
    cached = key(False, None, "train a grid of learning rates on features computed once")
    learning_rates = key(
        (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0), RATES, "with cached: the grid"
    )
    holdout = key(
        0.1,
        INSIDE_SHARE,
        "with cached: share of the training images held out to choose",
    )
    augment = CropAndFlip


class Settings(AtEnd, Job):
    """The settings during training."""


def check(subject: Subject, settings: Any) -> None:
    """Raises ValueError if a batch does not fit the devices or the data set."""
    for split in ("train", "test"):
        subject.labels(split)
    batch, devices = settings.batch_size, jax.local_device_count()
    multiple("linear_probe.batch_size", batch, devices, "devices")
    num_images = len(subject.labels("train"))
    if settings.cached:
        linear.check_holdout(subject, "linear_probe.cached=True")
    elif batch > num_images:
        raise ValueError(
            f"linear_probe.batch_size={batch} is more than the {num_images} training images of "
            f"{subject.config.data.name}: lower it."
        )
    elif subject.params is not None:
        checkpointer, terms, total = _resumable(subject, settings)
        if earlier := checkpointer.earlier():
            terms.check(*earlier)
            check_total(subject.run_dir, earlier[0], total)


def measure(subject: Subject, settings: Any) -> dict[str, Any]:
    """Returns {"linear_top1"} in [0, 1], and "linear_top5" if there are more than five classes.

    With `cached`, the result also has "best_learning_rate" and "holdout_accuracy".
    """
    if settings.cached:
        return linear.grid(subject, settings, feature_norm=settings.feature_norm)
    final = train_on_stream(subject, settings)
    features, labels = subject.features("test")
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


def train_on_stream(subject: Subject, settings: Any) -> linear_probe.Params:
    """Trains the paper's classifier with the training loop; it resumes like pretraining.

    A classifier belongs to one encoder. Its checkpoints are in RUN_DIR/probe-DIGEST, where DIGEST
    identifies the encoder's weights; the classifier of another encoder gets its own folder.

    Returns:
      The trained parameters on the host.

    Raises:
      FloatingPointError: the loss is not finite.
      SystemExit: see `loop.train`.
    """
    images = subject.split("train")
    config = crop_and_flip.stream_config(
        subject.config, settings.augment, batch_size=settings.batch_size, seed=subject.seed
    )
    checkpointer, terms, total_steps = _resumable(subject, settings)
    tx = linear_probe.probe_optimizer(
        settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        total_steps=total_steps,
    )
    weights = _encoder_weights(subject)
    run = Run(
        run_dir=str(_folder(subject)),
        checkpointer=checkpointer,
        state=_new_probe(subject, weights, tx),
        steps=_mapped_step(subject, settings, config, tx, replicate(weights)),
        open_batches=functools.partial(data.TrainBatches, config, images),
        total=total_steps,
        steps_per_epoch=terms.steps_per_epoch,
        batch_size=settings.batch_size,
        group="probe",
        terms=terms,
        title="Training the linear classifier",
    )
    subject.work.seconds += run.seconds_before
    every = terms.steps_per_epoch
    try:
        train(run, [Log(run, every), Save(run, every)])
    except FloatingPointError as error:
        lower = f"Lower linear_probe.learning_rate={settings.learning_rate}."
        raise FloatingPointError(f"The linear probe: {error} {lower}") from error
    final = jax.device_get(run.state.params)
    subject.work.steps, subject.work.params = total_steps, final
    subject.work.images = total_steps * settings.batch_size
    return final


def _encoder_weights(subject: Subject) -> tuple[Any, Any]:
    """Returns (params, method state) of the online encoder."""
    online = {"online": subject.params["online"]}
    return online, {"online": subject.method_state.get("online", {})}


def _folder(subject: Subject) -> Path:
    """Returns the folder of the checkpoints and the log of the classifier."""
    return Path(subject.run_dir) / f"probe-{digest(_encoder_weights(subject))[:12]}"


def _resumable(subject: Subject, settings: Any) -> tuple[Checkpointer, Terms, int]:
    """Returns the checkpoints of the classifier, their terms, and its number of steps."""
    record = ml_collections.ConfigDict({"seed": subject.seed, "linear_probe": settings.to_dict()})
    images = subject.split("train")
    terms = Terms(
        config=record,
        images=images.identity,
        steps_per_epoch=len(images) // settings.batch_size,
        in_epochs=True,
        allow_change=subject.allow_change,
    )
    checkpointer = Checkpointer(_folder(subject), keep=1, keep_best=0, config=record)
    return checkpointer, terms, settings.num_epochs * terms.steps_per_epoch


def _new_probe(subject: Subject, weights: Any, tx: Any) -> linear_probe.ProbeState:
    """Returns an untrained classifier, placed like the step's output: `pmap` can donate it."""
    size = subject.config.data.image_size
    encoded = jax.eval_shape(subject.method.encode, *weights, jnp.zeros((1, size, size, 3)))
    key = jax.random.key(subject.seed)
    return replicate(
        linear_probe.init_probe(key, encoded["pooled"].shape[-1], subject.num_classes, tx)
    )


def _mapped_step(
    subject: Subject, settings: Any, config: ml_collections.ConfigDict, tx: Any, weights: Any
) -> Callable[[Any, Sequence[Any]], tuple[Any, dict[str, jax.Array]]]:
    """Returns (probe, [batch]) -> (probe, {"loss": [1]}), for `Run.steps`."""
    make_views = augment.make_augment(
        config.augment, config.data.image_size, *data.statistics(config.data)
    )

    def step(probe, weights, batch):
        places = collectives.places(len(batch["label"]), AXIS)
        key = jax.random.key(subject.seed)
        [view] = make_views(augment.image_keys(key, probe.step, places), batch["image"])
        params, method_state = weights
        features = subject.method.encode(params, method_state, view)["pooled"]
        features = linear_probe.normalize_features(features, settings.feature_norm)
        probe, loss = linear_probe.probe_step(
            probe, features, batch["label"], tx=tx, axis_name=AXIS
        )
        return probe, {"loss": loss[None]}

    mapped: Any = jax.pmap(
        step, axis_name=AXIS, in_axes=(None, None, 0), out_axes=None, donate_argnums=0
    )
    return lambda probe, batches: mapped(probe, weights, *batches)
