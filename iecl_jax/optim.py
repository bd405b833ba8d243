"""Optimizers, learning-rate schedule and weight-decay masks."""

import jax
import jax.numpy as jnp
import ml_collections
import optax

OPTIMIZERS = ("sgd", "adamw", "lars")


def learning_rate(
    config: ml_collections.ConfigDict, *, total_steps: int, steps_per_epoch: int
) -> optax.Schedule:
    """Step -> learning rate: linear from 0 over the warm-up, then cosine to 0 at `total_steps`.

    The peak is `optimizer.learning_rate` * batch / 256 (Goyal et al. 2017).
    """
    peak = config.optimizer.learning_rate * config.train.batch_size / 256
    warmup = round(config.schedule.warmup_epochs * steps_per_epoch)
    if warmup:
        schedule = optax.warmup_cosine_decay_schedule(0.0, peak, warmup, total_steps)
    else:
        schedule = optax.cosine_decay_schedule(peak, total_steps)
    return lambda step: schedule(jnp.asarray(step, jnp.float32))


def decayed(params):
    """True for the kernels that `optimizer.weight_decay` acts on: those of the online network.

    BN scales, biases, and SAIB (whose decay is the gamma term of the objective) are False.
    """
    return {
        name: jax.tree.map(lambda leaf, on=name == "online": on and leaf.ndim > 1, tree)
        for name, tree in params.items()
    }


def kernels(params):
    """True for every leaf of two or more axes, the leaves that LARS scales."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def make(
    config: ml_collections.ConfigDict, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """The optimizer of `config.optimizer`; the online probe has SGD with momentum of its own.

    sgd is PyTorch's (L2 added to the gradient before momentum), adamw has decoupled decay and
    b1 = momentum, lars leaves BN and biases unscaled.
    """
    settings = config.optimizer
    if settings.name == "sgd":
        main = optax.chain(
            optax.add_decayed_weights(settings.weight_decay, decayed),
            optax.sgd(schedule, settings.momentum),
        )
    elif settings.name == "adamw":
        main = optax.adamw(
            schedule, b1=settings.momentum, weight_decay=settings.weight_decay, mask=decayed
        )
    else:
        main = optax.lars(
            schedule,
            weight_decay=settings.weight_decay,
            weight_decay_mask=decayed,
            trust_coefficient=settings.trust_coefficient,
            trust_ratio_mask=kernels,
            momentum=settings.momentum,
        )
    probe = optax.sgd(settings.probe_learning_rate, settings.momentum)

    def labels(params):
        return {name: "probe" if name == "online_probe" else "main" for name in params}

    return optax.partition({"main": main, "probe": probe}, labels)
