"""Optimizers, learning-rate schedule and weight-decay masks."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax

OPTIMIZERS = ("sgd", "adam", "adamw", "lars")
PREDICTOR_SCHEDULES = ("cosine", "constant")
# Words in the name of a leaf that is no kernel, however many axes it has; flax's attention has
# biases [heads, d], and nn.Embed, a table of positions or tokens, a leaf "embedding".
NO_KERNEL = re.compile(r"(^|_)(bias|scale|norm|pos|position|token|embedding)(s|al)?(_|$)")


def peak_learning_rate(config: ml_collections.ConfigDict) -> float:
    """`optimizer.learning_rate` * batch / 256 (Goyal et al. 2017)."""
    return config.optimizer.learning_rate * config.train.batch_size / 256


def learning_rate(
    config: ml_collections.ConfigDict, *, total_steps: int, steps_per_epoch: int
) -> optax.Schedule:
    """Step -> learning rate: linear from 0 to the peak, then cosine to 0 at `total_steps`."""
    peak = peak_learning_rate(config)
    warmup = round(config.schedule.warmup_epochs * steps_per_epoch)
    if warmup:
        schedule = optax.warmup_cosine_decay_schedule(0.0, peak, warmup, total_steps)
    else:
        schedule = optax.cosine_decay_schedule(peak, total_steps)
    return lambda step: schedule(jnp.asarray(step, jnp.float32))


def is_kernel(path: jax.tree_util.KeyPath, leaf: jax.Array) -> bool:
    """Whether a parameter is a kernel: it has two axes or more, and its name no word of NO_KERNEL.

    So biases, scales of norms, positions (`pos_embedding`) and tokens (`cls_token`) are none.
    """
    name = jax.tree_util.keystr(path[-1:], simple=True)
    return leaf.ndim > 1 and NO_KERNEL.search(name) is None


def decayed(params):
    """True for what `optimizer.weight_decay` acts on: every kernel (`is_kernel`) of the online
    network, in encoder, projector and predictor.

    All else is False: what is no kernel there, and SAIB, whose decay is the gamma term of the
    objective.
    """
    masks = jax.tree_util.tree_map_with_path(is_kernel, params)
    return {
        name: mask if name == "online" else jax.tree.map(lambda _: False, mask)
        for name, mask in masks.items()
    }


def kernels(params):
    """True for the leaves that LARS scales: every kernel (`is_kernel`), and SAIB's positions."""

    def scaled(path, leaf):
        # SAIB's positions always were scaled: otherwise, runs with LARS would come out differently.
        return is_kernel(path, leaf) or (path[0].key == "saib" and leaf.ndim > 1)

    return jax.tree_util.tree_map_with_path(scaled, params)


def clip_by_trust_ratio(
    schedule: optax.Schedule,
    *,
    trust_coefficient: float,
    weight_decay: float,
    mask: Callable[[Any], Any],
) -> optax.GradientTransformation:
    """LARC's clip (NVIDIA Apex): no kernel is learned faster than at the rate of the schedule.

    With wd = `weight_decay` where `mask(params)` is True and 0 elsewhere, a gradient g becomes

        min(trust_coefficient |w| / (|g| + wd |w| + 1e-8) / lr, 1) * (g + wd w),

    where lr = schedule(updates before this one) and norms are of one leaf. Only `kernels` with w
    and g other than 0 are so scaled; the factor is 1 for all other leaves, and for all at lr = 0.
    Momentum and the multiplication by -lr are to follow.
    """

    def init(params):
        return optax.ScaleByScheduleState(jnp.zeros((), jnp.int32))

    def update(gradients, state, params):
        rate = jnp.asarray(schedule(state.count), jnp.float32)

        def clip(g, w, decay, kernel):
            wd = weight_decay if decay else 0.0
            g_norm, w_norm = jnp.linalg.norm(g.ravel()), jnp.linalg.norm(w.ravel())
            trust = trust_coefficient * w_norm / (g_norm + wd * w_norm + 1e-8)
            ratio = trust / jnp.maximum(trust, rate)
            scaled = kernel & (g_norm > 0) & (w_norm > 0)
            return jnp.where(scaled, ratio, 1.0) * (g + wd * w)

        clipped = jax.tree.map(clip, gradients, params, mask(params), kernels(params))
        return clipped, optax.ScaleByScheduleState(optax.safe_increment(state.count))

    return optax.GradientTransformation(init, update)


def _network_optimizer(
    settings: ml_collections.ConfigDict, rate: optax.Schedule
) -> optax.GradientTransformation:
    if settings.name == "sgd":
        return optax.chain(
            optax.add_decayed_weights(settings.weight_decay, decayed),
            optax.sgd(rate, settings.momentum),
        )
    if settings.name == "adam":
        return optax.chain(
            optax.add_decayed_weights(settings.weight_decay, decayed),
            optax.adam(rate, b1=settings.momentum),
        )
    if settings.name == "adamw":
        return optax.adamw(
            rate, b1=settings.momentum, weight_decay=settings.weight_decay, mask=decayed
        )
    if settings.trust_clip:
        return optax.chain(
            clip_by_trust_ratio(
                rate,
                trust_coefficient=settings.trust_coefficient,
                weight_decay=settings.weight_decay,
                mask=decayed,
            ),
            optax.sgd(rate, settings.momentum),
        )
    return optax.lars(
        rate,
        weight_decay=settings.weight_decay,
        weight_decay_mask=decayed,
        trust_coefficient=settings.trust_coefficient,
        trust_ratio_mask=kernels,
        momentum=settings.momentum,
    )


def make(
    config: ml_collections.ConfigDict, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """The optimizer of `config.optimizer`; the online probe has SGD with momentum of its own.

    sgd and adam are PyTorch's (L2 added to the gradient before momentum or moments), adamw has
    decoupled decay, b1 = momentum in both Adams. lars leaves BN and biases unscaled; it is
    You et al.'s, whose momentum is of steps, or with `trust_clip` that of `clip_by_trust_ratio`,
    whose momentum is of gradients. With `predictor_schedule` "constant" the parameters of
    online.predictor, if there are any, learn at the peak rate from the first step to the last
    (SimSiam, Chen & He 2021) instead of by `schedule`.
    """
    settings = config.optimizer
    transforms = {
        "main": _network_optimizer(settings, schedule),
        "probe": optax.sgd(settings.probe_learning_rate, settings.momentum),
    }
    if settings.predictor_schedule == "constant":
        peak = peak_learning_rate(config)
        transforms["predictor"] = _network_optimizer(settings, lambda step: peak)

    def labels(params):
        found = {name: "probe" if name == "online_probe" else "main" for name in params}
        if "predictor" not in transforms:
            return found
        online = {name: "predictor" if name == "predictor" else "main" for name in params["online"]}
        return found | {"online": online}

    return optax.partition(transforms, labels)
