"""The jobs `knn` and `linear_probe` on a checkpoint."""

import functools
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from iecl_jax import config as config_lib
from iecl_jax import data, methods
from iecl_jax.data import augment
from iecl_jax.evals import knn, linear_probe, probe_grid
from iecl_jax.evals.encoder import SplitEncoder, replicate
from iecl_jax.methods import Method
from iecl_jax.models import collectives
from iecl_jax.run import workdir
from iecl_jax.run.checkpoint import Checkpointer, load_for_evaluation
from iecl_jax.run.seal import digest
from iecl_jax.train import optim
from iecl_jax.train import state as train_state
from iecl_jax.train.actions import Log, Save
from iecl_jax.train.loop import Run, train
from iecl_jax.train.step import AXIS


def load_encoder(
    config: ml_collections.ConfigDict,
) -> tuple[ml_collections.ConfigDict, Method, Any, Any]:
    """(pretraining config, method, params, method_state) that an evaluation config asks for.

    They come from the checkpoint `config.checkpoint`, a workdir or one of its checkpoints; where
    that is empty, `config.pretrain` is initialised and not trained. `config.data.dir`, if set, says
    where the data lie on this machine.
    """
    if config.checkpoint:
        pretrain, weights = load_for_evaluation(config.checkpoint, best=config.best)
        params, method_state = weights["params"], weights["method_state"]
    else:
        pretrain = ml_collections.ConfigDict(config.pretrain.to_dict())
    with pretrain.unlocked():
        pretrain.data.dir = config.data.dir or pretrain.data.dir
        pretrain.data.cache = config.data.cache
    config_lib.check_pretrain(pretrain, num_devices=1)
    method = methods.make(pretrain, total_steps=1)
    if not config.checkpoint:
        size = pretrain.data.image_size
        state = train_state.create(
            jax.random.key(pretrain.seed),
            method=method,
            tx=optim.make(
                pretrain, optim.learning_rate(pretrain, total_steps=1, steps_per_epoch=1)
            ),
            view_shape=(pretrain.saib.group_size, size, size, 3),
            num_classes=0,
            dynamic_scale=False,
        )
        params, method_state = state.params, state.method_state
    return pretrain, method, params, method_state


def run_knn(
    config: ml_collections.ConfigDict, run_dir: str, *, allow_config_change: bool = False
) -> dict[str, Any]:
    """The job `knn`: weighted kNN accuracy of the frozen anchor encoder on the test split."""
    started = time.monotonic()
    config_lib.check(config, jax.local_device_count())
    pretrain, method, params, method_state = load_encoder(config)
    encoder = _labelled_encoder(pretrain, method)
    workdir.prepare(run_dir, config, command=sys.argv, allow_change=allow_config_change)
    encode = encoder.bind(params, method_state)
    train, train_labels = encoder.extract(encode, "train")
    test, test_labels = encoder.extract(encode, "test")
    top1 = knn.knn_accuracy(
        train,
        train_labels,
        test,
        test_labels,
        k=config.knn.k or pretrain.eval.knn_k,
        temperature=config.knn.temperature or pretrain.eval.knn_temperature,
        num_classes=encoder.num_classes,
    )
    print(f"kNN top-1 on {pretrain.data.name}: {100 * top1:.2f} %", flush=True)
    seconds = time.monotonic() - started
    return workdir.write_results(
        run_dir,
        job="knn",
        metrics={"knn_top1": top1},
        steps=0,
        seconds=seconds,
        images_per_second=(len(train) + len(test)) / seconds,
        seed=config.seed,
        params_digest=digest(params),
    )


def run_linear_probe(
    config: ml_collections.ConfigDict, run_dir: str, *, allow_config_change: bool = False
) -> dict[str, Any]:
    """The job `linear_probe`: a linear classifier on the frozen anchor encoder (section 4.1).

    Streams freshly augmented images through the encoder, or with `probe.cached` trains a grid of
    learning rates on features computed once and reports the one that a held-out part of the
    training set chose.
    """
    started = time.monotonic()
    config_lib.check(config, jax.local_device_count())
    pretrain, method, params, method_state = load_encoder(config)
    encoder = _labelled_encoder(pretrain, method)
    workdir.prepare(run_dir, config, command=sys.argv, allow_change=allow_config_change)
    encode = encoder.bind(params, method_state)
    test, test_labels = encoder.extract(encode, "test")
    normalize = functools.partial(linear_probe.normalize_features, how=config.probe.feature_norm)
    if config.probe.cached:
        train, train_labels = encoder.extract(encode, "train")
        scores = probe_grid.choose_and_test(
            np.asarray(normalize(train)),
            train_labels,
            np.asarray(normalize(test)),
            test_labels,
            learning_rates=tuple(config.probe.learning_rates),
            num_classes=encoder.num_classes,
            num_epochs=config.probe.num_epochs,
            batch_size=config.probe.batch_size,
            momentum=config.probe.momentum,
            weight_decay=config.probe.weight_decay,
            seed=config.seed,
            holdout=config.probe.holdout,
        )
        metrics: dict[str, Any] = {
            name.replace("test_top", "linear_top"): value for name, value in scores.items()
        }
        steps = config.probe.num_epochs * (len(train) // config.probe.batch_size)
        final: Any = params
    else:
        weights = ({"online": params["online"]}, {"online": method_state["online"]})
        final, steps = _stream_probe(config, pretrain, method, weights, encoder, run_dir)
        stacked = jax.tree.map(lambda leaf: leaf[None], final)
        accuracy = functools.partial(
            linear_probe.grid_accuracy, stacked, np.asarray(normalize(test)), test_labels
        )
        metrics = {"linear_top1": float(accuracy()[0])}
        if encoder.num_classes > 5:
            metrics["linear_top5"] = float(accuracy(k=5)[0])
    print(f"linear top-1 on {pretrain.data.name}: {100 * metrics['linear_top1']:.2f} %", flush=True)
    seconds = time.monotonic() - started
    return workdir.write_results(
        run_dir,
        job="linear_probe",
        metrics=metrics,
        steps=steps,
        seconds=seconds,
        images_per_second=steps * config.probe.batch_size / seconds,
        seed=config.seed,
        params_digest=digest(final),
    )


def _labelled_encoder(pretrain: ml_collections.ConfigDict, method: Method) -> SplitEncoder:
    encoder = SplitEncoder(pretrain, method)
    if encoder.missing:
        raise ValueError(encoder.missing)
    return encoder


def _stream_probe(config, pretrain, method, weights, encoder, run_dir):
    """Trains the paper's probe; returns (its parameters, steps). Resumes like pretraining does."""
    stream = ml_collections.ConfigDict(pretrain.to_dict())
    stream.seed, stream.train.batch_size = config.seed, config.probe.batch_size
    stream.augment.update({"views": ("anchor",), "anchor": config.probe.augment})
    num_images = len(encoder.splits["train"])
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
        jax.random.key(config.seed), feature_dim, encoder.num_classes, tx
    )
    # A probe belongs to one encoder: that of another checkpoint starts anew beside it.
    probe_dir = Path(run_dir) / f"probe-{digest(weights)[:12]}"
    weights = replicate(weights)
    run = Run(
        run_dir=run_dir,
        checkpointer=Checkpointer(probe_dir, keep=1, keep_best=0, config=config),
        state=replicate(probe),  # Where the step leaves it; `pmap` may then reuse its memory.
        steps=lambda probe, batches: mapped(probe, weights, *batches),
        open_batches=functools.partial(data.TrainBatches, stream, encoder.splits["train"]),
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
