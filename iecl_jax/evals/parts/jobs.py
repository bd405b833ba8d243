"""Runs an evaluation as a job of its own, on a checkpoint."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from iecl_jax import config as config_lib
from iecl_jax import console, methods
from iecl_jax.config import kinds
from iecl_jax.evals.parts import overview, results
from iecl_jax.evals.parts.encoder import SplitEncoder
from iecl_jax.evals.parts.images import with_images
from iecl_jax.evals.parts.subject import Subject
from iecl_jax.run import command_line, metrics_file, workdir
from iecl_jax.run.checkpoint import load_for_evaluation
from iecl_jax.run.metrics import flat
from iecl_jax.run.seal import digest


def run(
    config: ml_collections.ConfigDict, run_dir: str, *, allow_config_change: bool = False
) -> dict[str, Any]:
    """Runs the evaluation `config.job` on the checkpoint `config.checkpoint`.

    It prints the scores and writes results.json and metrics.jsonl to `run_dir`.

    Returns:
      The content of results.json.

    Raises:
      ValueError: a setting is invalid, or does not fit the network or its data set.
    """
    started = time.monotonic()
    config_lib.check(config, jax.local_device_count())
    evaluation = kinds.load("evaluation", config.job, key="job")
    # An evaluation without settings has no section.
    settings = config.get(kinds.stem(config.job), ml_collections.ConfigDict())
    check = getattr(evaluation, "check", lambda subject, settings: None)
    with console.waiting(f"Reading {config.checkpoint or 'the untrained network'}"):
        subject, weights = _opened(config, run_dir, allow_change=allow_config_change)
        check(subject, settings)  # Before the network is made, which takes long.
        subject = _with(subject, weights)
    check(subject, settings)
    workdir.prepare(run_dir, config, command=command_line.typed(), allow_change=allow_config_change)
    with console.waiting(f"Evaluating: {kinds.stem(config.job)}"):
        metrics = evaluation.measure(subject, settings)
    about = subject.config.data.name if subject.own_data is None else kinds.stem(config.job)
    for line in results.told(evaluation.RESULTS, metrics):
        console.show(f"{about}: {line}")
    work = subject.work
    seconds = work.seconds + time.monotonic() - started
    written = workdir.write_results(
        run_dir,
        job=config.job,
        metrics=metrics,
        steps=work.steps,
        seconds=seconds,
        images_per_second=work.images / seconds,
        seed=config.seed,
        data=subject.config.data if subject.own_data is None else subject.own_data,
        params_digest=digest(subject.params if work.params is None else work.params),
    )
    if jax.process_index() == 0:
        numbers = {f"eval/{name}": x for name, x in flat(written["metrics"]).items()}
        metrics_file.replace(run_dir, work.steps, numbers)
    if config.pictures and subject.knows_features():
        with console.waiting("Drawing neighbours and a map of the features"):
            overview.measure(subject, None)
    return written


def load(config: ml_collections.ConfigDict, run_dir: str, *, allow_change: bool = False) -> Subject:
    """Returns the network that a job's config names, with its data set.

    `config.checkpoint` is a workdir or one of its checkpoints. If it is empty, the network is that
    of `config.pretrain`, initialised but not trained. `config.data` says which images replace those
    of the pretraining, see `images.with_images`, unless the job has images of its own. For
    `allow_change` see `Subject`.
    """
    return _with(*_opened(config, run_dir, allow_change=allow_change))


def _opened(
    config: ml_collections.ConfigDict, run_dir: str, *, allow_change: bool
) -> tuple[Subject, dict[str, Any]]:
    """Returns the subject of a job without weights, and those of the checkpoint; {} = untrained."""
    weights: dict[str, Any] = {}
    if config.checkpoint:
        pretrain, weights = load_for_evaluation(config.checkpoint, best=config.best)
    else:
        pretrain = ml_collections.ConfigDict(config.pretrain.to_dict())
    own = hasattr(kinds.load("evaluation", config.job, key="job"), "Data")
    trained = pretrain.data.image_size
    if own:
        config_lib.check_pretrain(pretrain, num_devices=1)
    else:
        pretrain = with_images(pretrain, config.data)
    method = methods.make(pretrain, total_steps=1)
    if weights and pretrain.data.image_size != trained:
        _require_fit(method, weights, pretrain.data.image_size, trained)
    subject = Subject(
        pretrain,
        method,
        SplitEncoder(pretrain, method),
        run_dir,
        config.seed,
        allow_change=allow_change,
        own_data=config.data if own else None,
    )
    return subject, weights


def _require_fit(method: methods.Method, weights: dict[str, Any], size: int, trained: int) -> None:
    """Raises ValueError unless the network takes images of `size` pixels."""
    images = jnp.zeros((1, size, size, 3))
    try:
        jax.eval_shape(method.encode, weights["params"], weights["method_state"], images)
    except Exception as error:
        raise ValueError(
            f"data.image_size={size} does not fit the network, which only takes the {trained} "
            "pixels that it was trained with: take it out."
        ) from error


def _with(subject: Subject, weights: dict[str, Any]) -> Subject:
    if not weights:
        return subject.untrained()
    return subject.at(weights["params"], weights["method_state"])
